/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A server of one page. A connection is one request: its head is read, at most 8 KiB and 10 s of
 * it, it is answered, and closed. At most 16 at a time; then the next ones wait in the kernel's
 * queue, so strangers cost neither memory nor files without limit. Nor time: the page is made once
 * a second at most, since looking at all processes of a host is work that its guests would feel.
 *
 * Nothing of a request is used but its first line and its Accept. One thread: the main loop of the
 * default context.
 */
#include "cli/watch/metrics-listen.h"

#include <stdio.h>
#include <string.h>

#include "cli/watch/metrics-text.h"

#define HEAD_MAX 8192 /* bytes */
#define SECONDS 10
#define CLIENTS_MAX 16
#define PAGE_US G_USEC_PER_SEC /* for so long a page is what it is */

typedef struct {
    GSocketService *service;
    FfMetricsPage *page;
    void *opaque; /* of .page */
    unsigned clients;
    char *made[2]; /* pages: text, OpenMetrics; NULL: none so far */
    gint64 when[2];
} Server;

typedef struct {
    Server *server;
    GSocketConnection *connection;
    GCancellable *late;
    guint timer;
    gsize length;
    char head[HEAD_MAX + 1];
    char *answer;
} Client;

GSocketAddress *ff_metrics_address(const char *address, GError **error)
{
    const char *colon = strrchr(address, ':');
    const char *digits = colon ? colon + 1 : address;
    g_autofree char *host = colon ? g_strndup(address, colon - address) : g_strdup("127.0.0.1");
    gsize length = strlen(host);
    GSocketAddress *found = NULL;
    guint64 port;

    if (length > 2 && host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = 0;
        memmove(host, host + 1, length - 1);
    }
    if (g_ascii_string_to_unsigned(digits, 10, 0, 65535, &port, NULL)) {
        found = g_inet_socket_address_new_from_string(host, port);
    }
    if (!found) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "--listen %s: give PORT (on 127.0.0.1), or ADDRESS:PORT in numbers", address);
    }
    return found;
}

/* ---- one request ----------------------------------------------------------------------------- */

static char *make_response(const char *status, const char *type, const char *body, bool head)
{
    return g_strdup_printf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                           "Connection: close\r\n\r\n%s",
                           status, type, strlen(body), head ? "" : body);
}

/* The client takes OpenMetrics. */
static bool wants_open(const char *request)
{
    g_auto(GStrv) lines = g_strsplit(request, "\n", -1);

    for (char **line = lines; *line; line++) {
        if (!g_ascii_strncasecmp(*line, "accept:", 7)) {
            return strstr(*line, "application/openmetrics-text");
        }
    }
    return false;
}

char *ff_metrics_answer(const char *request, FfMetricsPage *page, void *opaque)
{
    g_autofree char *line = g_strndup(request, strcspn(request, "\r\n"));
    g_auto(GStrv) word = g_strsplit(line, " ", 3);
    bool head = word[0] && !strcmp(word[0], "HEAD");
    bool open = wants_open(request);

    if (g_strv_length(word) != 3 || !g_str_has_prefix(word[2], "HTTP/1.")) {
        return make_response("400 Bad Request", "text/plain", "this is no HTTP request\n", false);
    }
    if (!head && strcmp(word[0], "GET") != 0) {
        return make_response("405 Method Not Allowed", "text/plain", "only GET\n", false);
    }
    word[1][strcspn(word[1], "?")] = 0;
    if (strcmp(word[1], "/metrics") != 0) {
        return make_response("404 Not Found", "text/plain", "the page is /metrics\n", head);
    }
    g_autofree char *body = page(open, opaque);
    return make_response("200 OK", open ? FF_METRICS_OPEN : FF_METRICS_TEXT, body, head);
}

/* FfMetricsPage: the server's, as long as it is fresh. */
static char *fresh_page(bool open, void *opaque)
{
    Server *s = opaque;

    if (!s->made[open] || g_get_monotonic_time() - s->when[open] >= PAGE_US) {
        g_free(s->made[open]);
        s->made[open] = s->page(open, s->opaque);
        s->when[open] = g_get_monotonic_time();
    }
    return g_strdup(s->made[open]);
}

