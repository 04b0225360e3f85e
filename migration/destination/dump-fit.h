/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A source's dump beside the destination that it is to complete: whether it is this guest's, and
 * what a pager reads of it. Memory itself is not read.
 *
 * Thread: the coordinator makes it; then it stays as it is.
 */
#ifndef FF_MIGRATION_DESTINATION_DUMP_FIT_H
#define FF_MIGRATION_DESTINATION_DUMP_FIT_H

#include "content/image/dump-files.h"
#include "content/pagers/file-types.h"
#include "migration/common/ram.h"

typedef struct {
    const FfDumpFiles *files;                /* borrowed */
    const FfDumpBlock *block[FF_MAX_BLOCKS]; /* by the guest's */
    FfFileBlock pages[FF_MAX_BLOCKS];        /* for the pager; `at`: as if the files were one */
    unsigned n_blocks;                       /* of pages */
} FfDumpFit;

/* FIT has `files`. They are of the source of SESSION (16 bytes), after it gave the guest away, have
 * the memory of RAM, and hold each page that is not received. ERROR (FF_M_ERROR, one line). */
bool ff_dump_fit_check(FfDumpFit *fit, const FfRam *ram, const uint8_t *session, GError **error);
/* A page of piece PIECE of the guest's block BLOCK is not received. After the check. */
bool ff_dump_fit_needs(const FfDumpFit *fit, const FfRam *ram, unsigned block, uint64_t piece);
/* Makes `pages`. After the check; once. */
void ff_dump_fit_make_pages(FfDumpFit *fit, const FfRam *ram);
/* Frees what is in it. */
void ff_dump_fit_clear(FfDumpFit *fit);

#endif
