/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's side of the connections: connect, greet, compare blocks, open the urgent
 * channel; and the reader of what the destination says on the main one.
 *
 * Threads: ff_source_connect() is the coordinator's; the main reader is its own.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

/* A peer that is there answers a greeting within this time (milliseconds). */
#define GREETING_DEADLINE_MS 20000
/* Requests that wait for the urgent thread: more than any destination has waiters for. */
#define FEED_LATE_MAX 65536

static bool fail(GError **error, const FfChannel *ch, const char *what, int rc, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s: %s", ff_channel_peer(ch), what,
                why                ? why
                : rc == -EPIPE     ? "the peer closed the connection"
                : rc == -ETIMEDOUT ? "no answer in time"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

static int connect_main(FfMigration *m, FfAddress **address, GError **error)
{
    if (m->cfg.fd >= 0) {
        *address = ff_address_of_peer(m->cfg.fd);
        int fd = m->cfg.fd;
        m->cfg.fd = -1;
        return fd;
    }
    *address = ff_address_parse(m->cfg.uri, error);
    return *address ? ff_address_connect(*address, m->cancel, error) : -1;
}

/* Reads one frame of a type that is expected now, with its payload (at most CAP bytes). The first
 * HAVE bytes of it, FIRST, were read already. */
static bool expect_from(FfChannel *ch, const uint8_t *first, size_t have, FfFrameType type,
                        FfFrame *f, void *payload, size_t cap, GError **error)
{
    const char *why = NULL;

    if (have) {
        memcpy(f, first, have);
    }
    int rc = ff_channel_read_all(ch, (char *)f + have, sizeof(*f) - have, GREETING_DEADLINE_MS);

    rc = rc < 0 ? rc : ff_frame_decode(f, &why);
    if (rc < 0) {
        return fail(error, ch, "waiting for the peer", rc, why);
    }
    if (f->type != type || f->length > cap) {
        g_set_error(error, FF_M_ERROR, 0, "%s: sent '%s' where '%s' belongs: not a farfault peer",
                    ff_channel_peer(ch), ff_frame_name(f->type), ff_frame_name(type));
        return false;
    }
    rc = ff_channel_read_all(ch, payload, f->length, GREETING_DEADLINE_MS);
    return rc < 0 ? fail(error, ch, "waiting for the peer", rc, NULL) : true;
}

static bool expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                   GError **error)
{
    return expect_from(ch, NULL, 0, type, f, payload, cap, error);
}

/* NULL: it cannot be had. */
static FfChannel *open_second(FfMigration *m, const FfAddress *address)
{
    g_autoptr(GError) error = NULL;
    int fd = ff_address_connect(address, m->cancel, &error);
    g_autoptr(FfChannel) ch = fd >= 0 ? ff_m_channel_new(m, fd, FF_CHANNEL_MAIN) : NULL;

    if (!ch || !ff_m_secure(m, ch, &error)) {
        g_message("a second connection for a peer that says nothing: %s", error->message);
        return NULL;
    }
    return g_steal_pointer(&ch);
}

/* Returns 0 when the peer has said something. A QEMU that waits for its second channel gets one:
 * see stock.c. */
static int await_first_byte(FfMigration *m, const FfAddress *address)
{
    /* Over a passed fd QEMU has one channel, so nobody there waits for a second one. */
    unsigned second = address && m->cfg.uri ? m->cfg.second_ms : 0;
    int rc = ff_channel_wait_readable(m->main, second ? (int)second : GREETING_DEADLINE_MS);

    if (rc == -ETIMEDOUT && second) {
        m->stock_second = open_second(m, address);
        rc = ff_channel_wait_readable(m->main, GREETING_DEADLINE_MS - (int)second);
    }
    return rc;
}

static bool fail_silent(const FfMigration *m, GError **error)
{
    g_set_error(error, FF_M_ERROR, 0,
                "%s has accepted the connection and said nothing for %d s: neither farfault nor a "
                "QEMU serves it now (its engine or its host hangs, or something else listens "
                "there). The guest stays here: see to the destination, then migrate again%s%s",
                ff_channel_peer(m->main), GREETING_DEADLINE_MS / 1000, m->cfg.silence ? ". " : "",
                m->cfg.silence ? m->cfg.silence : "");
    return false;
}

