/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See overlays.h. The file of an overlay is made here, under a name that nobody had (O_EXCL, mode
 * 0600), and given to QEMU's user; QEMU writes the qcow2 header (blockdev-create) and opens it
 * without its backing image (blockdev-add), which the transaction of the engine links
 * (blockdev-snapshot).
 *
 * Whether that has happened is seen by its link, which no overlay has before. If it has none it is
 * deleted in QEMU, and from then on a transaction that comes late finds no node, and changes
 * nothing: so it is certain, whoever has died in between. Its file goes only after that.
 *
 * Threads: one, the GLib main loop of the default context.
 */
#include "cli/snapshot/overlays.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/launch/argv-opts.h"
#include "qmp/disk.h"
#include "qmp/image-name.h"
#include "qmp/json.h"

#define NAMES 100 /* that are tried for a file */

/* What has been made of an overlay. */
typedef enum { NOTHING, THE_FILE, ITS_NODE, THE_OVERLAY } FfStep;

struct FfCliOverlays {
    FfCliQmp *qmp;                  /* borrowed */
    char *folder, *file, *manifest; /* of a restore there are no file and manifest */
    char *command;                  /* that restores the file; NULL: not known */
    const char *state;              /* of the manifest, as it was written last */
    bool failed;                    /* there is no file */
    FfCliHost host;
    GPtrArray *disks;
    const bool *give_up;
    const char *job; /* that is waited for; NULL: none */
    bool job_over;
    GError *gone; /* the monitor has been closed */
    char *line;
};

static bool fail_path(GError **error, const char *path, int errnum)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errnum), "--disks: %s: %s", path,
                g_strerror(errnum));
    return false;
}

/* ---- the manifest ---------------------------------------------------------------------------- */

static JsonArray *files_to_json(const GPtrArray *files)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < files->len; i++) {
        json_array_add_object_element(list, ff_kept_file_to_json(files->pdata[i]));
    }
    return list;
}

static JsonArray *disks_to_json(const GPtrArray *disks)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *d = disks->pdata[i];
        JsonObject *o = json_object_new();
        JsonArray *below = json_array_new();

        for (char **file = d->below; *file; file++) {
            json_array_add_string_element(below, *file);
        }
        json_object_set_string_member(o, "disk", d->name);
        json_object_set_string_member(o, "base", d->base);
        json_object_set_string_member(o, "base-format", d->format);
        json_object_set_array_member(o, "below", below);
        json_object_set_string_member(o, "overlay", d->overlay);
        json_object_set_string_member(o, "overlay-format", "qcow2");
        if (d->files) {
            json_object_set_array_member(o, "files", files_to_json(d->files));
        }
        json_array_add_object_element(list, o);
    }
    return list;
}

#define ASKED "asked" /* for the snapshot: it is not known whether the guest has the overlays */
#define TAKEN "taken" /* it has */

static const char no_snapshot[] =
    "there is no snapshot: it failed after the guest had got its overlays, and they stay";
static const char the_snapshot[] =
    "the snapshot, if it is there, fits to the images \"base\" as they are: give the restored "
    "guest new overlays of them; who writes to one spoils the snapshot, and the overlay";

static bool write_manifest(FfCliOverlays *o, const char *state, GError **error)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    JsonObject *top = json_object_new();

    json_object_set_string_member(top, "snapshot", o->file);
    json_object_set_string_member(top, "state", state);
    json_object_set_array_member(top, "disks", disks_to_json(o->disks));
    json_object_set_string_member(top, "restore", o->failed ? no_snapshot : the_snapshot);
    if (o->command && !o->failed && !strcmp(state, TAKEN)) {
        json_object_set_string_member(top, "restore-command", o->command);
    }
    json_object_set_string_member(top, "start", o->line);
    json_node_take_object(root, top);
    g_autofree char *json = json_to_string(root, TRUE);
    g_autofree char *text = g_strconcat(json, "\n", NULL);
    if (!g_file_set_contents_full(o->manifest, text, -1,
                                  G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE,
                                  0600, error)) {
        g_prefix_error(error, "--disks: ");
        return false;
    }
    o->state = state;
    return true;
}

