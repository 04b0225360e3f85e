/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a snapshot (snapshot.c) and ff_fork() (fork.c) have in common.
 */
#ifndef FARFAULT_CAPTURE_H
#define FARFAULT_CAPTURE_H

#include "libfarfault/common/memory-internal.h"

extern const FfSnapshotOptions ff_default_options;

/* In FF_PREPARING: as ff_snapshot_prepare(). */
int ff_memory_prepare(FfMemory *m, const FfSnapshotOptions *options);
/* In FF_PREPARING, prepared: the moment, of the call that began at BEGIN. After an error all is as
 * before the preparation. */
int ff_memory_arm(FfMemory *m, int64_t begin);
/* In FF_SAVING: FN is the saver. */
int ff_memory_start_saver(FfMemory *m, const char *name, GThreadFunc fn, void *opaque);
/* Microseconds since BEGIN, into *US of M, which others may look at. */
void ff_memory_note_us(FfMemory *m, uint64_t *us, int64_t begin);
void ff_memory_fill_stats(const FfMemory *m, FfSnapshotStats *st, const FfCaptureStats *c);
/* Everybody continues, nothing is registered any more; what is known of it is in M's stats. The
 * caller is the one that m->state is about (FF_PREPARING, FF_SAVING). Twice is fine. */
void ff_capture_finish(FfMemory *m);

#endif
