/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind space.h, for space.c, place.c, protect.c and faults.c.
 *
 * Lock: FfSpace.lock, only of a space with events. Written: by the fault thread, from before it
 * reads messages until it has made the changes they tell of. Read: by a thread that turns a page
 * into an address and does something there. So an address is never one that was: between the two
 * the kernel answers EAGAIN if there is a change. changed_lock is a leaf under it.
 */
#ifndef FF_UFFD_SPACE_INTERNAL_H
#define FF_UFFD_SPACE_INTERNAL_H

#include <pthread.h>

#include "uffd/bitmap.h"
#include "uffd/regions.h"
#include "uffd/sharers.h"
#include "uffd/space.h"

/* The fault thread reads so many messages at once. */
#define FF_SPACE_BATCH 64

typedef struct FfProtect FfProtect;

typedef struct {
    FfBacking backing;
    uint64_t n_pages;
    FfBitmap placed, requested;
    FfBitmap late; /* with events, fault thread: protection to be lifted as soon as they are read */
} FfSpaceBlock;

struct FfSpace {
    FfSpaceConfig cfg;
    bool owns_uffd; /* a forked child's */
    bool changes;   /* there are events, and so is the lock */
    uint64_t mode;  /* in which this process has registered its ranges */
    FfSpaceBlock *blocks;
    unsigned n_blocks;
    GArray *ranges; /* FfRegion, by address; `file` is the block. lock; fault thread without */
    void *zeros;    /* of the largest page, read-only; NULL: no block needs it */
    size_t zeros_len;
    uint64_t total_pages;
    uint64_t done_pages;  /* atomic */
    FfSpaceCounts counts; /* each atomic */
    FfWaits waits;
    FfProtect *protect; /* set before the fault thread runs; NULL: none */
    /* Ranges at the end of the list that could not be registered: they may be of another
     * userfaultfd, and the kernel takes out what is not the caller's as well. */
    guint not_registered;
    int wake_fd;       /* ends the fault thread */
    int child_wake_fd; /* of the next child; -1: none yet */
    GArray *unmaps;    /* Unmap (space.c). lock: those that are expected */

    /* Of the thread that answers for a page that was placed before, and of those that make pages
     * missing again; a leaf. */
    pthread_mutex_t again_lock;
    pthread_mutex_t answering; /* of the fault thread, from reading to the answers, if .protect */
    pthread_rwlock_t lock;
    pthread_mutex_t changed_lock;
    pthread_cond_t changed;
    uint64_t
        generation; /* lock and changed_lock to write, one of them to read: batches with events */
    bool cancelled; /* changed_lock */

    /* Fault thread. The waiters that could not be answered, as an event must be read first:
     * addresses; for which there was no room: all between two. */
    uint64_t deferred[FF_SPACE_BATCH];
    unsigned n_deferred;
    uint64_t rest_start, rest_end;
    bool has_late;
    /* Fault thread: the page that was there though somebody waited for it, so often in a row. */
    unsigned vain_block, vain_n;
    uint64_t vain_page;

    FfSharers sharers;
};

/* Pages may be turned into addresses until ff_space_leave(). Returns the generation. The fault
 * thread needs neither, and is not stopped by them. */
uint64_t ff_space_enter(FfSpace *s);
void ff_space_leave(FfSpace *s);
/* Fault thread, before it answers faults: nothing that was read of the userfaultfd is unknown to
 * the space until the end. FALSE: there is an event, which must be applied first. */
bool ff_space_begin_answers(FfSpace *s);
void ff_space_end_answers(FfSpace *s);
/* RC of an ioctl at an address of the space, entered or fault thread. */
int ff_space_check(const FfSpace *s, int rc);
/* After EAGAIN, between ff_space_leave() and the next try: waits, if an event must be read first.
 * SEEN: what ff_space_enter() said. 0; -ECANCELED. The fault thread, which cannot wait for itself,
 * gets -EAGAIN and must call ff_space_defer(). */
int ff_space_wait_change(FfSpace *s, uint64_t seen);
/* After ff_space_cancel(): a thread that waits for a change waits again. */
void ff_space_uncancel(FfSpace *s);
/* This thread is the fault thread of S from now on; NULL: of none. */
void ff_space_set_fault_thread(FfSpace *s);
bool ff_space_is_fault_thread(const FfSpace *s);
/* Fault thread, for the message that it answers: the thread that waits at ADDR is told again when
 * an event was read, or there is none. */
void ff_space_defer(FfSpace *s, uint64_t addr);
/* Fault thread: the protection of RUN is lifted then (protect.h). */
void ff_space_lift_later(FfSpace *s, const FfRun *run);

/* Entered, or fault thread. ADDR -> page; FALSE: in no range. */
bool ff_space_find(const FfSpace *s, uint64_t addr, unsigned *block, uint64_t *page);
/* The same the other way; *RUN bytes from there on are in one range. 0: it has no address. */
uint64_t ff_space_find_addr(const FfSpace *s, unsigned block, uint64_t page, uint64_t *run);

/* Ends every wait for N pages of BLOCK from PAGE on. TRUE: there was one. Any thread. */
bool ff_space_end_waits(FfSpace *s, unsigned block, uint64_t page, uint64_t n);

/* mremap() unmaps the old addresses, and tells of that after it has told of the move: by then
 * another thread may have moved something there. So that UNMAP is one to expect, and not to heed.
 */
bool ff_space_is_expected_unmap(FfSpace *s, uint64_t start, uint64_t end);
/* Before messages are read: none is to come of a move after which nothing is unmapped
 * (MREMAP_DONTUNMAP). */
void ff_space_forget_expected(FfSpace *s);

/* Changes, under the lock. FN is called for each run of pages in [START, END), by address. */
typedef void (*FfSpaceRunFunc)(FfSpace *s, const FfRun *run, void *opaque);
/* PART: for a (huge) page of which only a part is. */
void ff_space_each_run(FfSpace *s, uint64_t start, uint64_t end, FfSpaceRunFunc fn,
                       FfSpaceRunFunc part, void *opaque);
void ff_space_cut(FfSpace *s, uint64_t start, uint64_t end);
void ff_space_move(FfSpace *s, uint64_t from, uint64_t to, uint64_t len);
/* A space of the same content for the process of UFFD, which is the child's. */
FfSpace *ff_space_fork(FfSpace *s, int uffd);
/* Everything that ff_space_fork() needs is there. -errno: no fd is free. */
int ff_space_prepare_fork(FfSpace *s);

#define ff_space_count(s, what) __atomic_fetch_add(&(s)->counts.what, 1, __ATOMIC_RELAXED)

#endif