static void client_free(Client *c)
{
    Server *server = c->server;

    g_clear_handle_id(&c->timer, g_source_remove);
    g_io_stream_close(G_IO_STREAM(c->connection), NULL, NULL);
    g_object_unref(c->connection);
    g_object_unref(c->late);
    g_free(c->answer);
    g_free(c);
    if (server->clients-- == CLIENTS_MAX) {
        g_socket_service_start(server->service);
    }
}

static gboolean on_late(gpointer opaque)
{
    Client *c = opaque;

    c->timer = 0;
    g_cancellable_cancel(c->late); /* what is under way ends with an error */
    return G_SOURCE_REMOVE;
}

static void on_written(GObject *stream, GAsyncResult *result, gpointer opaque)
{
    g_output_stream_write_all_finish(G_OUTPUT_STREAM(stream), result, NULL, NULL);
    client_free(opaque);
}

static void answer_client(Client *c, char *text)
{
    GOutputStream *out = g_io_stream_get_output_stream(G_IO_STREAM(c->connection));

    c->answer = text;
    g_output_stream_write_all_async(out, text, strlen(text), G_PRIORITY_DEFAULT, c->late,
                                    on_written, c);
}

static void read_more(Client *c);

static void on_read(GObject *stream, GAsyncResult *result, gpointer opaque)
{
    Client *c = opaque;
    gssize n = g_input_stream_read_finish(G_INPUT_STREAM(stream), result, NULL);

    if (n <= 0) {
        client_free(c);
        return;
    }
    c->length += n;
    c->head[c->length] = 0;
    if (strstr(c->head, "\r\n\r\n") || strstr(c->head, "\n\n")) {
        answer_client(c, ff_metrics_answer(c->head, fresh_page, c->server));
    } else if (c->length == HEAD_MAX || strlen(c->head) < c->length) {
        answer_client(
            c, make_response("400 Bad Request", "text/plain", "this is no HTTP request\n", false));
    } else {
        read_more(c);
    }
}

static void read_more(Client *c)
{
    GInputStream *in = g_io_stream_get_input_stream(G_IO_STREAM(c->connection));

    g_input_stream_read_async(in, c->head + c->length, HEAD_MAX - c->length, G_PRIORITY_DEFAULT,
                              c->late, on_read, c);
}

static gboolean on_incoming(GSocketService *service, GSocketConnection *connection, GObject *source,
                            gpointer opaque)
{
    Server *server = opaque;
    Client *c = g_new0(Client, 1);

    c->server = server;
    c->connection = g_object_ref(connection);
    c->late = g_cancellable_new();
    c->timer = g_timeout_add_seconds(SECONDS, on_late, c);
    if (++server->clients == CLIENTS_MAX) {
        g_socket_service_stop(service);
    }
    read_more(c);
    return TRUE;
}

bool ff_metrics_listen(const char *address, FfMetricsPage *page, void *opaque, GError **error)
{
    g_autoptr(GSocketAddress) where = ff_metrics_address(address, error);
    g_autoptr(GSocketAddress) bound = NULL;
    g_autoptr(GSocketService) service = g_socket_service_new();
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autofree char *text = NULL;
    Server server = {.service = service, .page = page, .opaque = opaque};

    if (!where) {
        return false;
    }
    if (!g_socket_listener_add_address(G_SOCKET_LISTENER(service), where, G_SOCKET_TYPE_STREAM,
                                       G_SOCKET_PROTOCOL_TCP, NULL, &bound, error)) {
        g_prefix_error(error, "cannot listen at %s (choose another --listen): ", address);
        return false;
    }
    text = g_socket_connectable_to_string(G_SOCKET_CONNECTABLE(bound));
    fprintf(stderr, "farfault: metrics at http://%s/metrics\n", text);
    g_signal_connect(service, "incoming", G_CALLBACK(on_incoming), &server);
    g_main_loop_run(loop); /* until a signal ends the process */
    return true;
}
