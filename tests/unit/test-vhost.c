/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between QEMU and a vhost-user back-end: what is passed on as it is, what the back-end is told
 * beside it (a log), when a ring may stop, and what is held back. Both sides are played here.
 */
#include "guest/vhost/session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/vhost/rings.h"

#define MEMORY (1u << 20)
#define USER 0x7f0000000000ull
#define DESC 0x1000u
#define AVAIL 0x2000u
#define USED 0x3000u
#define AVAIL2 0x8000u
#define USED2 0x9000u
#define OFFERED (1ull << 32 | 1ull << 30 | FF_VHOST_F_LOG_ALL)
#define ACCEPTED (1ull << 32 | 1ull << 30)

/* In place of GLib's: microseconds. */
static gint64 now = 1;

gint64 g_get_monotonic_time(void)
{
    return now;
}

typedef struct {
    FfVhostSession *session;
    GQueue backend, qemu; /* FfVhostMessage *: what each of them has got */
    unsigned again, logs;
    unsigned hands, checks, stands, all_there;
    bool waits, refuses; /* somebody can answer for pages; but not for this back-end's */
    bool has_turn;       /* no other back-end goes that way now */
    int memory, kick;
    uint16_t base; /* where QEMU says that the ring begins */
    uint8_t *map;
} World;

static void to_backend(FfVhostMessage *msg, void *opaque)
{
    g_queue_push_tail(&((World *)opaque)->backend, msg);
}

static void to_qemu(FfVhostMessage *msg, void *opaque)
{
    g_queue_push_tail(&((World *)opaque)->qemu, msg);
}

static void again(void *opaque)
{
    ((World *)opaque)->again++;
}

static void logs(void *opaque)
{
    ((World *)opaque)->logs++;
}

static bool can_wait(void *opaque)
{
    return ((World *)opaque)->waits;
}

static void stands(void *opaque)
{
    ((World *)opaque)->stands++;
}

static bool hand(void *opaque)
{
    World *w = opaque;

    w->hands++;
    return !w->refuses;
}

static void check(void *opaque)
{
    ((World *)opaque)->checks++;
}

static void all_there(void *opaque)
{
    ((World *)opaque)->all_there++;
}

static bool may_begin(void *opaque)
{
    return ((World *)opaque)->has_turn;
}

static const FfVhostSessionOps ops = {to_backend, to_qemu, again,     logs,  can_wait,
                                      stands,     hand,    may_begin, check, all_there};

static World *world_new_of(FfVhostKind kind)
{
    World *w = g_new0(World, 1);

    w->session = ff_vhost_session_new(kind, &ops, w);
    w->memory = memfd_create("memory", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(w->memory, MEMORY), ==, 0);
    w->map = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, w->memory, 0);
    w->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->base = 7;
    return w;
}

static World *world_new(void)
{
    return world_new_of(FF_VHOST_DISK);
}

static void world_free(World *w)
{
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_null(g_queue_peek_head(&w->qemu));
    ff_vhost_session_free(w->session);
    munmap(w->map, MEMORY);
    close(w->memory);
    close(w->kick);
    g_free(w);
}

static void qemu_says(World *w, uint32_t request, const void *payload, uint32_t size, int fd)
{
    FfVhostMessage *msg = ff_vhost_message_new(request, 0, payload, size);

    if (fd >= 0) {
        msg->fds[msg->n_fds++] = dup(fd);
    }
    g_assert_true(ff_vhost_session_from_qemu(w->session, msg));
}

static void backend_answers(World *w, uint32_t request, const void *payload, uint32_t size)
{
    g_assert_true(ff_vhost_session_from_backend(
        w->session, ff_vhost_message_new(request, FF_VHOST_REPLY, payload, size)));
}

static FfVhostMessage *next(GQueue *queue, uint32_t request)
{
    FfVhostMessage *msg = g_queue_pop_head(queue);

    g_assert_nonnull(msg);
    g_assert_cmpuint(msg->header.request, ==, request);
    return msg;
}

static void expect(GQueue *queue, uint32_t request)
{
    ff_vhost_message_free(next(queue, request));
}

static void expect_u64(GQueue *queue, uint32_t request, uint64_t value)
{
    g_autoptr(FfVhostMessage) msg = next(queue, request);

    g_assert_cmphex(ff_vhost_u64(msg), ==, value);
}

static void expect_addr(GQueue *queue, uint32_t flags)
{
    g_autoptr(FfVhostMessage) msg = next(queue, FF_VHOST_SET_VRING_ADDR);
    FfVhostVringAddr addr = ff_vhost_addr(msg);

    g_assert_cmpuint(addr.flags, ==, flags);
    g_assert_cmphex(addr.used, ==, USER + USED);
}

/* QEMU asks, the back-end answers, and each gets the other's words. */
static void ask(World *w, uint32_t request, uint64_t value)
{
    qemu_says(w, request, NULL, 0, -1);
    expect(&w->backend, request);
    backend_answers(w, request, &value, sizeof(value));
    expect_u64(&w->qemu, request, value);
}

static void shake_hands(World *w)
{
    const uint64_t protocol = FF_VHOST_PROTOCOL_F_LOG_SHMFD | FF_VHOST_PROTOCOL_F_REPLY_ACK;

    ask(w, FF_VHOST_GET_FEATURES, OFFERED);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES, protocol);
    qemu_says(w, FF_VHOST_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol), -1);
    expect_u64(&w->backend, FF_VHOST_SET_PROTOCOL_FEATURES, protocol);
    qemu_says(w, FF_VHOST_SET_OWNER, NULL, 0, -1);
    expect(&w->backend, FF_VHOST_SET_OWNER);
}

/* What QEMU says when the guest's driver is there. */
static void start_ring(World *w)
{
    const uint64_t features = ACCEPTED, ring = 0;
    const struct {
        FfVhostMemory memory;
        FfVhostRegion region;
    } table = {{1, 0}, {0, MEMORY, USER, 0}};
    const FfVhostVringState base = {0, w->base};
    const FfVhostVringAddr addr = {0, 0, USER + DESC, USER + USED, USER + AVAIL, USED};

    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    qemu_says(w, FF_VHOST_SET_MEM_TABLE, &table, sizeof(table), w->memory);
    qemu_says(w, FF_VHOST_SET_VRING_BASE, &base, sizeof(base), -1);
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
}

static void expect_ring(World *w, bool logged)
{
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED | (logged ? FF_VHOST_F_LOG_ALL : 0));
    expect(&w->backend, FF_VHOST_SET_MEM_TABLE);
    expect(&w->backend, FF_VHOST_SET_VRING_BASE);
    expect_addr(&w->backend, logged ? FF_VHOST_VRING_F_LOG : 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
}

static void set_index(World *w, unsigned ring, uint16_t index)
{
    index = GUINT16_TO_LE(index);
    memcpy(w->map + ring + 2, &index, sizeof(index));
}

static void stop_ring(World *w)
{
    const FfVhostVringState state = {0, 0};

    qemu_says(w, FF_VHOST_GET_VRING_BASE, &state, sizeof(state), -1);
}

static void ring_stopped(World *w, uint32_t base)
{
    const FfVhostVringState state = {0, base};

    expect(&w->backend, FF_VHOST_GET_VRING_BASE);
    backend_answers(w, FF_VHOST_GET_VRING_BASE, &state, sizeof(state));
    g_autoptr(FfVhostMessage) msg = next(&w->qemu, FF_VHOST_GET_VRING_BASE);
    g_assert_cmpuint(ff_vhost_state(msg).value, ==, base);
}

/* ---- the stream ------------------------------------------------------------------------------ */

static bool take(FfVhostMessage *msg, void *opaque)
{
    g_queue_push_tail(opaque, msg);
    return true;
}

static ino_t inode(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return st.st_ino;
}

/* Cut at every place. The fd belongs to the message whose first byte it came with. */
static void test_stream(void)
{
    const FfVhostHeader first = {FF_VHOST_SET_OWNER, FF_VHOST_VERSION, 0};
    const FfVhostHeader second = {FF_VHOST_SET_VRING_KICK, FF_VHOST_VERSION, 8};
    const uint64_t ring = 3;
    uint8_t bytes[sizeof(first) + sizeof(second) + sizeof(ring)];
    int fd = memfd_create("x", MFD_CLOEXEC);

    memcpy(bytes, &first, sizeof(first));
    memcpy(bytes + sizeof(first), &second, sizeof(second));
    memcpy(bytes + sizeof(first) + sizeof(second), &ring, sizeof(ring));
    for (size_t cut = sizeof(first); cut < sizeof(bytes); cut++) {
        FfVhostReader reader = {0};
        GQueue got = G_QUEUE_INIT;
        int own = dup(fd);

        for (size_t i = 0; i < sizeof(first); i++) {
            g_assert_cmpint(ff_vhost_read(&reader, bytes + i, 1, NULL, 0, take, &got), ==, 0);
        }
        if (cut > sizeof(first)) {
            g_assert_cmpint(ff_vhost_read(&reader, bytes + sizeof(first), cut - sizeof(first), &own,
                                          1, take, &got),
                            ==, 0);
            own = -1;
        }
        g_assert_cmpint(
            ff_vhost_read(&reader, bytes + cut, sizeof(bytes) - cut, &own, own >= 0, take, &got),
            ==, 0);
        expect(&got, FF_VHOST_SET_OWNER);
        g_autoptr(FfVhostMessage) msg = next(&got, FF_VHOST_SET_VRING_KICK);
        g_assert_cmpuint(ff_vhost_u64(msg), ==, ring);
        g_assert_cmpuint(msg->n_fds, ==, 1);
        g_assert_cmpuint(inode(msg->fds[0]), ==, inode(fd));
        ff_vhost_reader_clear(&reader);
    }
    close(fd);
}

