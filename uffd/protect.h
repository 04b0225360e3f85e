/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Synchronous write protection: the content that protected pages had is saved before anybody
 * changes it, while the process runs. A saver goes through the pages: it claims a run, reads it
 * where it is, and lifts the protection. A thread that writes to a page before that faults:
 * the page's old content is kept in a buffer and the writer continues at once; the saver takes it
 * from there. When the buffer is full, and while the saver reads the page, the writer waits.
 *
 * So each page that was armed is given to the saver exactly once, by ff_protect_claim(),
 * ff_protect_wanted() or ff_protect_take(), with the content that it had when it was armed. What
 * the kernel tells of no fault is not seen: writes by another mapping or file descriptor, pages
 * that were pinned before, and holes punched into the file. What a process gives back by madvise()
 * before it was saved is kept, where it can be known in time (callers.h) and the buffer has room;
 * else it is counted as lost.
 *
 * Threads: the fault thread keeps; any number of savers. Nothing is allocated after
 * ff_protect_new(). In front of the end of the process's own life: ff_protect_free() lifts
 * everything.
 */
#ifndef FF_UFFD_PROTECT_H
#define FF_UFFD_PROTECT_H

#include "uffd/space.h"

typedef struct FfProtect FfProtect;

/* Of S, whose ranges are registered for write protection alone (space.h); before its fault thread
 * runs. BUFFER: bytes, for as many whole pages of the largest kind; 0: all writers wait. 0;
 * -ENOMEM; -ENOTSUP: S has shared memory, and would tell of a fork: the child's writes are not
 * seen. */
int ff_protect_new(FfSpace *s, uint64_t buffer, FfProtect **result);
/* While more than half of the buffer is free, what is around a page that somebody writes to is kept
 * with it: BYTES (a power of two; 0, as at the beginning: nothing), a quarter of that when less
 * than three quarters are free. Before ff_protect_arm(). */
void ff_protect_set_around(FfProtect *p, uint64_t bytes);
/* What is protected is worth nothing any more: from now on a thread that writes continues at
 * once, whatever room the buffer has and whoever has the page, and one that waits already does so,
 * too. What nobody has saved counts as lost. The fault thread must run. Any thread. */
void ff_protect_give_up(FfProtect *p);
/* After it: lifts what is still protected, piece by piece, with the fault thread answering
 * meanwhile. Any thread, also with savers: theirs is worth nothing either. */
void ff_protect_lift_all(FfProtect *p);
/* Lifts what is still protected and wakes all writers. The fault thread has ended; no saver. Of
 * memory that the process has moved since, of which nobody has read, only the end of the
 * userfaultfd lifts it. Can be NULL. */
void ff_protect_free(FfProtect *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfProtect, ff_protect_free)

/* Ahead of ff_protect_arm(), which then has less to do: protects what is not protected of RUN. A
 * write to it is let go at once, and the page is open again. *N: pages that were open; so the next
 * call says how many have been written to since, RUN by RUN. 0 or -errno. Any thread but the fault
 * thread. */
int ff_protect_prepare(FfProtect *p, const FfRun *run, uint64_t *n);
/* Before ff_protect_arm(), with STILL: nobody may write to what is armed until the same without
 * STILL. A thread that does all the same continues at once, whatever room the buffer has: its page
 * is spoilt, and counts as lost. Any thread. */
void ff_protect_set_still(FfProtect *p, bool still);
/* Protects RUN, of which nothing is armed (any more); private memory that was unmapped since it was
 * registered has nothing to arm. The process is giving nothing back meanwhile. What is written
 * before this returns may be seen by the saver or not; what was written before the call is no write
 * to what is armed. 0 or -errno. Any thread but the fault thread. */
int ff_protect_arm(FfProtect *p, const FfRun *run);

/* After it, by the same thread: the next pages of RUN's block, at or after its first one, that had
 * nothing to arm. */
bool ff_protect_next_gap(const FfProtect *p, FfRun *run);

/* The next run of BLOCK at or after FROM, of MAX pages at most, that nobody has; 0: none. It is the
 * caller's, stays as it is and keeps its writers waiting until ff_protect_done(). A page that could
 * not be kept can be had again: at the end of a block, begin again as long as ff_protect_left(). */
uint64_t ff_protect_claim(FfProtect *p, unsigned block, uint64_t from, uint64_t max,
                          uint64_t *first);
/* Reads RUN, which was claimed; BUF has room for it. Files can be read in any other way as well
 * (but that a mapping fills their holes); private memory in this way alone, as it can be moved
 * meanwhile. 0 or -errno. */
int ff_protect_read(FfProtect *p, const FfRun *run, void *buf);
/* PAGE, which was claimed and read, counts as saved; ff_protect_done() follows. FALSE: what was
 * read is worth nothing, as the process is giving the page back. It comes once more, from the
 * buffer, or is lost. */
bool ff_protect_own(FfProtect *p, unsigned block, uint64_t page);
/* The same as ff_protect_claim() for one page whose writer waits. FALSE: there is none. */
bool ff_protect_wanted(FfProtect *p, FfRun *run);
/* RUN, which was claimed, is saved. 0 or -errno. */
int ff_protect_done(FfProtect *p, const FfRun *run);

