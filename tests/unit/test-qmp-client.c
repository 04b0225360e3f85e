/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP client against a scripted peer.
 *
 * Three threads: the client's context runs in one of its own, the test's function is the waiter,
 * and the peer plays a script: it reads whole lines and writes given bytes.
 */
#include "qmp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "             \
    "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"

typedef struct {
    FfQmpClient *client;
    GMainContext *context;
    GMainLoop *loop;
    GThread *io;
    int peer;
    gint events, gone, replies; /* atomic */
} Fixture;

static void on_event(FfQmpClient *client, const char *name, JsonObject *event, void *opaque)
{
    Fixture *f = opaque;
    g_assert_cmpstr(name, !=, NULL);
    g_atomic_int_inc(&f->events);
}

static void on_gone(FfQmpClient *client, const FfQmpEnd *end, void *opaque)
{
    Fixture *f = opaque;
    g_assert_cmpstr(end->why, !=, NULL);
    g_atomic_int_inc(&f->gone);
}

static void *run_loop(void *data)
{
    Fixture *f = data;
    g_main_loop_run(f->loop);
    return NULL;
}

static void set_up(Fixture *f, const void *data)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    f->peer = pair[1];
    f->context = g_main_context_new();
    f->loop = g_main_loop_new(f->context, FALSE);
    f->client = ff_qmp_client_new(pair[0], f->context, on_event, on_gone, f);
    f->io = g_thread_new("io", run_loop, f);
}

static gboolean quit_loop(void *data)
{
    g_main_loop_quit(data);
    return G_SOURCE_REMOVE;
}

static void tear_down(Fixture *f, const void *data)
{
    if (f->peer >= 0) {
        close(f->peer);
    }
    ff_qmp_client_close(f->client);
    g_main_context_invoke(f->context, quit_loop, f->loop);
    g_thread_join(f->io);
    g_assert_cmpint(g_atomic_int_get(&f->gone), ==, 1);
    ff_qmp_client_unref(f->client);
    g_main_loop_unref(f->loop);
    g_main_context_unref(f->context);
}

static void say(Fixture *f, const char *text)
{
    size_t len = strlen(text);
    while (len) {
        ssize_t n = send(f->peer, text, len, MSG_NOSIGNAL);
        g_assert_cmpint(n, >, 0);
        text += n;
        len -= n;
    }
}

/* Reads one line; *FD is a descriptor that came with it, or -1. */
static JsonNode *hear(Fixture *f, int *fd)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c = 0;

    *fd = -1;
    while (c != '\n') {
        union {
            char buf[CMSG_SPACE(sizeof(int) * 4)];
            struct cmsghdr align;
        } control;
        struct iovec iov = {&c, 1};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.buf,
                             .msg_controllen = sizeof(control.buf)};
        g_assert_cmpint(recvmsg(f->peer, &msg, MSG_CMSG_CLOEXEC), ==, 1);
        for (struct cmsghdr *m = CMSG_FIRSTHDR(&msg); m; m = CMSG_NXTHDR(&msg, m)) {
            /* Only ever with the first byte of a line. */
            g_assert_cmpuint(line->len, ==, 0);
            memcpy(fd, CMSG_DATA(m), sizeof(int));
        }
        g_string_append_c(line, c);
    }
    return json_from_string(line->str, NULL);
}

/* Reads one line, checks the command's name, returns its id. */
static gint64 expect(Fixture *f, const char *command)
{
    int fd;
    g_autoptr(JsonNode) node = hear(f, &fd);
    JsonObject *o = json_node_get_object(node);

    g_assert_cmpstr(json_object_get_string_member(o, "execute"), ==, command);
    g_assert_cmpint(fd, ==, -1);
    return json_object_get_int_member(o, "id");
}

static void answer(Fixture *f, gint64 id, const char *result)
{
    g_autofree char *text =
        g_strdup_printf("{\"return\": %s, \"id\": %" G_GINT64_FORMAT "}\r\n", result, id);
    say(f, text);
}

static void greet(Fixture *f)
{
    say(f, GREETING);
    answer(f, expect(f, "qmp_capabilities"), "{}");
}

static void *peer_greets(void *data)
{
    greet(data);
    return NULL;
}

