/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that place a session's pages: two for what somebody waits for, and for the rest the
 * owner, which a helper joins where a processor is idle; both stop for as long as somebody waits.
 * See session-internal.h.
 *
 * What fails is never a reason to let a client continue: a thread that waits continues to wait, and
 * it is tried again.
 *
 * System calls: those of uffd/place.c, and of content/image/input.c.
 */
#include "pager/server/work.h"

#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "pager/server/limit.h"

#define BULK_BYTES (256 << 10)
/* Placed at once: the holder reads no fault while somebody is inside the gate. */
#define GATE_BYTES (64ull << 10)
#define SOURCE_AGAIN_MS 1000
#define MEMORY_AGAIN_MS 10
#define LIMIT_LOOK_MS 1000 /* whether the limit counts still */
#define SAID_AGAIN_US (10 * G_USEC_PER_SEC)

static __thread bool is_demand;

bool ff_work_is_demand(void)
{
    return is_demand;
}

struct FfWorker {
    FfSession *s;
    FfContentReader *reader[FF_IMAGE_BLOCKS]; /* one for all, or one for each block */
    void *buf;
    uint64_t buf_size;
    bool demand;
    bool skipped;       /* bulk: a page that could not be placed now */
    void (*rest)(void); /* of bulk: its priority outside the gate */
};

FfWorker *ff_worker_new(FfSession *s, uint64_t buf_size, bool demand)
{
    FfWorker *w = g_new0(FfWorker, 1);

    w->s = s;
    w->buf = g_malloc(buf_size);
    w->buf_size = buf_size;
    w->demand = demand;
    w->rest = ff_priority_bulk;
    if (demand) {
        is_demand = true;
        ff_priority_urgent();
    }
    return w;
}

void ff_worker_free(FfWorker *w)
{
    if (w) {
        for (unsigned i = 0; i < FF_IMAGE_BLOCKS; i++) {
            ff_content_reader_free(w->reader[i]);
        }
        g_free(w->buf);
        g_free(w);
    }
}

/* For what has no event: a disk that is well again, memory. */
bool ff_work_pause(FfSession *s, unsigned ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->calm_lock);
    int rc = 0;
    while (!ff_session_is_ending(s) && rc == 0) {
        rc = pthread_cond_timedwait(&s->calm, &s->calm_lock, &until);
    }
    pthread_mutex_unlock(&s->calm_lock);
    return ff_session_is_ending(s);
}

/* ---- one run --------------------------------------------------------------------------------- */

/* Under the lock. Another host can fail in one way after the other: the person who looks after it
 * must know.
 */
static bool is_said(FfSession *s, const char *why)
{
    int64_t now = g_get_monotonic_time();
    guint hash = g_str_hash(why);

    if (s->said_source && (!s->source || !ff_content_is_far(s->source) || hash == s->said_why ||
                           now - s->said_us < SAID_AGAIN_US)) {
        return true;
    }
    s->said_why = hash;
    s->said_us = now;
    return false;
}

/* What cannot be read is in `bad` until it can. */
static void note_failure(FfSession *s, const FfRun *run, const char *why)
{
    pthread_mutex_lock(&s->lock);
    s->bad_n += ff_bitmap_set_run(&s->bad[run->block], run->first, run->n);
    bool said = is_said(s, why);
    s->said_source = true;
    pthread_mutex_unlock(&s->lock);
    if (!said) {
        ff_session_log(s, "%s: who waits for it waits, and it is tried again", why);
    }
}

static void note_success(FfSession *s, const FfRun *run)
{
    if (!__atomic_load_n(&s->said_source, __ATOMIC_RELAXED)) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->bad_n -= ff_bitmap_clear_run(&s->bad[run->block], run->first, run->n);
    bool well = s->said_source && !s->bad_n;
    s->said_source = s->bad_n;
    pthread_mutex_unlock(&s->lock);
    if (well) {
        ff_session_log(s, "its content can be read again");
    }
}

