/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * human-monitor-command of the commands that farfault owns: read as QEMU's human monitor reads
 * them, run by the handlers of QMP, answered in the monitor's text.
 *
 * A line that is malformed, or names something unknown, passes to QEMU, which says what is
 * wrong; but not while a migration is under way, since QEMU might obey. Main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"
#include "qapi/hmp-text.h"

#define SPACES " \t\n\v\f\r"

/* What P points to in a quoted word, after a backslash or not; 0: nothing that QEMU takes. */
static char quoted_char(const char **p)
{
    static const char escapes[] = "nr\\'\"", means[] = "\n\r\\'\"";
    const char *escape;

    if (**p != '\\') {
        return *(*p)++;
    }
    escape = (*p)[1] ? strchr(escapes, (*p)[1]) : NULL;
    if (!escape) {
        return 0;
    }
    *p += 2;
    return means[escape - escapes];
}

/* Splits LINE into words, the first as QEMU's get_command_name() does (a slash ends it), the others
 * as its get_str(); NULL if a quote is not closed. */
static GPtrArray *split_words(const char *line)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    const char *p = line + strspn(line, SPACES);
    size_t len = strcspn(p, "/" SPACES);

    if (*p) {
        g_ptr_array_add(words, g_strndup(p, len));
    }
    for (p += len;;) {
        g_autoptr(GString) word = g_string_new(NULL);

        p += strspn(p, SPACES);
        if (!*p) {
            return g_steal_pointer(&words);
        }
        if (*p == '"') {
            for (p++; *p != '"';) {
                char c = quoted_char(&p);

                if (!c) {
                    return NULL;
                }
                g_string_append_c(word, c);
            }
            p++;
        } else {
            len = strcspn(p, SPACES);
            g_string_append_len(word, p, (gssize)len);
            p += len;
        }
        g_ptr_array_add(words, g_string_free(g_steal_pointer(&word), FALSE));
    }
}

static void use_command(FfCall *call, const char *name, JsonObject *args,
                        void (*render)(GString *out, JsonNode *result))
{
    g_free(call->name);
    call->name = g_strdup(name);
    g_clear_pointer(&call->args, json_object_unref);
    call->args = args;
    call->hmp = true;
    call->render = render;
    ff_call_dispatch(call);
}

static JsonObject *one_string(const char *name, const char *value)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, name, value);
    return args;
}

static bool is_enum_value(const char *type_of, const char *member, const char *value)
{
    const FfQapiType *type = ff_qapi_command(type_of)->arguments;

    if (member) {
        type = ff_qapi_member_type(type, member, NULL);
    }
    if (type && type->kind == FF_QAPI_ARRAY) {
        type = ff_qapi_member_type(type->element, "capability", NULL);
    }
    return type && type->kind == FF_QAPI_ENUM && g_strv_contains(type->values, value);
}

/* ---- one function per command; FALSE: not understood, QEMU's --------------------------------- */

static bool do_migrate(FfCall *call, GPtrArray *words)
{
    static const struct {
        char flag;
        const char *member;
    } flags[] = {{'d', "detach"}, {'r', "resume"}, {'b', "blk"}, {'i', "inc"}};
    g_autoptr(JsonObject) args = json_object_new();
    guint i = 1;

    for (; i < words->len && *(char *)words->pdata[i] == '-'; i++) {
        for (const char *p = (char *)words->pdata[i] + 1; *p; p++) {
            unsigned f = 0;

            while (f < G_N_ELEMENTS(flags) && flags[f].flag != *p) {
                f++;
            }
            if (f == G_N_ELEMENTS(flags)) {
                return false;
            }
            json_object_set_boolean_member(args, flags[f].member, TRUE);
        }
    }
    if (words->len != i + 1) {
        return false;
    }
    json_object_set_string_member(args, "uri", words->pdata[i]);
    bool detach = json_object_has_member(args, "detach");

    use_command(call, "migrate", json_object_ref(args), detach ? NULL : ff_hmp_migrate);
    return true;
}

