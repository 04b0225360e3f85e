/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Splices connections between a peer and QEMU.
 *
 * The main loop accepts; per connection two threads copy (stream.c), each blocking on its own
 * end, so nothing is polled. A thread that reads the end of its stream ends the other side's
 * writing, and the other direction continues. The thread that ends last tells the main loop, which
 * joins both. What may take its time before that (connecting, a TLS handshake) is the second
 * thread's, which then starts the first. No locks: the ends and "running" are atomic, everything
 * else is the main loop's.
 *
 * Under TLS each connection has a session with the peer, which ends here, and QEMU gets the plain
 * text on a private socket. A connection whose handshake fails never reaches QEMU.
 *
 * System calls: accept4.
 */
#include "net/splice.h"

#include "base/failpoints.h"
#include "base/io-result.h"
#include "net/address.h"
#include "net/channel-read.h"
#include "net/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* So many peers that are not known yet may be in their handshakes at once: each has a thread. */
#define STRANGERS_MAX 32
/* Until the next attempt to accept, in a shortage (seconds). */
#define SHORT_S 1

typedef struct {
    FfSplice *native;
    bool stranger; /* has come to us, and is to be put under TLS */
    bool sent_away;
    /* Atomic; FfStream, set once. Observer: connection_free(), which shuts them down. */
    gpointer peer, qemu;
    FfSpliceBegun begun;
    FfAddress *address; /* of the peer, where to connect first; NULL: it is connected */
    GCancellable *cancel;
    gint closing;        /* atomic: connection_free() is waiting */
    GThread *threads[2]; /* to_qemu, to_peer; the latter may start the former */
    gint running;        /* atomic: threads that have not ended */
} Connection;

struct FfSplice {
    GPtrArray *connections;
    GPtrArray *sources;
    char *path;
    FfStream *first_peer; /* for QEMU's first connection; NULL */
    FfStream *second;     /* for its second one; NULL: none was opened ahead */
    FfSpliceBegun begun;
    char *address; /* of the peer, for additional ones */
    FfTls *tls;    /* of all connections; NULL: in the clear */
    char *hostname;
    gint matches;               /* atomic; see ff_splice_matches() */
    bool told;                  /* that there was a shortage */
    FfSpliceDone done, matched; /* the latter NULL: nobody asks */
    gpointer opaque;
};

static const char OTHER_OPENING[] = "QEMU's migration stream begins in another way than farfault "
                                    "expected: set x-farfault-peer to native";

/* QEMU's stream begins with what the peer has: header and configuration, and then, if QEMU wants
 * the return path, the command for it. Its own PING follows and is the peer's business. */
static bool skip_opening(Connection *c)
{
    gsize n;
    const uint8_t *sent = g_bytes_get_data(c->begun.opening, &n);
    const uint8_t *command = sent + n - FF_PROLOGUE_COMMANDS;
    g_autofree uint8_t *buf = g_malloc(n);

    n -= FF_PROLOGUE_COMMANDS;
    if (!ff_stream_read_all(c->qemu, buf, n)) {
        return false;
    }
    if (memcmp(buf, sent, n) != 0) {
        g_warning("%s", OTHER_OPENING);
        return false;
    }
    if (!ff_stream_read_all(c->qemu, buf, FF_PROLOGUE_OPEN)) {
        return false;
    }
    if (memcmp(buf, command, FF_PROLOGUE_OPEN) == 0) {
        return true;
    }
    if (buf[0] == FF_PROLOGUE_SUBSECTION) {
        g_warning("QEMU's configuration section has a part that farfault does not know: set "
                  "x-farfault-peer to native");
        return false;
    }
    if (buf[0] == FF_PROLOGUE_CONFIGURATION) { /* the peer was sent none */
        g_warning("%s", OTHER_OPENING);
        return false;
    }
    return ff_stream_write_all(c->peer, buf, FF_PROLOGUE_OPEN);
}

/* QEMU's stream has no OPEN_RETURN_PATH that the peer would answer so. */
static bool pass_ack_on(Connection *c)
{
    uint8_t ack[FF_SWITCHOVER_ACK_SIZE];

    ff_switchover_ack_encode(ack);
    return ff_stream_write_all(c->qemu, ack, sizeof(ack));
}

