/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault attach: a new relay for a guest whose relay has ended. The work is launch/attach.c's.
 * One thread.
 */
#include <glib.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "launch/attach.h"

int ff_cli_attach(int argc, char **argv)
{
    gboolean help = FALSE;
    g_auto(GStrv) guests = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);

    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &guests, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault attach --help)\n", error->message);
        return FF_CLI_USAGE_STATUS;
    }
    if (help) {
        fputs(ff_help_attach, stdout);
        return 0;
    }
    if (!guests || g_strv_length(guests) != 1) {
        fprintf(stderr, "farfault: name one guest: farfault attach PID|QMP\n");
        return FF_CLI_USAGE_STATUS;
    }
    pid_t pid = ff_attach_find(guests[0], &error);
    pid_t relay = pid ? ff_attach(pid, notes, &error) : 0;
    if (!relay) {
        fprintf(stderr, "farfault: attach: %s\n", error->message);
        return 1;
    }
    for (guint i = 0; i < notes->len; i++) {
        fprintf(stderr, "farfault: attach: %s\n", (char *)notes->pdata[i]);
    }
    printf("relay %d serves the guest of process %d\n", (int)relay, (int)pid);
    return 0;
}
