/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The window of a bulk socket, on links that are reckoned: one of its own, a fast one, a long one,
 * a slow one, one that somebody else fills, one that answers late.
 */
#include "net/window-trial.h"
#include "net/window.h"

#include <glib.h>
#include <limits.h>

#define LOOK_US 4000
#define RUN (128u << 10)
#define KERNEL_MAX (4u << 20) /* what a socket without a bound has on its way */

typedef struct {
    uint64_t rate; /* bytes per second */
    uint32_t min_rtt_us;
    uint32_t buffer_us; /* the link queues at most */
    uint32_t late_us;   /* so much more each round trip takes, but for the shortest one */
    uint64_t sender;    /* its processor can do so much; 0: all */
    bool shared;        /* somebody fills that buffer, and leaves half to who fills it too */
    bool own;           /* the queue is this machine's, where TCP keeps two writes (TSQ) */
    bool sluggish;      /* TCP takes 58 looks until it has a third more on its way */
} Link;

#define HISTORY 128

typedef struct {
    FfWindow w;
    FfRoundTrip t;
    FfLinkRate r;
    int64_t now;
    uint64_t waited_us, written;
    uint64_t looked_at; /* .written, at the last look */
    uint64_t bytes;     /* acknowledged */
    uint64_t in_flight; /* at most, of late, where TCP is sluggish */
    uint64_t carried[HISTORY];
    unsigned looks;
    uint64_t run; /* bytes; 0: RUN */
    bool looks_first;
    bool others;     /* there are other bulk sockets, which do nothing */
    unsigned free;   /* looks without a bound */
    unsigned queued; /* looks with a queue of a millisecond or more */
} Flow;

static uint32_t queue_of(const Flow *f)
{
    return f->t.rtt_us - f->t.min_rtt_us;
}

/* What may be on its way. */
static uint64_t most_in_flight(Flow *f, const Link *l)
{
    /* The kernel takes twice what it is told, for its own accounting too. */
    uint64_t most = f->w.bytes ? f->w.bytes * 37ull / 20 : KERNEL_MAX;

    if (l->sluggish) {
        most = MIN(most, MAX(f->in_flight + f->in_flight / 200, 20 << 10));
        f->in_flight = most;
    }
    return most;
}

/* What TCP would carry, and say then. */
static void carry(Flow *f, const Link *l)
{
    uint64_t most = most_in_flight(f, l);
    uint64_t short_us = l->min_rtt_us + l->late_us, need = l->rate * short_us / 1000000, queue_us;

    if (l->shared) {
        queue_us = l->buffer_us;
    } else {
        queue_us = most > need ? MIN((most - need) * 1000000 / l->rate, l->buffer_us) : 0;
    }
    uint64_t rate = MIN(most * 1000000 / (short_us + queue_us), l->shared ? l->rate / 2 : l->rate);
    uint64_t two = 2 * (ff_window_piece(&f->w) ? ff_window_piece(&f->w) : 64 << 10);
    if (l->own && l->shared) {
        rate = MIN(rate, two * 1000000 / queue_us);
    } else if (l->own) {
        queue_us = MIN(queue_us, two * 1000000 / l->rate);
    }
    bool waits = !l->sender || rate < l->sender;
    rate = waits ? rate : l->sender;
    /* What is carried now is acknowledged a round trip later. */
    f->carried[f->looks % HISTORY] = rate * LOOK_US / 1000000;
    f->written += f->carried[f->looks % HISTORY];
    unsigned lag = MIN((uint32_t)(short_us + queue_us) / LOOK_US, HISTORY - 1);
    f->bytes += f->looks >= lag ? f->carried[(f->looks - lag) % HISTORY] : 0;
    f->looks++;
    f->now += LOOK_US;
    /* A sender whose processor is not the limit does nothing but wait for the socket. */
    f->waited_us += waits ? LOOK_US : 0;
    f->t = (FfRoundTrip){(uint32_t)(short_us + queue_us), l->min_rtt_us, f->w.rate,
                         rate * (short_us + queue_us) / 1000000};
    f->free += f->w.bytes == 0;
    f->queued += queue_of(f) >= 1000;
}

/* A sender looks before each run: not in one that the link takes long for. */
static bool has_sent_run(const Flow *f)
{
    return f->written - f->looked_at >= (f->run ? f->run : RUN);
}