static bool greet(FfMigration *m, const FfAddress *address, GError **error)
{
    g_autoptr(GError) stock = NULL;
    uint8_t first[FF_PONG_SIZE];
    FfGreeting g;
    FfFrame f;

    m->opening = ff_source_opening(m);
    struct iovec iov = {(void *)g_bytes_get_data(m->opening, NULL), g_bytes_get_size(m->opening)};
    int rc = ff_channel_write_all(m->main, &iov, 1, true);
    if (rc < 0) {
        return fail(error, m->main, "greeting the peer", rc, NULL);
    }
    rc = await_first_byte(m, address);
    if (rc == -ETIMEDOUT) {
        return fail_silent(m, error);
    }
    rc = rc ? rc : ff_source_first_answer(m, first, &stock);
    if (rc < 0) {
        return fail(error, m->main, "waiting for the peer", rc, NULL);
    }
    if (stock) {
        g_propagate_error(error, g_steal_pointer(&stock));
        return false;
    }
    if (!expect_from(m->main, first, sizeof(first), FF_FRAME_GREETING, &f, &g, sizeof(g), error)) {
        return false;
    }
    uint32_t version = GUINT32_FROM_LE(g.version);
    if (version != FF_WIRE_VERSION) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the destination speaks wire version %u, this side %u: install the same "
                    "farfault on both",
                    version, FF_WIRE_VERSION);
        return false;
    }
    m->peer_features = GUINT32_FROM_LE(g.features);
    g_clear_pointer(&m->stock_second, ff_channel_free); /* it was a slow farfault */
    return true;
}

static bool hello(FfMigration *m, GError **error)
{
    size_t len = sizeof(FfHello) + m->n_blocks * sizeof(FfHelloBlock);
    g_autofree uint8_t *payload = g_malloc0(len);
    FfHello *h = (FfHello *)payload;
    FfHelloBlock *hb = (FfHelloBlock *)(h + 1);

    if (getrandom(m->session, sizeof(m->session), 0) != sizeof(m->session)) {
        g_set_error(error, FF_M_ERROR, 0, "getrandom: %s", g_strerror(errno));
        return false;
    }
    h->version = GUINT32_TO_LE(FF_WIRE_VERSION);
    h->features = GUINT32_TO_LE(ff_source_features(m) |
                                (m->cfg.validate_uuid ? FF_FEATURE_VALIDATE_UUID : 0));
    h->epoch = GUINT64_TO_LE(m->epoch);
    memcpy(h->session, m->session, sizeof(h->session));
    memcpy(h->vm_uuid, m->vm_uuid, sizeof(h->vm_uuid));
    for (unsigned i = 0; i < m->n_blocks; i++) {
        g_strlcpy(hb[i].id, m->blocks[i].info.id, sizeof(hb[i].id));
        hb[i].size = GUINT64_TO_LE(m->blocks[i].info.size);
        hb[i].page_size = GUINT64_TO_LE(m->blocks[i].info.page_size);
        hb[i].gpa = GUINT64_TO_LE(m->blocks[i].info.gpa);
    }
    FfFrame f = ff_frame(FF_FRAME_HELLO, len);
    f.n_pages = m->n_blocks;
    int rc = ff_channel_send(m->main, f, payload, true);
    if (rc < 0) {
        return fail(error, m->main, "greeting the peer", rc, NULL);
    }
    char reply[FF_FRAME_MAX_TEXT + 1] = "";
    if (!expect(m->main, FF_FRAME_HELLO_REPLY, &f, reply, FF_FRAME_MAX_TEXT, error)) {
        return false;
    }
    if (f.page != 0) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(reply));
        return false;
    }
    if (f.length != sizeof(FfHelloReply)) {
        return fail(error, m->main, "greeting the peer", 0, "malformed reply to hello");
    }
    memcpy(m->secret, reply, sizeof(m->secret));
    return true;
}

