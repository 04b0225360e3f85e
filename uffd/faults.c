/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fault thread. It allocates nothing for a fault, logs nothing, and takes no lock in a space
 * without events. Several waiters for one page make one request.
 *
 * In a space with events one read may return faults and events, and the kernel gives faults first:
 * one that came after a change is read before it. So:
 * - A fault in the same batch as a later event is not looked at: the thread that waits is woken,
 * and told again.
 * - Every event wakes the threads that wait in the ranges of which it tells, at the old address and
 * the new one.
 * - A fault at no address that is known, or one that cannot be answered (EAGAIN), is put off if a
 * change is under way, until it has been read. The end of the change has no event of its own
 * (space.c), so this looks again after a moment. A request that was made for an address that is not
 * right any more does no harm.
 * - What was put off is told only after an event, or when no more faults are there to be read:
 * faults that come again and again would keep the event from being read. With FfCallers (callers.h)
 * one message is read at a time, and it is told only after the event.
 *
 * REMOVE comes before the kernel takes the pages out, and the process continues as soon as it was
 * read: from the read on the space is locked, and in there the pages become unwanted. What is
 * placed afterwards is zeros, for any thread that misses it.
 *
 * With FfMessages (messages.h) another process reads, under its gate in place of the lock, and what
 * comes is one event at most.
 *
 * Threads: the fault thread. System calls: poll, read (uffd, eventfd), write (eventfd),
 * ioctl(UFFDIO_*), close.
 */
#include "uffd/faults.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/place.h"
#include "uffd/protect.h"
#include "uffd/space-internal.h"
#include "uffd/uffd.h"

#define BATCH FF_SPACE_BATCH
#define LOOK_AGAIN_MS 1
/* So long after ff_faults_stop(): a process can change its mappings all the time. */
#define LAST_LOOKS_US (1000 * 1000)
#define SMALL_PAGE 4096ull

typedef struct {
    FfSpace *s;
    FfRun request[BATCH];
    unsigned n;
    FfPresent fresh; /* pages that events have made unwanted */
    int64_t now;
    int rc;            /* the first failure */
    FfRun failed_page; /* of which; n is 0 where it is not known */
    bool dead;         /* nothing can be read any more */
    bool no_fd;        /* nothing could be read the last time, for want of an fd or memory */
    bool is_readable;  /* poll() has said so */
    bool has_more;     /* the last read has ended in the middle of faults */
    uint32_t sharers;  /* bits of those of which something can be read */
    int64_t last_look; /* monotonic us; 0: nobody has asked for the end yet */
} Batch;

static void failed_at(Batch *b, unsigned block, uint64_t page, int rc)
{
    if (!b->rc) {
        b->rc = rc;
        b->failed_page = (FfRun){block, page, 1};
    }
}

static void note_failure(Batch *b, int rc)
{
    if (!b->rc) {
        b->rc = rc;
        b->failed_page = (FfRun){0};
    }
}

/* ---- events: the space is locked ------------------------------------------------------------- */

typedef struct {
    Batch *b;
    FfRemoved why;
} Removal;

static void make_unwanted(FfSpace *s, const FfRun *run, void *opaque)
{
    Removal *r = opaque;
    FfPager *pager = s->cfg.pager;

    uint64_t fresh = ff_place_unwanted(s, run);
    r->b->fresh.pages += fresh;
    r->b->fresh.bytes += fresh * s->blocks[run->block].backing.page_size;
    if (pager && pager->removed) {
        pager->removed(pager, run, r->why);
    }
}

/* The process gives RUN back, or so it seems. */
static void give_back(FfSpace *s, const FfRun *run, void *opaque)
{
    bool is_shared = s->blocks[run->block].backing.kind != FF_BACKING_PRIVATE;

    if (is_shared && s->cfg.shared_remove == FF_SHARED_REMOVE_UNMAPS) {
        return;
    }
    if (s->protect) {
        ff_protect_removed(s->protect, run);
    }
    if (!is_shared || s->cfg.shared_remove == FF_SHARED_REMOVE_GIVES_BACK) {
        make_unwanted(s, run, opaque);
    } else if (ff_bitmap_count_run(&s->blocks[run->block].placed, run->first, run->n) < run->n) {
        note_failure(((Removal *)opaque)->b, -ENOTSUP);
    }
}