static void look(Flow *f)
{
    f->looked_at = f->written;
    ff_window_measure(&f->w, f->bytes, f->waited_us, f->now);
    f->t.rate = f->w.rate;
    f->w.bytes = ff_window_look(&f->w, &f->t, f->now);
}

/* In postcopy just before it looks, in precopy behind it. */
static void lead(Flow *f)
{
    int64_t now = f->looks_first ? f->now : f->now - 10;
    bool slow = ff_link_rate_is_slow(&f->r, f->written, f->waited_us, now);

    ff_window_lead(&f->w, &f->r, slow, f->others, now);
}

static void go_on(Flow *f, const Link *l, int64_t us)
{
    for (int64_t end = f->now + us; f->now < end;) {
        carry(f, l);
        if (!has_sent_run(f)) {
            continue;
        }
        if (f->w.leads && !f->looks_first) {
            lead(f);
        }
        look(f);
        if (f->w.leads && f->looks_first) {
            lead(f);
        }
    }
}

/* A connection that has just been made, and leads. */
static Flow new_flow(void)
{
    return (Flow){.w = {.bytes = 32 << 10,
                        .opening = true,
                        .leads = true,
                        .alone = true,
                        .believed_us = G_USEC_PER_SEC}};
}

static Flow run(const Link *l, int64_t us)
{
    Flow f = new_flow();

    go_on(&f, l, us);
    return f;
}

static void test_settles(void)
{
    const Link gigabit = {125000000, 60, 20000};
    Flow f = run(&gigabit, 20 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 600);
    g_assert_true(ff_window_link_bound(&f.w));
    /* It was never without a bound, trials are short, and the link was full. */
    g_assert_cmpuint(f.free, ==, 0);
    g_assert_cmpuint(f.queued, <, 20 * G_USEC_PER_SEC / LOOK_US / 50);
    g_assert_cmpuint(f.bytes, >, 20 * gigabit.rate / 100 * 99);
    /* What goes out at once is less than the queue. */
    g_assert_cmpuint(ff_window_piece(&f.w), <, 17 << 10);
}

/* 20 ms: what is in flight is more than any bound, so there is none. */
static void test_long(void)
{
    const Link l = {125000000, 20000, 20000};
    Flow f = run(&l, G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, ==, 0);
    g_assert_cmpuint(ff_window_piece(&f.w), ==, 0);
}

/* In between: what is on its way is what the way holds. */
static void test_middle(void)
{
    const Link l = {125000000, 500, 20000};
    Flow f = run(&l, 20 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.bytes, >, 20 * l.rate / 100 * 98);
    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 1000);
    g_assert_cmpuint(f.queued, <, 20 * G_USEC_PER_SEC / LOOK_US / 50);
}

/* No queue: no bound, after few looks. */
static void test_fast(void)
{
    const Link l = {20000000000, 60, 20000};
    Flow f = run(&l, 20 * LOOK_US);

    g_assert_cmpuint(f.w.bytes, ==, 0);
    g_assert_false(ff_window_link_bound(&f.w));
    /* A bound that there was goes as well, if later. */
    f.w = (FfWindow){.bytes = 40 << 10, .leads = true, .alone = true};
    go_on(&f, &l, 100 * LOOK_US);
    g_assert_cmpuint(f.w.bytes, ==, 0);
}

/* 10 Gbit/s: bounded shortly. */
static void test_ten(void)
{
    const Link l = {1180000000, 40, 20000};
    Flow f = run(&l, G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 250);
    g_assert_cmpuint(ff_window_piece(&f.w), ==, 64 << 10);
    g_assert_cmpuint(f.bytes, >, l.rate / 100 * 95);
}

/* Whose sender is busy all the time does not wait for its link; nor one that has paused. */
static void test_busy(void)
{
    FfWindow w = {.bytes = 32 << 10};

    ff_window_measure(&w, 0, 0, 1);
    ff_window_measure(&w, 3000000, 500, 30001);
    g_assert_false(ff_window_link_bound(&w));
    ff_window_measure(&w, 6000000, 20500, 60001);
    g_assert_true(ff_window_link_bound(&w));
    /* It takes more to change than a little. */
    ff_window_measure(&w, 9000000, 24500, 90001);
    g_assert_true(ff_window_link_bound(&w));
    uint64_t rate = w.rate;
    ff_window_measure(&w, 9100000, 24600, 1090001);
    g_assert_true(ff_window_link_bound(&w));
    g_assert_cmpuint(w.rate, ==, rate);
    ff_window_measure(&w, 12000000, 24700, 1120001);
    g_assert_false(ff_window_link_bound(&w));
}

