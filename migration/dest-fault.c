/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The postcopy fault thread: reads who waits for which page from the uffd and asks the source
 * for it over the urgent channel. Several waiters for one page make one request.
 *
 * It allocates nothing, logs nothing, and takes no lock but the urgent channel's writer lock.
 * When the connection is lost it goes on reading: who waits is noted, and waits.
 * System calls: poll, read (uffd), ioctl(UFFDIO_*).
 */
#include "migration/dest-fault.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "migration/dest-place.h"
#include "net/priority.h"
#include "uffd/uffd.h"

#define BATCH 64

typedef struct {
    FfDestination *d;
    FfFrame request[BATCH];
    unsigned n;
} Batch;

/* Several waiters for one page make one request. */
static void request(Batch *b, unsigned block, uint64_t page)
{
    if (!ff_bitmap_set(&b->d->ram->blocks[block].requested, page)) {
        return;
    }
    FfFrame *f = &b->request[b->n++];
    *f = ff_frame(FF_FRAME_REQUEST, 0);
    f->epoch = b->d->conn->epoch;
    f->block = block;
    f->page = page;
    f->n_pages = 1;
    ff_frame_encode(f);
}

static void note_fault(Batch *b, const struct uffd_msg *msg, int64_t now)
{
    FfDestination *d = b->d;
    unsigned block;
    uint64_t offset;

    if (!ff_regions_find(d->regions, msg->arg.pagefault.address, &block, &offset)) {
        return; /* not guest RAM: nothing else is registered, so the kernel never says this */
    }
    FfBlock *bl = &d->ram->blocks[block];
    uint64_t page = offset / bl->info.page_size;
    ff_stats_wait_begin(d->stats, block, page, msg->arg.pagefault.feat.ptid, now);
    /* Against received(): the wait is noted before the bitmap is looked at. */
    if (ff_bitmap_test(&bl->bitmap, page)) {
        int rc = ff_dest_place_again(d, block, page);
        if (rc < 0) {
            /* It waits on. Observer: recovery, which wakes everybody then, also who waits for a
             * page that is not missing any more. */
            __atomic_store_n(&d->stats->waits.overflow, 1, __ATOMIC_RELEASE);
            ff_dest_cannot_place(d, block, page, rc);
            return;
        }
        ff_stats_wait_end(d->stats, block, page, 1, now);
        return;
    }
    request(b, block, page);
}

static void ask(Batch *b)
{
    struct iovec iov = {b->request, b->n * sizeof(FfFrame)};

    if (b->n) {
        ff_count(b->d->stats->requests, b->n);
        /* A broken channel is told by its reader. */
        if (ff_conn_urgent(b->d->conn)) {
            ff_channel_write_all(ff_conn_urgent(b->d->conn), &iov, 1, true);
        }
        b->n = 0;
    }
}

/* On a new connection: what was asked for on the one before, and has not come. */
static void ask_again(Batch *b)
{
    FfDestination *d = b->d;
    uint32_t n = __atomic_load_n(&d->stats->waits.high, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < n; i++) {
        unsigned block;
        uint64_t page;
        if (ff_waits_get(&d->stats->waits, i, &block, &page) &&
            !ff_bitmap_test(&d->ram->blocks[block].bitmap, page)) {
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
    FfDestination *d = p;
    struct uffd_msg msgs[BATCH];
    Batch b = {.d = d};

    ff_priority_urgent();
    ask_again(&b);
    for (;;) {
        struct pollfd pfd[2] = {{.fd = d->uffd, .events = POLLIN},
                                {.fd = d->fault_wake, .events = POLLIN}};
        if (poll(pfd, 2, -1) < 0 && errno != EINTR) {
            ff_control_dead(d->control, "poll: %s", g_strerror(errno));
            return NULL;
        }
        if (pfd[1].revents & POLLIN) {
            return NULL;
        }
        int n = ff_uffd_read(d->uffd, msgs, BATCH);
        if (n < 0) {
            ff_control_dead(d->control, "userfaultfd: %s", g_strerror(-n));
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
