/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See capabilities.h. */
#include "relay/capabilities.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "qmp/json.h"
#include "state/state.h"

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

unsigned ff_sets_capabilities(const FfQmpCommand *command)
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

        flags |= status ? flag_of(ff_json_string(status, "capability")) : 0;
    }
    return flags;
}
