/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See holds.h.
 *
 * A thread holds the FF_HOLDS_BLOCKS different blocks that it has missed last. While it executes
 * one instruction it misses only blocks of that, which are no more than these; each of them is held
 * from its miss on, so it is missed once, and after FF_HOLDS_BLOCKS misses the thread has all of
 * them. Whatever was in memory before and leaves meanwhile is one more of these misses. A system
 * call that copies goes on a page at a time, and needs no more: an operand, and the other one.
 *
 * Nothing tells when a thread has executed its instruction. It waits; then it has its block, and a
 * time to execute (HOLD_US), after which it holds nothing. A thread that did not run in that time
 * misses a block that it has held: its time is twice as long from then on. So a thread that
 * the kernel lets run at all (within HOLD_MAX_US) has all of its blocks in the end.
 *
 * More is held than there is room for: the caller makes room.
 *
 * Threads and lock: the caller's. No system calls.
 */
#include "libfarfault/common/holds.h"

#define HOLD_US 5000
#define HOLD_MAX_US 10000000
/* What is known of a thread that holds nothing is kept for so long. */
#define KEPT_US 10000000
#define FILTER 256

typedef struct {
    pid_t tid;
    bool held;
    bool expired;      /* and it has missed nothing since */
    unsigned n;        /* blocks */
    unsigned n_missed; /* different ones; with one more an instruction was executed */
    uint64_t blocks[FF_HOLDS_BLOCKS]; /* what it missed last is first */
    uint64_t waits;                   /* for that block + 1; 0: it has what it waited for */
    int64_t until;                    /* it does not wait: it holds so long */
    int64_t time;                     /* us */
} Holder;

struct FfHolds {
    Holder *holders;
    unsigned n, room;        /* of them */
    uint32_t filter[FILTER]; /* how many blocks of that hash are held */
    unsigned n_held, n_waiting;
};

FfHolds *ff_holds_new(void)
{
    return g_new0(FfHolds, 1);
}

void ff_holds_free(FfHolds *h)
{
    if (h) {
        g_free(h->holders);
        g_free(h);
    }
}

static Holder *holder_at(const FfHolds *h, unsigned i)
{
    return &h->holders[i];
}

static void set_held(FfHolds *h, Holder *t, bool held)
{
    if (t->held == held) {
        return;
    }
    for (unsigned i = 0; i < t->n; i++) {
        h->filter[t->blocks[i] % FILTER] += held ? 1 : -1u;
    }
    h->n_held += held ? 1 : -1u;
    t->held = held;
}

static void set_waits(FfHolds *h, Holder *t, uint64_t waits)
{
    h->n_waiting += (waits != 0) - (unsigned)(t->waits != 0);
    t->waits = waits;
}

static Holder *find_holder(const FfHolds *h, pid_t tid)
{
    for (unsigned i = 0; i < h->n; i++) {
        if (holder_at(h, i)->tid == tid) {
            return holder_at(h, i);
        }
    }
    return NULL;
}

/* FALSE: there is no memory. */
static bool make_room(FfHolds *h)
{
    unsigned more = h->room ? 2 * h->room : 16;
    Holder *holders = h->n < h->room ? h->holders : g_try_renew(Holder, h->holders, more);

    if (holders && h->n == h->room) {
        h->holders = holders;
        h->room = more;
    }
    return holders;
}

/* For a thread that has none; NULL: there is no memory, and it holds nothing. */
static Holder *new_holder(FfHolds *h, pid_t tid)
{
    int64_t old = g_get_monotonic_time() - KEPT_US;
    Holder fresh = {.tid = tid, .time = HOLD_US}, *found = NULL;

    for (unsigned i = 0; i < h->n && !found; i++) {
        Holder *t = holder_at(h, i);
        found = !t->held && !t->waits && t->until < old ? t : NULL;
    }
    if (!found) {
        if (!make_room(h)) {
            return NULL;
        }
        found = holder_at(h, h->n++);
    }
    *found = fresh;
    return found;
}

/* BLOCK is the first one of T. FALSE: it was not one of them. */
static bool use_block(Holder *t, uint64_t block)
{
    unsigned i = 0;

    while (i < t->n && t->blocks[i] != block) {
        i++;
    }
    bool found = i < t->n;
    t->n += !found && t->n < FF_HOLDS_BLOCKS;
    for (i = MIN(i, t->n - 1); i > 0; i--) {
        t->blocks[i] = t->blocks[i - 1];
    }
    t->blocks[0] = block;
    return found;
}

void ff_holds_wait(FfHolds *h, pid_t tid, uint64_t block, bool gone)
{
    Holder *t = find_holder(h, tid);

    t = t ? t : new_holder(h, tid);
    if (!t) {
        return;
    }
    set_held(h, t, false);
    bool again = use_block(t, block);
    if (again && gone && t->expired) { /* or it has used it, and does once more: that is no harm */
        t->time = MIN(2 * t->time, HOLD_MAX_US);
    }
    t->expired = false;
    t->n_missed += !again;
    if (t->n_missed > FF_HOLDS_BLOCKS) {
        t->n_missed = 1;
        t->time = HOLD_US;
    }
    set_waits(h, t, block + 1);
    set_held(h, t, true);
}

void ff_holds_given(FfHolds *h, uint64_t block)
{
    int64_t now = h->n_waiting ? g_get_monotonic_time() : 0;

    for (unsigned i = 0; h->n_waiting && i < h->n; i++) {
        Holder *t = holder_at(h, i);
        if (t->waits == block + 1) {
            set_waits(h, t, 0);
            set_held(h, t, true);
            t->until = now + t->time;
        }
    }
}

bool ff_holds_has(const FfHolds *h, uint64_t block)
{
    if (!h->filter[block % FILTER]) {
        return false;
    }
    for (unsigned i = 0; i < h->n; i++) {
        const Holder *t = holder_at(h, i);
        for (unsigned k = 0; t->held && k < t->n; k++) {
            if (t->blocks[k] == block) {
                return true;
            }
        }
    }
    return false;
}

void ff_holds_expire(FfHolds *h)
{
    int64_t now = h->n_held ? g_get_monotonic_time() : 0;

    for (unsigned i = 0; h->n_held && i < h->n; i++) {
        Holder *t = holder_at(h, i);
        if (t->held && !t->waits && t->until <= now) {
            set_held(h, t, false);
            t->expired = true;
        }
    }
}
