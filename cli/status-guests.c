/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status without a monitor: what is under way with each guest of this host. No guest is
 * asked, so no monitor is needed, and one that hangs is seen as well: it is read out of the state
 * memfds (launch/guests.c), where an engine writes at each change, and at intervals. One thread.
 */
#include "cli/status-guests.h"

#include <stdio.h>

#include "cli/format.h"
#include "cli/words.h"
#include "launch/attach-find.h"
#include "launch/guests.h"

static const char *const uses[FF_USES] = {
    [FF_USE_OUTGOING] = "its migration to another QEMU",
    [FF_USE_INCOMING] = "its migration from another QEMU",
    [FF_USE_SNAPSHOT] = "its live snapshot",
    [FF_USE_RESTORE] = "its restore from a file",
};

/* All of it was written by a process of QEMU's user. */
static void print_running(const FfTotals *totals)
{
    g_autofree char *status = g_strescape(totals->status, NULL);
    const char *what = totals->running <= FF_USES ? uses[totals->running - 1] : "something";
    double left = totals->ram_total ? (double)totals->ram_remaining / (double)totals->ram_total : 0;
    g_autofree char *bytes = ff_format_bytes((double)totals->ram_remaining);

    printf("%s %s (%s)", what, ff_words_migration(status, totals->running == FF_USE_SNAPSHOT + 1),
           status);
    if (totals->ram_remaining) {
        printf(": %.0f %%, %s remaining", 100 * CLAMP(1 - left, 0, 1), bytes);
    }
}

/* Whether it was started here again since, by hand, only its QEMU knows. */
static void print_moved(const FfHostGuest *guest)
{
    g_autofree char *peer = g_strescape(guest->peer, NULL);

    printf("was given away%s%s, and is whole there", *peer ? " to " : "", peer);
}

static void print_guest(const FfHostGuest *guest)
{
    g_autofree char *name = g_strescape(guest->name, NULL);

    printf("%s process %d: ", *name ? name : "(no name)", (int)guest->pid);
    if (!guest->counted) {
        printf("cannot be read: it is another user's, or was started by another version");
    } else if (guest->totals.running) {
        print_running(&guest->totals);
    } else if (guest->front) {
        printf("stays for those who know it; its guest is in another process here");
    } else if (guest->moved) {
        print_moved(guest);
    } else if (guest->waits) {
        printf("waits for an incoming migration");
    } else {
        printf("nothing is under way");
    }
    if (!guest->served && guest->front) {
        printf("; its relay has ended: SIGTERM to it kills the guest");
    } else if (!guest->served) {
        printf("; its relay has ended: farfault attach %d", (int)guest->pid);
    }
    printf("\n");
}

char *ff_status_moved_to(const FfCliQmp *qmp, const char *address)
{
    pid_t pid = ff_cli_qmp_host(qmp) ? 0 : ff_attach_find(address, NULL);
    g_autoptr(GPtrArray) guests = pid > 0 ? ff_guests_find() : NULL;

    for (guint i = 0; guests && i < guests->len; i++) {
        const FfHostGuest *guest = guests->pdata[i];

        if (guest->pid == pid && guest->moved && guest->peer[0]) {
            return g_strdup(guest->peer);
        }
    }
    return NULL;
}

int ff_status_guests(void)
{
    g_autoptr(GPtrArray) guests = ff_guests_find();

    for (guint i = 0; i < guests->len; i++) {
        print_guest(guests->pdata[i]);
    }
    if (!guests->len) {
        printf("no guest under farfault runs here that this user may look at\n");
    }
    return 0;
}
