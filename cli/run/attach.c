/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault attach: a new relay for a guest whose relay has ended, or in the place of one that runs.
 * The work is guest/launch/attach.c's and guest/launch/attach-replace.c's.
 * One thread.
 */
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/cli.h"
#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "guest/launch/attach.h"

static void print_notes(const GPtrArray *notes)
{
    for (guint i = 0; i < notes->len; i++) {
        fprintf(stderr, "farfault: attach: %s\n", (char *)notes->pdata[i]);
    }
}

static bool replace_relay(pid_t pid)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    pid_t before, relay = ff_attach_replace(pid, &before, notes, &error);

    if (!relay) {
        fprintf(stderr, "farfault: attach: %s\n", error->message);
        return false;
    }
    print_notes(notes);
    printf("relay %d serves the guest of process %d in the place of relay %d\n", (int)relay,
           (int)pid, (int)before);
    return true;
}

/* In processes of their own: each takes the place of another relay, its control groups among it. */
static bool replace_apart(pid_t pid)
{
    int status = 1;

    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        bool done = replace_relay(pid);
        fflush(NULL);
        _exit(done ? 0 : 1);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status == 0;
}

static int replace_all(void)
{
    g_autoptr(GArray) old = ff_attach_outdated();
    unsigned n = 0;
    bool all = true;

    if (geteuid() != 0) {
        fprintf(stderr, "farfault: attach: --replace takes root\n");
        return 1;
    }
    for (guint i = 0; i < old->len; i++) {
        const FfAttachOld *it = &g_array_index(old, FfAttachOld, i);

        if (it->here || !it->relay) {
            all = replace_apart(it->pid) && all;
            n++;
        }
    }
    if (!n) {
        printf("no guest has a relay of the farfault before this one\n");
    }
    return all ? 0 : 1;
}

int ff_cli_attach(int argc, char **argv)
{
    gboolean help = FALSE, replaces = FALSE, all = FALSE;
    g_auto(GStrv) guests = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);

    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"replace", 0, 0, G_OPTION_ARG_NONE, &replaces, NULL, NULL},
        {"all", 0, 0, G_OPTION_ARG_NONE, &all, NULL, NULL},
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
    if (all && replaces && !guests) {
        return replace_all();
    }
    if (all || !guests || g_strv_length(guests) != 1) {
        fprintf(stderr,
                "farfault: name one guest: farfault attach [--replace] PID|QMP, or farfault "
                "attach --replace --all\n");
        return FF_CLI_USAGE_STATUS;
    }
    pid_t pid = ff_attach_find(guests[0], &error);
    if (pid && replaces) {
        return replace_relay(pid) ? 0 : 1;
    }
    pid_t relay = pid ? ff_attach(pid, notes, &error) : 0;
    if (!relay) {
        fprintf(stderr, "farfault: attach: %s\n", error->message);
        return 1;
    }
    print_notes(notes);
    printf("relay %d serves the guest of process %d\n", (int)relay, (int)pid);
    return 0;
}