static void test_bad_stream(void)
{
    const FfVhostHeader bad[] = {{1, FF_VHOST_VERSION, FF_VHOST_MAX_PAYLOAD + 1}, {1, 2, 0}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        FfVhostReader reader = {0};
        GQueue got = G_QUEUE_INIT;

        g_assert_cmpint(ff_vhost_read(&reader, &bad[i], sizeof(bad[i]), NULL, 0, take, &got), ==,
                        -EPROTO);
        g_assert_null(g_queue_peek_head(&got));
        ff_vhost_reader_clear(&reader);
    }
}

/* ---- the session ----------------------------------------------------------------------------- */

static void test_passed_on(void)
{
    World *w = world_new();
    const uint8_t odd[3] = {1, 2, 3};

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    g_assert_null(ff_vhost_session_unloggable(w->session));
    qemu_says(w, 4711, odd, sizeof(odd), -1);
    g_autoptr(FfVhostMessage) msg = next(&w->backend, 4711);
    g_assert_cmpmem(msg->payload, msg->header.size, odd, sizeof(odd));
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    world_free(w);
}

/* The ring stops when the back-end has used what it was given, and not before. */
static void test_drained(void)
{
    World *w = world_new();
    uint64_t kicks = 0;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    set_index(w, AVAIL, 9);
    set_index(w, USED, 7);
    stop_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_cmpuint(w->again, ==, 1);
    g_assert_cmpint(read(w->kick, &kicks, sizeof(kicks)), ==, sizeof(kicks));
    set_index(w, USED, 8);
    g_assert_true(ff_vhost_session_again(w->session));
    g_assert_null(g_queue_peek_head(&w->backend));
    /* QEMU's next words come after. */
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    set_index(w, USED, 9);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 9);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    world_free(w);
}

/* A ring that never comes to its end is waited for once, not at each stop; and again when much
 * time has passed. */
static void test_drained_never(void)
{
    World *w = world_new();

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    set_index(w, AVAIL, 1);
    stop_ring(w);
    now += FF_VHOST_DRAIN_US - 1;
    g_assert_true(ff_vhost_session_again(w->session));
    g_assert_null(g_queue_peek_head(&w->backend));
    now++;
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 0);
    start_ring(w);
    expect_ring(w, false);
    stop_ring(w);
    ring_stopped(w, 0);
    start_ring(w);
    expect_ring(w, false);
    now += (gint64)100 * FF_VHOST_DRAIN_US;
    stop_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 1);
    world_free(w);
}

/* Waits that end as they should come back with the time that passes, so a guest that is stopped
 * again and again is waited for each time; but one stop of many rings has no more than one of them.
 */
static void test_drained_often(void)
{
    World *w = world_new();
    uint16_t index = 7;

    shake_hands(w);
    for (unsigned i = 0; i < 80; i++) {
        w->base = index;
        start_ring(w);
        expect_ring(w, false);
        set_index(w, AVAIL, ++index);
        stop_ring(w);
        if (i == 40 + FF_VHOST_DRAIN_US / G_USEC_PER_SEC) {
            break;
        }
        g_assert_null(g_queue_peek_head(&w->backend));
        now += G_USEC_PER_SEC;
        set_index(w, USED, index);
        g_assert_true(ff_vhost_session_again(w->session));
        ring_stopped(w, index);
        now += i < 40 ? G_USEC_PER_SEC : 0;
    }
    ring_stopped(w, index);
    world_free(w);
}

/* QEMU up to 8.0 says so before its rings stop, and a back-end that is reset drops what is in
 * them. */
static void test_drained_status(void)
{
    World *w = world_new();
    const FfVhostVringAddr second = {1, 0, USER + DESC, USER + USED2, USER + AVAIL2, USED2};
    const uint64_t zero = 0, ring = 1;
    uint64_t kicks = 0;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &second, sizeof(second), -1);
    expect(&w->backend, FF_VHOST_SET_VRING_ADDR);
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    set_index(w, AVAIL, 1);
    set_index(w, AVAIL2, 1);
    qemu_says(w, FF_VHOST_SET_STATUS, &zero, sizeof(zero), -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_cmpint(read(w->kick, &kicks, sizeof(kicks)), ==, sizeof(kicks));
    g_assert_cmpuint(kicks, ==, 2);
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    g_assert_null(g_queue_peek_head(&w->backend));
    set_index(w, USED2, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    expect(&w->backend, FF_VHOST_SET_STATUS);
    stop_ring(w);
    ring_stopped(w, 1);
    world_free(w);
}

static void expect_log(World *w, uint64_t features, uint32_t ring_flags, bool base)
{
    if (base) {
        g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_LOG_BASE);

        g_assert_cmpuint(msg->n_fds, ==, 1);
    }
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, features);
    expect_addr(&w->backend, ring_flags);
    if (base) {
        expect(&w->backend, FF_VHOST_GET_FEATURES);
    }
}

/* The ring runs, and its writes are logged into LOG. */
static void log_ring(World *w, int log)
{
    const uint64_t zero = 0;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    ff_vhost_session_log_begin(w->session, log, 4096);
    expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
    backend_answers(w, FF_VHOST_SET_LOG_BASE, &zero, sizeof(zero));
    backend_answers(w, FF_VHOST_GET_FEATURES, &zero, sizeof(zero));
    g_assert_cmpuint(w->logs, ==, 1);
    g_assert_null(ff_vhost_session_lost(w->session));
}

/* Nothing of it reaches QEMU, whose own words wait meanwhile, and are changed as long as it lasts.
 */
static void test_log(void)
{
    World *w = world_new();
    const uint64_t zero = 0, features = OFFERED;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    g_assert_cmpuint(ff_vhost_session_log_bytes(w->session), >=, MEMORY / 4096 / 8);
    /* Not while QEMU is owed an answer. */
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    ff_vhost_session_log_begin(w->session, log, 4096);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    g_assert_null(g_queue_peek_head(&w->backend));
    backend_answers(w, FF_VHOST_GET_QUEUE_NUM, &zero, sizeof(zero));
    expect(&w->qemu, FF_VHOST_GET_QUEUE_NUM);
    expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
    stop_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    backend_answers(w, FF_VHOST_SET_LOG_BASE, &zero, sizeof(zero));
    g_assert_cmpuint(w->logs, ==, 0);
    backend_answers(w, FF_VHOST_GET_FEATURES, &features, sizeof(features));
    g_assert_cmpuint(w->logs, ==, 1);
    ring_stopped(w, 0);
    start_ring(w);
    expect_ring(w, true);
    g_assert_null(ff_vhost_session_lost(w->session));
    ff_vhost_session_log_end(w->session);
    expect_log(w, ACCEPTED, 0, false);
    /* And once more: a second migration. */
    ff_vhost_session_log_begin(w->session, log, 4096);
    expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
    close(log);
    world_free(w);
}

static uint64_t first_of_log(int log)
{
    uint64_t bits = 0;

    g_assert_cmpint(pread(log, &bits, sizeof(bits), 0), >=, 0);
    return GUINT64_FROM_LE(bits);
}

/* A back-end logs which entries it has used, and the index. The avail event after them, by which
 * the guest sees whether it must kick, and the flags it does not: the whole ring is sent again. It
 * may write there until it has answered. */
static void test_log_used_ring(void)
{
    World *w = world_new();
    const FfVhostVringState num = {0, 1024};
    int log = memfd_create("log", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(log, 4096), ==, 0);
    log_ring(w, log);
    qemu_says(w, FF_VHOST_SET_VRING_NUM, &num, sizeof(num), -1);
    expect(&w->backend, FF_VHOST_SET_VRING_NUM);
    stop_ring(w);
    g_assert_cmphex(first_of_log(log), ==, 0);
    ring_stopped(w, 0);
    for (unsigned page = USED / 4096; page <= (USED + 6 + 8 * 1024 - 1) / 4096; page++) {
        g_assert_true(first_of_log(log) >> page & 1);
    }
    g_assert_cmphex(first_of_log(log) >> 32, ==, 0);
    g_assert_null(ff_vhost_session_lost(w->session));
    close(log);
    world_free(w);
}

