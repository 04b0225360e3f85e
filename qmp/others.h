/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices in other processes (vhost-user), as QEMU names them. Who asks before a migration, and who
 * leaves one to QEMU without that, must agree on what they are. No state; any thread.
 */
#ifndef FF_QMP_OTHERS_H
#define FF_QMP_OTHERS_H

#include "qmp/json.h"

/* In the answer to qom-list of a folder of devices, or of /objects. */
static inline bool ff_others_in_list(JsonNode *answer)
{
    for (guint i = 0; i < ff_json_node_length(answer); i++) {
        if (strstr(ff_json_string_or(ff_json_node_nth(answer, i), "type", ""), "vhost-user")) {
            return true;
        }
    }
    return false;
}

/* In the human monitor's to "info network". */
static inline bool ff_others_in_networks(JsonNode *answer)
{
    bool is_text =
        JSON_NODE_HOLDS_VALUE(answer) && json_node_get_value_type(answer) == G_TYPE_STRING;
    const char *text = is_text ? json_node_get_string(answer) : "";

    return strstr(text, ",type=vhost-user") || strstr(text, ",type=passt,vhost-user");
}

#endif
