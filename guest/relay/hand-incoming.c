/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hands -incoming's URI to QEMU: migrate-incoming on the private monitor, in a conversation of two
 * commands, whose answers come in their order.
 *
 * The relay may have died over this before, and QEMU takes one such command only: "already
 * started" is as good. One thread; no locks.
 *
 * System calls: socket, connect.
 */
#include "guest/relay/internal.h"

#include <errno.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "guest/relay/conn.h"
#include "guest/relay/qmp-frame.h"

#define MAX_ANSWER (64 << 10) /* bytes of one message that are looked at */
#define STARTED_ALREADY "already been started"

struct FfHandIncoming {
    FfConn *conn;
    FfQmpSplitter *splitter;
    GString *message; /* of QEMU's, so far */
    unsigned answers;
    char *uri;
    FfHandIncomingDone done; /* NULL: was called */
    void *opaque;
};

void ff_hand_incoming_free(FfHandIncoming *hand)
{
    ff_conn_free(hand->conn);
    ff_qmp_splitter_free(hand->splitter);
    g_string_free(hand->message, TRUE);
    g_free(hand->uri);
    g_free(hand);
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void send_command(FfHandIncoming *hand, JsonBuilder *builder)
{
    g_autoptr(JsonNode) root = json_builder_get_root(builder);
    g_autofree char *text = json_to_string(root, FALSE);
    g_autofree char *line = g_strconcat(text, "\n", NULL);

    ff_conn_write(hand->conn, line, strlen(line), NULL, 0);
}

static void negotiate_capabilities(FfHandIncoming *hand)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "execute");
    json_builder_add_string_value(b, "qmp_capabilities");
    json_builder_end_object(b);
    send_command(hand, b);
}

static void give_uri(FfHandIncoming *hand)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "execute");
    json_builder_add_string_value(b, "migrate-incoming");
    json_builder_set_member_name(b, "arguments");
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "uri");
    json_builder_add_string_value(b, hand->uri);
    json_builder_end_object(b);
    json_builder_end_object(b);
    send_command(hand, b);
    FF_FAULT_AT("incoming-handed");
}

/* ---- what QEMU says -------------------------------------------------------------------------- */

/* The reason in an error (g_free). */
static char *reason_in(const char *text)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    JsonObject *object = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    JsonNode *error = object ? json_object_get_member(object, "error") : NULL;

    if (!error || !JSON_NODE_HOLDS_OBJECT(error)) {
        return g_strdup("QEMU gives no reason");
    }
    return g_strdup(json_object_get_string_member_with_default(json_node_get_object(error), "desc",
                                                               "QEMU gives no reason"));
}

static void finish_handing(FfHandIncoming *hand, const char *why)
{
    FfHandIncomingDone done = hand->done;

    hand->done = NULL;
    if (done) {
        done(why, hand->opaque); /* may free HAND */
    }
}

/* TRUE: HAND may be gone. */
static bool handle_answer(FfHandIncoming *hand, bool is_error)
{
    g_autofree char *why = is_error ? reason_in(hand->message->str) : NULL;

    if (++hand->answers == 1 && !why) {
        give_uri(hand);
        return false;
    }
    if (why && strstr(why, STARTED_ALREADY)) {
        g_clear_pointer(&why, g_free);
    }
    finish_handing(hand, why);
    return true;
}

/* TRUE: HAND may be gone. */
static bool message_ended(FfHandIncoming *hand)
{
    FfQmpAnswer answer = *ff_qmp_splitter_answer(hand->splitter);
    bool over = false;

    if (answer.kind == FF_QMP_GREETING) {
        negotiate_capabilities(hand);
    } else if (answer.kind == FF_QMP_REPLY) {
        over = handle_answer(hand, answer.is_error);
    }
    if (!over) {
        g_string_truncate(hand->message, 0);
    }
    return over;
}

static void data_came(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds,
                      void *opaque)
{
    FfHandIncoming *hand = opaque;
    size_t used = 0;

    for (unsigned i = 0; i < n_fds; i++) {
        close(fds[i]); /* no QMP command returns fds */
    }
    while (used < len) {
        bool end;
        size_t n = ff_qmp_splitter_feed(hand->splitter, buf + used, len - used, &end);

        if (hand->message->len < MAX_ANSWER) {
            g_string_append_len(hand->message, buf + used, (gssize)n);
        }
        used += n;
        if (end && message_ended(hand)) {
            return;
        }
    }
}

/* A QEMU that has ended; its pidfd says so. */
static void connection_ended(FfConn *conn, bool gone, void *opaque)
{
}

static void connection_drained(FfConn *conn, void *opaque)
{
}

static const FfConnOps ops = {data_came, connection_ended, connection_drained};

static int connect_monitor(int monitor)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d", monitor);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int error = errno;

        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

FfHandIncoming *ff_hand_incoming_new(int monitor, const char *uri, FfHandIncomingDone done,
                                     void *opaque)
{
    int fd = connect_monitor(monitor);

    if (fd < 0) {
        return NULL;
    }
    FfHandIncoming *hand = g_new0(FfHandIncoming, 1);

    hand->conn = ff_conn_new(fd, fd, &ops, hand);
    hand->splitter = ff_qmp_splitter_new();
    hand->message = g_string_new(NULL);
    hand->uri = g_strdup(uri);
    hand->done = done;
    hand->opaque = opaque;
    return hand;
}