/* Nobody has said how many entries it has; and a log in which there is no place for it. */
static void test_log_used_ring_unknown(void)
{
    for (unsigned i = 0; i < 2; i++) {
        World *w = world_new();
        int log = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (i) {
            g_assert_cmpint(fcntl(log, F_ADD_SEALS, F_SEAL_GROW), ==, 0);
        }
        log_ring(w, log);
        stop_ring(w);
        ring_stopped(w, 0);
        g_assert_cmpint(ff_vhost_session_lost(w->session) != NULL, ==, i);
        g_assert_cmpint((first_of_log(log) >> (USED / 4096 + 2) & 1) == 0, ==, i);
        close(log);
        world_free(w);
    }
}

/* What makes a log incomplete is noticed. */
static void test_log_lost(void)
{
    World *w = world_new();
    const FfVhostLog own = {4096, 0};
    int log = memfd_create("log", MFD_CLOEXEC);

    log_ring(w, log);
    qemu_says(w, FF_VHOST_SET_LOG_BASE, &own, sizeof(own), log);
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    close(log);
    world_free(w);
}

/* QEMU's own log is on its way to the back-end when ours is wanted: it stays. */
static void test_log_of_qemu(void)
{
    World *w = world_new();
    const FfVhostLog own = {4096, 0};
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    qemu_says(w, FF_VHOST_SET_LOG_BASE, &own, sizeof(own), log);
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    ff_vhost_session_log_begin(w->session, log, 4096);
    backend_answers(w, FF_VHOST_SET_LOG_BASE, NULL, 0);
    expect(&w->qemu, FF_VHOST_SET_LOG_BASE);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_cmpuint(w->logs, ==, 1);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    close(log);
    world_free(w);
}

/* A back-end that does not answer may not have understood. It keeps its connection, and has no
 * log. */
static void test_log_unanswered(void)
{
    World *w = world_new();
    const uint64_t zero = 0;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    ff_vhost_session_log_begin(w->session, log, 4096);
    expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
    backend_answers(w, FF_VHOST_GET_FEATURES, &zero, sizeof(zero));
    g_assert_cmpuint(w->logs, ==, 1);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    ff_vhost_session_log_end(w->session);
    expect_log(w, ACCEPTED, 0, false);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    close(log);
    world_free(w);
}

/* What is in the answer is nothing (DPDK), the request (rust-vmm), or what was in the buffer. */
static void test_log_answers(void)
{
    const FfVhostLog request = {4096, 0};
    const uint64_t zero = 0;

    for (unsigned i = 0; i < 2; i++) {
        World *w = world_new();
        int log = memfd_create("log", MFD_CLOEXEC);

        shake_hands(w);
        start_ring(w);
        expect_ring(w, false);
        ff_vhost_session_log_begin(w->session, log, 4096);
        expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
        backend_answers(w, FF_VHOST_SET_LOG_BASE, &request, i ? sizeof(request) : 0);
        backend_answers(w, FF_VHOST_GET_FEATURES, &zero, sizeof(zero));
        g_assert_null(ff_vhost_session_lost(w->session));
        close(log);
        world_free(w);
    }
}

/* It is asked for between a ring's address and its kick: the ring's writes are logged as well. */
static void test_log_of_starting_ring(void)
{
    World *w = world_new();
    const FfVhostVringAddr addr = {0, 0, USER + DESC, USER + USED, USER + AVAIL, USED};
    const uint64_t features = ACCEPTED, ring = 0;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    expect(&w->backend, FF_VHOST_SET_FEATURES);
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
    expect_addr(&w->backend, 0);
    ff_vhost_session_log_begin(w->session, log, 4096);
    expect_log(w, ACCEPTED | FF_VHOST_F_LOG_ALL, FF_VHOST_VRING_F_LOG, true);
    backend_answers(w, FF_VHOST_SET_LOG_BASE, NULL, 0);
    backend_answers(w, FF_VHOST_GET_FEATURES, &features, sizeof(features));
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    close(log);
    world_free(w);
}

/* Rings that cannot be drained, and a device that begins again after a reset. What QEMU says
 * whenever a guest stops loses nothing. */
static void test_log_lost_later(void)
{
    const uint64_t packed = ACCEPTED | FF_VHOST_F_RING_PACKED, zero = 0;

    for (unsigned i = 0; i < 2; i++) {
        World *w = world_new();
        int log = memfd_create("log", MFD_CLOEXEC);

        log_ring(w, log);
        stop_ring(w);
        ring_stopped(w, 0);
        qemu_says(w, FF_VHOST_SET_STATUS, &zero, sizeof(zero), -1);
        expect(&w->backend, FF_VHOST_SET_STATUS);
        g_assert_null(ff_vhost_session_lost(w->session));
        if (i) {
            qemu_says(w, FF_VHOST_SET_FEATURES, &packed, sizeof(packed), -1);
            expect(&w->backend, FF_VHOST_SET_FEATURES);
        } else {
            start_ring(w);
            expect_ring(w, true);
        }
        g_assert_nonnull(ff_vhost_session_lost(w->session));
        close(log);
        world_free(w);
    }
}

/* A log that was made before there was memory has no place for it, and a back-end may rely on that:
 * it is taken away before the ring begins. */
static void test_log_before_memory(void)
{
    World *w = world_new();
    const uint64_t zero = 0;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    ff_vhost_session_log_begin(w->session, log, ff_vhost_session_log_bytes(w->session));
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    expect(&w->backend, FF_VHOST_GET_FEATURES);
    backend_answers(w, FF_VHOST_SET_LOG_BASE, &zero, sizeof(zero));
    backend_answers(w, FF_VHOST_GET_FEATURES, &zero, sizeof(zero));
    g_assert_cmpuint(w->logs, ==, 1);
    start_ring(w);
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED | FF_VHOST_F_LOG_ALL);
    expect(&w->backend, FF_VHOST_SET_MEM_TABLE);
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    expect(&w->backend, FF_VHOST_SET_VRING_BASE);
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    close(log);
    world_free(w);
}

/* One that was asked for before, and is begun after. */
static void test_log_too_small(void)
{
    World *w = world_new();
    const uint64_t zero = 0;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    ff_vhost_session_log_begin(w->session, log, 1);
    start_ring(w);
    expect_ring(w, false);
    backend_answers(w, FF_VHOST_GET_QUEUE_NUM, &zero, sizeof(zero));
    expect(&w->qemu, FF_VHOST_GET_QUEUE_NUM);
    g_assert_cmpuint(w->logs, ==, 1);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    close(log);
    world_free(w);
}

/* Nobody has asked for it. */
static void test_unasked_fds(void)
{
    World *w = world_new();
    const uint64_t zero = 0;
    FfVhostMessage *msg =
        ff_vhost_message_new(FF_VHOST_GET_INFLIGHT_FD, FF_VHOST_REPLY, &zero, sizeof(zero));

    shake_hands(w);
    msg->fds[msg->n_fds++] = dup(w->kick);
    g_assert_false(ff_vhost_session_from_backend(w->session, msg));
    world_free(w);
}

/* What came after this farfault: no answer is right while memory is missing. */
static void test_held_unknown(void)
{
    World *w = world_new();

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    g_assert_false(ff_vhost_session_from_qemu(
        w->session, ff_vhost_message_new(FF_VHOST_LAST_KNOWN + 1, 0, NULL, 0)));
    world_free(w);
}

/* A reset that comes first and finds a ring that is not empty, whether it waits in vain or cannot
 * be read. */
static void test_log_lost_reset(void)
{
    const uint64_t zero = 0;
    const FfVhostVringAddr away = {0, 0, DESC, USED, AVAIL, USED};

    for (unsigned i = 0; i < 2; i++) {
        World *w = world_new();
        int log = memfd_create("log", MFD_CLOEXEC);

        log_ring(w, log);
        set_index(w, AVAIL, 1);
        if (i) {
            qemu_says(w, FF_VHOST_SET_VRING_ADDR, &away, sizeof(away), -1);
            expect(&w->backend, FF_VHOST_SET_VRING_ADDR);
        }
        qemu_says(w, FF_VHOST_SET_STATUS, &zero, sizeof(zero), -1);
        now += i ? 0 : FF_VHOST_DRAIN_US;
        g_assert_true(ff_vhost_session_again(w->session));
        expect(&w->backend, FF_VHOST_SET_STATUS);
        g_assert_nonnull(ff_vhost_session_lost(w->session));
        close(log);
        world_free(w);
    }
}

/* A ring that was stopped in vain, with no log: what is under way still comes, so nobody may begin
 * a log, or a snapshot, until it runs again. The next relay knows it. */
