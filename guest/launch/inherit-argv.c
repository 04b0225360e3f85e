/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See inherit-argv.h. What is refused to begin with (cli/upgrade/args.c) does not come here. */
#include "guest/launch/inherit-argv.h"

#include <string.h>

#include "guest/launch/argv-opts.h"

#define UNIX "unix:"

/* ---- names ----------------------------------------------------------------------------------- */

typedef struct {
    pid_t pid;
    const char *folder;
    GPtrArray *names;   /* of FfInheritedName * */
    const int *tap_fds; /* of the taps that are to come; NULL: they stay as they are */
} Walk;

static void free_name(gpointer p)
{
    FfInheritedName *name = p;

    g_free(name->now);
    g_free(name->then);
    g_free(name);
}

/* The other name of PATH (g_free), as the command line is to have it. */
static char *rename_later(Walk *w, const char *path)
{
    FfInheritedName *name = g_new(FfInheritedName, 1);
    char *other = g_strdup_printf("%s.upgrade-%d", path, (int)w->pid);

    name->then = g_canonicalize_filename(path, w->folder);
    name->now = g_canonicalize_filename(other, w->folder);
    g_ptr_array_add(w->names, name);
    return other;
}

/* ---- sockets --------------------------------------------------------------------------------- */

const char *ff_inherited_socket_path(const GPtrArray *opts)
{
    const char *path = ff_opts_get(opts, "path");
    bool listens = ff_opt_bool(ff_opts_get(opts, "server"), false);

    return path && *path && listens && !ff_opt_bool(ff_opts_get(opts, "abstract"), false) ? path
                                                                                          : NULL;
}

static GPtrArray *parse_old(const char *value)
{
    return ff_opts_parse(value + strlen(UNIX), "path");
}

char *ff_inherited_old_socket_path(const char *value)
{
    if (!g_str_has_prefix(value, UNIX)) {
        return NULL;
    }
    g_autoptr(GPtrArray) opts = parse_old(value);
    return g_strdup(ff_inherited_socket_path(opts));
}

bool ff_inherited_is_control(char *const *argv, const char *id)
{
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&argv, &value))) {
        bool control = option->kind == FF_OPT_QMP || option->kind == FF_OPT_QMP_PRETTY;
        g_autofree char *chardev =
            control
                ? g_str_has_prefix(value, "chardev:") ? g_strdup(value + strlen("chardev:")) : NULL
                : ff_opt_monitor(option, value, &control);

        if (chardev && control && !g_strcmp0(chardev, id)) {
            return true;
        }
    }
    return false;
}

/* Nobody comes to the new QEMU before the guest is its own: it does not wait for anybody. */
static void move_socket(Walk *w, GPtrArray *opts)
{
    g_autofree char *other = rename_later(w, ff_inherited_socket_path(opts));

    ff_opts_set(opts, "path", other);
    ff_opts_set(opts, "wait", "off");
}

static char *move_chardev(Walk *w, char *const *argv, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "backend");
    const char *id = ff_opts_get(opts, "id");

    if (g_strcmp0(ff_opts_get(opts, "backend"), "socket") != 0 || !ff_inherited_socket_path(opts) ||
        ff_inherited_is_control(argv, id)) {
        return g_strdup(value);
    }
    move_socket(w, opts);
    return ff_opts_print(opts, "backend");
}

static char *move_old(Walk *w, const char *value)
{
    g_autofree char *path = ff_inherited_old_socket_path(value);

    if (!path) {
        return g_strdup(value);
    }
    g_autoptr(GPtrArray) opts = parse_old(value);
    move_socket(w, opts);
    g_autofree char *rest = ff_opts_print(opts, "path");
    return g_strconcat(UNIX, rest, NULL);
}

