/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Flushes the disks that the guest can write to, ahead of stop; with the guest stopped, puts nodes
 * that wait for that in front of them, in one transaction of blockdev-snapshot. The client that
 * planned that did it while the guest ran, so QEMU says once more, after stop, which disks there
 * are. Tells which files they are in, and which devices there are.
 *
 * Threads: the coordinator's. No lock.
 */
#include "guest/qemu/disks.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"
#include "qmp/disk.h"
#include "qmp/json.h"

/* By qemu-io, which any QEMU has, and which says nothing where all is well. */
static bool flush_one(FfQemu *qemu, const char *node, GError **error)
{
    JsonObject *args = json_object_new();
    g_autofree char *line = g_strdup_printf("qemu-io %s \"flush\"", node);

    json_object_set_string_member(args, "command-line", line);
    g_autoptr(JsonNode) reply = ff_qemu_call_patient(qemu, "human-monitor-command", args, error);
    const char *text = reply && JSON_NODE_HOLDS_VALUE(reply) ? json_node_get_string(reply) : NULL;

    if (reply && text && *text) {
        g_autofree char *what = g_strdelimit(g_strdup(text), "\r\n", ' ');

        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, "%s: %s", node, g_strstrip(what));
        return false;
    }
    return reply != NULL;
}

/* NULL: it has no medium, or the guest cannot write to it. */
static const char *writable_node(JsonObject *entry)
{
    JsonObject *inserted = entry ? ff_json_object(entry, "inserted") : NULL;

    return inserted && !ff_json_bool(inserted, "ro") ? ff_json_string(inserted, "node-name") : NULL;
}

bool ff_qemu_flush_disks(FfVmmDisks *disks, GError **error)
{
    FfQemu *qemu = ff_qemu_of_disks(disks);
    /* However long it takes: its answer is waited for as a barrier, too. */
    g_autoptr(JsonNode) all = ff_qemu_call_patient(qemu, "query-block", NULL, error);
    bool ok = all != NULL;

    for (guint i = 0; ok && i < ff_json_node_length(all); i++) {
        const char *node = writable_node(ff_json_node_nth(all, i));

        ok = !node || flush_one(qemu, node, error);
    }
    return ok;
}

/* ---- overlays -------------------------------------------------------------------------------- */

static bool disk_differs(GError **error, const char *device, const char *how)
{
    g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                "disk %s %s while its overlay was made: repeat the snapshot", device, how);
    return false;
}

static const FfDisk *planned_disk(const GPtrArray *plan, const char *device)
{
    for (guint i = 0; i < plan->len; i++) {
        const FfDisk *d = plan->pdata[i];

        if (!strcmp(d->device, device)) {
            return d;
        }
    }
    return NULL;
}

/* A client that plugs a disk, commits or grows an image, or puts a filter in front of it, has made
 * the plan stale. QEMU would carry it out all the same, on a node that no guest uses any more. */
static bool is_as_planned(const GPtrArray *plan, JsonNode *block, GError **error)
{
    guint n = 0;

    for (guint i = 0; i < ff_json_node_length(block); i++) {
        FfDiskEntry now;

        if (!ff_disk_read(ff_json_node_nth(block, i), &now)) {
            continue;
        }
        const FfDisk *d = planned_disk(plan, now.device);
        if (!d) {
            return disk_differs(error, now.device, "has come, or can be written to since,");
        }
        if (strcmp(d->node, now.node) != 0) {
            return disk_differs(error, now.device, "got another node");
        }
        if ((int64_t)d->size != now.size) {
            return disk_differs(error, now.device, "got another size");
        }
        n++;
    }
    if (n != plan->len) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "a disk went away, or cannot be written to any more, while its overlay "
                            "was made: repeat the snapshot");
    }
    return n == plan->len;
}

static JsonObject *snapshot_action(const FfDisk *d)
{
    JsonObject *action = json_object_new(), *data = json_object_new();

    json_object_set_string_member(data, "node", d->node);
    json_object_set_string_member(data, "overlay", d->overlay);
    json_object_set_string_member(action, "type", "blockdev-snapshot");
    json_object_set_object_member(action, "data", data);
    return action;
}