static void test_unfinished(void)
{
    World *w = world_new();

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    g_assert_false(ff_vhost_session_is_unfinished(w->session));
    set_index(w, AVAIL, 1);
    stop_ring(w);
    now += FF_VHOST_DRAIN_US;
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 0);
    g_assert_true(ff_vhost_session_is_unfinished(w->session));
    FfVhostRest rest = ff_vhost_session_describe(w->session);
    g_assert_true(rest.unfinished);
    start_ring(w);
    expect_ring(w, false);
    g_assert_false(ff_vhost_session_is_unfinished(w->session));
    world_free(w);
}

/* With an IOMMU of the guest's the addresses of rings and log are none of its memory's. Nothing is
 * logged, and no ring is looked into. */
static void test_iommu(void)
{
    World *w = world_new();
    const uint64_t features = ACCEPTED | FF_VHOST_F_IOMMU;
    int log = memfd_create("log", MFD_CLOEXEC);

    log_ring(w, log);
    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    expect(&w->backend, FF_VHOST_SET_FEATURES);
    g_assert_nonnull(ff_vhost_session_lost(w->session));
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    set_index(w, AVAIL, 1);
    stop_ring(w);
    ring_stopped(w, 0);
    close(log);
    world_free(w);
}

/* After QEMU's own postcopy the ring is still one that is drained. */
static void test_table_acknowledged(void)
{
    World *w = world_new();
    const uint64_t good = 0;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    qemu_says(w, FF_VHOST_SET_MEM_TABLE, &good, sizeof(good), -1);
    expect(&w->backend, FF_VHOST_SET_MEM_TABLE);
    set_index(w, AVAIL, 1);
    stop_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 1);
    world_free(w);
}

/* A kick that would have to wait is none. */
static void test_full_kick(void)
{
    World *w = world_new();
    const uint64_t full = UINT64_MAX - 1;

    g_assert_cmpint(write(w->kick, &full, sizeof(full)), ==, sizeof(full));
    g_assert_cmpint(fcntl(w->kick, F_SETFL, 0), ==, 0);
    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    set_index(w, AVAIL, 1);
    stop_ring(w);
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 1);
    world_free(w);
}

/* QEMU believes that the ring runs; the back-end has nothing until it is let go. */
static void test_held(void)
{
    World *w = world_new();

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    start_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    ask(w, FF_VHOST_GET_FEATURES, OFFERED);
    /* Stopped, and started once more. */
    stop_ring(w);
    g_autoptr(FfVhostMessage) msg = next(&w->qemu, FF_VHOST_GET_VRING_BASE);
    g_assert_cmpuint(ff_vhost_state(msg).value, ==, 7);
    start_ring(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, false), ==, 0);
    expect_ring(w, false); /* features and table once, where the first ones were */
    set_index(w, AVAIL, 1);
    stop_ring(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 1);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, -EBUSY);
    world_free(w);
}

/* It has memory and gets no ring, also if it could wait for pages: none is missing. */
static void test_parked(void)
{
    World *w = world_new();

    w->waits = w->has_turn = true;
    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    g_assert_cmpint(ff_vhost_session_park(w->session), ==, -EBUSY);
    stop_ring(w);
    ring_stopped(w, 0);
    g_assert_cmpint(ff_vhost_session_park(w->session), ==, 0);
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    for (unsigned i = 0; i < 2; i++) {
        start_ring(w);
        g_assert_true(ff_vhost_session_may_wait(w->session));
        g_assert_null(g_queue_peek_head(&w->backend));
        stop_ring(w);
        expect(&w->qemu, FF_VHOST_GET_VRING_BASE);
    }
    start_ring(w);
    g_assert_false(ff_vhost_session_rests(w->session));
    g_assert_cmpint(ff_vhost_session_park(w->session), ==, 0);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, -EBUSY);
    g_assert_cmpint(ff_vhost_session_hold(w->session, false), ==, 0);
    expect_ring(w, false);
    g_assert_null(ff_vhost_session_unloggable(w->session));
    world_free(w);
}

/* QEMU reads the device's status and writes it back with one bit more. */
static void test_held_status(void)
{
    World *w = world_new();
    const uint64_t words[] = {8, 15, 0};

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    ask(w, FF_VHOST_GET_STATUS, 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        qemu_says(w, FF_VHOST_SET_STATUS, &words[i], sizeof(words[i]), -1);
        qemu_says(w, FF_VHOST_GET_STATUS, NULL, 0, -1);
        g_assert_null(g_queue_peek_head(&w->backend));
        expect_u64(&w->qemu, FF_VHOST_GET_STATUS, words[i]);
    }
    const uint64_t features = ACCEPTED, again[] = {1, 3};
    /* Behind the reset, which the back-end may take for a word on these as well; what was before it
     * nobody needs. */
    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    qemu_says(w, FF_VHOST_SET_STATUS, &again[0], sizeof(again[0]), -1);
    qemu_says(w, FF_VHOST_SET_STATUS, &words[2], sizeof(words[2]), -1);
    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    qemu_says(w, FF_VHOST_SET_STATUS, &again[1], sizeof(again[1]), -1);
    ff_vhost_session_hold(w->session, false);
    expect_u64(&w->backend, FF_VHOST_SET_STATUS, 0);
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    expect_u64(&w->backend, FF_VHOST_SET_STATUS, 3);
    ask(w, FF_VHOST_GET_STATUS, 3);
    world_free(w);
}

/* An acknowledgement that QEMU wants while things are held is ours; the back-end's is not asked
 * for. */
static void test_held_acknowledged(void)
{
    World *w = world_new();
    const uint64_t features = ACCEPTED;

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    g_assert_true(ff_vhost_session_from_qemu(
        w->session, ff_vhost_message_new(FF_VHOST_SET_FEATURES, FF_VHOST_NEED_REPLY, &features,
                                         sizeof(features))));
    expect_u64(&w->qemu, FF_VHOST_SET_FEATURES, 0);
    ff_vhost_session_hold(w->session, false);
    g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_FEATURES);
    g_assert_cmphex(msg->header.flags, ==, FF_VHOST_VERSION);
    world_free(w);
}

/* A QEMU that stands still does not see that its back-end has gone, and continues with the next one
 * without a handshake: what it wants is what it had agreed on with the one before. */
static void test_no_handshake(void)
{
    World *w = world_new();
    const FfVhostOneRegion region = {0, {0, MEMORY, USER, 0}};
    const FfVhostLog own = {4096, 0};
    FfVhostMessage *add =
        ff_vhost_message_new(FF_VHOST_ADD_MEM_REG, FF_VHOST_NEED_REPLY, &region, sizeof(region));

    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    add->fds[add->n_fds++] = dup(w->memory);
    g_assert_true(ff_vhost_session_from_qemu(w->session, add));
    expect_u64(&w->qemu, FF_VHOST_ADD_MEM_REG, 0);
    qemu_says(w, FF_VHOST_SET_LOG_BASE, &own, sizeof(own), w->memory);
    expect(&w->qemu, FF_VHOST_SET_LOG_BASE);
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    ff_vhost_session_hold(w->session, false);
    expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    backend_answers(w, FF_VHOST_SET_LOG_BASE, NULL, 0);
    g_assert_null(g_queue_peek_head(&w->qemu));
    world_free(w);
}

/* What QEMU has asked for is answered before what was held is let go, one of which has an answer
 * that is not QEMU's; and what QEMU says after it comes after it. */
static void test_let_go_in_order(void)
{
    World *w = world_new();
    const FfVhostLog own = {4096, 0};
    const uint64_t value = 7;
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    qemu_says(w, FF_VHOST_SET_LOG_BASE, &own, sizeof(own), log);
    expect(&w->qemu, FF_VHOST_SET_LOG_BASE);
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    ff_vhost_session_hold(w->session, false);
    qemu_says(w, FF_VHOST_RESET_OWNER, NULL, 0, -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    backend_answers(w, FF_VHOST_GET_QUEUE_NUM, &value, sizeof(value));
    expect_u64(&w->qemu, FF_VHOST_GET_QUEUE_NUM, value);
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    g_assert_null(g_queue_peek_head(&w->backend));
    backend_answers(w, FF_VHOST_SET_LOG_BASE, NULL, 0);
    expect(&w->backend, FF_VHOST_RESET_OWNER);
    close(log);
    world_free(w);
}

/* However often a guest masks its interrupt. */
static void test_held_calls(void)
{
    World *w = world_new();
    const uint64_t ring = 0;

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    for (unsigned i = 0; i < 10000; i++) {
        qemu_says(w, FF_VHOST_SET_VRING_CALL, &ring, sizeof(ring), w->kick);
    }
    ff_vhost_session_hold(w->session, false);
    g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_VRING_CALL);
    g_assert_cmpuint(inode(msg->fds[0]), ==, inode(w->kick));
    world_free(w);
}