static char *move_vnc(Walk *w, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "vnc");
    const char *where = ff_opts_get(opts, "vnc");

    if (where && g_str_has_prefix(where, UNIX)) {
        g_autofree char *other = rename_later(w, where + strlen(UNIX));
        g_autofree char *there = g_strconcat(UNIX, other, NULL);
        ff_opts_set(opts, "vnc", there);
    } else {
        ff_opts_set(opts, "vnc", "none");
    }
    return ff_opts_print(opts, "vnc");
}

/* ---- taps ------------------------------------------------------------------------------------ */

const char *ff_inherited_tap_refused(const GPtrArray *opts)
{
    static const char *const known[] = {"type",  "id",       "ifname", "script", "downscript",
                                        "vhost", "vnet_hdr", "sndbuf", NULL};
    const char *name = ff_opts_get(opts, "ifname"), *down = ff_opts_get(opts, "downscript");

    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (!g_strv_contains(known, opt->key)) {
            return "of a tap's options only ifname, script, downscript, vnet_hdr and sndbuf";
        }
    }
    if (!name || strchr(name, '%')) {
        return "of taps only those with ifname=";
    }
    if (ff_opt_bool(ff_opts_get(opts, "vhost"), false)) {
        return "its vhost is the running QEMU's";
    }
    return !g_strcmp0(down, "no") ? NULL : "nobody would run its downscript: give downscript=no";
}

static GPtrArray *parse_tap(const char *value)
{
    GPtrArray *opts = ff_opts_read(value, "type");

    if (g_strcmp0(ff_opts_get(opts, "type"), "tap") != 0) {
        g_clear_pointer(&opts, g_ptr_array_unref);
    }
    return opts;
}

char **ff_inherited_taps(char *const *argv)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();

    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&argv, &value))) {
        g_autoptr(GPtrArray) opts = option->kind == FF_OPT_NETDEV ? parse_tap(value) : NULL;
        if (opts) {
            g_strv_builder_add(b, ff_opts_get(opts, "ifname") ?: "");
        }
    }
    return g_strv_builder_end(b);
}

/* QEMU allows none of what it does to a tap that it opens beside fd=. */
static char *give_tap(Walk *w, const char *value)
{
    static const char *const dropped[] = {"ifname", "script", "downscript", "vnet_hdr"};
    g_autoptr(GPtrArray) opts = w->tap_fds ? parse_tap(value) : NULL;

    if (!opts) {
        return g_strdup(value);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(dropped); i++) {
        ff_opts_remove(opts, dropped[i]);
    }
    g_autofree char *number = g_strdup_printf("%d", *w->tap_fds++);
    ff_opts_set(opts, "fd", number);
    return ff_opts_print(opts, "type");
}

/* ---- user networks --------------------------------------------------------------------------- */

GPtrArray *ff_inherited_user_network(const FfOption *option, const char *value)
{
    bool is_network = option->kind == FF_OPT_NETDEV || !strcmp(option->name, "nic");
    GPtrArray *opts = is_network ? ff_opts_read(value, "type") : NULL;

    if (opts && g_strcmp0(ff_opts_get(opts, "type"), "user") != 0) {
        g_clear_pointer(&opts, g_ptr_array_unref);
    }
    return opts;
}

bool ff_inherited_is_forward(const FfOpt *opt)
{
    return !strcmp(opt->key, "hostfwd") || /* in JSON {"str": RULE} */
           (g_str_has_prefix(opt->key, "hostfwd.") && g_str_has_suffix(opt->key, ".str"));
}

/* Without its forwards; in keys, if it has some. */
static char *forward_nothing(const FfOption *option, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_inherited_user_network(option, value);
    bool some = false;

    for (guint i = opts ? opts->len : 0; i-- > 0;) {
        if (ff_inherited_is_forward(opts->pdata[i])) {
            g_ptr_array_remove_index(opts, i);
            some = true;
        }
    }
    return some ? ff_opts_print(opts, "type") : g_strdup(value);
}

/* ---- fds ------------------------------------------------------------------------------------- */