bool ff_qemu_branch_disks(FfVmmDisks *disks, GError **error)
{
    FfQemu *qemu = ff_qemu_of_disks(disks);

    if (!is_as_planned(disks->plan, qemu->disks_at_stop, error)) {
        return false;
    }
    if (!disks->plan->len) {
        return true;
    }
    JsonObject *args = json_object_new();
    JsonArray *actions = json_array_new();

    for (guint i = 0; i < disks->plan->len; i++) {
        json_array_add_object_element(actions, snapshot_action(disks->plan->pdata[i]));
    }
    json_object_set_array_member(args, "actions", actions);
    /* No deadline and no cancel: what was sent is carried out. */
    g_autoptr(JsonNode) reply = ff_qemu_call_within(qemu, "transaction", args, 0, error);

    return reply != NULL;
}

/* ---- what they are --------------------------------------------------------------------------- */

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All lines (char *), in an order of their own. */
static char *join_lines(GPtrArray *lines)
{
    g_ptr_array_sort(lines, compare_lines);
    g_ptr_array_add(lines, NULL);
    return g_strjoinv("\n", (char **)lines->pdata);
}

/* "disk 'NAME': ", and what stands behind that among LINES of another QEMU's if it is the same
 * medium; else as it is here (g_free). CWD: the folder of both; NULL: not known. */
static char *disk_line(JsonObject *entry, char *const *lines, const char *cwd)
{
    JsonObject *inserted = ff_json_object(entry, "inserted");
    g_autofree char *begin = g_strdup_printf("disk '%s': ", ff_disk_owner(entry));
    g_autofree char *medium = ff_disk_describe(inserted);

    for (; lines && *lines; lines++) {
        if (g_str_has_prefix(*lines, begin) &&
            ff_disk_is_described(inserted, *lines + strlen(begin), cwd)) {
            return g_strdup(*lines);
        }
    }
    return g_strconcat(begin, medium, NULL);
}

static void add_disks(JsonNode *all, char *const *lines, const char *cwd, GString *here,
                      GPtrArray *anywhere)
{
    for (guint i = 0; i < ff_json_node_length(all); i++) {
        JsonObject *entry = ff_json_node_nth(all, i);
        JsonObject *inserted = ff_json_object(entry, "inserted");

        /* The node's name is another one after a snapshot, a mirror that took over, or a change of
         * medium. */
        g_string_append_printf(here, "%s %s: %s %s\n", ff_json_string_or(entry, "device", ""),
                               ff_json_string_or(entry, "qdev", ""),
                               ff_json_string_or(inserted, "node-name", ""),
                               ff_json_string_or(inserted, "file", ""));
        g_ptr_array_add(anywhere, disk_line(entry, lines, cwd));
    }
}

static void add_devices(JsonNode *all, GPtrArray *anywhere)
{
    for (guint i = 0; i < ff_json_node_length(all); i++) {
        JsonObject *child = ff_json_node_nth(all, i);
        const char *type = ff_json_string_or(child, "type", "");

        if (g_str_has_prefix(type, "child<")) {
            g_ptr_array_add(anywhere, g_strdup_printf("device '%s': %s",
                                                      ff_json_string_or(child, "name", ""), type));
        }
    }
}

static JsonNode *await_answer(FfQemu *qemu, FfQmpCall *asked, GError **error)
{
    g_autoptr(GError) local = NULL;
    JsonNode *node = ff_qmp_call_end(asked, qemu->deadline_ms, qemu->cancel, &local);

    if (!node && !*error) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "disks and devices: ");
    }
    return node;
}

/* All at once: a guest may stand meanwhile. */
bool ff_qemu_describe_disks(FfVmmDisks *disks, const char *theirs, char **here, char **anywhere,
                            GError **error)
{
    static const char *const folders[] = {"/machine/peripheral", "/machine/peripheral-anon"};
    FfQemu *qemu = ff_qemu_of_disks(disks);
    FfQmpCall *asked[] = {ff_qemu_ask(qemu, "query-block", NULL), NULL, NULL};
    g_autoptr(GPtrArray) parts = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) own = g_string_new(NULL);
    g_auto(GStrv) lines = theirs ? g_strsplit(theirs, "\n", -1) : NULL;
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", qemu->qemu_pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    g_autoptr(GError) why = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(folders); i++) {
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "path", folders[i]);
        asked[1 + i] = ff_qemu_ask(qemu, "qom-list", args);
    }
    g_autoptr(JsonNode) all = await_answer(qemu, asked[0], &why);
    add_disks(all, lines, cwd, own, parts);
    for (unsigned i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autoptr(JsonNode) children = await_answer(qemu, asked[1 + i], &why);

        add_devices(children, parts);
    }
    if (why) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    *here = g_string_free(g_steal_pointer(&own), FALSE);
    *anywhere = join_lines(parts);
    return true;
}
