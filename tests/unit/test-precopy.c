/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Precopy without QEMU: a guest of threads that write, zero and give back pages while rounds are
 * sent over a real socket, with real write tracking. Every case compares the two memories byte for
 * byte at the end; the destination's threads compare every page while it comes.
 */
#include <gio/gio.h>
#include <string.h>
#include <sys/socket.h>

#include "net/sync.h"
#include "tests/lib/side.h"

#define MIB (1ull << 20)

typedef struct {
    Side *s, *d;
} Pair;

static uint64_t ram(const Side *s)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < s->blocks->len; b++) {
        n += ((FfRamBlock *)s->blocks->pdata[b])->size;
    }
    return n;
}

static Side *destination_of(Side *s)
{
    uint64_t sizes[MAX_SIDE_BLOCKS];

    for (unsigned b = 0; b < s->blocks->len; b++) {
        sizes[b] = ((FfRamBlock *)s->blocks->pdata[b])->size;
    }
    Side *d = side_new(FF_ROLE_DESTINATION, sizes, s->blocks->len);
    d->mirror = s;
    d->n_touchers = 3;
    memset(d->map[0], 0xee, 3 * MIB); /* its firmware was here */
    return d;
}

/* A source of WRITERS writing threads. */
static Side *source(unsigned writers)
{
    uint64_t sizes[] = {32 * MIB, 3 * MIB + PAGE};
    Side *s = side_new(FF_ROLE_SOURCE, sizes, 2);

    s->track = true;
    s->writes = writers;
    side_fill(s);
    return s;
}

static void connect_to(Side *s, Side *d)
{
    side_start(d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    side_start(s, info->socket_address, -1);
}

static bool possible(Side *s)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    if (info->untracked && strstr(info->untracked, "Linux 6.7")) {
        g_test_skip(info->untracked);
        return false;
    }
    g_assert_cmpstr(info->untracked, ==, NULL);
    return true;
}

static void finish(Side *s, Side *d)
{
    side_run_until(s->done && d->done);
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    for (unsigned b = 0; b < s->blocks->len; b++) {
        g_assert_cmpint(memcmp(s->map[b], d->map[b], ((FfRamBlock *)s->blocks->pdata[b])->size), ==,
                        0);
    }
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_true(g_atomic_int_get(&d->runs));
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m), di = ff_migration_info(d->m);
    g_assert_cmpuint(si->ram_remaining, ==, 0);
    g_assert_cmpuint(di->ram_remaining, ==, 0);
    g_assert_cmpuint(di->pages_duplicate, ==, 0);
    g_assert_cmpuint(si->dirty_sync_count, ==, s->passes);
    side_free(s);
    side_free(d);
}

/* A guest that writes slowly fits into the downtime: no postcopy, and no page is asked for. */
static void test_plain(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(GPOINTER_TO_UINT(data));
    Side *d = destination_of(s);
    s->rest_us = 2000;
    s->config.downtime_limit = 300;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->status >= FF_STATUS_ACTIVE && s->passes >= 2);
    if (possible(s)) {
        side_run_until(s->done && d->done);
        g_assert_cmpstr(s->history->str, ==, "setup active device completed");
        g_assert_cmpstr(d->history->str, ==, "setup active completed");
        g_assert_cmpuint(s->passes, >=, 3);
    }
    finish(s, d);
}

/* The switch after N passes, or after N hundredths of the first one. */
typedef struct {
    const char *name;
    unsigned passes, percent;
    unsigned writers, rest_us;
    uint64_t bandwidth;
    FfCompress compress;
} Hybrid;

static const Hybrid hybrids[] = {
    {"first-page", 1, 0, 2, 0, 0},
    {"first-pass", 1, 40, 2, 0, 30 * MIB},
    {"second-pass", 2, 0, 2, 100, 0},
    {"busy", 4, 0, 2, 20, 0},
    {"very-busy", 3, 0, 2, 0, 200 * MIB},
    {"slow-link", 2, 0, 1, 300, 20 * MIB},
    {"compress", 4, 0, 2, 20, 0, FF_COMPRESS_ALWAYS},
};

static uint64_t sent(Side *s)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    return info->bytes_wire;
}

static void test_hybrid(gconstpointer data)
{
    const Hybrid *h = data;

    if (!side_possible()) {
        return;
    }
    Side *s = source(h->writers), *d = destination_of(s);
    s->rest_us = h->rest_us;
    s->config.max_bandwidth = h->bandwidth;
    s->config.compress = h->compress;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->status >= FF_STATUS_ACTIVE && s->passes >= h->passes);
    while (sent(s) < ram(s) * h->percent / 100) {
        g_main_context_iteration(NULL, FALSE);
    }
    if (!possible(s)) {
        ff_migration_start_postcopy(s->m, NULL);
        finish(s, d);
        return;
    }
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpstr(s->history->str, ==, "setup active device postcopy-active completed");
    g_assert_cmpstr(d->history->str, ==, "setup active postcopy-active completed");
    finish(s, d);
}

