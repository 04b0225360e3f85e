/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user connection with which another relay goes on: when it rests, and that the text for
 * the next one has all of it. Both sides are played here.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/relay/vhost-rest.h"

#define MEMORY (1u << 20)
#define USER 0x7f0000000000ull
#define FEATURES (1ull << 63 | 1ull << 32 | FF_VHOST_F_LOG_ALL)
#define PROTOCOL (FF_VHOST_PROTOCOL_F_LOG_SHMFD | FF_VHOST_PROTOCOL_F_REPLY_ACK)

typedef struct {
    FfVhostSession *session;
    int memory, kick, log;
    unsigned to_backend, to_qemu;
    uint32_t last; /* request that the back-end was sent */
    GArray *given;
} World;

static void to_backend(FfVhostMessage *msg, void *opaque)
{
    World *w = opaque;

    w->to_backend++;
    w->last = msg->header.request;
    ff_vhost_message_free(msg);
}

static void to_qemu(FfVhostMessage *msg, void *opaque)
{
    ((World *)opaque)->to_qemu++;
    ff_vhost_message_free(msg);
}

static void nothing(void *opaque)
{
}

static bool no(void *opaque)
{
    return false;
}

static const FfVhostSessionOps ops = {.to_backend = to_backend,
                                      .to_qemu = to_qemu,
                                      .again = nothing,
                                      .logs = nothing,
                                      .can_wait = no};

