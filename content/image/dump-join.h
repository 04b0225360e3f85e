/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dumps of both sides of one migration (docs/dump.md): whether they belong together, and the
 * saved guest that they make if it has never run at the destination. No state; one thread.
 */
#ifndef FF_CONTENT_IMAGE_DUMP_JOIN_H
#define FF_CONTENT_IMAGE_DUMP_JOIN_H

#include "content/image/dump-files.h"
#include "content/image/output.h"

/* A and B, in any order, are of one migration, and each page is in one of them at least. The memory
 * is not read. ERROR (G_IO_ERROR, one line). */
bool ff_dump_halves_check(const FfDumpFiles *a, const FfDumpFiles *b, GError **error);

/* The two, after that check, make a guest: memory and device state of one moment, that of the
 * switch. ERROR says what must be done with those that do not. */
bool ff_dump_join_check(const FfDumpFiles *source, const FfDumpFiles *destination, GError **error);

/* What a joined file came to. */
typedef struct {
    uint64_t pages[2]; /* of 4096 bytes, as they came from the source's half, the destination's */
    bool runs;         /* the guest runs when it is restored; else it is paused */
} FfJoined;

/* After that check: writes them into O as mapped-ram. All that is read is verified. O is not
 * committed. */
bool ff_dump_join(const FfDumpFiles *source, const FfDumpFiles *destination, FfOutput *o,
                  FfJoined *joined, GError **error);

#endif
