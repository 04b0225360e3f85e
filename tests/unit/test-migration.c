/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine without QEMU: a source and a destination in this process, over real sockets and a
 * real userfaultfd. Every case compares the two memories byte for byte at the end, and counts
 * pages.
 */
#include <gio/gio.h>
#include <sched.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "contract/state.h"
#include "tests/lib/side.h"
#include "tests/lib/wiretap.h"

/* ---- a pair ---------------------------------------------------------------------------------- */

typedef enum { BY_TCP, BY_TCP6, BY_UNIX, BY_SOCKETPAIR } Transport;

typedef struct {
    const char *name;
    Transport transport;
    uint64_t sizes[MAX_SIDE_BLOCKS];
    unsigned n_blocks, n_touchers, channels;
    bool release_ram;
    FfCompress compress;
    bool in_turn; /* the vCPUs touch neighbours at once */
} Case;

/* Of all pages each vCPU touches those that are its turn. Returns how many were wrong. */
static gpointer touch_in_turn(Side *s, unsigned index)
{
    uint64_t bad = 0;

    for (unsigned b = 0; b < s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)s->blocks->pdata[b])->size / PAGE;
        for (uint64_t page = index; page < n; page += s->n_touchers) {
            volatile uint64_t *w = (uint64_t *)(s->map[b] + page * PAGE);
            uint64_t expected = side_page_is_zero(page) ? 0 : side_word(b, page);
            bad += w[0] != expected || w[PAGE / 8 - 1] != expected;
        }
    }
    return GSIZE_TO_POINTER(bad);
}

static char *local_path(void)
{
    return g_strdup_printf("%s/ff-test-%d.sock", g_get_tmp_dir(), getpid());
}

static void start_pair(Side *s, Side *d, Transport t)
{
    if (t == BY_SOCKETPAIR) {
        int sv[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
        side_start(d, NULL, sv[1]);
        side_start(s, NULL, sv[0]);
        return;
    }
    g_autofree char *local = local_path();
    g_autofree char *path = g_strconcat("unix:", local, NULL);
    side_start(d, t == BY_TCP ? "tcp:127.0.0.1:0" : t == BY_TCP6 ? "tcp:[::1]:0" : path, -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    side_start(s, info->socket_address, -1);
}

static void compare(Side *s, Side *d)
{
    for (unsigned b = 0; b < s->blocks->len; b++) {
        g_assert_cmpint(memcmp(s->map[b], d->map[b], ((FfRamBlock *)s->blocks->pdata[b])->size), ==,
                        0);
    }
}

static uint64_t pages_of(Side *s)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < s->blocks->len; b++) {
        n += ((FfRamBlock *)s->blocks->pdata[b])->size / PAGE;
    }
    return n;
}

/* A client that is told that the source is completed may look at the destination at once. */
static void await_source(Side *s, Side *d)
{
    side_run_until(s->status == FF_STATUS_COMPLETED);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    g_assert_cmpint(info->status, ==, FF_STATUS_COMPLETED);
}

static void test_moves(gconstpointer data)
{
    const Case *c = data;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, c->sizes, c->n_blocks);
    Side *d = side_new(FF_ROLE_DESTINATION, c->sizes, c->n_blocks);
    d->n_touchers = c->n_touchers;
    d->touch = c->in_turn ? touch_in_turn : NULL;
    s->config.channels = c->channels;
    s->config.release_ram = c->release_ram;
    s->config.compress = c->compress;
    side_fill(s);
    start_pair(s, d, c->transport);
    g_autoptr(GError) error = NULL;
    ff_migration_start_postcopy(s->m, &error);
    g_assert_no_error(error);
    await_source(s, d);
    side_run_until(s->done && d->done);

    g_assert_cmpstr(s->history->str, ==, "setup active device postcopy-active completed");
    g_assert_cmpstr(d->history->str, ==, "setup active postcopy-active completed");
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    if (!c->release_ram) {
        compare(s, d);
    }
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_true(g_atomic_int_get(&d->runs));
    g_assert_cmpint(s->saved_status, ==, 0);
    g_assert_true(s->undone && d->undone);
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m), di = ff_migration_info(d->m);
    g_assert_cmpuint(si->pages_normal + si->pages_zero, ==, pages_of(s));
    g_assert_cmpuint(di->pages_normal + di->pages_zero, ==, pages_of(s));
    g_assert_cmpuint(di->pages_duplicate, ==, 0);
    g_assert_cmpuint(di->pages_bulk + di->pages_urgent, ==, pages_of(s));
    g_assert_cmpuint(si->pages_compressed, ==, di->pages_compressed);
    /* Threads that touch pages may have asked for all of them. */
    g_assert_true(!si->pages_compressed || c->compress == FF_COMPRESS_ALWAYS);
    g_assert_true(si->pages_compressed || c->compress != FF_COMPRESS_ALWAYS || c->n_touchers);
    g_assert_cmpuint(si->ram_remaining, ==, 0);
    g_assert_cmpuint(di->ram_remaining, ==, 0);
    g_assert_cmpint(si->urgent_shared, ==, c->transport == BY_SOCKETPAIR);
    side_free(s);
    side_free(d);
}

