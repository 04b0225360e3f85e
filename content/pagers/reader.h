/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that reads for a pager, and can be left behind: a read that does not come back
 * (a network file system whose server is gone) holds up no thread that ends the pager.
 *
 * Between two reads the thread uses what its owner has. When a read returns -ECANCELED the owner
 * may be gone: the thread touches nothing of it any more, and returns.
 */
#ifndef FF_CONTENT_PAGERS_READER_H
#define FF_CONTENT_PAGERS_READER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What several threads read: the last one frees WHAT. */
typedef struct FfReaderFile FfReaderFile;
FfReaderFile *ff_reader_file_new(gpointer what, GDestroyNotify free);
FfReaderFile *ff_reader_file_ref(FfReaderFile *f);
/* WHAT; borrowed. */
gpointer ff_reader_file_what(const FfReaderFile *f);
void ff_reader_file_unref(FfReaderFile *f); /* F can be NULL */

typedef struct FfReader FfReader;
typedef void (*FfReaderFunc)(FfReader *r, void *owner);

/* Starts a thread NAME that runs RUN, with a page-aligned buffer of BUF_LEN bytes, of which no
 * memory is used before it is read into. */
FfReader *ff_reader_start(const char *name, size_t buf_len, FfReaderFunc run, void *owner);
/* Waits until RUN has returned, or leaves the thread behind in a read that takes longer than a
 * moment. R is gone. RUN has been told to end by other means. */
void ff_reader_end(FfReader *r);

/* ---- the thread itself ----------------------------------------------------------------------- */

uint8_t *ff_reader_buffer(const FfReader *r);
/* It was left behind. */
bool ff_reader_is_left(const FfReader *r);
/* Around a read: between the two it uses what F has and what is the thread's,
 * and nothing of its owner. LEAVE returns RC, which the read came to, or -ECANCELED. */
void ff_reader_enter(FfReader *r, FfReaderFile *f);
int ff_reader_leave(FfReader *r, int rc);

#endif
