/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks a QEMU what a machine type calls its RAM, by starting it once with no machine and
 * query-machines. For names that are not in argv-memory.c's table: those of distributions.
 *
 * It takes as long as a start of QEMU does without a guest. A QEMU that does not answer in time, or
 * not in QMP, leaves the name unknown. Reads only; one thread.
 */
#include "guest/launch/argv-machine.h"

#include "guest/launch/argv-ask.h"

static const char *string_member(JsonObject *machine, const char *name)
{
    JsonNode *node = json_object_get_member(machine, name);

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static bool find_ram_id(JsonArray *machines, const char *type, char **ram_id)
{
    for (guint i = 0; i < json_array_get_length(machines); i++) {
        JsonNode *node = json_array_get_element(machines, i);
        JsonObject *machine = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;

        if (machine && (!g_strcmp0(string_member(machine, "name"), type) ||
                        !g_strcmp0(string_member(machine, "alias"), type))) {
            *ram_id = g_strdup(string_member(machine, "default-ram-id"));
            return true;
        }
    }
    return false;
}

bool ff_argv_ask_ram_id(const char *qemu, const char *type, char **ram_id)
{
    g_autoptr(JsonNode) list = ff_ask_list(qemu, "query-machines");

    *ram_id = NULL;
    return list && find_ram_id(json_node_get_array(list), type, ram_id);
}