#define PACKED 0x100u /* compressed */

/* The same through a tap on the wire: no page goes by twice, none is left out. */
static void test_wire(gconstpointer data)
{
    unsigned channels = GPOINTER_TO_UINT(data) & ~PACKED;
    bool packed = GPOINTER_TO_UINT(data) & PACKED;
    uint64_t sizes[] = {32 << 20, (3 << 20) + 4096};

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, sizes, 2), *d = side_new(FF_ROLE_DESTINATION, sizes, 2);
    d->n_touchers = 4;
    s->config.channels = channels;
    s->config.compress = packed ? FF_COMPRESS_ALWAYS : FF_COMPRESS_NEVER;
    side_fill(s);
    g_autofree char *tap = g_strdup_printf("unix:%s/ff-tap-%d.sock", g_get_tmp_dir(), getpid());
    side_start(d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    Wiretap *w = wiretap_new(tap, info->socket_address);
    side_start(s, tap, -1);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    compare(s, d);
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m), di = ff_migration_info(d->m);
    uint64_t pages = pages_of(s);
    side_free(s);
    side_free(d);
    WiretapCounts c = wiretap_finish(w);
    unlink(tap + strlen("unix:"));
    g_assert_cmpuint(c.connections, ==, 1 + channels);
    g_assert_cmpuint(c.malformed, ==, 0);
    g_assert_cmpuint(c.pages, ==, pages);
    g_assert_cmpuint(c.twice, ==, 0);
    g_assert_cmpuint(c.packed, ==, si->pages_compressed);
    g_assert_true(packed || !c.packed);
    /* A request for a page that bulk has sent can be under way when all is over. */
    g_assert_cmpuint(c.requests, >=, si->requests);
    g_assert_cmpuint(c.requests, <=, di->requests);
}

static void test_refused(void)
{
    uint64_t a = 8 << 20, b = 9 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &b, 1);
    start_pair(s, d, BY_TCP);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_autoptr(FfMigrationInfo) i = ff_migration_info(s->m);
    g_assert_nonnull(strstr(i->error_desc, "8388608 bytes at the source, 9437184 here"));
    side_free(s);
    side_free(d);
}

static FfGuestFit does_not_answer(FfVmmMemory *memory, FfRole role, GPtrArray **blocks,
                                  uint8_t uuid[16], GError **error)
{
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "no answer");
    return FF_GUEST_UNKNOWN;
}

