/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The working set of a restore: one that an earlier restore has left is read first, one is written
 * for later ones. All of it is for speed alone: what is wrong with it is one line in the log.
 *
 * Thread: the coordinator; a thread of its own writes.
 */
#ifndef FF_MIGRATION_RESTORE_SET_H
#define FF_MIGRATION_RESTORE_SET_H

#include "migration/restore/file.h"

typedef struct FfRestoreSet FfRestoreSet;

/* That of F, after it was compared; NULL: there is none, or it is not worth reading. */
FfRestoreSet *ff_restore_set_open(const FfRestoreFile *f);
void ff_restore_set_free(FfRestoreSet *s); /* S can be NULL, here and below */
/* For a pager; S outlives it. */
FfFileFirst ff_restore_set_first(FfRestoreSet *s);
uint64_t ff_restore_set_pages(const FfRestoreSet *s);
/* Of F a working set has so many pages at most. */
uint64_t ff_restore_set_max(const FfRestoreFile *f);
/* Writes what P has recorded so far, beside F, which outlives the thread; to be joined. NULL:
 * nothing was. */
GThread *ff_restore_set_write(const FfRestoreFile *f, FfFilePager *p);

#endif
