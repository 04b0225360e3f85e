/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract of the fault path, at both sides: the threads of which it is made allocate nothing
 * and take neither side's lock while pages are asked for and answered. These are the source's
 * urgent thread, the destination's fault thread and its urgent reader. Counted in this program's
 * own malloc() and pthread_mutex_lock(), on the threads of these names alone. And the rings that
 * let the source do so.
 */
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "migration/internal.h"
#include "migration/source/sent.h"
#include "migration/source/urgent-from-main.h"
#include "tests/lib/pair.h"

/* ---- counting -------------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);

static FfMigration *watched; /* atomic; the source; NULL: nothing is counted */
static FfMigration *peer;    /* set before; the destination */
static gint allocations, locks;
static gint seen; /* threads of the fault path that took any lock, and so are looked at */
static __thread int on_path; /* 0: not known, 1: this thread is on the fault path, -1: it is not */

static bool is_on_path(void)
{
    char name[16] = "";

    if (!on_path) {
        prctl(PR_GET_NAME, name);
        on_path = !strcmp(name, "ff-urgent") || !strcmp(name, "ff-fault") ? 1 : -1;
    }
    return on_path > 0;
}

static bool is_missing(const FfMigration *m)
{
    return ff_counted(m->ram.done_pages) < m->ram.total_pages;
}

/* From the first request to the last page, at both sides: a thread that begins or ends may do what
 * it likes. */
static bool counts(void)
{
    FfMigration *m = g_atomic_pointer_get(&watched);

    return m && ff_counted(m->stats.requests) && is_missing(m) && is_missing(peer) && is_on_path();
}

static void count_allocation(void)
{
    if (counts()) {
        g_atomic_int_inc(&allocations);
    }
}

void *malloc(size_t n)
{
    count_allocation();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count_allocation();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count_allocation();
    return __libc_realloc(p, n);
}

/* Each of them takes its channel's writer lock now and then: so this program's functions are those
 * that it calls. */
static void note_thread(void)
{
    static __thread bool noted;

    if (!noted) {
        noted = true;
        g_atomic_int_inc(&seen);
    }
}

int pthread_mutex_lock(pthread_mutex_t *lock)
{
    static int (*real)(pthread_mutex_t *); /* atomic; found by the thread that comes first */
    int (*found)(pthread_mutex_t *) = __atomic_load_n(&real, __ATOMIC_ACQUIRE);

    if (!found) {
        found = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
        __atomic_store_n(&real, found, __ATOMIC_RELEASE);
    }
    FfMigration *m = g_atomic_pointer_get(&watched);
    if (m && counts()) {
        note_thread();
        if (lock == &m->control->lock || lock == &peer->control->lock) {
            g_atomic_int_inc(&locks);
        }
    }
    return found(lock);
}

/* ---- the contract ---------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool shared; /* requests come on the main connection */
    bool release_ram;
} Case;

static void start(Pair *p, const Case *c)
{
    p->s->config.release_ram = c->release_ram;
    /* Bulk leaves the pages to those that ask. */
    p->s->config.max_postcopy_bandwidth = 1 << 20;
    if (c->shared) {
        int sv[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
        side_start(p->d, NULL, sv[1]);
        side_start(p->s, NULL, sv[0]);
    } else {
        side_start(p->d, "tcp:127.0.0.1:0", -1);
        g_autofree char *to = pair_address(p->d);
        side_start(p->s, to, -1);
    }
}

static void test_contract(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_idle(4);
    start(&p, c);
    g_atomic_int_set(&allocations, 0);
    g_atomic_int_set(&locks, 0);
    g_atomic_int_set(&seen, 0);
    peer = p.d->m;
    g_atomic_pointer_set(&watched, p.s->m);
    ff_migration_start_postcopy(p.s->m, &error);
    g_assert_no_error(error);
    side_run_until(p.s->done && p.d->done);
    g_atomic_pointer_set(&watched, NULL);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_cmpuint(info->requests, >=, 100);
    g_assert_cmpint(info->urgent_shared, ==, c->shared);
    g_assert_cmpint(g_atomic_int_get(&locks), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&allocations), ==, 0);
    /* Without a channel of their own pages come by the main reader, which is no thread of this. */
    g_assert_cmpint(g_atomic_int_get(&seen), ==, c->shared ? 2 : 3);
    for (unsigned i = 0; i < p.d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(p.d->touchers[i])), ==, 0);
    }
    pair_free(&p);
}

/* ---- the rings ------------------------------------------------------------------------------- */

#define FRAMES 500000u

static gpointer push(gpointer p)
{
    for (unsigned i = 0; i < FRAMES;) {
        FfFrame f = ff_frame(FF_FRAME_REQUEST, 0);
        f.page = i;
        i += ff_feed_push(p, &f);
    }
    return NULL;
}

/* A thread that takes is never left to wait for what was pushed. */
static void test_feed(void)
{
    FfFeed *feed = ff_feed_new(NULL);
    GThread *thread = g_thread_new("push", push, feed);
    FfFrame f[64];
    unsigned next = 0, n;

    while (next < FRAMES) {
        struct pollfd p = {.fd = ff_feed_fd(feed), .events = POLLIN};
        g_assert_cmpint(poll(&p, 1, 60000), ==, 1);
        while ((n = ff_feed_take(feed, f, G_N_ELEMENTS(f)))) {
            for (unsigned i = 0; i < n; i++) {
                g_assert_cmpuint(f[i].page, ==, next++);
            }
        }
    }
    g_thread_join(thread);
    /* Full. */
    for (unsigned i = 0; i < FF_FEED_MAX; i++) {
        g_assert_true(ff_feed_push(feed, &f[0]));
    }
    g_assert_false(ff_feed_push(feed, &f[0]));
    ff_feed_free(feed);
}

static void test_sent(void)
{
    FfSentLog log = {0};
    FfRun run = {1, 2, 3};

    ff_sent_begin(&log);
    ff_sent_log(&log, &run, true); /* frame 1: of precopy */
    run.first = 7;
    ff_sent_log(&log, &run, false); /* frame 2 */
    g_assert_false(ff_sent_take(&log, 1, &run));
    g_assert_true(ff_sent_take(&log, 2, &run));
    g_assert_cmpuint(run.first, ==, 7);
    g_assert_false(ff_sent_take(&log, 100, &run));
    /* What has no room is not given up, and those after it keep their numbers. */
    for (unsigned i = 0; i < FF_SENT_MAX + 10; i++) {
        run.first = i;
        ff_sent_log(&log, &run, false); /* frame 3 + i */
    }
    for (unsigned i = 0; i < FF_SENT_MAX; i++) {
        g_assert_true(ff_sent_take(&log, 3 + i, &run));
        g_assert_cmpuint(run.first, ==, i);
    }
    ff_sent_log(&log, &run, false);
    g_assert_false(ff_sent_take(&log, 3 + FF_SENT_MAX + 9, &run));
    g_assert_true(ff_sent_take(&log, 3 + FF_SENT_MAX + 10, &run));
    ff_sent_clear(&log);
}

static const Case cases[] = {
    {"own", false, false},
    {"own-release-ram", false, true},
    {"shared", true, false},
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fault-path/feed", test_feed);
    g_test_add_func("/fault-path/sent", test_sent);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/fault-path/contract/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_contract);
    }
    return g_test_run();
}