/* QEMU believes that less was used than was: the ring begins where it does. */
static void test_behind(void)
{
    static const struct {
        uint16_t used;
        bool corrected;
    } rows[] = {{7, false}, {9, true}, {6, false}, {0x8000, false}};
    int call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World *w = world_new();
        const FfVhostVringState num = {0, 128};
        const uint64_t ring = 0;
        eventfd_t heard;

        shake_hands(w);
        qemu_says(w, FF_VHOST_SET_VRING_NUM, &num, sizeof(num), -1);
        expect(&w->backend, FF_VHOST_SET_VRING_NUM);
        set_index(w, USED, rows[i].used);
        if (i % 2) { /* also where it was held */
            g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
        }
        start_ring(w);
        ff_vhost_session_hold(w->session, false);
        expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
        expect(&w->backend, FF_VHOST_SET_MEM_TABLE);
        expect(&w->backend, FF_VHOST_SET_VRING_BASE);
        expect_addr(&w->backend, 0);
        if (rows[i].corrected) {
            g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_VRING_BASE);
            g_assert_cmpuint(ff_vhost_state(msg).value, ==, rows[i].used);
        }
        expect(&w->backend, FF_VHOST_SET_VRING_KICK);
        /* And the guest is told of what it has not heard. */
        qemu_says(w, FF_VHOST_SET_VRING_CALL, &ring, sizeof(ring), call);
        expect(&w->backend, FF_VHOST_SET_VRING_CALL);
        g_assert_true((eventfd_read(call, &heard) == 0) == rows[i].corrected);
        world_free(w);
    }
    close(call);
}

/* ---- a network ------------------------------------------------------------------------------- */

/* A ring stops with what is in it; a reset that is said before is passed when all have stopped, as
 * the back-end writes to them until then. */
static void test_network_stops(void)
{
    World *w = world_new_of(FF_VHOST_NETWORK);
    const uint64_t reset = 0;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    set_index(w, AVAIL, 9);
    FfVhostMessage *msg =
        ff_vhost_message_new(FF_VHOST_SET_STATUS, FF_VHOST_NEED_REPLY, &reset, sizeof(reset));
    g_assert_true(ff_vhost_session_from_qemu(w->session, msg));
    expect_u64(&w->qemu, FF_VHOST_SET_STATUS, 0);
    g_assert_null(g_queue_peek_head(&w->backend));
    stop_ring(w);
    ring_stopped(w, 7);
    g_assert_cmpuint(w->again, ==, 0);
    g_autoptr(FfVhostMessage) late = next(&w->backend, FF_VHOST_SET_STATUS);
    g_assert_false(late->header.flags & FF_VHOST_NEED_REPLY);
    world_free(w);
}

/* Two rings, and the reset between them, as QEMU says it of several pairs. A log that is asked for
 * meanwhile begins after the reset. */
static void test_network_rings(void)
{
    World *w = world_new_of(FF_VHOST_NETWORK);
    const FfVhostVringAddr second = {1, 0, USER + DESC, USER + USED2, USER + AVAIL2, USED2};
    const FfVhostVringState state = {1, 0};
    const uint64_t reset = 0, ring = 1;
    int log = memfd_create("log", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(log, 4096), ==, 0);
    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &second, sizeof(second), -1);
    expect(&w->backend, FF_VHOST_SET_VRING_ADDR);
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    stop_ring(w);
    ring_stopped(w, 7);
    for (unsigned i = 0; i < 2; i++) {
        qemu_says(w, FF_VHOST_SET_STATUS, &reset, sizeof(reset), -1); /* once is enough */
    }
    ff_vhost_session_log_begin(w->session, log, 4096);
    g_assert_null(g_queue_peek_head(&w->backend));
    qemu_says(w, FF_VHOST_GET_VRING_BASE, &state, sizeof(state), -1);
    expect(&w->backend, FF_VHOST_GET_VRING_BASE);
    expect_u64(&w->backend, FF_VHOST_SET_STATUS, 0);
    g_assert_null(g_queue_peek_head(&w->backend)); /* it owes an answer */
    backend_answers(w, FF_VHOST_GET_VRING_BASE, &state, sizeof(state));
    expect(&w->qemu, FF_VHOST_GET_VRING_BASE);
    expect(&w->backend, FF_VHOST_SET_LOG_BASE);
    while (g_queue_get_length(&w->backend)) {
        ff_vhost_message_free(g_queue_pop_head(&w->backend));
    }
    close(log);
    world_free(w);
}

/* A guest that says again and again how many rings it uses, whose network is held. */
static void test_held_enables(void)
{
    World *w = world_new_of(FF_VHOST_NETWORK);
    FfVhostVringState state = {0, 0};

    shake_hands(w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    for (unsigned i = 0; i < 5000; i++) {
        state = (FfVhostVringState){i % 2, i / 2 % 2};
        qemu_says(w, FF_VHOST_SET_VRING_ENABLE, &state, sizeof(state), -1);
    }
    ff_vhost_session_hold(w->session, false);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_VRING_ENABLE);
        g_assert_cmpuint(ff_vhost_state(msg).index, ==, i);
        g_assert_cmpuint(ff_vhost_state(msg).value, ==, 1);
    }
    world_free(w);
}

/* Rings that go on: what is said next comes after the reset, as QEMU said it. */
static void test_network_reset(void)
{
    World *w = world_new_of(FF_VHOST_NETWORK);
    const uint64_t reset = 0, status = 1;

    shake_hands(w);
    start_ring(w);
    expect_ring(w, false);
    for (unsigned i = 0; i < 2; i++) {
        qemu_says(w, FF_VHOST_SET_STATUS, &reset, sizeof(reset), -1);
        g_assert_null(g_queue_peek_head(&w->backend));
        qemu_says(w, FF_VHOST_SET_STATUS, &status, sizeof(status), -1);
        expect_u64(&w->backend, FF_VHOST_SET_STATUS, reset);
        expect_u64(&w->backend, FF_VHOST_SET_STATUS, status);
    }
    qemu_says(w, FF_VHOST_SET_STATUS, &reset, sizeof(reset), -1);
    world_free(w);
}

/* ---- a back-end that waits for pages --------------------------------------------------------- */

#define WAITS                                                                                      \
    (FF_VHOST_PROTOCOL_F_LOG_SHMFD | FF_VHOST_PROTOCOL_F_REPLY_ACK | FF_VHOST_PROTOCOL_F_PAGEFAULT)
#define THEIRS 0x550000000000ull

/* At a destination; QEMU has agreed on PROTOCOL with a back-end that is held back. */
static World *waiting_new(uint64_t protocol)
{
    World *w = world_new();

    w->waits = w->has_turn = true;
    ask(w, FF_VHOST_GET_FEATURES, OFFERED);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES, protocol);
    qemu_says(w, FF_VHOST_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol), -1);
    expect_u64(&w->backend, FF_VHOST_SET_PROTOCOL_FEATURES, protocol);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    return w;
}

/* QEMU starts the ring, with memory that it says in slots. */
static void start_ring_slots(World *w)
{
    const uint64_t features = ACCEPTED, ring = 0;
    const FfVhostVringAddr addr = {0, 0, USER + DESC, USER + USED, USER + AVAIL, USED};

    qemu_says(w, FF_VHOST_SET_FEATURES, &features, sizeof(features), -1);
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t half = MEMORY / 2;
        const FfVhostOneRegion region = {0, {i * half, half, USER + i * half, i * half}};
        FfVhostMessage *add = ff_vhost_message_new(FF_VHOST_ADD_MEM_REG, FF_VHOST_NEED_REPLY,
                                                   &region, sizeof(region));

        add->fds[add->n_fds++] = dup(w->memory);
        g_assert_true(ff_vhost_session_from_qemu(w->session, add));
        expect_u64(&w->qemu, FF_VHOST_ADD_MEM_REG, 0);
    }
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
}

static void give_uffd(World *w)
{
    FfVhostMessage *msg = ff_vhost_message_new(FF_VHOST_POSTCOPY_ADVISE, FF_VHOST_REPLY, NULL, 0);

    expect(&w->backend, FF_VHOST_POSTCOPY_ADVISE);
    msg->fds[msg->n_fds++] = dup(w->kick);
    g_assert_true(ff_vhost_session_from_backend(w->session, msg));
}

static void answer_good(World *w, uint32_t request)
{
    const uint64_t good = 0;

    expect(&w->backend, request);
    backend_answers(w, request, &good, sizeof(good));
}

/* It goes that way with a small file first, which it fills with zeros or not. */
static void answer_trial_table(World *w, bool fills)
{
    g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_MEM_TABLE);
    const FfVhostRegion r = ff_vhost_region(msg, 0);
    const char zero = 0;

    g_assert_cmpuint(ff_vhost_n_regions(msg), ==, 1);
    g_assert_cmpuint(msg->n_fds, ==, 1);
    g_assert_cmpuint(inode(msg->fds[0]), !=, inode(w->memory));
    if (fills) {
        g_assert_cmpint(pwrite(msg->fds[0], &zero, 1, (off_t)r.size - 1), ==, 1);
    }
    backend_answers(w, FF_VHOST_SET_MEM_TABLE, msg->payload, msg->header.size);
}

