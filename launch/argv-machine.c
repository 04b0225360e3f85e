/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks a QEMU what a machine type calls its RAM, by starting it once with no machine and
 * query-machines. For names that are not in argv-memory.c's table: those of distributions.
 *
 * It takes as long as a start of QEMU does without a guest. A QEMU that does not answer in time, or
 * not in QMP, leaves the name unknown. Reads only; one thread.
 * System calls: socketpair, write.
 */
#include "launch/argv-machine.h"

#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launch/argv-ask.h"

/* QEMU's answer to query-machines as it came, one JSON object a line; NULL if there is none. */
static char *ask(const char *qemu)
{
    static const char questions[] = "{\"execute\": \"qmp_capabilities\"}\n"
                                    "{\"execute\": \"query-machines\"}\n"
                                    "{\"execute\": \"quit\"}\n";
    const char *argv[] = {qemu,       "-machine", "none", "-nodefaults", "-no-user-config",
                          "-display", "none",     "-qmp", "stdio",       NULL};
    int pair[2], status;

    /* It takes that much without waiting. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return NULL;
    }
    bool asked = write(pair[0], questions, strlen(questions)) == (ssize_t)strlen(questions);
    char *text = asked ? ff_ask(&(FfAskStart){.argv = (char **)argv, .in_out = pair[1], .err = -1},
                                pair[0], &status)
                       : NULL;
    if (!asked) {
        close(pair[1]);
    }
    close(pair[0]);
    return text;
}

static const char *member(JsonObject *machine, const char *name)
{
    JsonNode *node = json_object_get_member(machine, name);

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static bool find(JsonArray *machines, const char *type, char **ram_id)
{
    for (guint i = 0; i < json_array_get_length(machines); i++) {
        JsonNode *node = json_array_get_element(machines, i);
        JsonObject *machine = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;

        if (machine && (!g_strcmp0(member(machine, "name"), type) ||
                        !g_strcmp0(member(machine, "alias"), type))) {
            *ram_id = g_strdup(member(machine, "default-ram-id"));
            return true;
        }
    }
    return false;
}

bool ff_argv_ask_ram_id(const char *qemu, const char *type, char **ram_id)
{
    g_autofree char *text = ask(qemu);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    *ram_id = NULL;
    for (char **line = lines; line && *line; line++) {
        g_autoptr(JsonNode) node = json_from_string(*line, NULL);
        JsonObject *answer =
            node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        JsonNode *list = answer ? json_object_get_member(answer, "return") : NULL;

        if (list && JSON_NODE_HOLDS_ARRAY(list)) {
            return find(json_node_get_array(list), type, ram_id);
        }
    }
    return false;
}
