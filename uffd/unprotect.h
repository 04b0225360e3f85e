/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory that an engine has left protected against writes, as it died in a live snapshot: the
 * protection is taken away, and the threads that wait continue. No state; any thread, not the main
 * loop's.
 */
#ifndef FF_UFFD_UNPROTECT_H
#define FF_UFFD_UNPROTECT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int memfd;
    uint64_t page_size; /* bytes */
} FfLiftBlock;

/* Takes the mappings of BLOCKS[0..N) in MAPS_FD (of /proc/PID/maps) out of UFFD, wherever they are
 * in it, in pieces: each holds QEMU's mmap lock, and a guest thread that waits for a later piece is
 * let go in between. What is not mapped any more is not registered either. FALSE and ERROR:
 * something may be registered still; all that could be lifted was. A block without a memfd (-1) is
 * such an error. */
bool ff_unprotect_all(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n, GError **error);

/* ERROR NULL: nothing is registered any more. */
typedef void FfLiftDone(const GError *error, void *opaque);
/* The same in a thread of its own, with copies of the fds, which may wait for QEMU's mmap lock; a
 * copy or a thread that cannot be had is an error of it. DONE is called by the main loop (the
 * default context), once. */
void ff_unprotect_start(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n,
                        FfLiftDone *done, void *opaque);

#endif
