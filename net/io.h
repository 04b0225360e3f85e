/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one attempt to read or write a non-blocking socket comes to. */
#ifndef FF_NET_IO_H
#define FF_NET_IO_H

typedef enum {
    FF_IO_DONE,
    FF_IO_AGAIN, /* nothing now: poll and repeat it */
    FF_IO_DEAD   /* nothing ever again */
} FfIo;

#endif
