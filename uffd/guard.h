/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guard over memory that another process may come to share: no write of that process, by its own
 * mapping, takes effect before somebody has been given the page as it was. Reads continue. What is
 * guarded stays guarded when the guard's process ends, as long as anybody holds the userfaultfd:
 * writers wait then.
 *
 * Threads: the guard's own; the caller's. No locks.
 */
#ifndef FF_UFFD_GUARD_H
#define FF_UFFD_GUARD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int fd; /* a memfd; the process maps it shared, whole and once */
    uint64_t size, page_size;
} FfGuardBlock;

typedef struct {
    int uffd;                   /* of the process, with the features FF_UFFD_PROTECTION; borrowed */
    int maps_fd;                /* of /proc/PID/maps; borrowed */
    const FfGuardBlock *blocks; /* borrowed */
    unsigned n_blocks;
    /* Somebody writes to page PAGE of BLOCK, whose CONTENT is still what it was. 0: the write
     * continues, and no other write to this page is told of. Else it waits, and the guard has
     * failed. */
    int (*written)(unsigned block, uint64_t page, const void *content, void *opaque);
    /* RC: -errno. It is said once; writers wait from then on. */
    void (*failed)(int rc, void *opaque);
    void *opaque;
} FfGuardConfig;

typedef struct FfGuard FfGuard;

/* All of memory is guarded when this returns, and what the files have of it is mapped in the
 * process, as far as the kernel can (Linux 6.4). NULL and ERROR. */
FfGuard *ff_guard_new(const FfGuardConfig *config, GError **error);
/* Nobody is answered any more; the memory stays guarded. Can be NULL. */
void ff_guard_free(FfGuard *g);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfGuard, ff_guard_free)

#endif
