/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See names.h. farfault upgrade renames them too, as whoever waits for it wants to connect: which
 * of the two comes first does not matter.
 *
 * The main loop's thread; no locks. System calls: lstat, renameat, unlink.
 */
#include "relay/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void take(FfRelay *relay, FfRelayName *name)
{
    struct stat st;

    if (renameat(AT_FDCWD, name->now, AT_FDCWD, name->then) < 0 && errno != ENOENT) {
        ff_relay_log(relay, "%s stays under that name, it should be %s: %s", name->now, name->then,
                     g_strerror(errno));
        return;
    }
    if (lstat(name->then, &st) == 0) {
        name->dev = st.st_dev;
        name->ino = st.st_ino;
    }
}

void ff_names_take(FfRelay *relay)
{
    GPtrArray *names = relay->plan->names;

    /* MOVED: the guest is another one's again, and so are the names. */
    if (ff_state_is_marked(relay->state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
        return;
    }
    for (guint i = 0; i < names->len; i++) {
        FfRelayName *name = names->pdata[i];

        if (!name->ino) {
            take(relay, name);
        }
    }
}

void ff_names_end(FfRelay *relay)
{
    GPtrArray *names = relay->plan->names;

    for (guint i = 0; i < names->len; i++) {
        const FfRelayName *name = names->pdata[i];
        struct stat st;

        unlink(name->now);
        /* The process that started QEMU may have started the next one, with the same names. */
        if (name->ino && !ff_state_is_marked(relay->state, FF_MARK_MOVED) &&
            lstat(name->then, &st) == 0 && st.st_dev == name->dev && st.st_ino == name->ino) {
            unlink(name->then);
        }
    }
}
