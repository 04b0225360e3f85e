/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind FfVolatile, for volatile.c and purge.c.
 *
 * Lock: `lock`, a leaf, for what is being filled and what has failed.
 */
#ifndef FARFAULT_VOLATILE_INTERNAL_H
#define FARFAULT_VOLATILE_INTERNAL_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "libfarfault/common/holds.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/pool.h"
#include "uffd/bitmap.h"

/* A page's word. Above the bits: when it was unpinned; in PURGING, which process purges
 * (this_process()). */
#define FF_PAGE_PINNED 1ull
#define FF_PAGE_LOST 2ull
#define FF_PAGE_PURGING 4ull
#define FF_PAGE_AWAITED 8ull /* somebody waits for the end of PURGING */
#define FF_PAGE_ABOVE 8

typedef struct {
    uint64_t purged, regenerated, failed, pressure; /* atomic */
    uint64_t unpinned;                              /* atomic: since the limit was looked at */
    uint64_t pids, time; /* namespaces of the process that made it, by their inodes. 0: not known */
    uint64_t word[];     /* atomic */
} FfVolatileShared;

struct FfVolatile {
    pid_t pid;
    size_t len, page_size, n;
    unsigned shift;
    int fd;
    void *map;
    FfVolatileShared *shared;
    size_t shared_len;
    size_t limit;   /* atomic */
    uint64_t dead;  /* atomic; a process that ended while it purged; observers: threads that pin */
    size_t placing; /* atomic; observer: the keeper of the limit: bytes that are being placed */
    FfRegenerate *regenerate;
    void *opaque;
    int uffd; /* the pool's */
    FfPool *pool;
    pthread_mutex_t lock;
    FfHolds *holds;             /* lock; NULL: no thread waits for a page */
    FfBitmap filling, poisoned; /* lock */
    uint64_t n_poisoned;        /* lock to write; atomic */

    GThread *watcher;
    int watch_fd, own_watch_fd, wake_fd;
    short events;
};

/* ---- purge.c ------------------------------------------------------------------------ */

/* What is shared, by the process that makes it. */
void ff_volatile_init_shared(FfVolatile *v);
/* Just used: it is not the next one to go. */
void ff_volatile_make_young(FfVolatile *v, size_t page);
/* Purges BYTES of what is not pinned, or one of FRACTION (not 0) parts of it, the oldest first;
 * HELD: also of what a thread holds. Returns how many pages, or -errno. */
ssize_t ff_volatile_purge_oldest(FfVolatile *v, size_t bytes, unsigned fraction, bool held);
/* Purges until no more than the limit is used, with what is being placed. */
void ff_volatile_keep_limit(FfVolatile *v);
/* Bytes of memory. */
size_t ff_volatile_used(const FfVolatile *v);
/* -ECHILD, said. */
int ff_volatile_fail_child(void);

#endif