/* Several bulk sockets, of which each carries little: together they do not. What a link lets pass
 * at once at first is forgotten, and so are old sockets. */
static void test_rate(void)
{
    FfLinkRate r = {0};
    uint64_t bytes = 0;
    int64_t now = G_USEC_PER_SEC;

    g_assert_true(ff_link_rate_is_slow(&r, bytes, 0, now));
    g_assert_false(ff_link_rate_is_slow(&r, bytes += 30000 * 1100, 0, now += 30000));
    for (unsigned i = 0; i < 20; i++) {
        g_assert_false(ff_link_rate_is_slow(&r, bytes += 30000 * 1100, 0, now += 30000));
    }
    bool slow = false;
    for (unsigned i = 0; i < 30; i++) {
        slow = ff_link_rate_is_slow(&r, bytes += 30000 * 118, 0, now += 30000);
    }
    g_assert_true(slow);
    g_assert_true(ff_link_rate_is_slow(&r, 0, 0, now += 30000));
    g_assert_false(ff_link_rate_is_slow(&r, 30000 * 1100, 0, now += 30000));
    /* New ones that have carried more already, and have waited less. */
    ff_link_rate_is_slow(&r, 40000 * 1100, 20000, now += 30000);
    g_assert_cmpint(r.from_us, >, 0);
    ff_link_rate_is_slow(&r, 50000 * 1100, 10000, now += 200000);
    g_assert_cmpint(r.from_us, ==, 0);
}

/* A round trip that is longer than a look at the rate: a larger window shows in it late. */
static void test_long_queue(void)
{
    const Link l = {12500000, 20000, 200000, .shared = true};
    Flow f = run(&l, 60 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.bytes, >, 60 * l.rate / 2 / 2);
}

#define FLOWS 4

/* Words for one that does not lead, as ff_window_trial() has them. */
enum { WORD_GAINED = 4, WORD_KIB = 8, WORD_FREE = 255 * WORD_KIB, WORD_NEXT = 256 * WORD_KIB };

/* Four, ways as L is, one of which leads. What they carry per second, of late. */
static uint64_t run_four(const Link *l, int64_t us)
{
    Flow f[FLOWS] = {0};
    FfLinkRate r = {0};
    uint64_t before = 0, sum = 0, written = 0;

    for (unsigned i = 0; i < FLOWS; i++) {
        f[i].w = (FfWindow){.bytes = 32 << 10, .opening = true, .leads = i == 0};
    }
    f[0].w.believed_us = G_USEC_PER_SEC;
    for (int64_t end = us; f[0].now < end;) {
        if (has_sent_run(&f[0])) {
            bool slow = ff_link_rate_is_slow(&r, written, f[0].waited_us, f[0].now);
            ff_window_lead(&f[0].w, &r, slow, true, f[0].now);
        }
        sum = written = 0;
        for (unsigned i = 0; i < FLOWS; i++) {
            f[i].w.trial = i ? ff_window_trial(&f[0].w) : f[i].w.trial;
            if (has_sent_run(&f[i])) {
                look(&f[i]);
            }
            carry(&f[i], l);
            sum += f[i].bytes;
            written += f[i].written;
        }
        before = f[0].now < end / 2 ? sum : before;
    }
    return (sum - before) * 1000000 / (uint64_t)(us / 2);
}

/* Late acknowledgements hold down several as they do one. */
static void test_four_late(void)
{
    const Link l = {750000000, 30, 20000, .late_us = 300};

    g_assert_cmpuint(run_four(&l, 20 * G_USEC_PER_SEC), >, FLOWS * l.rate / 10 * 7);
}