static void say(World *w, uint32_t request, const void *payload, uint32_t size, int fd)
{
    FfVhostMessage *msg = ff_vhost_message_new(request, 0, payload, size);

    if (fd >= 0) {
        msg->fds[msg->n_fds++] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    g_assert_true(ff_vhost_session_from_qemu(w->session, msg));
}

static void answer(World *w, uint32_t request, uint64_t value)
{
    g_assert_true(ff_vhost_session_from_backend(
        w->session, ff_vhost_message_new(request, FF_VHOST_REPLY, &value, sizeof(value))));
}

static void say_u64(World *w, uint32_t request, uint64_t value, int fd)
{
    say(w, request, &value, sizeof(value), fd);
}

/* A device with one ring, that runs. */
static World *world_new(void)
{
    World *w = g_new0(World, 1);
    const struct {
        FfVhostMemory memory;
        FfVhostRegion region;
    } table = {{1, 0}, {0x100000000, MEMORY, USER, 0}};
    const FfVhostVringState num = {0, 128}, base = {0, 77};
    const FfVhostVringAddr addr = {0, 0, USER + 0x1000, USER + 0x3000, USER + 0x2000, 0x100003000};

    w->session = ff_vhost_session_new(FF_VHOST_DISK, &ops, w);
    w->memory = memfd_create("memory", MFD_CLOEXEC);
    w->log = memfd_create("log", MFD_CLOEXEC);
    w->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->given = g_array_new(FALSE, FALSE, sizeof(int));
    g_assert_cmpint(ftruncate(w->memory, MEMORY), ==, 0);
    g_assert_cmpint(ftruncate(w->log, MEMORY), ==, 0);
    say(w, FF_VHOST_GET_FEATURES, NULL, 0, -1);
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    say(w, FF_VHOST_GET_PROTOCOL_FEATURES, NULL, 0, -1);
    answer(w, FF_VHOST_GET_PROTOCOL_FEATURES, PROTOCOL);
    say_u64(w, FF_VHOST_SET_PROTOCOL_FEATURES, PROTOCOL, -1);
    say_u64(w, FF_VHOST_SET_FEATURES, FEATURES & ~FF_VHOST_F_LOG_ALL, -1);
    say(w, FF_VHOST_SET_MEM_TABLE, &table, sizeof(table), w->memory);
    say(w, FF_VHOST_SET_VRING_NUM, &num, sizeof(num), -1);
    say(w, FF_VHOST_SET_VRING_BASE, &base, sizeof(base), -1);
    say(w, FF_VHOST_SET_VRING_ADDR, &addr, sizeof(addr), -1);
    say_u64(w, FF_VHOST_SET_VRING_KICK, 0, w->kick);
    return w;
}

static void world_free(World *w)
{
    ff_vhost_session_free(w->session);
    for (guint i = 0; i < w->given->len; i++) {
        close(g_array_index(w->given, int, i));
    }
    g_array_unref(w->given);
    close(w->memory);
    close(w->kick);
    close(w->log);
    g_free(w);
}

/* ---- when it rests --------------------------------------------------------------------------- */

static void test_rests(void)
{
    World *w = world_new();

    g_assert_true(ff_vhost_session_rests(w->session));
    /* An answer to QEMU. */
    say(w, FF_VHOST_GET_FEATURES, NULL, 0, -1);
    g_assert_false(ff_vhost_session_rests(w->session));
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    g_assert_true(ff_vhost_session_rests(w->session));
    /* A log, while it is begun, while it is there, and until the back-end knows of its end. */
    ff_vhost_session_log_begin(w->session, w->log, MEMORY);
    g_assert_false(ff_vhost_session_rests(w->session));
    say(w, FF_VHOST_GET_FEATURES, NULL, 0, -1); /* waits */
    answer(w, FF_VHOST_SET_LOG_BASE, 0);
    g_assert_false(ff_vhost_session_rests(w->session));
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    g_assert_cmpstr(ff_vhost_session_lost(w->session), ==, NULL);
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    g_assert_false(ff_vhost_session_rests(w->session));
    ff_vhost_session_log_end(w->session);
    g_assert_true(ff_vhost_session_rests(w->session));
    world_free(w);
}

/* What is held back. */
static void test_held(void)
{
    World *w = g_new0(World, 1);

    w->given = g_array_new(FALSE, FALSE, sizeof(int));
    w->memory = w->kick = w->log = -1;
    w->session = ff_vhost_session_new(FF_VHOST_DISK, &ops, w);
    g_assert_cmpint(ff_vhost_session_hold(w->session, true), ==, 0);
    g_assert_false(ff_vhost_session_rests(w->session));
    say_u64(w, FF_VHOST_SET_FEATURES, FEATURES, -1);
    g_assert_cmpuint(w->to_backend, ==, 0);
    g_assert_cmpint(ff_vhost_session_hold(w->session, false), ==, 0);
    g_assert_cmpuint(w->to_backend, ==, 1);
    g_assert_true(ff_vhost_session_rests(w->session));
    ff_vhost_session_free(w->session);
    g_array_unref(w->given);
    g_free(w);
}

/* A ring that is not empty, and is to be stopped. */
static void test_stopping(void)
{
    const FfVhostVringState ring = {0, 0};
    const uint16_t one = 78;
    World *w = world_new();

    g_assert_cmpint(pwrite(w->memory, &one, sizeof(one), 0x2002), ==, sizeof(one));
    say(w, FF_VHOST_GET_VRING_BASE, &ring, sizeof(ring), -1);
    g_assert_false(ff_vhost_session_rests(w->session));
    g_assert_cmpint(pwrite(w->memory, &one, sizeof(one), 0x3002), ==, sizeof(one));
    g_assert_true(ff_vhost_session_again(w->session));
    g_assert_false(ff_vhost_session_rests(w->session));
    answer(w, FF_VHOST_GET_VRING_BASE, (uint64_t)78 << 32);
    g_assert_true(ff_vhost_session_rests(w->session));
    world_free(w);
}

/* ---- the next one ---------------------------------------------------------------------------- */

static int give(int fd, void *opaque)
{
    World *w = opaque;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    g_assert_cmpint(copy, >=, 0);
    g_array_append_val(w->given, copy);
    return copy;
}

/* W goes on as the next process would. */
static void hand_on(World *w)
{
    FfVhostRest rest = ff_vhost_session_describe(w->session);
    g_autoptr(JsonObject) o = ff_vhost_rest_write(&rest, give, w);
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), o);
    g_autofree char *text = json_to_string(node, FALSE);
    g_autoptr(JsonNode) again = json_from_string(text, NULL);
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

    FfVhostRest *next = ff_vhost_rest_read(json_node_get_object(again), fds);
    g_assert_nonnull(next);
    g_assert_cmpuint(fds->len, ==, w->given->len);
    ff_vhost_session_free(w->session);
    g_array_set_size(w->given, 0); /* the session's now */
    w->session = ff_vhost_session_resume(FF_VHOST_DISK, next, &ops, w);
    g_free(next);
}

/* Memory, rings, features: its log covers what the one before knew, a ring that is not empty is
 * waited for, and one that was stopped is in the log. */
