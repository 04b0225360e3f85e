/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns one connection to a QMP monitor and the commands under way on it.
 *
 * One GSource on the given context reads and writes the non-blocking socket. Commands are queued
 * as finished lines under the lock by any thread; the source writes them. Each command is in
 * "pending" by its number until its reply came, also when nobody waits for it any more (a
 * deadline passed), so that a late reply is recognised. What QEMU says is cut into JSON texts by
 * counting brackets outside of strings. It is not trusted: the length of a text and the depth of
 * its nesting are bounded before it is parsed, and anything that QMP does not allow ends the
 * connection.
 *
 * QEMU answers the client that is connected by then, so an answer may be to a client before us:
 * commands of two clients have different ids, and what is not ours is skipped. A shared monitor is
 * used by others besides. It may be pretty-printed, so that a text has many lines; there what
 * nobody asked for is skipped whatever it is.
 *
 * Threads: any. The lock is a leaf: no callback runs and nothing else is locked under it.
 */
#include "qmp/client-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/rights.h"
#include "qmp/json.h"

#define MAX_TEXT (64u << 20) /* bytes; QEMU's own limit for a JSON text */
#define MAX_NESTING 1024     /* QEMU's own limit */
#define READ_CHUNK (64 * 1024)
#define CONNECT_AGAIN_US (100 * 1000)
#define MAX_FDS 16 /* QEMU takes at most 16 fds with one message */

G_DEFINE_QUARK(ff - qmp - error - quark, ff_qmp_error)

bool ff_qmp_refused(const GError *error)
{
    return g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC) ||
           g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND);
}

static const char not_json[] = "QEMU's monitor sent something that is not JSON";
static const char not_qmp[] = "QEMU's monitor sent something that is not QMP";

typedef struct {
    GString *text; /* one line; text->str[done..] is still to be written */
    size_t done;
    uint64_t id;
    int fds[MAX_FDS]; /* go with the first byte */
    unsigned n_fds;
} Message;

typedef struct {
    FfQmpReplyFunc func; /* can be NULL */
    void *opaque;
    bool take; /* FUNC owns the result */
} Pending;

struct FfQmpClientSource {
    GSource base;
    FfQmpClient *client; /* holds a reference while the connection lives */
    gpointer tag;        /* under the client's lock; NULL: not connected yet */
};

static void message_free(Message *m)
{
    for (unsigned i = 0; i < m->n_fds; i++) {
        close(m->fds[i]);
    }
    g_string_free(m->text, TRUE);
    g_free(m);
}

static void set_no_way(GError **error, int errnum)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errnum),
                "cannot connect to QEMU's private monitor: %s (is QEMU still running?)",
                g_strerror(errnum));
}

static int socket_new(int flags, GError **error)
{
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (sock < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "cannot make a socket for QEMU's monitor: %s", g_strerror(errno));
    }
    return sock;
}

/* The kernel resolves the link of /proc/self/fd to the socket's inode itself, so neither its name
 * nor its length matters, and an unlinked socket can be reached. */
static int connect_to(int sock, int inode)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d", inode);
    return connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

int ff_qmp_connect(int fd, GError **error)
{
    int sock = socket_new(0, error);
    int rc = sock < 0 ? 0 : connect_to(sock, fd);

    if (rc < 0) {
        set_no_way(error, -rc);
        close(sock);
        return -1;
    }
    return sock;
}

FfQmpClient *ff_qmp_client_ref(FfQmpClient *client)
{
    g_atomic_ref_count_inc(&client->refs);
    return client;
}

void ff_qmp_client_unref(FfQmpClient *client)
{
    if (!g_atomic_ref_count_dec(&client->refs)) {
        return;
    }
    close(client->fd);
    if (client->inode >= 0) {
        close(client->inode);
    }
    g_byte_array_unref(client->in);
    g_queue_clear_full(&client->out, (GDestroyNotify)message_free);
    g_hash_table_unref(client->pending);
    ff_mutex_clear(&client->lock);
    ff_cond_clear(&client->cond);
    g_free(client->why);
    g_free(client->greeting);
    if (client->context) {
        g_main_context_unref(client->context);
    }
    g_free(client);
}

static GError *gone_error(FfQmpClient *client)
{
    return g_error_new(FF_QMP_ERROR, FF_QMP_ERROR_GONE, "%s", client->why);
}