/* After a failure the reader is opened again: the file may be on a disk that was away. */
static bool read_once(FfWorker *w, const FfRun *run, uint64_t *len, bool *zero, GError **error)
{
    FfSession *s = w->s;
    const FfImageBlock *b = &s->image->block[run->block];
    FfContent *source = s->source ? s->source : s->block_source[run->block];
    FfContentReader **reader = &w->reader[s->source ? 0 : run->block];

    *len = run->n * b->page_size;
    if (!*reader) {
        *reader = ff_content_reader(source, error);
        if (*reader && w->demand) {
            ff_content_reader_hurry(*reader);
        }
    }
    if (*reader && FF_FAULT_CALL("source-read", 0) == 0 &&
        ff_content_read(*reader, b->content + run->first * b->page_size, w->buf, len, b->page_size,
                        0, zero, error)) {
        return true;
    }
    g_clear_pointer(reader, ff_content_reader_free);
    return false;
}

/* Of RUN as many pages as *LEN says afterwards. */
static bool read_content(FfWorker *w, const FfRun *run, uint64_t *len, bool *zero)
{
    FfSession *s = w->s;
    g_autoptr(GError) error = NULL;

    if (read_once(w, run, len, zero, &error)) {
        uint64_t ps = s->image->block[run->block].page_size;
        note_success(s, &(FfRun){run->block, run->first, *len / ps});
        return true;
    }
    if (ff_session_is_ending(s)) {
        return false;
    }
    note_failure(s, run, error ? error->message : g_strerror(errno));
    return false;
}

/* Nobody is kept waiting by a page that cannot be read or placed but a thread that waits for that
 * one. */
static void put_off(FfSession *s, const FfRun *run)
{
    pthread_mutex_lock(&s->lock);
    if (!s->later_n) {
        s->later_us = g_get_monotonic_time() + SOURCE_AGAIN_MS * 1000;
    }
    s->later_n += ff_bitmap_set_run(&s->later[run->block], run->first, run->n);
    pthread_cond_broadcast(&s->changed); /* those that wait without an end to it */
    pthread_mutex_unlock(&s->lock);
}

/* What placing RUN came to. FALSE: no more of it. */
static bool note_placed(FfWorker *w, const FfRun *run, int rc)
{
    FfSession *s = w->s;

    switch (rc) {
    case 0:
        return true;
    case -ESRCH: /* the process has exited */
        ff_session_end(s);
        return false;
    case -ECANCELED:
        return false;
    case -ENOENT: /* not registered any more: nobody waits there, or is told again */
        ff_place_ask_again(s->space, run);
        return true;
    case -ENOMEM: /* of a huge page also: it may be there */
        if (w->demand) {
            ff_place_ask_again(s->space, run);
            ff_work_pause(s, MEMORY_AGAIN_MS);
        }
        w->skipped = true;
        return true;
    default:
        if (!__atomic_exchange_n(&s->said_memory, true, __ATOMIC_ACQ_REL)) {
            ff_session_log(s,
                           "a page cannot be placed at %" PRIx64 " (%s), so it waits, and it is "
                           "tried again: its regions are not what it said",
                           ff_space_addr(s->space, run->block, run->first), g_strerror(-rc));
        }
        if (w->demand) {
            put_off(s, run);
        }
        w->skipped = true;
        return w->demand;
    }
}

/* In memory of ours nothing tells that a page was given back. So a thread that places what nobody
 * waits for must not come late, when the page was answered for. */
static int place_part(FfWorker *w, const FfRun *part, bool zero, const void *data)
{
    FfSession *s = w->s;

    if (s->dialect->memory_is_ours) {
        pthread_mutex_lock(&s->asked_lock);
    }
    int rc = zero ? ff_place_zero(s->space, part) : ff_place_copy(s->space, part, data);
    if (s->dialect->memory_is_ours) {
        pthread_mutex_unlock(&s->asked_lock);
    }
    return rc;
}

/* In a memfd of ours zeros cost memory, and what nobody asks for (memory that is not plugged in)
 * must cost none. */
static bool is_left_out(const FfWorker *w, bool zero)
{
    return zero && w->s->dialect->memory_is_ours && !w->demand;
}

/* While bulk is inside the gate no fault is read: a thread that preempted it there would keep all
 * that wait waiting. */
static bool put_part(FfWorker *w, const FfRun *part, bool zero, const void *data)
{
    if (w->demand) {
        return note_placed(w, part, place_part(w, part, zero, data));
    }
    ff_priority_urgent();
    bool more = note_placed(w, part, place_part(w, part, zero, data));
    w->rest();
    return more;
}

