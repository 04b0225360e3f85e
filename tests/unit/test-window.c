/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket, on links that are reckoned: one of its own, a fast one, a long one,
 * a slow one, and one that somebody else fills.
 */
#include "net/window.h"

#include <glib.h>

#define LOOK_US 4000
#define KERNEL_MAX (4u << 20) /* what a socket without a bound has on its way */

typedef struct {
    uint64_t rate; /* bytes per second */
    uint32_t min_rtt_us;
    uint32_t buffer_us; /* what the link queues at most */
    bool shared;        /* somebody fills that buffer, and leaves half to who fills it too */
} Link;

typedef struct {
    FfWindow w;
    FfRoundTrip t;
    unsigned free_looks; /* without a bound */
    uint64_t bytes;      /* carried */
} Flow;

/* What TCP would say, and one look at it. */
static void look(Flow *f, const Link *l, int64_t now)
{
    /* The kernel counts its own accounting: half of it is data. */
    uint64_t most = f->w.bytes ? f->w.bytes : KERNEL_MAX;
    uint64_t rate, queue_us;

    if (l->shared) {
        queue_us = l->buffer_us;
        rate = most * 1000000 / (l->min_rtt_us + queue_us);
        rate = MIN(rate, l->rate / 2);
    } else {
        uint64_t need = l->rate * l->min_rtt_us / 1000000;
        queue_us = most > need ? (most - need) * 1000000 / l->rate : 0;
        queue_us = MIN(queue_us, l->buffer_us);
        rate = MIN(l->rate, most * 1000000 / l->min_rtt_us);
    }
    f->t = (FfRoundTrip){l->min_rtt_us + (uint32_t)queue_us, l->min_rtt_us, rate};
    f->w.rate = rate;
    f->bytes += rate * LOOK_US / 1000000;
    f->free_looks += f->w.bytes == 0;
    f->w.bytes = ff_window_look(&f->w, &f->t, now);
}

static Flow run(const Link *l, int64_t us)
{
    Flow f = {.w = {.bytes = 32 << 10, .opening = true}};

    for (int64_t now = LOOK_US; now < us; now += LOOK_US) {
        look(&f, l, now);
    }
    return f;
}

static uint32_t queue_of(const Flow *f)
{
    return f->t.rtt_us - f->t.min_rtt_us;
}

static void test_settles(void)
{
    const Link gigabit = {125000000, 60, 20000};
    Flow f = run(&gigabit, G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 600);
    g_assert_true(ff_window_link_bound(&f.w));
    /* It was never without a bound, and the link was full. */
    g_assert_cmpuint(f.free_looks, ==, 0);
    g_assert_cmpuint(f.bytes, >, gigabit.rate * 99 / 100 - LOOK_US * gigabit.rate / 1000000);
    /* What goes out at once is less than the queue. */
    g_assert_cmpuint(ff_window_piece(&f.w), ==, 16 << 10);
}

/* 20 ms: what is in flight is more than any bound, so there is none. */
static void test_long(void)
{
    const Link l = {125000000, 20000, 20000};
    Flow f = run(&l, G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, ==, 0);
    g_assert_cmpuint(ff_window_piece(&f.w), ==, 0);
}

/* No queue: no bound, after few looks. */
static void test_fast(void)
{
    const Link l = {20000000000, 60, 20000};
    Flow f = run(&l, 5 * LOOK_US);

    g_assert_cmpuint(f.w.bytes, ==, 0);
    g_assert_false(ff_window_link_bound(&f.w));
    /* A bound that there was goes as well, if later. */
    f.w = (FfWindow){.bytes = 40 << 10};
    for (int64_t i = 1; i < 100; i++) {
        look(&f, &l, i * LOOK_US);
    }
    g_assert_cmpuint(f.w.bytes, ==, 0);
}

/* 10 Gbit/s: bounded, but not what bulk waits for. */
static void test_not_slow(void)
{
    FfWindow w = {.bytes = 160 << 10, .rate = 1100000000};

    g_assert_false(ff_window_link_bound(&w));
    g_assert_cmpuint(ff_window_piece(&w), ==, 64 << 10);
}

/* 100 Mbit/s: at its shortest the queue is long still. It is tried whether others make it: not for
 * long, and not often. */
static void test_slow(void)
{
    const Link l = {12500000, 60, 50000};
    Flow f = run(&l, 60 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(f.w.bytes, <=, 20 << 10);
    g_assert_cmpuint(f.free_looks, >, 0);
    g_assert_cmpuint(f.free_looks, <, 60 * G_USEC_PER_SEC / LOOK_US / 20);
}

/* Somebody else fills the buffer: it is not left to them. */
static void test_shared(void)
{
    const Link l = {125000000, 200, 5000, .shared = true};
    Flow f = run(&l, 20 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.bytes, >, 20 * l.rate / 2 * 9 / 10);
    /* And when they have gone, there is a short queue again. */
    Link own = l;
    own.shared = false;
    for (int64_t now = 20 * G_USEC_PER_SEC; now < 35 * G_USEC_PER_SEC; now += LOOK_US) {
        look(&f, &own, now);
    }
    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 600);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/window/settles", test_settles);
    g_test_add_func("/window/long", test_long);
    g_test_add_func("/window/fast", test_fast);
    g_test_add_func("/window/not-slow", test_not_slow);
    g_test_add_func("/window/slow", test_slow);
    g_test_add_func("/window/shared", test_shared);
    return g_test_run();
}