static void register_trial(World *w)
{
    const uint64_t features = OFFERED;

    expect_u64(&w->backend, FF_VHOST_SET_MEM_TABLE, 0);
    expect(&w->backend, FF_VHOST_GET_FEATURES);
    backend_answers(w, FF_VHOST_GET_FEATURES, &features, sizeof(features));
}

static void listen_and_try(World *w)
{
    answer_good(w, FF_VHOST_POSTCOPY_LISTEN);
    answer_trial_table(w, false);
    register_trial(w);
}

/* Its answer to the table has addresses from THEIRS on; 0: QEMU's, as libvhost-user's has. FALSE:
 * the connection is of no use. */
static bool answer_table(World *w, uint64_t theirs)
{
    g_autoptr(FfVhostMessage) msg = next(&w->backend, FF_VHOST_SET_MEM_TABLE);

    g_assert_cmpuint(ff_vhost_n_regions(msg), ==, 2);
    g_assert_cmpuint(msg->n_fds, ==, 2);
    g_assert_cmpuint(inode(msg->fds[1]), ==, inode(w->memory));
    for (unsigned i = 0; i < 2 && theirs; i++) {
        FfVhostRegion r = ff_vhost_region(msg, i);

        r.user = theirs + i * (1 << 24);
        memcpy(msg->payload + sizeof(FfVhostMemory) + i * sizeof(r), &r, sizeof(r));
    }
    return ff_vhost_session_from_backend(
        w->session, ff_vhost_message_new(FF_VHOST_SET_MEM_TABLE, FF_VHOST_REPLY, msg->payload,
                                         msg->header.size));
}

/* From its userfaultfd to its addresses. */
static void go_that_way(World *w)
{
    give_uffd(w);
    listen_and_try(w);
    g_assert_true(answer_table(w, THEIRS));
}

static void come_to_engine(World *w)
{
    start_ring_slots(w);
    go_that_way(w);
    g_assert_cmpuint(w->hands, ==, 1);
}

/* As far as to what the engine is asked. */
static void wait_for_engine(World *w)
{
    come_to_engine(w);
    g_assert_null(g_queue_peek_head(&w->backend));
}

static void register_memory(World *w)
{
    const uint64_t features = OFFERED;

    expect_u64(&w->backend, FF_VHOST_SET_MEM_TABLE, 0);
    expect(&w->backend, FF_VHOST_GET_FEATURES);
    backend_answers(w, FF_VHOST_GET_FEATURES, &features, sizeof(features));
    g_assert_null(g_queue_peek_head(&w->qemu));
}

static void expect_begun(World *w)
{
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
}

static void wait_for_pages(World *w)
{
    wait_for_engine(w);
    g_assert_true(ff_vhost_session_handed(w->session));
    register_memory(w);
    g_assert_cmpuint(w->checks, ==, 1);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_true(ff_vhost_session_checked(w->session));
    expect_begun(w);
}

/* The ring begins before all memory is there, and nothing else is different. */
static void test_waits(void)
{
    World *w = waiting_new(WAITS);
    FfVhostWaits waits;

    wait_for_pages(w);
    g_assert_cmpuint(w->stands, ==, 0);
    g_assert_true(ff_vhost_session_faults(w->session, &waits));
    const FfVhostRegion *theirs = waits.regions;
    g_assert_cmpuint(waits.n, ==, 2);
    g_assert_cmphex(theirs[1].user, ==, THEIRS + (1 << 24));
    g_assert_cmphex(theirs[1].offset, ==, MEMORY / 2);
    g_assert_cmpuint(inode(waits.uffd), ==, inode(w->kick));
    g_assert_false(waits.checks);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    set_index(w, AVAIL, 1);
    stop_ring(w); /* is drained as ever */
    g_assert_null(g_queue_peek_head(&w->backend));
    set_index(w, USED, 1);
    g_assert_true(ff_vhost_session_again(w->session));
    ring_stopped(w, 1);
    /* All is there. */
    ff_vhost_session_hold(w->session, false);
    g_assert_cmpuint(w->all_there, ==, 1);
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    answer_good(w, FF_VHOST_POSTCOPY_END);
    g_assert_null(ff_vhost_session_unloggable(w->session));
    g_assert_false(ff_vhost_session_faults(w->session, &waits));
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    world_free(w);
}

/* Where somebody cannot: it is held as ever. */
typedef struct {
    const char *name;
    uint64_t protocol;
    bool nobody;
} Unable;

static const Unable unable[] = {
    {"pagefault", WAITS & ~FF_VHOST_PROTOCOL_F_PAGEFAULT, false},
    {"reply", WAITS & ~FF_VHOST_PROTOCOL_F_REPLY_ACK, false},
    {"engine", WAITS, true},
};

static void test_unable(gconstpointer data)
{
    const Unable *u = data;
    World *w = waiting_new(u->protocol);

    w->waits = !u->nobody;
    start_ring(w);
    g_assert_cmpuint(w->stands, ==, 1);
    g_assert_null(g_queue_peek_head(&w->backend));
    ff_vhost_session_hold(w->session, false);
    expect_ring(w, false);
    world_free(w);
}

/* It gives no userfaultfd after all. */
static void test_no_uffd(void)
{
    World *w = waiting_new(WAITS);

    start_ring(w);
    expect(&w->backend, FF_VHOST_POSTCOPY_ADVISE);
    backend_answers(w, FF_VHOST_POSTCOPY_ADVISE, NULL, 0);
    g_assert_null(g_queue_peek_head(&w->backend));
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    ff_vhost_session_hold(w->session, false);
    expect_ring(w, false);
    world_free(w);
}

/* libvhost-user says QEMU's addresses: they are found elsewhere, or nobody can answer. */
static void test_addresses(void)
{
    World *w = waiting_new(WAITS);
    FfVhostWaits waits;

    start_ring_slots(w);
    give_uffd(w);
    listen_and_try(w);
    g_assert_true(answer_table(w, 0));
    g_assert_true(ff_vhost_session_faults(w->session, &waits));
    const FfVhostRegion *theirs = waits.regions;
    g_assert_cmphex(theirs[0].user, ==, 0);
    g_assert_cmphex(theirs[1].user, ==, 0);
    ff_vhost_session_set_address(w->session, 1, THEIRS);
    g_assert_cmphex(theirs[1].user, ==, THEIRS);
    world_free(w);

    /* No page begins there. */
    w = waiting_new(WAITS);
    start_ring_slots(w);
    give_uffd(w);
    listen_and_try(w);
    g_assert_false(answer_table(w, THEIRS + 1));
    world_free(w);
}

/* While the back-end waits for the word that its faults are answered, what it would take for that
 * word waits as well; QEMU is answered what it need not ask it. */
static void test_handed(void)
{
    World *w = waiting_new(WAITS);
    const uint64_t ring = 0, value = 1;

    wait_for_engine(w);
    g_assert_true(ff_vhost_session_from_qemu(
        w->session,
        ff_vhost_message_new(FF_VHOST_SET_VRING_CALL, FF_VHOST_NEED_REPLY, &ring, sizeof(ring))));
    expect(&w->qemu, FF_VHOST_SET_VRING_CALL);
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_true(ff_vhost_session_handed(w->session));
    register_memory(w);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    g_assert_true(ff_vhost_session_checked(w->session));
    g_assert_null(g_queue_peek_head(&w->backend)); /* it owes QEMU an answer */
    backend_answers(w, FF_VHOST_GET_QUEUE_NUM, &value, sizeof(value));
    expect_u64(&w->qemu, FF_VHOST_GET_QUEUE_NUM, value);
    expect_begun(w);
    expect(&w->backend, FF_VHOST_SET_VRING_CALL);
    world_free(w);
}

/* Nobody can answer its faults, as is found out at once or by what the engine says: it has its
 * memory, none of its rings begins, and QEMU's questions are answered. */
static void test_stands(gconstpointer data)
{
    bool at_once = GPOINTER_TO_INT(data);
    World *w = waiting_new(WAITS);
    FfVhostWaits waits;

    w->refuses = at_once;
    come_to_engine(w);
    if (!at_once) {
        g_assert_true(ff_vhost_session_stands(w->session));
    }
    g_assert_true(ff_vhost_session_stands(w->session)); /* an engine says so late */
    register_memory(w);
    g_assert_cmpuint(w->checks, ==, 0);
    g_assert_false(ff_vhost_session_faults(w->session, &waits));
    g_assert_true(ff_vhost_session_handed(w->session));
    g_assert_true(ff_vhost_session_checked(w->session));
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    g_assert_null(g_queue_peek_head(&w->backend));
    ff_vhost_session_hold(w->session, false);
    answer_good(w, FF_VHOST_POSTCOPY_END);
    expect_begun(w);
    world_free(w);
}

