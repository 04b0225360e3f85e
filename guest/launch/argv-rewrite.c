/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the passes of the rewriter share (argv-rewrite.h): the scanned words, what stands against
 * the engine. Pure; any thread. */
#include "guest/launch/argv-rewrite.h"

#include <string.h>

#include "contract/state.h"

void ff_plan_monitor_free(FfPlanMonitor *mon)
{
    g_free(mon->chardev_id);
    g_free(mon->path);
    g_free(mon->host);
    g_free(mon->port);
    g_free(mon);
}

FfArg *ff_rewrite_find(const FfRewrite *rw, FfOptKind kind)
{
    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];

        if (ff_arg_kind(arg) == kind) {
            return arg;
        }
    }
    return NULL;
}

bool ff_arg_is_device(const FfArg *arg)
{
    switch (ff_arg_kind(arg)) {
    case FF_OPT_SERIAL:
    case FF_OPT_PARALLEL:
    case FF_OPT_MONITOR:
    case FF_OPT_QMP:
    case FF_OPT_QMP_PRETTY:
    case FF_OPT_CHARDEV_USER:
        return true;
    default:
        return false;
    }
}

void ff_arg_insert(FfArg *arg, const char *word, char *value)
{
    if (!arg->before) {
        arg->before = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(arg->before, g_strdup(word));
    g_ptr_array_add(arg->before, value);
}

void ff_rewrite_refuse(FfRewrite *rw, char *why)
{
    char **first = &rw->plan->engine_refused;

    if (*first && (strstr(*first, FF_RAM_ON_DISK) || !strstr(why, FF_RAM_ON_DISK))) {
        g_free(why);
        return;
    }
    g_free(*first);
    /* It becomes one line of an error message. */
    *first = g_strdelimit(why, "\r\n", ' ');
}

bool ff_incoming_is_cpr(const char *value)
{
    if (value[0] == '{') {
        return strstr(value, "\"cpr\"") != NULL;
    }
    return g_str_has_prefix(value, "cpr,") || strstr(value, "channel-type=cpr");
}