/* Marks the connection dead and fails what is under way. Called without the lock, once or more,
 * from any thread; callbacks of asynchronous calls run in this thread then. */
static void client_gone(FfQmpClient *client, const FfQmpEnd *end)
{
    g_autoptr(GPtrArray) calls = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    GHashTableIter iter;
    void *key, *value;

    ff_mutex_lock(&client->lock);
    if (client->state == FF_QMP_STATE_GONE) {
        ff_mutex_unlock(&client->lock);
        return;
    }
    client->state = FF_QMP_STATE_GONE;
    client->why = g_strdup(end->why);
    error = gone_error(client);
    g_hash_table_iter_init(&iter, client->pending);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        g_ptr_array_add(calls, value);
        g_hash_table_iter_steal(&iter);
        g_free(key);
    }
    ff_cond_broadcast(&client->cond);
    ff_mutex_unlock(&client->lock);

    shutdown(client->fd, SHUT_RDWR);
    for (unsigned i = 0; i < calls->len; i++) {
        Pending *p = calls->pdata[i];
        if (p->func) {
            p->func(client, NULL, error, p->opaque);
        }
    }
    if (client->on_gone) {
        client->on_gone(client, end, client->opaque);
    }
}

static int send_some(FfQmpClient *client, Message *m)
{
    ssize_t n = ff_rights_send(client->fd, m->text->str + m->done, m->text->len - m->done, m->fds,
                               m->done ? 0 : m->n_fds);

    m->done += MAX(n, 0);
    return n < 0 ? n : 0;
}

/* Under the lock: writes what the socket takes. When that fails the source sees a hang-up, and ends
 * the connection on its own thread. */
static void flush_locked(FfQmpClient *client)
{
    GIOCondition want = G_IO_IN;

    while (client->state != FF_QMP_STATE_GONE) {
        Message *m = g_queue_peek_head(&client->out);
        int ret;

        if (!m || (m->id != client->first_id && client->state != FF_QMP_STATE_READY)) {
            break;
        }
        /* QEMU keeps only the fds of the last message that had any, so a second such message must
         * wait until the first command has taken its own. */
        if (m->n_fds && m->done == 0 && client->fds_flying) {
            break;
        }
        ret = send_some(client, m);
        if (ret == -EAGAIN) {
            want |= G_IO_OUT;
            break;
        }
        if (ret < 0) {
            shutdown(client->fd, SHUT_RDWR); /* both directions: maybe only writing failed */
            break;
        }
        if (m->n_fds) {
            client->fds_flying = m->id;
        }
        if (m->done == m->text->len) {
            message_free(g_queue_pop_head(&client->out));
        }
    }
    if (client->source && client->source->tag && client->state != FF_QMP_STATE_GONE) {
        /* Safe in any thread: it takes the context's own lock and wakes its poll. */
        g_source_modify_unix_fd(&client->source->base, client->source->tag, want);
    }
}

/* COPIES has MAX_FDS. FALSE and ERROR: there is no descriptor free, and none was taken. */
static bool copy_fds(const int *fds, unsigned n, int *copies, GError **error)
{
    for (unsigned i = 0; i < n; i++) {
        copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (copies[i] < 0) {
            g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                        "a descriptor cannot be passed to QEMU: %s", g_strerror(errno));
            while (i > 0) {
                close(copies[--i]);
            }
            return false;
        }
    }
    return true;
}

/* Under the lock: queues COMMAND under ID, with FDS, which it takes; the text is a finished
 * line. */
static void queue_locked(FfQmpClient *client, const char *command, JsonObject *args, uint64_t id,
                         const int *fds, unsigned n_fds)
{
    Message *m = g_new0(Message, 1);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(JsonObject) o = json_object_new();
    g_autofree char *text = NULL;

    json_object_set_string_member(o, "execute", command);
    if (args) {
        json_object_set_object_member(o, "arguments", json_object_ref(args));
    }
    json_object_set_int_member(o, "id", id);
    json_node_set_object(node, o);
    text = json_to_string(node, FALSE);
    m->text = g_string_new(text);
    g_string_append_c(m->text, '\n');
    m->id = id;
    for (unsigned i = 0; i < n_fds; i++) {
        m->fds[m->n_fds++] = fds[i];
    }
    if (id == client->first_id) {
        g_queue_push_head(&client->out, m);
    } else {
        g_queue_push_tail(&client->out, m);
    }
}

