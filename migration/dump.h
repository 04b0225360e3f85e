/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One half of a paused migration as files (docs/dump.md): guest memory that is here, which pages
 * that is, the device state if this side has it, and what the migration knows.
 *
 * ff_dump_new() belongs to the driver's thread and copies no memory; ff_dump_write() may take as
 * long as it likes, in any thread, also when the migration has continued or is over.
 */
#ifndef FF_MIGRATION_DUMP_H
#define FF_MIGRATION_DUMP_H

#include "migration/migration.h"

typedef struct FfDump FfDump;

/* What is to be written of M, which must be postcopy-paused. NULL and ERROR if it is not. */
FfDump *ff_dump_new(FfMigration *m, GError **error);
/* Writes it into DIRECTORY (absolute; made if it is not there). *BYTES of memory were written. */
bool ff_dump_write(FfDump *dump, const char *directory, uint64_t *bytes, GError **error);
/* What is written has the device state. */
bool ff_dump_has_device_state(const FfDump *dump);
void ff_dump_free(FfDump *dump);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDump, ff_dump_free)

#endif
