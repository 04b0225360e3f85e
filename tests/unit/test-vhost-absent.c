/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user connection whose back-end is another QEMU's still: what is known of that, what QEMU
 * is answered meanwhile, and what the back-end is told when it is there. Both sides are played
 * here.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/relay/vhost-rest.h"

#define MEMORY (1u << 20)
#define USER 0x7f0000000000ull
#define FEATURES (1ull << 63 | 1ull << 32 | FF_VHOST_F_LOG_ALL | FF_VHOST_F_PROTOCOL_FEATURES)
#define PROTOCOL (FF_VHOST_PROTOCOL_F_LOG_SHMFD | FF_VHOST_PROTOCOL_F_REPLY_ACK)
#define QUEUES 3
#define SLOTS 32
#define CONFIG 60 /* bytes */

typedef struct {
    FfVhostSession *session;
    GString *told;  /* requests that the back-end was told, " N" each */
    GString *heard; /* answers that QEMU has got, " REQUEST:VALUE" each */
    uint8_t config[FF_VHOST_MAX_CONFIG];
    uint32_t config_size; /* of the last answer that was one */
} World;

static void to_backend(FfVhostMessage *msg, void *opaque)
{
    g_assert_cmpuint(msg->header.flags & FF_VHOST_NEED_REPLY, ==, 0);
    g_string_append_printf(((World *)opaque)->told, " %u", msg->header.request);
    ff_vhost_message_free(msg);
}

static void to_qemu(FfVhostMessage *msg, void *opaque)
{
    World *w = opaque;

    g_assert_cmpuint(msg->header.flags & FF_VHOST_REPLY, !=, 0);
    if (msg->header.request == FF_VHOST_GET_CONFIG) {
        w->config_size = msg->header.size - sizeof(FfVhostConfig);
        memcpy(w->config, msg->payload + sizeof(FfVhostConfig), w->config_size);
    }
    g_string_append_printf(w->heard, " %u:%" G_GINT64_MODIFIER "x", msg->header.request,
                           ff_vhost_u64(msg));
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

static FfVhostMessage *message(uint32_t request, uint32_t flags, const void *payload, uint32_t size)
{
    return ff_vhost_message_new(request, flags, payload, size);
}

static void say(World *w, uint32_t request, const void *payload, uint32_t size)
{
    g_assert_true(ff_vhost_session_from_qemu(w->session, message(request, 0, payload, size)));
}

static void ask(World *w, uint32_t request)
{
    say(w, request, NULL, 0);
}

static void ask_config(World *w, uint32_t offset, uint32_t size)
{
    uint8_t payload[sizeof(FfVhostConfig) + FF_VHOST_MAX_CONFIG] = {0};
    const FfVhostConfig head = {.offset = offset, .size = size};

    memcpy(payload, &head, sizeof(head));
    say(w, FF_VHOST_GET_CONFIG, payload, sizeof(head) + size);
}

static bool try_answer(World *w, uint32_t request, uint64_t value)
{
    return ff_vhost_session_from_backend(w->session,
                                         message(request, FF_VHOST_REPLY, &value, sizeof(value)));
}

static void answer(World *w, uint32_t request, uint64_t value)
{
    g_assert_true(try_answer(w, request, value));
}

static void answer_config(World *w)
{
    uint8_t payload[sizeof(FfVhostConfig) + CONFIG];
    const FfVhostConfig head = {.size = CONFIG};

    memcpy(payload, &head, sizeof(head));
    for (unsigned i = 0; i < CONFIG; i++) {
        payload[sizeof(head) + i] = (uint8_t)(i * 7 + 1);
    }
    g_assert_true(ff_vhost_session_from_backend(
        w->session, message(FF_VHOST_GET_CONFIG, FF_VHOST_REPLY, payload, sizeof(payload))));
}

static void assert_told(World *w, const char *requests)
{
    g_assert_cmpstr(w->told->str, ==, requests);
    g_string_truncate(w->told, 0);
}

static void assert_heard(World *w, const char *answers)
{
    g_assert_cmpstr(w->heard->str, ==, answers);
    g_string_truncate(w->heard, 0);
}

static World *world_new(void)
{
    World *w = g_new0(World, 1);

    w->told = g_string_new(NULL);
    w->heard = g_string_new(NULL);
    return w;
}

static void world_free(World *w)
{
    ff_vhost_session_free(w->session);
    g_string_free(w->told, TRUE);
    g_string_free(w->heard, TRUE);
    g_free(w);
}

/* As the QEMU that has the back-end has come to know it, and in words of JSON. */
static FfVhostKnown *learn(void)
{
    World *w = world_new();
    FfVhostKnown known;

    w->session = ff_vhost_session_new(FF_VHOST_DISK, &ops, w);
    g_assert_false(ff_vhost_session_known(w->session, &known));
    ask(w, FF_VHOST_GET_FEATURES);
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES);
    answer(w, FF_VHOST_GET_PROTOCOL_FEATURES, PROTOCOL);
    ask(w, FF_VHOST_GET_QUEUE_NUM);
    answer(w, FF_VHOST_GET_QUEUE_NUM, QUEUES);
    ask(w, FF_VHOST_GET_MAX_MEM_SLOTS);
    answer(w, FF_VHOST_GET_MAX_MEM_SLOTS, SLOTS);
    ask_config(w, 0, CONFIG);
    answer_config(w);
    g_assert_true(ff_vhost_session_known(w->session, &known));
    world_free(w);
    g_autoptr(JsonObject) o = ff_vhost_known_write(&known);
    FfVhostKnown *read = ff_vhost_known_read(o);
    g_assert_nonnull(read);
    g_assert_cmpmem(read, sizeof(*read), &known, sizeof(known));
    json_object_remove_member(o, "offered");
    g_assert_null(ff_vhost_known_read(o));
    return read;
}