/* A socket that was passed does not outlive a migration that has failed before it was used. */
static void test_failed_fd(const void *destination)
{
    uint64_t size = 8 << 20;
    int sv[2];
    char byte;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(destination ? FF_ROLE_DESTINATION : FF_ROLE_SOURCE, &size, 1);
    s->vmm.memory.check = does_not_answer;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    side_start(s, NULL, sv[0]);
    side_run_until(s->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    ff_migration_free(g_steal_pointer(&s->m));
    g_assert_cmpint(recv(sv[1], &byte, 1, MSG_DONTWAIT), ==, 0);
    close(sv[1]);
    side_free(s);
}

static char *answers_late(FfVmmState *state)
{
    return g_strdup("pc");
}

/* But the VMM carries what is refused anyway, by itself: what it would say first is not known. */
static void test_refused_unknown(void)
{
    uint64_t size = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    s->vmm.memory.check = does_not_answer;
    s->vmm.state.machine = answers_late;
    s->config.plain = s->config.answered_first = true;
    s->config.refusal = "no";
    side_start(s, "tcp:127.0.0.1:1", -1);
    while (!s->done && !s->left_at) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpint(s->left_at, ==, LEFT_ALONE);
    ff_migration_free(g_steal_pointer(&s->m));
    side_free(s);
}

/* A page of 1 GiB is too large for a request: the VMM carries that migration by itself. */
static void test_refused_gigantic(void)
{
    uint64_t size = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    FfRamBlock *block = s->blocks->pdata[0];
    block->size = block->page_size = 1 << 30;
    s->config.plain = true;
    side_start(s, "tcp:127.0.0.1:1", -1);
    while (!s->done && !s->left_at) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpint(s->left_at, ==, LEFT_ALONE);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_nonnull(strstr(s->refused, "pages of 1073741824 bytes"));
    block->size = size;
    block->page_size = PAGE;
    ff_migration_free(g_steal_pointer(&s->m));
    side_free(s);
}

/* A VMM that does not take the settings: after the greeting, at either side; nothing was stopped.
 */
static void test_unprepared(const void *destination)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    (destination ? d : s)->refuse_prepare = true;
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL); /* if it is not over by then */
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_true(g_atomic_int_get(&s->undone));
    g_assert_true(g_atomic_int_get(&d->abandoned));
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m);
    g_autoptr(FfMigrationInfo) di = ff_migration_info(d->m);
    g_assert_cmpstr(si->error_desc, ==,
                    destination ? "the destination gave up: it takes no settings"
                                : "it takes no settings");
    /* Or that a channel has ended. */
    g_assert_true(!destination || g_str_equal(di->error_desc, "it takes no settings"));
    side_free(s);
    side_free(d);
}

static GAsyncQueue *turns; /* what the source's VMM was given */

static void note_settings(Side *s, bool ours)
{
    g_async_queue_push(turns, GINT_TO_POINTER(ours ? 1 : 2));
}

static void await_own_settings(Side *s)
{
    g_assert_cmpint(GPOINTER_TO_INT(g_async_queue_pop(turns)), ==, 1);
    g_assert_cmpint(GPOINTER_TO_INT(g_async_queue_pop(turns)), ==, 2);
}

static void no_settings(Side *d)
{
    g_usleep(20000); /* as long as it takes: nothing tells of what does not happen */
    g_assert_null(g_async_queue_try_pop(turns));
}

/* While the destination arms, the source's VMM has its own settings. */
static void test_ready_late(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    turns = g_async_queue_new();
    s->settings = note_settings;
    d->loading = no_settings;
    side_fill(s);
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(d->status, ==, FF_STATUS_COMPLETED);
    await_own_settings(s); /* for the stop, and after the migration */
    g_assert_null(g_async_queue_try_pop(turns));
    side_free(s);
    side_free(d);
    g_async_queue_unref(turns);
}

static int64_t total_time; /* when the source's VMM is given its settings back */

static void restore_slowly(Side *s, bool ours)
{
    if (!ours) {
        g_autoptr(FfMigrationInfo) i = ff_migration_info(s->m);
        total_time = i->total_time;
        g_usleep(20000); /* of work: nothing is waited for */
    }
}

/* It ends when every page is at the destination. */
static void test_total_time(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    s->settings = restore_slowly;
    side_fill(s);
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
    g_autoptr(FfMigrationInfo) i = ff_migration_info(s->m);
    g_assert_cmpint(i->total_time, >, 0);
    g_assert_cmpint(i->total_time, ==, total_time);
    side_free(s);
    side_free(d);
}

static void test_load_fails(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    d->refuse_load = true;
    start_pair(s, d, BY_UNIX);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(s->saved_status, ==, 1);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_false(g_atomic_int_get(&d->runs));
    g_assert_true(g_atomic_int_get(&d->abandoned));
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_NONE);
    side_free(s);
    side_free(d);
}

static void test_cancel(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    start_pair(s, d, BY_TCP);
    side_run_until(s->status == FF_STATUS_ACTIVE);
    g_assert_true(ff_migration_cancel(s->m, NULL));
    side_run_until(s->done && d->done);
    g_assert_cmpstr(s->history->str, ==, "setup active cancelling cancelled");
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_true(g_atomic_int_get(&d->abandoned));
    side_free(s);
    side_free(d);
}

static GAsyncQueue *late; /* what goes through it means nothing */
static gint loading;      /* atomic */

static void load_late(void)
{
    g_atomic_int_set(&loading, 1);
    g_main_context_wakeup(NULL);
    g_async_queue_pop(late);
}

