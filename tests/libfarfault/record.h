/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the library does to files, call by call: the program that is linked with this stands in
 * front of libc. So every prefix of it can be replayed, with and without what was not synced.
 */
#ifndef FF_TESTS_LIBFARFAULT_RECORD_H
#define FF_TESTS_LIBFARFAULT_RECORD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum {
    OP_WRITE,
    OP_SIZE,
    OP_SYNC,
    OP_LINK,
    OP_RENAME,
    OP_SYNC_DIRECTORY,
    OP_CREATE, /* by openat(): the file was not there */
} OpKind;

typedef struct {
    OpKind kind;
    ino_t ino; /* of the file; 0: OP_LINK, OP_RENAME */
    uint64_t offset;
    GBytes *data; /* OP_WRITE */
    char *name;   /* OP_LINK, OP_RENAME, OP_CREATE: the new one, as it was given */
} Op;

/* Of Op; g_array_unref(). */
GArray *record_new(void);
/* From now on, into OPS: of files on the file system of PATH's folder. One at a time. */
void record_start(GArray *ops, const char *path);
void record_stop(void);
/* ON: nothing is synced, which takes most of the time where what was replayed is only looked at.
 * While one thread runs. */
void record_no_syncs(bool on);
/* From now on gathered writes, or syncs of data, fail with that (0: not). Any thread. */
void record_fail(int writes, int syncs);
/* Bytes that are read at a place of the file PATH (NULL: none) from now on. While one thread runs.
 */
void record_count_reads(const char *path);
uint64_t record_reads(void);
/* Of syncs only those of the file PATH; NULL: of any. While one thread runs. */
void record_fail_at(const char *path);

#endif
