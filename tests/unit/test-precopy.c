/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Precopy without QEMU: a guest of threads that write, zero and give back pages while rounds are
 * sent over a real socket, with real write tracking. Every case compares the two memories byte for
 * byte at the end; the destination's threads compare every page while it comes.
 */
#include <gio/gio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/sync.h"
#include "tests/lib/delay.h"
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

/* As the kernel does: a write fault that changes nothing. Not instrumented: the engine reads guest
 * memory meanwhile, by design. */
__attribute__((no_sanitize("thread"))) static void pin(volatile uint64_t *word)
{
    *word = *word;
}

/* After each protection, before its pages are copied: some of the guest is written again, however
 * little its threads get to run. So no round ends with nothing left. */
#define LEFT (64 * PAGE)
static Side *writes_always;

static bool leave_some(GError **error)
{
    for (uint64_t at = 0; at < LEFT; at += PAGE) {
        pin((uint64_t *)(writes_always->map[0] + at));
    }
    return true;
}

/* A source of WRITERS writing threads; with any, it does not end by itself while downtime-limit is
 * nothing. */
static Side *source(unsigned writers)
{
    uint64_t sizes[] = {32 * MIB, 3 * MIB + PAGE};
    Side *s = side_new(FF_ROLE_SOURCE, sizes, 2);

    s->track = true;
    s->writes = writers;
    s->drain = writers ? leave_some : NULL;
    writes_always = s;
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

typedef struct {
    const char *name;
    unsigned writers, channels;
} Plain;

static const Plain plains[] = {
    {"idle", 0, 1},
    {"writing", 2, 1},
    {"channels-idle", 0, 4},
    {"channels-writing", 2, 4},
};

/* A guest that writes slowly fits into the downtime: no postcopy, and no page is asked for. */
static void test_plain(gconstpointer data)
{
    const Plain *p = data;

    if (!side_possible()) {
        return;
    }
    Side *s = source(p->writers);
    Side *d = destination_of(s);
    s->config.channels = p->channels;
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
    unsigned channels; /* 0: one */
} Hybrid;

static const Hybrid hybrids[] = {
    {"first-page", 1, 0, 2, 0, 0},
    {"first-pass", 1, 40, 2, 0, 30 * MIB},
    {"second-pass", 2, 0, 2, 100, 0},
    {"busy", 4, 0, 2, 20, 0},
    {"very-busy", 3, 0, 2, 0, 200 * MIB},
    {"slow-link", 2, 0, 1, 300, 20 * MIB},
    {"compress", 4, 0, 2, 20, 0, FF_COMPRESS_ALWAYS},
    {"channels-first-pass", 1, 40, 2, 0, 30 * MIB, .channels = 4},
    {"channels-second-pass", 2, 0, 2, 100, 0, .channels = 2},
    {"channels-busy", 6, 0, 2, 20, 0, .channels = 4},
    {"channels-very-busy", 4, 0, 2, 0, 200 * MIB, .channels = 8},
    {"channels-compress", 5, 0, 2, 20, 0, FF_COMPRESS_ALWAYS, 4},
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
    s->config.channels = h->channels;
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

/* ---- a disk that is read past the page cache ------------------------------------------------- */

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
    bool (*stop)(FfVmmRun *run, char **run_state, GError **error);
    Read read[READS];
} disk;

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
static bool drain_disk(GError **error)
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
static bool stop_disk(FfVmmRun *run, char **run_state, GError **error)
{
    ff_mutex_lock(&disk.lock);
    disk.stopped = true;
    ff_cond_broadcast(&disk.changed);
    ff_mutex_unlock(&disk.lock);
    for (unsigned i = 0; i < READS; i++) {
        g_thread_join(g_steal_pointer(&disk.read[i].thread));
    }
    return disk.stop(run, run_state, error);
}

/* Data that lands after its page was copied was submitted after the drain before that copy, hence
 * after the page was protected: it is seen. Without the drain it is not, and pages differ. */
static void test_disk(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    memset(disk.submitted, 0, sizeof(disk.submitted));
    memset(disk.landed, 0, sizeof(disk.landed));
    memset(disk.due, 0, sizeof(disk.due));
    disk.drains = 0;
    disk.stopped = false;
    /* A vCPU writes, too, so that there is always something left. */
    Side *s = source(1), *d = destination_of(s);
    s->config.channels = GPOINTER_TO_UINT(data);
    s->rest_us = 100;
    s->config.downtime_limit = 0;
    disk.stop = s->vmm.run.stop;
    s->vmm.run.stop = stop_disk;
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

/* ---- memory that QEMU keeps to itself -------------------------------------------------------- */

#define HUGE_PAGE (2 * MIB)
#define PRIVATE (16 * MIB)

typedef struct {
    const char *name;
    unsigned private_percent, ram_percent; /* of the limit */
    bool ends;
    bool rate_limited; /* by max-bandwidth, which private memory is not */
    unsigned limit_ms;
} Private;

static const Private privates[] = {
    {"sum-too-long", 60, 60, false, false, 1000},
    {"alone-too-long", 1000, 60, false, false, 1000},
    {"must-end", 1000, 20, true, false, 1000},
    /* So short that all of RAM goes through in some seconds. */
    {"rate-limit", 80, 60, true, true, 50},
};

/* As QEMU maps it: at a multiple of 2 MiB, and a page after it that nobody may touch. BYTES of it
 * are there. Returns where it begins. */
static char *map_private(uint64_t bytes)
{
    char *room = mmap(NULL, PRIVATE + 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(room != MAP_FAILED);
    char *p = room + HUGE_PAGE - (uintptr_t)room % HUGE_PAGE, *end = room + PRIVATE + 2 * HUGE_PAGE;
    g_assert_cmpint(mprotect(p, PRIVATE, PROT_READ | PROT_WRITE), ==, 0);
    g_assert_cmpint(madvise(p, PRIVATE, MADV_NOHUGEPAGE), ==, 0);
    g_assert_cmpint(munmap(room, p - room), ==, 0);
    g_assert_cmpint(munmap(p + PRIVATE + PAGE, end - (p + PRIVATE + PAGE)), ==, 0);
    memset(p, 1, bytes);
    return p;
}

/* The client says how fast the link is, or limits it to that; and LEFT is written in each round:
 * how fast anything is decides nothing. */
static void test_private(gconstpointer data)
{
    const Private *p = data;

    if (!side_possible()) {
        return;
    }
    char *block = map_private(LEFT * p->private_percent / p->ram_percent);
    Side *s = source(0), *d = destination_of(s);
    s->drain = leave_some;
    s->config.downtime_limit = p->limit_ms;
    uint64_t rate = LEFT * 1000 * 100 / (p->limit_ms * p->ram_percent);
    *(p->rate_limited ? &s->config.max_bandwidth : &s->config.switchover_bandwidth) = rate;
    side_run(s);
    connect_to(s, d);
    side_run_until(s->done || (!p->ends && s->passes >= 5));
    bool tracked = possible(s);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    if (tracked) {
        g_assert_cmpint(
            info->expected_downtime, >=,
            (p->private_percent * !p->rate_limited + p->ram_percent) * p->limit_ms / 100 - 1);
        g_assert_cmpstr(s->history->str, ==,
                        p->ends ? "setup active device completed"
                                : "setup active device postcopy-active completed");
    }
    finish(s, d);
    munmap(block, PRIVATE + PAGE);
}

/* Cancelled between two rounds; the guest continues, and is moved after all. */
static void test_cancel(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    s->config.channels = GPOINTER_TO_UINT(data);
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

static void test_release(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source(2), *d = destination_of(s);
    s->config.channels = GPOINTER_TO_UINT(data);
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

/* ---- an additional connection that is slow --------------------------------------------------- */

/* Of four: 1 is the first additional one, which sets out a quarter into memory. */
#define SLOW 1
#define LATE_US 500000
#define NEVER_MS 3600000

typedef struct {
    Side *s, *d;
    Delay *delay;
} LatePair;

/* Paced, so that all four connections have their share. A guest that writes writes little. */
static LatePair late_pair(unsigned writers, bool left_out, uint32_t hidden)
{
    LatePair p = {.s = source(writers)};

    p.d = destination_of(p.s);
    p.s->config.peer_timeout_ms = p.d->config.peer_timeout_ms = NEVER_MS;
    p.d->n_touchers = left_out ? 0 : p.d->n_touchers;
    p.d->any = left_out; /* nobody may find out before the comparison */
    p.s->rest_us = 1000;
    p.s->config.channels = 4;
    p.s->config.max_bandwidth = 100 * MIB;
    p.s->config.downtime_limit = 0;
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.d->m);
    p.delay = delay_new(info->socket_address, SLOW);
    delay_hide(p.delay, hidden);
    side_run(p.s);
    side_start(p.s, delay_uri(p.delay), -1);
    side_run_until(p.s->status >= FF_STATUS_ACTIVE);
    return p;
}

static void late_free(LatePair *p)
{
    side_free(p->s);
    side_free(p->d);
    delay_free(p->delay);
}

/* The quarter of memory that the slow connection begins with. */
__attribute__((no_sanitize("thread"))) static void write_again(Side *s)
{
    uint64_t bytes = ram(s) / 4, *w = (uint64_t *)(s->map[0] + bytes);

    for (uint64_t i = 0; i < bytes / 8; i++) {
        w[i] = ~w[i];
    }
}

static uint64_t wrong_pages(const LatePair *p)
{
    uint64_t wrong = 0;

    for (unsigned b = 0; b < p->s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)p->s->blocks->pdata[b])->size / PAGE;
        for (uint64_t i = 0; i < n; i++) {
            wrong += memcmp(p->s->map[b] + i * PAGE, p->d->map[b] + i * PAGE, PAGE) != 0;
        }
    }
    return wrong;
}

/* Pages of the first round are on their way when the guest writes them again, and the second round
 * begins: other connections, which are fast, carry most of these. Nothing is late any more when the
 * guest is switched. */
static void test_late(gconstpointer data)
{
    const char *left_out = data;

    if (!side_possible()) {
        return;
    }
    LatePair p = late_pair(1, left_out, 0);
    delay_set(p.delay, LATE_US);
    side_run_until(p.s->passes >= 2);
    if (!possible(p.s)) {
        ff_migration_start_postcopy(p.s->m, NULL);
        finish(p.s, p.d);
        delay_free(p.delay);
        return;
    }
    side_run_until(delay_bytes(p.delay) > MIB); /* on a busy machine in a later round */
    write_again(p.s);
    side_run_until(p.s->passes >= 5 && !delay_pending(p.delay));
    delay_set(p.delay, 0);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_COMPLETED);
    for (unsigned i = 0; i < p.d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(p.d->touchers[i])), ==, 0);
    }
    uint64_t wrong = wrong_pages(&p);
    g_test_message("%" G_GUINT64_FORMAT " wrong pages", wrong);
    g_assert_true(left_out ? wrong > 0 : wrong == 0);
    late_free(&p);
}

