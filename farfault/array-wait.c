/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks of huge pages for which there is no page just now. No thread waits for one: the block is
 * EMPTY again, a thread that touches it stays where it is, in the kernel, and touches it once more
 * when something has ended after which there may be a page: a load, a commit, an abort, a reclaim,
 * or the time for which an older thread holds the block that it was given (holds.c).
 *
 * That something ends must be certain. A load, and a commit, may be in a call of the program's that
 * touches the array itself: such a call ends nothing as long as it waits for a block. So calls are
 * listed by their threads, and only what is not in a call that waits is worth waiting for. No
 * thread that looks for a page counts for others: the last one that does finds nothing, and its
 * block has FAILED, which continues with all others.
 *
 * Of holds: the oldest thread that waits can take all that others hold, so it finds a page, or one
 * is being loaded, given back or committed, which ends. Those that a younger one waits for either
 * wait themselves (then the oldest of them is served), or end by time.
 *
 * Threads, lock: array-internal.h. System calls: gettid, ioctl(UFFDIO_WAKE).
 */
#include <unistd.h>

#include "farfault/array-internal.h"
#include "uffd/uffd.h"

/* Pages that another program has taken may come back: the kernel tells of none. */
#define LOST_US 3000000
#define LOOK_US 50000

/* ---- calls of the program's ------------------------------------------------------------------ */

void ff_array_call_begin(FfArray *a, FfArrayCall *call)
{
    pthread_mutex_lock(&a->lock);
    *call = (FfArrayCall){.tid = gettid(), .next = a->calls};
    a->calls = call;
    pthread_mutex_unlock(&a->lock);
}

void ff_array_call_end(FfArray *a, FfArrayCall *call)
{
    FfArrayCall **at = &a->calls;

    pthread_mutex_lock(&a->lock);
    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
    pthread_mutex_unlock(&a->lock);
}

bool ff_array_is_in_call(const FfArray *a, pid_t tid)
{
    const FfArrayCall *c = a->calls;

    while (c && c->tid != tid) {
        c = c->next;
    }
    return c;
}

void ff_array_call_waits(FfArray *a, uint64_t block, pid_t tid)
{
    for (FfArrayCall *c = a->calls; c; c = c->next) { /* store() of a commit in a load() is two */
        if (c->tid == tid) {
            c->waits = block + 1;
        }
    }
}

/* ---- waiting --------------------------------------------------------------------------------- */

void ff_array_wake(FfArray *a, uint64_t block, const FfArrayMap *done)
{
    for (guint i = 0; i < a->maps->len; i++) {
        uint64_t len, addr = ff_array_where(a, a->maps->pdata[i], block, &len);
        if (addr && a->maps->pdata[i] != done) {
            ff_uffd_wake(a->uffd, addr, len);
        }
    }
}

/* Everything that is parked is touched once more at AT, if not before. */
static void retry_at(FfArray *a, int64_t at)
{
    if (!a->retry_at || at < a->retry_at) {
        a->retry_at = at;
        ff_pool_set_time(a->pool, at);
    }
}

static void park(FfArray *a, uint64_t block)
{
    guint i = 0;

    /* Not by ff_array_set_state(): those that wait for it still do. */
    a->blocks[block].state = FF_BLOCK_EMPTY;
    a->blocks[block].parked = true;
    /* A signal has a thread that waits touch it again. */
    while (i < a->parked->len && g_array_index(a->parked, uint64_t, i) != block) {
        i++;
    }
    if (i == a->parked->len) {
        g_array_append_val(a->parked, block);
    }
}

bool ff_array_park(FfArray *a, uint64_t block, pid_t tid)
{
    int64_t end = ff_holds_end(a->holds, tid);
    uint64_t stuck = 0;

    for (const FfArrayCall *c = a->calls; c; c = c->next) {
        stuck += c->waits != 0;
    }
    if (!a->n_leaving && a->n_loading + a->busy <= stuck && !end) {
        return false;
    }
    if (end) {
        retry_at(a, end);
    }
    park(a, block);
    return true;
}

bool ff_array_park_lost(FfArray *a, uint64_t block)
{
    int64_t now = g_get_monotonic_time();

    a->lost_since = a->lost_since ? a->lost_since : now;
    if (!ff_huge_memory_lacks(a->huge) || now - a->lost_since >= LOST_US) {
        return false;
    }
    retry_at(a, now + LOOK_US);
    park(a, block);
    return true;
}

void ff_array_retry(FfArray *a)
{
    a->n_ended++;
    for (guint i = 0; i < a->parked->len; i++) {
        uint64_t block = g_array_index(a->parked, uint64_t, i);
        ff_array_goes_on(a, block);
        ff_array_wake(a, block, NULL);
    }
    g_array_set_size(a->parked, 0);
}

void ff_array_on_time(void *opaque)
{
    FfArray *a = opaque;

    pthread_mutex_lock(&a->lock);
    a->retry_at = 0;
    ff_holds_expire(a->holds);
    ff_array_retry(a);
    pthread_mutex_unlock(&a->lock);
}
