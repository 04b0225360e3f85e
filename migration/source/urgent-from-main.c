/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See urgent-from-main.h. The one that pushes writes the frame, then the head, then the eventfd.
 * The one that takes empties the eventfd before it looks at the head, so what comes later makes it
 * readable again. The eventfd is read only when the ring may be empty: not for each of many frames.
 *
 * System calls: eventfd2, read, write.
 */
#include "migration/source/urgent-from-main.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migration/common/control.h"

struct FfFeed {
    int fd;
    unsigned head; /* atomic; pushed so far. Observer: the one that takes */
    unsigned tail; /* atomic; taken so far. Observer: the one that pushes */
    FfFrame ring[FF_FEED_MAX];
};

FfFeed *ff_feed_new(GError **error)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0) {
        g_set_error(error, FF_M_ERROR, 0, "eventfd: %s", g_strerror(errno));
        return NULL;
    }
    /* Memory that was not used yet costs nothing. */
    FfFeed *feed = g_new0(FfFeed, 1);
    feed->fd = fd;
    return feed;
}

bool ff_feed_push(FfFeed *feed, const FfFrame *f)
{
    uint64_t one = 1;
    unsigned head = feed->head;

    /* Acquire: the place is read. */
    if (head - __atomic_load_n(&feed->tail, __ATOMIC_ACQUIRE) == FF_FEED_MAX) {
        return false;
    }
    feed->ring[head % FF_FEED_MAX] = *f;
    __atomic_store_n(&feed->head, head + 1, __ATOMIC_RELEASE);
    G_GNUC_UNUSED ssize_t n = write(feed->fd, &one, sizeof(one));
    return true;
}

int ff_feed_fd(const FfFeed *feed)
{
    return feed->fd;
}

unsigned ff_feed_take(FfFeed *feed, FfFrame *frames, unsigned n)
{
    uint64_t count;
    unsigned tail = feed->tail, there = __atomic_load_n(&feed->head, __ATOMIC_ACQUIRE) - tail;

    if (there <= n) {
        /* All of it goes now: what is pushed after this read wakes again, what was pushed before
         * is seen by the second look. */
        G_GNUC_UNUSED ssize_t rc = read(feed->fd, &count, sizeof(count));
        there = __atomic_load_n(&feed->head, __ATOMIC_ACQUIRE) - tail;
    }
    n = MIN(n, there);
    for (unsigned i = 0; i < n; i++) {
        frames[i] = feed->ring[(tail + i) % FF_FEED_MAX];
    }
    __atomic_store_n(&feed->tail, tail + n, __ATOMIC_RELEASE);
    return n;
}

void ff_feed_free(FfFeed *feed)
{
    if (feed) {
        close(feed->fd);
        g_free(feed);
    }
}