GArray *ff_inherited_numbers(char *const *argv)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(int));
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&argv, &value))) {
        bool is_socket = option->kind == FF_OPT_CHARDEV && g_str_has_prefix(value, "socket,");
        g_autoptr(GPtrArray) opts = is_socket ? ff_opts_parse(value, "backend")
                                    : !strcmp(option->name, "add-fd") ? ff_opts_parse(value, NULL)
                                                                      : NULL;
        guint64 number;

        if (opts && (!is_socket || ff_opt_bool(ff_opts_get(opts, "server"), false)) &&
            ff_opts_get(opts, "fd") &&
            g_ascii_string_to_unsigned(ff_opts_get(opts, "fd"), 10, 0, G_MAXINT, &number, NULL)) {
            int fd = (int)number;
            g_array_append_val(all, fd);
        }
    }
    return all;
}

/* ---- pseudo-terminals ------------------------------------------------------------------------ */

char **ff_inherited_ptys(char *const *argv)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    char *const *at = argv;
    const FfOption *option;
    const char *value;
    unsigned n = 0;

    while ((option = ff_option_next(&at, &value))) {
        if (option->kind == FF_OPT_CHARDEV && g_str_has_prefix(value, "pty,")) {
            g_autoptr(GPtrArray) opts = ff_opts_parse(value, "backend");

            g_strv_builder_add(b, ff_opts_get(opts, "id") ?: "");
        }
    }
    /* QEMU makes these later, and counts all of them. */
    while ((option = ff_option_next(&argv, &value))) {
        if (option->kind == FF_OPT_SERIAL) {
            g_autofree char *label = g_strdup_printf("serial%u", n++);

            if (!strcmp(value, "pty")) {
                g_strv_builder_add(b, label);
            }
        }
    }
    return g_strv_builder_end(b);
}

/* ---- the command line ------------------------------------------------------------------------ */

/* g_free. */
static char *move_option(Walk *w, char *const *argv, const FfOption *option, const char *value)
{
    switch (option->kind) {
    case FF_OPT_CHARDEV:
        return move_chardev(w, argv, value);
    case FF_OPT_NETDEV: {
        g_autofree char *rest = forward_nothing(option, value);

        return give_tap(w, rest);
    }
    case FF_OPT_SERIAL:
    case FF_OPT_PARALLEL:
    case FF_OPT_MONITOR:
        return move_old(w, value);
    default:
        return !strcmp(option->name, "vnc")       ? move_vnc(w, value)
               : !strcmp(option->name, "nic")     ? forward_nothing(option, value)
               : !strcmp(option->name, "pidfile") ? rename_later(w, value)
                                                  : g_strdup(value);
    }
}

static bool is_left_out(const FfOption *option)
{
    return option && (option->kind == FF_OPT_INCOMING || option->kind == FF_OPT_S ||
                      option->kind == FF_OPT_DAEMONIZE || !strcmp(option->name, "loadvm"));
}

char **ff_inherited_argv(char *const *argv, int monitor_fd, const int *tap_fds, pid_t pid,
                         const char *folder, GPtrArray **names)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    g_autofree char *chardev = g_strdup_printf("socket,id=" FF_LENT_MONITOR ",fd=%d", monitor_fd);
    Walk w = {pid, folder, g_ptr_array_new_with_free_func(free_name), tap_fds};

    for (char *const *word = argv; *word; word++) {
        const FfOption *option = ff_option_find(*word);
        const char *value = option && option->has_arg ? word[1] : NULL;
        g_autofree char *moved = value ? move_option(&w, argv, option, value) : NULL;

        if (!is_left_out(option)) {
            g_strv_builder_add(b, *word);
            if (moved) {
                g_strv_builder_add(b, moved);
            }
        }
        word += value != NULL;
    }
    g_strv_builder_add_many(b, "-incoming", "defer", "-chardev", chardev, "-qmp",
                            "chardev:" FF_LENT_MONITOR, NULL);
    *names = w.names;
    return g_strv_builder_end(b);
}