void ff_qmp_call(FfQmpClient *client, const char *command, JsonObject *args, const int *fds,
                 unsigned n_fds, FfQmpReplyFunc reply, void *opaque)
{
    ff_qmp_call_full(client, command, args, fds, n_fds, reply, opaque, false);
}

void ff_qmp_call_full(FfQmpClient *client, const char *command, JsonObject *args, const int *fds,
                      unsigned n_fds, FfQmpReplyFunc reply, void *opaque, bool take)
{
    Pending *p = g_new(Pending, 1);
    uint64_t *key = g_new(uint64_t, 1);
    g_autoptr(GError) error = NULL;
    int copies[MAX_FDS];

    g_assert(n_fds <= MAX_FDS);
    *p = (Pending){reply, opaque, take};
    bool copied = copy_fds(fds, n_fds, copies, &error);
    ff_mutex_lock(&client->lock);
    if (!copied || client->state == FF_QMP_STATE_GONE) {
        error = error ? error : gone_error(client);
        ff_mutex_unlock(&client->lock);
        for (unsigned i = 0; copied && i < n_fds; i++) {
            close(copies[i]);
        }
        g_free(key);
        g_free(p);
        if (reply) {
            reply(client, NULL, error, opaque);
        }
        return;
    }
    *key = client->next_id++;
    g_hash_table_insert(client->pending, key, p);
    queue_locked(client, command, args, *key, copies, n_fds);
    flush_locked(client);
    ff_mutex_unlock(&client->lock);
}

void ff_qmp_client_forget(FfQmpClient *client, const void *opaque)
{
    GHashTableIter iter;
    void *value;

    ff_mutex_lock(&client->lock);
    g_hash_table_iter_init(&iter, client->pending);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Pending *p = value;

        if (p->opaque == opaque) {
            p->func = NULL;
        }
    }
    ff_mutex_unlock(&client->lock);
}

static unsigned parse_version(JsonObject *greeting)
{
    static const char *const parts[] = {"major", "minor", "micro"};
    JsonObject *qemu =
        ff_json_object(ff_json_object(ff_json_object(greeting, "QMP"), "version"), "qemu");
    unsigned version = 0;

    for (unsigned i = 0; qemu && i < G_N_ELEMENTS(parts); i++) {
        version = version * 100 + CLAMP(ff_json_int(qemu, parts[i], 0), 0, 99);
    }
    return version;
}

static const char *handle_greeting(FfQmpClient *client, JsonObject *o, const char *text)
{
    ff_mutex_lock(&client->lock);
    if (client->state != FF_QMP_STATE_GREETING) {
        ff_mutex_unlock(&client->lock);
        return client->shared ? NULL : "QEMU's monitor greeted twice";
    }
    client->greeting = g_strdup(text);
    client->version = parse_version(o);
    client->state = FF_QMP_STATE_NEGOTIATING;
    queue_locked(client, "qmp_capabilities", NULL, client->first_id, NULL, 0);
    ff_cond_broadcast(&client->cond);
    flush_locked(client);
    ff_mutex_unlock(&client->lock);
    return NULL;
}

static void handle_event(FfQmpClient *client, const char *name, JsonNode *root, const char *text)
{
    ff_mutex_lock(&client->lock);
    for (GList *l = client->watches; l; l = l->next) {
        FfQmpWatch *w = l->data;
        if (!w->name || strcmp(w->name, name) == 0) {
            /* One of its own: json-glib's objects are not made for two threads. */
            g_queue_push_tail(&w->events, json_from_string(text, NULL));
        }
    }
    ff_cond_broadcast(&client->cond);
    ff_mutex_unlock(&client->lock);
    if (client->on_event) {
        client->on_event(client, name, json_node_get_object(root), client->opaque);
    }
}

void ff_qmp_one_line(char *text)
{
    for (; *text; text++) {
        if (g_ascii_iscntrl(*text)) {
            *text = ' ';
        }
    }
}

