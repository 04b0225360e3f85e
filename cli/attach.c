/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault attach: a new relay for a guest whose relay has ended. The work is launch/attach.c's.
 * One thread.
 */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "launch/attach.h"

int ff_cli_attach(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);

    if (argc != 2 || (argv[1][0] == '-' && argv[1][1])) {
        fprintf(stderr, "farfault: name one guest: farfault attach PID|QMP\n");
        return FF_CLI_USAGE_STATUS;
    }
    pid_t pid = ff_attach_find(argv[1], &error);
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
