/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who is just giving memory back. Before the kernel takes pages out it tells of UFFD_EVENT_REMOVE,
 * and the caller waits until that is read; but which range it is says only the read. The owner of
 * a space whose process is its own can ask the callers themselves.
 */
#ifndef FF_UFFD_CALLERS_H
#define FF_UFFD_CALLERS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct FfCallers FfCallers;

/* [START, END), in whole pages of 4096 bytes or not. */
typedef void FfCallersRange(uint64_t start, uint64_t end, void *opaque);

struct FfCallers {
    /* Fault thread, the space is locked: allocate nothing. FN for each range that a thread gives
     * back which waits in the kernel just now; more of them than wait for an event do no harm.
     * Returns of how many threads it is not known whether they do: they are running, and have not
     * run for long since the last call with IS_FIRST. */
    unsigned (*each)(FfCallers *c, bool is_first, FfCallersRange *fn, void *opaque);
};

#endif
