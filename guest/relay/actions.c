/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. What QEMU refuses is noted as well: the next QEMU refuses it, too. No lock. */
#include "guest/relay/internal.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "qmp/json.h"

static void note_action(FfStateHeader *state, unsigned kind, const char *value)
{
    static const char *const values[] = FF_ACTION_VALUES;

    for (unsigned i = 0; value && i < G_N_ELEMENTS(values); i++) {
        if (!strcmp(values[i], value)) {
            state->actions[kind] = i + 1;
        }
    }
}

void ff_actions_note(FfStateHeader *state, const FfQmpCommand *command)
{
    static const char *const kinds[FF_ACTIONS] = FF_ACTION_KINDS;
    bool all = command && !g_strcmp0(command->name, "set-action");
    bool watchdog = command && !g_strcmp0(command->name, "watchdog-set-action");
    g_autoptr(JsonNode) node = all || watchdog ? json_from_string(command->json->str, NULL) : NULL;
    JsonObject *root = ff_json_node_object(node);
    JsonObject *args = root ? ff_json_object(root, "arguments") : NULL;

    for (unsigned i = 0; args && all && i < FF_ACTIONS; i++) {
        note_action(state, i, ff_json_string(args, kinds[i]));
    }
    if (args && watchdog) {
        note_action(state, FF_ACTION_WATCHDOG, ff_json_string(args, "action"));
    }
}