static GError *error_from_reply(JsonObject *e)
{
    const char *class = ff_json_string(e, "class");
    const char *desc = ff_json_string(e, "desc");
    FfQmpErrorCode code = g_strcmp0(class, "CommandNotFound") == 0 ? FF_QMP_ERROR_COMMAND_NOT_FOUND
                                                                   : FF_QMP_ERROR_GENERIC;

    GError *error = g_error_new(FF_QMP_ERROR, code, "%s", desc ? desc : "QEMU gave no reason");

    ff_qmp_one_line(error->message);
    return error;
}

static const char *handle_reply(FfQmpClient *client, JsonObject *o)
{
    JsonNode *id = ff_json_value(o, "id", G_TYPE_INT64);
    g_autoptr(JsonNode) result = json_object_dup_member(o, "return");
    g_autoptr(GError) error = NULL;
    g_autofree Pending *p = NULL;
    g_autofree uint64_t *key = NULL;
    uint64_t n;

    if (!id) {
        return client->shared ? NULL : "QEMU's monitor answered without an id";
    }
    if (!result) {
        error = error_from_reply(ff_json_object(o, "error"));
    }
    n = json_node_get_int(id);
    /* Out of the tree, so that the one that takes it shares nothing with this thread. */
    if (result) {
        json_object_remove_member(o, "return");
    }
    ff_mutex_lock(&client->lock);
    if (n == client->first_id && client->state == FF_QMP_STATE_NEGOTIATING) {
        if (error) {
            ff_mutex_unlock(&client->lock);
            return "QEMU's monitor refused qmp_capabilities";
        }
        client->state = FF_QMP_STATE_READY;
        ff_cond_broadcast(&client->cond);
    } else if (!g_hash_table_steal_extended(client->pending, &n, (gpointer *)&key,
                                            (gpointer *)&p)) {
        bool twice = n >= client->first_id && n < client->next_id;
        ff_mutex_unlock(&client->lock);
        return twice && !client->shared ? "QEMU's monitor answered a command that was not given"
                                        : NULL;
    }
    if (client->fds_flying == n) {
        client->fds_flying = 0;
    }
    flush_locked(client);
    ff_mutex_unlock(&client->lock);
    if (p && p->func) {
        bool take = p->take;
        p->func(client, result, error, p->opaque);
        if (take) {
            g_steal_pointer(&result);
        }
    }
    return NULL;
}

/* TEXT is one JSON text, its nesting bounded (json-glib's parser recurses, and has no limit of its
 * own). Returns NULL, or why the connection must end. */
static const char *handle_text(FfQmpClient *client, const char *text)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonNode *root;
    JsonObject *o;
    const char *name;

    if (!json_parser_load_from_data(parser, text, -1, NULL)) {
        return not_json;
    }
    root = json_parser_get_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        return "QEMU's monitor sent JSON that is no object";
    }
    o = json_node_get_object(root);
    if (json_object_has_member(o, "QMP")) {
        return handle_greeting(client, o, text);
    }
    name = ff_json_string(o, "event");
    if (name) {
        handle_event(client, name, root, text);
        return NULL;
    }
    if (json_object_has_member(o, "return") || json_object_has_member(o, "error")) {
        return handle_reply(client, o);
    }
    return client->shared ? NULL : "QEMU's monitor sent neither a reply nor an event";
}

/* Looks at the next byte; *END: a text ends with it. Returns NULL, or why the connection must
 * end. */
static const char *scan_byte(FfQmpClient *client, char c, bool *end)
{
    *end = false;
    if (client->in_string) {
        if (client->escaped) {
            client->escaped = false;
        } else if (c == '\\') {
            client->escaped = true;
        } else if (c == '"') {
            client->in_string = false;
        }
    } else if (!client->depth && c != '{') {
        return g_ascii_isspace(c) ? NULL : not_qmp;
    } else if (c == '"') {
        client->in_string = true;
    } else if (c == '{' || c == '[') {
        if (++client->depth > MAX_NESTING) {
            return "QEMU's monitor sent JSON that is nested too deeply";
        }
    } else if (c == '}' || c == ']') {
        *end = --client->depth == 0;
    }
    return c == '\n' && client->depth && !client->shared ? not_json : NULL;
}

