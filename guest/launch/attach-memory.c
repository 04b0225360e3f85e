/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of a guest's memory and of its migrations the new relay takes over: the state memfd, guest
 * RAM, and what QEMU keeps of a migration, or an upgrade, that is under way.
 *
 * One thread. System calls: flock.
 */
#include "guest/launch/attach-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "contract/maps.h"
#include "contract/state.h"
#include "contract/upgrade-commit.h"
#include "guest/launch/attach-listen.h"
#include "guest/launch/fdstore.h"
#include "qmp/json.h"

#define LOCK_MS 5000 /* an engine whose relay died may say last words for 3 s */
#define MEMFD "/memfd:farfault-"

/* ---- the state ------------------------------------------------------------------------------- */

bool ff_attach_take_state(FfAttach *a, GError **error)
{
    g_autoptr(GError) why = NULL;
    int fd = ff_attach_take_kept(a, FF_ATTACH_STATE, a->plan, FF_PLAN_KEPT_STATE, MEMFD "state",
                                 "the state of its migrations", error);

    if (fd < 0) {
        return false;
    }
    /* QEMU has put it there: only a memfd is opened, nothing that opening would do something to. */
    if (fcntl(fd, F_GET_SEALS) < 0) {
        ff_launch_fail(error, "what process %d keeps as the state of its migrations is no memfd",
                       (int)a->pid);
        close(fd);
        return false;
    }
    a->state_fd = ff_relay_lock(fd, LOCK_MS);
    close(fd);
    if (a->state_fd == -EWOULDBLOCK) {
        g_autofree char *lost = ff_attach_lost_socket(a->pid, a->plan);

        if (lost) {
            ff_launch_fail(error,
                           "the relay of process %d lives (or its engine), but has lost %s: "
                           "farfault attach --replace %d, as root",
                           (int)a->pid, lost, (int)a->pid);
        } else {
            ff_launch_fail(
                error, "the relay of process %d lives (or its engine): there is nothing to attach",
                (int)a->pid);
        }
        return false;
    }
    if (a->state_fd < 0) {
        ff_launch_fail(error, "the state memfd of process %d: %s", (int)a->pid,
                       g_strerror(-a->state_fd));
        return false;
    }
    g_array_append_val(a->fds, a->state_fd);
    a->state = ff_state_map(a->state_fd, &why);
    if (!a->state) {
        ff_launch_fail(error, "process %d: %s", (int)a->pid, why->message);
        return false;
    }
    json_object_set_int_member(a->plan, "state-fd", a->state_fd);
    return true;
}

/* ---- guest RAM ------------------------------------------------------------------------------- */

static bool check_ram(FfAttach *a, int fd, const char *id, guint64 size, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && size > 0 && (guint64)st.st_size >= size) {
        return true;
    }
    ff_launch_fail(error, "guest RAM '%s' of process %d is not what the launcher made", id,
                   (int)a->pid);
    return false;
}

static bool take_ram(FfAttach *a, JsonObject *ram, GError **error)
{
    const char *id = ff_json_string(ram, "id");
    int fd = ff_json_int(ram, "fd", -1);

    fd = ff_attach_give(a, ff_attach_take(a, fd, NULL, "guest RAM", error));
    if (fd < 0 || !id || !check_ram(a, fd, id, ff_json_int(ram, "size", 0), error)) {
        return false;
    }
    json_object_set_int_member(ram, "fd", fd);
    return true;
}

static void add_held(FfAttach *a, JsonArray *held, const char *name, int fd, const struct stat *st,
                     long page_size)
{
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, "name", name);
    json_object_set_int_member(o, "fd", fd);
    if (st) {
        json_object_set_int_member(o, "size", st->st_size);
        json_object_set_int_member(o, "page-size", page_size);
    }
    json_array_add_object_element(held, o);
}

/* The object of ARRAY whose MEMBER is NAME; NULL. */
static JsonObject *find_object(JsonArray *array, const char *member, const char *name)
{
    for (guint i = 0; i < json_array_get_length(array); i++) {
        JsonObject *o = json_array_get_object_element(array, i);

        if (g_strcmp0(ff_json_string(o, member), name) == 0) {
            return o;
        }
    }
    return NULL;
}

static bool is_held(JsonArray *held, const char *name)
{
    return find_object(held, "name", name) != NULL;
}

static void remove_object(JsonArray *array, const JsonObject *o)
{
    for (guint i = json_array_get_length(array); i-- > 0;) {
        if (json_array_get_object_element(array, i) == o) {
            json_array_remove_element(array, i);
        }
    }
}

