/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that outlives the holder, for clients that keep no copy of their userfaultfd: once
 * nobody has it any more they would continue with zeros. It has a copy of each. When the holder
 * ends, for whatever reason, it kills those clients, and holds their userfaultfds until they are
 * gone. Of a client that asks for its pages by a socket it holds that: a client that has no answer
 * waits. A socket whose end lets copies of the clients run is closed when these are gone.
 */
#ifndef FF_PAGER_HOLDER_GUARD_H
#define FF_PAGER_HOLDER_GUARD_H

#include <stdint.h>

#include "pager/holder/descendants.h"

typedef enum {
    FF_GUARD_HOLD, /* with a userfaultfd, and a pidfd if it is known */
    FF_GUARD_SOCK, /* with a socket, which is held until the other end has closed it */
    FF_GUARD_LAST, /* with a socket, which is held until all else is gone */
    FF_GUARD_DROP, /* all is in place */
    FF_GUARD_END,  /* as if the holder had ended; a byte is the answer, when all are gone */
} FfGuardType;

/* Forks it: the link to it, or -errno. Only in a process of one thread. OFFSPRING: the caller's,
 * for this guard and the next; NULL: nothing will be closed last. */
int ff_guard_start(FfDescendantsLog *offspring);
/* FD: but of the last two; PIDFD: of the first, or -1. -errno: it has died (-EPIPE), or does not
 * know it. */
int ff_guard_tell(int link, FfGuardType type, uint64_t id, int fd, int pidfd);

#endif