/* A destination that does not know of rounds: the main connection carries them, and the others
 * nothing but the greeting; then pages by postcopy, as ever. */
static void test_older(void)
{
    if (!side_possible()) {
        return;
    }
    gint64 begin = g_get_monotonic_time();
    LatePair p = late_pair(1, false, FF_FEATURE_ROUNDS);
    side_run_until(p.s->passes >= 3);
    bool tracked = possible(p.s);
    uint64_t more = delay_bytes(p.delay) - sizeof(FfFrame) - sizeof(FfChannelHello);
    gint64 seconds = (g_get_monotonic_time() - begin) / G_USEC_PER_SEC;
    /* On a busy machine a keepalive a second (migration/common/keepalive.c). */
    g_assert_cmpuint(more % sizeof(FfFrame), ==, 0);
    g_assert_cmpuint(more / sizeof(FfFrame), <=, (uint64_t)seconds);
    if (tracked) {
        write_again(p.s);
    }
    ff_migration_start_postcopy(p.s->m, NULL);
    finish(p.s, p.d);
    delay_free(p.delay);
}

/* As test_late(), in a process in which nobody waits at the end of the first two rounds: pages must
 * be wrong, or that one would prove nothing. */
static void test_left_out(gconstpointer point)
{
#ifdef FF_FAULTS
    g_autofree char *dir = g_dir_make_tmp("ff-late-XXXXXX", NULL);
    g_autofree char *faults = g_strdup_printf("%s;%s;%s", dir, (char *)point, (char *)point);
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), "FARFAULT_FAULTS", faults, TRUE);
    char *argv[] = {"/proc/self/exe", "-p", "/precopy/late/left-out", NULL};
    bool seen = false;

    if (g_getenv("FARFAULT_FAULTS")) {
        test_late(point);
        rmdir(dir);
        return;
    }
    /* On a machine that is busy enough the late pages are not late. */
    for (unsigned tries = 0; tries < 5 && !seen; tries++) {
        g_autofree char *out = NULL;
        int status;
        g_spawn_sync(NULL, argv, env, G_SPAWN_DEFAULT, NULL, NULL, &out, NULL, &status, NULL);
        g_test_message("%s", out); /* a TAP of its own */
        seen = g_spawn_check_wait_status(status, NULL);
        for (unsigned i = 0; i < 2; i++) {
            g_autofree char *path = g_strdup_printf("%s/fault-%u", dir, i);
            bool happened = unlink(path) == 0;
            g_assert_true(happened || !seen || !side_possible()); /* else it did not come so far */
        }
    }
    g_assert_true(seen);
    rmdir(dir);
