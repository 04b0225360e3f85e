/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disks that a snapshot of memory is to fit to: which ones the guest can write to, their
 * flushing ahead of stop, and an overlay for each, all in one transaction
 * (blockdev-snapshot-sync, which makes the qcow2 file as well).
 *
 * Threads: the coordinator's. No lock.
 */
#include "qemu/disks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "qemu/call.h"
#include "qemu/internal.h"
#include "qmp/disk-name.h"

/* libvirt gives this secret to each guest, and to no other. */
#define LIBVIRTS "masterKey0"

static void disk_free(void *data)
{
    FfDisk *d = data;

    g_free(d->name);
    g_free(d->node);
    g_free(d->base);
    g_free(d->overlay);
    g_free(d);
}

/* ---- which there are --------------------------------------------------------------------------
 */

/* NULL: it has no medium, or the guest cannot write to it. */
static FfDisk *disk_of(JsonObject *entry)
{
    JsonObject *inserted = ff_json_object(entry, "inserted");
    const char *node = inserted ? ff_json_string(inserted, "node-name") : NULL;
    const char *base =
        inserted ? ff_json_string(ff_json_object(inserted, "image"), "filename") : NULL;

    if (!node || ff_json_bool(inserted, "ro")) {
        return NULL;
    }
    FfDisk *d = g_new0(FfDisk, 1);

    d->name = ff_disk_name(entry, node);
    d->node = g_strdup(node);
    d->base = g_strdup(base ? base : ff_json_string(inserted, "file"));
    return d;
}

/* NULL and ERROR: QEMU does not say. */
static GPtrArray *writable_disks(FfQemu *qemu, GError **error)
{
    g_autoptr(JsonNode) reply = ff_qemu_call(qemu, "query-block", NULL, error);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(disk_free);

    if (!reply) {
        return NULL;
    }
    for (guint i = 0; i < ff_json_node_length(reply); i++) {
        JsonObject *entry = ff_json_node_nth(reply, i);
        FfDisk *d = entry ? disk_of(entry) : NULL;

        if (d) {
            g_ptr_array_add(all, d);
        }
    }
    return g_steal_pointer(&all);
}

/* ---- the plan ---------------------------------------------------------------------------------
 */

static bool is_libvirts(FfQemu *qemu)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", "/objects");
    g_autoptr(JsonNode) reply = ff_qemu_call(qemu, "qom-list", args, NULL);

    for (guint i = 0; i < ff_json_node_length(reply); i++) {
        JsonObject *entry = ff_json_node_nth(reply, i);

        if (entry && g_strcmp0(ff_json_string(entry, "name"), LIBVIRTS) == 0) {
            return true;
        }
    }
    return false;
}

/* FOLDER/NAME-TIME.qcow2, with a number where that is taken. */
static char *overlay_path(const char *folder, const char *name, const char *time,
                          const GPtrArray *plan)
{
    g_autofree char *plain = g_strdup(name);

    g_strcanon(plain, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "._-", '_');
    for (unsigned n = 1;; n++) {
        g_autofree char *number = n > 1 ? g_strdup_printf("-%u", n) : g_strdup("");
        g_autofree char *path = g_strdup_printf("%s/%s-%s%s.qcow2", folder, plain, time, number);
        bool taken = access(path, F_OK) == 0;

        for (guint i = 0; i < plan->len; i++) {
            taken |= g_strcmp0(((FfDisk *)plan->pdata[i])->overlay, path) == 0;
        }
        if (!taken) {
            return g_steal_pointer(&path);
        }
    }
}

GPtrArray *ff_qemu_plan_disks(FfVmmDisks *disks, const char *folder, GError **error)
{
    FfQemu *qemu = ff_qemu_of_disks(disks);
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y%m%d-%H%M%S");

    if (is_libvirts(qemu)) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "libvirt keeps account of this guest's images, and would start it "
                            "with the old ones: take its disks by virsh snapshot-create-as "
                            "--disk-only");
        return NULL;
    }
    g_autoptr(GPtrArray) plan = writable_disks(qemu, error);

    for (guint i = 0; plan && i < plan->len; i++) {
        FfDisk *d = plan->pdata[i];

        d->overlay = overlay_path(folder, d->name, time, plan);
    }
    return g_steal_pointer(&plan);
}

/* ---- flush ------------------------------------------------------------------------------------
 */

/* By qemu-io, which any QEMU has, and which says nothing where all is well. */
static bool flush_one(FfQemu *qemu, const FfDisk *d, GError **error)
{
    JsonObject *args = json_object_new();
    g_autofree char *line = g_strdup_printf("qemu-io %s \"flush\"", d->node);

    json_object_set_string_member(args, "command-line", line);
    g_autoptr(JsonNode) reply = ff_qemu_call_patient(qemu, "human-monitor-command", args, error);
    const char *text = reply && JSON_NODE_HOLDS_VALUE(reply) ? json_node_get_string(reply) : NULL;

    if (reply && text && *text) {
        g_autofree char *what = g_strdelimit(g_strdup(text), "\r\n", ' ');

        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, "disk %s: %s", d->name,
                    g_strstrip(what));
        return false;
    }
    return reply != NULL;
}

bool ff_qemu_flush_disks(FfVmmDisks *disks, GError **error)
{
    FfQemu *qemu = ff_qemu_of_disks(disks);
    g_autoptr(GPtrArray) all = writable_disks(qemu, error);
    bool ok = all != NULL;

    for (guint i = 0; ok && i < all->len; i++) {
        ok = flush_one(qemu, all->pdata[i], error);
    }
    return ok;
}

/* ---- the branch -------------------------------------------------------------------------------
 */

static JsonObject *action(const FfDisk *d, guint i)
{
    JsonObject *action = json_object_new(), *data = json_object_new();
    /* Node names have 31 bytes at most; the time makes it one that no other snapshot has. */
    g_autofree char *node = g_strdup_printf("ff%u-%" G_GINT64_FORMAT, i, g_get_real_time() / 1000);

    json_object_set_string_member(data, "node-name", d->node);
    json_object_set_string_member(data, "snapshot-file", d->overlay);
    json_object_set_string_member(data, "snapshot-node-name", node);
    json_object_set_string_member(data, "format", "qcow2");
    json_object_set_string_member(data, "mode", "absolute-paths");
    json_object_set_string_member(action, "type", "blockdev-snapshot-sync");
    json_object_set_object_member(action, "data", data);
    return action;
}

bool ff_qemu_branch_disks(FfVmmDisks *disks, const GPtrArray *plan, GError **error)
{
    FfQemu *qemu = ff_qemu_of_disks(disks);
    JsonObject *args = json_object_new();
    JsonArray *actions = json_array_new();

    for (guint i = 0; i < plan->len; i++) {
        json_array_add_object_element(actions, action(plan->pdata[i], i));
    }
    json_object_set_array_member(args, "actions", actions);
    if (!plan->len) {
        json_object_unref(args);
        return true;
    }
    /* No deadline and no cancel: what was sent is carried out. */
    g_autoptr(JsonNode) reply = ff_qemu_call_within(qemu, "transaction", args, 0, error);

    return reply != NULL;
}
