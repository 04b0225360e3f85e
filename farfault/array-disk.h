/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a ready-made array's content is: a plain file, or a folder of files of one block each. What
 * it does not have is zeros. Reading: any thread, several at once. Writing and syncing: one at a
 * time.
 */
#ifndef FARFAULT_ARRAY_DISK_H
#define FARFAULT_ARRAY_DISK_H

#include <glib.h>
#include <stdint.h>

typedef struct FfDisk FfDisk;

/* PATH, made if it is not there. *LEN: 0: as long as the file is; else it is made as long as that.
 * 0 or -errno; -EFBIG: it is longer. */
int ff_disk_open_file(const char *path, uint64_t *len, FfDisk **result);
/* The folder PATH, made if it is not there, for blocks of BLOCK_SIZE. 0 or -errno; -EMEDIUMTYPE:
 * its blocks have another size. */
int ff_disk_open_chunks(const char *path, size_t block_size, FfDisk **result);
void ff_disk_free(FfDisk *d);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDisk, ff_disk_free)

/* N bytes at AT, within one block. 0 or -errno. */
int ff_disk_read(FfDisk *d, uint64_t at, void *to, size_t n);
int ff_disk_write(FfDisk *d, uint64_t at, const void *from, size_t n);
/* All that was written is on the disk. */
int ff_disk_sync(FfDisk *d);

#endif
