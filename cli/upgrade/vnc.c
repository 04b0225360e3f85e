/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See vnc.h. The command display-update is QEMU's, from 7.1 on. */
#include "cli/upgrade/vnc.h"

#include <gio/gio.h>
#include <string.h>

#include "guest/launch/argv-opts.h"
#include "qmp/json.h"

#define FIRST_PORT 5900
#define MAX_PORT 65535

/* HOST:NUMBER, as QEMU takes it. *HOST (g_free): ""; all addresses. */
static bool parse_address(const char *where, char **host, unsigned *port)
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
    static const char *const harmless[] = {
        "vnc",           "share",        "password",     "password-secret",
        "lossy",         "non-adaptive", "key-delay-ms", "lock-key-sync",
        "power-control", "connections",  "audiodev",     NULL};
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
                     parse_address(where, &host, &port))
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

/* The options (g_ptr_array_unref) of the -vnc on ARGS; NULL: there is none. */
static GPtrArray *find_vnc(char *const *args)
{
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&args, &value))) {
        if (!strcmp(option->name, "vnc")) {
            return ff_opts_parse(value, "vnc");
        }
    }
    return NULL;
}

static bool find_port(char *const *args, char **host, unsigned *port)
{
    g_autoptr(GPtrArray) opts = find_vnc(args);

    return opts && parse_address(ff_opts_get(opts, "vnc") ?: "", host, port);
}

bool ff_upgrade_vnc_has_port(char *const *args)
{
    g_autofree char *host = NULL;
    unsigned port;

    return find_port(args, &host, &port);
}

bool ff_upgrade_vnc_has_password(char *const *args)
{
    g_autoptr(GPtrArray) opts = find_vnc(args);

    return opts && ff_opt_bool(ff_opts_get(opts, "password"), false);
}

static bool is_anywhere(const char *host)
{
    return !*host || !strcmp(host, "0.0.0.0") || !strcmp(host, "::");
}

/* ONE: of query-vnc-servers. WHERE: as on the command line. */
static bool is_at(JsonObject *one, const char *where)
{
    const char *family = ff_json_string_or(one, "family", "");
    const char *service = ff_json_string_or(one, "service", "");
    g_autofree char *host = NULL, *text = NULL;
    unsigned port;

    if (!parse_address(where, &host, &port)) {
        return !strcmp(family, "unix");
    }
    text = g_strdup_printf("%u", port);
    return !strcmp(service, text) &&
           is_anywhere(host) == is_anywhere(ff_json_string_or(one, "host", ""));
}

bool ff_upgrade_vnc_is_unchanged(char *const *args, FfCliQmp *running, GError **error)
{
    g_autoptr(GPtrArray) opts = find_vnc(args);
    const char *where = opts ? ff_opts_get(opts, "vnc") : NULL;

    if (!where) {
        return true;
    }
    g_autoptr(JsonNode) all = ff_cli_qmp_call(running, "query-vnc-servers", NULL, NULL);
    JsonArray *server =
        ff_json_node_length(all) ? ff_json_array(ff_json_node_nth(all, 0), "server") : NULL;
    guint n = server ? json_array_get_length(server) : 0;
    bool same = !strcmp(where, "none") ? !n : n > 0;

    for (guint i = 0; same && i < n; i++) {
        same = is_at(ff_json_node_object(json_array_get_element(server, i)), where);
    }
    if (!same) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "-vnc %s: the running QEMU's VNC listens elsewhere by now, or nowhere: say "
                    "display-update to its monitor, or give --args-from with what it is",
                    where);
    }
    return same;
}

bool ff_upgrade_vnc_listen(char *const *args, FfCliQmp *prepared, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *host = NULL;
    unsigned port;

    if (!find_port(args, &host, &port)) {
        return true;
    }
    g_autofree char *text = g_strdup_printf("%u", port);
    if (!listen_at(prepared, host, text, &local)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "VNC does not listen at port %s (%s): when it is free, say to the guest's "
                    "monitor {\"execute\": \"display-update\", \"arguments\": {\"type\": "
                    "\"vnc\", \"addresses\": [{\"type\": \"inet\", \"host\": \"%s\", \"port\": "
                    "\"%s\"}]}}",
                    text, local->message, host, text);
        return false;
    }
    return true;
}
