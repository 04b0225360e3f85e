/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of a capture for somebody who asks for pages (another process that faults on them):
 * those, with their neighbours, and what was kept of others, so that the buffer stays free. What
 * was put is let go; what nobody asks for stays armed to the end.
 *
 * Thread: the caller's. System calls: ppoll, read (eventfd).
 */
#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <unistd.h>

#include "content/capture/internal.h"

#define AROUND (64u << 10) /* bytes with a page that is asked for */

typedef struct {
    FfCapture *c;
    const FfCaptureTaker *taker;
    void *opaque;
    uint8_t *copy;
    FfProtectPage pages[AROUND / 4096];
} Serve;

static uint64_t page_size(const Serve *s, unsigned block)
{
    return s->c->blocks[block].backing.page_size;
}

static bool fail_serve(const Serve *s, int rc, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "%s cannot be read: %s",
                s->c->words->memory, g_strerror(-rc));
    return false;
}

/* What is the caller's of RUN, which was read; pages in a row at once. */
static bool put_own(Serve *s, const FfRun *run, GError **error)
{
    uint64_t ps = page_size(s, run->block);
    FfRun part = {run->block, run->first, 0};
    bool ok = true;

    for (uint64_t i = 0; i < run->n && ok; i++) {
        bool is_own = ff_protect_own(s->c->protect, run->block, run->first + i);
        part.n += is_own;
        if (!is_own || i + 1 == run->n) {
            ok = !part.n ||
                 s->taker->put(s->opaque, &part, s->copy + (part.first - run->first) * ps, error);
            part = (FfRun){run->block, run->first + i + 1, 0};
        }
    }
    return ok;
}

/* RUN was claimed. Nobody writes to it before it was put, but after ff_capture_cancel(). */
static bool put_claimed(Serve *s, const FfRun *run, GError **error)
{
    int rc = ff_protect_read(s->c->protect, run, s->copy);

    if (rc < 0) {
        /* What is not there any more cannot be read either. */
        return ff_capture_has_all(s->c, error) && fail_serve(s, rc, error);
    }
    /* After the read: the one that has cancelled lets writers continue, and this may be what they
     * wrote. */
    if (!ff_capture_goes_on(s->c, error)) {
        return false;
    }
    if (!put_own(s, run, error)) {
        return false;
    }
    rc = ff_protect_done(s->c->protect, run);
    return rc == 0 || fail_serve(s, rc, error);
}

static bool put_kept(Serve *s, unsigned slot, const FfRun *run, const void *data, GError **error)
{
    bool ok = s->taker->put(s->opaque, run, data, error);

    ff_protect_release(s->c->protect, slot);
    return ok;
}

/* All of RUN that can be had; claimed pages in a row at once. */
static bool put_all(Serve *s, const FfRun *run, GError **error)
{
    bool ok = true;

    ff_protect_gather(s->c->protect, run, s->pages);
    for (uint64_t i = 0, n; i < run->n; i += n) {
        FfRun part = {run->block, run->first + i, 1};
        n = 1;
        if (s->pages[i].where == FF_PROTECT_KEPT) {
            /* Also after a failure: the slot is somebody's. */
            ok = ok ? put_kept(s, s->pages[i].slot, &part, s->pages[i].data, error) : false;
        } else if (s->pages[i].where == FF_PROTECT_CLAIMED) {
            while (i + n < run->n && s->pages[i + n].where == FF_PROTECT_CLAIMED) {
                n++;
            }
            part.n = n;
            ok = ok && put_claimed(s, &part, error);
        }
    }
    return ok;
}

/* The page that is asked for is put by now; or the fault thread is just keeping it, and tells. */
static bool answer_page(Serve *s, const FfRun *page, GError **error)
{
    uint64_t n = MAX(1, AROUND / page_size(s, page->block));
    FfRun run = {page->block, page->first / n * n, n};
    const FfBacking *b = &s->c->blocks[page->block].backing;

    run.n = MIN(n, b->size / b->page_size - run.first);
    return put_all(s, &run, error);
}

static void wait_for_wake(const Serve *s)
{
    struct pollfd pfd = {.fd = s->c->wake_fd, .events = POLLIN};

    while (ppoll(&pfd, 1, NULL, NULL) < 0 && errno == EINTR) {
    }
}

static void forget_wakes(const Serve *s)
{
    uint64_t n;

    while (read(s->c->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR) {
    }
}

/* FALSE and ERROR: it failed. */
static bool serve_step(Serve *s, GError **error)
{
    const void *data;
    unsigned slot;
    FfRun run;

    if (s->taker->next(s->opaque, &run)) {
        uint64_t before = ff_protect_left(s->c->protect);
        if (!answer_page(s, &run, error)) {
            return false;
        }
        if (ff_protect_left(s->c->protect) < before) {
            return true;
        }
    }
    if (ff_protect_wanted(s->c->protect, &run)) {
        return put_claimed(s, &run, error);
    }
    if (ff_protect_take(s->c->protect, &slot, &run, &data)) {
        return put_kept(s, slot, &run, data, error);
    }
    wait_for_wake(s);
    return true;
}

bool ff_capture_serve(FfCapture *c, const FfCaptureTaker *taker, void *opaque, GError **error)
{
    uint64_t largest = AROUND;

    for (unsigned i = 0; i < c->n_blocks; i++) {
        largest = MAX(largest, c->blocks[i].backing.page_size);
    }
    g_autofree uint8_t *copy = g_try_malloc(largest);
    Serve s = {.c = c, .taker = taker, .opaque = opaque, .copy = copy};
    if (!copy) {
        return fail_serve(&s, -ENOMEM, error);
    }

    for (;;) {
        /* Before all that is looked at: a wake that comes behind a look is for the next one. */
        forget_wakes(&s);
        if (taker->is_over(opaque)) {
            return true;
        }
        if (!ff_capture_goes_on(c, error) || !ff_capture_has_all(c, error) ||
            !serve_step(&s, error)) {
            return false;
        }
    }
}
