/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds guests as `farfault attach` does, by the plan that their QEMU keeps open, and reads the
 * session and totals out of their state memfds (contract/totals.h). A guest pays nothing for it:
 * its processes are not asked. (Only where no relay lives the lock that a new one would take is
 * tried.)
 *
 * One thread. System calls: none of its own.
 */
#include "guest/launch/guests.h"

#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/state.h"
#include "guest/launch/argv-opts.h"
#include "guest/launch/attach-find.h"

#define TRIES 100 /* at a copy that is being replaced */

const char *ff_guests_option(const char *cmdline, size_t len, const char *name)
{
    const char *found = NULL, *at = cmdline, *end = cmdline + len;

    while (at < end && memchr(at, 0, end - at)) {
        const char *next = at + strlen(at) + 1;
        const FfOption *option = ff_option_find(at);

        if (option && option->has_arg && next < end && memchr(next, 0, end - next)) {
            found = strcmp(option->name, name) ? found : next;
            next += strlen(next) + 1;
        }
        at = next;
    }
    return found;
}

static char *name_of(const char *cmdline, size_t len)
{
    const char *value = cmdline ? ff_guests_option(cmdline, len, "name") : NULL;
    g_autoptr(GPtrArray) opts = value ? ff_opts_parse(value, "guest") : NULL;
    const char *name = opts ? ff_opts_get(opts, "guest") : NULL;

    return g_strdup(name ? name : "");
}

static void read_cmdline(FfHostGuest *guest)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)guest->pid);
    g_autofree char *text = NULL;
    const char *uuid = NULL, *incoming;
    gsize len = 0;

    if (g_file_get_contents(path, &text, &len, NULL)) {
        uuid = ff_guests_option(text, len, "uuid");
        incoming = ff_guests_option(text, len, "incoming");
        guest->waits = incoming;
        /* QEMU listens by itself; else an engine does, and QEMU has "defer". */
        guest->carried = incoming && strcmp(incoming, "defer")
                             ? FF_CARRIED_GIVEN | FF_CARRIED_INCOMING
                             : FF_CARRIED_NONE;
    }
    guest->name = name_of(text, len);
    guest->uuid = g_strdup(uuid ? uuid : "");
}

/* An engine that writes turns to the other copy first, so only one that has turned since may have
 * written into this one. Turns are seconds apart, or a change of status. */
static bool read_copy(int fd, FfTotals *totals)
{
    const off_t base = offsetof(FfStateHeader, totals);
    const off_t turns_at = base + (off_t)offsetof(FfStateTotals, turns);
    uint32_t before, after;

    for (int i = 0; i < TRIES; i++) {
        if (pread(fd, &before, sizeof(before), turns_at) != sizeof(before)) {
            return false;
        }
        off_t copy_at =
            base + (off_t)offsetof(FfStateTotals, copy) + (off_t)((before & 1) * sizeof(FfTotals));

        if (pread(fd, totals, sizeof(*totals), copy_at) != sizeof(*totals) ||
            pread(fd, &after, sizeof(after), turns_at) != sizeof(after)) {
            return false;
        }
        if (before == after) {
            return true;
        }
    }
    return false;
}

/* An engine listens, and nobody has come. */
static bool engine_listens(const FfStateHeader *head, uint32_t flags)
{
    return head->role == FF_ROLE_DESTINATION && head->phase == FF_PHASE_IDLE &&
           flags & FF_DRIVER_LISTENS;
}

/* The journal knows of no migration, and QEMU has not been told to take one by itself, of which
 * nothing would be known. */
static bool has_none(int fd, const FfStateHeader *head, uint32_t flags)
{
    char native = 0;

    return (head->role == FF_ROLE_NONE || engine_listens(head, flags)) &&
           !(flags & (FF_DRIVER_NATIVE_INCOMING | FF_DRIVER_PLAIN_PEER)) &&
           pread(fd, &native, 1, offsetof(FfStateHeader, native)) == 1 && !native;
}

/* The journal's: the guest is the new QEMU's when that has the right to run, and not the old one's
 * from when it has given it. */
static FfHostUpgrade upgrade_of(const FfStateHeader *head, unsigned marks)
{
    bool has = head->role == FF_ROLE_DESTINATION && head->run_right == FF_RUN_MINE;

    if (marks & FF_MARK_BORROWED) {
        return has ? FF_HOST_UPGRADE_HAS : FF_HOST_UPGRADE_NEW;
    }
    if (!(marks & FF_MARK_UPGRADE) || head->phase == FF_PHASE_IDLE ||
        head->role != FF_ROLE_SOURCE) {
        return FF_HOST_UPGRADE_NONE;
    }
    return head->run_right == FF_RUN_GIVEN ? FF_HOST_UPGRADE_LEFT : FF_HOST_UPGRADE_OLD;
}

