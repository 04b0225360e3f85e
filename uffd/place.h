/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content in: pages are placed where the space has them, the threads that wait for them are woken,
 * and they are marked as placed. A page that is placed already is never overwritten, also if the
 * process has given it back since: an old content must not come back. Nor is one placed that has no
 * address any more.
 *
 * Any number of threads; nothing is allocated. If the process is just changing its mappings this
 * waits until the fault thread has read of it, so the fault thread's own functions must not call
 * it: that one gets -EAGAIN. 0, or -errno with the pages before the one that failed being placed:
 * -ENOMEM (of huge pages, also none is free), -ESRCH (the process has ended), -ECANCELED, ...
 */
#ifndef FF_UFFD_PLACE_H
#define FF_UFFD_PLACE_H

#include "uffd/space.h"

/* DATA: of all pages of RUN. */
int ff_place_copy(FfSpace *s, const FfRun *run, const void *data);
/* Where nothing tells of changes, what is not registered any more counts as placed: a hole (below)
 * may be made meanwhile. */
int ff_place_zero(FfSpace *s, const FfRun *run);
/* What the file has already, by another mapping of it, is mapped. -EFAULT: it has no such page. */
int ff_place_continue(FfSpace *s, const FfRun *run);
/* A thread that touches them gets SIGBUS: the content is lost. Linux 6.6. */
int ff_place_poison(FfSpace *s, const FfRun *run);

/* RUN is there already: somebody else has placed it. The threads that wait for it are woken. */
void ff_place_mark(FfSpace *s, const FfRun *run);
/* The same where the caller has the gate of the space closed (messages.h): by another space, whose
 * process shares the memory. */
void ff_place_mark_closed(FfSpace *s, const FfRun *run);
/* RUN could not be placed: a thread that waits for it is told of again, and the pager asked
 * again. */
void ff_place_ask_again(FfSpace *s, const FfRun *run);
/*
 * What is missing of RUN becomes zeros that cost no memory until somebody touches them: RUN leaves
 * the userfaultfd, and nothing in it is told of any more. Of shared memory whole pieces of 2 MiB
 * (-EINVAL): a process that touches a hole may be given a huge page of the file, and what is beside
 * RUN must not be found in it. For few and large runs: each splits a mapping, of which a process
 * has 65530. -ERANGE: it is not in one range.
 */
int ff_place_hole(FfSpace *s, const FfRun *run);

/* The way back: RUN is missing again, and a thread that touches it after it was taken out of memory
 * makes a request. Its content is dropped by the caller, after this. Nobody may place it
 * meanwhile. */
void ff_place_forget(FfSpace *s, const FfRun *run);

/* ---- fault thread ---------------------------------------------------------------------------- */

/* Somebody misses PAGE (MINOR: finds it in the file, not mapped), which is placed: it was given
 * back since, and is zeros. 0; -EAGAIN: an event must be read first; -ENOENT: it was forgotten
 * meanwhile; -ELOOP: it is there so often in a row that something is wrong. */
int ff_place_again(FfSpace *s, unsigned block, uint64_t page, bool minor);
/* RUN, which is missing, gets DATA (NULL: zeros), where another process reads messages
 * (FfMessages). As the others above; -EAGAIN: an event must be read first, or is there. */
int ff_place_at_once(FfSpace *s, const FfRun *run, const void *data);
/* RUN needs no content any more, the space being locked. Returns how many pages of it were missing,
 * for ff_place_tell() when it is not. */
uint64_t ff_place_unwanted(FfSpace *s, const FfRun *run);
/* Says so to the owner of the space. */
void ff_place_tell(FfSpace *s, const FfPresent *p);

#endif