#else
    g_test_skip("built without -Dfaults=true");
#endif
}

static bool all_sent(Side *s)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    return info->ram_remaining == 0;
}

/* The first round is sent, and the end of it is awaited, which never comes. FALSE: not here. */
static bool never_ends(LatePair *p)
{
    if (!side_possible()) {
        return false;
    }
    *p = late_pair(0, false, 0);
    delay_set(p->delay, -1);
    while (p->s->passes < 2 && !(all_sent(p->s) && delay_pending(p->delay))) {
        g_main_context_iteration(NULL, FALSE);
    }
    if (possible(p->s)) {
        g_assert_cmpuint(p->s->passes, ==, 1);
        return true;
    }
    late_free(p);
    return false;
}

static void test_late_cancel(void)
{
    LatePair p;

    if (!never_ends(&p)) {
        return;
    }
    ff_migration_cancel(p.s->m, NULL);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpstr(p.s->history->str, ==, "setup active cancelling cancelled");
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_assert_true(g_atomic_int_get(&p.d->abandoned));
    late_free(&p);
}

/* The engine ends: the object is freed. */
static void test_late_quit(void)
{
    LatePair p;

    if (!never_ends(&p)) {
        return;
    }
    ff_migration_free(g_steal_pointer(&p.s->m));
    g_assert_true(g_atomic_int_get(&p.s->runs));
    side_run_until(p.d->done);
    late_free(&p);
}

