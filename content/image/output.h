/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new file that has its name only when all of it is on the disk.
 *
 * Until ff_output_commit() it has no name at all (O_TMPFILE), so whatever ends us, nothing is left;
 * where the file system has no such files (FUSE, NFS), a name beside the final one, which an error
 * and SIGHUP, SIGINT and SIGTERM remove. A file that is there already is never replaced. Mode 0600:
 * it is a guest's memory. What is not written is a hole.
 *
 * An object belongs to one thread; with a name of its own, one object in a process, or more where
 * those three signals are blocked.
 */
#ifndef FF_CONTENT_IMAGE_OUTPUT_H
#define FF_CONTENT_IMAGE_OUTPUT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FfOutput FfOutput;

/* NULL and ERROR (G_IO_ERROR): PATH is there already, or nothing can be made beside it. */
FfOutput *ff_output_new(const char *path, GError **error);
/* The same for a library: a file that is there is replaced in one step by ff_output_commit(), and
 * no signal is caught. What a process that is killed leaves behind is PATH.XXXXXXXX.part at most,
 * never a part of PATH. */
FfOutput *ff_output_new_replacing(const char *path, GError **error);
/* The same for the engine: what is there, or what a link that is there leads to, is replaced. The
 * new file has the old one's mode, owner, group and attributes, and its first KEPT bytes, as they
 * are by then; a process that reads the old one continues with that. G_IO_ERROR_EXISTS: not all of
 * that is possible, but QEMU may be able to write in place. Nothing there: as ff_output_new(). */
FfOutput *ff_output_new_over(const char *path, uint64_t kept, GError **error);
/* A file in the directory of PATH that never has a name: not for ff_output_commit(). What is made
 * of it is to have that name, so it fails where ff_output_new() would for the directory. */
FfOutput *ff_output_new_nameless(const char *path, GError **error);
/* FD (taken), a regular file that is open for writing and reading, which is NAME in errors; it has
 * what name it has. (A block device could not be cut: a broken one would end as an older one.) Its
 * file description may be somebody else's as well: if it has O_DIRECT, that is taken off until
 * ff_output_free(). */
FfOutput *ff_output_new_fd(int fd, const char *name, GError **error);
/* O_DIRECT may be set for a while: the file description is ours alone, or had it already. Somebody
 * else's would keep it if this process were killed, and whatever else is written there fail. */
bool ff_output_may_be_direct(const FfOutput *o);
/* ff_output_commit() can do without rename(), which replaces what is there and which the engine may
 * not. A FALSE is said before anything is written. */
bool ff_output_may_be_named(FfOutput *o, GError **error);
/* Bytes on the disk of the file that it replaces, as QEMU would overwrite it; 0: none. */
uint64_t ff_output_replaced_bytes(const FfOutput *o);
/* For errors; borrowed. */
const char *ff_output_path(const FfOutput *o);
/* What was not committed has no name any more, and is not to be used. */
void ff_output_drop(FfOutput *o);
/* The same. */
void ff_output_free(FfOutput *o);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfOutput, ff_output_free)

/* At any place. */
bool ff_output_write(FfOutput *o, uint64_t at, const void *data, size_t n, GError **error);
/* [AT, AT + N) reads as zeros. */
bool ff_output_zero(FfOutput *o, uint64_t at, uint64_t n, GError **error);
/* In a row, gathered; begins where ff_output_seek() said, at first 0. */
bool ff_output_append(FfOutput *o, const void *data, size_t n, GError **error);
bool ff_output_seek(FfOutput *o, uint64_t at, GError **error);
/* Where the next byte in a row goes. */
uint64_t ff_output_at(const FfOutput *o);
/* Writes what was gathered. */
bool ff_output_flush(FfOutput *o, GError **error);
/* To read it again (borrowed); flushed first. */
int ff_output_fd(const FfOutput *o);
/* All on the disk, and then its name, if it was made here. */
bool ff_output_commit(FfOutput *o, GError **error);

#endif
