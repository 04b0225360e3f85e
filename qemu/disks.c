/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Flushes the disks that the guest can write to, ahead of stop; tells which files they are in.
 *
 * Threads: the coordinator's. No lock.
 */
#include "qemu/disks.h"

#include "qemu/call.h"
#include "qemu/internal.h"
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
    g_autoptr(JsonNode) all = ff_qemu_call(qemu, "query-block", NULL, error);
    bool ok = all != NULL;

    for (guint i = 0; ok && i < ff_json_node_length(all); i++) {
        const char *node = writable_node(ff_json_node_nth(all, i));

        ok = !node || flush_one(qemu, node, error);
    }
    return ok;
}

/* The node's name is another one after a snapshot, a mirror that took over, or a change of medium.
 */
char *ff_qemu_describe_disks(FfVmmDisks *disks, GError **error)
{
    g_autoptr(JsonNode) all = ff_qemu_call(ff_qemu_of_disks(disks), "query-block", NULL, error);
    GString *text = all ? g_string_new(NULL) : NULL;

    for (guint i = 0; all && i < ff_json_node_length(all); i++) {
        JsonObject *entry = ff_json_node_nth(all, i);
        JsonObject *inserted = ff_json_object(entry, "inserted");

        g_string_append_printf(text, "%s %s: %s %s\n", ff_json_string_or(entry, "device", ""),
                               ff_json_string_or(entry, "qdev", ""),
                               ff_json_string_or(inserted, "node-name", ""),
                               ff_json_string_or(inserted, "file", ""));
    }
    return text ? g_string_free(text, FALSE) : NULL;
}