/* Of a huge page a part: the kernel makes it zeros if the page is there, whatever protects it. If
 * it is missing its old content would come back; what is protected is never missing. */
static void give_part_back(FfSpace *s, const FfRun *run, void *opaque)
{
    if (s->protect) {
        ff_protect_removed(s->protect, run);
        return;
    }
    if (!ff_bitmap_test(&s->blocks[run->block].placed, run->first)) {
        note_failure(((Removal *)opaque)->b, -ENOTSUP);
    }
}

/* What is unmapped here is in the file still, where others may have it. */
static void unmap_run(FfSpace *s, const FfRun *run, void *opaque)
{
    if (s->protect && s->blocks[run->block].backing.kind == FF_BACKING_PRIVATE) {
        ff_protect_drop_doubted(s->protect, run);
        ff_protect_removed(s->protect, run);
    }
    make_unwanted(s, run, opaque);
}

static void handle_remove(Batch *b, const struct uffd_msg *msg)
{
    uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;
    Removal r = {b, FF_REMOVED_GIVEN_BACK};

    ff_space_each_run(b->s, start, end, give_back, give_part_back, &r);
    ff_uffd_wake(b->s->cfg.uffd, start, end - start);
}

static void handle_unmap(Batch *b, const struct uffd_msg *msg)
{
    uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;
    Removal r = {b, FF_REMOVED_UNMAPPED};

    if (!ff_space_is_expected_unmap(b->s, start, end)) {
        /* The kernel unmaps no part of a huge page. */
        ff_space_each_run(b->s, start, end, unmap_run, unmap_run, &r);
        ff_space_cut(b->s, start, end);
    }
    ff_uffd_wake(b->s->cfg.uffd, start, end - start);
}

static void drop_doubted(FfSpace *s, const FfRun *run, void *opaque)
{
    ff_protect_drop_doubted(s->protect, run);
}

static void handle_remap(Batch *b, const struct uffd_msg *msg)
{
    uint64_t from = msg->arg.remap.from, to = msg->arg.remap.to, len = msg->arg.remap.len;

    if (b->s->protect) {
        ff_space_each_run(b->s, from, from + len, drop_doubted, drop_doubted, NULL);
        ff_space_each_run(b->s, to, to + len, drop_doubted, drop_doubted, NULL);
    }
    ff_space_move(b->s, from, to, len);
    ff_space_expect_unmap(b->s, from, from + len);
    ff_uffd_wake(b->s->cfg.uffd, from, len);
    ff_uffd_wake(b->s->cfg.uffd, to, len);
}

static void handle_fork(Batch *b, const struct uffd_msg *msg)
{
    const FfSpaceConfig *cfg = &b->s->cfg;

    if (cfg->messages) {
        cfg->messages->forked(cfg->messages, msg->arg.fork.ufd);
        return;
    }
    cfg->ops->forked(ff_space_fork(b->s, msg->arg.fork.ufd), cfg->opaque);
}

static void handle_event(Batch *b, const struct uffd_msg *msg)
{
    ff_space_count(b->s, events);
    if (b->s->protect) {
        ff_protect_stir(b->s->protect, msg->event == UFFD_EVENT_REMOVE);
    }
    switch (msg->event) {
    case UFFD_EVENT_FORK:
        handle_fork(b, msg);
        break;
    case UFFD_EVENT_REMAP:
        handle_remap(b, msg);
        break;
    case UFFD_EVENT_REMOVE:
        handle_remove(b, msg);
        break;
    case UFFD_EVENT_UNMAP:
        handle_unmap(b, msg);
        break;
    default:
        note_failure(b, -EPROTO); /* of a feature that nobody asked for */
    }
}

