/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file whose reads are answered when, and as, the test says so: a FUSE file system of one file,
 * over raw /dev/fuse, with direct I/O (the reader's own pages are pinned until the answer comes).
 */
#ifndef FF_TESTS_SLOWFILE_H
#define FF_TESTS_SLOWFILE_H

#include <stdint.h>

#define SLOWFILE_SIZE (4u << 20)
/* Reads from here on are held; those before are answered at once. */
#define SLOWFILE_HELD (1u << 20)
/* Every byte of it. */
#define SLOWFILE_BYTE 0x5a

typedef struct SlowFile SlowFile;
/* Mounts it at DIRECTORY, which must exist. NULL and *WHY (static) where that is not possible. */
SlowFile *slowfile_new(const char *directory, const char **why);
/* The same with the size, the times and the content of the file at CONTENT, read-only, and nothing
 * of it held. */
SlowFile *slowfile_new_of(const char *directory, const char *content, const char **why);
/* From now on reads are held that begin in [FROM, TO), bytes. */
void slowfile_hold(SlowFile *f, uint64_t from, uint64_t to);
/* Reads of byte AT fail with ERROR (errno; 0: no more). */
void slowfile_fail(SlowFile *f, uint64_t at, int error);
/* The path of the file; it lives as long as the object. */
const char *slowfile_path(const SlowFile *f);
/* Waits until a read is held. */
void slowfile_wait_held(SlowFile *f);
/* Answers what is held, and from now on everything at once. */
void slowfile_release(SlowFile *f);
void slowfile_free(SlowFile *f);

#endif