/* "OVERLAY,format=qcow2 for DISK, ...", as -drive has it behind "file=" (g_free). */
static char *list_images(const GPtrArray *disks)
{
    GString *s = g_string_new(NULL);

    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *d = disks->pdata[i];

        g_autofree char *path = ff_opts_escape(d->overlay);

        g_string_append_printf(s, "%s%s,format=qcow2 for %s", i ? ", " : "", path, d->name);
    }
    return g_string_free(s, FALSE);
}

/* Nobody has taken the name before us, and nobody's file is replaced later. */
static bool take_manifest(FfCliOverlays *o, GError **error)
{
    g_autofree char *path = ff_disks_file_name(o->file);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 && errno == EEXIST) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                    "--disks: %s is there already, and says which images another snapshot has: "
                    "give another name",
                    path);
        return false;
    }
    if (fd < 0) {
        return fail_path(error, path, errno);
    }
    close(fd);
    o->manifest = g_steal_pointer(&path);
    return true;
}

/* Right whether the overlays came in front or not: an empty one shows its base. */
static void set_unknown(FfCliOverlays *o)
{
    g_autofree char *list = list_images(o->disks);

    g_free(o->line);
    o->line = g_strconcat("whether the guest has gone on with the overlays is not known "
                          "(query-block says so as long as it runs); when it has ended it has to "
                          "be started with ",
                          list, ", which is right in both cases", NULL);
}

static void set_taken(FfCliOverlays *o)
{
    g_autofree char *list = list_images(o->disks);

    g_free(o->line);
    o->line = g_strdup_printf("from now on the guest has to be started with %s; started with an "
                              "image that it had before, it destroys %sthe overlay",
                              list, o->failed ? "" : "the snapshot and ");
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    FfCliOverlays *o = opaque;
    JsonObject *data = ff_json_object(event, "data");

    if (!event) {
        g_clear_error(&o->gone);
        o->gone = g_error_copy(error);
    } else if (o->job && !strcmp(ff_json_string_or(event, "event", ""), "JOB_STATUS_CHANGE") &&
               !strcmp(ff_json_string_or(data, "id", ""), o->job)) {
        o->job_over |= !strcmp(ff_json_string_or(data, "status", ""), "concluded");
    }
}

/* What a job that is over says; FALSE and ERROR: it has failed. */
static bool take_result(FfCliOverlays *o, GError **error)
{
    g_autoptr(JsonNode) jobs = ff_cli_qmp_call(o->qmp, "query-jobs", NULL, error);
    bool ok = jobs;

    for (guint i = 0; i < ff_json_node_length(jobs); i++) {
        JsonObject *job = ff_json_node_nth(jobs, i);
        const char *why = ff_json_string(job, "error");

        if (why && !strcmp(ff_json_string_or(job, "id", ""), o->job)) {
            g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, why);
            ok = false;
        }
    }
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "id", o->job);
    g_autoptr(JsonNode) reply = ff_cli_qmp_call(o->qmp, "job-dismiss", args, ok ? error : NULL);
    return ok && reply;
}

static bool wait_for_job(FfCliOverlays *o, GError **error)
{
    while (!o->job_over && !o->gone && !*o->give_up) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (o->gone) {
        g_propagate_error(error, g_error_copy(o->gone));
        return false;
    }
    if (!o->job_over) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "left while QEMU wrote to it");
        return false;
    }
    return take_result(o, error);
}

/* ---- an overlay ------------------------------------------------------------------------------ */

static JsonObject *cache_of(const FfCliDisk *d)
{
    JsonObject *cache = json_object_new();

    json_object_set_boolean_member(cache, "direct", d->direct);
    json_object_set_boolean_member(cache, "no-flush", d->no_flush);
    return cache;
}