/* ---- a disk that is read past the page cache ---------------------------------------------------
 */

#define READS 8 /* under way at once */

typedef struct {
    Side *s;
    unsigned index;
    GThread *thread;
} Read;

static struct {
    FfMutex lock;
    FfCond changed;
    uint64_t submitted[READS], landed[READS], due[READS]; /* lock */
    unsigned drains;                                      /* lock */
    bool stopped;                                         /* lock */
    bool (*stop)(FfVmm *v, char **run_state, GError **error);
    Read read[READS];
} disk;

/* As the kernel does: a write fault that changes nothing. Not instrumented: the engine reads guest
 * memory meanwhile, by design. */
__attribute__((no_sanitize("thread"))) static void pin(volatile uint64_t *word)
{
    *word = *word;
}

/* A slow disk: its data comes when somebody waits for it, no earlier. FALSE: the guest stops. */
static bool wait_due(unsigned i)
{
    ff_mutex_lock(&disk.lock);
    while (disk.due[i] < disk.submitted[i] && !disk.stopped) {
        ff_cond_wait(&disk.changed, &disk.lock);
    }
    bool stopped = disk.stopped;
    ff_mutex_unlock(&disk.lock);
    return !stopped;
}

/* Tracking sees the page pinned; the data lands past the mapping, where it does not look. */
static gpointer read_disk(gpointer p)
{
    Read *d = p;
    const FfRamBlock *block = d->s->blocks->pdata[0];
    uint64_t x = d->index, data[PAGE / 8];
    bool more = true;

    while (more) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t page = (x >> 35) % (block->size / PAGE / READS) * READS + d->index;
        for (unsigned i = 0; i < PAGE / 8; i++) {
            data[i] = x;
        }
        ff_mutex_lock(&disk.lock);
        disk.submitted[d->index]++;
        ff_mutex_unlock(&disk.lock);
        pin((uint64_t *)(d->s->map[0] + page * PAGE));
        more = wait_due(d->index);
        g_assert_cmpint(pwrite(block->memfd, data, PAGE, page * PAGE), ==, PAGE);
        ff_mutex_lock(&disk.lock);
        disk.landed[d->index]++;
        ff_cond_broadcast(&disk.changed);
        ff_mutex_unlock(&disk.lock);
    }
    return NULL;
}

/* Waits for what is older than itself. */
static bool drain_disk(FfVmm *v, GError **error)
{
    ff_mutex_lock(&disk.lock);
    memcpy(disk.due, disk.submitted, sizeof(disk.due));
    disk.drains++;
    ff_cond_broadcast(&disk.changed);
    for (unsigned i = 0; i < READS; i++) {
        while (disk.landed[i] < disk.due[i]) {
            ff_cond_wait(&disk.changed, &disk.lock);
        }
    }
    ff_mutex_unlock(&disk.lock);
    return true;
}

/* Its answer comes when everything has landed. */
static bool stop_disk(FfVmm *v, char **run_state, GError **error)
{
    ff_mutex_lock(&disk.lock);
    disk.stopped = true;
    ff_cond_broadcast(&disk.changed);
    ff_mutex_unlock(&disk.lock);
    for (unsigned i = 0; i < READS; i++) {
        g_thread_join(g_steal_pointer(&disk.read[i].thread));
    }
    return disk.stop(v, run_state, error);
}

/* Data that lands after its page was copied was submitted after the drain before that copy, hence
 * after the page was protected: it is seen. Without the drain it is not, and pages differ. */
static void test_disk(void)
{
    if (!side_possible()) {
        return;
    }
    /* A vCPU writes, too, so that there is always something left. */
    Side *s = source(1), *d = destination_of(s);
    s->rest_us = 100;
    s->config.downtime_limit = 0;
    disk.stop = s->vmm.stop;
    s->vmm.stop = stop_disk;
    s->drain = drain_disk;
    s->config.max_bandwidth = 200 * MIB;
    side_run(s);
    for (unsigned i = 0; i < READS; i++) {
        disk.read[i] = (Read){s, i, NULL};
        disk.read[i].thread = g_thread_new("disk", read_disk, &disk.read[i]);
    }
    connect_to(s, d);
    side_run_until(s->done || (s->status >= FF_STATUS_ACTIVE && s->passes >= 6));
    bool tracked = possible(s);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    /* One for each window: the first round has two. */
    g_assert_cmpuint(disk.drains, >=, tracked ? 6 : 0);
    finish(s, d);
}