/* QEMU makes its device. */
static World *absent_new(void)
{
    World *w = world_new();
    g_autofree FfVhostKnown *known = learn();
    const uint64_t protocol = PROTOCOL;

    w->session = ff_vhost_session_new_absent(FF_VHOST_DISK, known, &ops, w);
    g_assert_true(ff_vhost_session_is_absent(w->session));
    ask(w, FF_VHOST_GET_FEATURES);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES);
    say(w, FF_VHOST_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
    ask(w, FF_VHOST_GET_QUEUE_NUM);
    ask(w, FF_VHOST_GET_MAX_MEM_SLOTS);
    ask(w, FF_VHOST_SET_OWNER);
    g_autofree char *answers =
        g_strdup_printf(" 1:%" G_GINT64_MODIFIER "x 15:%" G_GINT64_MODIFIER "x 17:%x 36:%x",
                        (uint64_t)FEATURES, (uint64_t)PROTOCOL, QUEUES, SLOTS);
    assert_heard(w, answers);
    assert_told(w, "");
    return w;
}

static void begin_ring(World *w, int memory)
{
    const struct {
        FfVhostMemory memory;
        FfVhostRegion region;
    } table = {{1, 0}, {0x100000000, MEMORY, USER, 0}};
    const uint64_t features = FEATURES & ~FF_VHOST_F_LOG_ALL, kick = FF_VHOST_VRING_NO_FD;
    FfVhostMessage *msg =
        message(FF_VHOST_SET_MEM_TABLE, FF_VHOST_NEED_REPLY, &table, sizeof(table));

    say(w, FF_VHOST_SET_FEATURES, &features, sizeof(features));
    msg->fds[msg->n_fds++] = fcntl(memory, F_DUPFD_CLOEXEC, 0);
    g_assert_true(ff_vhost_session_from_qemu(w->session, msg));
    assert_heard(w, " 5:0"); /* as if it had it */
    say(w, FF_VHOST_SET_VRING_KICK, &kick, sizeof(kick));
}

/* It is there, and can do no less. What belongs to a feature of the protocol it is asked when it
 * has been told that QEMU uses it. */