/* The one connection breaks, all others stand: the guest continues at the source. */
static void test_late_broken(void)
{
    LatePair p;

    if (!never_ends(&p)) {
        return;
    }
    delay_cut(p.delay);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpstr(p.s->history->str, ==, "setup active failed");
    g_assert_cmpstr(p.d->history->str, ==, "setup active failed");
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_assert_false(g_atomic_int_get(&p.d->runs));
    late_free(&p);
}

/* When the source has said all on it: it reads nothing there, and the destination has it still. */
static void test_late_half(void)
{
    LatePair p;

    if (!never_ends(&p)) {
        return;
    }
    while (!delay_ends_with(p.delay, FF_FRAME_ROUND)) {
        g_main_context_iteration(NULL, FALSE);
    }
    delay_cut_near(p.delay);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpstr(p.s->history->str, ==, "setup active failed");
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_assert_false(g_atomic_int_get(&p.d->runs));
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_nonnull(strstr(info->error_desc, "on a bulk channel"));
    late_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(plains); i++) {
        g_autofree char *path = g_strdup_printf("/precopy/plain/%s", plains[i].name);
        g_test_add_data_func(path, &plains[i], test_plain);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(hybrids); i++) {
        g_autofree char *path = g_strdup_printf("/precopy/hybrid/%s", hybrids[i].name);
        g_test_add_data_func(path, &hybrids[i], test_hybrid);
    }
    ff_mutex_init(&disk.lock);
    ff_cond_init(&disk.changed);
    g_test_add_data_func("/precopy/disk", GUINT_TO_POINTER(1), test_disk);
    g_test_add_data_func("/precopy/disk/channels", GUINT_TO_POINTER(4), test_disk);
    for (unsigned i = 0; i < G_N_ELEMENTS(privates); i++) {
        g_autofree char *path = g_strdup_printf("/precopy/private/%s", privates[i].name);
        g_test_add_data_func(path, &privates[i], test_private);
    }
    g_test_add_func("/precopy/auto", test_auto);
    g_test_add_data_func("/precopy/cancel", GUINT_TO_POINTER(1), test_cancel);
    g_test_add_data_func("/precopy/cancel/channels", GUINT_TO_POINTER(4), test_cancel);
    g_test_add_data_func("/precopy/pause/continue", GUINT_TO_POINTER(0), test_pause);
    g_test_add_data_func("/precopy/pause/cancel", GUINT_TO_POINTER(1), test_pause);
    g_test_add_func("/precopy/live-limits", test_live_limits);
    g_test_add_data_func("/precopy/release-ram", GUINT_TO_POINTER(1), test_release);
    g_test_add_data_func("/precopy/release-ram/channels", GUINT_TO_POINTER(4), test_release);
    g_test_add_data_func("/precopy/late", NULL, test_late);
    /* At the end of the first two rounds. */
    g_test_add_data_func("/precopy/late/left-out", "*/active/step/settle=skip", test_left_out);
    g_test_add_func("/precopy/late/older", test_older);
    g_test_add_func("/precopy/late/cancel", test_late_cancel);
    g_test_add_func("/precopy/late/quit", test_late_quit);
    g_test_add_func("/precopy/late/broken", test_late_broken);
    g_test_add_func("/precopy/late/half", test_late_half);
    return g_test_run();
}