/* Writes faster than the link: switches by itself, and sends less than twice the RAM. */
static void test_auto(void)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    uint64_t bytes = ram(s);
    s->config.max_bandwidth = 100 * MIB;
    s->config.downtime_limit = 1;
    s->config.auto_postcopy = true;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->done && d->done);
    if (possible(s)) {
        g_assert_cmpstr(s->history->str, ==, "setup active device postcopy-active completed");
        g_assert_cmpuint(sent(s), <, 2 * bytes);
    }
    finish(s, d);
}

/* Cancelled between two rounds; the guest goes on, and is moved after all. */
static void test_cancel(void)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    s->config.max_bandwidth = 50 * MIB;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->passes >= 2 || s->done);
    bool ok = possible(s);
    ff_migration_cancel(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpstr(s->history->str, ==, "setup active cancelling cancelled");
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_true(g_atomic_int_get(&d->abandoned));
    side_free(d);
    ff_migration_free(g_steal_pointer(&s->m));
    if (ok) {
        s->done = false;
        s->status = FF_STATUS_NONE;
        g_string_truncate(s->history, 0);
        d = destination_of(s);
        connect_to(s, d);
        side_run_until(s->passes >= 2);
        g_assert_true(possible(s));
        ff_migration_start_postcopy(s->m, NULL);
        finish(s, d);
    } else {
        side_free(s);
    }
}

/* The guest is stopped before the client says that it may go; then cancelled, or let go. */
static void test_pause(gconstpointer data)
{
    bool cancel = GPOINTER_TO_UINT(data);

    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    s->rest_us = 500;
    s->config.pause_before_switchover = true;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->passes >= 2 || s->status == FF_STATUS_ACTIVE);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->status == FF_STATUS_PRE_SWITCHOVER);
    g_assert_false(g_atomic_int_get(&s->runs));
    if (!cancel) {
        ff_migration_continue(s->m, FF_STATUS_PRE_SWITCHOVER, NULL);
        finish(s, d);
        return;
    }
    ff_migration_cancel(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_CANCELLED);
    g_assert_true(g_atomic_int_get(&s->runs));
    side_free(s);
    side_free(d);
}

/* Limits that change while it runs: nothing converges under the first ones. */
static void test_live_limits(void)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    s->rest_us = 1000;
    s->config.max_bandwidth = 2 * MIB;
    s->config.downtime_limit = 0;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->status >= FF_STATUS_ACTIVE);
    while (sent(s) < MIB) {
        g_main_context_iteration(NULL, FALSE);
    }
    if (possible(s)) {
        g_assert_cmpint(s->status, ==, FF_STATUS_ACTIVE);
        ff_migration_set_bandwidth(s->m, 0, 0);
        ff_migration_set_switchover(s->m, 30000, 0, false);
    } else {
        ff_migration_start_postcopy(s->m, NULL);
    }
    finish(s, d);
}

static void test_release(void)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    uint64_t words = ram(s) / 8, *copy = g_malloc(ram(s)), at = 0;
    d->mirror = NULL;
    d->any = true;
    d->n_touchers = 0;
    s->rest_us = 50;
    s->config.release_ram = true;
    s->config.pause_before_switchover = true;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->passes >= 3 || s->status == FF_STATUS_ACTIVE);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->status == FF_STATUS_PRE_SWITCHOVER);
    for (unsigned b = 0; b < s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)s->blocks->pdata[b])->size;
        memcpy((char *)copy + at, s->map[b], n);
        at += n;
    }
    ff_migration_continue(s->m, FF_STATUS_PRE_SWITCHOVER, NULL);
    side_run_until(s->done && d->done);
    at = 0;
    for (unsigned b = 0; b < s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)s->blocks->pdata[b])->size;
        g_assert_cmpint(memcmp((char *)copy + at, d->map[b], n), ==, 0);
        at += n;
    }
    g_assert_cmpuint(words * 8, ==, at);
    g_free(copy);
    side_free(s);
    side_free(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/precopy/plain/idle", GUINT_TO_POINTER(0), test_plain);
    g_test_add_data_func("/precopy/plain/writing", GUINT_TO_POINTER(2), test_plain);
    for (unsigned i = 0; i < G_N_ELEMENTS(hybrids); i++) {
        g_autofree char *path = g_strdup_printf("/precopy/hybrid/%s", hybrids[i].name);
        g_test_add_data_func(path, &hybrids[i], test_hybrid);
    }
    ff_mutex_init(&disk.lock);
    ff_cond_init(&disk.changed);
    g_test_add_func("/precopy/disk", test_disk);
    g_test_add_func("/precopy/auto", test_auto);
    g_test_add_func("/precopy/cancel", test_cancel);
    g_test_add_data_func("/precopy/pause/continue", GUINT_TO_POINTER(0), test_pause);
    g_test_add_data_func("/precopy/pause/cancel", GUINT_TO_POINTER(1), test_pause);
    g_test_add_func("/precopy/live-limits", test_live_limits);
    g_test_add_func("/precopy/release-ram", test_release);
    return g_test_run();
}