static bool is_event(const struct uffd_msg *msg)
{
    return msg->event != UFFD_EVENT_PAGEFAULT;
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* Somebody waits on, whom nobody has noted. Observer: ff_faults_again(), which wakes everybody
 * then. */
static void wait_for_again(FfSpace *s)
{
    __atomic_store_n(&s->waits.overflow, 1, __ATOMIC_RELEASE);
}

/* What ADDR waits for cannot be had now, for RC. Where nobody starts this thread again by
 * ff_faults_again(), which wakes everybody, it is tried until there is memory. */
static void wait_on(Batch *b, uint64_t addr, int rc)
{
    if (b->s->cfg.messages && rc == -ENOMEM) {
        ff_space_defer(b->s, addr);
    } else {
        wait_for_again(b->s);
    }
}

/* At ADDR the space has nothing. */
static void handle_stray(Batch *b, uint64_t addr)
{
    FfSpace *s = b->s;
    uint64_t done;

    if (s->changes && ff_uffd_is_changing(s->cfg.uffd)) {
        ff_space_defer(s, addr);
        return;
    }
    int rc = s->cfg.grows ? ff_uffd_try(s->cfg.uffd, FF_UFFD_ZERO, addr, NULL, SMALL_PAGE, &done)
                          : -EFAULT;
    if (rc == -EAGAIN) {
        ff_space_defer(s, addr);
    } else if (rc == -EEXIST || rc == -ENOENT) {
        ff_uffd_wake(s->cfg.uffd, addr, SMALL_PAGE);
    } else if (rc < 0 && rc != -ESRCH) {
        wait_on(b, addr, rc);
        note_failure(b, rc);
    }
}

static void handle_write(Batch *b, unsigned block, uint64_t page)
{
    FfSpace *s = b->s;
    FfPager *pager = s->cfg.pager;
    FfRun run = {block, page, 1};
    int rc = 0;

    ff_space_count(s, written);
    if (s->protect) {
        rc = ff_protect_fault(s->protect, block, page);
    } else if (pager && pager->written) {
        pager->written(pager, &run);
    } else {
        rc = ff_protect_lift(s, &run);
    }
    if (rc < 0 && rc != -ESRCH) {
        failed_at(b, block, page, rc);
    }
}

static void add_request(Batch *b, unsigned block, uint64_t page)
{
    if (ff_bitmap_set(&b->s->blocks[block].requested, page)) {
        b->request[b->n++] = (FfRun){block, page, 1};
    }
}

/* PAGE needs nothing any more. Where others have it as well, one of them may have been noted before
 * it was placed: the thread that marks it would not find him any more, and wakes nobody. */
static void end_waits(FfSpace *s, unsigned block, uint64_t page)
{
    uint64_t len, addr;

    if (!ff_space_end_waits(s, block, page, 1) ||
        !__atomic_load_n(&s->sharers.n, __ATOMIC_SEQ_CST)) {
        return;
    }
    addr = ff_space_find_addr(s, block, page, &len);
    if (addr) {
        ff_uffd_wake(s->cfg.uffd, addr, s->blocks[block].backing.page_size);
    }
    ff_sharers_wake(&s->sharers, block, page, 1);
}

/* PAGE was placed before. */
static void answer_again(Batch *b, unsigned block, uint64_t page, bool minor, uint64_t addr)
{
    if (b->s->cfg.comes_again && !minor) {
        ff_place_forget(b->s, &(FfRun){block, page, 1}); /* wakes: it may be there by now */
        add_request(b, block, page);
        return;
    }
    int rc = ff_place_again(b->s, block, page, minor);

    if (rc == -ENOENT) {
        add_request(b, block, page);
        return;
    }
    if (rc == -EAGAIN) {
        ff_space_defer(b->s, addr);
    } else if (rc < 0) {
        wait_on(b, addr, rc);
        failed_at(b, block, page, rc);
        return;
    }
    end_waits(b->s, block, page);
}

static void note_wait(Batch *b, unsigned block, uint64_t page, int32_t tid)
{
    const FfSpaceConfig *cfg = &b->s->cfg;
    FfWait *wait = ff_waits_free_slot(&b->s->waits);

    if (wait) {
        int32_t who =
            cfg->ops && cfg->ops->wait_began ? cfg->ops->wait_began(tid, b->now, cfg->opaque) : tid;
        ff_waits_begin(&b->s->waits, wait, block, page, who, b->now);
    }
}

static void handle_pagefault(Batch *b, const struct uffd_msg *msg)
{
    FfSpace *s = b->s;
    uint64_t addr = msg->arg.pagefault.address & ~(SMALL_PAGE - 1), page;
    bool minor = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;
    unsigned block;

    if (!ff_space_find(s, addr, &block, &page)) {
        handle_stray(b, addr);
        return;
    }
    if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
        handle_write(b, block, page);
        return;
    }
    if (minor) {
        ff_space_count(s, minor);
    } else {
        ff_space_count(s, missing);
    }
    note_wait(b, block, page, msg->arg.pagefault.feat.ptid);
    /* Against mark() in place.c: the wait is noted before the bitmap is looked at. */
    if (ff_bitmap_test(&s->blocks[block].placed, page)) {
        answer_again(b, block, page, minor, addr);
    } else {
        add_request(b, block, page);
    }
}

