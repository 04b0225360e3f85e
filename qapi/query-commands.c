/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * query-commands: QEMU's, and behind them the ones that farfault adds. So a client finds out what
 * is in front of its QEMU by asking what it asks anyway. Main loop's thread.
 */
#include "qapi/driver-private.h"

static void add_own(JsonArray *commands)
{
    for (const FfQapiCommand *c = ff_qapi_commands; c->name; c++) {
        if (g_str_has_prefix(c->name, "x-farfault-")) {
            JsonObject *info = json_object_new();

            json_object_set_string_member(info, "name", c->name);
            json_array_add_object_element(commands, info);
        }
    }
}

static void answered(FfCall *call, JsonNode *result, const GError *error)
{
    if (error || !JSON_NODE_HOLDS_ARRAY(result)) {
        ff_call_forward(call, result, error);
        return;
    }
    g_autoptr(GList) theirs = json_array_get_elements(json_node_get_array(result));
    JsonArray *commands = json_array_new();
    JsonNode *all = json_node_new(JSON_NODE_ARRAY);

    for (const GList *l = theirs; l; l = l->next) {
        json_array_add_element(commands, json_node_copy(l->data));
    }
    add_own(commands);
    json_node_take_array(all, commands);
    ff_call_return(call, all);
}

void ff_handle_query_commands(FfCall *call)
{
    call->patient = true; /* as long as QEMU would take without us */
    ff_call_inner(call, "query-commands", NULL, answered);
}