static void arrive(World *w, uint64_t features)
{
    ff_vhost_session_arrived(w->session);
    assert_told(w, " 1 15");
    answer(w, FF_VHOST_GET_FEATURES, features);
    assert_told(w, "");
    answer(w, FF_VHOST_GET_PROTOCOL_FEATURES, PROTOCOL);
    assert_told(w, " 16 3 17 36");
    answer(w, FF_VHOST_GET_QUEUE_NUM, QUEUES + 1);
    g_assert_true(ff_vhost_session_is_absent(w->session));
    assert_told(w, "");
    answer(w, FF_VHOST_GET_MAX_MEM_SLOTS, SLOTS);
    g_assert_false(ff_vhost_session_is_absent(w->session));
}

/* ---- without one ----------------------------------------------------------------------------- */

static void test_answers(void)
{
    World *w = absent_new();
    const FfVhostVringState base = {1, 77}, stop = {1, 0};
    const uint64_t status = 5;

    ask_config(w, 0, CONFIG);
    g_assert_cmpuint(w->config_size, ==, CONFIG);
    g_assert_cmpuint(w->config[CONFIG - 1], ==, (uint8_t)((CONFIG - 1) * 7 + 1));
    ask_config(w, 8, 4);
    g_assert_cmpuint(w->config_size, ==, 4);
    g_assert_cmpuint(w->config[0], ==, 8 * 7 + 1);
    g_string_truncate(w->heard, 0);
    ask(w, FF_VHOST_GET_STATUS);
    say(w, FF_VHOST_SET_STATUS, &status, sizeof(status));
    ask(w, FF_VHOST_GET_STATUS);
    say(w, FF_VHOST_SET_VRING_BASE, &base, sizeof(base));
    say(w, FF_VHOST_GET_VRING_BASE, &stop, sizeof(stop));
    assert_heard(w, " 40:0 40:5 11:4d00000001");
    assert_told(w, "");
    g_assert_cmpuint(ff_vhost_session_waiting(w->session), ==, 0);
    g_assert_false(ff_vhost_session_rests(w->session));
    g_assert_nonnull(ff_vhost_session_unloggable(w->session));
    FfVhostKnown known;
    g_assert_false(ff_vhost_session_known(w->session, &known));
    world_free(w);
}

/* What nobody has asked before waits, and all behind it. */
static void test_unknown(void)
{
    World *w = absent_new();

    ask_config(w, 0, CONFIG + 1);
    ask(w, FF_VHOST_GET_FEATURES);
    assert_heard(w, "");
    g_assert_cmpuint(ff_vhost_session_waiting(w->session), ==, 2);
    arrive(w, FEATURES);
    assert_told(w, " 24 1");
    g_assert_cmpuint(ff_vhost_session_waiting(w->session), ==, 0);
    world_free(w);
}

/* ---- there it is ----------------------------------------------------------------------------- */

/* HOLDS: memory is not to be given away yet, for another reason. */
static void test_arrives(gconstpointer holds)
{
    World *w = absent_new();
    int memory = memfd_create("memory", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(memory, MEMORY), ==, 0);
    ff_vhost_session_hold(w->session, GPOINTER_TO_INT(holds));
    begin_ring(w, memory);
    assert_told(w, "");
    arrive(w, FEATURES | 1);
    assert_told(w, GPOINTER_TO_INT(holds) ? "" : " 2 5 12");
    if (GPOINTER_TO_INT(holds)) {
        ff_vhost_session_hold(w->session, false);
        assert_told(w, " 2 5 12");
    }
    g_assert_true(ff_vhost_session_runs(w->session));
    g_assert_true(ff_vhost_session_rests(w->session));
    g_assert_null(ff_vhost_session_unloggable(w->session));
    close(memory);
    world_free(w);
}