/* FD is the file of O. */
static bool is_file_of(JsonObject *o, int fd)
{
    struct stat one, other;

    return fstat(ff_json_int(o, "fd", -1), &one) == 0 && fstat(fd, &other) == 0 &&
           one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* FALSE: QEMU has that file open, and not as memory. MAPS: NULL: that is not known. */
static bool is_mapped(const char *maps, int fd)
{
    g_autoptr(GArray) where = maps ? ff_maps_of_file(maps, fd) : NULL;

    return !where || where->len;
}

/* What is taken of a guest's memory. */
typedef struct {
    FfAttach *a;
    const char *maps;   /* of QEMU; NULL: not known */
    JsonArray *started; /* with what QEMU was started, of the plan */
    JsonArray *held;    /* what is handed on besides the plan */
} Memory;

/* FD, a copy of QEMU's that it was not started with, is memory ID as it is now. QEMU has one object
 * of a name, but it unmaps in its RCU thread, some 50 ms later, what was unplugged: what it was
 * started with was there before what was plugged; of what was plugged nobody knows the order. */
static bool is_latest(const Memory *m, int fd, const char *id, const char *name, GError **error)
{
    JsonArray *ram = ff_json_array(m->a->plan, "ram");
    JsonObject *planned = find_object(ram, "id", id), *plugged = find_object(m->held, "name", name);

    if (planned) {
        remove_object(ram, planned);
    }
    if (plugged && !is_file_of(plugged, fd)) {
        ff_launch_fail(error,
                       "QEMU (process %d) has not given back yet what was unplugged of memory "
                       "'%s': try again",
                       (int)m->a->pid, id);
        return false;
    }
    return true;
}

/* Memory that was plugged later: QEMU keeps the file of a backend open. FD of QEMU is MEMFD NAME.
 */
static bool take_plugged(const Memory *m, int fd, const char *link, GError **error)
{
    static const char deleted[] = " (deleted)";
    g_autofree char *id = g_strdup(link + strlen(MEMFD));
    g_autofree char *name = NULL;
    struct statfs fs;
    struct stat st;

    if (g_str_has_suffix(id, deleted)) {
        id[strlen(id) - strlen(deleted)] = 0;
    }
    if (!strcmp(id, "state") || !strcmp(id, "plan") || !strcmp(id, "device")) {
        return true;
    }
    int own = ff_attach_give(m->a, ff_attach_take(m->a, fd, MEMFD, "plugged RAM", error));
    if (own < 0) {
        return false;
    }
    if (fstat(own, &st) < 0 || fstatfs(own, &fs) < 0) {
        ff_launch_fail(error, "RAM '%s' of process %d: %s", id, (int)m->a->pid, g_strerror(errno));
        return false;
    }
    JsonObject *started = find_object(m->started, "id", id);
    if ((started && is_file_of(started, own)) || !is_mapped(m->maps, own)) {
        return true; /* it is in the plan already, or was unplugged */
    }
    name = g_strdup_printf("ram:%s", id);
    if (!is_latest(m, own, id, name, error)) {
        return false;
    }
    if (!is_held(m->held, name)) { /* else the same once more: QEMU opens it again */
        add_held(m->a, m->held, name, own, &st, fs.f_bsize);
    }
    return true;
}

/* QEMU keeps what it was started with, also where that was unplugged since, and perhaps plugged
 * again by that name: what is mapped nowhere is no memory of the guest's any more. Where none is
 * mapped yet QEMU has not come that far; one that is between the first and the last of them (it
 * fills them as it begins: prealloc) migrates by itself then. */
static void forget_unplugged(const Memory *m)
{
    JsonArray *left = json_array_new();
    guint n = json_array_get_length(m->started);
    bool any = false;

    for (guint i = 0; i < n && !any; i++) {
        any =
            is_mapped(m->maps, ff_json_int(json_array_get_object_element(m->started, i), "fd", -1));
    }
    for (guint i = 0; i < n; i++) {
        JsonObject *o = json_array_get_object_element(m->started, i);

        if (!any || is_mapped(m->maps, ff_json_int(o, "fd", -1))) {
            json_array_add_object_element(left, json_object_ref(o));
        }
    }
    json_object_set_array_member(m->a->plan, "ram", left);
}

/* FD of QEMU is LINK: the device-state socket, or the TLS credentials of the migration under way,
 * is the new engine's, too. */
static bool take_migration(FfAttach *a, JsonArray *held, int fd, const char *link, GError **error)
{
    g_autofree char *inner =
        g_strdup_printf("socket:[%" G_GUINT64_FORMAT "]", (guint64)a->state->kept_inner);
    bool is_inner = a->state->kept_inner && !strcmp(link, inner);
    bool is_tls = a->state->driver_flags & FF_DRIVER_TLS &&
                  g_str_has_prefix(link, "/memfd:" FF_TLS_KEPT_NAME);
    const char *name = is_inner ? "inner" : "tls";

    if ((!is_inner && !is_tls) || is_held(held, name)) {
        return true;
    }
    int own = ff_attach_give(
        a, ff_attach_take(a, fd, NULL, is_inner ? "the device-state socket" : "its credentials",
                          error));
    if (own < 0) {
        return false;
    }
    if (is_inner || (fcntl(own, F_GET_SEALS) & FF_TLS_KEPT_SEALS) == FF_TLS_KEPT_SEALS) {
        add_held(a, held, name, own, NULL, 0);
    }
    return true;
}

/* FD of QEMU is LINK: the parcel with what an upgrade under way needs. */
static bool take_pact(FfAttach *a, JsonArray *held, int fd, const char *link, GError **error)
{
    static const char *const names[FF_UPGRADE_COMMIT_KEPT_MAX] = FF_UPGRADE_COMMIT_KEPT;
    g_autofree char *ours = g_strdup_printf("socket:[%u]", a->state->kept_pact);
    int fds[FF_PARCEL_MAX], parcel;

    if (!a->state->kept_pact || strcmp(link, ours) != 0 || is_held(held, names[0])) {
        return true;
    }
    parcel = ff_attach_take(a, fd, NULL, "the pact of its upgrade", error);
    if (parcel < 0) {
        return false;
    }
    int n = ff_fdstore_look(parcel, fds);
    bool all = n > 0;
    close(parcel);
    for (int i = 0; i < n; i++) {
        int own = ff_attach_give(a, fds[i]);

        all = all && own >= 0;
        if (own >= 0 && i < FF_UPGRADE_COMMIT_KEPT_MAX) {
            add_held(a, held, names[i], own, NULL, 0);
            a->pact_fd = i == 0 ? own : a->pact_fd;
        }
    }
    if (!all) {
        /* Without it nobody could say whose the guest is. */
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "what QEMU keeps of its upgrade cannot be had (%s): try again",
                    g_strerror(n < 0 ? -n : EMFILE));
    }
    return all;
}

