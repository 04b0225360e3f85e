/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that are used again. An execution of a whole side starts up to seven, and under ASan
 * making one costs as much as all that it does. This program's own g_thread_new() hides GLib's:
 * what is started is a real thread's work all the same, at the same time as the others'.
 *
 * Any thread starts and joins; each worker has its lock, the list of idle ones another.
 */
#include "tests/fuzz/fuzz.h"

#include <pthread.h>
#include <stdbool.h>

#define MAX_WORKERS 32

typedef struct {
    GMutex lock;
    GCond changed;
    GThreadFunc work; /* NULL: none */
    gpointer data, result;
    bool done;
} Worker;

static GMutex idle_lock;
static Worker workers[MAX_WORKERS], *idle[MAX_WORKERS];
static unsigned n_workers, n_idle;

static void *run(void *p)
{
    Worker *w = p;

    g_mutex_lock(&w->lock);
    for (;;) {
        while (!w->work) {
            g_cond_wait(&w->changed, &w->lock);
        }
        GThreadFunc work = w->work;
        g_mutex_unlock(&w->lock);
        gpointer result = work(w->data);
        g_mutex_lock(&w->lock);
        w->work = NULL;
        w->result = result;
        w->done = true;
        /* Not under the lock, for which the thread that is woken would have to wait once more. */
        g_mutex_unlock(&w->lock);
        g_cond_broadcast(&w->changed);
        g_mutex_lock(&w->lock);
    }
    return NULL;
}

static Worker *take(void)
{
    pthread_t thread;

    g_mutex_lock(&idle_lock);
    Worker *w = n_idle ? idle[--n_idle] : NULL;
    if (!w) {
        g_assert_cmpuint(n_workers, <, MAX_WORKERS);
        w = &workers[n_workers++];
        g_assert_cmpint(pthread_create(&thread, NULL, run, w), ==, 0);
    }
    g_mutex_unlock(&idle_lock);
    return w;
}

GThread *g_thread_new(const char *name, GThreadFunc work, gpointer data)
{
    Worker *w = take();

    g_mutex_lock(&w->lock);
    w->data = data;
    w->done = false;
    w->work = work;
    g_mutex_unlock(&w->lock);
    g_cond_broadcast(&w->changed);
    return (GThread *)w;
}

gpointer g_thread_join(GThread *thread)
{
    Worker *w = (Worker *)thread;

    g_assert_true(w >= workers && w < workers + MAX_WORKERS);
    g_mutex_lock(&w->lock);
    while (!w->done) {
        g_cond_wait(&w->changed, &w->lock);
    }
    g_mutex_unlock(&w->lock);
    g_mutex_lock(&idle_lock);
    idle[n_idle++] = w;
    g_mutex_unlock(&idle_lock);
    return w->result;
}