/* Until nobody waits, or the end. */
static void wait_calm(FfSession *s)
{
    if (__atomic_load_n(&s->waiting, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&s->calm_lock);
        while (__atomic_load_n(&s->waiting, __ATOMIC_SEQ_CST) && !ff_session_is_ending(s)) {
            pthread_cond_wait(&s->calm, &s->calm_lock);
        }
        pthread_mutex_unlock(&s->calm_lock);
    }
}

bool ff_worker_put(FfWorker *w, const FfRun *run, const void *data)
{
    uint64_t ps = w->s->image->block[run->block].page_size, most = MAX(GATE_BYTES, ps) / ps;

    /* What somebody waits for is not limited, and is not counted. With a limit there is no helper.
     */
    if (data && !w->demand && w->s->all->rate && !ff_session_hurries(w->s)) {
        w->s->next_us = ff_limit_next(w->s->next_us, w->s->all->rate, run->n * ps);
    }
    for (uint64_t i = 0; i < run->n; i += most) {
        FfRun part = {run->block, run->first + i, MIN(most, run->n - i)};
        if (!w->demand) {
            wait_calm(w->s);
        }
        if (!put_part(w, &part, !data, data ? (const char *)data + i * ps : NULL)) {
            return false;
        }
    }
    return true;
}

bool ff_worker_place(FfWorker *w, const FfRun *run)
{
    FfSession *s = w->s;
    uint64_t ps = s->image->block[run->block].page_size;

    for (uint64_t i = 0; i < run->n;) {
        uint64_t len;
        bool zero;
        if (!read_content(w, &(FfRun){run->block, run->first + i, run->n - i}, &len, &zero)) {
            return false;
        }
        FF_FAULT_AT("content-read");
        if (!is_left_out(w, zero) &&
            !ff_worker_put(w, &(FfRun){run->block, run->first + i, len / ps},
                           zero ? NULL : w->buf)) {
            return true;
        }
        i += len / ps;
    }
    return true;
}

bool ff_worker_read(FfWorker *w, const FfRun *run, void *to)
{
    FfSession *s = w->s;
    uint64_t ps = s->image->block[run->block].page_size, most = w->buf_size / ps, zeros = 0, len;

    for (uint64_t i = 0; i < run->n; i += len / ps) {
        FfRun part = {run->block, run->first + i, MIN(most, run->n - i)};
        bool zero;
        if (!read_content(w, &part, &len, &zero)) {
            return false;
        }
        FF_FAULT_AT("content-read");
        if (zero) {
            memset((char *)to + i * ps, 0, len);
            zeros += len / ps;
        } else {
            memcpy((char *)to + i * ps, w->buf, len);
        }
    }
    ff_bitmap_set_run(&s->placed[run->block], run->first, run->n);
    ff_image_count(s->image, demand, run->n);
    ff_image_count(s->image, zeros, zeros);
    ff_image_count(s->image, data, (run->n - zeros) * ps);
    return true;
}

/* A thread less that must wake up before the one that waits. What fails is said by the one whose
 * turn it is then. */
bool ff_worker_place_at_once(FfWorker *w, const FfRun *run)
{
    FfSession *s = w->s;
    const FfImageBlock *b = &s->image->block[run->block];
    FfContentReader *reader = __atomic_load_n(&s->cached, __ATOMIC_ACQUIRE);
    uint64_t len = run->n * b->page_size;
    bool zero;

    return reader && len <= w->buf_size && FF_FAULT_CALL("content-cached", 0) == 0 &&
           ff_content_read(reader, b->content + run->first * b->page_size, w->buf, &len, len,
                           FF_CONTENT_NOWAIT, &zero, NULL) &&
           ff_place_at_once(s->space, run, zero ? NULL : w->buf) == 0;
}

/* ---- demand ---------------------------------------------------------------------------------- */

/* Under the lock: one of those that the ring had no room for. */
static bool take_overflow(FfSession *s, FfDemand *d)
{
    for (unsigned i = 0; s->overflow_n && i < s->image->n_blocks; i++) {
        uint64_t first;
        if (ff_bitmap_claim_run(&s->overflow[i], 0, s->overflow[i].n_pages, 1, &first)) {
            s->overflow_n--;
            *d = (FfDemand){{i, first, 1}, g_get_monotonic_time()};
            return true;
        }
    }
    s->overflow_n = 0;
    return false;
}