static bool do_set_capability(FfCall *call, GPtrArray *words)
{
    const char *state = words->pdata[2];
    JsonObject *status, *args;
    JsonArray *list;

    if (!is_enum_value("migrate-set-capabilities", "capabilities", words->pdata[1]) ||
        (strcmp(state, "on") && strcmp(state, "off"))) {
        return false;
    }
    status = one_string("capability", words->pdata[1]);
    json_object_set_boolean_member(status, "state", !strcmp(state, "on"));
    list = json_array_new();
    json_array_add_object_element(list, status);
    args = json_object_new();
    json_object_set_array_member(args, "capabilities", list);
    use_command(call, "migrate-set-capabilities", args, NULL);
    return true;
}

/* TEXT as a value of TYPE; NULL if it is none. */
static JsonNode *parameter_value(const FfQapiType *type, const char *name, const char *text)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_VALUE);
    uint64_t number;

    switch (type->kind) {
    case FF_QAPI_UINT:
        /* max-bandwidth alone counts in MiB where no unit is given. */
        if (!ff_hmp_parse_size(text, strcmp(name, "max-bandwidth") ? 1 : 1 << 20, &number)) {
            return NULL;
        }
        json_node_set_int(node, (gint64)number);
        break;
    case FF_QAPI_BOOL:
        if (strcmp(text, "on") && strcmp(text, "off")) {
            return NULL;
        }
        json_node_set_boolean(node, !strcmp(text, "on"));
        break;
    case FF_QAPI_ENUM:
    case FF_QAPI_ALTERNATE:
        json_node_set_string(node, text);
        break;
    default:
        return NULL;
    }
    return g_steal_pointer(&node);
}

static bool do_set_parameter(FfCall *call, GPtrArray *words)
{
    FfDriver *d = call->driver;
    const char *name = words->pdata[1];
    const FfQapiType *type =
        ff_qapi_member_type(ff_qapi_command("migrate-set-parameters")->arguments, name, NULL);
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);
    JsonObject *args;
    JsonNode *value;

    if (!type || (!view && !d->migration && !g_str_has_prefix(name, "x-farfault-"))) {
        return false; /* QEMU keeps it */
    }
    value = parameter_value(type, name, words->pdata[2]);
    if (!value) {
        return false;
    }
    args = json_object_new();
    json_object_set_member(args, name, value);
    use_command(call, "migrate-set-parameters", args, NULL);
    return true;
}

static bool do_continue(FfCall *call, GPtrArray *words)
{
    if (!is_enum_value("migrate-continue", "state", words->pdata[1])) {
        return false;
    }
    use_command(call, "migrate-continue", one_string("state", words->pdata[1]), NULL);
    return true;
}

static bool do_incoming(FfCall *call, GPtrArray *words)
{
    use_command(call, "migrate-incoming", one_string("uri", words->pdata[1]), NULL);
    return true;
}

static bool do_recover(FfCall *call, GPtrArray *words)
{
    use_command(call, "migrate-recover", one_string("uri", words->pdata[1]), NULL);
    return true;
}

static bool do_object_del(FfCall *call, GPtrArray *words)
{
    use_command(call, "object-del", one_string("id", words->pdata[1]), NULL);
    return true;
}

static bool do_object_add(FfCall *call, GPtrArray *words)
{
    call->hmp = true;
    ff_hmp_object_add(call, words->pdata[1]);
    return true;
}

static void info_migrate(FfCall *call)
{
    call->preface = g_strdup(call->driver->globals);
    use_command(call, "query-migrate", NULL, ff_hmp_info_migrate);
}

static void got_globals(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (!error && result && JSON_NODE_HOLDS_VALUE(result) && !d->globals) {
        d->globals = ff_hmp_globals(json_node_get_string(result));
    }
    info_migrate(call);
}

/* The settings that QEMU prints first are constants of the machine. */
static void ask_globals(FfCall *call)
{
    FfDriver *d = call->driver;

    if (d->globals || (d->migration && d->config.state->role == FF_ROLE_DESTINATION)) {
        info_migrate(call); /* a destination QEMU may wait for a page */
    } else {
        ff_call_inner(call, "human-monitor-command", one_string("command-line", "info migrate"),
                      got_globals);
    }
}

