/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Write tracking of another process's memory, piece by piece: protect what is about to be copied,
 * learn what was written since. What a page is copied for is no matter here. One thread.
 *
 * Protecting has a price for the process: a fault at the first write to each page, and of shared
 * memory its huge mappings, which are split. So a piece is protected when its turn comes, not
 * before.
 */
#ifndef FF_UFFD_TRACKING_H
#define FF_UFFD_TRACKING_H

#include "uffd/pagemap.h"
#include "uffd/regions.h"

typedef struct {
    int fd;
    uint64_t size, page_size;
    const char *name; /* for errors */
} FfTrackedFile;

/* A part of the memory that is protected at once, of FF_PAGEMAP_PIECE bytes at most. */
typedef struct {
    unsigned file;        /* index into the files */
    uint64_t offset, len; /* bytes in the file */
} FfPiece;

typedef struct FfTracking FfTracking;

/* A run of written bytes of FILE. */
typedef void (*FfTrackingFunc)(unsigned file, uint64_t offset, uint64_t len, void *opaque);

/*
 * Registers the mappings of FILES[0..N) in the process of MAPS_FD with UFFD, and makes sure that
 * the kernel can track writes there. All memory counts as written still. PIDFD: of the process; -1:
 * huge mappings are not restored. All descriptors are borrowed. NULL and ERROR, one line that says
 * what is missing.
 */
FfTracking *ff_tracking_new(const FfTrackedFile *files, unsigned n, int maps_fd, int uffd,
                            int pagemap_fd, int pidfd, GError **error);
const FfPiece *ff_tracking_pieces(const FfTracking *t, unsigned *n);
/*
 * Write-protects piece I, and calls FN for what was written there since it was protected last;
 * for nothing the first time: all of it counts as written then. What is written from now on is seen
 * by the next protection or scan. 0 or -errno.
 */
int ff_tracking_protect(FfTracking *t, unsigned i, FfTrackingFunc fn, void *opaque);
/* Calls FN for what was written since it was protected last, wherever that was done; PROTECT: and
 * protects it, atomically. 0 or -errno. */
int ff_tracking_scan(FfTracking *t, bool protect, FfTrackingFunc fn, void *opaque);
/* Makes the huge mappings again that protecting has split, after ff_tracking_end(), for up to MS
 * milliseconds. Where this process may not (CAP_SYS_NICE, Linux 6.1) khugepaged does, some time. */
void ff_tracking_restore(FfTracking *t, unsigned ms);
/* Unregisters everything. */
void ff_tracking_end(FfTracking *t);
/* The same for what another process began that has died. */
void ff_tracking_end_left_over(const FfTrackedFile *files, unsigned n, int maps_fd, int uffd);
/* Ends it as well. T can be NULL. */
void ff_tracking_free(FfTracking *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfTracking, ff_tracking_free)

#endif