/* It says nothing, at any step: QEMU is answered all the same, but for what only the back-end can
 * answer. */
static void test_silent(gconstpointer data)
{
    unsigned step = GPOINTER_TO_UINT(data);
    static const uint32_t asked[] = {FF_VHOST_POSTCOPY_ADVISE, FF_VHOST_POSTCOPY_LISTEN,
                                     FF_VHOST_SET_MEM_TABLE,   FF_VHOST_GET_FEATURES,
                                     FF_VHOST_SET_MEM_TABLE,   FF_VHOST_GET_FEATURES};
    World *w = waiting_new(WAITS);
    const FfVhostVringState enable = {0, 1};

    start_ring_slots(w);
    if (step > 0) {
        give_uffd(w);
    }
    if (step > 1) {
        answer_good(w, FF_VHOST_POSTCOPY_LISTEN);
    }
    if (step > 2) {
        answer_trial_table(w, false);
    }
    if (step > 3) {
        register_trial(w);
    }
    if (step > 4) {
        g_assert_true(answer_table(w, THEIRS));
        g_assert_true(ff_vhost_session_handed(w->session));
    }
    if (step == 3 || step == 5) {
        expect(&w->backend, FF_VHOST_SET_MEM_TABLE);
    }
    g_assert_true(ff_vhost_session_asks(w->session));
    expect(&w->backend, asked[step]);
    g_assert_true(ff_vhost_session_from_qemu(
        w->session, ff_vhost_message_new(FF_VHOST_SET_VRING_ENABLE, FF_VHOST_NEED_REPLY, &enable,
                                         sizeof(enable))));
    expect_u64(&w->qemu, FF_VHOST_SET_VRING_ENABLE, 0);
    stop_ring(w);
    expect(&w->qemu, FF_VHOST_GET_VRING_BASE);
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_null(g_queue_peek_head(&w->qemu));
    world_free(w);
}

/* It touches what it has not registered: it gets no memory before all is there. */
static void test_touches(gconstpointer data)
{
    bool meanwhile = GPOINTER_TO_INT(data); /* all is there before it has answered */
    World *w = waiting_new(WAITS);

    start_ring_slots(w);
    give_uffd(w);
    answer_good(w, FF_VHOST_POSTCOPY_LISTEN);
    answer_trial_table(w, true);
    register_trial(w);
    if (meanwhile) {
        ff_vhost_session_hold(w->session, false);
    }
    answer_good(w, FF_VHOST_POSTCOPY_END);
    g_assert_cmpuint(w->hands, ==, 0);
    if (!meanwhile) {
        g_assert_cmpuint(w->stands, ==, 1);
        ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
        g_assert_true(ff_vhost_session_may_wait(w->session));
        ff_vhost_session_hold(w->session, false);
    }
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    g_assert_cmpuint(w->all_there, ==, 0);
    world_free(w);
}

/* Another back-end of its process goes that way first. */
static void test_turn(void)
{
    World *w = waiting_new(WAITS);

    w->has_turn = false;
    start_ring_slots(w);
    g_assert_null(g_queue_peek_head(&w->backend));
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    g_assert_cmpuint(w->stands, ==, 0);
    w->has_turn = true;
    g_assert_true(ff_vhost_session_may_wait(w->session));
    go_that_way(w);
    world_free(w);
}

/* Every page is there before it has come so far. */
static void test_all_there(gconstpointer data)
{
    unsigned step = GPOINTER_TO_UINT(data), i = 0;
    World *w = waiting_new(WAITS);

    start_ring_slots(w);
    if (step == i++) {
        ff_vhost_session_hold(w->session, false);
    }
    give_uffd(w);
    if (step == i++) {
        ff_vhost_session_hold(w->session, false);
    }
    answer_good(w, FF_VHOST_POSTCOPY_LISTEN);
    if (step > 1) {
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
        answer_trial_table(w, false);
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
        register_trial(w);
    }
    if (step > 3) {
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
        g_assert_true(answer_table(w, THEIRS));
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
        if (step > 5) {
            g_assert_true(ff_vhost_session_handed(w->session));
        }
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
        register_memory(w);
        if (step == i++) {
            ff_vhost_session_hold(w->session, false);
        }
    }
    answer_good(w, FF_VHOST_POSTCOPY_END);
    g_assert_cmpuint(w->all_there, ==, step > 3);
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    /* What was in the table is not said again. */
    for (unsigned k = 0; k < 2 && step <= 3; k++) {
        expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    }
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    world_free(w);
}

static void add_region(World *w)
{
    const uint64_t half = MEMORY / 2;
    const FfVhostOneRegion region = {0, {2 * half, half, USER + 2 * half, 0}};
    FfVhostMessage *add =
        ff_vhost_message_new(FF_VHOST_ADD_MEM_REG, FF_VHOST_NEED_REPLY, &region, sizeof(region));

    add->fds[add->n_fds++] = dup(w->memory);
    g_assert_true(ff_vhost_session_from_qemu(w->session, add));
    expect_u64(&w->qemu, FF_VHOST_ADD_MEM_REG, 0);
}

/* QEMU changes the memory of a device that runs: it runs on, and can be stopped; what begins then
 * waits until all is there, and is answered as what is held. */