/* Both threads read and write: the one that fails ends both directions. */
static void break_off(Connection *c)
{
    FfStream *peer = g_atomic_pointer_get(&c->peer), *qemu = g_atomic_pointer_get(&c->qemu);

    if (peer) {
        ff_stream_shutdown(peer);
    }
    if (qemu) {
        ff_stream_shutdown(qemu);
    }
}

/* Sets an end; it is seen by connection_free(), or that is seen here. */
static void set_end(Connection *c, gpointer *at, FfStream *end)
{
    g_atomic_pointer_set(at, end);
    if (g_atomic_int_get(&c->closing)) {
        break_off(c);
    }
}

static void begun_copy(FfSpliceBegun *to, const FfSpliceBegun *from)
{
    if (from) {
        to->first = from->first ? g_byte_array_ref(from->first) : NULL;
        to->opening = from->opening ? g_bytes_ref(from->opening) : NULL;
        to->ack = from->ack;
    }
}

static void begun_clear(FfSpliceBegun *begun)
{
    g_clear_pointer(&begun->first, g_byte_array_unref);
    g_clear_pointer(&begun->opening, g_bytes_unref);
}

static void connection_free(gpointer opaque)
{
    Connection *c = opaque;

    g_atomic_int_set(&c->closing, 1);
    if (c->cancel) {
        g_cancellable_cancel(c->cancel);
    }
    break_off(c); /* wakes a thread that still reads */
    g_thread_join(c->threads[1]);
    if (c->threads[0]) {
        g_thread_join(c->threads[0]);
    }
    /* The threads have queued connection_matches() and connection_over(), if those have not run
     * yet. */
    while (g_source_remove_by_user_data(c)) {
    }
    ff_stream_free(c->peer);
    ff_stream_free(c->qemu);
    begun_clear(&c->begun);
    ff_address_free(c->address);
    g_clear_object(&c->cancel);
    g_free(c);
}

static gboolean connection_over(gpointer opaque)
{
    Connection *c = opaque;
    FfSplice *n = c->native;

    g_ptr_array_remove(n->connections, c);
    if (!n->connections->len) {
        n->done(n->opaque);
    }
    return G_SOURCE_REMOVE;
}

static gboolean connection_matches(gpointer opaque)
{
    const Connection *c = opaque;
    FfSplice *n = c->native;

    if (n->matched) {
        n->matched(n->opaque);
    }
    return G_SOURCE_REMOVE;
}

static void tell_main_loop(Connection *c, GSourceFunc func)
{
    g_autoptr(GSource) source = g_idle_source_new();

    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, func, c, NULL);
    g_source_attach(source, NULL);
}

static void direction_over(Connection *c)
{
    if (g_atomic_int_dec_and_test(&c->running)) {
        tell_main_loop(c, connection_over);
    }
}

static gpointer to_qemu(gpointer opaque)
{
    Connection *c = opaque;
    const GByteArray *first = c->begun.first;

    if ((c->begun.ack && !pass_ack_on(c)) ||
        (first && !ff_stream_write_all(c->qemu, first->data, first->len))) {
        break_off(c);
    }
    ff_stream_copy(c->peer, c->qemu);
    direction_over(c);
    return NULL;
}

static gpointer to_peer(gpointer opaque)
{
    Connection *c = opaque;

    if (c->begun.opening) {
        FF_FAULT_AT("splice-opening");
        if (skip_opening(c)) {
            g_atomic_int_set(&c->native->matches, 1);
            tell_main_loop(c, connection_matches);
        } else {
            break_off(c);
        }
    }
    ff_stream_copy(c->qemu, c->peer);
    direction_over(c);
    return NULL;
}

static void run_splice(Connection *c)
{
    c->threads[0] = g_thread_new("native-in", to_qemu, c);
    c->threads[1] = g_thread_new("native-out", to_peer, c);
}

/* PEER or QEMU is NULL: the second thread is to make it. */
static Connection *connection_new(FfSplice *n, FfStream *peer, FfStream *qemu,
                                  const FfSpliceBegun *begun)
{
    Connection *c = g_new0(Connection, 1);

    c->native = n;
    c->peer = peer;
    c->qemu = qemu;
    c->cancel = g_cancellable_new();
    begun_copy(&c->begun, begun);
    c->running = G_N_ELEMENTS(c->threads);
    g_ptr_array_add(n->connections, c);
    return c;
}

