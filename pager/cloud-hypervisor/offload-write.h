/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes a snapshot (offload.h) into a folder: a whole one, or none. No file has a name before all
 * of them are on the disk, and migration_config.json, without which the others are nothing, gets
 * its name last. What is in the folder is never replaced. Mode 0600.
 *
 * An object belongs to one thread, which has SIGHUP, SIGINT and SIGTERM blocked.
 */
#ifndef FF_PAGER_CLOUD_HYPERVISOR_OFFLOAD_WRITE_H
#define FF_PAGER_CLOUD_HYPERVISOR_OFFLOAD_WRITE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "pager/cloud-hypervisor/offload.h"

typedef struct FfOffloadWriter FfOffloadWriter;

/* Asked before each piece of memory (1 MiB): FALSE and ERROR: it is not to be written any more. */
typedef bool (*FfOffloadGo)(void *opaque, GError **error);

/* Into the folder PATH (borrowed), which is made if it is not there (its parent must be). NULL and
 * ERROR (G_IO_ERROR, one line that names the file): it has a snapshot, or a part of one; or nothing
 * can be written there. */
FfOffloadWriter *ff_offload_writer_new(const char *path, GError **error);
/* What was not committed has left nothing, nor has the folder, if it was made here. Can be NULL. */
void ff_offload_writer_free(FfOffloadWriter *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfOffloadWriter, ff_offload_writer_free)

/* memory-SLOT, on the disk: SLOT's bytes of MEMORY, a regular file whose position is moved. Holes
 * and pages of zeros become holes. FALSE and ERROR: it cannot be read or written, is too small at
 * the end, or GO says so. */
bool ff_offload_writer_memory(FfOffloadWriter *w, const FfOffloadSlot *slot, int memory,
                              FfOffloadGo go, void *opaque, GError **error);
/* The other two files, on the disk; after this all have their names. FALSE and ERROR: none has. */
bool ff_offload_writer_commit(FfOffloadWriter *w, const GByteArray *config, const GByteArray *state,
                              GError **error);
/* Bytes of memory that are no holes. */
uint64_t ff_offload_writer_bytes(const FfOffloadWriter *w);

#endif
