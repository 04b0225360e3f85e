/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. */
#include "guest/relay/internal.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "contract/state.h"
#include "qmp/json.h"

static unsigned flag_of(const char *name)
{
    static const char *const names[FF_CLIENT_CAPS] = FF_CLIENT_CAP_NAMES;

    for (unsigned i = 0; name && i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(names[i], name)) {
            return 1u << i;
        }
    }
    return 0;
}

/* Of those that COMMAND names the ones that it switches on, or all. */
static unsigned named_capabilities(const FfQmpCommand *command, bool on)
{
    if (!command || g_strcmp0(command->name, "migrate-set-capabilities")) {
        return 0;
    }
    g_autoptr(JsonNode) node = json_from_string(command->json->str, NULL);
    JsonObject *root = ff_json_node_object(node);
    JsonObject *args = root ? ff_json_object(root, "arguments") : NULL;
    JsonNode *list = args ? json_object_get_member(args, "capabilities") : NULL;
    unsigned flags = 0;

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *status = ff_json_node_nth(list, i);

        if (status && (!on || ff_json_bool(status, "state"))) {
            flags |= flag_of(ff_json_string(status, "capability"));
        }
    }
    return flags;
}

unsigned ff_sets_capabilities(const FfQmpCommand *command)
{
    return named_capabilities(command, false);
}

bool ff_ignores_shared(const FfQmpCommand *command)
{
    const char *line = command ? command->command_line : NULL;

    if (line && !g_strcmp0(command->name, "human-monitor-command")) {
        /* Its words may be quoted; what else has both in it QEMU refuses. */
        line += strspn(line, " \t\n\v\f\r");
        return g_str_has_prefix(line, "migrate_set_capability") &&
               strstr(line, "x-ignore-shared") && !strstr(line, "off");
    }
    return named_capabilities(command, true) & FF_CLIENT_CAP_IGNORE_SHARED;
}