static void ready(Fixture *f)
{
    GThread *t = g_thread_new("peer", peer_greets, f);
    g_assert_true(ff_qmp_client_wait_ready(f->client, 0, NULL, NULL));
    g_thread_join(t);
}

static void test_greeting(Fixture *f, const void *data)
{
    g_assert_cmpuint(ff_qmp_client_version(f->client), ==, 0);
    ready(f);
    g_assert_cmpuint(ff_qmp_client_version(f->client), ==, 70222);
}

static void *peer_query(void *data)
{
    Fixture *f = data;
    greet(f);
    /* An event before the answer, and the answer byte by byte. */
    say(f, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n");
    g_autofree char *text = g_strdup_printf("{\"return\": {\"status\": \"running\", \"x\": "
                                            "\"\\\"}{[\"}, \"id\": %" G_GINT64_FORMAT "}\r\n",
                                            expect(f, "query-status"));
    for (char *p = text; *p; p++) {
        char one[2] = {*p, 0};
        say(f, one);
    }
    return NULL;
}

static void test_call(Fixture *f, const void *data)
{
    GThread *t = g_thread_new("peer", peer_query, f);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) r =
        ff_qmp_call_sync(f->client, "query-status", NULL, NULL, 0, 0, NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(json_object_get_string_member(json_node_get_object(r), "status"), ==,
                    "running");
    g_assert_cmpint(g_atomic_int_get(&f->events), ==, 1);
    g_thread_join(t);
}

static void *peer_errors(void *data)
{
    Fixture *f = data;
    static const char *const classes[] = {"CommandNotFound", "GenericError", "DeviceNotFound"};
    greet(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(classes); i++) {
        g_autofree char *text = g_strdup_printf(
            "{\"id\": %" G_GINT64_FORMAT ", \"error\": {\"class\": \"%s\", \"desc\": \"no %u\"}}\n",
            expect(f, "x"), classes[i], i);
        say(f, text);
    }
    return NULL;
}

static void test_errors(Fixture *f, const void *data)
{
    static const int codes[] = {FF_QMP_ERROR_COMMAND_NOT_FOUND, FF_QMP_ERROR_GENERIC,
                                FF_QMP_ERROR_GENERIC};
    GThread *t = g_thread_new("peer", peer_errors, f);

    for (unsigned i = 0; i < G_N_ELEMENTS(codes); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text = g_strdup_printf("no %u", i);
        g_assert_null(ff_qmp_call_sync(f->client, "x", NULL, NULL, 0, 0, NULL, &error));
        g_assert_error(error, FF_QMP_ERROR, codes[i]);
        g_assert_cmpstr(error->message, ==, text);
    }
    g_thread_join(t);
}

static void count_reply(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    g_atomic_int_inc((gint *)opaque);
}

/* Two commands with fds: the second may not be on its way before the first is answered. */
static void test_fds(Fixture *f, const void *data)
{
    g_autoptr(JsonObject) args = json_object_new();
    int pipes[2][2], got[2];
    gint64 id[2];
    char c;

    ready(f);
    json_object_set_string_member(args, "fdname", "x");
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(pipe(pipes[i]), ==, 0);
        ff_qmp_call(f->client, "getfd", args, &pipes[i][1], 1, count_reply, &f->replies);
        close(pipes[i][1]);
    }
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(JsonNode) node = hear(f, &got[i]);
        id[i] = json_object_get_int_member(json_node_get_object(node), "id");
        g_assert_cmpint(got[i], >=, 0);
        g_assert_cmpint(recv(f->peer, &c, 1, MSG_DONTWAIT), ==, -1);
        answer(f, id[i], "{}");
    }
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(write(got[i], "abc" + i, 1), ==, 1);
        g_assert_cmpint(read(pipes[i][0], &c, 1), ==, 1);
        g_assert_cmpint(c, ==, 'a' + i);
        close(got[i]);
        /* No copy of the write end is left in the client. */
        g_assert_cmpint(read(pipes[i][0], &c, 1), ==, 0);
        close(pipes[i][0]);
    }
}