/* Where the link is the limit a trial of all of them is in vain. */
static void test_four(void)
{
    const Link l = {300000000, 60, 20000};
    Flow f = {.w = {.bytes = 32 << 10, .leads = true}};

    g_assert_cmpuint(run_four(&l, 20 * G_USEC_PER_SEC), >, FLOWS * l.rate / 10 * 9);
    /* A follower ends where it was before: doubled in the trial, and not behind it. */
    f.w.leads = false;
    go_on(&f, &l, G_USEC_PER_SEC);
    unsigned bytes = f.w.bytes;
    f.w.trial = WORD_NEXT + FF_WINDOW_DOUBLED;
    carry(&f, &l);
    look(&f);
    g_assert_cmpuint(f.w.bytes, >=, 2 * (bytes - bytes / 5));
    unsigned doubled = f.w.bytes;
    carry(&f, &l);
    look(&f);
    g_assert_cmpuint(f.w.bytes, ==, doubled);
    f.w.trial = 2 * WORD_NEXT + FF_WINDOW_FOLLOWS;
    carry(&f, &l);
    look(&f);
    g_assert_cmpuint(f.w.bytes, ==, doubled / 2);
    /* One without a bound takes no part. */
    f.w.bytes = 0;
    f.w.trial = 3 * WORD_NEXT + FF_WINDOW_DOUBLED;
    f.t.rtt_us = 5000;
    g_assert_cmpuint(ff_window_look(&f.w, &f.t, f.now), >, 0);
}

static unsigned follow(FfWindow *w, unsigned phase, unsigned bits)
{
    const FfRoundTrip t = {5000, 100, 50000000, 100000};

    w->trial = (w->trial & ~(WORD_NEXT - 1)) + WORD_NEXT + phase + bits;
    w->bytes = ff_window_look(w, &t, G_USEC_PER_SEC);
    return w->bytes;
}

/* All of them are halved, and are as large as before if that was too little. */
static void test_four_halved(void)
{
    FfWindow w = {.least = UINT_MAX};

    g_assert_cmpuint(follow(&w, FF_WINDOW_BEFORE, WORD_FREE), ==, 0);
    g_assert_cmpuint(follow(&w, FF_WINDOW_HALVED, WORD_FREE), ==, 200 << 10);
    g_assert_cmpuint(follow(&w, FF_WINDOW_BEFORE, WORD_FREE), ==, 0);
    follow(&w, FF_WINDOW_HALVED, WORD_FREE);
    g_assert_cmpuint(follow(&w, FF_WINDOW_HALVED, WORD_GAINED + 200 * WORD_KIB), ==, 100 << 10);
    g_assert_cmpuint(follow(&w, FF_WINDOW_FOLLOWS, 200 * WORD_KIB), ==, 200 << 10);
    g_assert_cmpuint(w.least, ==, 200 << 10);
    follow(&w, FF_WINDOW_HALVED, 200 * WORD_KIB);
    /* One that has missed what happened meanwhile has the same least as all. */
    FfWindow late = {.least = UINT_MAX};
    g_assert_cmpuint(follow(&late, FF_WINDOW_FOLLOWS, 50 * WORD_KIB), >, 0);
    g_assert_cmpuint(late.least, ==, 50 << 10);
    late = (FfWindow){.bytes = 16 << 10};
    g_assert_cmpuint(follow(&late, FF_WINDOW_FOLLOWS, 50 * WORD_KIB), ==, 50 << 10);
    late = (FfWindow){0};
    follow(&late, FF_WINDOW_FOLLOWS, WORD_FREE);
    g_assert_cmpuint(follow(&late, FF_WINDOW_FOLLOWS, WORD_FREE), ==, 0);
    /* One whose window is larger than that of the one that leads keeps what it has gained. */
    late = (FfWindow){.bytes = 80 << 10};
    unsigned more = follow(&late, FF_WINDOW_DOUBLED, 0);
    g_assert_cmpuint(more, >, 100 << 10);
    g_assert_cmpuint(follow(&late, FF_WINDOW_BEFORE, WORD_GAINED + 32 * WORD_KIB), ==, more);
    g_assert_cmpuint(follow(&late, FF_WINDOW_FOLLOWS, 32 * WORD_KIB), ==, more);
    /* Nothing is needed: it follows from there. */
    g_assert_cmpuint(follow(&w, FF_WINDOW_FOLLOWS, 0), ==, 200 << 10);
    g_assert_cmpuint(follow(&w, FF_WINDOW_FOLLOWS, 0), <, 200 << 10);
}

