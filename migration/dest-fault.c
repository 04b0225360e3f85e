/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The postcopy fault thread: reads who waits for which page from the uffd and asks the source
 * for it over the urgent channel. Several waiters for one page make one request.
 *
 * It allocates nothing, logs nothing, and takes no lock but the urgent channel's writer lock.
 * When the connection is lost it goes on reading: who waits is noted, and waits.
 * System calls: poll, read (uffd), ioctl(UFFDIO_*).
 */
#include "migration/internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "uffd/uffd.h"

#define BATCH 64

typedef struct {
    FfMigration *m;
    FfFrame request[BATCH];
    unsigned n;
} Batch;

/* Several waiters for one page make one request. */
static void request(Batch *b, unsigned block, uint64_t page)
{
    if (!ff_bitmap_set(&b->m->blocks[block].requested, page)) {
        return;
    }
    FfFrame *f = &b->request[b->n++];
    *f = ff_frame(FF_FRAME_REQUEST, 0);
    f->epoch = b->m->epoch;
    f->block = block;
    f->page = page;
    f->n_pages = 1;
    ff_frame_encode(f);
}

static void note_fault(Batch *b, const struct uffd_msg *msg, int64_t now)
{
    FfMigration *m = b->m;
    unsigned block;
    uint64_t offset;

    if (!ff_regions_find(m->regions, msg->arg.pagefault.address, &block, &offset)) {
        return; /* not guest RAM: nothing else is registered, so the kernel never says this */
    }
    FfBlock *bl = &m->blocks[block];
    uint64_t page = offset / bl->info.page_size;
    ff_stats_wait_begin(&m->stats, block, page, msg->arg.pagefault.feat.ptid, now);
    /* Against received(): the wait is noted before the bitmap is looked at. */
    if (ff_bitmap_test(&bl->bitmap, page)) {
        int rc = ff_dest_place_again(m, block, page);
        if (rc < 0) {
            /* It waits on. Observer: recovery, which wakes everybody then, also who waits for a
             * page that is not missing any more. */
            __atomic_store_n(&m->stats.waits.overflow, 1, __ATOMIC_RELEASE);
            ff_dest_cannot_place(m, block, page, rc);
            return;
        }
        ff_stats_wait_end(&m->stats, block, page, 1, now);
        return;
    }
    request(b, block, page);
}

static void ask(Batch *b)
{
    struct iovec iov = {b->request, b->n * sizeof(FfFrame)};

    if (b->n) {
        ff_count(b->m->stats.requests, b->n);
        /* A broken channel is told by its reader. */
        if (ff_m_urgent_channel(b->m)) {
            ff_channel_write_all(ff_m_urgent_channel(b->m), &iov, 1, true);
        }
        b->n = 0;
    }
}

/* On a new connection: what was asked for on the one before, and has not come. */
static void ask_again(Batch *b)
{
    FfMigration *m = b->m;
    uint32_t n = __atomic_load_n(&m->stats.waits.high, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < n; i++) {
        unsigned block;
        uint64_t page;
        if (ff_waits_get(&m->stats.waits, i, &block, &page) &&
            !ff_bitmap_test(&m->blocks[block].bitmap, page)) {
            request(b, block, page);
        }
        if (b->n == BATCH) {
            ask(b);
        }
    }
    ask(b);
}

gpointer ff_dest_fault(gpointer p)
{
    FfMigration *m = p;
    struct uffd_msg msgs[BATCH];
    Batch b = {.m = m};

    ff_priority_urgent();
    ask_again(&b);
    for (;;) {
        struct pollfd pfd[2] = {{.fd = m->uffd, .events = POLLIN},
                                {.fd = m->fault_wake, .events = POLLIN}};
        if (poll(pfd, 2, -1) < 0 && errno != EINTR) {
            ff_m_dead(m, "poll: %s", g_strerror(errno));
            return NULL;
        }
        if (pfd[1].revents & POLLIN) {
            return NULL;
        }
        int n = ff_uffd_read(m->uffd, msgs, BATCH);
        if (n < 0) {
            ff_m_dead(m, "userfaultfd: %s", g_strerror(-n));
            return NULL;
        }
        int64_t now = g_get_monotonic_time();
        for (int i = 0; i < n; i++) {
            if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
                note_fault(&b, &msgs[i], now);
            }
        }
        ask(&b);
    }
}
