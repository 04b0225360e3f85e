/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space whose userfaultfd somebody else reads: another process that outlives this one, hands the
 * messages on, and reads no event while somebody is inside its gate. After an event the gate is
 * closed until applied().
 *
 * All functions are the owner's. No locks of the space are held but where it says so.
 */
#ifndef FF_UFFD_MESSAGES_H
#define FF_UFFD_MESSAGES_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct FfMessages FfMessages;

struct FfMessages {
    int fd; /* readable when there may be messages; read() makes it unreadable */
    /* Fault thread, the space is locked: up to MAX messages, at most one event, which is the last.
     * Again the same event until applied(). Of a fork arg.fork.ufd is what forked() is called with.
     */
    int (*read)(FfMessages *m, struct uffd_msg *msgs, size_t max);
    /* Into the gate. FALSE: it is closed, and wait() with *SEEN waits until it has changed since.
     * Any thread. */
    bool (*enter)(FfMessages *m, unsigned *seen);
    void (*wait)(FfMessages *m, unsigned seen);
    void (*leave)(FfMessages *m);
    /* Fault thread: the same, but FALSE only if there is an event that is not applied. */
    bool (*enter_to_answer)(FfMessages *m);
    /* Nothing has been read that read() has not returned and applied() has not ended. */
    bool (*is_idle)(FfMessages *m);
    /* Fault thread, the space is locked. The process has forked. */
    void (*forked)(FfMessages *m, unsigned child);
    /* Fault thread, the space is locked: the event was applied, and the gate can be opened. RC < 0:
     * it could not be (FfSpaceOps.failed), and what is placed from now on may be wrong. */
    void (*applied)(FfMessages *m, int rc);
};

#endif