/* What could not be read a while ago is asked for again. Under the lock. */
static void ask_again(FfSession *s)
{
    uint64_t first, n, added = 0;

    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        for (uint64_t at = 0; (n = ff_bitmap_next_run(&s->later[i], at, true, &first));
             at = first + n) {
            ff_bitmap_clear_run(&s->later[i], first, n);
            added += ff_bitmap_set_run(&s->overflow[i], first, n);
        }
    }
    s->overflow_n += added;
    __atomic_add_fetch(&s->waiting, added, __ATOMIC_SEQ_CST);
    s->later_n = 0;
}

static void wait_demand(FfSession *s)
{
    struct timespec until = {s->later_us / 1000000, s->later_us % 1000000 * 1000};

    if (s->later_n) {
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    } else {
        pthread_cond_wait(&s->changed, &s->lock);
    }
}

static bool next_demand(FfSession *s, FfDemand *d)
{
    bool some = false;

    pthread_mutex_lock(&s->lock);
    while (!some && !ff_session_is_ending(s)) {
        if (s->later_n && g_get_monotonic_time() >= s->later_us) {
            ask_again(s);
        }
        if (s->queue_n) {
            *d = s->queue[s->queue_first];
            s->queue_first = (s->queue_first + 1) % FF_SESSION_QUEUE;
            s->queue_n--;
            some = true;
        } else if (!take_overflow(s, d)) {
            wait_demand(s);
        } else {
            some = true;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return some;
}

void ff_work_answered(FfSession *s, int64_t since_us)
{
    uint64_t took = g_get_monotonic_time() - since_us;
    uint64_t max = __atomic_load_n(&s->image->counts.demand_us_max, __ATOMIC_RELAXED);

    ff_image_count(s->image, demand_us, took);
    while (took > max && !__atomic_compare_exchange_n(&s->image->counts.demand_us_max, &max, took,
                                                      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    if (__atomic_sub_fetch(&s->waiting, 1, __ATOMIC_SEQ_CST) == 0) {
        pthread_mutex_lock(&s->calm_lock);
        pthread_cond_broadcast(&s->calm);
        pthread_mutex_unlock(&s->calm_lock);
    }
}

static uint64_t largest_page(const FfSession *s)
{
    uint64_t size = 0;

    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        size = MAX(size, s->image->block[i].page_size);
    }
    return size;
}

static gpointer run_demand(gpointer p)
{
    FfSession *s = p;
    g_autoptr(FfWorker) w = ff_worker_new(s, largest_page(s), true);
    FfDemand d;

    while (next_demand(s, &d)) {
        if (!ff_worker_place(w, &d.run)) {
            put_off(s, &d.run);
        }
        ff_work_answered(s, d.since_us);
    }
    return NULL;
}

/* ---- bulk ------------------------------------------------------------------------------------ */

static void wait_limit(FfSession *s)
{
    int64_t left;

    while (!ff_session_hurries(s) && (left = s->next_us - g_get_monotonic_time()) > 0 &&
           !ff_work_pause(s, (unsigned)MIN(left / 1000 + 1, LIMIT_LOOK_MS))) {
    }
}

/* What it was given is more than what nobody waits for may bring it to. Says so once for each
 * pager. */
static bool has_enough(FfSession *s)
{
    uint64_t most = s->all->memory;

    if (!most || ff_session_hurries(s) ||
        __atomic_load_n(&s->image->counts.data, __ATOMIC_RELAXED) < most) {
        return false;
    }
    if (!s->said_enough) {
        s->said_enough = true;
        ff_session_log(s,
                       "it has been given %" PRIu64 " bytes (--max-memory): from now on it gets "
                       "what it waits for, and nothing else",
                       most);
    }
    return true;
}

bool ff_work_wait_turn(FfSession *s)
{
    wait_limit(s);
    wait_calm(s);
    return !ff_session_is_ending(s) && !has_enough(s);
}

/* Which piece the next thread places that places what nobody waits for. FALSE: all were given. */
static bool next_piece(FfWorker *w, FfRun *run)
{
    FfSession *s = w->s;
    uint64_t n = 0;

    pthread_mutex_lock(&s->bulk_lock);
    while (s->bulk_block < s->image->n_blocks) {
        unsigned i = s->bulk_block;
        n = ff_bitmap_next_run(&s->placed[i], s->bulk_at, false, &run->first);
        if (n) {
            run->block = i;
            run->n = MIN(n, w->buf_size / s->image->block[i].page_size);
            s->bulk_at = run->first + run->n;
            break;
        }
        s->bulk_block++;
        s->bulk_at = 0;
    }
    pthread_mutex_unlock(&s->bulk_lock);
    return n;
}

/* FALSE: some could not be read, or placed. */
static bool place_pieces(FfWorker *w)
{
    FfSession *s = w->s;
    bool all = true;
    FfRun run;

    while (ff_work_wait_turn(s) && next_piece(w, &run)) {
        w->skipped = false;
        if (!ff_worker_place(w, &run) || w->skipped) {
            all = false;
            ff_work_pause(s, SOURCE_AGAIN_MS); /* all of it may be away */
        }
    }
    return all;
}

static FfWorker *bulk_worker(FfSession *s)
{
    return ff_worker_new(s, MAX(BULK_BYTES, largest_page(s)), false);
}

static gpointer run_helper(gpointer p)
{
    g_autoptr(FfWorker) w = bulk_worker(p);

    /* A processor on which it runs is as good as idle for all others, where it can be raised again
     * for the gate. */
    w->rest = ff_priority_can_rise() ? ff_priority_low : ff_priority_bulk;
    w->rest();
    return GINT_TO_POINTER(place_pieces(w));
}

/* A second thread for the owner, where a processor would be idle and nothing else is the limit.
 * NULL: none. */
static GThread *start_helper(FfSession *s)
{
    FfSessions *all = s->all;

    if (all->rate || all->memory || !s->source || !ff_content_is_file(s->source)) {
        return NULL;
    }
    if (__atomic_add_fetch(&all->bulk_threads, 1, __ATOMIC_RELAXED) <= g_get_num_processors()) {
        GThread *thread = g_thread_try_new("bulk", run_helper, s, NULL);
        if (thread) {
            return thread;
        }
    }
    __atomic_sub_fetch(&all->bulk_threads, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* FALSE: as place_pieces(). */
static bool place_pass(FfWorker *w)
{
    FfSession *s = w->s;

    s->bulk_block = 0;
    s->bulk_at = 0;
    GThread *helper = start_helper(s);
    bool all = place_pieces(w);
    if (helper) {
        all = GPOINTER_TO_INT(g_thread_join(helper)) && all;
        __atomic_sub_fetch(&s->all->bulk_threads, 1, __ATOMIC_RELAXED);
    }
    return all;
}

void ff_work_bulk(FfSession *s)
{
    g_autoptr(FfWorker) w = bulk_worker(s);

    __atomic_add_fetch(&s->all->bulk_threads, 1, __ATOMIC_RELAXED);
    while (!place_pass(w) && !ff_session_is_ending(s)) {
    }
    __atomic_sub_fetch(&s->all->bulk_threads, 1, __ATOMIC_RELAXED);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

bool ff_work_start(FfSession *s, unsigned demands, GError **error)
{
    if (!s->queue) {
        s->queue = g_new(FfDemand, FF_SESSION_QUEUE);
        for (unsigned i = 0; i < s->image->n_blocks; i++) {
            ff_bitmap_init(&s->overflow[i], s->placed[i].n_pages, false);
            ff_bitmap_init(&s->later[i], s->placed[i].n_pages, false);
            ff_bitmap_init(&s->bad[i], s->placed[i].n_pages, false);
        }
    }
    for (unsigned i = 0; i < demands; i++) {
        if (!s->demand[i] && !(s->demand[i] = g_thread_try_new("demand", run_demand, s, error))) {
            return false;
        }
    }
    return true;
}

void ff_work_join(FfSession *s)
{
    for (unsigned i = 0; i < FF_SESSION_DEMANDS; i++) {
        if (s->demand[i]) {
            g_thread_join(s->demand[i]);
        }
    }
}

void ff_work_clear(FfSession *s)
{
    for (unsigned i = 0; s->queue && i < s->image->n_blocks; i++) {
        ff_bitmap_clear(&s->overflow[i]);
        ff_bitmap_clear(&s->later[i]);
        ff_bitmap_clear(&s->bad[i]);
    }
    g_free(s->queue);
}
