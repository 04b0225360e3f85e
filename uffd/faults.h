/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fault thread of a space: reads what the kernel says of it and answers, or asks the pager.
 */
#ifndef FF_UFFD_FAULTS_H
#define FF_UFFD_FAULTS_H

#include "uffd/space.h"

/* Answers until ff_faults_stop(), or until it cannot any more (FfSpaceOps.failed). In a thread of
 * the caller's, which gives it its priority; one at a time. */
void ff_faults_run(FfSpace *s);
/* Ends it, or lets it end at once if it has not begun. Any thread. A thread that waits in
 * the kernel continues to wait, and is noted as one that waits. */
void ff_faults_stop(FfSpace *s);
/* After ff_faults_run() has ended: it may run again, and begins with asking for everything that
 * somebody waits for, since the pager has lost what it was asked for. */
void ff_faults_again(FfSpace *s);
/* After ff_faults_run() and ff_space_unregister(), for good: reads what the kernel tells of changes
 * that had begun by then, whose threads wait for that (for ever, where somebody else has the
 * userfaultfd, too: a child of fork()), and takes out what they have moved. Waits for those
 * threads, a second at most. */
void ff_faults_finish(FfSpace *s);

#endif