static JsonObject *node_args(const FfCliDisk *d, const char *driver, const char *name)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "driver", driver);
    json_object_set_string_member(args, "node-name", name);
    json_object_set_object_member(args, "cache", cache_of(d));
    json_object_set_string_member(args, "discard", "unmap"); /* so that it does not only grow */
    return args;
}

static bool call_qemu(FfCliOverlays *o, const char *command, JsonObject *args, GError **error)
{
    g_autoptr(JsonNode) reply = ff_cli_qmp_call(o->qmp, command, args, error);

    return reply;
}

/* FOLDER/DISK-TIME.qcow2, with a number where that is taken. */
static bool make_file(FfCliOverlays *o, FfCliDisk *d, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y%m%d-%H%M%S");
    g_autofree char *name = g_strdup(d->name), *path = NULL;
    int fd = -1;

    g_strcanon(name, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "._-", '_');
    errno = EEXIST;
    for (unsigned i = 1; fd < 0 && errno == EEXIST && i <= NAMES; i++) {
        g_autofree char *number = i > 1 ? g_strdup_printf("-%u", i) : g_strdup("");

        g_free(path);
        path = g_strdup_printf("%s/%s-%s%s.qcow2", o->folder, name, time, number);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0) {
        return fail_path(error, path, errno);
    }
    d->overlay = g_steal_pointer(&path);
    d->made = THE_FILE;
    /* If we may not, QEMU says that it cannot open it. */
    bool given =
        o->host.uid == geteuid() || geteuid() != 0 || fchown(fd, o->host.uid, (gid_t)-1) == 0;
    int errnum = errno;
    close(fd);
    return given || fail_path(error, d->overlay, errnum);
}

static bool add_file(FfCliOverlays *o, FfCliDisk *d, GError **error)
{
    JsonObject *args = node_args(d, "file", d->file_node);

    json_object_set_string_member(args, "filename", d->overlay);
    if (!call_qemu(o, "blockdev-add", args, error)) {
        return false;
    }
    d->made = ITS_NODE;
    return true;
}

static bool format_file(FfCliOverlays *o, FfCliDisk *d, GError **error)
{
    JsonObject *args = json_object_new(), *options = json_object_new();

    json_object_set_string_member(options, "driver", "qcow2");
    json_object_set_string_member(options, "file", d->file_node);
    json_object_set_int_member(options, "size", d->size);
    json_object_set_string_member(options, "backing-file", d->base);
    json_object_set_string_member(options, "backing-fmt", d->format);
    json_object_set_string_member(args, "job-id", d->overlay_node);
    json_object_set_object_member(args, "options", options);
    o->job = d->overlay_node;
    o->job_over = false;
    bool ok = call_qemu(o, "blockdev-create", args, error) && wait_for_job(o, error);

    o->job = NULL;
    return ok;
}

static bool add_overlay(FfCliOverlays *o, FfCliDisk *d, GError **error)
{
    JsonObject *args = node_args(d, "qcow2", d->overlay_node);

    json_object_set_string_member(args, "file", d->file_node);
    json_object_set_null_member(args, "backing");
    json_object_set_string_member(args, "detect-zeroes", d->detect_zeroes);
    if (!call_qemu(o, "blockdev-add", args, error)) {
        return false;
    }
    d->made = THE_OVERLAY;
    return true;
}

/* What QEMU has written to it need not be waited for while the guest stands. */
static bool sync_path(const char *path, int flags, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int errnum = errno;

    if (fd >= 0) {
        close(fd);
    }
    return ok || fail_path(error, path, errnum);
}

static void name_nodes(FfCliDisk *d, unsigned number)
{
    guint32 tag = g_random_int();

    d->overlay_node = g_strdup_printf(FF_OVERLAY_NODE, tag, number);
    d->file_node = g_strdup_printf(FF_OVERLAY_NODE "-file", tag, number);
}