/* What its engine says of a migration that the journal has closed: it waits for what is left of the
 * other side, an upgrade's old QEMU above all. */
static bool has_arrived(const FfStateHeader *head, const FfTotals *totals)
{
    return head->role == FF_ROLE_DESTINATION && head->run_right == FF_RUN_MINE &&
           head->phase == FF_PHASE_IDLE && totals->running == FF_USE_INCOMING + 1;
}

static uint32_t read_word(int fd, off_t at)
{
    uint32_t word = 0;

    return pread(fd, &word, sizeof(word), at) == sizeof(word) ? word : 0;
}

/* STARTED: from QEMU's command line. Without an engine the relay gives QEMU the URI. */
static uint32_t carried_of(int fd, const FfStateHeader *head, uint32_t flags, uint32_t started)
{
    uint32_t carried = read_word(fd, offsetof(FfStateHeader, totals.carried));

    return carried || head->role != FF_ROLE_NONE ? carried
           : flags & FF_DRIVER_NATIVE_INCOMING   ? FF_CARRIED_GIVEN | FF_CARRIED_INCOMING
                                                 : started;
}

static void read_state(int fd, FfHostGuest *guest)
{
    FfStateHeader head;
    const size_t len = offsetof(FfStateHeader, run_state);
    struct stat st;

    guest->state_inode = fstat(fd, &st) == 0 ? st.st_ino : 0;
    if (pread(fd, &head, len, 0) != (ssize_t)len || head.magic != FF_STATE_MAGIC ||
        head.version != FF_STATE_VERSION) {
        return;
    }
    memcpy(guest->session, head.uuid, sizeof(guest->session));
    /* The journal's: every page is at the destination, which has the right to run. */
    guest->moved = head.role == FF_ROLE_SOURCE && head.run_right == FF_RUN_GIVEN &&
                   head.phase == FF_PHASE_IDLE;
    uint16_t marks = 0;
    if (pread(fd, &marks, sizeof(marks), offsetof(FfStateHeader, marks)) != sizeof(marks)) {
        return;
    }
    guest->upgrade = upgrade_of(&head, marks);
    guest->front = guest->moved && marks & FF_MARK_FRONT;
    if (guest->moved &&
        pread(fd, guest->peer, sizeof(guest->peer) - 1, offsetof(FfStateHeader, peer_uri)) < 0) {
        guest->peer[0] = 0;
    }
    uint32_t flags = read_word(fd, offsetof(FfStateHeader, driver_flags));
    guest->waits = guest->waits && has_none(fd, &head, flags);
    guest->carried = carried_of(fd, &head, flags, guest->carried);
    guest->counted = read_copy(fd, &guest->totals);
    guest->arrived = has_arrived(&head, &guest->totals);
    guest->totals.status[sizeof(guest->totals.status) - 1] = 0;
}

static void guest_free(gpointer opaque)
{
    FfHostGuest *guest = opaque;

    g_free(guest->name);
    g_free(guest->uuid);
    g_free(guest);
}

static gint by_pid(gconstpointer a, gconstpointer b)
{
    const FfHostGuest *const *x = a, *const *y = b;

    return (*x)->pid < (*y)->pid ? -1 : (*x)->pid > (*y)->pid;
}

GPtrArray *ff_guests_find(void)
{
    GPtrArray *guests = g_ptr_array_new_with_free_func(guest_free);
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        g_autoptr(JsonNode) plan = ff_attach_plan(pid, NULL, NULL);
        FfHostGuest *guest;
        int fd;

        if (!plan) {
            continue;
        }
        guest = g_new0(FfHostGuest, 1);
        guest->pid = pid;
        guest->served = !ff_attach_is_orphan(pid, json_node_get_object(plan));
        read_cmdline(guest);
        fd = ff_attach_open_state(pid, json_node_get_object(plan));
        if (fd >= 0) {
            read_state(fd, guest);
            close(fd);
        } else {
            guest->waits = false; /* who knows */
        }
        g_ptr_array_add(guests, guest);
    }
    g_ptr_array_sort(guests, by_pid);
    return guests;
}
