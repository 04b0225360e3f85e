/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See handshakes.h. Nobody is waited for alone: one poll() is for all, and each peer that has news
 * goes as far as it can without waiting. Of the first byte it is only looked at (TLS or not); the
 * handshake of TLS goes in single attempts; the first words are read as far as they go, never more,
 * and given back to the channel when they are whole. So the thread sleeps until somebody has
 * something new.
 *
 * Who the peer is, by certificate or key and by tls-authz, is part of the handshake, hence known
 * before any of its words is read.
 *
 * System calls: accept4, recvfrom, poll, shutdown.
 */
#include "migration/destination/handshakes.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/deadline.h"
#include "base/failpoint-deadline.h"
#include "base/io-result.h"
#include "net/frame.h"

/* How long a refused peer has to read why. */
#define LINGER_MS 1000
/* Until somebody is let in again, when there was no fd or no memory for him. */
#define SHORT_MS 100
#define LINES_US (60 * G_USEC_PER_SEC)
#define WORDS_MAX MAX(FF_PROLOGUE_MAX, sizeof(FfFrame) + sizeof(FfChannelHello))

typedef enum {
    SILENT,    /* nothing has come */
    HANDSHAKE, /* of TLS, is under way */
    SPEAKING,  /* the first words are being read, in the clear or under TLS */
    READY,     /* they are there, or the end is */
    REFUSED,   /* he is let read why */
} Stage;

typedef struct {
    FfChannel *ch;   /* NULL: he has gone */
    unsigned number; /* in the order in which they came */
    Stage stage;
    short events;  /* for which he waits */
    int64_t since; /* that he came; monotonic, us */
    int64_t end;   /* of the stage */
    size_t have;
    uint8_t words[WORDS_MAX]; /* [have] */
} Pending;

struct FfHandshakes {
    int listen_fd;
    GCancellable *cancel;
    FfHandshakesAdmit admit;
    gpointer opaque;
    Pending pending[FF_HANDSHAKES_PLACES]; /* [n], the oldest first */
    unsigned n, next_number, taken;
    int64_t not_before;     /* nobody is let in; monotonic, us */
    int64_t lines_since;    /* monotonic, us */
    unsigned lines, unsaid; /* in the log since then; that were not */
};

FfHandshakes *ff_handshakes_new(int listen_fd, GCancellable *cancel, FfHandshakesAdmit admit,
                                gpointer opaque)
{
    FfHandshakes *h = g_new0(FfHandshakes, 1);

    h->listen_fd = listen_fd;
    h->cancel = cancel;
    h->admit = admit;
    h->opaque = opaque;
    return h;
}

/* ---- one of them ----------------------------------------------------------------------------- */

static void enter_stage(Pending *p, Stage stage, int ms)
{
    p->stage = stage;
    p->events = POLLIN;
    p->end = g_get_monotonic_time() + ms * (int64_t)1000;
}

static void say_unsaid(FfHandshakes *h)
{
    if (h->unsaid) {
        g_message("%u more connections were refused (no more than %d lines a minute)", h->unsaid,
                  FF_HANDSHAKES_LINES);
    }
    h->unsaid = 0;
}

/* TRUE: one more line may be logged. */
static bool may_log(FfHandshakes *h)
{
    int64_t now = g_get_monotonic_time();

    if (!h->lines || now - h->lines_since >= LINES_US) {
        say_unsaid(h);
        h->lines_since = now;
        h->lines = 0;
    }
    if (h->lines == FF_HANDSHAKES_LINES) {
        h->unsaid++;
        return false;
    }
    h->lines++;
    return true;
}

void ff_handshakes_log(FfHandshakes *h, const FfChannel *ch, const char *why)
{
    if (may_log(h)) {
        g_message("connection from %s refused: %s", ff_channel_peer(ch), why);
    }
}

static void send_away(FfHandshakes *h, Pending *p, const char *why)
{
    if (why) {
        ff_handshakes_log(h, p->ch, why);
    }
    g_clear_pointer(&p->ch, ff_channel_free);
}

/* He was told why. A close now would break the connection under what he still writes, and he would
 * never read it. */
static void refuse_stranger(FfHandshakes *h, Pending *p, const GError *error)
{
    if (may_log(h)) {
        g_message("connection refused: %s", error->message);
    }
    shutdown(ff_channel_fd(p->ch), SHUT_WR);
    enter_stage(p, REFUSED, LINGER_MS);
}