void ff_splice_join(FfSplice *n, FfStream *peer, int qemu, const FfSpliceBegun *begun)
{
    run_splice(connection_new(n, peer, ff_stream_new(qemu), begun));
}

/* The second thread's rest, after it has made what was missing. */
static gpointer begin_splice(Connection *c, bool ok)
{
    if (ok) {
        c->threads[0] = g_thread_new("native-in", to_qemu, c);
        return to_peer(c);
    }
    break_off(c);
    g_atomic_int_set(&c->running, 1);
    direction_over(c);
    return NULL;
}

/* FD (taken) becomes the peer's end, under TLS if this migration has it. */
static bool set_peer(Connection *c, int fd, GError **error)
{
    FfSplice *n = c->native;

    set_end(c, &c->peer,
            n->tls ? ff_stream_new_tls(ff_channel_new(fd, FF_CHANNEL_MAIN)) : ff_stream_new(fd));
    return !n->tls || ff_stream_secure(c->peer, n->tls, n->hostname, error);
}

/* QEMU learns of a peer only when that is who it should be. */
static gpointer secure_peer(gpointer opaque)
{
    Connection *c = opaque;
    FfSplice *n = c->native;
    g_autoptr(GError) error = NULL;
    int qemu = -1;

    if (!ff_stream_secure(c->peer, n->tls, n->hostname, &error)) {
        g_message("connection refused: %s", error->message);
    } else if ((qemu = ff_address_connect_path(n->path)) >= 0) {
        set_end(c, &c->qemu, ff_stream_new(qemu));
    }
    return begin_splice(c, qemu >= 0);
}

/* The one that has been in its handshake for longest makes room. A right one is done with it long
 * before so many have come. */
static void make_room(FfSplice *n)
{
    Connection *oldest = NULL;
    unsigned waiting = 0;

    for (guint i = 0; i < n->connections->len; i++) {
        Connection *c = n->connections->pdata[i];

        if (c->stranger && !c->sent_away && !g_atomic_pointer_get(&c->qemu)) {
            oldest = oldest ? oldest : c;
            waiting++;
        }
    }
    if (waiting == STRANGERS_MAX) {
        oldest->sent_away = true;
        ff_stream_shutdown(oldest->peer);
    }
}

void ff_splice_take_peer(FfSplice *n, FfChannel *peer)
{
    if (n->tls) {
        make_room(n);
        Connection *c = connection_new(n, ff_stream_new_tls(peer), NULL, NULL);

        c->stranger = true;
        c->threads[1] = g_thread_new("native-out", secure_peer, c);
        return;
    }
    g_autoptr(GByteArray) said = ff_channel_take_unread(peer);
    const FfSpliceBegun begun = {.first = said};
    int qemu = ff_address_connect_path(n->path);

    if (qemu < 0) {
        ff_channel_free(peer); /* QEMU takes no more channels */
    } else {
        ff_splice_join(n, ff_stream_new_channel(peer), qemu, &begun);
    }
}

static void watch_listener(FfSplice *n, int listener, GUnixFDSourceFunc accept_one);

/* The source that has dispatched it ends. */
static gboolean forget_source(FfSplice *n)
{
    g_ptr_array_remove(n->sources, g_main_current_source());
    return G_SOURCE_REMOVE;
}

typedef struct {
    FfSplice *native;
    int listener;
    GUnixFDSourceFunc accept_one;
} Later;

static gboolean accept_again(gpointer opaque)
{
    const Later *l = opaque;

    watch_listener(l->native, l->listener, l->accept_one);
    return forget_source(l->native);
}

/* Nothing can be accepted for a while (base/io-result.h). */
static gboolean accept_later(FfSplice *n, int listener, GUnixFDSourceFunc accept_one, int error)
{
    GSource *timer = g_timeout_source_new_seconds(SHORT_S);
    const Later later = {n, listener, accept_one};

    if (!n->told) {
        g_message("no channel of QEMU's migration can come in, it is tried again: %s",
                  g_strerror(error));
        n->told = true;
    }
    g_source_set_callback(timer, accept_again, g_memdup2(&later, sizeof(later)), g_free);
    g_source_attach(timer, NULL);
    g_ptr_array_add(n->sources, timer);
    return forget_source(n);
}

/* The peer that had come may have given up before: then the next one wakes us. */
static gboolean not_accepted(FfSplice *n, int listener, GUnixFDSourceFunc accept_one)
{
    return ff_io_is_short(errno) ? accept_later(n, listener, accept_one, errno) : G_SOURCE_CONTINUE;
}

