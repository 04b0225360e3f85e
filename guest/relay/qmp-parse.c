/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parser of one QMP command: picks out the few members that the relay needs, and writes the
 * command again as plain JSON, so that the engine reads what the relay has understood.
 *
 * Numbers stay as they are, since QEMU takes no 1.0 for an integer; but for those of the id, which
 * are compared with QEMU's answers. What QEMU would refuse (qmp/dialect.h) is refused here, too:
 * such a command is never owned but goes to QEMU, whose error the client then sees. One thread; no
 * locks.
 */
#include "guest/relay/qmp-frame.h"

#include <json-glib/json-glib.h>
#include <string.h>

typedef struct {
    FfQmpCommand *command;
    bool execute, exec_oob; /* these members are there */
    bool refused;           /* QEMU will refuse the command for its members */
} Parse;

static void set_string(char **to, const char *string)
{
    g_free(*to);
    *to = g_strdup(string);
}

static void top_member(Parse *ps, const char *key, const FfDialectValue *value)
{
    FfQmpCommand *command = ps->command;
    bool execute = !strcmp(key, "execute"), exec_oob = !strcmp(key, "exec-oob");

    if (execute || exec_oob) {
        ps->execute |= execute;
        ps->exec_oob |= exec_oob;
        ps->refused |= !value->string;
        set_string(&command->name, value->string);
    } else if (!strcmp(key, "id")) {
        command->id = g_strndup(value->text, value->len);
    } else {
        ps->refused |= strcmp(key, "arguments") != 0 || value->kind != '{';
    }
}

static void note_argument(FfQmpCommand *command, const char *key, const FfDialectValue *value)
{
    if (value->string && !strcmp(key, "fdname")) {
        set_string(&command->fdname, value->string);
    } else if (value->string && !strcmp(key, "command-line")) {
        set_string(&command->command_line, value->string);
    }
}

static void visit_value(const FfDialectValue *value, void *opaque)
{
    Parse *ps = opaque;
    const char *const *key = value->key;

    if (value->depth == 1) {
        top_member(ps, key[0], value);
    } else if (strcmp(key[0], "arguments") != 0 || !key[1]) {
        return;
    } else if (value->depth == 2) {
        note_argument(ps->command, key[1], value);
    } else if (!strcmp(key[1], "enable") && !key[2] && value->string) {
        ps->command->enable_oob |= !strcmp(value->string, "oob");
    }
}

FfQmpCommand *ff_qmp_command_parse(const char *text, size_t len)
{
    g_autoptr(FfQmpCommand) command = g_new0(FfQmpCommand, 1);
    Parse ps = {.command = command};
    size_t blanks = 0;

    while (blanks < len && strchr(" \t\r\n", text[blanks]) && text[blanks]) {
        blanks++;
    }
    if (blanks == len || text[blanks] != '{') {
        return NULL;
    }
    command->json =
        ff_dialect_read(text, len, FF_DIALECT_NUL | FF_DIALECT_ID, visit_value, &ps, NULL);
    if (!command->json) {
        return NULL;
    }
    /* QEMU decides by the members' presence alone what overtakes. */
    command->oob = ps.exec_oob && !ps.execute;
    if (ps.refused || ps.exec_oob == ps.execute) {
        g_clear_pointer(&command->name, g_free);
    }
    return g_steal_pointer(&command);
}

void ff_qmp_command_free(FfQmpCommand *command)
{
    g_free(command->name);
    g_free(command->id);
    g_free(command->fdname);
    g_free(command->command_line);
    if (command->json) {
        g_string_free(command->json, TRUE);
    }
    g_free(command);
}

bool ff_qmp_id_equal(const char *a, const char *b)
{
    g_autoptr(JsonNode) na = NULL, nb = NULL;

    if (!a || !b) {
        return a == b;
    }
    /* Only members of an object can come back in another order. */
    if (!strcmp(a, b) || !strchr(a, '{') || !strchr(b, '{')) {
        return !strcmp(a, b);
    }
    na = json_from_string(a, NULL);
    nb = json_from_string(b, NULL);
    return na && nb && json_node_equal(na, nb);
}