static void see_first_byte(FfHandshakes *h, Pending *p)
{
    g_autoptr(GError) error = NULL;
    uint8_t first;
    int rc = ff_channel_peek(p->ch, &first, 0);

    if (rc == -ETIMEDOUT || rc == -EAGAIN || rc == -EINTR) {
        return;
    }
    if (rc < 0) {
        send_away(h, p, "it ended before it said anything");
    } else if (h->admit && !h->admit(p->ch, first, h->opaque, &error)) {
        refuse_stranger(h, p, error);
    } else if (ff_channel_has_tls(p->ch)) {
        enter_stage(p, HANDSHAKE, ff_deadline_ms("handshake", FF_HANDSHAKES_DEADLINE_MS));
    } else {
        p->stage = SPEAKING;
    }
}

static void shake_hands(FfHandshakes *h, Pending *p)
{
    g_autoptr(GError) error = NULL;

    switch (ff_channel_step_tls(p->ch, &p->events, &error)) {
    case FF_IO_DONE: {
        g_autofree char *what = ff_channel_tls(p->ch);
        g_debug("%s: %s", ff_channel_peer(p->ch), what);
        enter_stage(p, SPEAKING, ff_deadline_ms("handshake", FF_HANDSHAKES_DEADLINE_MS));
        break;
    }
    case FF_IO_AGAIN:
        break;
    case FF_IO_DEAD:
        refuse_stranger(h, p, error);
        if (ff_channel_error(p->ch) != EPROTO) {
            send_away(h, p, NULL); /* there was nothing to be told */
        }
    }
}

/* How many bytes the first words have, as far as the first N of them (IN) tell: N or less if they
 * are all there. */
static size_t first_words(const uint8_t *in, size_t n)
{
    uint32_t magic = 0;
    size_t need = 0;

    memcpy(&magic, in, MIN(n, sizeof(magic)));
    if (n >= sizeof(magic) && GUINT32_FROM_LE(magic) == FF_FRAME_MAGIC) {
        return sizeof(FfFrame) + sizeof(FfChannelHello);
    }
    if (n && n < sizeof(magic)) {
        return sizeof(magic);
    }
    return ff_prologue_decode(in, n, &need) == FF_PEER_MORE ? need : 0;
}

static void listen_to(Pending *p)
{
    size_t need, n;

    while ((need = first_words(p->words, p->have)) > p->have) {
        switch (ff_channel_read(p->ch, p->words + p->have, need - p->have, &n)) {
        case FF_IO_DONE:
            p->have += n;
            break;
        case FF_IO_AGAIN:
            p->events = ff_channel_read_events(p->ch);
            return;
        case FF_IO_DEAD:
            p->stage = READY; /* the reader finds the end after what was said */
            return;
        }
    }
    p->stage = READY;
}

/* What he still says is not looked at. */
static void see_end(FfHandshakes *h, Pending *p)
{
    char sink[4096];
    ssize_t n = recv(ff_channel_fd(p->ch), sink, sizeof(sink), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        send_away(h, p, NULL);
    }
}

