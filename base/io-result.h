/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one attempt to read from, write to or accept at a non-blocking socket comes to. */
#ifndef FF_BASE_IO_RESULT_H
#define FF_BASE_IO_RESULT_H

#include <errno.h>
#include <stdbool.h>

typedef enum {
    FF_IO_DONE,
    FF_IO_AGAIN, /* nothing now: poll and repeat it */
    FF_IO_DEAD   /* nothing ever again */
} FfIo;

/* accept() has failed with ERROR because this process or the host is short of something. It is over
 * when others have let go of it, and there is no event for that: the socket stays readable
 * meanwhile, so a thread that just waited for it again would spin. */
static inline bool ff_io_is_short(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

#endif