/* NULL if it cannot be had (then urgent frames share the main one). */
FfChannel *ff_source_open_channel(FfMigration *m, const FfAddress *address, FfChannelKind kind,
                                  GError **error)
{
    FfChannelHello h = {.kind = GUINT32_TO_LE(kind), .epoch = GUINT32_TO_LE((uint32_t)m->epoch)};
    FfFrame f;

    if (!address) {
        g_set_error_literal(error, FF_M_ERROR, 0, "its peer has no address to connect to");
        return NULL;
    }
    if (!(m->peer_features & FF_FEATURE_LISTENS)) {
        g_set_error_literal(error, FF_M_ERROR, 0, "the destination listens at no address");
        return NULL;
    }
    int fd = ff_address_connect(address, m->cancel, error);
    if (fd < 0) {
        return NULL;
    }
    g_autoptr(FfChannel) ch = ff_m_channel_new(m, fd, kind);
    if (!ff_m_secure(m, ch, error)) {
        return NULL;
    }
    memcpy(h.session, m->session, sizeof(h.session));
    memcpy(h.secret, m->secret, sizeof(h.secret));
    int rc = ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL, sizeof(h)), &h, true);
    if (rc < 0) {
        fail(error, ch, "opening a further channel", rc, NULL);
        return NULL;
    }
    return expect(ch, FF_FRAME_CHANNEL_REPLY, &f, NULL, 0, error) ? g_steal_pointer(&ch) : NULL;
}

bool ff_source_hand_on(FfMigration *m, FfFrame f)
{
    bool ok = true;

    ff_frame_encode(&f);
    ff_mutex_lock(&m->lock);
    bool late = m->feed_late && m->feed_late->len;
    /* While it is full, or something is late, the urgent thread has still to look at what is. */
    if (late || send(m->urgent_feed, &f, sizeof(f), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(f)) {
        m->feed_late = m->feed_late ? m->feed_late : g_array_new(FALSE, FALSE, sizeof(f));
        ok = m->feed_late->len < FEED_LATE_MAX;
        if (ok) {
            g_array_append_val(m->feed_late, f);
        }
    }
    ff_mutex_unlock(&m->lock);
    return ok;
}

unsigned ff_source_take_late(FfMigration *m, FfFrame *frames, unsigned n)
{
    ff_mutex_lock(&m->lock);
    n = MIN(n, m->feed_late ? m->feed_late->len : 0);
    if (n) {
        memcpy(frames, m->feed_late->data, n * sizeof(*frames));
        g_array_remove_range(m->feed_late, 0, n);
    }
    ff_mutex_unlock(&m->lock);
    return n;
}

bool ff_source_feed_urgent(FfMigration *m, GError **error)
{
    /* A vCPU waits for many pages at once where the hypervisor can do something else meanwhile
     * (KVM's asynchronous page faults): no buffer holds them for sure, so a small one will do. */
    const int feed_bytes = 16384;
    int sv[2];

    /* The main reader hands requests to the urgent thread, which then waits for one fd in both
     * arrangements. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        g_set_error(error, FF_M_ERROR, 0, "socketpair: %s", g_strerror(errno));
        return false;
    }
    setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &feed_bytes, sizeof(feed_bytes));
    ff_mutex_lock(&m->lock);
    m->urgent_feed = sv[0];
    m->urgent_in = ff_channel_new(sv[1], FF_CHANNEL_URGENT);
    m->channel_shared = true;
    ff_mutex_unlock(&m->lock);
    return true;
}

static bool share_main(FfMigration *m, GError **error)
{
    if (!ff_source_feed_urgent(m, error)) {
        return false;
    }
    /* A destination that has given up since its greeting takes no further channel, nor this: the
     * reader, which follows, says why. */
    ff_channel_send(m->main, ff_frame(FF_FRAME_SHARED, 0), NULL, true);
    return true;
}

bool ff_source_connect(FfMigration *m, GError **error)
{
    g_autoptr(FfAddress) address = NULL;
    g_autoptr(GError) local = NULL;
    int fd = connect_main(m, &address, error);

    if (fd < 0) {
        return false;
    }
    ff_mutex_lock(&m->lock);
    m->main = ff_m_channel_new(m, fd, FF_CHANNEL_MAIN);
    bool cancelled = m->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT);
    ff_mutex_unlock(&m->lock);
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
        return false;
    }
    ff_recovery_store_peer(m, address);
    if (!ff_m_secure(m, m->main, error) || !greet(m, address, error) || !hello(m, error)) {
        return false;
    }
    if (!ff_source_open_extra(m, address, error)) {
        return false;
    }
    FfChannel *urgent = ff_source_open_channel(m, address, FF_CHANNEL_URGENT, &local);
    if (urgent) {
        ff_mutex_lock(&m->lock);
        m->urgent = m->urgent_in = urgent;
        ff_mutex_unlock(&m->lock);
    } else if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    } else {
        g_message("urgent pages share the main connection: %s", local->message);
        if (!share_main(m, error)) {
            return false;
        }
    }
    m->main_reader = g_thread_new("ff-main", ff_source_main_reader, m);
    ff_keepalive_start(m);
    return true;
}

