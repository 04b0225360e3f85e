/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the question whether a command line starts a guest at all.
 *
 * QEMU prints its help texts and ends as soon as it meets one of them, whatever else is on the
 * command line; "-machine none" is how libvirt and qtest ask a QEMU for its abilities. To take
 * such a start for a guest's costs a relay that ends at once; to take a guest's start for one of
 * these costs the migration. So only what QEMU itself takes for help counts: a part "help" or
 * "?" of an option that knows help, or one of a few keys that do. Pure; any thread.
 */
#include "guest/launch/argv-rewrite.h"

#include <string.h>

/* TRUE for "-device help", "-device virtio-net,help", "-drive format=?", ... */
static bool list_asks_help(const FfOption *option, const char *value)
{
    static const char *const keys[] = {"type",   "driver",  "model",    "format",   "accel",
                                       "enable", "backend", "qom-type", "fsdriver", NULL};
    g_autoptr(GPtrArray) opts = NULL;

    if (value[0] == '{') {
        return false;
    }
    opts = ff_opts_parse(value, option->implied);
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];
        bool implied = i == 0 && opt->bare && option->implied;

        if (implied ? ff_is_help(opt->value) : opt->bare && ff_is_help(opt->key)) {
            return true;
        }
        if (g_strv_contains(keys, opt->key) && ff_is_help(opt->value)) {
            return true;
        }
    }
    return false;
}

static bool asks_help(const FfArg *arg)
{
    if (!arg->value) {
        return false;
    }
    switch (arg->option->help) {
    case FF_HELP_NO:
        return false;
    case FF_HELP_WHOLE:
        return ff_is_help(arg->value) ||
               (arg->option->kind == FF_OPT_LOG && g_str_equal(arg->value, "trace:help"));
    case FF_HELP_PART:
        return list_asks_help(arg->option, arg->value);
    }
    return false;
}

bool ff_argv_starts_no_guest(const GPtrArray *args)
{
    g_autofree char *machine = NULL;

    for (guint i = 0; i < args->len; i++) {
        const FfArg *arg = args->pdata[i];

        if (!arg->option) {
            continue;
        }
        /* An option without its argument: QEMU says so and ends. */
        if (arg->option->kind == FF_OPT_QUITS || asks_help(arg) ||
            (arg->option->has_arg && !arg->value)) {
            return true;
        }
        if (arg->option->kind == FF_OPT_MACHINE) {
            g_autoptr(GPtrArray) opts = ff_opts_parse(arg->value, "type");

            if (ff_opts_get(opts, "type")) {
                g_free(machine);
                machine = g_strdup(ff_opts_get(opts, "type"));
            }
        }
    }
    return !g_strcmp0(machine, "none");
}