/* RAM, and what QEMU keeps of a migration under way. */
bool ff_attach_take_memory(FfAttach *a, GError **error)
{
    g_autoptr(GArray) fds = ff_attach_fds(a->pid, error);
    g_autofree char *maps = ff_maps_of_process(a->pid);
    JsonArray *ram = ff_json_array(a->plan, "ram");
    JsonArray *held = json_array_new();

    json_object_set_array_member(a->plan, "held", held);
    if (!fds || !ram) {
        return false;
    }
    for (guint i = 0; i < json_array_get_length(ram); i++) {
        JsonObject *o = json_array_get_object_element(ram, i);
        if (!o || !take_ram(a, o, error)) {
            return false;
        }
    }
    g_autoptr(JsonArray) started = json_array_ref(ram);
    Memory m = {.a = a, .maps = maps, .started = started, .held = held};
    forget_unplugged(&m);
    for (guint i = 0; i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *link = ff_attach_link(a->pid, fd);

        if (link && g_str_has_prefix(link, MEMFD) && !take_plugged(&m, fd, link, error)) {
            return false;
        }
        if (link &&
            (!take_migration(a, held, fd, link, error) || !take_pact(a, held, fd, link, error))) {
            return false;
        }
    }
    if (a->state->driver_flags & FF_DRIVER_TLS && !is_held(held, "tls")) {
        ff_attach_note(
            a, "the TLS credentials of the migration are lost: it cannot be recovered; farfault "
               "dump keeps this half of the guest");
    }
    return true;
}

/* Of a new QEMU without relay and engine, which alone could take the guest. */
static bool has_no_guest(const FfStateHeader *state, const FfUpgradeCommit *pact)
{
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE);
    bool early = phase == FF_PHASE_IDLE || phase == FF_PHASE_SETUP || phase == FF_PHASE_LOADING ||
                 phase == FF_PHASE_DEAD;

    return ff_state_is_marked(state, FF_MARK_BORROWED) &&
           (pact ? ff_upgrade_commit_word(pact) != FF_UPGRADE_COMMIT_TAKEN : early);
}

/* The process that comes after the engines that are dead decides the same, and ends the new QEMU.
 * But that one's relay, which may be stopped, has the sockets to which clients come: they are this
 * QEMU's again once the new one can never have the guest. */
void ff_attach_settle_pact(FfAttach *a)
{
    g_autoptr(FfUpgradeCommit) pact =
        a->pact_fd >= 0 ? ff_upgrade_commit_map(a->pact_fd, NULL) : NULL;

    a->stays = pact && a->state->role == FF_ROLE_SOURCE && ff_upgrade_commit_keep_guest(pact);
    a->has_left = pact && a->state->role == FF_ROLE_SOURCE && !a->stays;
    a->ends = has_no_guest(a->state, pact);
}