/* There may be news of G: as far as it goes. */
static void go_on(FfHandshakes *h, Pending *p)
{
    if (p->stage == REFUSED) {
        see_end(h, p);
        return;
    }
    if (p->stage == SILENT) {
        see_first_byte(h, p);
    }
    if (p->ch && p->stage == HANDSHAKE) {
        shake_hands(h, p);
    }
    if (p->ch && p->stage == SPEAKING) {
        listen_to(p);
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

static void free_place(FfHandshakes *h, unsigned i)
{
    memmove(&h->pending[i], &h->pending[i + 1], (--h->n - i) * sizeof(h->pending[0]));
}

static FfChannel *release_stranger(FfHandshakes *h, unsigned i)
{
    Pending *p = &h->pending[i];
    FfChannel *ch = p->ch;

    ff_channel_unread(ch, p->words, p->have);
    free_place(h, i);
    return ch;
}

static void clear_places(FfHandshakes *h)
{
    for (unsigned i = h->n; i-- > 0;) {
        if (!h->pending[i].ch) {
            free_place(h, i);
        }
    }
}

static void send_overdue_away(FfHandshakes *h, int64_t now)
{
    for (unsigned i = 0; i < h->n; i++) {
        Pending *p = &h->pending[i];

        if (p->end <= now) {
            send_away(h, p,
                      p->stage == REFUSED     ? NULL
                      : p->stage == HANDSHAKE ? "its TLS handshake was not finished in time"
                                              : "nothing came in time");
        }
    }
    clear_places(h);
}

/* The one that must go first has the lowest. */
static int rank_stranger(const Pending *p)
{
    return p->stage == REFUSED ? 0 : ff_channel_proved(p->ch) ? 2 : 1;
}

/* The one that makes room when every place is taken. */
static Pending *next_to_go(FfHandshakes *h)
{
    Pending *next = &h->pending[0];

    for (unsigned i = 1; i < h->n; i++) {
        next = rank_stranger(&h->pending[i]) < rank_stranger(next) ? &h->pending[i] : next;
    }
    return next;
}

/* From when on somebody may come in; 0: at any time. */
static int64_t when_is_room(FfHandshakes *h)
{
    if (h->n < FF_HANDSHAKES_PLACES || next_to_go(h)->stage == REFUSED) {
        return h->not_before;
    }
    return MAX(h->not_before, next_to_go(h)->since + FF_HANDSHAKES_GRACE_MS * (int64_t)1000);
}

static void make_room(FfHandshakes *h)
{
    if (h->n == FF_HANDSHAKES_PLACES) {
        Pending *p = next_to_go(h);

        send_away(h, p, p->stage == REFUSED ? NULL : "nothing came in time");
        clear_places(h);
    }
}

/* FALSE and ERROR: nobody can come in any more. */
static bool let_in(FfHandshakes *h, GError **error)
{
    int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        make_room(h);
        Pending *p = &h->pending[h->n++];

        *p = (Pending){.ch = ff_channel_new(fd, FF_CHANNEL_MAIN), .number = ++h->next_number};
        p->since = g_get_monotonic_time();
        enter_stage(p, SILENT, ff_deadline_ms("handshake", FF_HANDSHAKES_DEADLINE_MS));
        go_on(h, p);
        clear_places(h);
    } else if (ff_io_is_short(errno)) {
        h->not_before = g_get_monotonic_time() + SHORT_MS * (int64_t)1000;
    } else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "accept: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Milliseconds until END; -1: never. */
static int time_left(int64_t end)
{
    return end == G_MAXINT64 ? -1 : (int)ff_deadline_left_ms(end);
}

/* Waits for news, and continues with those that have some. TRUE in *COMES: somebody waits outside
 * and may come in. FALSE and ERROR: cancelled. */
static bool await_strangers(FfHandshakes *h, bool *comes, GError **error)
{
    GPollFD cancelled;
    struct pollfd p[FF_HANDSHAKES_PLACES + 2];
    int64_t end, room = when_is_room(h);
    bool full = room > g_get_monotonic_time();
    bool cancellable = g_cancellable_make_pollfd(h->cancel, &cancelled);

    end = full ? room : G_MAXINT64;
    for (unsigned i = 0; i < h->n; i++) {
        p[i] = (struct pollfd){ff_channel_fd(h->pending[i].ch), h->pending[i].events, 0};
        end = MIN(end, h->pending[i].end);
    }
    p[h->n] = (struct pollfd){full ? -1 : h->listen_fd, POLLIN, 0};
    p[h->n + 1] = (struct pollfd){cancellable ? cancelled.fd : -1, POLLIN, 0};
    if (poll(p, h->n + 2, time_left(end)) < 0) {
        memset(p, 0, sizeof(p)); /* EINTR */
    }
    if (cancellable) {
        g_cancellable_release_fd(h->cancel);
    }
    *comes = p[h->n].revents;
    if (g_cancellable_set_error_if_cancelled(h->cancel, error)) {
        return false;
    }
    for (unsigned i = 0; i < h->n; i++) {
        if (p[i].revents) {
            go_on(h, &h->pending[i]);
        }
    }
    clear_places(h);
    return true;
}

/* A peer that has spoken goes first, then the one that has been here longest. */
static FfChannel *who_has_spoken(FfHandshakes *h)
{
    for (unsigned i = 0; i < h->n; i++) {
        if (h->pending[i].stage == READY) {
            h->taken = h->pending[i].number;
            return release_stranger(h, i);
        }
    }
    return NULL;
}

FfChannel *ff_handshakes_next(FfHandshakes *h, GError **error)
{
    for (;;) {
        FfChannel *ch = who_has_spoken(h);
        bool comes;

        if (ch) {
            return ch;
        }
        send_overdue_away(h, g_get_monotonic_time());
        if (!await_strangers(h, &comes, error)) {
            return NULL;
        }
        if ((ch = who_has_spoken(h))) {
            return ch;
        }
        /* The peer that was next to go may have come further meanwhile. */
        if (comes && when_is_room(h) <= g_get_monotonic_time() && !let_in(h, error)) {
            return NULL;
        }
    }
}

GPtrArray *ff_handshakes_later(FfHandshakes *h)
{
    GPtrArray *later = g_ptr_array_new_with_free_func((GDestroyNotify)ff_channel_free);

    for (unsigned i = 0; i < h->n;) {
        if (h->pending[i].number > h->taken && h->pending[i].stage != REFUSED) {
            g_ptr_array_add(later, release_stranger(h, i));
        } else {
            i++;
        }
    }
    return later;
}

void ff_handshakes_free(FfHandshakes *h)
{
    while (h->n) {
        ff_channel_free(release_stranger(h, 0));
    }
    say_unsaid(h);
    g_free(h);
}