static bool do_snapshot(FfCall *call, GPtrArray *words)
{
    use_command(call, strcmp(words->pdata[0], "loadvm") ? "snapshot-save" : "snapshot-load", NULL,
                NULL);
    return true;
}

static bool do_as_qmp(FfCall *call, GPtrArray *words)
{
    use_command(call, words->pdata[0], json_object_ref(call->args),
                NULL); /* refuse.c reads the line */
    return true;
}

static bool do_info(FfCall *call, GPtrArray *words)
{
    FfDriver *d = call->driver;
    const char *what = words->pdata[1];
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    if (!strcmp(what, "migrate")) {
        if (!d->migration && !d->incoming && !d->config.state->info_len) {
            return false; /* QEMU's */
        }
        ask_globals(call);
    } else if (!strcmp(what, "migrate_capabilities")) {
        use_command(call, "query-migrate-capabilities", NULL, ff_hmp_info_capabilities);
    } else if (!strcmp(what, "migrate_parameters") && view) {
        use_command(call, "query-migrate-parameters", NULL, ff_hmp_info_parameters);
    } else if (!strcmp(what, "status")) {
        use_command(call, "query-status", NULL, ff_hmp_info_status);
    } else {
        return false;
    }
    return true;
}

static const struct {
    const char *word, *alias;
    unsigned words;  /* its own included; 0: any */
    const char *qmp; /* command without arguments, or */
    bool (*run)(FfCall *call, GPtrArray *words);
} commands[] = {
    {"info", NULL, 2, NULL, do_info},
    {"migrate", NULL, 0, NULL, do_migrate},
    {"migrate_cancel", NULL, 1, "migrate_cancel", NULL},
    {"migrate_continue", NULL, 2, NULL, do_continue},
    {"migrate_incoming", NULL, 2, NULL, do_incoming},
    {"migrate_recover", NULL, 2, NULL, do_recover},
    {"migrate_pause", NULL, 1, "migrate-pause", NULL},
    {"migrate_start_postcopy", NULL, 1, "migrate-start-postcopy", NULL},
    {"migrate_set_capability", NULL, 3, NULL, do_set_capability},
    {"migrate_set_parameter", NULL, 3, NULL, do_set_parameter},
    {"cont", "c", 1, "cont", NULL},
    {"stop", "s", 1, "stop", NULL},
    {"system_reset", NULL, 1, "system_reset", NULL},
    {"system_wakeup", NULL, 1, "system_wakeup", NULL},
    {"object_add", NULL, 2, NULL, do_object_add},
    {"object_del", NULL, 2, NULL, do_object_del},
    {"savevm", NULL, 0, NULL, do_snapshot},
    {"loadvm", NULL, 0, NULL, do_snapshot},
    {"device_add", NULL, 0, NULL, do_as_qmp},
    {"device_del", NULL, 0, NULL, do_as_qmp},
    {"netdev_add", NULL, 0, NULL, do_as_qmp},
    {"dump-guest-memory", NULL, 0, NULL, do_as_qmp},
};

/* Nobody knows what QEMU would make of it. */
static void leave_to_qemu(FfCall *call)
{
    if (ff_driver_is_engaged(call->driver)) {
        call->hmp = true;
        ff_call_error(call, "the command could not be read while a migration is under way");
    } else {
        ff_call_pass(call);
    }
}

void ff_hmp_command(FfCall *call)
{
    g_autoptr(GPtrArray) words = split_words(ff_json_string(call->args, "command-line"));
    const char *word = words && words->len ? words->pdata[0] : "";
    bool harmless = !strcmp(word, "info");

    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(word, commands[i].word) && g_strcmp0(word, commands[i].alias)) {
            continue;
        }
        if (commands[i].words && words->len != commands[i].words) {
            break;
        }
        if (commands[i].qmp) {
            use_command(call, commands[i].qmp, NULL, NULL);
            return;
        }
        if (commands[i].run(call, words)) {
            return;
        }
        /* A name or a value that is wrong: QEMU's words. */
        harmless |= commands[i].run != do_migrate;
        break;
    }
    if (harmless) {
        ff_call_pass(call);
    } else {
        leave_to_qemu(call);
    }
}
