/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. As long as the other QEMU lives a file has both names: that one may end in
 * an orderly way, and removes what it takes for its own; then the file is put there once more.
 * farfault upgrade does the last step too, as whoever waits for it wants to connect: which of the
 * two comes first does not matter.
 *
 * The main loop's thread; no locks. System calls: lstat, linkat, renameat, unlink.
 */
#include "guest/relay/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_there(const FfRelayName *name, const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && st.st_dev == name->dev && st.st_ino == name->ino;
}

/* KEEP: under its first name, too, where the file system has links. FALSE: it could not be. */
static bool rename_socket(FfRelay *relay, const FfRelayName *name, bool keep)
{
    g_autofree char *more = g_strconcat(name->now, "~", NULL);
    const char *from =
        keep && linkat(AT_FDCWD, name->now, AT_FDCWD, more, 0) == 0 ? more : name->now;

    if (renameat(AT_FDCWD, from, AT_FDCWD, name->then) == 0) {
        return true;
    }
    ff_relay_log(relay, "%s stays under that name, it should be %s: %s", name->now, name->then,
                 g_strerror(errno));
    unlink(more);
    return false;
}

/* Nobody else removes them any more. */
static void settle_names(FfRelay *relay)
{
    GPtrArray *names = relay->plan->names;

    for (guint i = 0; i < names->len; i++) {
        const FfRelayName *name = names->pdata[i];

        if (!name->ino || !is_there(name, name->now)) {
            continue;
        }
        if (is_there(name, name->then)) {
            unlink(name->now);
        } else {
            rename_socket(relay, name, false);
        }
    }
}

static gboolean on_other_ended(gint fd, GIOCondition condition, gpointer opaque)
{
    settle_names(opaque);
    return G_SOURCE_REMOVE;
}

/* There is another QEMU, and it will do so before this one does. */
static bool other_ends(const FfRelay *relay)
{
    return relay->plan->other_fd >= 0 && !relay->plan->other_stays;
}

/* A file that is not there any more has been renamed by farfault upgrade, or is nobody's. */
static void take_name(FfRelay *relay, FfRelayName *name)
{
    struct stat st;

    if (!name->ino && lstat(name->now, &st) == 0 && rename_socket(relay, name, other_ends(relay))) {
        name->dev = st.st_dev;
        name->ino = st.st_ino;
    }
}

void ff_names_take(FfRelay *relay, bool taken)
{
    const FfRelayPlan *plan = relay->plan;

    /* MOVED: the guest is another one's again, and so are the names. */
    if (!plan->names->len || ff_state_is_marked(relay->state, FF_MARK_MOVED) ||
        (!taken && ff_state_is_marked(relay->state, FF_MARK_BORROWED))) {
        return;
    }
    for (guint i = 0; i < plan->names->len; i++) {
        take_name(relay, plan->names->pdata[i]);
    }
    if (!other_ends(relay)) {
        settle_names(relay);
    } else if (!relay->waits_for_other) {
        relay->waits_for_other = true;
        g_unix_fd_add(plan->other_fd, G_IO_IN, on_other_ended, relay);
    }
}

void ff_names_end(FfRelay *relay)
{
    GPtrArray *names = relay->plan->names;

    for (guint i = 0; i < names->len; i++) {
        const FfRelayName *name = names->pdata[i];

        unlink(name->now);
        /* The process that started QEMU may have started the next one, with the same names. */
        if (name->ino && !ff_state_is_marked(relay->state, FF_MARK_MOVED) &&
            is_there(name, name->then)) {
            unlink(name->then);
        }
    }
}
