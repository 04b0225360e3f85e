/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts QEMU: the calling process becomes it.
 */
#ifndef FF_GUEST_LAUNCH_LAUNCH_H
#define FF_GUEST_LAUNCH_LAUNCH_H

#include <stdbool.h>

typedef struct {
    const char *qemu;   /* path of the real QEMU */
    const char *policy; /* "auto", "always" or "never": which migrations the engine takes */
    /* "qemu", "postcopy" or "wait": what becomes of one whose guest's writes cannot be tracked */
    const char *untracked;
    const char *restore;       /* "eager" or "lazy": what a restore from a file becomes */
    bool takes_backends;       /* the relay stands in the sockets of vhost-user-blk devices ... */
    bool follows_backends;     /* ... and the engine migrates guests that have them */
    const char *userfault_fix; /* what lets this user wait for faults; NULL: it may */
    bool needed;               /* without farfault QEMU is not to start at all */
    /* An upgrade (docs/design/upgrade.md): a socket on which guest RAM and listening monitors are
     * lent (guest/launch/inherit.h); -1: they are made. */
    int borrow_fd;
    int monitor_fd; /* with it: a connected socket that becomes one more QMP monitor */
} FfLaunchOptions;

/*
 * Becomes QEMU with the command line ARGV (argv[0] included): same PID, stdio, working directory
 * and inherited fds. Returns only when that fails: one line was printed, and the value is the
 * exit status. Must be called from the only thread of the process.
 */
int ff_launch(const FfLaunchOptions *options, char **argv);

#endif