/* The client cancels when the destination has all of the device state and says so too late. It
 * cannot know then by itself that the guest was not given away, and must be told. */
static void test_cancel_loaded(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    late = g_async_queue_new();
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    d->loaded = load_late;
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(g_atomic_int_get(&loading));
    g_assert_true(ff_migration_cancel(s->m, NULL));
    side_run_until(s->done);
    g_async_queue_push(late, late);
    side_run_until(d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_CANCELLED);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    g_assert_null(info->error_desc); /* the client's wish is no failure */
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_false(g_atomic_int_get(&d->runs));
    g_assert_true(g_atomic_int_get(&d->abandoned));
    side_free(s);
    side_free(d);
    g_async_queue_unref(late);
}

/* TRUE: the guest stands anyway. */
static bool stop(Side *s)
{
    bool holds;

    g_assert_cmpint(ff_migration_client_stop(s->m, &holds, NULL), !=, FF_STOP_REFUSED);
    return holds;
}

static void say_stop(Side *s)
{
    g_assert_true(stop(s));
}

/* The client says stop while the guest is being started again: it was told that it stands. */
static void test_cancel_stop(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    late = g_async_queue_new();
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    d->loaded = load_late;
    s->resuming = say_stop;
    g_atomic_int_set(&loading, 0);
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(g_atomic_int_get(&loading));
    g_assert_true(ff_migration_cancel(s->m, NULL));
    side_run_until(s->done);
    g_async_queue_push(late, late);
    side_run_until(d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_CANCELLED);
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_false(stop(s));                      /* QEMU's again */
    g_assert_cmpstr(s->state->run_state, ==, ""); /* by which another engine would start it */
    side_free(s);
    side_free(d);
    g_async_queue_unref(late);
}

/* The client says stop while the guest stands: an engine that adopts the source must not start
 * it. */
static void test_give_stop(void)
{
    uint64_t a = 8 << 20;

    if (!side_possible()) {
        return;
    }
    late = g_async_queue_new();
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    d->loaded = load_late;
    g_atomic_int_set(&loading, 0);
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(g_atomic_int_get(&loading));
    g_assert_true(stop(s));
    g_async_queue_push(late, late);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpstr(s->state->run_state, ==, "paused");
    g_assert_false(g_atomic_int_get(&d->runs));
    side_free(s);
    side_free(d);
    g_async_queue_unref(late);
}

/* The connection breaks in postcopy: both halves keep everything, nobody runs twice. */
static void test_paused(void)
{
    uint64_t a = 64 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &a, 1), *d = side_new(FF_ROLE_DESTINATION, &a, 1);
    side_fill(s);
    start_pair(s, d, BY_TCP);
    ff_migration_set_bandwidth(s->m, 0, 4096);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->status == FF_STATUS_POSTCOPY_ACTIVE &&
                   d->status == FF_STATUS_POSTCOPY_ACTIVE);
    g_autoptr(GError) error = NULL;
    g_assert_false(ff_migration_cancel(s->m, &error));
    g_assert_nonnull(error);
    g_assert_true(ff_migration_pause(s->m, NULL));
    side_run_until(s->status == FF_STATUS_POSTCOPY_PAUSED &&
                   d->status == FF_STATUS_POSTCOPY_PAUSED);
    g_assert_false(g_atomic_int_get(&s->runs));
    side_run_until(g_atomic_int_get(&d->runs)); /* a thread of its own starts it */
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_GIVEN);
    g_assert_cmpint(s->saved_status, ==, -1);
    side_free(s);
    side_free(d);
}

