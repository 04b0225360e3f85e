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
/* Any thread; for good. Who waits in the kernel goes on waiting. */
void ff_faults_stop(FfSpace *s);
/* Everything that somebody waits for is asked for again: the pager has lost its requests. Any
 * thread; the fault thread need not run. */
void ff_faults_ask_again(FfSpace *s);

#endif
