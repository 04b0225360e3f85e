/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay between QEMU and a vhost-user back-end, with sockets: the connections, and what an
 * engine asks about them. QEMU, the back-end and the engine are played here; the relay's main loop
 * is this program's, and the engine asks in a thread of its own.
 */
#include "guest/relay/backends.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/backends.h"
#include "contract/sharers.h"
#include "contract/succession.h"
#include "guest/launch/endpoint.h"
#include "guest/relay/conn.h"
#include "guest/relay/predecessor.h"
#include "guest/vhost/message.h"

#define MEMORY (1u << 20)
#define PROTOCOL (FF_VHOST_PROTOCOL_F_LOG_SHMFD | FF_VHOST_PROTOCOL_F_REPLY_ACK)

typedef struct {
    FfRelay relay;
    FfRelayPlan plan;
    FfRelayMonitor monitor;
    FfPrivateSocket private;
    int qemu, backend; /* the other ends of what the relay has */
    int engine;
    int faults; /* the engine's end of the other socket */
} World;

static void turn(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static void send_message(int fd, uint32_t request, uint32_t flags, const void *payload,
                         uint32_t size, int sent)
{
    g_autoptr(FfVhostMessage) msg = ff_vhost_message_new(request, flags, payload, size);
    uint8_t bytes[sizeof(msg->header) + 64];

    memcpy(bytes, &msg->header, sizeof(msg->header));
    memcpy(bytes + sizeof(msg->header), msg->payload, size);
    g_assert_cmpint(ff_rights_send(fd, bytes, sizeof(msg->header) + size, &sent, sent >= 0), ==,
                    sizeof(msg->header) + size);
    turn();
}

/* The next message at FD. The relay has written it already. */
static uint64_t expect(int fd, uint32_t request, unsigned n_fds)
{
    FfVhostHeader header;
    uint64_t value[8] = {0};
    FfRights rights;

    g_assert_cmpint(ff_rights_receive(fd, &header, sizeof(header), &rights), ==, sizeof(header));
    g_assert_cmpuint(header.request, ==, request);
    g_assert_cmpuint(rights.n, ==, n_fds);
    for (unsigned i = 0; i < rights.n; i++) {
        close(rights.fd[i]);
    }
    if (header.size) {
        g_assert_cmpint(recv(fd, value, header.size, MSG_DONTWAIT), ==, header.size);
    }
    return value[0];
}

static bool is_silent(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0;
}

static void ask(const World *w, uint32_t request, uint64_t value)
{
    send_message(w->qemu, request, 0, NULL, 0, -1);
    expect(w->backend, request, 0);
    send_message(w->backend, request, FF_VHOST_REPLY, &value, sizeof(value), -1);
    g_assert_cmphex(expect(w->qemu, request, 0), ==, value);
}

/* ---- the engine ------------------------------------------------------------------------------ */

typedef struct {
    World *w;
    FfBackendsOp op;
    uint32_t flag;
    bool ok;
    int fd;
    FfBackendsAnswer answer;
    GError *error;
    gint done; /* atomic: main loop */
} Question;

static gpointer ask_relay(gpointer opaque)
{
    Question *q = opaque;

    q->ok = ff_backends_ask(q->w->engine, q->op, q->flag, q->fd, &q->answer, &q->error);
    g_atomic_int_set(&q->done, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

/* PLAY: what the back-end does meanwhile; can be NULL. NULL, or why not (g_free). */
static char *engine_asks(Question *q, void (*play)(World *))
{
    GThread *thread = g_thread_new("engine", ask_relay, q);
    char *why = NULL;

    while (!g_atomic_int_get(&q->done)) {
        g_main_context_iteration(NULL, TRUE);
        if (play && !is_silent(q->w->backend)) {
            play(q->w);
            play = NULL;
        }
    }
    g_thread_join(thread);
    if (!q->ok) {
        why = g_strdup(q->error->message);
    }
    g_clear_error(&q->error);
    return why;
}

static char *engine_says(World *w, FfBackendsOp op, bool flag)
{
    Question q = {.w = w, .op = op, .flag = flag, .fd = -1};

    return engine_asks(&q, NULL);
}

static void log_begins(World *w)
{
    const uint64_t zero = 0;

    expect(w->backend, FF_VHOST_SET_LOG_BASE, 1);
    g_assert_cmphex(expect(w->backend, FF_VHOST_SET_FEATURES, 0), ==, FF_VHOST_F_LOG_ALL);
    expect(w->backend, FF_VHOST_GET_FEATURES, 0);
    send_message(w->backend, FF_VHOST_SET_LOG_BASE, FF_VHOST_REPLY, &zero, sizeof(zero), -1);
    send_message(w->backend, FF_VHOST_GET_FEATURES, FF_VHOST_REPLY, &zero, sizeof(zero), -1);
}

/* ---- the world ------------------------------------------------------------------------------- */

/* QEMU's listening socket, and a back-end that has come. */
static World *world_prepare(void)
{
    World *w = g_new0(World, 1);
    int pair[2];

    g_assert_true(ff_private_sockets_new(&w->private, 1, -1, -1, NULL));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    w->monitor = (FfRelayMonitor){.id = (char *)"disk",
                                  .qemu = w->private.path_fd,
                                  .kind = FF_RELAY_CONNECTED,
                                  .fd = pair[0],
                                  .backend = true,
                                  .followed = true};
    w->backend = pair[1];
    w->plan.stderr_fd = -1;
    w->plan.backends = g_ptr_array_new();
    g_ptr_array_add(w->plan.backends, &w->monitor);
    w->relay.plan = &w->plan;
    w->relay.state_fd = ff_state_create(FF_POLICY_AUTO);
    w->relay.state = ff_state_map(w->relay.state_fd, NULL);
    return w;
}

/* To a new engine; the one before has closed its ends. */
static void offer(World *w)
{
    FfBackendsEnds ends;

    g_assert_cmpint(ff_backends_offer(&w->relay, &ends), ==, 0);
    w->engine = ends.asks;
    w->faults = ends.faults;
}

static void world_start(World *w)
{
    ff_backends_start(&w->relay);
    w->qemu = accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(w->qemu, >=, 0);
    offer(w);
    g_assert_cmpint(w->engine, >=, 0);
}

static World *world_new(void)
{
    World *w = world_prepare();

    world_start(w);
    return w;
}

static void shake_hands(World *w)
{
    const uint64_t protocol = PROTOCOL;

    ask(w, FF_VHOST_GET_FEATURES, FF_VHOST_F_LOG_ALL);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES, protocol);
    send_message(w->qemu, FF_VHOST_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), -1);
    g_assert_cmphex(expect(w->backend, FF_VHOST_SET_PROTOCOL_FEATURES, 0), ==, protocol);
}

static void give_memory(World *w)
{
    const struct {
        FfVhostMemory memory;
        FfVhostRegion region;
    } table = {{1, 0}, {0, MEMORY, 0x7f0000000000, 0}};
    const uint64_t features = 0;
    int memory = memfd_create("memory", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(memory, MEMORY), ==, 0);
    send_message(w->qemu, FF_VHOST_SET_FEATURES, 0, &features, sizeof(features), -1);
    send_message(w->qemu, FF_VHOST_SET_MEM_TABLE, 0, &table, sizeof(table), memory);
    close(memory);
}

static void world_free(World *w)
{
    ff_backends_end(&w->relay);
    close(w->qemu);
    close(w->backend);
    close(w->engine);
    close(w->faults);
    close(w->private.listen_fd);
    close(w->private.path_fd);
    close(w->relay.state_fd);
    g_ptr_array_unref(w->plan.backends);
    g_free(w);
}

/* ---- the cases ------------------------------------------------------------------------------- */

static void test_log(void)
{
    World *w = world_new();
    Question q = {.w = w, .op = FF_BACKENDS_PROBE, .fd = -1};

    g_autofree char *early = engine_says(w, FF_BACKENDS_PROBE, false);
    g_assert_nonnull(early);
    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    g_assert_null(engine_asks(&q, NULL));
    g_assert_cmpstr(q.answer.ids, ==, "disk\n");
    g_assert_cmpuint(q.answer.n_regions, ==, 1);
    g_assert_cmpuint(q.answer.regions[0].size, ==, MEMORY);
    g_assert_cmpuint(q.answer.regions[0].ino, !=, 0);
    /* Too short a log is none. */
    int log = memfd_create("log", MFD_CLOEXEC);
    Question begin = {.w = w, .op = FF_BACKENDS_LOG, .fd = log};
    g_autofree char *small = engine_asks(&begin, NULL);
    g_assert_nonnull(small);
    g_assert_cmpint(ftruncate(log, q.answer.log_bytes), ==, 0);
    begin = (Question){.w = w, .op = FF_BACKENDS_LOG, .fd = log};
    g_assert_null(engine_asks(&begin, log_begins));
    g_assert_null(engine_says(w, FF_BACKENDS_LOST, false));
    /* A back-end that goes takes what it did not log along. */
    close(w->backend);
    turn();
    g_autofree char *lost = engine_says(w, FF_BACKENDS_LOST, false);
    g_assert_nonnull(lost);
    g_assert_cmpint(read(w->qemu, &(char){0}, 1), ==, 0);
    w->backend = dup(w->qemu);
    close(log);
    world_free(w);
}

/* QEMU has stopped a guest, but not the ring of its disk: nobody knows what the disk still writes.
 */
static void test_log_runs(void)
{
    World *w = world_new();
    const uint64_t ring = 0;
    const FfVhostVringState state = {0, 0};
    int log = memfd_create("log", MFD_CLOEXEC);
    Question begin = {.w = w, .op = FF_BACKENDS_LOG, .fd = log};

    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    send_message(w->qemu, FF_VHOST_SET_VRING_KICK, 0, &ring, sizeof(ring), log);
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    g_assert_cmpint(ftruncate(log, 4096), ==, 0);
    g_assert_null(engine_asks(&begin, log_begins));
    g_assert_null(engine_says(w, FF_BACKENDS_LOST, false));
    g_autofree char *runs = engine_says(w, FF_BACKENDS_LOST, true);
    g_assert_nonnull(runs);
    g_assert_nonnull(strstr(runs, "'disk': QEMU has not stopped it"));
    send_message(w->qemu, FF_VHOST_GET_VRING_BASE, 0, &state, sizeof(state), -1);
    expect(w->backend, FF_VHOST_GET_VRING_BASE, 0);
    send_message(w->backend, FF_VHOST_GET_VRING_BASE, FF_VHOST_REPLY, &state, sizeof(state), -1);
    expect(w->qemu, FF_VHOST_GET_VRING_BASE, 0);
    g_assert_null(engine_says(w, FF_BACKENDS_LOST, true));
    close(log);
    world_free(w);
}

/* The memory of a guest that is still coming is no back-end's. */
static void test_held(void)
{
    World *w = world_new();

    shake_hands(w);
    g_assert_null(engine_says(w, FF_BACKENDS_PROBE, true));
    w->relay.state->role = FF_ROLE_DESTINATION;
    w->relay.state->phase = FF_PHASE_GRANTED;
    give_memory(w);
    g_assert_true(is_silent(w->backend));
    w->relay.state->phase = FF_PHASE_DONE;
    g_assert_null(engine_says(w, FF_BACKENDS_LOOK, false));
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    g_autofree char *has = engine_says(w, FF_BACKENDS_PROBE, true);
    g_assert_nonnull(has);
    world_free(w);
}

static void start_ring(World *w, int kick)
{
    const uint64_t ring = 0;

    send_message(w->qemu, FF_VHOST_SET_VRING_KICK, 0, &ring, sizeof(ring), kick);
}

static void park(World *w, FfPhase phase)
{
    w->relay.state->role = FF_ROLE_SOURCE;
    w->relay.state->phase = phase;
    ff_state_mark(w->relay.state, FF_MARK_PARKED);
}

/* From the instant of a snapshot until its memory is saved, whichever engine there is. */
static void test_parked(void)
{
    World *w = world_new();
    int kick = memfd_create("kick", MFD_CLOEXEC);

    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    park(w, FF_PHASE_STOPPED);
    start_ring(w, kick);
    g_assert_true(is_silent(w->backend));
    offer(w);
    g_assert_true(is_silent(w->backend));
    ff_state_unmark(w->relay.state, FF_MARK_PARKED);
    g_assert_null(engine_says(w, FF_BACKENDS_LOOK, false));
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    close(kick);
    world_free(w);
}

/* Nobody could save anything any more. */
static void test_parked_engine_dead(void)
{
    World *w = world_new();
    int kick = memfd_create("kick", MFD_CLOEXEC);

    shake_hands(w);
    park(w, FF_PHASE_SETUP);
    start_ring(w, kick);
    g_assert_true(is_silent(w->backend));
    ff_backends_engine_dead(&w->relay);
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    g_assert_false(ff_state_is_marked(w->relay.state, FF_MARK_PARKED));
    close(kick);
    world_free(w);
}

/* Nobody may say of it that it writes nothing: it has a ring that was not stopped. */
static void test_parked_runs(void)
{
    World *w = world_new();
    int kick = memfd_create("kick", MFD_CLOEXEC);
    Question begin = {.w = w, .op = FF_BACKENDS_LOG, .fd = kick};

    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    start_ring(w, kick);
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    g_assert_cmpint(ftruncate(kick, 4096), ==, 0); /* the log as well */
    g_assert_null(engine_asks(&begin, log_begins));
    park(w, FF_PHASE_STOPPED);
    g_assert_null(engine_says(w, FF_BACKENDS_LOOK, false));
    g_autofree char *runs = engine_says(w, FF_BACKENDS_LOST, true);
    g_assert_nonnull(runs);
    g_assert_nonnull(strstr(runs, "'disk': QEMU has not stopped it"));
    start_ring(w, kick); /* and it goes on */
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    close(kick);
    world_free(w);
}

static void log_not_acknowledged(World *w)
{
    const uint64_t zero = 0;

    expect(w->backend, FF_VHOST_SET_LOG_BASE, 1);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_GET_FEATURES, 0);
    send_message(w->backend, FF_VHOST_GET_FEATURES, FF_VHOST_REPLY, &zero, sizeof(zero), -1);
}

