/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests that came on the main connection, on their way from the source's main reader to its
 * urgent thread: a ring of frames and an eventfd.
 *
 * Threads: one pushes, one takes. No lock and no allocation: the urgent thread is on the fault
 * path.
 */
#ifndef FF_MIGRATION_SOURCE_URGENT_FROM_MAIN_H
#define FF_MIGRATION_SOURCE_URGENT_FROM_MAIN_H

#include "net/frame.h"

/* So many requests may wait: more than any destination has waiters for. (A vCPU waits for many
 * pages at once where the hypervisor can do something else meanwhile: KVM's asynchronous page
 * faults.) */
#define FF_FEED_MAX 65536

typedef struct FfFeed FfFeed;

/* NULL and ERROR: no eventfd can be had. */
FfFeed *ff_feed_new(GError **error);
/* Hands on F, encoded. FALSE: it is full. */
bool ff_feed_push(FfFeed *feed, const FfFrame *f);
/* Readable while there is something to take, and perhaps once more. */
int ff_feed_fd(const FfFeed *feed);
/* Takes up to N frames, in order. Returns how many. */
unsigned ff_feed_take(FfFeed *feed, FfFrame *frames, unsigned n);
/* No thread is left. FEED can be NULL. */
void ff_feed_free(FfFeed *feed);

#endif