static void ask_pager(Batch *b)
{
    FfPager *pager = b->s->cfg.pager;

    if (b->n) {
        int rc = pager && pager->request ? pager->request(pager, b->request, b->n) : -ENOSYS;
        b->n = 0;
        if (rc < 0) {
            note_failure(b, rc);
        }
    }
}

/* A waiter that was noted by a thread before this one keeps its wait: when it began, it began. */
static void ask_noted(Batch *b)
{
    FfSpace *s = b->s;
    uint32_t high = __atomic_load_n(&s->waits.high, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < high; i++) {
        unsigned block;
        uint64_t page;
        if (ff_waits_get(&s->waits, i, &block, &page) &&
            !ff_bitmap_test(&s->blocks[block].placed, page)) {
            add_request(b, block, page);
        }
        if (b->n == BATCH) {
            ask_pager(b);
        }
    }
    ask_pager(b);
}

static void forget_requests(FfSpaceBlock *b)
{
    uint64_t first, n;

    for (uint64_t at = 0; (n = ff_bitmap_next_run(&b->requested, at, true, &first));
         at = first + n) {
        ff_bitmap_clear_run(&b->requested, first, n);
    }
}

void ff_faults_again(FfSpace *s)
{
    uint64_t stops;

    while (read(s->wake_fd, &stops, sizeof(stops)) < 0 && errno == EINTR) {
    }
    ff_space_uncancel(s);
    for (unsigned i = 0; i < s->n_blocks; i++) {
        forget_requests(&s->blocks[i]);
    }
    if (__atomic_exchange_n(&s->waits.overflow, 0, __ATOMIC_ACQ_REL)) {
        ff_space_wake_all(s); /* those that nobody has noted */
    }
}

/* ---- other processes, which wait in userfaultfds of their own (sharers.h) -------------------- */

/* PAGE, which begins at START there, was placed: it is there, or is zeros in no file yet. */
static void answer_sharer(Batch *b, FfSharer *x, unsigned block, uint64_t page, uint64_t start)
{
    FfSpace *s = b->s;
    uint64_t ps = s->blocks[block].backing.page_size;
    int rc = 0;

    pthread_mutex_lock(&s->again_lock);
    bool placed = ff_bitmap_test(&s->blocks[block].placed, page);
    if (placed) {
        rc = ff_sharer_place_zeros(x, start, ps, s->zeros);
    }
    pthread_mutex_unlock(&s->again_lock);
    if (!placed) {
        add_request(b, block, page);
        return;
    }
    if (rc == -EEXIST || rc == -EAGAIN || rc == -ENOENT) {
        ff_uffd_wake(x->uffd, start, ps);
    } else if (rc == -ENOMEM) {
        wait_for_again(s);
        failed_at(b, block, page, rc);
        return;
    } else if (rc < 0 && rc != -ESRCH) {
        /* What it has there is not what it has said: it waits until all is there, and nobody else
         * for it. */
        x->broken = true;
    }
    end_waits(s, block, page);
}

