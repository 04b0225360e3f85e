/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status without a monitor: what is under way with each guest of this host. No guest is
 * asked, so no monitor is needed, and one that hangs is seen as well: it is read out of the state
 * memfds (guest/launch/guests.c), where an engine writes at each change, and at intervals. One
 * thread.
 */
#include "cli/watch/status-guests.h"

#include <stdio.h>

#include "cli/common/format.h"
#include "cli/common/words.h"
#include "guest/launch/attach-find.h"
#include "guest/launch/guests.h"

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

    FfWordsKind kind = totals->running == FF_USE_SNAPSHOT + 1  ? FF_WORDS_SNAPSHOT
                       : totals->running == FF_USE_RESTORE + 1 ? FF_WORDS_RESTORE
                                                               : FF_WORDS_MIGRATION;

    printf("%s %s (%s)", what, ff_words_migration(status, kind), status);
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

static void print_upgrade(FfHostUpgrade upgrade)
{
    static const char *const words[] = {
        [FF_HOST_UPGRADE_OLD] = "has its guest; its upgrade is under way",
        [FF_HOST_UPGRADE_LEFT] = "its guest has gone to its next process here, by an upgrade that "
                                 "is about to be over",
        [FF_HOST_UPGRADE_NEW] = "is made by an upgrade that is under way; the guest is in another "
                                "process here still",
        [FF_HOST_UPGRADE_HAS] = "has its guest, by an upgrade that is about to be over",
    };

    printf("%s", words[upgrade]);
}

/* Of a migration that QEMU carries no more is known than its steps. */
static void print_carried(uint32_t carried)
{
    static const char *const words[] = {
        [FF_CARRIED_GIVEN] = "QEMU itself carries its migration, or has carried it: a monitor "
                             "tells (farfault status QMP)",
        [FF_CARRIED_PRECOPY] = "its migration, which QEMU itself carries, runs; the guest has not "
                               "been switched over",
        [FF_CARRIED_SWITCHED] = "its migration, which QEMU itself carries, runs by postcopy: the "
                                "guest has been switched over, and its memory follows",
        [FF_CARRIED_PAUSED] = "its migration, which QEMU itself carries, is paused after the "
                              "switch: the connection broke",
        [FF_CARRIED_COMPLETED] = "was sent by QEMU itself: if it was to another QEMU, it is there",
        [FF_CARRIED_FAILED] = "nothing is under way; its last migration, by QEMU itself, failed",
        [FF_CARRIED_CANCELLED] =
            "nothing is under way; its last migration, by QEMU itself, was cancelled",
    };
    uint32_t step = carried & ~FF_CARRIED_INCOMING;

    if (carried == (FF_CARRIED_GIVEN | FF_CARRIED_INCOMING)) {
        printf("QEMU itself waits for its migration, carries it, or has carried it: a monitor "
               "tells (farfault status QMP)");
    } else if (carried == (FF_CARRIED_COMPLETED | FF_CARRIED_INCOMING)) {
        printf("nothing is under way; it came by QEMU's own migration");
    } else {
        printf("%s", words[step < G_N_ELEMENTS(words) ? step : FF_CARRIED_GIVEN]);
    }
}

/* Of a guest without a name its folder, as two of them would look the same (g_free). */
static char *name_of(const FfHostGuest *guest)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)guest->pid);
    g_autofree char *folder = *guest->name ? NULL : g_file_read_link(link, NULL);
    g_autofree char *text = g_strescape(folder ? folder : guest->name, NULL);

    return folder  ? g_strdup_printf("(no name, in %s)", text)
           : *text ? g_steal_pointer(&text)
                   : g_strdup("(no name)");
}

static void print_guest(const FfHostGuest *guest)
{
    g_autofree char *name = name_of(guest);

    printf("%s process %d: ", name, (int)guest->pid);
    if (!guest->counted) {
        printf("cannot be read: it is another user's, or was started by another version");
    } else if (guest->upgrade) {
        print_upgrade(guest->upgrade);
    } else if (guest->totals.running && !guest->arrived && !guest->front) {
        print_running(&guest->totals);
    } else if (guest->front) {
        printf(
            "is the front of its guest, which is in another process here: it stays for those who "
            "know it");
    } else if (guest->carried) { /* later than MOVED */
        print_carried(guest->carried);
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
