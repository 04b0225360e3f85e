/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of a capture, page after page, for a caller that writes it in a row. A page that is
 * where it was is copied and let go at once, so nobody waits for the disk but for room in the
 * buffer.
 *
 * Thread: the caller's. System calls: ppoll, read (eventfd).
 */
#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "content/capture/internal.h"
#include "content/capture/limit.h"
#include "content/image/saved.h"
#include "content/image/zero.h"

#define RUN (128u << 10) /* bytes that are copied at once */

typedef struct {
    FfCapture *c;
    FfCapturePut *put;
    void *opaque;
    uint8_t *copy; /* of a run, or of one huge page */
    FfRun cursor;  /* the next page in order */
    FfLimit limit; /* of what nobody waits for */
} Stream;

static uint64_t page_size(const Stream *s, unsigned block)
{
    return s->c->blocks[block].backing.page_size;
}

/* RUN, whose content is DATA. */
static bool put_run(Stream *s, const FfRun *run, const uint8_t *data, GError **error)
{
    uint64_t per_page = page_size(s, run->block) / FF_SAVED_PAGE;
    uint64_t first = run->first * per_page, n = run->n * per_page, zeros = 0;

    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *page = data + i * FF_SAVED_PAGE;
        bool zero = ff_saved_is_zero(page, FF_SAVED_PAGE);
        zeros += zero;
        if (!s->put(s->opaque, run->block, first + i, zero ? NULL : page, error)) {
            return false;
        }
    }
    pthread_mutex_lock(&s->c->lock);
    s->c->written.zeros += zeros;
    s->c->written.bytes += (n - zeros) * FF_SAVED_PAGE;
    uint64_t rate = s->c->bandwidth;
    pthread_mutex_unlock(&s->c->lock);
    ff_limit_charge(&s->limit, rate, (n - zeros) * FF_SAVED_PAGE);
    return true;
}

static bool fail_stream(const Stream *s, int rc, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "%s cannot be saved: %s",
                s->c->words->memory, g_strerror(-rc));
    return false;
}

/* RUN was claimed. */
static bool put_claimed(Stream *s, const FfRun *run, GError **error)
{
    uint64_t ps = page_size(s, run->block);
    bool own[RUN / FF_SAVED_PAGE], ok = true;
    int rc = ff_protect_read(s->c->protect, run, s->copy);

    for (uint64_t i = 0; i < run->n && rc == 0; i++) {
        own[i] = ff_protect_own(s->c->protect, run->block, run->first + i);
    }
    rc = rc < 0 ? rc : ff_protect_done(s->c->protect, run);
    if (rc < 0) {
        /* What is not there any more cannot be read either. */
        return ff_capture_has_all(s->c, error) && fail_stream(s, rc, error);
    }
    for (uint64_t i = 0, n; i < run->n && ok; i += n) {
        for (n = 1; i + n < run->n && own[i + n] == own[i]; n++) {
        }
        ok =
            !own[i] || put_run(s, &(FfRun){run->block, run->first + i, n}, s->copy + i * ps, error);
    }
    return ok;
}

/* One page of the buffer. FALSE: there is none, or *OK is FALSE. */
static bool put_kept(Stream *s, bool *ok, GError **error)
{
    const void *data;
    unsigned slot;
    FfRun run;

    if (!ff_protect_take(s->c->protect, &slot, &run, &data)) {
        return false;
    }
    *ok = put_run(s, &run, data, error);
    ff_protect_release(s->c->protect, slot);
    return *ok;
}

static bool claim_next(Stream *s, FfRun *run)
{
    for (unsigned rest = s->c->n_blocks + 1; rest > 0; rest--) {
        uint64_t max = MAX(1, RUN / page_size(s, s->cursor.block));
        run->block = s->cursor.block;
        run->n = ff_protect_claim(s->c->protect, run->block, s->cursor.first, max, &run->first);
        if (run->n) {
            s->cursor.first = run->first + run->n;
            return true;
        }
        s->cursor = (FfRun){.block = (s->cursor.block + 1) % s->c->n_blocks};
    }
    return false;
}

static bool is_half_used(const Stream *s)
{
    unsigned n_free, n = ff_protect_slots(s->c->protect, &n_free);

    return n_free < n - n / 2;
}

/* Until the capture wakes us, or for US microseconds; -1: no end. */
static void wait_for_wake(const Stream *s, int64_t us)
{
    struct pollfd pfd = {.fd = s->c->wake_fd, .events = POLLIN};
    struct timespec for_us = {us / 1000000, us % 1000000 * 1000};

    while (ppoll(&pfd, 1, us < 0 ? NULL : &for_us, NULL) < 0 && errno == EINTR) {
    }
}

static void forget_wakes(const Stream *s)
{
    uint64_t n;

    while (read(s->c->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR) {
    }
}

/* Microseconds until there may be more of what nobody waits for. */
static int64_t delay_us(Stream *s)
{
    pthread_mutex_lock(&s->c->lock);
    uint64_t rate = s->c->bandwidth;
    pthread_mutex_unlock(&s->c->lock);
    return ff_limit_delay(&s->limit, rate);
}

/* The next step. FALSE and ERROR: it failed. */
static bool stream_step(Stream *s, GError **error)
{
    int64_t us = delay_us(s);
    bool ok = true;
    FfRun run;

    if (ff_protect_wanted(s->c->protect, &run)) {
        return put_claimed(s, &run, error);
    }
    /* A writer waits for a slot: whatever the limit is, it is not the guest that pays for it. */
    if (is_half_used(s) && (put_kept(s, &ok, error) || !ok)) {
        return ok;
    }
    if (us) {
        wait_for_wake(s, us);
        return true;
    }
    if (claim_next(s, &run)) {
        return put_claimed(s, &run, error);
    }
    if (!put_kept(s, &ok, error) && ok && ff_protect_left(s->c->protect)) {
        wait_for_wake(s, -1);
    }
    return ok;
}

bool ff_capture_stream(FfCapture *c, FfCapturePut *put_page, void *opaque, GError **error)
{
    uint64_t largest = RUN;

    for (unsigned i = 0; i < c->n_blocks; i++) {
        largest = MAX(largest, c->blocks[i].backing.page_size);
    }
    g_autofree uint8_t *copy = g_try_malloc(largest);
    Stream s = {.c = c, .put = put_page, .opaque = opaque, .copy = copy};
    if (!copy) {
        return fail_stream(&s, -ENOMEM, error);
    }

    while (ff_protect_left(c->protect)) {
        forget_wakes(&s);
        if (!ff_capture_goes_on(c, error) || !stream_step(&s, error)) {
            return false;
        }
    }
    return ff_capture_goes_on(c, error) && ff_capture_has_all(c, error);
}
