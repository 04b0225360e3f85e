/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that outlives the holder, for clients that keep no copy of their userfaultfd: once
 * nobody has it any more they would go on with zeros. It has a copy of each. When the holder ends,
 * for whatever reason, it kills those clients, and holds their userfaultfds until they are gone.
 */
#ifndef FF_HOLDER_GUARD_H
#define FF_HOLDER_GUARD_H

#include <stdint.h>

typedef enum {
    FF_GUARD_HOLD, /* with a userfaultfd, and a pidfd if it is known */
    FF_GUARD_DROP, /* all is in place */
    FF_GUARD_KILL, /* of one that is held */
} FfGuardType;

/* Forks it: the link to it, or -errno. Only in a process of one thread. */
int ff_guard_start(void);
/* UFFD, PIDFD: of FF_GUARD_HOLD; PIDFD can be -1. -errno: it has died. */
int ff_guard_tell(int link, FfGuardType type, uint64_t id, int uffd, int pidfd);

#endif
