/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a ready-made array's content is: a plain file; a folder of files of one block each; a
 * compressed file, which can only be read. Chunks that a folder does not have are zeros. Reading:
 * any thread, several at once. Writing and syncing: one at a time.
 */
#ifndef FARFAULT_ARRAY_DISK_H
#define FARFAULT_ARRAY_DISK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_DISK_BLOCK_MAX ((size_t)2 << 20)

typedef struct FfArrayDisk FfArrayDisk;

/* These lock it, whatever name it was given: -EBUSY, somebody has it open. A name that was made is
 * not synced. 0 or -errno. */

/* The file PATH; MAKE: if it is not there. */
int ff_array_disk_open_file(const char *path, bool make, FfArrayDisk **result);
/* The folder PATH, made if it is not there, for blocks of *BLOCK_SIZE; ANY: as it says itself, if
 * it does. -EMEDIUMTYPE: its blocks have another size; -ENOMEDIUM: what it says of that is none, or
 * it has blocks and says nothing. */
int ff_array_disk_open_chunks(const char *path, bool any, size_t *block_size, FfArrayDisk **result);
/* The file PATH, of zstd's seekable format; others can open it in this way as well. 0 or -errno,
 * said. */
int ff_array_disk_open_zstd(const char *path, FfArrayDisk **result);
/* Nothing below that writes or syncs is called then. */
bool ff_array_disk_is_read_only(const FfArrayDisk *d);
void ff_array_disk_free(FfArrayDisk *d);
/* Also a child of fork() had the lock; it has not any more. */
void ff_array_disk_unlock(FfArrayDisk *d);
/* Who may read and write it (of mode_t). */
unsigned ff_array_disk_mode(const FfArrayDisk *d);
/* Whose it is (uid_t). */
unsigned ff_array_disk_owner(const FfArrayDisk *d);
/* How long the file is, unpacked; UINT64_MAX: it is a folder. */
uint64_t ff_array_disk_len(const FfArrayDisk *d);
/* *LEN 0: as long as the file is; else it is made as long as that. 0 or -errno; -EFBIG: it is
 * longer. Of a folder nothing is done. */
int ff_array_disk_fit(FfArrayDisk *d, uint64_t *len);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfArrayDisk, ff_array_disk_free)

/* N bytes at AT, within one block; of a file, before its end. 0 or -errno; -ESTALE, of writing as
 * well: another program has cut it. */
int ff_array_disk_read(FfArrayDisk *d, uint64_t at, void *to, size_t n);
/* Somebody else has changed the file: nothing of it is kept. Any thread. */
void ff_array_disk_forget(FfArrayDisk *d);
/* N bytes at AT will be read: the kernel may begin. Any thread. */
void ff_array_disk_will_need(FfArrayDisk *d, uint64_t at, uint64_t n);
int ff_array_disk_write(FfArrayDisk *d, uint64_t at, const void *from, size_t n);
/* All that was written is on the disk. An error may be said once: what was written before is lost
 * then, and must be written again. */
int ff_array_disk_sync(FfArrayDisk *d);

#endif
