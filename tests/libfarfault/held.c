/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See held.h. */
#include "tests/libfarfault/held.h"

#include <string.h>

void call(int rc)
{
    if (rc < 0) {
        g_error("%s", ff_last_error());
    }
}

void assert_says(int rc, int expected, const char *text)
{
    g_assert_cmpint(rc, ==, expected);
    if (!strstr(ff_last_error(), text)) {
        g_error("'%s' is not in: %s", text, ff_last_error());
    }
    g_assert_null(strchr(ff_last_error(), '\n'));
}

static int hold(void *opaque, void *addr, const void *data, size_t len)
{
    Held *h = opaque;

    pthread_mutex_lock(&h->lock);
    h->reached = true;
    pthread_cond_broadcast(&h->changed);
    while (!h->go) {
        pthread_cond_wait(&h->changed, &h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return h->stop ? h->stop : world_page(&h->pages, addr, data, len);
}

void held_fill(World *w, uint64_t salt)
{
    for (size_t i = 0; i < w->len; i += 8) {
        uint64_t word = (i + 1) * 0x9e3779b97f4a7c15ull + salt;
        memcpy(w->map + i, &word, sizeof(word));
    }
}

bool held_new(Held *h, WorldKind kind, const FfSnapshotOptions *options)
{
    *h = (Held){.w = world_new(kind, HELD_LEN)};
    if (!h->w) {
        return false;
    }
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    world_pages_init(&h->pages, h->w);
    held_fill(h->w, 0);
    h->then = g_memdup2(h->w->map, HELD_LEN);
    call(ff_snapshot_prepare(h->w->m, options));
    call(ff_snapshot_begin(h->w->m));
    call(ff_snapshot_save_pages(h->w->m, hold, h));
    pthread_mutex_lock(&h->lock);
    while (!h->reached) {
        pthread_cond_wait(&h->changed, &h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return true;
}

void held_go(Held *h)
{
    pthread_mutex_lock(&h->lock);
    h->go = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

void held_free(Held *h)
{
    world_free(h->w);
    world_pages_clear(&h->pages);
    g_free(h->then);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->changed);
}

void held_assert_saved(Held *h)
{
    held_go(h);
    call(ff_snapshot_wait(h->w->m, NULL));
    g_assert_cmphex(world_hash(h->pages.copy, HELD_LEN), ==, world_hash(h->then, HELD_LEN));
}
