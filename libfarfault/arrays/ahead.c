/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks that a program will touch next are loaded before it does.
 *
 * A stream is a row of misses of neighbouring blocks in one mapping. From the third on a window of
 * the blocks after it is queued, then another when the program is within the last one; windows
 * double, up to WINDOW bytes. Threads take pieces of what is queued, load and show them. The first
 * block of a window is loaded and not shown: a thread that touches it has a short fault, by which
 * it is known how far the program is. Where it is faster than the loads it misses blocks in
 * between, which tells the same.
 *
 * Nothing of it makes a thread that touches something else wait: those have the threads of the
 * pool. For room only what is not changed is given back; all windows of all streams are a quarter
 * of the limit at most. What is queued and was loaded by somebody else meanwhile is passed over.
 *
 * Threads: ff_array_ahead_note() any, under the array's lock, which guards all of this; its own,
 * started with the first window, as many as the processors, THREADS at most. System calls:
 * fadvise64 (disk.c).
 */
#include <string.h>

#include "libfarfault/arrays/internal.h"
#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"

#define WINDOW (2u << 20)
#define PIECE (256u << 10) /* of a file: loaded and shown at once */
#define THREADS 4
#define STREAMS 8
#define ROW 3
/* Each stream has two windows at most. */
#define SHARE (4 * 2 * STREAMS)

typedef struct {
    const FfArrayMap *map; /* is compared only */
    uint64_t next;         /* after the block that was missed last */
    uint64_t end;          /* what is queued ends here */
    uint64_t window;       /* blocks */
    unsigned row;          /* misses */
    uint64_t used;         /* when: by `clock` */
} Stream;

typedef struct {
    FfArrayMap *map; /* may be gone */
    uint64_t first, end;
    bool mark; /* FIRST is not to be shown */
} Window;

struct FfArrayAhead {
    FfArray *a;
    FfAheadLoad *load;
    uint64_t max_window, piece; /* blocks */
    unsigned max_threads;
    /* All below: the array's lock. */
    Stream streams[STREAMS];
    uint64_t clock;
    Window queue[2 * STREAMS];
    unsigned n_queue;
    GPtrArray *threads; /* GThread */
    bool ending;
    pthread_cond_t queued;
};

/* ---- threads --------------------------------------------------------------------------------- */

/* A piece of the window that was queued first. */
static Window take_window(FfArrayAhead *h)
{
    Window *w = &h->queue[0], piece = *w;

    piece.end = MIN(w->end, w->first + h->piece);
    w->first = piece.end;
    w->mark = false;
    if (w->first == w->end) {
        h->n_queue--;
        memmove(h->queue, h->queue + 1, h->n_queue * sizeof(*w));
    }
    return piece;
}

static gpointer run_ahead(gpointer opaque)
{
    FfArrayAhead *h = opaque;
    FfArray *a = h->a;
    size_t len = h->piece * a->block_size;
    g_autofree char *buffer = g_try_malloc(len);

    pthread_mutex_lock(&a->lock);
    while (!h->ending && buffer) {
        if (!h->n_queue) {
            pthread_cond_wait(&h->queued, &a->lock);
            continue;
        }
        uint64_t end = h->queue[0].end;
        Window w = take_window(h);
        if (w.mark && a->disk) {
            uint64_t at = w.first * a->block_size;
            pthread_mutex_unlock(&a->lock);
            ff_array_disk_will_need(a->disk, at, end * a->block_size - at);
            pthread_mutex_lock(&a->lock);
        }
        h->load(a, w.map, w.first, w.end - w.first, w.mark, buffer);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

static void queue_window(FfArrayAhead *h, Window w)
{
    if (h->ending || h->n_queue == G_N_ELEMENTS(h->queue)) {
        return; /* nobody joins a new thread; or the disk is slower than all that read */
    }
    h->queue[h->n_queue++] = w;
    while (h->threads->len < h->max_threads) {
        GThread *t = ff_reserve("ff-ahead", 0) < 0 ? NULL : ff_thread_new("ff-ahead", run_ahead, h);
        if (!t) {
            break; /* those that are there do; or nobody, and each block is loaded by itself */
        }
        g_ptr_array_add(h->threads, t);
    }
    pthread_cond_broadcast(&h->queued);
}

/* ---- streams --------------------------------------------------------------------------------- */

static Stream *find_stream(FfArrayAhead *h, const FfArrayMap *m, uint64_t block)
{
    Stream *oldest = &h->streams[0];

    for (unsigned i = 0; i < STREAMS; i++) {
        Stream *s = &h->streams[i];
        if (s->map == m && block + 1 >= s->next && block <= s->end) {
            return s;
        }
        oldest = s->used < oldest->used ? s : oldest;
    }
    *oldest = (Stream){.map = m, .next = block, .end = block, .window = MIN(4, h->max_window)};
    return oldest;
}

void ff_array_ahead_note(FfArrayAhead *h, FfArrayMap *m, uint64_t block)
{
    if (!h) {
        return;
    }
    Stream *s = find_stream(h, m, block);
    s->used = ++h->clock;
    if (block + 1 == s->next) {
        return; /* once more, or by another thread */
    }
    s->next = block + 1;
    s->end = MAX(s->end, s->next);
    s->row++;
    uint64_t last = (m->offset + m->len + h->a->block_size - 1) / h->a->block_size;
    if (s->row < ROW || s->end - s->next >= s->window || s->end >= last) {
        return;
    }
    Window w = {m, s->end, MIN(s->end + s->window, last), true};
    s->end = w.end;
    s->window = MIN(2 * s->window, h->max_window);
    queue_window(h, w);
}

/* ---- begin and end --------------------------------------------------------------------------- */

FfArrayAhead *ff_array_ahead_new(FfArray *a, unsigned threads, FfAheadLoad *load)
{
    uint64_t most = MAX(WINDOW / a->block_size, 2);

    most = a->max_resident ? MIN(most, a->max_resident / SHARE) : most;
    if (!most || !threads) {
        return NULL;
    }
    FfArrayAhead *h = g_new0(FfArrayAhead, 1);
    *h = (FfArrayAhead){.a = a,
                        .load = load,
                        .max_window = most,
                        .piece = a->disk ? MAX(PIECE / a->block_size, 1) : 1,
                        .max_threads = threads,
                        .threads = g_ptr_array_new()};
    pthread_cond_init(&h->queued, NULL);
    return h;
}

unsigned ff_array_ahead_threads(unsigned limit)
{
    unsigned n = MIN(g_get_num_processors(), THREADS);

    return limit ? MIN(n, limit / 2) : n;
}

void ff_array_ahead_end(FfArrayAhead *h)
{
    if (!h) {
        return;
    }
    pthread_mutex_lock(&h->a->lock);
    h->ending = true;
    pthread_cond_broadcast(&h->queued);
    pthread_mutex_unlock(&h->a->lock);
    for (guint i = 0; i < h->threads->len; i++) {
        g_thread_join(h->threads->pdata[i]);
    }
}

void ff_array_ahead_free(FfArrayAhead *h)
{
    if (h) {
        g_ptr_array_unref(h->threads);
        pthread_cond_destroy(&h->queued);
        g_free(h);
    }
}
