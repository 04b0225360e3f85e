/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See upgrade-vnc.h. The command display-update is QEMU's, from 7.1 on. */
#include "cli/upgrade-vnc.h"

#include <gio/gio.h>
#include <string.h>

#include "launch/argv-opts.h"

#define FIRST_PORT 5900
#define MAX_PORT 65535

/* HOST:NUMBER, as QEMU takes it. *HOST (g_free): ""; all addresses. */
static bool parse(const char *where, char **host, unsigned *port)
{
    const char *colon = strrchr(where, ':');
    guint64 number;

    if (g_str_has_prefix(where, "unix:") || !colon ||
        !g_ascii_string_to_unsigned(colon + 1, 10, 0, MAX_PORT - FIRST_PORT, &number, NULL)) {
        return false;
    }
    bool brackets = *where == '[' && colon > where + 1 && colon[-1] == ']';
    *host = brackets ? g_strndup(where + 1, colon - where - 2) : g_strndup(where, colon - where);
    *port = FIRST_PORT + number;
    return true;
}

const char *ff_upgrade_vnc_refused(const char *value)
{
    static const char *const harmless[] = {"vnc",
                                           "share",
                                           "password",
                                           "password-secret",
                                           "lossy",
                                           "non-adaptive",
                                           "key-delay-ms",
                                           "lock-key-sync",
                                           "power-control",
                                           "connections",
                                           NULL};
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "vnc");
    const char *where = ff_opts_get(opts, "vnc");
    g_autofree char *host = NULL;
    unsigned port;

    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (!g_strv_contains(harmless, opt->key)) {
            return "cannot be handed over to another QEMU yet: of its options only share, password "
                   "and those of the keyboard and the picture";
        }
    }
    return where && (!strcmp(where, "none") || g_str_has_prefix(where, "unix:") ||
                     parse(where, &host, &port))
               ? NULL
               : "cannot be handed over to another QEMU yet: only HOST:NUMBER, unix:PATH and none";
}

static bool listen_at(FfCliQmp *qmp, const char *host, const char *port, GError **error)
{
    JsonObject *arguments = json_object_new(), *address = json_object_new();
    JsonArray *addresses = json_array_new();

    json_object_set_string_member(address, "type", "inet");
    json_object_set_string_member(address, "host", host);
    json_object_set_string_member(address, "port", port);
    json_array_add_object_element(addresses, address);
    json_object_set_string_member(arguments, "type", "vnc");
    json_object_set_array_member(arguments, "addresses", addresses);
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "display-update", arguments, error);
    return node;
}

bool ff_upgrade_vnc_listen(char *const *args, FfCliQmp *prepared, GError **error)
{
    for (; *args; args++) {
        const FfOption *option = ff_option_find(*args);
        g_autofree char *host = NULL;
        unsigned port;

        if (!option || !option->has_arg || !args[1]) {
            continue;
        }
        args++;
        if (strcmp(option->name, "vnc") != 0) {
            continue;
        }
        g_autoptr(GPtrArray) opts = ff_opts_parse(*args, "vnc");
        if (!parse(ff_opts_get(opts, "vnc") ?: "", &host, &port)) {
            continue;
        }
        g_autoptr(GError) local = NULL;
        g_autofree char *text = g_strdup_printf("%u", port);
        if (!listen_at(prepared, host, text, &local)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "VNC does not listen at port %s (%s): when it is free, say display-update "
                        "to the guest's monitor",
                        text, local->message);
            return false;
        }
    }
    return true;
}
