/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's dump in place of a source that is gone: what the destination of a paused migration
 * lacks comes from its files (docs/design/dump-recovery.md).
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_DUMP_H
#define FF_MIGRATION_DESTINATION_DUMP_H

#include "migration/destination/side.h"

/* Where a client names a dump: "file:" and an absolute path. */
#define FF_DUMP_SCHEME "file:"

/* Verifies the dump in directory PATH (NULL: the one that an engine that died has used), and
 * continues with it: postcopy-active. From the first success on the source is not resumed any more,
 * also by the next engine. FALSE and ERROR, one line: all is as it was. The guest must have been
 * granted to this side, no reader runs. */
bool ff_dest_dump_use(FfDestination *d, const char *path, GError **error);
/* D is that of an engine that adopts one; FD (taken): what was held, or -1. */
void ff_dest_dump_adopt_init(FfDestination *d, int fd);
/* The same where the engine before it was about to use one, and nothing had begun. */
void ff_dest_dump_not_begun(FfDestination *d, int fd);
/* The engine before this one has used it, and nobody has to be asked. Once. */
bool ff_dest_dump_take_adopted(FfDestination *d);
/* The client's migrate-pause, or what failed: nothing is filled any more, a thread that waits is
 * answered. */
void ff_dest_dump_pause(FfDestination *d);
/* After DONE is stored, or at the end of this process (FORGET false): nobody is answered any more.
 * No fault thread runs. */
void ff_dest_dump_end(FfDestination *d, bool forget);

#endif
