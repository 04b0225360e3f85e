/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session of a client that asks for its pages (holder/asks.c): its memory is memfds of ours,
 * which the pager maps as well and fills by a userfaultfd of its own. Or its memory is its own, and
 * the pager reads what is asked for into a memfd, from which the holder sends it.
 */
#ifndef FF_SERVER_ASKED_H
#define FF_SERVER_ASKED_H

#include "server/session-internal.h"

/* All of these: the owner. Its image, from what the holder was told. NULL and errno. */
FfImage *ff_asked_make(FfSession *s);
/* The content of each block, from the files that the pager has: waits until they are what they
 * were. */
void ff_asked_open_source(FfSession *s);
/* Maps the memory: the image's ranges are where, and S->uffd is that userfaultfd. Or S->answer is
 * mapped; nothing must be registered then, and nothing is read ahead. 0 or -errno. */
int ff_asked_map(FfSession *s);
/* The thread that answers: it places what is asked for, without an end. S->space is registered. */
gpointer ff_asked_run(gpointer session);
/* Until something may be placed for nobody. */
void ff_asked_wait_begun(FfSession *s);
void ff_asked_close(FfSession *s);

#endif