static void test_next(void)
{
    const FfVhostVringState ring = {0, 0};
    const uint16_t one = 78;
    const int *fds;
    unsigned n;
    World *w = world_new();

    hand_on(w);
    g_assert_true(ff_vhost_session_rests(w->session));
    g_assert_true(ff_vhost_session_runs(w->session));
    const FfVhostRegion *region = ff_vhost_session_regions(w->session, &n, &fds);
    g_assert_cmpuint(n, ==, 1);
    g_assert_cmphex(region->guest, ==, 0x100000000);
    g_assert_cmphex(region->user, ==, USER);
    g_assert_cmpuint(region->size, ==, MEMORY);
    g_assert_cmpstr(ff_vhost_session_unloggable(w->session), ==, NULL);
    ff_vhost_session_log_begin(w->session, w->log, MEMORY);
    answer(w, FF_VHOST_SET_LOG_BASE, 0);
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    w->last = 0;
    g_assert_cmpint(pwrite(w->memory, &one, sizeof(one), 0x2002), ==, sizeof(one));
    say(w, FF_VHOST_GET_VRING_BASE, &ring, sizeof(ring), -1);
    g_assert_cmpuint(w->last, ==, 0); /* it waits */
    g_assert_cmpint(pwrite(w->memory, &one, sizeof(one), 0x3002), ==, sizeof(one));
    g_assert_true(ff_vhost_session_again(w->session));
    g_assert_cmpuint(w->last, ==, FF_VHOST_GET_VRING_BASE);
    answer(w, FF_VHOST_GET_VRING_BASE, (uint64_t)78 << 32);
    uint8_t bits = 0; /* of the used ring's page */
    g_assert_cmpint(pread(w->log, &bits, 1, (off_t)(0x100003000 / 4096 / 8)), ==, 1);
    g_assert_cmphex(bits & 1 << 3, ==, 1 << 3);
    g_assert_cmpstr(ff_vhost_session_lost(w->session), ==, NULL);
    world_free(w);
}

/* A ring that was stopped and could not be waited for: it may still be written to. */
static void test_unfinished(void)
{
    const FfVhostVringState ring = {0, 0};
    World *w = world_new();

    hand_on(w);
    g_assert_cmpint(ftruncate(w->memory, 0), ==, 0);
    say(w, FF_VHOST_GET_VRING_BASE, &ring, sizeof(ring), -1);
    answer(w, FF_VHOST_GET_VRING_BASE, 0);
    g_assert_true(ff_vhost_session_is_unfinished(w->session));
    hand_on(w);
    g_assert_true(ff_vhost_session_is_unfinished(w->session));
    world_free(w);
}

/* One that cannot be logged stays so; and once more, with a ring that was stopped. */
static void test_odd(void)
{
    const FfVhostVringState ring = {0, 0};
    World *w = world_new();

    say(w, FF_VHOST_LAST_KNOWN + 1, NULL, 0, -1);
    say(w, FF_VHOST_GET_VRING_BASE, &ring, sizeof(ring), -1);
    answer(w, FF_VHOST_GET_VRING_BASE, 0);
    hand_on(w);
    hand_on(w);
    g_assert_nonnull(strstr(ff_vhost_session_unloggable(w->session), "does not know"));
    g_assert_false(ff_vhost_session_runs(w->session));
    world_free(w);
}

/* Of another farfault, or broken. */
static void test_strange(void)
{
    static const char *const texts[] = {
        "{}",
        "{\"regions\": []}",
        "{\"regions\": [1], \"rings\": []}",
        "{\"regions\": [{\"guest\": 0, \"size\": 1}], \"rings\": []}",
        "{\"regions\": [], \"rings\": [{\"index\": 256}]}",
        "{\"regions\": [], \"rings\": [{\"index\": -1}]}",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(JsonNode) node = json_from_string(texts[i], NULL);
        g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

        g_assert_null(ff_vhost_rest_read(json_node_get_object(node), fds));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost-rest/rests", test_rests);
    g_test_add_func("/vhost-rest/held", test_held);
    g_test_add_func("/vhost-rest/stopping", test_stopping);
    g_test_add_func("/vhost-rest/next", test_next);
    g_test_add_func("/vhost-rest/odd", test_odd);
    g_test_add_func("/vhost-rest/unfinished", test_unfinished);
    g_test_add_func("/vhost-rest/strange", test_strange);
    return g_test_run();
}