/*
 * RUN, which was claimed, is read where it is by somebody who does not wait for anything (a disk).
 * From now on a writer that wants a page of it has it kept and continues, as does one that wants it
 * already, where the buffer has room. That page is given once more, from the buffer, and what was
 * read of it meanwhile counts for nothing. 0 or -errno.
 */
int ff_protect_lend(FfProtect *p, const FfRun *run);
/* FALSE: PAGE, which was lent, has been kept since. The saver that lent it. */
bool ff_protect_is_lent(FfProtect *p, unsigned block, uint64_t page);
/* It has been read: what nobody wanted of RUN meanwhile is saved. *AGAIN: how many pages are given
 * once more. 0 or -errno. */
int ff_protect_end_loan(FfProtect *p, const FfRun *run, uint64_t *again);

typedef struct {
    enum {
        FF_PROTECT_OTHERS,  /* saved, or being kept just now */
        FF_PROTECT_CLAIMED, /* as by ff_protect_claim(), with its writers */
        FF_PROTECT_KEPT,    /* as by ff_protect_take() */
        FF_PROTECT_COPIED,  /* the caller's own: it has a copy */
    } where;
    unsigned slot; /* of what was kept */
    const void *data;
} FfProtectPage;
/* All pages of RUN that can be had now, wherever they are. PAGES has room for each page of RUN.
 * Returns how many are the caller's now. */
uint64_t ff_protect_gather(FfProtect *p, const FfRun *run, FfProtectPage *pages);
/* A page that can be gathered, which is not taken: one whose writer waits; in *SLOT or a later one;
 * in RUN's block, at or after its first page. FALSE: none now. */
bool ff_protect_peek_wanted(const FfProtect *p, FfRun *run);
bool ff_protect_peek_kept(const FfProtect *p, unsigned *slot, FfRun *run);
bool ff_protect_peek_free(const FfProtect *p, FfRun *run);

/* A page that was kept. *DATA is valid until ff_protect_release() of its SLOT, after which it
 * counts as saved. FALSE: none now; FfPager.written tells of the next one. */
bool ff_protect_take(FfProtect *p, unsigned *slot, FfRun *run, const void **data);
/* A writer that waited for a slot continues. */
void ff_protect_release(FfProtect *p, unsigned slot);

/* Pages that nobody has saved yet; that the process has given back before, that are spoilt, or were
 * given up; and that are spoilt. */
uint64_t ff_protect_left(const FfProtect *p);
uint64_t ff_protect_lost(const FfProtect *p);
uint64_t ff_protect_spoilt(const FfProtect *p);
/* How many pages can be kept, and how many of the slots are free. */
unsigned ff_protect_slots(const FfProtect *p, unsigned *n_free);
/* How often a writer had to wait for a slot. */
uint64_t ff_protect_waited(const FfProtect *p);
/* How many writes to armed pages there were (returned), and how long the fault thread took for each
 * that did not wait: [i] counts [2^i, 2^(i+1)) microseconds, [0] below 2. Any thread. */
#define FF_PROTECT_BUCKETS 32
uint64_t ff_protect_latency(const FfProtect *p, uint64_t latency[FF_PROTECT_BUCKETS]);
/* 99 % of those took less than so many microseconds: exact below FF_PROTECT_EXACT, else the upper
 * edge of their bucket; 0: there were none. Any thread. */
#define FF_PROTECT_EXACT 4096
uint64_t ff_protect_latency_p99(const FfProtect *p);

/* Without a buffer, of a space that has no FfProtect: lets the writers of RUN continue. Any thread,
 * also from FfPager.written. 0 or -errno. */
int ff_protect_lift(FfSpace *s, const FfRun *run);

/* ---- fault thread ---------------------------------------------------------------------------- */

/* What could not be lifted before, as an event had to be read first. 0 or -errno. */
int ff_protect_lift_late(FfSpace *s);
/* Somebody writes to PAGE, which is protected. */
int ff_protect_fault(FfProtect *p, unsigned block, uint64_t page);
/* RUN is being given back. The space is locked. */
void ff_protect_removed(FfProtect *p, const FfRun *run);
/* Before a message is read, the space is locked: what callers of madvise() are about to give back
 * is kept. IS_READABLE: poll() has said so. FALSE: nothing has to be; else one message may be read
 * if it is readable, and none if not: it is a fault, which comes first, or the event of a caller
 * that was asked. */
bool ff_protect_keep_given(FfProtect *p, bool is_readable);
/* Somebody waits for its event to be read, and faults are read before it: a thread that is told to
 * try again now comes before it again. */
bool ff_protect_awaits_event(const FfProtect *p);
/* An event was read: that of a process that GIVES_BACK, or another. */
void ff_protect_stir(FfProtect *p, bool gives_back);
/* What was kept so is in doubt until there is no change; RUN, which was moved or unmapped before,
 * is lost then. The space is locked. */
bool ff_protect_has_doubts(const FfProtect *p);
void ff_protect_end_doubts(FfProtect *p);
void ff_protect_drop_doubted(FfProtect *p, const FfRun *run);

#endif