/* A trial in which others come says nothing: it is as before. */
static void test_aborted(void)
{
    const Link l = {125000000, 60, 20000};
    Flow f = {.w = {.bytes = 32 << 10, .leads = true, .alone = true}};

    while (f.w.phase != FF_WINDOW_DOUBLED) {
        go_on(&f, &l, LOOK_US);
    }
    unsigned bytes = f.w.bytes_before;
    const FfLinkRate more = {.last = 10 * l.rate, .from_us = f.now + G_USEC_PER_SEC};
    f.w.bound = false;
    ff_window_lead(&f.w, &more, true, true, f.now + G_USEC_PER_SEC);
    f.now += G_USEC_PER_SEC;
    g_assert_cmpuint(ff_window_look(&f.w, &f.t, f.now), ==, bytes);
    g_assert_cmpint(f.w.phase, ==, FF_WINDOW_FOLLOWS);
    g_assert_cmpuint(f.w.least, ==, 0);
    /* And for a second there is none. */
    f.w.bytes = bytes;
    for (int64_t end = f.now + 900000; f.now < end;) {
        carry(&f, &l);
        look(&f);
        g_assert_cmpint(f.w.phase, ==, FF_WINDOW_FOLLOWS);
    }
}

/* Acknowledgements come late, and the sender's processor could do more: behind a trial that has
 * shown it the sender does not wait any more, so that the others may come. That does not end it. */
static void test_sender(void)
{
    const Link l = {1180000000, 40, 20000, .late_us = 600, .sender = 150000000};
    Flow f = {.w = {.bytes = 32 << 10, .opening = true, .leads = true, .alone = true},
              .others = true};

    go_on(&f, &l, 10 * G_USEC_PER_SEC);
    uint64_t before = f.bytes;
    go_on(&f, &l, 20 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.bytes - before, >, 20 * l.sender / 10 * 8);
}

/* What is carried is near the rate from which a link counts as fast: trials come all the same. */
static void test_flapping(void)
{
    const Link l = {400000000, 40, 20000, .late_us = 300};
    Flow f = {.w = {.bytes = 32 << 10, .leads = true, .alone = true}, .others = true};

    uint64_t before = 0;
    for (unsigned i = 0; i < 300; i++) {
        f.r.fast = i % 2;
        f.r.rate = 350000000;
        go_on(&f, &l, G_USEC_PER_SEC / 10);
        before = i == 99 ? f.bytes : before;
    }
    g_assert_cmpuint(f.bytes - before, >, 20 * l.rate / 10 * 6);
}

/* One that is not alone is not doubled by itself: it would gain what others lose. */
static void test_not_alone(void)
{
    const Link l = {125000000, 60, 20000};
    Flow f = {.w = {.bytes = 32 << 10, .opening = true}};

    go_on(&f, &l, 20 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.queued, ==, 0);
    g_assert_cmpuint(f.w.bytes, >, 0);
}

/* 100 Mbit/s: at its shortest the queue is long still. Trials are short and far between. */
static void test_slow(void)
{
    const Link l = {12500000, 60, 50000};
    Flow f = run(&l, 60 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(f.w.bytes, <=, 33 << 10);
    g_assert_cmpuint(f.free, ==, 0);
    g_assert_true(ff_window_link_bound(&f.w));
}

/* Somebody else fills the buffer: it is not left to them. */
static void test_shared(gconstpointer link)
{
    const Link *l = link;
    Flow f = run(l, 20 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.bytes, >, 20 * l->rate / 2 * 8 / 10);
    /* And when they have gone, there is a short queue again. */
    Link own = *l;
    own.shared = false;
    go_on(&f, &own, 30 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, MAX(600, (32 << 10) * 1000000ull / own.rate));
}

/* Behind a trial that has found more a shorter window is tried, and not simply taken: what is
 * carried does not fall each time. */
static void test_kept(void)
{
    const Link l = {125000000, 200, 5000, .shared = true};
    Flow f = run(&l, 15 * G_USEC_PER_SEC);

    for (unsigned i = 0; i < 40; i++) {
        uint64_t before = f.bytes;
        go_on(&f, &l, G_USEC_PER_SEC);
        g_assert_cmpuint(f.bytes - before, >, l.rate / 2 * 8 / 10);
    }
}

/* Step by step it is made shorter only while what is carried stays near what it was at first. */
static void test_kept_steps(void)
{
    /* A halved window costs a tenth, whatever it is. */
    FfWindow w = {.leads = true, .alone = true, .waits = true, .least = UINT_MAX};
    const FfRoundTrip t = {5000, 100, 50000000, 100000};
    double rate = 100e6;
    int64_t now = G_USEC_PER_SEC;
    unsigned was = 0;

    for (unsigned i = 0; i < 500; i++, now += LOOK_US) {
        unsigned bytes = ff_window_look(&w, &t, now);
        rate = w.phase == FF_WINDOW_HALVED && bytes != was ? rate * 0.9 : rate;
        was = w.bytes = bytes;
        const FfLinkRate r = {.last = (uint64_t)rate, .from_us = now};
        ff_window_lead(&w, &r, true, false, now);
        if (i > 20 && w.phase != FF_WINDOW_HALVED) {
            break;
        }
    }
    /* Two steps; behind three 73 of 100 are left. */
    g_assert_cmpuint(w.bytes, ==, 100 << 10);
    g_assert_cmpuint(w.least, ==, 100 << 10);
}

/* Behind a switch what was found counts no more, and is found again a second later. */
static void test_settles_again(void)
{
    const Link l = {125000000, 200, 5000, .shared = true};
    Flow f = run(&l, 5 * G_USEC_PER_SEC);

    ff_window_settle(&f.w, f.now);
    go_on(&f, &l, 3 * G_USEC_PER_SEC);
    uint64_t before = f.bytes;
    go_on(&f, &l, G_USEC_PER_SEC);
    g_assert_cmpuint(f.bytes - before, >, l.rate / 2 * 8 / 10);
}

/* Without a bound, behind a queue of others that has been there from the beginning, the shortest
 * round trip shows at last that it is one: the link is not left to them even for a moment. And
 * where the queue is one's own it is short soon. */
static void test_free(void)
{
    const Link shared = {125000000, 200, 15000, .shared = true};
    const Link own = {125000000, 200, 15000};
    Flow f = {.w = {.leads = true, .alone = true}};

    for (unsigned i = 0; i < 30; i++) {
        uint64_t before = f.written;
        go_on(&f, &shared, G_USEC_PER_SEC);
        g_assert_cmpuint(f.written - before, >, shared.rate / 2 * 8 / 10);
    }
    f = (Flow){.w = {.leads = true, .alone = true}};
    go_on(&f, &own, G_USEC_PER_SEC);
    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 1000);
}

