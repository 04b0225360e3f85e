/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h.
 *
 * A guest comes with late-block-activate, as the other side has its images until the grant. Then
 * QEMU activates them with cont, and with nothing else: one that stays stopped has them inactive
 * for good, and before 10.0 bdrv_inactivate_recurse() asserts that they are not. 10.0 has
 * blockdev-set-active. Before, the one command that activates a node without a look at the guest
 * is block-export-add, "so that the image is ready for write access since the export could be
 * available before migration handover" (QEMU's block/export/export.c), and does so before it looks
 * for an NBD server: where there is none, the export fails, which is as good.
 *
 * Threads: the coordinator's. No lock here.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "qmp/json.h"

/* What QEMU says where no NBD server runs (blockdev-nbd.c); it has activated the node by then. */
#define NO_SERVER "NBD server not running"

static void end_export(FfQemu *qemu, const char *id)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "id", id);
    json_object_set_string_member(args, "mode", "hard");
    g_autoptr(JsonNode) ended = ff_qemu_call_firm(qemu, "block-export-del", args, NULL);
}

/* NUMBER: of the node; an export of the one before may not be gone yet. */
static void activate_node(FfQemu *qemu, const char *node, unsigned number)
{
    JsonObject *args = json_object_new();
    g_autofree char *id = g_strdup_printf("farfault-activate-%u", number);
    g_autoptr(GError) local = NULL;

    json_object_set_string_member(args, "type", "nbd");
    json_object_set_string_member(args, "id", id);
    json_object_set_string_member(args, "name", id);
    json_object_set_string_member(args, "node-name", node);
    g_autoptr(JsonNode) made = ff_qemu_call_firm(qemu, "block-export-add", args, &local);
    if (made) {
        end_export(qemu, id);
    } else if (!strstr(local->message, NO_SERVER)) {
        g_message("%s: disk \"%s\" stays inactive until cont: %s", qemu->name, node,
                  local->message);
    }
}

static void activate_each(FfQemu *qemu)
{
    JsonObject *args = json_object_new();

    json_object_set_boolean_member(args, "flat", TRUE);
    g_autoptr(JsonNode) nodes = ff_qemu_call_firm(qemu, "query-named-block-nodes", args, NULL);
    for (guint i = 0; i < ff_json_node_length(nodes); i++) {
        JsonObject *o = ff_json_node_nth(nodes, i);
        const char *node = o ? ff_json_string(o, "node-name") : NULL;

        if (node) {
            activate_node(qemu, node, i);
        }
    }
}

void ff_qemu_activate_disks(FfQemu *qemu)
{
    JsonObject *args = json_object_new();
    g_autoptr(GError) local = NULL;

    json_object_set_boolean_member(args, "active", TRUE);
    g_autoptr(JsonNode) set = ff_qemu_call_firm(qemu, "blockdev-set-active", args, &local);
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        activate_each(qemu);
    } else if (!set) {
        g_message("%s: its disks stay inactive until cont: %s", qemu->name, local->message);
    }
}
