/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pager whose content is an FfContent: each page of a block stands there at its own place, or is
 * zeros. Threads of its own answer those that wait, others fill what nobody has asked for.
 *
 * A page that cannot be read stays missing, and a thread that waits for it continues to wait: never
 * zeros. The same goes for content that has changed since it was opened.
 *
 * Made, started and stopped by one thread. The fault thread asks: no allocation, no disk, no lock
 * that a thread holds while it reads.
 */
#ifndef FF_CONTENT_PAGERS_FILE_H
#define FF_CONTENT_PAGERS_FILE_H

#include "content/pagers/file-types.h"

/* What the config borrows is the pager's until ff_file_pager_free(). */
FfFilePager *ff_file_pager_new(const FfFilePagerConfig *cfg);
/* After ff_file_pager_stop(), and when no fault thread asks any more. P can be NULL. */
void ff_file_pager_free(FfFilePager *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfFilePager, ff_file_pager_free)

/* For ff_space_set_pager(). */
FfPager *ff_file_pager_pager(FfFilePager *p);
/* The pages are read from CONTENT, an FfContent of which the pager has a reference of its own (with
 * FfFilePagerConfig.read: NULL). Faults are answered from now on. */
void ff_file_pager_start(FfFilePager *p, FfReaderFile *content);
/* Begins to fill what nobody has asked for. After start, which begins with FfFileFirst alone. */
void ff_file_pager_fill(FfFilePager *p);
/* Fills as fast as it can, from now on or from ff_file_pager_fill() on, whatever that costs a
 * thread that waits for a page. Any thread. */
void ff_file_pager_hurry(FfFilePager *p);
/* Nothing is filled any more, nor any failure told, until the next start; a thread that waits is
 * answered. */
void ff_file_pager_pause(FfFilePager *p);
/* Ends the threads. A thread whose read does not come back is left behind, and
 * touches nothing of the pager nor of the space any more. Requests that were not answered are
 * forgotten: before the next start ff_faults_stop(), and ff_faults_again() for those that still
 * wait. */
void ff_file_pager_stop(FfFilePager *p);
/* Where the pages stand that were asked for since the beginning, in that order (g_free); *N of
 * them. Nothing is kept any more. */
uint64_t *ff_file_pager_take_record(FfFilePager *p, uint64_t *n);
FfFileCounts ff_file_pager_counts(const FfFilePager *p);

#endif