static void test_events(Fixture *f, const void *data)
{
    g_autoptr(FfQmpWatch) all = ff_qmp_watch_new(f->client, NULL);
    g_autoptr(FfQmpWatch) some = ff_qmp_watch_new(f->client, "MIGRATION");
    g_autoptr(GError) error = NULL;

    ready(f);
    say(f, "{\"event\": \"STOP\"}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n"
           "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n");
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(JsonNode) e = ff_qmp_watch_next(some, 0, NULL, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(
            json_object_get_string_member(
                json_object_get_object_member(json_node_get_object(e), "data"), "status"),
            ==, i ? "completed" : "active");
    }
    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(JsonNode) e = ff_qmp_watch_next(all, 0, NULL, &error);
        g_assert_nonnull(e);
    }
    g_assert_null(ff_qmp_watch_next(some, 1, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT);
}

/* The answer comes after the deadline: it is swallowed, and the next call gets its own. */
static void test_deadline(Fixture *f, const void *data)
{
    g_autoptr(GError) error = NULL;
    gint64 late;

    ready(f);
    g_assert_null(ff_qmp_call_sync(f->client, "slow", NULL, NULL, 0, 1, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT);
    late = expect(f, "slow");
    ff_qmp_call(f->client, "next", NULL, NULL, 0, count_reply, &f->replies);
    answer(f, late, "{}");
    answer(f, expect(f, "next"), "{}");
    answer(f, late, "{}"); /* answered twice: the connection ends */
    g_clear_error(&error);
    g_assert_null(ff_qmp_call_sync(f->client, "x", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_assert_cmpint(g_atomic_int_get(&f->replies), ==, 1);
}

typedef struct {
    Fixture *f;
    gint64 id;
    unsigned said;
} Answer;

/* Of what it says: then it is answered. */
static void said(const char *domain, GLogLevelFlags level, const char *text, void *opaque)
{
    Answer *a = opaque;

    g_assert_nonnull(strstr(text, "has not answered slow"));
    if (!a->said++) {
        answer(a->f, a->id, "{}");
    }
}

/* A waiter without a deadline waits on, and says once what for. */
static void test_patience(Fixture *f, const void *data)
{
    g_autoptr(GError) error = NULL;
    FfQmpCall *quick, *slow;

    ready(f);
    ff_qmp_client_set_patience(f->client, 1);
    quick = ff_qmp_call_begin(f->client, "quick", NULL, NULL, 0);
    slow = ff_qmp_call_begin(f->client, "slow", NULL, NULL, 0);
    answer(f, expect(f, "quick"), "{}");
    gint64 id = expect(f, "slow");
    g_autoptr(JsonNode) first = ff_qmp_call_end(quick, 0, NULL, &error);
    g_assert_no_error(error);
    Answer late = {f, id};
    g_log_set_default_handler(said, &late);
    g_autoptr(JsonNode) second = ff_qmp_call_end(slow, 0, NULL, &error);
    g_log_set_default_handler(g_log_default_handler, NULL);
    g_assert_no_error(error);
    g_assert_cmpuint(late.said, ==, 1);
}

static void *canceller(void *data)
{
    g_cancellable_cancel(data);
    return NULL;
}

static void test_cancel(Fixture *f, const void *data)
{
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(f->client, NULL);
    g_autoptr(GError) error = NULL;
    GThread *t;

    ready(f);
    t = g_thread_new("cancel", canceller, cancel);
    g_assert_null(ff_qmp_call_sync(f->client, "slow", NULL, NULL, 0, 0, cancel, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_thread_join(t);
    g_clear_error(&error);
    g_assert_null(ff_qmp_watch_next(watch, 0, cancel, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
}

static void *peer_dies(void *data)
{
    Fixture *f = data;
    greet(f);
    expect(f, "stop");
    close(f->peer);
    f->peer = -1;
    return NULL;
}

static void test_death(Fixture *f, const void *data)
{
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(f->client, NULL);
    g_autoptr(GError) error = NULL;
    GThread *t = g_thread_new("peer", peer_dies, f);

    g_assert_null(ff_qmp_call_sync(f->client, "stop", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_thread_join(t);
    g_clear_error(&error);
    g_assert_null(ff_qmp_call_sync(f->client, "cont", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_clear_error(&error);
    g_assert_null(ff_qmp_watch_next(watch, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
}

/* QEMU answers an engine that has died meanwhile. */
static void answer_the_dead(Fixture *f)
{
    for (int id = -1; id < 20; id++) {
        answer(f, id, "{\"status\": \"of another\"}");
    }
    say(f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"of another\"}, \"id\": 3}\n");
}

static void *peer_is_late(void *data)
{
    Fixture *f = data;

    answer_the_dead(f);
    say(f, GREETING);
    answer_the_dead(f);
    answer(f, expect(f, "qmp_capabilities"), "{}");
    gint64 id = expect(f, "query-status");
    answer_the_dead(f);
    answer(f, id, "{\"status\": \"running\"}");
    id = expect(f, "stop");
    answer(f, id, "{}");
    answer(f, id, "{}");
    return NULL;
}

/* Of two answers to one question QEMU sends none. */
static void test_late(Fixture *f, const void *data)
{
    GThread *t = g_thread_new("peer", peer_is_late, f);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) r =
        ff_qmp_call_sync(f->client, "query-status", NULL, NULL, 0, 0, NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(json_object_get_string_member(json_node_get_object(r), "status"), ==,
                    "running");
    g_autoptr(JsonNode) stopped =
        ff_qmp_call_sync(f->client, "stop", NULL, NULL, 0, 0, NULL, &error);
    g_assert_no_error(error);
    g_assert_null(ff_qmp_call_sync(f->client, "cont", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_thread_join(t);
}

/* What a hostile QEMU says after the greeting. Each ends the connection, none the process. */
static const char *const hostile[] = {
    "garbage\n",
    "[]\n",
    "42\n",
    "{\"x\": 1}\n",
    "{\"return\": {}}\n",
    "{\"return\": {}, \"id\": \"1\"}\n",
    "{\"error\": {\"class\": [], \"desc\": {}}}\n",
    GREETING,
    "{\"event\": 5}\n",
    "{\"return\": {}, \"id\": 1\n",
    "\xff\xfe{\n",
};

static void test_hostile(Fixture *f, const void *data)
{
    g_autoptr(GError) error = NULL;

    ready(f);
    say(f, hostile[GPOINTER_TO_UINT(data)]);
    g_assert_null(ff_qmp_call_sync(f->client, "stop", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
}

/* Deeper than QEMU's own limit: a parser that recurses would run out of stack. */
static void test_nesting(Fixture *f, const void *data)
{
    g_autoptr(GString) text = g_string_new("{\"return\": ");
    g_autoptr(GError) error = NULL;

    ready(f);
    for (unsigned i = 0; i < 4 << 20; i++) {
        g_string_append_c(text, '[');
    }
    /* The client hangs up long before the end. */
    while (send(f->peer, text->str, text->len, MSG_NOSIGNAL) > 0) {
    }
    g_assert_null(ff_qmp_call_sync(f->client, "stop", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_assert_nonnull(strstr(error->message, "nested"));
}

static void *peer_endless(void *data)
{
    Fixture *f = data;
    g_autofree char *block = g_malloc(1 << 20);

    greet(f);
    memset(block, ' ', 1 << 20);
    /* Until the client hangs up, which must come soon after 64 MiB. */
    for (unsigned i = 0; i < 80; i++) {
        size_t done = 0;
        while (done < 1 << 20) {
            ssize_t n = send(f->peer, block + done, (1 << 20) - done, MSG_NOSIGNAL);
            if (n <= 0) {
                return NULL;
            }
            done += n;
        }
    }
    g_assert_not_reached();
}

static void test_endless(Fixture *f, const void *data)
{
    GThread *t = g_thread_new("peer", peer_endless, f);
    g_autoptr(GError) error = NULL;

    g_assert_null(ff_qmp_call_sync(f->client, "stop", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_assert_nonnull(strstr(error->message, "64 MiB"));
    g_thread_join(t);
}

static void *many_calls(void *data)
{
    Fixture *f = data;
    for (unsigned i = 0; i < 200; i++) {
        g_autoptr(JsonNode) r = ff_qmp_call_sync(f->client, "echo", NULL, NULL, 0, 0, NULL, NULL);
        g_assert_nonnull(r);
    }
    return NULL;
}

/* Calls from several threads at once: every one is answered, once. */
static void test_threads(Fixture *f, const void *data)
{
    GThread *t[4];

    ready(f);
    for (unsigned i = 0; i < 4; i++) {
        t[i] = g_thread_new("caller", many_calls, f);
    }
    for (unsigned i = 0; i < 4 * 200; i++) {
        answer(f, expect(f, "echo"), "[]");
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(t[i]);
    }
}

/* A shared monitor: what it says to others and the layout of a pretty one do no harm, and the
 * thread that waits reads. */
typedef struct {
    Fixture f; /* .peer alone */
    gint64 slow;
} SharedPeer;

static void *peer_shared(void *data)
{
    SharedPeer *p = data;

    say(&p->f, "{\"return\": {}, \"id\": \"libvirt-7\"}\r\n{\"return\": {}}\r\n");
    say(&p->f, GREETING);
    answer(&p->f, expect(&p->f, "qmp_capabilities"), "{}");
    say(&p->f, "{\"return\": {}, \"id\": 99}\n{\n    \"event\": \"STOP\"\n}\n{\"x\": 1}\n");
    answer(&p->f, expect(&p->f, "one"), "{\n \"a\": []\n}");
    p->slow = expect(&p->f, "slow");
    answer(&p->f, expect(&p->f, "two"), "2");
    answer(&p->f, p->slow, "{}");
    answer(&p->f, expect(&p->f, "three"), "3");
    expect(&p->f, "none");
    close(p->f.peer);
    return NULL;
}

static void test_shared(void)
{
    g_autoptr(GError) error = NULL;
    SharedPeer p = {0};
    Fixture f = {0};
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    p.f.peer = pair[1];
    g_autoptr(FfQmpClient) client = ff_qmp_client_new_shared(pair[0], on_event, on_gone, &f);
    GThread *t = g_thread_new("peer", peer_shared, &p);

    g_assert_true(ff_qmp_client_wait_greeting(client, 0, NULL, NULL));
    g_autofree char *greeting = ff_qmp_client_greeting(client);
    g_assert_nonnull(strstr(greeting, "\"micro\": 22"));
    g_assert_true(ff_qmp_client_wait_ready(client, 0, NULL, NULL));
    g_autoptr(JsonNode) one = ff_qmp_call_sync(client, "one", NULL, NULL, 0, 0, NULL, NULL);
    g_assert_true(JSON_NODE_HOLDS_OBJECT(one));
    g_assert_cmpint(f.events, ==, 1);
    g_assert_null(ff_qmp_call_sync(client, "slow", NULL, NULL, 0, 1, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT);
    g_clear_error(&error);
    g_autoptr(JsonNode) two = ff_qmp_call_sync(client, "two", NULL, NULL, 0, 0, NULL, NULL);
    g_assert_cmpint(json_node_get_int(two), ==, 2);
    g_autoptr(JsonNode) three = ff_qmp_call_sync(client, "three", NULL, NULL, 0, 0, NULL, NULL);
    g_assert_cmpint(json_node_get_int(three), ==, 3);
    /* One that is forgotten is not called at the end, the other one is. */
    ff_qmp_call(client, "none", NULL, NULL, 0, count_reply, &p.slow);
    ff_qmp_call(client, "none", NULL, NULL, 0, count_reply, &f.replies);
    ff_qmp_client_forget(client, &p.slow);
    p.slow = 0;
    g_assert_null(ff_qmp_call_sync(client, "none", NULL, NULL, 0, 0, NULL, &error));
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_assert_cmpint(p.slow, ==, 0);
    g_assert_cmpint(f.replies, ==, 1);
    g_assert_cmpint(f.gone, ==, 1);
    ff_qmp_client_close(client);
    g_thread_join(t);
}

/* The way to QEMU's private monitor: an unlinked socket, by an O_PATH descriptor. */
static void test_connect(void)
{
    g_autofree char *dir = g_dir_make_tmp("ff-qmp-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), inode, fd;
    g_autoptr(GError) error = NULL;

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    inode = open(path, O_PATH | O_CLOEXEC);
    g_assert_cmpint(inode, >=, 0);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(rmdir(dir), ==, 0);
    fd = ff_qmp_connect(inode, &error);
    g_assert_no_error(error);
    close(fd);
    close(listener);
    fd = ff_qmp_connect(inode, &error);
    g_assert_cmpint(fd, ==, -1);
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED);
    close(inode);
}

static int listen_at(struct sockaddr_un *addr)
{
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)addr, sizeof(*addr)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    return listener;
}

/* Connections of those who have died; returns how many there is room for. */
static unsigned fill(const struct sockaddr_un *addr)
{
    unsigned n = 0;

    for (;; n++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int rc = connect(fd, (struct sockaddr *)addr, sizeof(*addr));

        close(fd);
        if (rc < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            return n;
        }
    }
}

static void count_answer(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    unsigned *answers = opaque;

    g_assert_true(result != NULL || error);
    answers[error != NULL]++;
}

static void answer_line(int fd, const char *answer)
{
    char line[256] = "";
    ssize_t n = recv(fd, line, sizeof(line) - 1, 0);
    const char *id = n > 0 ? strstr(line, "\"id\":") : NULL;

    g_assert_nonnull(id);
    g_autofree char *text =
        g_strdup_printf("{\"return\": %s, %.*s}\n", answer, (int)strcspn(id, "},"), id);
    g_assert_cmpint(send(fd, text, strlen(text), 0), ==, (ssize_t)strlen(text));
}

/* QEMU's main loop stands, and its listen queue is full: nobody waits for it. When it accepts, or
 * has ended, what was asked is answered. */
static void test_connect_full(gconstpointer ends)
{
    g_autofree char *dir = g_dir_make_tmp("ff-qmp-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    unsigned answers[2] = {0};
    g_autoptr(GError) error = NULL;

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    int listener = listen_at(&addr), inode = open(path, O_PATH | O_CLOEXEC);
    unsigned before = fill(&addr);
    g_autoptr(FfQmpClient) client = ff_qmp_client_new_to(inode, NULL, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    close(inode);
    ff_qmp_call(client, "query-name", NULL, NULL, 0, count_answer, answers);
    g_assert_false(g_main_context_iteration(NULL, FALSE));
    if (ends) {
        close(listener);
    } else {
        while (before--) {
            close(accept(listener, NULL, NULL));
        }
        struct pollfd pfd = {listener, POLLIN, 0};
        while (poll(&pfd, 1, 0) == 0) {
            g_main_context_iteration(NULL, TRUE);
        }
        int fd = accept(listener, NULL, NULL);
        static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";
        g_assert_cmpint(send(fd, greeting, strlen(greeting), 0), ==, (ssize_t)strlen(greeting));
        g_main_context_iteration(NULL, TRUE);
        answer_line(fd, "{}");
        g_main_context_iteration(NULL, TRUE);
        answer_line(fd, "{}");
        close(listener);
        while (!answers[0]) {
            g_main_context_iteration(NULL, TRUE);
        }
        close(fd);
    }
    while (!answers[0] && !answers[1]) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(answers[!ends], ==, 0);
    ff_qmp_client_close(client);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    unlink(path);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*func)(Fixture *, const void *);
    } tests[] = {
        {"greeting", test_greeting}, {"call", test_call},       {"errors", test_errors},
        {"fds", test_fds},           {"events", test_events},   {"deadline", test_deadline},
        {"cancel", test_cancel},     {"death", test_death},     {"nesting", test_nesting},
        {"endless", test_endless},   {"threads", test_threads}, {"late", test_late},
        {"patience", test_patience},
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strdup_printf("/qmp-client/%s", tests[i].name);
        g_test_add(path, Fixture, NULL, set_up, tests[i].func, tear_down);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(hostile); i++) {
        g_autofree char *path = g_strdup_printf("/qmp-client/hostile/%u", i);
        g_test_add(path, Fixture, GUINT_TO_POINTER(i), set_up, test_hostile, tear_down);
    }
    g_test_add_func("/qmp-client/shared", test_shared);
    g_test_add_func("/qmp-client/connect", test_connect);
    g_test_add_data_func("/qmp-client/connect/full", NULL, test_connect_full);
    g_test_add_data_func("/qmp-client/connect/full/ends", "ends", test_connect_full);
    return g_test_run();
}