static void test_changed(void)
{
    World *w = waiting_new(WAITS);
    const uint64_t ring = 0;
    const FfVhostVringState base = {0, 0};
    const FfVhostVringAddr addr = {0, 0, USER + DESC, USER + USED, USER + AVAIL, USED};

    wait_for_pages(w);
    add_region(w);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    stop_ring(w);
    ring_stopped(w, 0);
    for (unsigned i = 0; i < 2; i++) {
        qemu_says(w, FF_VHOST_SET_VRING_BASE, &base, sizeof(base), -1);
        qemu_says(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
        qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
        g_assert_cmpuint(w->stands, ==, i + 1);
        if (i == 0) {
            stop_ring(w); /* and once more */
            expect(&w->qemu, FF_VHOST_GET_VRING_BASE);
        }
    }
    g_assert_null(g_queue_peek_head(&w->backend));
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    ff_vhost_session_hold(w->session, false);
    answer_good(w, FF_VHOST_POSTCOPY_END);
    expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    expect(&w->backend, FF_VHOST_SET_VRING_BASE);
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    world_free(w);
}

/* It changes before the ring has begun. */
static void test_changed_early(void)
{
    World *w = waiting_new(WAITS);

    wait_for_engine(w);
    add_region(w);
    g_assert_true(ff_vhost_session_handed(w->session));
    register_memory(w);
    g_assert_true(ff_vhost_session_checked(w->session));
    g_assert_null(g_queue_peek_head(&w->backend));
    g_assert_cmpuint(w->stands, ==, 1);
    ff_vhost_session_hold(w->session, false);
    answer_good(w, FF_VHOST_POSTCOPY_END);
    expect(&w->backend, FF_VHOST_ADD_MEM_REG);
    expect_u64(&w->backend, FF_VHOST_SET_FEATURES, ACCEPTED);
    expect_addr(&w->backend, 0);
    expect(&w->backend, FF_VHOST_SET_VRING_KICK);
    world_free(w);
}

static FfVhostMessage *both_halves(World *w)
{
    const struct {
        FfVhostMemory memory;
        FfVhostRegion regions[2];
    } table = {{2, 0},
               {{0, MEMORY / 2, USER, 0}, {MEMORY / 2, MEMORY / 2, USER + MEMORY / 2, MEMORY / 2}}};
    FfVhostMessage *msg =
        ff_vhost_message_new(FF_VHOST_SET_MEM_TABLE, FF_VHOST_NEED_REPLY, &table, sizeof(table));

    for (unsigned i = 0; i < 2; i++) {
        msg->fds[msg->n_fds++] = dup(w->memory);
    }
    return msg;
}

/* QEMU says the same memory again: the back-end is not told, which would map it anew. */
static void test_unchanged(void)
{
    World *w = waiting_new(WAITS);

    wait_for_pages(w);
    g_assert_true(ff_vhost_session_from_qemu(w->session, both_halves(w)));
    expect_u64(&w->qemu, FF_VHOST_SET_MEM_TABLE, 0);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    g_assert_cmpuint(w->stands, ==, 0);
    /* Another file at the same places is other memory. */
    int other = memfd_create("other", MFD_CLOEXEC);
    FfVhostMessage *msg = both_halves(w);
    close(msg->fds[1]);
    msg->fds[1] = other;
    g_assert_true(ff_vhost_session_from_qemu(w->session, msg));
    expect_u64(&w->qemu, FF_VHOST_SET_MEM_TABLE, 0);
    g_assert_null(g_queue_peek_head(&w->backend));
    ff_vhost_session_hold(w->session, false);
    answer_good(w, FF_VHOST_POSTCOPY_END);
    g_autoptr(FfVhostMessage) told = next(&w->backend, FF_VHOST_SET_MEM_TABLE);
    g_assert_cmpuint(inode(told->fds[1]), ==, inode(other));
    world_free(w);
}

/* The same on the way: it would take it for a new one when the ring begins. */
static void test_unchanged_early(void)
{
    World *w = waiting_new(WAITS);

    wait_for_engine(w);
    g_assert_true(ff_vhost_session_from_qemu(w->session, both_halves(w)));
    expect_u64(&w->qemu, FF_VHOST_SET_MEM_TABLE, 0);
    g_assert_true(ff_vhost_session_handed(w->session));
    register_memory(w);
    g_assert_true(ff_vhost_session_checked(w->session));
    expect_begun(w);
    world_free(w);
}

/* A ring that the back-end was not given has nothing under way, whatever the guest has put in. */
static void test_kept_ring_stops(void)
{
    World *w = waiting_new(WAITS);
    const uint64_t ring = 0, reset = 0;
    const FfVhostVringState base = {0, 5};
    const FfVhostVringAddr addr = {0, 0, USER + DESC, USER + USED, USER + AVAIL, USED};

    wait_for_pages(w);
    add_region(w);
    stop_ring(w);
    ring_stopped(w, 0);
    qemu_says(w, FF_VHOST_SET_VRING_BASE, &base, sizeof(base), -1);
    qemu_says(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
    qemu_says(w, FF_VHOST_SET_VRING_KICK, &ring, sizeof(ring), w->kick);
    set_index(w, AVAIL, 9);
    qemu_says(w, FF_VHOST_SET_STATUS, &reset, sizeof(reset), -1);
    expect_u64(&w->backend, FF_VHOST_SET_STATUS, reset);
    stop_ring(w);
    g_autoptr(FfVhostMessage) msg = next(&w->qemu, FF_VHOST_GET_VRING_BASE);
    g_assert_cmpuint(ff_vhost_state(msg).value, ==, 5);
    g_assert_cmpuint(w->again, ==, 0);
    world_free(w);
}

/* Nobody could answer when the ring was begun; now somebody can. */
static void test_ready_later(void)
{
    World *w = waiting_new(WAITS);

    w->waits = false;
    start_ring_slots(w);
    g_assert_cmpuint(w->stands, ==, 1);
    g_assert_null(g_queue_peek_head(&w->backend));
    w->waits = true;
    g_assert_true(ff_vhost_session_may_wait(w->session));
    go_that_way(w);
    g_assert_true(ff_vhost_session_handed(w->session));
    register_memory(w);
    g_assert_true(ff_vhost_session_checked(w->session));
    expect_begun(w);
    world_free(w);
}

/* All is there while it owes QEMU an answer: that comes first. */
static void test_owed(gconstpointer data)
{
    bool on = GPOINTER_TO_INT(data);
    World *w = waiting_new(WAITS);
    const uint64_t value = 3;

    if (on) {
        wait_for_pages(w);
    } else {
        wait_for_engine(w);
        g_assert_true(ff_vhost_session_handed(w->session));
        register_memory(w);
    }
    qemu_says(w, FF_VHOST_GET_QUEUE_NUM, NULL, 0, -1);
    expect(&w->backend, FF_VHOST_GET_QUEUE_NUM);
    ff_vhost_session_hold(w->session, false);
    qemu_says(w, FF_VHOST_GET_FEATURES, NULL, 0, -1);
    g_assert_null(g_queue_peek_head(&w->backend));
    backend_answers(w, FF_VHOST_GET_QUEUE_NUM, &value, sizeof(value));
    expect_u64(&w->qemu, FF_VHOST_GET_QUEUE_NUM, value);
    answer_good(w, FF_VHOST_POSTCOPY_END);
    if (!on) {
        expect_begun(w);
    }
    expect(&w->backend, FF_VHOST_GET_FEATURES);
    backend_answers(w, FF_VHOST_GET_FEATURES, &value, sizeof(value));
    expect_u64(&w->qemu, FF_VHOST_GET_FEATURES, value);
    world_free(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost/stream", test_stream);
    g_test_add_func("/vhost/stream/bad", test_bad_stream);
    g_test_add_func("/vhost/passed-on", test_passed_on);
    g_test_add_func("/vhost/drained", test_drained);
    g_test_add_func("/vhost/drained-never", test_drained_never);
    g_test_add_func("/vhost/drained-often", test_drained_often);
    g_test_add_func("/vhost/drained-status", test_drained_status);
    g_test_add_func("/vhost/iommu", test_iommu);
    g_test_add_func("/vhost/log", test_log);
    g_test_add_func("/vhost/log/lost", test_log_lost);
    g_test_add_func("/vhost/log/of-qemu", test_log_of_qemu);
    g_test_add_func("/vhost/log/unanswered", test_log_unanswered);
    g_test_add_func("/vhost/log/answers", test_log_answers);
    g_test_add_func("/vhost/log/of-starting-ring", test_log_of_starting_ring);
    g_test_add_func("/vhost/log/lost-later", test_log_lost_later);
    g_test_add_func("/vhost/log/lost-reset", test_log_lost_reset);
    g_test_add_func("/vhost/log/before-memory", test_log_before_memory);
    g_test_add_func("/vhost/log/too-small", test_log_too_small);
    g_test_add_func("/vhost/unasked-fds", test_unasked_fds);
    g_test_add_func("/vhost/held/unknown", test_held_unknown);
    g_test_add_func("/vhost/log/used-ring", test_log_used_ring);
    g_test_add_func("/vhost/log/used-ring/unknown", test_log_used_ring_unknown);
    g_test_add_func("/vhost/table-acknowledged", test_table_acknowledged);
    g_test_add_func("/vhost/full-kick", test_full_kick);
    g_test_add_func("/vhost/held", test_held);
    g_test_add_func("/vhost/let-go-in-order", test_let_go_in_order);
    g_test_add_func("/vhost/held-calls", test_held_calls);
    g_test_add_func("/vhost/no-handshake", test_no_handshake);
    g_test_add_func("/vhost/parked", test_parked);
    g_test_add_func("/vhost/unfinished", test_unfinished);
    g_test_add_func("/vhost/held/status", test_held_status);
    g_test_add_func("/vhost/held/acknowledged", test_held_acknowledged);
    g_test_add_func("/vhost/behind", test_behind);
    g_test_add_func("/vhost/network/stops", test_network_stops);
    g_test_add_func("/vhost/network/rings", test_network_rings);
    g_test_add_func("/vhost/network/held-enables", test_held_enables);
    g_test_add_func("/vhost/network/reset", test_network_reset);
    g_test_add_func("/vhost/waits", test_waits);
    for (unsigned i = 0; i < G_N_ELEMENTS(unable); i++) {
        g_autofree char *path = g_strconcat("/vhost/unable/", unable[i].name, NULL);
        g_test_add_data_func(path, &unable[i], test_unable);
    }
    g_test_add_func("/vhost/waits/no-uffd", test_no_uffd);
    g_test_add_func("/vhost/waits/addresses", test_addresses);
    g_test_add_func("/vhost/waits/handed", test_handed);
    g_test_add_data_func("/vhost/waits/stands/at-once", GINT_TO_POINTER(true), test_stands);
    g_test_add_data_func("/vhost/waits/stands/engine", GINT_TO_POINTER(false), test_stands);
    for (unsigned i = 0; i < 6; i++) {
        g_autofree char *path = g_strdup_printf("/vhost/waits/silent/%u", i);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_silent);
    }
    g_test_add_data_func("/vhost/waits/touches", GINT_TO_POINTER(false), test_touches);
    g_test_add_data_func("/vhost/waits/touches/all-there", GINT_TO_POINTER(true), test_touches);
    g_test_add_func("/vhost/waits/turn", test_turn);
    for (unsigned i = 0; i < 8; i++) {
        g_autofree char *path = g_strdup_printf("/vhost/waits/all-there/%u", i);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_all_there);
    }
    g_test_add_func("/vhost/waits/changed", test_changed);
    g_test_add_func("/vhost/waits/changed/early", test_changed_early);
    g_test_add_func("/vhost/waits/unchanged", test_unchanged);
    g_test_add_func("/vhost/waits/unchanged/early", test_unchanged_early);
    g_test_add_func("/vhost/waits/kept-ring-stops", test_kept_ring_stops);
    g_test_add_func("/vhost/waits/ready-later", test_ready_later);
    g_test_add_data_func("/vhost/waits/owed/on", GINT_TO_POINTER(true), test_owed);
    g_test_add_data_func("/vhost/waits/owed/check", GINT_TO_POINTER(false), test_owed);
    return g_test_run();
}