/* There is no log then, and nothing else changes. */
static void test_no_log(void)
{
    World *w = world_new();
    int log = memfd_create("log", MFD_CLOEXEC);
    Question begin = {.w = w, .op = FF_BACKENDS_LOG, .fd = log};

    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    g_assert_cmpint(ftruncate(log, 4096), ==, 0);
    g_autofree char *why = engine_asks(&begin, log_not_acknowledged);
    g_assert_nonnull(why);
    g_assert_nonnull(strstr(why, "acknowledge"));
    g_assert_cmphex(expect(w->backend, FF_VHOST_SET_FEATURES, 0), ==, 0);
    g_autofree char *none = engine_says(w, FF_BACKENDS_LOST, false);
    g_assert_nonnull(none);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    close(log);
    world_free(w);
}

/* Its log ends with it, and the next engine begins one of its own. */
static void test_engine_dies(void)
{
    World *w = world_new();
    int log = memfd_create("log", MFD_CLOEXEC);

    shake_hands(w);
    give_memory(w);
    expect(w->backend, FF_VHOST_SET_FEATURES, 0);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    g_assert_cmpint(ftruncate(log, 4096), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        Question begin = {.w = w, .op = FF_BACKENDS_LOG, .fd = log};

        g_assert_null(engine_asks(&begin, log_begins));
        g_assert_null(engine_says(w, FF_BACKENDS_LOST, false));
        close(w->engine);
        turn();
        g_assert_cmphex(expect(w->backend, FF_VHOST_SET_FEATURES, 0), ==, 0);
        offer(w);
        g_autofree char *none = engine_says(w, FF_BACKENDS_LOST, false);
        g_assert_nonnull(none);
    }
    close(log);
    world_free(w);
}