/* ---- what the destination says ------------------------------------------------------------ */

static bool read_abort(FfMigration *m, const FfFrame *f)
{
    char text[FF_FRAME_MAX_TEXT + 1] = "";

    /* Cut in the middle of its reason, it has given up no less: the coordinator waits for this. */
    int rc = ff_channel_read_all(m->main, text, f->length, GREETING_DEADLINE_MS);
    ff_m_event(m, FF_EV_ABORTED);
    ff_m_dead(m, "the destination gave up: %s", rc ? "its reason was cut off" : ff_peer_text(text));
    return false;
}

/* Returns FALSE when nothing more is to be read. */
static bool dispatch(FfMigration *m, FfFrame *f)
{
    switch (f->type) {
    case FF_FRAME_READY:
        ff_m_event(m, f->page ? FF_EV_SETTLED : FF_EV_READY);
        return true;
    case FF_FRAME_LOADED:
        ff_m_event(m, FF_EV_LOADED);
        return true;
    case FF_FRAME_RUNNING:
        ff_stamp(m->running_us);
        ff_m_event(m, FF_EV_RUNNING);
        return true;
    case FF_FRAME_ACK:
        if (f->flags >= 2 + m->n_extra) {
            break;
        }
        ff_source_acked(m, f->flags, f->page);
        return true;
    case FF_FRAME_ROUND:
        if (!ff_source_settled(m, f)) {
            break;
        }
        return true;
    case FF_FRAME_REQUEST:
        if (m->urgent_feed < 0) {
            break;
        }
        if (ff_source_hand_on(m, *f)) {
            return true;
        }
        ff_m_dead(m, "the destination floods this side with requests");
        return false;
    case FF_FRAME_DONE:
        ff_m_event(m, FF_EV_DONE);
        return true;
    case FF_FRAME_ALIVE:
        return true;
    case FF_FRAME_PAUSED:
        ff_m_event(m, FF_EV_PAUSE);
        ff_m_dead(m, "Postcopy migration is paused by the user of the destination");
        return false;
    case FF_FRAME_ABORT:
        return read_abort(m, f);
    default:
        break;
    }
    ff_m_dead(m, "the destination sent '%s' which it never should: protocol error",
              ff_frame_name(f->type));
    return false;
}

static void read_frames(FfMigration *m)
{
    const char *why;
    FfFrame f;
    int rc;

    while ((rc = ff_channel_read_frame(m->main, &f, -1, &why)) == 0) {
        if (!dispatch(m, &f)) {
            return;
        }
    }
    if (why) {
        ff_m_dead(m, "the destination sent %s: protocol error", why);
    } else {
        ff_m_lost(m, m->main, rc);
    }
}

gpointer ff_source_main_reader(gpointer p)
{
    FfMigration *m = p;

    ff_priority_urgent(); /* few words, and the guest stands still while some of them are awaited */
    read_frames(m);
    ff_m_event(m, FF_EV_MAIN_ENDED);
    return NULL;
}