/* A page of 2 MiB is a run: what it carries is known late, and all the same. */
static void test_huge_runs(gconstpointer order)
{
    const Link l = {125000000, 200, 20000, .shared = true};
    Flow f = new_flow();

    f.run = 2 << 20;
    f.looks_first = GPOINTER_TO_INT(order);
    go_on(&f, &l, 60 * G_USEC_PER_SEC);
    uint64_t before = f.written;
    go_on(&f, &l, 60 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.written - before, >, 60 * l.rate / 2 * 8 / 10);
}

/* Zero pages in a trial: little is carried, and nobody waits. That does not say that less is too
 * little, so that one's own queue stays. */
static void test_zero_pages(void)
{
    const Link own = {125000000, 200, 20000};
    Flow f = {.w = {.leads = true, .alone = true}};

    while (f.w.phase != FF_WINDOW_HALVED) {
        go_on(&f, &own, LOOK_US);
    }
    Link zero = own;
    zero.sender = 5000000;
    f.run = 16 << 10;
    go_on(&f, &zero, 200000);
    f.run = 0;
    go_on(&f, &own, 2 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.w.bytes, >, 0);
    g_assert_cmpuint(queue_of(&f), <, 1000);
}

/* No run has ended yet: a phase waits for a rate. One that has none says nothing. */
static void test_no_rate(void)
{
    const FfRoundTrip t = {20000, 100, 1500000, 30000};
    FfWindow w = {.bytes = 16 << 10, .leads = true, .alone = true, .waits = true};
    int64_t now = G_USEC_PER_SEC;

    w.bytes = ff_window_look(&w, &t, now);
    g_assert_cmpint(w.phase, ==, FF_WINDOW_BEFORE);
    w.bytes = ff_window_look(&w, &t, w.until_us + 1);
    g_assert_cmpint(w.phase, ==, FF_WINDOW_BEFORE);
    w.bytes = ff_window_look(&w, &t, now + G_USEC_PER_SEC);
    g_assert_cmpint(w.phase, ==, FF_WINDOW_BEFORE);
    w.bytes = ff_window_look(&w, &t, now + 2 * G_USEC_PER_SEC);
    g_assert_cmpint(w.phase, ==, FF_WINDOW_FOLLOWS);
    g_assert_cmpuint(w.bytes, ==, 16 << 10);
}

