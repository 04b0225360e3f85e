/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See forwards.h. By the human monitor's hostfwd_add, as QMP has no command for it. */
#include "cli/upgrade/forwards.h"

#include <string.h>

#include "guest/launch/argv-opts.h"
#include "guest/launch/inherit-argv.h"
#include "qmp/json.h"

typedef struct {
    char *network, *rule;
} Forward;

static void forward_free(gpointer p)
{
    Forward *f = p;

    g_free(f->network);
    g_free(f->rule);
    g_free(f);
}

/* In their order (g_ptr_array_unref). */
static GPtrArray *all_of(char *const *args)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(forward_free);
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&args, &value))) {
        g_autoptr(GPtrArray) opts = ff_inherited_user_network(option, value);

        for (guint i = 0; opts && i < opts->len; i++) {
            const FfOpt *opt = opts->pdata[i];

            if (ff_inherited_is_forward(opt)) {
                Forward *f = g_new(Forward, 1);

                *f = (Forward){g_strdup(ff_opts_get(opts, "id")), g_strdup(opt->value)};
                g_ptr_array_add(all, f);
            }
        }
    }
    return all;
}

static JsonNode *send_hmp(FfCliQmp *qmp, const char *line, GError **error)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "command-line", line);
    return ff_cli_qmp_call(qmp, "human-monitor-command", arguments, error);
}

static const char *text_of(JsonNode *node)
{
    return node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
}

bool ff_upgrade_has_forwards(char *const *args)
{
    g_autoptr(GPtrArray) all = all_of(args);

    return all->len > 0;
}

bool ff_upgrade_forwards_are_unchanged(char *const *args, FfCliQmp *running, GError **error)
{
    g_autoptr(GPtrArray) all = all_of(args);
    g_autoptr(JsonNode) node = send_hmp(running, "info usernet", NULL);
    guint n = 0;

    for (const char *at = text_of(node); at && (at = strstr(at, "[HOST_FORWARD]")); at++) {
        n++;
    }
    if (n == all->len) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                "the running QEMU forwards %u ports of the host, and its command line has %u "
                "(hostfwd=): say hostfwd_add or hostfwd_remove to its monitor, or give --args-from "
                "with what it is",
                n, all->len);
    return false;
}

char *ff_upgrade_forward(char *const *args, FfCliQmp *prepared)
{
    g_autoptr(GPtrArray) all = all_of(args);
    GString *said = g_string_new(NULL);

    for (guint i = 0; i < all->len; i++) {
        const Forward *f = all->pdata[i];
        g_autofree char *line = g_strdup_printf("hostfwd_add %s %s", f->network, f->rule);
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonNode) node = send_hmp(prepared, line, &error);
        g_autofree char *why = node ? g_strdup(text_of(node)) : NULL;

        /* It says nothing when it has done it. */
        if (!node || (why && *g_strstrip(why))) {
            g_string_append_printf(said,
                                   "%s'%s' is not forwarded (%s): when the port is free, say to "
                                   "the guest's monitor by human-monitor-command: %s",
                                   said->len ? "; " : "", f->rule, node ? why : error->message,
                                   line);
        }
    }
    return g_string_free(said, !said->len);
}