/* Returns NULL, or why the connection must end; *REST is where the text begins then. */
static const char *cut_texts(FfQmpClient *client, size_t *rest)
{
    const char *why = NULL;

    while (!why && client->scanned < client->in->len) {
        const char *data = (const char *)client->in->data;
        char c = data[client->scanned++];
        bool end;

        why = scan_byte(client, c, &end);
        if (end && !why) {
            g_autofree char *text = g_strndup(data + *rest, client->scanned - *rest);

            why = handle_text(client, text);
            explicit_bzero(text, strlen(text)); /* answers may tell secrets */
        }
        if (!why && (end || (c == '\n' && !client->depth))) {
            *rest = client->scanned;
        }
    }
    return why;
}

/* How the text begins that is no QMP, for people. */
static char *describe_beginning(FfQmpClient *client, size_t start)
{
    size_t len = MIN(client->in->len - start, 40);
    g_autofree char *text = g_strndup((const char *)client->in->data + start, len);

    g_strdelimit(text, "\r\n", ' ');
    return g_strescape(g_strstrip(text), NULL);
}

/* FALSE: the connection must end. */
static bool handle_input(FfQmpClient *client)
{
    g_autofree char *said = NULL;
    size_t rest = 0;
    const char *why = cut_texts(client, &rest);

    if (!why && client->in->len - rest > MAX_TEXT) {
        why = "QEMU's monitor sent a line of more than 64 MiB";
        said = describe_beginning(client, rest);
    } else if (why == not_qmp) {
        said = describe_beginning(client, rest);
    }
    if (why) {
        client_gone(client, &(FfQmpEnd){.why = why, .foreign = true, .said = said});
        return false;
    }
    if (rest) {
        g_byte_array_remove_range(client->in, 0, rest);
        explicit_bzero(client->in->data + client->in->len, rest);
        client->scanned -= rest;
    }
    return true;
}

