/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space: what is registered of one address space with one userfaultfd. Its content is blocks
 * (backing.h), of which each page has two states, missing and placed; its ranges say at which
 * addresses the blocks are. A space can change: the process moves, unmaps and gives back ranges,
 * and fork() makes a second space.
 *
 * Placed means that the page needs nothing from the pager: if somebody misses it all the same, the
 * process has given it back, and it is zeros (but see FfSpaceConfig.comes_again). ff_place_forget()
 * (place.h) makes it missing again.
 *
 * A space is built by one thread; then ff_faults_run() (faults.h) answers for it in a thread of
 * its own, and any number of threads place. A space whose userfaultfd tells of events has a lock:
 * the fault thread must not read of a change while somebody places at an address that is about to
 * change. One without events has none (but for pages that were given back: see again_lock).
 */
#ifndef FF_UFFD_SPACE_H
#define FF_UFFD_SPACE_H

#include <glib.h>
#include <stdbool.h>

#include "uffd/backing.h"
#include "uffd/callers.h"
#include "uffd/messages.h"
#include "uffd/pager.h"
#include "uffd/sharers.h"
#include "uffd/waits.h"

/* What the process does to shared memory and the kernel tells of as UFFD_EVENT_REMOVE: it says the
 * same of both, and where a page is missing nothing tells them apart. */
typedef enum {
    /* Nobody knows: the space has failed (-ENOTSUP) when a missing page is among them, which stays
     * missing. What is protected counts as lost. */
    FF_SHARED_REMOVE_UNKNOWN,
    FF_SHARED_REMOVE_GIVES_BACK, /* MADV_REMOVE, or MADV_DONTNEED after a hole was punched */
    FF_SHARED_REMOVE_UNMAPS,     /* MADV_DONTNEED alone: the file keeps its content */
} FfSharedRemove;

typedef struct {
    int uffd;          /* O_NONBLOCK, after UFFDIO_API; borrowed */
    uint64_t features; /* that UFFDIO_API was given */
    int pagemap_fd;    /* hugetlb before Linux 5.13: of the process, borrowed; else -1 */
    /* A thread that misses a page outside of all ranges gets zeros: mappings that have grown
     * (mremap) are still registered. Else the space has failed then. */
    bool grows;
    /* A page that was placed and is missed has its content again: the pager is asked once more.
     * Else it is zeros. */
    bool comes_again;
    FfSharedRemove shared_remove;
    /* Who reads the userfaultfd; NULL: the fault thread does. */
    FfMessages *messages;
    FfCallers *callers; /* of what is protected; NULL: what is given back before is lost */
    FfPager *pager;     /* NULL: ff_space_set_pager() follows */
    const FfSpaceOps *ops;
    void *opaque;
} FfSpaceConfig;

/* Counted by the fault thread; any thread may look. */
typedef struct {
    uint64_t missing, minor, written; /* faults, by kind */
    uint64_t events;
    uint64_t waits; /* of threads that place or lift, for an event to be read */
} FfSpaceCounts;

/* NULL and errno: no fd is free. */
FfSpace *ff_space_new(const FfSpaceConfig *cfg);
/* After ff_faults_run() has ended, and nobody places any more. Registered memory stays so until the
 * userfaultfd is closed; that of a forked child is closed here. S can be NULL. */
void ff_space_free(FfSpace *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSpace, ff_space_free)

/* The number of the new block, or -errno. PLACED: (size/page_size + 63) / 64 words that hold, and
 * keep, what is placed; NULL: the space has some, all missing. */
int ff_space_add_block(FfSpace *s, const FfBacking *backing, uint64_t *placed);
/* LEN bytes of BLOCK, from OFFSET on, are at ADDR. 0; -EINVAL: not whole pages, or not in the
 * block; -EEXIST: one of them has an address already, or the address a page. */
int ff_space_add_range(FfSpace *s, uint64_t addr, uint64_t len, unsigned block, uint64_t offset);
/* mremap() has moved [START, END) away, and the UNMAP of it is still to come: part of the state of
 * a space with events, beside its ranges. */
void ff_space_expect_unmap(FfSpace *s, uint64_t start, uint64_t end);
/* All ranges by address, and what is expected. The space is locked, or has no fault thread. */
typedef void (*FfSpaceRangeFunc)(unsigned block, uint64_t addr, uint64_t len, uint64_t offset,
                                 void *opaque);
typedef void (*FfSpaceUnmapFunc)(uint64_t start, uint64_t end, void *opaque);
void ff_space_each_range(const FfSpace *s, FfSpaceRangeFunc fn, void *opaque);
void ff_space_each_expected(const FfSpace *s, FfSpaceUnmapFunc fn, void *opaque);
/* Registers all ranges in MODE (UFFDIO_REGISTER_MODE_*), unless the process has done so. -errno:
 * some are registered; *BLOCK (can be NULL) is that of the one that cannot be. -EINVAL also: write
 * protection together with something else, as what is placed in a page takes its protection off. */
int ff_space_register(FfSpace *s, uint64_t mode, unsigned *block);
/* The contrary; wakes everybody. -ENOMEM if there was no memory for some of the ranges: it can be
 * called again, which helps. Another -errno, of the first that fails: the others are not registered
 * any more. */
int ff_space_unregister(FfSpace *s);
void ff_space_set_pager(FfSpace *s, FfPager *pager);

/* Another process that has blocks of this space (sharers.h); UFFD is taken. A space without events;
 * -EINVAL also: a range that is not whole pages of a block of shared memory in pages of 4 KiB. */
int ff_space_add_sharer(FfSpace *s, int uffd, const FfSharerRange *ranges, unsigned n);
FfSharers *ff_space_sharers(FfSpace *s);

/* The kernel tells again of every thread that waits. 0 or -errno. Any thread. */
int ff_space_wake_all(FfSpace *s);
/* A thread that waits in vain for a change of the space (place.h) gives up: -ECANCELED. Any
 * thread. */
void ff_space_cancel(FfSpace *s);
FfSpaceCounts ff_space_counts(const FfSpace *s);
/* Who waits for which page, as far as there is room. Any thread looks; the fault thread writes. */
const FfWaits *ff_space_waits(const FfSpace *s);
bool ff_space_is_placed(const FfSpace *s, unsigned block, uint64_t page);
/* How many pages are missing. */
uint64_t ff_space_missing(const FfSpace *s);
/* The address of PAGE; 0: it has none any more. Between events of the space. */
uint64_t ff_space_addr(const FfSpace *s, unsigned block, uint64_t page);

#endif
