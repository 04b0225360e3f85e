/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mutexes and conditions of the engine's threads: pthread's, since ThreadSanitizer knows those
 * (GLib's are futexes of its own, which it cannot see), and annotations for the two places where
 * GLib carries data from thread to thread.
 */
#ifndef FF_BASE_SYNC_H
#define FF_BASE_SYNC_H

#include <glib.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

typedef pthread_mutex_t FfMutex;
typedef pthread_cond_t FfCond;

static inline void ff_mutex_init(FfMutex *m)
{
    pthread_mutex_init(m, NULL);
}

static inline void ff_mutex_clear(FfMutex *m)
{
    pthread_mutex_destroy(m);
}

static inline void ff_mutex_lock(FfMutex *m)
{
    pthread_mutex_lock(m);
}

static inline void ff_mutex_unlock(FfMutex *m)
{
    pthread_mutex_unlock(m);
}

static inline void ff_cond_init(FfCond *c)
{
    pthread_cond_init(c, NULL);
}

static inline void ff_cond_clear(FfCond *c)
{
    pthread_cond_destroy(c);
}

static inline void ff_cond_broadcast(FfCond *c)
{
    pthread_cond_broadcast(c);
}

static inline void ff_cond_wait(FfCond *c, FfMutex *m)
{
    pthread_cond_wait(c, m);
}

/* END_US: of g_get_monotonic_time(). */
static inline void ff_cond_wait_until(FfCond *c, FfMutex *m, int64_t end_us)
{
    struct timespec ts = {end_us / G_USEC_PER_SEC, end_us % G_USEC_PER_SEC * 1000};

    pthread_cond_clockwait(c, m, CLOCK_MONOTONIC, &ts);
}

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define ff_tsan_publish(p) __tsan_release(p)
#define ff_tsan_receive(p) __tsan_acquire(p)
#else
#define ff_tsan_publish(p) ((void)(p))
#define ff_tsan_receive(p) ((void)(p))
#endif

#endif