/* A QEMU that hangs has as many connections waiting as its socket takes. */
static void test_not_taken(void)
{
    World *w = world_prepare();
    g_autoptr(GArray) waiting = g_array_new(FALSE, FALSE, sizeof(int));
    int fd;

    while ((fd = ff_conn_to_qemu(w->private.path_fd)) >= 0) {
        g_array_append_val(waiting, fd);
    }
    ff_backends_start(&w->relay);
    for (guint i = 0; i < waiting->len; i++) {
        close(accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC));
        close(g_array_index(waiting, int, i));
    }
    g_assert_cmpint(fcntl(w->private.listen_fd, F_SETFL, O_NONBLOCK), ==, 0);
    while ((w->qemu = accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC)) < 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    offer(w);
    shake_hands(w);
    world_free(w);
}

/* A back-end that does not read is no reason to keep all that QEMU says, which a guest decides. */
static void test_not_read(void)
{
    World *w = world_new();
    const struct {
        FfVhostHeader header;
        uint64_t ring;
    } __attribute__((packed))
    call = {{FF_VHOST_SET_VRING_CALL, FF_VHOST_VERSION, 8}, FF_VHOST_VRING_NO_FD};
    size_t sent = 0, got = 0;
    uint8_t bytes[4096];

    for (; send(w->qemu, &call, sizeof(call), MSG_DONTWAIT) == sizeof(call); turn()) {
        sent += sizeof(call);
        g_assert_cmpuint(sent, <, 1 << 20);
    }
    while (got < sent) {
        ssize_t n = recv(w->backend, bytes, sizeof(bytes), MSG_DONTWAIT);

        if (n < 0) {
            g_main_context_iteration(NULL, TRUE);
        } else {
            got += n;
        }
    }
    g_assert_cmpuint(got, ==, sent);
    turn();
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    world_free(w);
}

