/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See status.h. Threads: the coordinator's. No lock.
 */
#include "guest/qemu/status.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"
#include "qmp/json.h"

const char *ff_qemu_status_of(JsonNode *query_status)
{
    JsonObject *o = ff_json_node_object(query_status);

    return o ? ff_json_string(o, "status") : NULL;
}

void ff_qemu_set_no_status(GError **error)
{
    g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                        "query-status: QEMU named no status");
}

/* Takes NODE. */
static char *state_in(JsonNode *node, GError **error)
{
    g_autoptr(JsonNode) own = node;
    const char *state = ff_qemu_status_of(node);

    if (node && !state) {
        ff_qemu_set_no_status(error);
    }
    return g_strdup(state);
}

char *ff_qemu_run_state(FfQemu *qemu, bool firm, GError **error)
{
    return state_in((firm ? ff_qemu_call_firm : ff_qemu_call)(qemu, "query-status", NULL, error),
                    error);
}

char *ff_qemu_run_state_within(FfQemu *qemu, unsigned deadline_ms)
{
    return state_in(ff_qemu_call_within(qemu, "query-status", NULL, deadline_ms, NULL), NULL);
}

bool ff_qemu_migrate_status(FfQemu *qemu, char **status, char **desc, GError **error)
{
    g_autoptr(JsonNode) node = ff_qemu_call_firm(qemu, "query-migrate", NULL, error);
    JsonObject *o = ff_json_node_object(node);

    if (!node) {
        return false;
    }
    *status = g_strdup(o ? ff_json_string(o, "status") : NULL);
    *desc = g_strdup(o ? ff_json_string(o, "error-desc") : NULL);
    return true;
}

bool ff_qemu_keeps_suspended(FfVmmState *state)
{
    return ff_qmp_client_version(ff_qemu_of_state(state)->qmp) >= FF_QEMU_KEEPS_SUSPENDED;
}

char *ff_qemu_machine_name(JsonNode *answer)
{
    static const char suffix[] = "-machine";
    const char *type =
        JSON_NODE_HOLDS_VALUE(answer) && json_node_get_value_type(answer) == G_TYPE_STRING
            ? json_node_get_string(answer)
            : NULL;

    if (!type || !g_str_has_suffix(type, suffix)) {
        return NULL;
    }
    return g_strndup(type, strlen(type) - strlen(suffix));
}