static void handle_sharer(Batch *b, FfSharer *x, const struct uffd_msg *msg)
{
    uint64_t page, start;
    unsigned block;

    if (msg->event == UFFD_EVENT_FORK) {
        close(msg->arg.fork.ufd); /* of no conforming one */
    }
    /* At no address that is known it waits until it unregisters that. */
    if (is_event(msg) || msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP ||
        !ff_sharer_find(x, msg->arg.pagefault.address, &block, &page, &start)) {
        return;
    }
    ff_space_count(b->s, missing);
    note_wait(b, block, page, 0);
    if (ff_bitmap_test(&b->s->blocks[block].placed, page)) {
        answer_sharer(b, x, block, page, start);
    } else {
        add_request(b, block, page);
    }
}

static void answer_sharers(Batch *b)
{
    struct uffd_msg msgs[BATCH];

    for (; b->sharers; b->sharers &= b->sharers - 1) {
        FfSharer *x = &b->s->sharers.all[__builtin_ctz(b->sharers)];
        int n = ff_uffd_read(x->uffd, msgs, BATCH);

        b->now = g_get_monotonic_time();
        for (int k = 0; k < n; k++) {
            handle_sharer(b, x, &msgs[k]);
        }
        ask_pager(b);
    }
}

/* What poll() is to look at; all of them, live or not, so that a place is a number. */
static unsigned poll_sharers(FfSpace *s, struct pollfd *pfd)
{
    unsigned n = __atomic_load_n(&s->sharers.n, __ATOMIC_SEQ_CST);

    for (unsigned i = 0; i < n; i++) {
        const FfSharer *x = &s->sharers.all[i];

        pfd[i] = (struct pollfd){.fd = x->broken ? -1 : x->uffd, .events = POLLIN};
    }
    return n;
}

static void note_sharers(Batch *b, const struct pollfd *pfd, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (pfd[i].revents & (POLLERR | POLLNVAL)) {
            b->s->sharers.all[i].broken = true;
        }
        b->sharers |= (uint32_t) !!(pfd[i].revents & POLLIN) << i;
    }
}

