/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a ready-made array's content is: a plain file, or a folder of files of one block each. What
 * it does not have is zeros. Reading: any thread, several at once. Writing and syncing: one at a
 * time.
 */
#ifndef FARFAULT_ARRAY_DISK_H
#define FARFAULT_ARRAY_DISK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FfDisk FfDisk;

/* Both lock it, whatever name it was given: -EBUSY, somebody has it open. A name that was made is
 * not synced. 0 or -errno. */

/* The file PATH; MAKE: if it is not there. */
int ff_disk_open_file(const char *path, bool make, FfDisk **result);
/* The folder PATH, made if it is not there, for blocks of BLOCK_SIZE. -EMEDIUMTYPE: its blocks have
 * another size. */
int ff_disk_open_chunks(const char *path, size_t block_size, FfDisk **result);
void ff_disk_free(FfDisk *d);
/* Also a child of fork() had the lock; it has not any more. */
void ff_disk_unlock(FfDisk *d);
/* Who may read and write it (of mode_t). */
unsigned ff_disk_mode(const FfDisk *d);
/* How long the file is; UINT64_MAX: it is a folder. */
uint64_t ff_disk_len(const FfDisk *d);
/* *LEN 0: as long as the file is; else it is made as long as that. 0 or -errno; -EFBIG: it is
 * longer. Of a folder nothing is done. */
int ff_disk_fit(FfDisk *d, uint64_t *len);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDisk, ff_disk_free)

/* N bytes at AT, within one block. 0 or -errno. */
int ff_disk_read(FfDisk *d, uint64_t at, void *to, size_t n);
/* N bytes at AT will be read: the kernel may begin. Any thread. */
void ff_disk_will_need(FfDisk *d, uint64_t at, uint64_t n);
int ff_disk_write(FfDisk *d, uint64_t at, const void *from, size_t n);
/* All that was written is on the disk. An error may be said once: what was written before is lost
 * then, and must be written again. */
int ff_disk_sync(FfDisk *d);

#endif