static const Case cases[] = {
    {"tcp", BY_TCP, {64 << 20}, 1, 2},
    {"tcp6", BY_TCP6, {16 << 20}, 1, 1},
    {"unix", BY_UNIX, {64 << 20}, 1, 4},
    {"shared", BY_SOCKETPAIR, {32 << 20}, 1, 2},
    {"odd-size", BY_UNIX, {(10 << 20) + 3 * 4096}, 1, 2},
    {"blocks", BY_TCP, {8 << 20, 4096, (5 << 20) + 4096}, 3, 2},
    {"nobody-touches", BY_UNIX, {32 << 20}, 1, 0},
    {"many-wait", BY_TCP, {8 << 20, 4096, (5 << 20) + 4096}, 3, 64},
    {"many-wait-in-turn", BY_TCP, {32 << 20}, 1, 64, .in_turn = true},
    {"many-wait-shared", BY_SOCKETPAIR, {8 << 20}, 1, 64, .in_turn = true},
    {"many-wait-release", BY_UNIX, {16 << 20}, 1, 64, 4, true, .in_turn = true},
    {"channels", BY_TCP, {64 << 20}, 1, 4, 4},
    {"channels-blocks", BY_UNIX, {8 << 20, 4096, (5 << 20) + 4096}, 3, 2, 8},
    {"channels-shared", BY_SOCKETPAIR, {16 << 20}, 1, 2, 4},
    {"channels-release", BY_TCP, {64 << 20}, 1, 4, 4, true},
    {"compress", BY_TCP, {64 << 20}, 1, 2, .compress = FF_COMPRESS_ALWAYS},
    {"compress-nobody-touches", BY_TCP, {32 << 20}, 1, 0, 4, .compress = FF_COMPRESS_ALWAYS},
    {"compress-shared", BY_SOCKETPAIR, {32 << 20}, 1, 2, .compress = FF_COMPRESS_ALWAYS},
    {"compress-channels",
     BY_UNIX,
     {8 << 20, 4096, (5 << 20) + 4096},
     3,
     2,
     8,
     .compress = FF_COMPRESS_ALWAYS},
    {"compress-release", BY_TCP, {64 << 20}, 1, 4, 4, true, .compress = FF_COMPRESS_ALWAYS},
    /* No link is the limit of a unix socket. */
    {"compress-auto", BY_UNIX, {64 << 20}, 1, 2, .compress = FF_COMPRESS_AUTO},
};

/* As many as processors, but not one, and not many. */
/* Of a hole only whole huge pages leave the userfaultfd and stay a hole: beside it the kernel might
 * find zeros where data is missing. */
static void test_hole(void)
{
    const uint64_t sizes[] = {16ull << 20}, mib = 1ull << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, sizes, 1), *d = side_new(FF_ROLE_DESTINATION, sizes, 1);
    int from = ((FfRamBlock *)s->blocks->pdata[0])->memfd;
    int to = ((FfRamBlock *)d->blocks->pdata[0])->memfd;
    d->n_touchers = 0;
    d->any = true;
    memset(s->map[0], 1, sizes[0]);
    g_assert_cmpint(fallocate(from, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * mib, 6 * mib),
                    ==, 0);
    start_pair(s, d, cases[0].transport);
    ff_migration_start_postcopy(s->m, NULL);
    await_source(s, d);
    side_run_until(s->done && d->done);
    /* Some pages of it may have been asked for. */
    off_t hole = lseek(to, 0, SEEK_HOLE), behind = lseek(to, 8 * mib, SEEK_HOLE);
    g_assert_cmpint(hole, >=, 4 * mib);
    g_assert_cmpint(hole, <, 8 * mib);
    g_assert_cmpint(behind, ==, sizes[0]);
    compare(s, d);
    side_free(s);
    side_free(d);
}

#ifdef FF_FAULTS
/* As Linux before 6.4 does while khugepaged makes huge pages: it says that all is a hole. */
static int hide_data(const char *place, const char *name)
{
    return strcmp(name, "seek-data") == 0 ? ENXIO : strcmp(name, "doubt-holes") == 0;
}

static void test_hidden(void)
{
    const uint64_t sizes[] = {16ull << 20}, mib = 1ull << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, sizes, 1), *d = side_new(FF_ROLE_DESTINATION, sizes, 1);
    int from = ((FfRamBlock *)s->blocks->pdata[0])->memfd;
    d->n_touchers = 0;
    d->any = true;
    memset(s->map[0], 1, sizes[0]);
    g_assert_cmpint(fallocate(from, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 6 * mib), ==, 0);
    memset(s->map[0] + 3 * mib, 2, 4096);
    ff_fault_hook(hide_data);
    start_pair(s, d, cases[0].transport);
    ff_migration_start_postcopy(s->m, NULL);
    await_source(s, d);
    side_run_until(s->done && d->done);
    ff_fault_hook(NULL);
    compare(s, d);
    side_free(s);
    side_free(d);
}
#endif

static void test_channels_default(void)
{
    cpu_set_t all, one;
    unsigned n = ff_channels_default();

    g_assert_cmpuint(n, ==, CLAMP(g_get_num_processors(), 2, 4));
    g_assert_cmpint(sched_getaffinity(0, sizeof(all), &all), ==, 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
        }
    }
    g_assert_cmpint(sched_setaffinity(0, sizeof(one), &one), ==, 0);
    g_assert_cmpuint(ff_channels_default(), ==, 2);
    g_assert_cmpint(sched_setaffinity(0, sizeof(all), &all), ==, 0);
}

