/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The unix sockets at which QEMU, or its relay, is to listen: monitors, serial ports, chardevs, the
 * gdb stub, VNC. Each takes its name from who has it, as QEMU unlinks it first. Nothing is
 * rewritten.
 *
 * Pure; any thread.
 */
#include "guest/launch/argv-rewrite.h"

#include <string.h>

/* Takes OPTS. */
static void note_socket(FfRewrite *rw, GPtrArray *opts)
{
    const char *path = opts ? ff_opts_get(opts, "path") : NULL;

    if (path && *path && !g_strcmp0(ff_opts_get(opts, "backend"), "socket") &&
        ff_opt_bool(ff_opts_get(opts, "server"), false) &&
        !ff_opt_bool(ff_opts_get(opts, "abstract"), false)) {
        g_ptr_array_add(rw->plan->sockets, g_strdup(path));
    }
    if (opts) {
        g_ptr_array_unref(opts);
    }
}

static void note_device(FfRewrite *rw, const char *value)
{
    const char *kind;

    note_socket(rw, ff_argv_device(g_str_has_prefix(value, "mon:") ? value + 4 : value, &kind));
}

/* -vnc unix:PATH,...; with "reverse" QEMU connects. */
static void note_vnc(FfRewrite *rw, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "vnc");
    const char *at = ff_opts_get(opts, "vnc");

    if (at && g_str_has_prefix(at, "unix:") && at[strlen("unix:")] &&
        !ff_opt_bool(ff_opts_get(opts, "reverse"), false)) {
        g_ptr_array_add(rw->plan->sockets, g_strdup(at + strlen("unix:")));
    }
}

void ff_argv_note_sockets(FfRewrite *rw)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        if (!arg->value) {
            continue;
        }
        if (ff_arg_is_device(arg)) {
            note_device(rw, arg->value);
        } else if (ff_arg_kind(arg) == FF_OPT_CHARDEV) {
            note_socket(rw, ff_opts_read(arg->value, "backend"));
        } else if (arg->option && !strcmp(arg->option->name, "vnc")) {
            note_vnc(rw, arg->value);
        }
    }
}