static int accept_from(int listener)
{
    return FF_FAULT_CALL("splice-accept", accept4(listener, NULL, NULL, SOCK_CLOEXEC));
}

static gboolean accept_peer(gint listener, GIOCondition condition, gpointer opaque)
{
    int peer = accept_from(listener);

    if (peer < 0) {
        return not_accepted(opaque, listener, accept_peer);
    }
    ff_splice_take_peer(opaque, ff_channel_new(peer, FF_CHANNEL_MAIN));
    return G_SOURCE_CONTINUE;
}

/* ---- QEMU is the source ---------------------------------------------------------------------- */

/* Connecting may take its time, which is not the main loop's. */
static gpointer connect_peer(gpointer opaque)
{
    Connection *c = opaque;
    g_autoptr(GError) error = NULL;
    int fd = ff_address_connect(c->address, c->cancel, &error);
    bool ok = false;

    if (fd >= 0) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        ok = set_peer(c, fd, &error);
    }
    if (!ok) {
        g_message("a further channel of QEMU's migration: %s", error->message);
    }
    return begin_splice(c, ok);
}

static gboolean accept_qemu(gint listener, GIOCondition condition, gpointer opaque)
{
    FfSplice *n = opaque;
    int qemu = accept_from(listener);

    if (qemu < 0) {
        return not_accepted(n, listener, accept_qemu);
    }
    if (n->first_peer) {
        ff_splice_join(n, g_steal_pointer(&n->first_peer), qemu, &n->begun);
    } else if (n->second) {
        ff_splice_join(n, g_steal_pointer(&n->second), qemu, NULL);
    } else {
        Connection *c = connection_new(n, NULL, ff_stream_new(qemu), NULL);

        c->address = ff_address_parse(n->address, NULL);
        c->threads[1] = g_thread_new("native-out", connect_peer, c);
    }
    return G_SOURCE_CONTINUE;
}

static void source_free(gpointer source)
{
    g_source_destroy(source);
    g_source_unref(source);
}

FfSplice *ff_splice_new(FfSpliceDone done, gpointer opaque)
{
    FfSplice *n = g_new0(FfSplice, 1);

    n->connections = g_ptr_array_new_with_free_func(connection_free);
    n->sources = g_ptr_array_new_with_free_func(source_free);
    n->done = done;
    n->opaque = opaque;
    return n;
}

bool ff_splice_matches(FfSplice *n)
{
    return g_atomic_int_get(&n->matches);
}

void ff_splice_when_matched(FfSplice *n, FfSpliceDone matched)
{
    n->matched = matched;
}

static void watch_listener(FfSplice *n, int listener, GUnixFDSourceFunc accept_one)
{
    GSource *source = g_unix_fd_source_new(listener, G_IO_IN);

    g_source_set_callback(source, G_SOURCE_FUNC(accept_one), n, NULL);
    g_source_attach(source, NULL);
    g_ptr_array_add(n->sources, source);
}

void ff_splice_accept_peers(FfSplice *n, GArray *listeners, const char *path)
{
    n->path = g_strdup(path);
    for (guint i = 0; i < listeners->len; i++) {
        if (g_array_index(listeners, int, i) < 0) {
            continue; /* was a connection, not a listener */
        }
        watch_listener(n, g_array_index(listeners, int, i), accept_peer);
    }
}

void ff_splice_set_tls(FfSplice *n, FfTls *tls, const char *hostname)
{
    n->tls = ff_tls_ref(tls);
    n->hostname = g_strdup(hostname);
}

void ff_splice_expect_qemu(FfSplice *n, int listener, FfStream *peer, const FfSpliceBegun *begun,
                           FfStream *second, const char *address)
{
    n->first_peer = peer;
    n->second = second;
    begun_copy(&n->begun, begun);
    n->address = g_strdup(address);
    watch_listener(n, listener, accept_qemu);
}

void ff_splice_free(FfSplice *n)
{
    g_ptr_array_unref(n->sources);
    g_ptr_array_unref(n->connections);
    ff_stream_free(n->first_peer);
    ff_stream_free(n->second);
    begun_clear(&n->begun);
    ff_tls_unref(n->tls);
    g_free(n->hostname);
    g_free(n->path);
    g_free(n->address);
    g_free(n);
}