/* ---- a guest that is not given away ---------------------------------------------------------- */

static void resumed_at_stop(Side *s)
{
    g_assert_false(ff_migration_resumed(s->m)); /* it must not be stopped: it continues here */
}

static bool resumed_at_give(Side *s)
{
    g_assert_false(ff_migration_resumed(s->m));
    return true;
}

static bool runs_at_give(Side *s)
{
    return false;
}

static void unmapped_at_stop(Side *s)
{
    g_assert_cmpint(ftruncate(s->maps_fd, 0), ==, 0);
    g_assert_cmpint(pwrite(s->maps_fd, "\n", 1, 0), ==, 1); /* nothing at all: it has ended */
}

static const struct Kept {
    const char *name, *why;
    void (*stopped)(Side *s);
    bool (*stands)(Side *s);
    bool track;
} kept[] = {
    {"resumed/stop", "another monitor", resumed_at_stop, NULL},
    {"resumed/give", "another monitor", NULL, resumed_at_give},
    {"resumed/runs", "does not stand", NULL, runs_at_give},
    {"unmapped/untracked", "not mapped", unmapped_at_stop, NULL},
    {"unmapped/tracked", "not mapped", unmapped_at_stop, NULL, .track = true},
};

/* Somebody resumes it at the source, which is told of while stop is answered, or right before the
 * grant, or not at all: its memory may be another one by now. Or what was sent is not its memory
 * any more. */
static void test_kept(gconstpointer data)
{
    const struct Kept *r = data;
    const uint64_t size = 4 << 20;

    if (!side_possible()) {
        return;
    }
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);
    s->stopped = r->stopped;
    s->stands = r->stands;
    s->track = r->track;
    side_fill(s);
    start_pair(s, d, BY_TCP);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    g_assert_nonnull(strstr(info->error_desc, r->why));
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_false(g_atomic_int_get(&d->runs));
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_NONE);
    side_free(s);
    side_free(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/migration/moves/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_moves);
    }
    g_test_add_data_func("/migration/wire", GUINT_TO_POINTER(1), test_wire);
    g_test_add_func("/migration/refused/unknown", test_refused_unknown);
    g_test_add_func("/migration/channels-default", test_channels_default);
    g_test_add_func("/migration/hole/stays", test_hole);
#ifdef FF_FAULTS
    g_test_add_func("/migration/hole/hidden", test_hidden);
#endif
    g_test_add_data_func("/migration/wire/channels", GUINT_TO_POINTER(4), test_wire);
    g_test_add_data_func("/migration/wire/compress", GUINT_TO_POINTER(1 | PACKED), test_wire);
    g_test_add_data_func("/migration/wire/compress-channels", GUINT_TO_POINTER(4 | PACKED),
                         test_wire);
    g_test_add_func("/migration/refused", test_refused);
    g_test_add_func("/migration/refused/gigantic", test_refused_gigantic);
    g_test_add_data_func("/migration/failed-fd/source", NULL, test_failed_fd);
    g_test_add_data_func("/migration/failed-fd/destination", "", test_failed_fd);
    g_test_add_data_func("/migration/unprepared/source", NULL, test_unprepared);
    g_test_add_data_func("/migration/unprepared/destination", "", test_unprepared);
    g_test_add_func("/migration/ready-late", test_ready_late);
    g_test_add_func("/migration/total-time", test_total_time);
    g_test_add_func("/migration/load-fails", test_load_fails);
    g_test_add_func("/migration/cancel", test_cancel);
    g_test_add_func("/migration/cancel/loaded", test_cancel_loaded);
    g_test_add_func("/migration/cancel/stop", test_cancel_stop);
    g_test_add_func("/migration/give/stop", test_give_stop);
    g_test_add_func("/migration/paused", test_paused);
    for (unsigned i = 0; i < G_N_ELEMENTS(kept); i++) {
        g_autofree char *path = g_strdup_printf("/migration/%s", kept[i].name);
        g_test_add_data_func(path, &kept[i], test_kept);
    }
    int rc = g_test_run();
    g_autofree char *path = local_path();

    unlink(path); /* a driver that listens does this */
    return rc;
}
