/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of an array: pages that were changed, and the end of each transaction. A transaction
 * whose end is in the log is valid as a whole; what comes after the last one is not. Of a file
 * without a name it is the place for what has no room in memory.
 *
 * The file is a header and records in a row, each with a checksum, and with a number that is drawn
 * for each transaction: what an earlier one left behind is not taken for a part of this one.
 *
 * Adding, dropping, reading and replaying: any thread. Begin, end and reset: while nobody adds;
 * reset: while nobody replays.
 */
#ifndef FARFAULT_REDO_H
#define FARFAULT_REDO_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_REDO_PAGE 4096u

typedef struct FfRedo FfRedo;

/* FD is taken, also on failure. LEN: of the array. NAMELESS: nobody replays it, and a page that is
 * added again takes its old place. Else what the file holds is kept until ff_redo_reset(). 0 or
 * -errno. */
int ff_redo_new(int fd, uint64_t len, bool nameless, FfRedo **result);
void ff_redo_free(FfRedo *r);
/* Also a child of fork() had the lock; it has not any more. */
void ff_redo_unlock(FfRedo *r);
/* Of the array, before anything is added. */
void ff_redo_set_len(FfRedo *r, uint64_t len);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRedo, ff_redo_free)

/* Calls PAGES for the pages of each transaction that has its end, in the order in which they were
 * committed. *LEN: of the array that they are of; 0: the file is no log yet. Stops with what PAGES
 * says. 0 or -errno; -EBADMSG: the file is something else; -EPROTO: of another version. */
typedef int FfRedoPages(void *opaque, uint64_t first, uint64_t n, const void *data);
int ff_redo_replay(FfRedo *r, uint64_t *len, FfRedoPages *pages, void *opaque);
/* The log is empty, on the disk. 0 or -errno. */
int ff_redo_reset(FfRedo *r);
/* Adds N pages from FIRST on; one that is there as it is now, from this transaction, is not written
 * again. 0; -errno: nobody knows what is in the log of them, until they are added again. */
int ff_redo_add(FfRedo *r, uint64_t first, uint64_t n, const void *data);
/* The page as it was added last in this transaction. -ENOENT: it was not. */
int ff_redo_read(FfRedo *r, uint64_t page, void *data);
/* The page as the last transaction that has ended, and has it, left it. -ENOENT: none has. The
 * first call looks through all of them, so none may end after it. */
int ff_redo_read_ended(FfRedo *r, uint64_t page, void *data);
/* Of N pages from FIRST on what was added in this transaction is not a part of it. They can be read
 * until ff_redo_forget(), which must follow before they are added again. 0; -errno: all is as
 * before. */
int ff_redo_drop(FfRedo *r, uint64_t first, uint64_t n);
/* It is not read any more: ff_redo_read() says -ENOENT. Its record stays, and counts. */
void ff_redo_forget(FfRedo *r, uint64_t page);
/* Ends the transaction: after this it is valid, whatever happens. Its pages can be read until
 * ff_redo_begin(). -errno: nobody knows (ff_redo_is_lost()). */
int ff_redo_end(FfRedo *r);
/* What was ended before was not, or was in vain: no change of it will be seen. */
bool ff_redo_is_lost(const FfRedo *r);
/* The next transaction; what was added since the last end is dropped. */
void ff_redo_begin(FfRedo *r);
/* Bytes of transactions that have ended. */
uint64_t ff_redo_size(const FfRedo *r);

#endif