static bool make_overlay(FfCliOverlays *o, FfCliDisk *d, unsigned number, GError **error)
{
    name_nodes(d, number);
    if (!make_file(o, d, error)) {
        return false;
    }
    if (!add_file(o, d, error) || !format_file(o, d, error) || !add_overlay(o, d, error)) {
        g_prefix_error(error, "--disks: no overlay of disk %s (%s): ", d->name, d->overlay);
        return false;
    }
    return sync_path(d->overlay, O_NOFOLLOW, error);
}

static bool drop_node(FfCliOverlays *o, const char *name, GError **error)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "node-name", name);
    return call_qemu(o, "blockdev-del", args, error);
}

/* Nobody uses them, and nobody will: there is no node any more that could come in front of a disk,
 * or nobody was ever asked to. What QEMU does not give up is without a name. FALSE and ERROR: a
 * file is left. */
static bool abandon_overlays(FfCliOverlays *o, GError **error)
{
    bool ok = true;

    for (guint i = 0; i < o->disks->len; i++) {
        FfCliDisk *d = o->disks->pdata[i];

        if (d->made >= THE_OVERLAY) {
            drop_node(o, d->overlay_node, NULL);
        }
        if (d->made >= ITS_NODE) {
            drop_node(o, d->file_node, NULL);
        }
        if (d->made >= THE_FILE && g_unlink(d->overlay) < 0) {
            ok = fail_path(ok ? error : NULL, d->overlay, errno);
        }
        d->made = NOTHING;
    }
    if (o->manifest && g_unlink(o->manifest) < 0) {
        ok = fail_path(ok ? error : NULL, o->manifest, errno);
    }
    g_clear_pointer(&o->manifest, g_free);
    g_clear_pointer(&o->line, g_free);
    return ok;
}

static bool make_all(FfCliOverlays *o, GError **error)
{
    bool ok = true;

    ff_cli_qmp_listen(o->qmp, on_event, o); /* also so that nobody hears of what was before */
    for (guint i = 0; ok && i < o->disks->len; i++) {
        ok = make_overlay(o, o->disks->pdata[i], i, error);
    }
    ff_cli_qmp_listen(o->qmp, NULL, NULL);
    return ok && sync_path(o->folder, O_DIRECTORY, error); /* their names stay, too */
}

FfCliOverlays *ff_cli_overlays_new(FfCliQmp *qmp, const char *folder, const char *file,
                                   const char *command, const bool *give_up, GError **error)
{
    g_autoptr(FfCliOverlays) o = g_new0(FfCliOverlays, 1);

    o->qmp = qmp;
    o->folder = g_canonicalize_filename(folder, NULL);
    o->file = g_strdup(file);
    o->command = g_strdup(command);
    o->give_up = give_up;
    o->disks = ff_cli_disks_plan(qmp, &o->host, error);
    if (!o->disks) {
        return NULL;
    }
    if (!o->disks->len) {
        return g_steal_pointer(&o);
    }
    if (!take_manifest(o, error)) {
        return NULL;
    }
    bool ok = make_all(o, error);
    if (ok) {
        set_unknown(o);
        ok = write_manifest(o, ASKED, error);
    }
    if (!ok) {
        abandon_overlays(o, NULL);
        return NULL;
    }
    return g_steal_pointer(&o);
}

JsonArray *ff_cli_overlays_argument(const FfCliOverlays *o)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < o->disks->len; i++) {
        const FfCliDisk *d = o->disks->pdata[i];
        JsonObject *one = json_object_new();

        json_object_set_string_member(one, "device", d->device);
        json_object_set_string_member(one, "node", d->node);
        json_object_set_string_member(one, "overlay", d->overlay_node);
        json_object_set_int_member(one, "size", d->size);
        json_array_add_object_element(list, one);
    }
    return list;
}