/* A window that is as large again fills at first, which is no rate before the next trial. */
static void test_refilled(void)
{
    const FfRoundTrip t = {200000, 100, 1500000, 300000};
    FfWindow w = {.leads = true, .alone = true, .waits = true, .least = UINT_MAX};
    int64_t now = G_USEC_PER_SEC;

    w.least = w.bytes = 100 << 10;
    for (unsigned i = 0; i < 1000 && !(w.phase == FF_WINDOW_BEFORE && !w.halves); i++) {
        w.bytes = ff_window_look(&w, &t, now += LOOK_US);
        uint64_t rate = w.phase == FF_WINDOW_HALVED ? 1000000 : 2000000;
        const FfLinkRate r = {.last = rate, .from_us = now};
        ff_window_lead(&w, &r, true, false, now);
    }
    g_assert_cmpint(w.phase, ==, FF_WINDOW_BEFORE);
    const FfLinkRate filling = {.last = 9000000, .from_us = now + 1000};
    ff_window_lead(&w, &filling, true, false, now + 1000);
    g_assert_cmpuint(w.best, <, 9000000);
}

/* They come later. */
static void test_joined(void)
{
    const Link own = {125000000, 60, 5000}, shared = {125000000, 60, 5000, .shared = true};
    Flow f = run(&own, 11 * G_USEC_PER_SEC);
    uint64_t before = f.bytes;

    go_on(&f, &shared, 40 * G_USEC_PER_SEC);
    g_assert_cmpuint(f.bytes - before, >, 40 * shared.rate / 2 * 6 / 10);
}

/* Acknowledgements come late, and nobody queues anything. */
static void test_late(void)
{
    const Link l = {1180000000, 40, 20000, .late_us = 260};
    Flow f = run(&l, 10 * G_USEC_PER_SEC);

    g_assert_cmpuint(f.bytes, >, 10 * l.rate / 100 * 80);
}

int main(int argc, char **argv)
{
    static const Link gigabit = {125000000, 200, 5000, .shared = true};
    static const Link gigabit_long = {125000000, 200, 40000, .shared = true};
    static const Link slow = {12500000, 200, 20000, .shared = true};
    static const Link ten = {1250000000, 60, 800, .shared = true};
    static const Link ten_short = {1250000000, 60, 300, .shared = true};
    static const Link own = {125000000, 460, 1600, .shared = true, .own = true};
    static const Link sluggish = {125000000, 200, 5000, .shared = true, .sluggish = true};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/window/settles", test_settles);
    g_test_add_func("/window/long", test_long);
    g_test_add_func("/window/middle", test_middle);
    g_test_add_func("/window/fast", test_fast);
    g_test_add_func("/window/ten", test_ten);
    g_test_add_func("/window/busy", test_busy);
    g_test_add_func("/window/rate", test_rate);
    g_test_add_func("/window/not-alone", test_not_alone);
    g_test_add_func("/window/slow", test_slow);
    g_test_add_data_func("/window/shared/1g", &gigabit, test_shared);
    g_test_add_data_func("/window/shared/1g-long", &gigabit_long, test_shared);
    g_test_add_data_func("/window/shared/100m", &slow, test_shared);
    g_test_add_data_func("/window/shared/10g", &ten, test_shared);
    g_test_add_data_func("/window/shared/10g-short", &ten_short, test_shared);
    g_test_add_data_func("/window/shared/own-queue", &own, test_shared);
    g_test_add_data_func("/window/shared/sluggish", &sluggish, test_shared);
    g_test_add_func("/window/kept", test_kept);
    g_test_add_func("/window/kept-steps", test_kept_steps);
    g_test_add_func("/window/settles-again", test_settles_again);
    g_test_add_func("/window/free", test_free);
    g_test_add_func("/window/no-rate", test_no_rate);
    g_test_add_data_func("/window/huge-runs", GINT_TO_POINTER(0), test_huge_runs);
    g_test_add_data_func("/window/huge-runs/precopy", GINT_TO_POINTER(1), test_huge_runs);
    g_test_add_func("/window/zero-pages", test_zero_pages);
    g_test_add_func("/window/refilled", test_refilled);
    g_test_add_func("/window/joined", test_joined);
    g_test_add_func("/window/late", test_late);
    g_test_add_func("/window/long-queue", test_long_queue);
    g_test_add_func("/window/four", test_four);
    g_test_add_func("/window/four-late", test_four_late);
    g_test_add_func("/window/four-halved", test_four_halved);
    g_test_add_func("/window/aborted", test_aborted);
    g_test_add_func("/window/sender", test_sender);
    g_test_add_func("/window/flapping", test_flapping);
    return g_test_run();
}