static void forget_change(FfSpace *s, const struct pollfd *pfd)
{
    uint64_t changes;

    if (pfd->revents) {
        (void)!read(s->sharers.changed_fd, &changes, sizeof(changes));
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void tell_deferred(Batch *b)
{
    FfSpace *s = b->s;
    unsigned n = s->n_deferred;

    /* Faults are read before events: many threads that are told again would come before it for
     * ever. */
    if (b->has_more || (s->protect && ff_protect_awaits_event(s->protect))) {
        return;
    }
    s->n_deferred = 0;
    for (unsigned i = 0; i < n; i++) {
        ff_uffd_wake(s->cfg.uffd, s->deferred[i], SMALL_PAGE);
    }
    if (s->rest_end) {
        ff_uffd_wake(s->cfg.uffd, s->rest_start, s->rest_end - s->rest_start);
        s->rest_start = s->rest_end = 0;
    }
    if (s->has_late) {
        int rc = ff_protect_lift_late(s);
        if (rc < 0 && rc != -ESRCH) {
            note_failure(b, rc);
        }
    }
    if (s->protect) {
        ff_protect_end_doubts(s->protect);
    }
}

/* A thread that waits for what the answer needs is known before it is read of: a child, and what
 * somebody gives back. */
static int read_known(Batch *b, struct uffd_msg *msgs)
{
    FfSpace *s = b->s;
    size_t max = s->cfg.features & UFFD_FEATURE_EVENT_FORK ? 1 : BATCH;

    if (s->protect && ff_protect_keep_given(s->protect, b->is_readable)) {
        max = b->is_readable;
    }
    return max ? ff_uffd_read(s->cfg.uffd, msgs, max) : 0;
}

/* Reads messages and makes the changes of which they tell. Returns their number or -errno. *FIRST
 * is the first one that comes after all events. */
static int take_messages(Batch *b, struct uffd_msg *msgs, int *first)
{
    FfSpace *s = b->s;

    *first = 0;
    if (!s->changes) {
        return ff_uffd_read(s->cfg.uffd, msgs, BATCH);
    }
    pthread_rwlock_wrlock(&s->lock);
    ff_space_forget_expected(s);
    FfMessages *m = s->cfg.messages;
    int n = m ? 0 : ff_space_prepare_fork(s);
    if (m) {
        n = m->read(m, msgs, BATCH);
    } else if (n == 0) {
        n = read_known(b, msgs);
    }
    for (int i = 0; i < n; i++) {
        if (is_event(&msgs[i])) {
            handle_event(b, &msgs[i]);
            *first = i + 1;
        }
    }
    if (*first) {
        pthread_mutex_lock(&s->changed_lock);
        s->generation++;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->changed_lock);
        if (m) {
            m->applied(m, b->rc);
        }
    }
    pthread_rwlock_unlock(&s->lock);
    return n;
}

/* Of N messages those after the event, which is at FIRST - 1. */
static void answer_faults(Batch *b, const struct uffd_msg *msgs, int first, int n)
{
    bool can = first < n && ff_space_begin_answers(b->s);

    for (int i = 0; i < n; i++) {
        uint64_t addr = msgs[i].arg.pagefault.address & ~(SMALL_PAGE - 1);
        if (i >= first && can) {
            handle_pagefault(b, &msgs[i]);
        } else if (i >= first) {
            ff_space_defer(b->s, addr);
        } else if (!is_event(&msgs[i])) {
            ff_uffd_wake(b->s->cfg.uffd, addr, SMALL_PAGE);
        }
    }
    if (can) {
        ff_space_end_answers(b->s);
    }
}

static void answer_messages(Batch *b)
{
    struct uffd_msg msgs[BATCH];
    int first;
    int n = take_messages(b, msgs, &first);

    b->has_more = n == BATCH && !first;
    if (n == -EMFILE || n == -ENFILE || n == -ENOMEM) {
        /* The userfaultfd of a child cannot be had now: the process waits in fork() until it can.
         */
        if (!b->no_fd) {
            note_failure(b, n);
        }
        b->no_fd = true;
        return;
    }
    b->no_fd = false;
    if (n < 0) {
        note_failure(b, n);
        b->dead = true;
        return;
    }
    b->now = g_get_monotonic_time();
    FF_FAULT_AT("faults-read");
    answer_faults(b, msgs, first, n);
    ask_pager(b);
    ff_place_tell(b->s, &b->fresh);
    b->fresh = (FfPresent){.as = FF_PRESENT_NOTHING};
}

static bool has_deferred(const FfSpace *s)
{
    return s->n_deferred || s->has_late || (s->protect && ff_protect_has_doubts(s->protect));
}

/* FALSE: the end. Not before everything that was put off has been done: nobody else would, and
 * the change that it waits for ends soon, as this has read its event or is about to. Unless the
 * next change has begun by then, again and again: then it stays put off. A fault thread that
 * ends for good unregisters, which no change is in the way of, and one that runs again finds it. */
static bool wait_for_messages(Batch *b)
{
    const FfMessages *m = b->s->cfg.messages;
    struct pollfd pfd[3 + FF_MAX_SHARERS] = {{.fd = m ? m->fd : b->s->cfg.uffd, .events = POLLIN},
                                             {.fd = b->s->wake_fd, .events = POLLIN},
                                             {.fd = b->s->sharers.changed_fd, .events = POLLIN}};
    unsigned sharers = poll_sharers(b->s, pfd + 3);

    if (b->last_look && has_deferred(b->s)) {
        pfd[1].fd = -1; /* it has said so; this waits for the change */
    }
    if (b->no_fd) {
        pfd[0].fd = -1; /* else this would not wait. What becomes free has no event */
    }
    while (poll(pfd, 3 + sharers, has_deferred(b->s) || b->no_fd ? LOOK_AGAIN_MS : -1) < 0) {
        if (errno != EINTR) {
            note_failure(b, -errno);
            b->dead = true;
            return false;
        }
    }
    if (pfd[0].revents & (POLLERR | POLLHUP | POLLNVAL)) {
        note_failure(b, -EBADF); /* not initialised, not O_NONBLOCK, or closed */
        b->dead = true;
    }
    b->is_readable = pfd[0].revents & POLLIN;
    forget_change(b->s, &pfd[2]);
    note_sharers(b, pfd + 3, sharers);
    if (pfd[1].revents && !b->last_look) {
        b->last_look = g_get_monotonic_time() + LAST_LOOKS_US;
    }
    return !b->dead &&
           (!b->last_look || (has_deferred(b->s) && g_get_monotonic_time() < b->last_look));
}

static void tell_failed(const Batch *b)
{
    const FfSpaceOps *ops = b->s->cfg.ops;

    if (b->rc < 0 && ops && ops->failed) {
        ops->failed(b->failed_page.n ? &b->failed_page : NULL, b->rc, b->s->cfg.opaque);
    }
}

/* Reads, and answers what was read. */
static void run_turn(Batch *b)
{
    FfSpace *s = b->s;

    if (s->protect) {
        pthread_mutex_lock(&s->answering);
    }
    tell_deferred(b);
    answer_messages(b);
    answer_sharers(b);
    if (s->protect) {
        ff_protect_end_doubts(s->protect); /* most changes are over by now */
        pthread_mutex_unlock(&s->answering);
    }
    tell_failed(b); /* of one page: it continues; or it is dead */
    b->rc = 0;
}

void ff_faults_run(FfSpace *s)
{
    Batch b = {.s = s, .fresh = {.as = FF_PRESENT_NOTHING}};

    ff_space_set_fault_thread(s);
    ask_noted(&b);
    while (!b.dead && wait_for_messages(&b)) {
        run_turn(&b);
    }
    b.has_more = false;
    tell_deferred(&b);
    tell_failed(&b);
    ff_space_set_fault_thread(NULL);
}

void ff_faults_stop(FfSpace *s)
{
    uint64_t one = 1;

    ff_space_cancel(s);
    while (write(s->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* Moved there before it was taken out where it was. */
static void unregister_moved(const FfSpace *s, const struct uffd_msg *msgs, int n)
{
    for (int i = 0; i < n; i++) {
        if (msgs[i].event == UFFD_EVENT_REMAP) {
            ff_uffd_unregister(s->cfg.uffd, msgs[i].arg.remap.to, msgs[i].arg.remap.len);
        }
    }
}

void ff_faults_finish(FfSpace *s)
{
    struct pollfd pfd = {.fd = s->cfg.uffd, .events = POLLIN};
    struct uffd_msg msgs[BATCH];
    int64_t end = g_get_monotonic_time() + LAST_LOOKS_US;
    Batch b = {.s = s, .fresh = {.as = FF_PRESENT_NOTHING}};
    int first;

    if (!s->changes || s->cfg.messages) {
        return;
    }
    ff_space_set_fault_thread(s);
    while (ff_uffd_is_changing(s->cfg.uffd) && g_get_monotonic_time() < end) {
        int n = take_messages(&b, msgs, &first);
        if (n < 0 && n != -EMFILE && n != -ENFILE && n != -ENOMEM) {
            break;
        }
        unregister_moved(s, msgs, n);
        if (n <= 0) {
            poll(&pfd, 1, LOOK_AGAIN_MS); /* the end of a change has no event */
        }
    }
    ff_space_set_fault_thread(NULL);
}