/* ---- of a guest that is restored ------------------------------------------------------------- */

static bool is_kept(const FfDisksFile *kept, const FfCliDisk *d)
{
    for (guint i = 0; i < kept->disks->len; i++) {
        const FfKeptDisk *k = kept->disks->pdata[i];

        if (ff_is_same_file(k->base, d->base)) {
            return true;
        }
    }
    return false;
}

/* One that is gone may have another name now. */
static bool are_same_files(char *const *a, char *const *b)
{
    while (*a && *b && (ff_is_same_file(*a, *b) || !g_file_test(*a, G_FILE_TEST_EXISTS))) {
        a++;
        b++;
    }
    return !*a && !*b;
}

static bool has_name(const FfDisksFile *kept, const char *name)
{
    for (guint i = 0; i < kept->disks->len; i++) {
        const FfKeptDisk *k = kept->disks->pdata[i];

        if (!strcmp(k->name, name)) {
            return true;
        }
    }
    return false;
}

/* D, one of this QEMU's, is what K of KEPT was; the guest may have other names for its disks, but
 * not another one's. Older farfaults did not write down what is below. */
static bool is_as_kept(const FfDisksFile *kept, const FfKeptDisk *k, const FfCliDisk *d,
                       GError **error)
{
    if (strcmp(k->name, d->name) != 0 && has_name(kept, d->name)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "--disks: disk %s of this QEMU is %s, which was disk %s at the snapshot: give "
                    "each its own",
                    d->name, k->base, k->name);
        return false;
    }
    if (strcmp(k->format, d->format) != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "--disks: disk %s: %s is %s in this QEMU, and was %s: say format=%s", k->name,
                    k->base, d->format, k->format, k->format);
        return false;
    }
    if (*k->below && !are_same_files(k->below, d->below)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "--disks: disk %s: this QEMU has other files behind %s than at the snapshot "
                    "(first %s): let its own header name them",
                    k->name, k->base, *k->below);
        return false;
    }
    return true;
}

/* DISKS have K of KEPT, or an overlay that a user has made of it: the guest's memory fits to
 * nothing else. */
static bool has_kept(const GPtrArray *disks, const FfDisksFile *kept, const FfKeptDisk *k,
                     GError **error)
{
    for (guint i = 0; i < disks->len; i++) {
        const FfCliDisk *d = disks->pdata[i];

        if (ff_is_same_file(k->base, d->base)) {
            return is_as_kept(kept, k, d, error);
        }
        for (char **file = d->below; *file; file++) {
            if (ff_is_same_file(k->base, *file)) {
                return true;
            }
        }
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                "--disks: disk %s: no disk of this QEMU is %s, which it was at the snapshot: give "
                "it that one in its place",
                k->name, k->base);
    return false;
}

static bool have_all(const GPtrArray *disks, const FfDisksFile *kept, GError **error)
{
    for (guint i = 0; i < kept->disks->len; i++) {
        if (!has_kept(disks, kept, kept->disks->pdata[i], error)) {
            return false;
        }
    }
    return true;
}

/* It writes over the file that we have made, which keeps its owner and its mode. */
static bool format_by_qemu_img(const FfCliDisk *d, GError **error)
{
    const char *const argv[] = {"qemu-img", "create", "-q",      "-f",       "qcow2", "-b",
                                d->base,    "-F",     d->format, d->overlay, NULL};
    g_autofree char *err = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                      NULL, NULL, NULL, &err, &status, error)) {
        g_prefix_error(error, "--disks: qemu-img makes the overlays: ");
        return false;
    }
    if (status) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "--disks: no overlay of disk %s: %s",
                    d->name, g_strdelimit(g_strchomp(err), "\r\n", ' '));
    }
    return !status;
}

static bool put_in_front(FfCliOverlays *o, const FfCliDisk *d, GError **error)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "node", d->node);
    json_object_set_string_member(args, "overlay", d->overlay_node);
    return call_qemu(o, "blockdev-snapshot", args, error);
}

