/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory that an engine has left protected against writes, as it died in a live snapshot: the
 * protection is taken away, and whoever waits goes on. No state; any thread, not the main loop's.
 */
#ifndef FF_MIGRATION_LIFT_H
#define FF_MIGRATION_LIFT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int memfd;
    uint64_t size, page_size; /* bytes */
} FfLiftBlock;

/* Takes the mappings of BLOCKS[0..N) in MAPS_FD (of /proc/PID/maps) out of UFFD, wherever they are
 * in it, in pieces: each holds QEMU's mmap lock, and a guest thread that waits for a later piece is
 * let go in between. FALSE and ERROR: something may be registered still. */
bool ff_lift_protection(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n,
                        GError **error);

#endif
