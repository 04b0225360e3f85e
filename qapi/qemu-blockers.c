/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's query-migrate says against a new migration. No state; the main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"

/* QEMU's migration_is_blocked() names the first reason; query-migrate lists it last. */
char *ff_blocked_by(JsonObject *info)
{
    static const char device[] = "non-migratable device: ";
    JsonNode *node = json_object_get_member(info, "blocked-reasons");
    JsonArray *reasons = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    guint n = reasons ? json_array_get_length(reasons) : 0;

    if (!n) {
        return NULL;
    }
    JsonNode *last = json_array_get_element(reasons, n - 1);
    const char *text = JSON_NODE_HOLDS_VALUE(last) ? json_node_get_string(last) : NULL;

    if (text && g_str_has_prefix(text, device)) {
        return g_strdup_printf("State blocked by non-migratable device '%s'",
                               text + strlen(device));
    }
    return g_strdup(text ? text : "QEMU gives no reason");
}

static bool is_under_way(const char *status)
{
    static const char *const over[] = {"none", "completed", "failed", "cancelled"};

    for (unsigned i = 0; status && i < G_N_ELEMENTS(over); i++) {
        if (!strcmp(status, over[i])) {
            return false;
        }
    }
    return status;
}

bool ff_blocked_by_migration(JsonNode *info)
{
    return info && JSON_NODE_HOLDS_OBJECT(info) &&
           is_under_way(ff_json_string(json_node_get_object(info), "status"));
}

bool ff_has_ended(JsonNode *info)
{
    const char *status = info && JSON_NODE_HOLDS_OBJECT(info)
                             ? ff_json_string(json_node_get_object(info), "status")
                             : NULL;

    return !g_strcmp0(status, "failed") || !g_strcmp0(status, "cancelled") ||
           !g_strcmp0(status, "completed");
}