static bool make_restored(FfCliOverlays *o, FfCliDisk *d, unsigned number, GError **error)
{
    name_nodes(d, number);
    if (!make_file(o, d, error) || !format_by_qemu_img(d, error)) {
        return false;
    }
    if (!add_file(o, d, error) || !add_overlay(o, d, error) || !put_in_front(o, d, error)) {
        g_prefix_error(error, "--disks: no overlay of disk %s (%s): ", d->name, d->overlay);
        return false;
    }
    return sync_path(d->overlay, O_NOFOLLOW, error);
}

void ff_cli_overlays_remove(FfCliOverlays *o)
{
    for (guint i = 0; i < o->disks->len; i++) {
        const FfCliDisk *d = o->disks->pdata[i];

        if (d->made >= THE_FILE) {
            g_unlink(d->overlay);
        }
    }
}

FfCliOverlays *ff_cli_overlays_restore(FfCliQmp *qmp, const char *folder, const FfDisksFile *kept,
                                       GError **error)
{
    g_autoptr(FfCliOverlays) o = g_new0(FfCliOverlays, 1);

    o->qmp = qmp;
    o->folder = g_canonicalize_filename(folder, NULL);
    o->disks = ff_cli_disks_plan(qmp, &o->host, error);
    if (o->disks && !have_all(o->disks, kept, error)) {
        return NULL;
    }
    for (guint i = 0; o->disks && i < o->disks->len;) {
        if (is_kept(kept, o->disks->pdata[i])) {
            i++;
        } else {
            g_ptr_array_remove_index(o->disks, i);
        }
    }
    bool ok = o->disks;
    for (guint i = 0; ok && i < o->disks->len; i++) {
        ok = make_restored(o, o->disks->pdata[i], i, error);
    }
    ok = ok && sync_path(o->folder, O_DIRECTORY, error);
    if (!ok) {
        if (o->disks) {
            ff_cli_overlays_remove(o);
        }
        return NULL;
    }
    if (o->disks->len) {
        set_taken(o);
    }
    return g_steal_pointer(&o);
}

/* ---- what has become of them ----------------------------------------------------------------- */

typedef enum { LINKED, LOOSE, NOT_SEEN } Link;

static bool is_overlay(const FfCliOverlays *o, const char *node)
{
    for (guint i = 0; i < o->disks->len; i++) {
        const FfCliDisk *d = o->disks->pdata[i];

        if (!g_strcmp0(d->overlay_node, node)) {
            return true;
        }
    }
    return false;
}

/* All of them are, or none is. */
static Link look_at_links(FfCliOverlays *o, GError **error)
{
    g_autoptr(JsonNode) nodes = ff_cli_qmp_call(o->qmp, "query-named-block-nodes", NULL, error);

    if (!nodes) {
        return NOT_SEEN;
    }
    for (guint i = 0; i < ff_json_node_length(nodes); i++) {
        JsonObject *node = ff_json_node_nth(nodes, i);

        if (is_overlay(o, ff_json_string(node, "node-name")) &&
            ff_json_int(node, "backing_file_depth", 0) > 0) {
            return LINKED;
        }
    }
    return LOOSE;
}