/* It cannot do what QEMU was told it can. */
static void test_other(void)
{
    static const struct {
        uint32_t request;
        uint64_t right, wrong;
    } rows[] = {{FF_VHOST_GET_FEATURES, FEATURES, FEATURES & ~(1ull << 32)},
                {FF_VHOST_GET_PROTOCOL_FEATURES, PROTOCOL, 0},
                {FF_VHOST_GET_QUEUE_NUM, QUEUES, QUEUES - 1},
                {FF_VHOST_GET_MAX_MEM_SLOTS, SLOTS, SLOTS - 1}};

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World *w = absent_new();

        ff_vhost_session_arrived(w->session);
        for (unsigned k = 0; k < i; k++) {
            answer(w, rows[k].request, rows[k].right);
        }
        g_assert_false(try_answer(w, rows[i].request, rows[i].wrong));
        world_free(w);
    }
}

/* A back-end that is connected, and answers nothing for long: QEMU is answered all the same. */
static void test_silent(void)
{
    World *w = absent_new();
    int memory = memfd_create("memory", MFD_CLOEXEC);
    const FfVhostVringState stop = {0, 0};

    g_assert_cmpint(ftruncate(memory, MEMORY), ==, 0);
    ff_vhost_session_arrived(w->session);
    assert_told(w, " 1 15");
    begin_ring(w, memory);
    say(w, FF_VHOST_GET_VRING_BASE, &stop, sizeof(stop));
    assert_heard(w, " 11:0");
    g_assert_cmpuint(ff_vhost_session_waiting(w->session), ==, 0);
    assert_told(w, "");
    close(memory);
    world_free(w);
}

/* A log of QEMU's own, for which nobody is there. */
static void test_log(void)
{
    World *w = absent_new();
    const FfVhostLog log = {4096, 0};

    g_assert_false(ff_vhost_session_from_qemu(
        w->session, message(FF_VHOST_SET_LOG_BASE, 0, &log, sizeof(log))));
    world_free(w);
}

/* What QEMU sets is what it will read; what it asks again does not make less known. */
static void test_config(void)
{
    World *w = world_new();
    g_autofree FfVhostKnown *known = learn();
    const struct {
        FfVhostConfig head;
        uint8_t byte;
    } __attribute__((packed)) set = {{32, 1, 0}, 99}, early = {{CONFIG + 1, 1, 0}, 99};
    const struct {
        FfVhostConfig head;
        uint8_t bytes[4];
    } part = {{0, 4, 0}, {5, 6, 7, 8}};
    FfVhostKnown now;

    w->session = ff_vhost_session_new(FF_VHOST_DISK, &ops, w);
    ff_vhost_session_remember(w->session, known);
    ask(w, FF_VHOST_GET_FEATURES);
    answer(w, FF_VHOST_GET_FEATURES, FEATURES);
    say(w, FF_VHOST_SET_CONFIG, &set, sizeof(set));
    say(w, FF_VHOST_SET_CONFIG, &early, sizeof(early));
    ask_config(w, 0, 4);
    g_assert_true(ff_vhost_session_from_backend(
        w->session, message(FF_VHOST_GET_CONFIG, FF_VHOST_REPLY, &part, sizeof(part))));
    g_assert_true(ff_vhost_session_known(w->session, &now));
    g_assert_cmpuint(now.config_size, ==, CONFIG);
    g_assert_cmpuint(now.config[0], ==, 5);
    g_assert_cmpuint(now.config[4], ==, 4 * 7 + 1);
    g_assert_cmpuint(now.config[32], ==, 99);
    world_free(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost-absent/answers", test_answers);
    g_test_add_func("/vhost-absent/unknown", test_unknown);
    g_test_add_data_func("/vhost-absent/arrives/at-once", GINT_TO_POINTER(false), test_arrives);
    g_test_add_data_func("/vhost-absent/arrives/held", GINT_TO_POINTER(true), test_arrives);
    g_test_add_func("/vhost-absent/other", test_other);
    g_test_add_func("/vhost-absent/silent", test_silent);
    g_test_add_func("/vhost-absent/log", test_log);
    g_test_add_func("/vhost-absent/config", test_config);
    return g_test_run();
}