/* FALSE: the connection must end. */
static bool receive_text(FfQmpClient *client)
{
    size_t old = client->in->len;
    ssize_t n;

    g_byte_array_set_size(client->in, old + READ_CHUNK);
    do {
        /* recv() and not recvmsg(): the kernel drops any fds that a hostile QEMU would attach. */
        n = recv(client->fd, client->in->data + old, READ_CHUNK, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    g_byte_array_set_size(client->in, old + MAX(n, 0));
    if (n > 0) {
        return handle_input(client);
    }
    if (n < 0 && errno == EAGAIN) {
        return true;
    }
    client_gone(client, &(FfQmpEnd){.why = n ? "the connection to QEMU's monitor broke"
                                             : "QEMU closed its monitor",
                                    .errnum = n ? errno : 0});
    return false;
}

static void watch_socket(FfQmpClientSource *source)
{
    ff_mutex_lock(&source->client->lock);
    source->tag = g_source_add_unix_fd(&source->base, source->client->fd, G_IO_IN);
    ff_mutex_unlock(&source->client->lock);
}

/* Until QEMU's listen queue has room. It is full of connections of those who have died since QEMU's
 * main loop stands, which may be for a page that only we bring; QEMU accepts them then, and us. The
 * kernel has no event for room in it. */
static gboolean connect_again(FfQmpClientSource *source)
{
    FfQmpClient *client = source->client;

    ff_mutex_lock(&client->lock);
    bool gone = client->state == FF_QMP_STATE_GONE;
    ff_mutex_unlock(&client->lock);
    if (gone) {
        return G_SOURCE_REMOVE;
    }
    int rc = connect_to(client->fd, client->inode);
    if (rc == -EAGAIN || rc == -EINTR || rc == -ENOMEM || rc == -ENOBUFS || rc == -ENFILE) {
        g_source_set_ready_time(&source->base, g_get_monotonic_time() + CONNECT_AGAIN_US);
        return G_SOURCE_CONTINUE;
    }
    if (rc < 0) {
        g_autoptr(GError) why = NULL;

        set_no_way(&why, -rc);
        client_gone(client, &(FfQmpEnd){.why = why->message, .errnum = -rc});
        return G_SOURCE_REMOVE;
    }
    g_source_set_ready_time(&source->base, -1);
    watch_socket(source);
    return G_SOURCE_CONTINUE;
}

static gboolean source_dispatch(GSource *base, GSourceFunc func, gpointer data)
{
    FfQmpClientSource *source = (FfQmpClientSource *)base;
    FfQmpClient *client;
    GIOCondition cond;

    ff_tsan_receive(base);
    client = source->client;
    if (!source->tag) {
        return connect_again(source);
    }
    cond = g_source_query_unix_fd(base, source->tag);

    if ((cond & (G_IO_IN | G_IO_HUP | G_IO_ERR)) && !receive_text(client)) {
        return G_SOURCE_REMOVE;
    }
    if (cond & G_IO_OUT) {
        ff_mutex_lock(&client->lock);
        flush_locked(client);
        ff_mutex_unlock(&client->lock);
    }
    return G_SOURCE_CONTINUE;
}

static void source_finalize(GSource *base)
{
    FfQmpClient *client;

    ff_tsan_receive(base);
    client = ((FfQmpClientSource *)base)->client;
    ff_mutex_lock(&client->lock);
    client->source = NULL;
    ff_mutex_unlock(&client->lock);
    ff_qmp_client_unref(client);
}

static GSourceFuncs source_funcs = {.dispatch = source_dispatch, .finalize = source_finalize};

/* INODE (taken): FD is still to be connected there; -1: it is connected. */
static FfQmpClient *client_new(int fd, int inode, GMainContext *context, bool shared,
                               FfQmpEventFunc event, FfQmpGoneFunc gone, void *opaque)
{
    FfQmpClient *client = g_new0(FfQmpClient, 1);
    GSource *source;

    g_atomic_ref_count_init(&client->refs);
    client->fd = fd;
    client->inode = inode;
    client->context = context ? g_main_context_ref(context) : NULL;
    client->on_event = event;
    client->on_gone = gone;
    client->opaque = opaque;
    client->shared = shared;
    client->in = g_byte_array_new();
    /* QEMU answers the client that is there by then: what an engine asked that is dead since must
     * not be taken for ours. */
    client->first_id = (uint64_t)(g_random_int() >> 2) << 32 | 1;
    client->next_id = client->first_id + 1;
    client->pending = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    ff_mutex_init(&client->lock);
    ff_cond_init(&client->cond);
    g_queue_init(&client->out);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);

    client->source = (FfQmpClientSource *)g_source_new(&source_funcs, sizeof(FfQmpClientSource));
    client->source->client = ff_qmp_client_ref(client);
    g_source_set_name(&client->source->base, "qmp-client");
    source = &client->source->base;
    if (inode < 0) {
        watch_socket(client->source);
    } else {
        g_source_set_ready_time(source, g_get_monotonic_time() + CONNECT_AGAIN_US);
    }
    ff_tsan_publish(source); /* by the context's lock */
    g_source_attach(source, context);
    g_source_unref(source);
    return client;
}

FfQmpClient *ff_qmp_client_new(int fd, GMainContext *context, FfQmpEventFunc event,
                               FfQmpGoneFunc gone, void *opaque)
{
    return client_new(fd, -1, context, false, event, gone, opaque);
}

FfQmpClient *ff_qmp_client_new_shared(int fd, FfQmpEventFunc event, FfQmpGoneFunc gone,
                                      void *opaque)
{
    return client_new(fd, -1, NULL, true, event, gone, opaque);
}

FfQmpClient *ff_qmp_client_new_to(int inode, GMainContext *context, FfQmpEventFunc event,
                                  FfQmpGoneFunc gone, void *opaque, GError **error)
{
    int sock = socket_new(SOCK_NONBLOCK, error), later = -1;
    int rc = sock < 0 ? 0 : connect_to(sock, inode);

    if (rc == -EAGAIN) {
        later = fcntl(inode, F_DUPFD_CLOEXEC, 3);
        rc = later < 0 ? -errno : 0;
    }
    if (rc < 0) {
        set_no_way(error, -rc);
        close(sock);
    }
    return sock < 0 || rc < 0 ? NULL : client_new(sock, later, context, false, event, gone, opaque);
}

void ff_qmp_client_close(FfQmpClient *client)
{
    client_gone(client, &(FfQmpEnd){.why = "the connection to QEMU's monitor was closed"});
    /* Else the source sees the hang-up, and goes in its own time. Here nobody may run the context
     * any more, but no other thread can be in it either. */
    if (client->shared && client->source) {
        g_source_destroy(&client->source->base);
    }
}