static int listener_new(struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(*addr);

    /* The kernel finds a name for it. */
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    g_assert_cmpint(bind(fd, (struct sockaddr *)addr, sizeof(sa_family_t)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)addr, &len), ==, 0);
    return fd;
}

static int connect_to(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)addr, sizeof(sa_family_t) + 6) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Nobody is asked about it, and another guest may have its back-end. */
static void assert_removed(World *w)
{
    Question q = {.w = w, .op = FF_BACKENDS_PROBE, .fd = -1};

    g_assert_null(engine_asks(&q, NULL));
    g_assert_cmpstr(q.answer.ids, ==, "");
    w->qemu = dup(w->backend);
    w->private.listen_fd = dup(w->backend);
    world_free(w);
}

/* QEMU has removed the chardev: the relay, which listened there for its back-end, listens no
 * more. */
static void test_removed(void)
{
    World *w = world_prepare();
    struct sockaddr_un addr;

    close(w->monitor.fd);
    close(w->backend);
    w->monitor.kind = FF_RELAY_LISTEN;
    w->monitor.fd = listener_new(&addr);
    ff_backends_start(&w->relay);
    w->backend = connect_to(&addr);
    turn();
    w->qemu = accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(w->qemu, >=, 0);
    offer(w);
    shake_hands(w);
    close(w->private.listen_fd);
    close(w->qemu);
    turn();
    g_assert_cmpint(recv(w->backend, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
    g_assert_cmpint(connect_to(&addr), <, 0);
    assert_removed(w);
}

/* A back-end that listens for nobody: it connects to the relay. */
static World *world_that_listens(struct sockaddr_un *addr)
{
    World *w = world_prepare();

    close(w->monitor.fd);
    close(w->backend);
    w->monitor.kind = FF_RELAY_LISTEN;
    w->monitor.fd = listener_new(addr);
    ff_backends_start(&w->relay);
    return w;
}

/* The next one connects, and QEMU is offered it. */
static void come(World *w, const struct sockaddr_un *addr)
{
    w->backend = connect_to(addr);
    turn();
    w->qemu = accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(w->qemu, >=, 0);
}

static void go(World *w)
{
    close(w->backend);
    turn();
    g_assert_cmpint(recv(w->qemu, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
    close(w->qemu);
}

/* The guest is the next QEMU's, or may be: this one gets no back-end, whose rings it might begin.
 */
static void test_given_away(void)
{
    struct sockaddr_un addr;
    World *w = world_that_listens(&addr);
    struct pollfd pfd = {.fd = w->private.listen_fd, .events = POLLIN};

    come(w, &addr);
    offer(w);
    shake_hands(w);
    ff_state_mark(w->relay.state, FF_MARK_MOVED);
    go(w);
    for (unsigned i = 0; i < 2; i++) {
        int fd = connect_to(&addr);

        g_assert_cmpint(fd, >=, 0);
        turn();
        g_assert_cmpint(recv(fd, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
        close(fd);
        g_assert_cmpint(poll(&pfd, 1, 0), ==, 0);
    }
    ff_state_unmark(w->relay.state, FF_MARK_MOVED); /* it was taken back */
    come(w, &addr);
    shake_hands(w);
    world_free(w);
}

static char *ask_known(World *w, uint32_t flag, char **json)
{
    Question q = {.w = w, .op = FF_BACKENDS_KNOWN, .flag = flag, .fd = -1};
    char *why = engine_asks(&q, NULL);

    *json = g_strdup(q.answer.ids);
    return why;
}

static char *known(World *w, char **json)
{
    return ask_known(w, FF_BACKENDS_LENT, json);
}

static char *whether_it_stands(World *w)
{
    return engine_says(w, FF_BACKENDS_STAND, true);
}

static void expect_why(char *why, const char *part)
{
    g_autofree char *own = why;

    g_assert_nonnull(own);
    g_assert_nonnull(strstr(own, part));
}

/* What is lent to the next QEMU is known also of a back-end that has come again, of which QEMU asks
 * some of it no more; and what has changed since it was lent is seen. */
static void test_lent(void)
{
    struct sockaddr_un addr;
    World *w = world_that_listens(&addr);
    const struct {
        FfVhostConfig head;
        uint8_t bytes[4];
    } config = {{0, 4, 0}, {1, 2, 3, 4}}, set = {{0, 4, 0}, {1, 2, 3, 5}};
    g_autofree char *first = NULL, *second = NULL, *third = NULL, *none = NULL;

    come(w, &addr);
    offer(w);
    expect_why(known(w, &none), "is not known");
    shake_hands(w);
    g_free(g_steal_pointer(&none));
    expect_why(known(w, &none), "before farfault attach");
    send_message(w->qemu, FF_VHOST_GET_CONFIG, 0, &config, sizeof(config), -1);
    expect(w->backend, FF_VHOST_GET_CONFIG, 0);
    send_message(w->backend, FF_VHOST_GET_CONFIG, FF_VHOST_REPLY, &config, sizeof(config), -1);
    expect(w->qemu, FF_VHOST_GET_CONFIG, 0);
    g_assert_null(known(w, &first));
    g_assert_nonnull(strstr(first, "\"disk\""));
    go(w);
    g_free(g_steal_pointer(&none));
    expect_why(known(w, &none), "is not connected: start it");
    come(w, &addr);
    shake_hands(w);
    g_assert_null(known(w, &second));
    g_assert_cmpstr(first, ==, second);
    g_assert_null(whether_it_stands(w));
    send_message(w->qemu, FF_VHOST_SET_CONFIG, 0, &set, sizeof(set), -1);
    expect(w->backend, FF_VHOST_SET_CONFIG, 0);
    expect_why(whether_it_stands(w), "has changed meanwhile");
    g_autofree char *shown = NULL; /* to somebody who takes nothing */
    g_assert_null(ask_known(w, 0, &shown));
    expect_why(whether_it_stands(w), "has changed meanwhile");
    g_assert_null(known(w, &third));
    g_assert_cmpstr(first, !=, third);
    g_assert_null(whether_it_stands(w));
    world_free(w);
}

/* What was lent of a device that was removed since is nothing that must stand. */
static void test_lent_removed(void)
{
    struct sockaddr_un addr;
    World *w = world_that_listens(&addr);
    g_autofree char *json = NULL;

    w->monitor.network = true; /* no configuration */
    come(w, &addr);
    offer(w);
    shake_hands(w);
    g_assert_null(known(w, &json));
    g_assert_null(whether_it_stands(w));
    close(w->private.listen_fd);
    close(w->qemu);
    turn();
    g_assert_null(whether_it_stands(w));
    w->qemu = w->private.listen_fd = -1;
    world_free(w);
}

/* At the place of the back-end that the guest had listens another process, and that one lives. */
static void test_another(void)
{
    struct sockaddr_un addr;
    FfVhostKnown known = {.offered = FF_VHOST_F_PROTOCOL_FEATURES};
    World *w = world_prepare();

    close(w->monitor.fd);
    close(w->backend);
    w->monitor.kind = FF_RELAY_LISTEN;
    w->monitor.fd = listener_new(&addr);
    w->monitor.known = &known;
    w->monitor.known_pid = getppid();
    w->plan.other_fd = -1;
    ff_state_mark(w->relay.state, FF_MARK_BORROWED);
    world_start(w);
    ff_state_unmark(w->relay.state, FF_MARK_BORROWED);
    g_assert_null(engine_says(w, FF_BACKENDS_LOOK, false));
    for (unsigned i = 0; i < 2; i++) {
        w->backend = connect_to(&addr);
        turn();
        g_assert_cmpint(recv(w->backend, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
        close(w->backend);
    }
    w->monitor.known_pid = 0; /* as if it had ended */
    w->backend = connect_to(&addr);
    turn();
    expect(w->backend, FF_VHOST_GET_FEATURES, 0);
    world_free(w);
}

/* One that has come before the relay began: MOVED is left of an engine that has died, and the next
 * one takes it back. */
static void test_given_away_at_start(void)
{
    World *w = world_prepare();

    ff_state_mark(w->relay.state, FF_MARK_MOVED);
    ff_backends_start(&w->relay);
    turn();
    g_assert_cmpint(recv(w->backend, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
    w->qemu = w->engine = w->faults = -1;
    world_free(w);
}

/* Nor does a relay connect to one, which most of them would take for the next QEMU. */
static void test_given_away_connects(void)
{
    struct sockaddr_un addr;
    World *w = world_prepare();
    int listener = listener_new(&addr);
    struct pollfd pfd = {.fd = listener, .events = POLLIN};

    close(w->monitor.fd);
    close(w->backend);
    w->monitor.kind = FF_RELAY_CONNECT_UNIX;
    w->monitor.fd = -1;
    w->monitor.path = g_strdup(addr.sun_path + 1);
    w->monitor.abstract = true;
    w->monitor.reconnect = 1;
    ff_state_mark(w->relay.state, FF_MARK_MOVED);
    ff_backends_start(&w->relay);
    turn();
    g_assert_cmpint(poll(&pfd, 1, 0), ==, 0);
    ff_state_unmark(w->relay.state, FF_MARK_MOVED); /* it was taken back */
    while (poll(&pfd, 1, 0) == 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    w->backend = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    w->qemu = accept4(w->private.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    offer(w);
    shake_hands(w);
    close(listener);
    g_free(w->monitor.path);
    world_free(w);
}

/* ---- they are another QEMU's, which stays ---------------------------------------------------- */

typedef struct {
    World *w;
    struct sockaddr_un addr;
    int door;
    FfVhostKnown known;
} Front;

/* A QEMU that has the guest, in front of whose back-end the relay stands in still. */
static Front *front_new(void)
{
    Front *f = g_new0(Front, 1);
    World *w = f->w = world_prepare();
    int door[2];

    f->known = (FfVhostKnown){.offered = FF_VHOST_F_PROTOCOL_FEATURES};
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, door), ==,
                    0);
    f->door = door[0];
    close(w->monitor.fd);
    close(w->backend);
    w->monitor.kind = FF_RELAY_LISTEN;
    w->monitor.fd = listener_new(&f->addr);
    w->monitor.known = &f->known;
    w->plan.other_fd = syscall(__NR_pidfd_open, getpid(), 0);
    w->plan.other_door = door[1];
    w->plan.other_stays = true;
    ff_state_mark(w->relay.state, FF_MARK_BORROWED);
    world_start(w);
    ff_state_unmark(w->relay.state, FF_MARK_BORROWED);
    w->backend = connect_to(&f->addr);
    return f;
}

/* What its relay was asked. */
static int asked_to_leave(const Front *f)
{
    char word;
    FfRights rights;

    g_assert_cmpint(ff_rights_receive(f->door, &word, 1, &rights), ==, 1);
    g_assert_cmpint(word, ==, FF_SUCCESSION_LEAVE);
    g_assert_cmpuint(rights.n, ==, 1);
    return rights.fd[0];
}

static void front_free(Front *f)
{
    close(f->door);
    close(f->w->plan.other_door);
    close(f->w->plan.other_fd);
    world_free(f->w);
    g_free(f);
}

static void test_front_leaves(void)
{
    Front *f = front_new();

    ff_predecessor_leaves(&f->w->relay);
    int talk = asked_to_leave(f);
    ff_predecessor_leaves(&f->w->relay);
    turn();
    g_assert_true(is_silent(f->door)); /* once */
    g_assert_true(is_silent(f->w->backend));
    close(talk);
    turn();
    expect(f->w->backend, FF_VHOST_GET_FEATURES, 0);
    front_free(f);
}

/* What the front's relay has is free when that has ended: before it was asked, and before it has
 * heard that. */
static void test_front_ended(void)
{
    for (unsigned i = 0; i < 2; i++) {
        Front *f = front_new();

        if (i) {
            ff_predecessor_leaves(&f->w->relay);
        }
        close(g_steal_fd(&f->door));
        ff_predecessor_leaves(&f->w->relay);
        turn();
        expect(f->w->backend, FF_VHOST_GET_FEATURES, 0);
        f->door = dup(f->w->backend);
        front_free(f);
    }
}

/* Its relay hangs: that is said after a while, and it may still answer. */
static void test_front_hangs(void)
{
    Front *f = front_new();

    ff_predecessor_leaves(&f->w->relay);
    int talk = asked_to_leave(f);
    g_assert_cmpuint(f->w->relay.other_timer, !=, 0);
    while (f->w->relay.other_timer) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_true(is_silent(f->w->backend));
    close(talk);
    turn();
    expect(f->w->backend, FF_VHOST_GET_FEATURES, 0);
    front_free(f);
}

static void test_front_keeps(void)
{
    Front *f = front_new();
    const char no = FF_SUCCESSION_NO;

    ff_predecessor_leaves(&f->w->relay);
    int talk = asked_to_leave(f);
    g_assert_cmpint(send(talk, &no, 1, 0), ==, 1);
    close(talk);
    turn();
    g_assert_true(is_silent(f->w->backend));
    front_free(f);
}

/* A QEMU that is a front gets no back-end again. */
static void test_left(void)
{
    struct sockaddr_un addr;
    World *w = world_that_listens(&addr);

    come(w, &addr);
    offer(w);
    shake_hands(w);
    for (unsigned i = 0; i < 2; i++) {
        ff_backends_leave(&w->relay);
        g_assert_cmpint(recv(w->backend, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
        g_assert_cmpint(recv(w->qemu, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
        g_assert_cmpint(connect_to(&addr), <, 0);
    }
    world_free(w);
}

/* It is seen when the next back-end has come, which may be there before the relay begins. */
static void test_removed_later(void)
{
    for (unsigned i = 0; i < 2; i++) {
        World *w = world_prepare();

        close(w->private.listen_fd);
        if (i) {
            struct sockaddr_un addr;

            close(w->monitor.fd);
            close(w->backend);
            w->monitor.kind = FF_RELAY_LISTEN;
            w->monitor.fd = listener_new(&addr);
            w->backend = connect_to(&addr);
        }
        ff_backends_start(&w->relay);
        turn();
        g_assert_cmpint(recv(w->backend, &(char){0}, 1, MSG_DONTWAIT), ==, 0);
        offer(w);
        assert_removed(w);
    }
}

/* ---- a back-end that waits for pages --------------------------------------------------------- */

#define WAITS (PROTOCOL | FF_VHOST_PROTOCOL_F_PAGEFAULT)
#define USER 0x7f0000000000ull
#define THEIRS 0x550000000000ull

typedef struct {
    FfVhostMemory memory;
    FfVhostRegion region;
} Table;

/* QEMU shakes hands, and begins a ring of memory that is missing. */
static void begin_ring(const World *w, int memory)
{
    const Table table = {{1, 0}, {0, MEMORY, USER, 0}};
    const uint64_t protocol = WAITS, ring = 0;

    ask(w, FF_VHOST_GET_FEATURES, FF_VHOST_F_LOG_ALL);
    ask(w, FF_VHOST_GET_PROTOCOL_FEATURES, protocol);
    send_message(w->qemu, FF_VHOST_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), -1);
    expect(w->backend, FF_VHOST_SET_PROTOCOL_FEATURES, 0);
    send_message(w->qemu, FF_VHOST_SET_MEM_TABLE, 0, &table, sizeof(table), memory);
    send_message(w->qemu, FF_VHOST_SET_VRING_KICK, 0, &ring, sizeof(ring), memory);
}

static void set_ready(World *w)
{
    const FfSharersAnswer ready = {.op = FF_SHARERS_READY};

    w->relay.state->role = FF_ROLE_DESTINATION;
    w->relay.state->phase = FF_PHASE_GRANTED;
    g_assert_cmpint(send(w->faults, &ready, sizeof(ready), 0), ==, sizeof(ready));
    turn();
}

/* Of a destination. MEMORY_FD stays the caller's. */
static World *wanting_new(int memory)
{
    World *w = world_new();

    set_ready(w);
    begin_ring(w, memory);
    expect(w->backend, FF_VHOST_POSTCOPY_ADVISE, 0);
    return w;
}

static void register_memory(World *w)
{
    const uint64_t features = 0;

    g_assert_cmphex(expect(w->backend, FF_VHOST_SET_MEM_TABLE, 0), ==, 0);
    expect(w->backend, FF_VHOST_GET_FEATURES, 0);
    send_message(w->backend, FF_VHOST_GET_FEATURES, FF_VHOST_REPLY, &features, sizeof(features),
                 -1);
}

/* From its userfaultfd as far as to its addresses. */
static void go_that_way(World *w, uint64_t theirs)
{
    const Table answer = {{1, 0}, {0, MEMORY, theirs, 0}};
    const uint64_t good = 0;
    int uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    send_message(w->backend, FF_VHOST_POSTCOPY_ADVISE, FF_VHOST_REPLY, NULL, 0, uffd);
    expect(w->backend, FF_VHOST_POSTCOPY_LISTEN, 0);
    send_message(w->backend, FF_VHOST_POSTCOPY_LISTEN, FF_VHOST_REPLY, &good, sizeof(good), -1);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1); /* on trial */
    send_message(w->backend, FF_VHOST_SET_MEM_TABLE, FF_VHOST_REPLY, &answer, sizeof(answer), -1);
    register_memory(w);
    expect(w->backend, FF_VHOST_SET_MEM_TABLE, 1);
    send_message(w->backend, FF_VHOST_SET_MEM_TABLE, FF_VHOST_REPLY, &answer, sizeof(answer), -1);
    close(uffd);
}

/* Its addresses are USER's if it says none. */
static World *waiting_new(int memory, uint64_t theirs)
{
    World *w = wanting_new(memory);

    go_that_way(w, theirs);
    return w;
}

/* The engine is asked OP, and has been given N_FDS. */
static FfSharersRequest expect_asked(World *w, uint32_t op, unsigned n_fds)
{
    FfSharersRequest request = {0};
    FfRights rights;

    g_assert_cmpint(ff_rights_receive(w->faults, &request, sizeof(request), &rights), ==,
                    sizeof(request));
    g_assert_cmpuint(request.op, ==, op);
    g_assert_cmpuint(rights.n, ==, n_fds);
    for (unsigned i = 0; i < rights.n; i++) {
        close(rights.fd[i]);
    }
    return request;
}

static void engine_says_of(World *w, const FfSharersRequest *request, int rc)
{
    const FfSharersAnswer answer = {.op = request->op, .number = request->number, .rc = rc};

    g_assert_cmpint(send(w->faults, &answer, sizeof(answer), 0), ==, sizeof(answer));
    turn();
}

static bool is_closed(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

static int memory_new(void)
{
    int memory = memfd_create("memory", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(memory, MEMORY), ==, 0);
    return memory;
}

/* All is there. */
static void all_there(World *w)
{
    const uint64_t good = 0;

    w->relay.state->phase = FF_PHASE_DONE;
    g_assert_null(engine_says(w, FF_BACKENDS_LOOK, false));
    expect(w->backend, FF_VHOST_POSTCOPY_END, 0);
    send_message(w->backend, FF_VHOST_POSTCOPY_END, FF_VHOST_REPLY, &good, sizeof(good), -1);
}

/* The ring begins when the engine has seen that the memory is registered; the next engine is told
 * of it as well. */
static void test_waits(void)
{
    int memory = memory_new();
    World *w = waiting_new(memory, THEIRS);
    struct stat st;

    FfSharersRequest hand = expect_asked(w, FF_SHARERS_HAND, 1);
    g_assert_cmpuint(hand.n_regions, ==, 1);
    g_assert_cmphex(hand.regions[0].addr, ==, THEIRS);
    g_assert_cmphex(hand.regions[0].size, ==, MEMORY);
    g_assert_cmpint(fstat(memory, &st), ==, 0);
    g_assert_true(hand.regions[0].dev == st.st_dev && hand.regions[0].ino == st.st_ino);
    g_assert_true(is_silent(w->backend));
    engine_says_of(w, &hand, 0);
    register_memory(w);
    FfSharersRequest check = expect_asked(w, FF_SHARERS_CHECK, 0);
    g_assert_cmpuint(check.number, ==, hand.number);
    g_assert_true(is_silent(w->backend));

    /* It dies before it has answered. */
    close(w->engine);
    close(w->faults);
    turn();
    offer(w);
    turn();
    FfSharersRequest again = expect_asked(w, FF_SHARERS_HAND, 1);
    g_assert_cmpuint(again.number, ==, hand.number);
    check = expect_asked(w, FF_SHARERS_CHECK, 0);
    engine_says_of(w, &again, 0);
    g_assert_true(is_silent(w->backend));
    engine_says_of(w, &check, 0);
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);

    /* And once more, when it runs. */
    close(w->engine);
    close(w->faults);
    turn();
    offer(w);
    turn();
    again = expect_asked(w, FF_SHARERS_HAND, 1);
    engine_says_of(w, &again, 0);
    g_assert_true(is_silent(w->faults));

    all_there(w);
    ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
    close(memory);
    world_free(w);
}

/* It did not say where it has mapped it (libvhost-user does not): its maps do. */
static void test_maps(void)
{
    int memory = memory_new();
    void *early = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    void *theirs = mmap(NULL, MEMORY, PROT_NONE, MAP_SHARED, memory, 0);
    World *w = waiting_new(memory, USER);

    FfSharersRequest hand = expect_asked(w, FF_SHARERS_HAND, 1);
    g_assert_cmphex(hand.regions[0].addr, ==, (uintptr_t)theirs);
    munmap(theirs, MEMORY);
    munmap(early, MEMORY);
    close(memory);
    world_free(w);
}

/* Its connection ends, and a thread of it waits still: the next engine is told, until all is
 * there. */
static void test_kept(void)
{
    int memory = memory_new();
    World *w = waiting_new(memory, THEIRS);

    FfSharersRequest hand = expect_asked(w, FF_SHARERS_HAND, 1);
    engine_says_of(w, &hand, 0);
    register_memory(w);
    FfSharersRequest check = expect_asked(w, FF_SHARERS_CHECK, 0);
    engine_says_of(w, &check, 0);
    expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    shutdown(w->backend, SHUT_RDWR);
    turn();
    g_assert_true(is_closed(w->qemu));
    g_assert_true(is_silent(w->faults));
    close(w->engine);
    close(w->faults);
    turn();
    offer(w);
    turn();
    FfSharersRequest again = expect_asked(w, FF_SHARERS_HAND, 1);
    g_assert_cmpuint(again.number, ==, hand.number);
    g_assert_cmphex(again.regions[0].addr, ==, THEIRS);
    w->relay.state->phase = FF_PHASE_DONE;
    close(w->engine);
    close(w->faults);
    turn();
    offer(w);
    turn();
    g_assert_true(is_silent(w->faults));
    close(memory);
    world_free(w);
}

/* Not known where, or the engine cannot answer: it has its memory, and its device stands. If the
 * engine has seen that nothing is registered the connection is closed. */
typedef enum { NOWHERE, TWICE, NOT_REGISTERED, REFUSED } Fault;

static void test_cannot_wait(gconstpointer data)
{
    Fault fault = GPOINTER_TO_INT(data);
    int memory = memory_new();
    void *maps[2] = {MAP_FAILED, MAP_FAILED};

    for (unsigned i = 0; i < 2 && fault == TWICE; i++) {
        maps[i] = mmap(NULL, MEMORY, PROT_NONE, MAP_SHARED, memory, 0);
    }
    World *w = waiting_new(memory, fault <= TWICE ? USER : THEIRS);
    if (fault > TWICE) {
        FfSharersRequest asked = expect_asked(w, FF_SHARERS_HAND, 1);

        if (fault == NOT_REGISTERED) {
            engine_says_of(w, &asked, 0);
            register_memory(w);
            asked = expect_asked(w, FF_SHARERS_CHECK, 0);
        }
        engine_says_of(w, &asked, -ENOENT);
    }
    turn();
    if (fault == NOT_REGISTERED) {
        g_assert_true(is_closed(w->backend));
        g_assert_true(is_closed(w->qemu));
    } else {
        register_memory(w);
        turn();
        g_assert_true(is_silent(w->backend));
        g_assert_true(is_silent(w->faults));
        ask(w, FF_VHOST_GET_QUEUE_NUM, 1);
        all_there(w);
        expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    }
    for (unsigned i = 0; i < 2 && fault == TWICE; i++) {
        munmap(maps[i], MEMORY);
    }
    close(memory);
    world_free(w);
}

/* Two of one process: what they have mapped could not be told apart, so one goes after the other;
 * also if the first one's faults cannot be answered. Their ends come in their order. */
static void test_two(gconstpointer data)
{
    bool answered = GPOINTER_TO_INT(data);
    int memory = memory_new(), pair[2];
    World *w = world_prepare(), second = {0};

    g_assert_true(ff_private_sockets_new(&second.private, 1, -1, -1, NULL));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    second.monitor = w->monitor;
    second.monitor.id = (char *)"disk2";
    second.monitor.qemu = second.private.path_fd;
    second.monitor.fd = pair[0];
    second.backend = pair[1];
    g_ptr_array_add(w->plan.backends, &second.monitor);
    world_start(w);
    second.qemu = accept4(second.private.listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(second.qemu, >=, 0);
    set_ready(w);
    begin_ring(w, memory);
    expect(w->backend, FF_VHOST_POSTCOPY_ADVISE, 0);
    begin_ring(&second, memory);
    g_assert_true(is_silent(second.backend));
    go_that_way(w, THEIRS);
    FfSharersRequest asked = expect_asked(w, FF_SHARERS_HAND, 1);
    engine_says_of(w, &asked, answered ? 0 : -ENOSPC);
    g_assert_true(is_silent(second.backend));
    register_memory(w);
    if (answered) {
        asked = expect_asked(w, FF_SHARERS_CHECK, 0);
        g_assert_true(is_silent(second.backend));
        engine_says_of(w, &asked, 0);
        expect(w->backend, FF_VHOST_SET_VRING_KICK, 1);
    }
    turn();
    expect(second.backend, FF_VHOST_POSTCOPY_ADVISE, 0);
    close(memory);
    world_free(w);
    close(second.qemu);
    close(second.backend);
    close(second.private.listen_fd);
    close(second.private.path_fd);
}

/* It does not answer what it does not know: QEMU is answered, and after some seconds it is let go,
 * with QEMU's question. */
static void test_silent(void)
{
    g_setenv("FARFAULT_DEADLINES", "back-end-answer=1000", TRUE);
    int memory = memory_new();
    World *w = wanting_new(memory);
    const FfVhostVringState enable = {0, 1};

    send_message(w->qemu, FF_VHOST_SET_VRING_ENABLE, FF_VHOST_NEED_REPLY, &enable, sizeof(enable),
                 -1);
    expect(w->qemu, FF_VHOST_SET_VRING_ENABLE, 0);
    send_message(w->qemu, FF_VHOST_GET_QUEUE_NUM, 0, NULL, 0, -1);
    g_assert_true(is_silent(w->backend));
    while (!is_closed(w->qemu)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_true(is_closed(w->backend));
    close(memory);
    world_free(w);
    g_unsetenv("FARFAULT_DEADLINES");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backends/log", test_log);
    g_test_add_func("/backends/log/none", test_no_log);
    g_test_add_func("/backends/log/engine-dies", test_engine_dies);
    g_test_add_func("/backends/log/runs", test_log_runs);
    g_test_add_func("/backends/held", test_held);
    g_test_add_func("/backends/parked", test_parked);
    g_test_add_func("/backends/parked-engine-dead", test_parked_engine_dead);
    g_test_add_func("/backends/parks-none-that-runs", test_parked_runs);
    g_test_add_func("/backends/not-taken", test_not_taken);
    g_test_add_func("/backends/removed", test_removed);
    g_test_add_func("/backends/removed/later", test_removed_later);
    g_test_add_func("/backends/not-read", test_not_read);
    g_test_add_func("/backends/given-away", test_given_away);
    g_test_add_func("/backends/lent", test_lent);
    g_test_add_func("/backends/another", test_another);
    g_test_add_func("/backends/lent-removed", test_lent_removed);
    g_test_add_func("/backends/given-away-at-start", test_given_away_at_start);
    g_test_add_func("/backends/given-away-connects", test_given_away_connects);
    g_test_add_func("/backends/front/leaves", test_front_leaves);
    g_test_add_func("/backends/front/ended", test_front_ended);
    g_test_add_func("/backends/front/keeps", test_front_keeps);
    if (g_test_slow()) {
        g_test_add_func("/backends/front/hangs", test_front_hangs);
    }
    g_test_add_func("/backends/left", test_left);
    g_test_add_func("/backends/waits", test_waits);
    g_test_add_func("/backends/waits/maps", test_maps);
    g_test_add_func("/backends/waits/kept", test_kept);
    g_test_add_data_func("/backends/waits/two", GINT_TO_POINTER(true), test_two);
    g_test_add_data_func("/backends/waits/two/refused", GINT_TO_POINTER(false), test_two);
    g_test_add_func("/backends/waits/silent", test_silent);
    g_test_add_data_func("/backends/cannot-wait/nowhere", GINT_TO_POINTER(NOWHERE),
                         test_cannot_wait);
    g_test_add_data_func("/backends/cannot-wait/twice", GINT_TO_POINTER(TWICE), test_cannot_wait);
    g_test_add_data_func("/backends/cannot-wait/not-registered", GINT_TO_POINTER(NOT_REGISTERED),
                         test_cannot_wait);
    g_test_add_data_func("/backends/cannot-wait/refused", GINT_TO_POINTER(REFUSED),
                         test_cannot_wait);
    return g_test_run();
}