static Link find_out(FfCliOverlays *o, GError **error)
{
    FfCliDisk *first = o->disks->pdata[0];
    Link link = look_at_links(o, error);
    g_autoptr(GError) local = NULL;

    if (link != LOOSE) {
        return link;
    }
    /* It decides for all. */
    if (drop_node(o, first->overlay_node, &local)) {
        first->made = ITS_NODE;
        abandon_overlays(o, error);
        return LOOSE;
    }
    link = look_at_links(o, NULL); /* a transaction that came late */
    if (link == LINKED) {
        return LINKED;
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return NOT_SEEN;
}

static void note_file(GPtrArray *files, const char *path, bool sync)
{
    FfKeptFile *f = ff_kept_file_new(path);

    if (f && f->changed.tv_sec < 0) { /* before 1970: for touch -d, its fraction counts backwards */
        g_clear_pointer(&f, ff_kept_file_free);
    }
    if (f && sync) {
        sync_path(path, 0, NULL); /* its time, too, is there after the host has crashed */
    }
    if (f) {
        g_ptr_array_add(files, f);
    }
}

static bool is_written(JsonNode *nodes, const char *name)
{
    for (guint i = 0; i < ff_json_node_length(nodes); i++) {
        JsonObject *node = ff_json_node_nth(nodes, i);

        if (!g_strcmp0(ff_json_string(node, "node-name"), name)) {
            return !ff_json_bool(node, "ro");
        }
    }
    return false;
}

/* The transaction has made the bases read-only, for which QEMU has written all that it had for
 * them: neither the guest nor the end of QEMU changes them from here on. But for one that has
 * copy-on-read: QEMU stores there what its guest reads, which nothing but its size and time shows.
 */
static void note_files(FfCliOverlays *o)
{
    g_autoptr(JsonNode) nodes = ff_cli_qmp_call(o->qmp, "query-named-block-nodes", NULL, NULL);

    for (guint i = 0; i < o->disks->len; i++) {
        FfCliDisk *d = o->disks->pdata[i];

        d->files = g_ptr_array_new_with_free_func(ff_kept_file_free);
        if (!is_written(nodes, d->node)) {
            note_file(d->files, d->base, !d->no_flush);
        }
        for (char **file = d->below; *file; file++) {
            note_file(d->files, *file, false);
        }
    }
}

FfOverlaysEnd ff_cli_overlays_settle(FfCliOverlays *o, bool taken, bool may_ask, GError **error)
{
    if (!o->disks->len) {
        return FF_OVERLAYS_GONE;
    }
    Link link = taken ? LINKED : may_ask ? find_out(o, error) : NOT_SEEN;

    if (link == LOOSE) {
        return FF_OVERLAYS_GONE;
    }
    if (link == NOT_SEEN) {
        return FF_OVERLAYS_UNKNOWN;
    }
    set_taken(o);
    note_files(o);
    write_manifest(o, TAKEN, error);
    return FF_OVERLAYS_IN_USE;
}

void ff_cli_overlays_fail(FfCliOverlays *o)
{
    if (!o->manifest) {
        return;
    }
    bool taken = !strcmp(o->state, TAKEN);
    g_autofree char *before = o->manifest;

    o->manifest = g_strconcat(before, ".failed", NULL);
    o->failed = true;
    if (taken) {
        set_taken(o);
    }
    if (write_manifest(o, o->state, NULL)) {
        g_unlink(before);
    } else if (g_rename(before, o->manifest) < 0) {
        g_free(o->manifest);
        o->manifest = g_steal_pointer(&before);
    }
}

const char *ff_cli_overlays_line(const FfCliOverlays *o)
{
    return o->line;
}

char *ff_cli_overlays_names(const FfCliOverlays *o)
{
    g_autoptr(GString) names = g_string_new(NULL);

    for (guint i = 0; i < o->disks->len; i++) {
        const FfCliDisk *d = o->disks->pdata[i];

        g_string_append_printf(names, "%s%s", i ? ", " : "", d->overlay);
    }
    return g_string_free(g_steal_pointer(&names), !o->disks->len);
}

const char *ff_cli_overlays_manifest(const FfCliOverlays *o)
{
    return o->manifest;
}

void ff_cli_overlays_free(FfCliOverlays *o)
{
    if (!o) {
        return;
    }
    g_clear_pointer(&o->disks, g_ptr_array_unref);
    g_clear_error(&o->gone);
    g_free(o->folder);
    g_free(o->file);
    g_free(o->manifest);
    g_free(o->command);
    g_free(o->line);
    g_free(o);
}
