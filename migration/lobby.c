/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See lobby.h. Nobody is waited for alone: one poll() is for all, and each who has news goes as far
 * as he can without waiting. Of the first byte it is only looked at (TLS or not); the handshake of
 * TLS goes in single attempts; the first words are read as far as they go, never more, and given
 * back to the channel when they are whole. So the thread sleeps until somebody has something new.
 *
 * Who the peer is, by certificate or key and by tls-authz, is part of the handshake, hence known
 * before any of his words is read.
 *
 * System calls: accept4, recvfrom, poll, shutdown.
 */
#include "migration/lobby.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "net/frame.h"

/* How long a refused peer has to read why. */
#define LINGER_MS 1000
/* Until somebody is let in again, when there was no fd or no memory for him. */
#define SHORT_MS 100
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
} Guest;

struct FfLobby {
    int listen_fd;
    GCancellable *cancel;
    FfLobbyAdmit admit;
    gpointer opaque;
    Guest guest[FF_LOBBY_PLACES]; /* [n], the oldest first */
    unsigned n, next_number, taken;
    int64_t not_before; /* nobody is let in; monotonic, us */
};

FfLobby *ff_lobby_new(int listen_fd, GCancellable *cancel, FfLobbyAdmit admit, gpointer opaque)
{
    FfLobby *l = g_new0(FfLobby, 1);

    l->listen_fd = listen_fd;
    l->cancel = cancel;
    l->admit = admit;
    l->opaque = opaque;
    return l;
}

/* ---- one of them ------------------------------------------------------------------------------
 */

static void enter(Guest *g, Stage stage, int ms)
{
    g->stage = stage;
    g->events = POLLIN;
    g->end = g_get_monotonic_time() + ms * (int64_t)1000;
}

static void send_away(Guest *g, const char *why)
{
    if (why) {
        g_message("connection from %s refused: %s", ff_channel_peer(g->ch), why);
    }
    g_clear_pointer(&g->ch, ff_channel_free);
}

/* He was told why. A close now would break the connection under what he still writes, and he would
 * never read it. */
static void refuse(Guest *g, const GError *error)
{
    g_message("connection refused: %s", error->message);
    shutdown(ff_channel_fd(g->ch), SHUT_WR);
    enter(g, REFUSED, LINGER_MS);
}

static void see_first_byte(FfLobby *l, Guest *g)
{
    g_autoptr(GError) error = NULL;
    uint8_t first;
    int rc = ff_channel_peek(g->ch, &first, 0);

    if (rc == -ETIMEDOUT || rc == -EAGAIN || rc == -EINTR) {
        return;
    }
    if (rc < 0) {
        send_away(g, "it ended before it said anything");
    } else if (l->admit && !l->admit(g->ch, first, l->opaque, &error)) {
        refuse(g, error);
    } else if (ff_channel_has_tls(g->ch)) {
        enter(g, HANDSHAKE, FF_LOBBY_DEADLINE_MS);
    } else {
        g->stage = SPEAKING;
    }
}

static void shake_hands(Guest *g)
{
    g_autoptr(GError) error = NULL;

    switch (ff_channel_step_tls(g->ch, &g->events, &error)) {
    case FF_IO_DONE: {
        g_autofree char *what = ff_channel_tls(g->ch);
        g_debug("%s: %s", ff_channel_peer(g->ch), what);
        enter(g, SPEAKING, FF_LOBBY_DEADLINE_MS);
        break;
    }
    case FF_IO_AGAIN:
        break;
    case FF_IO_DEAD:
        refuse(g, error);
        if (ff_channel_error(g->ch) != EPROTO) {
            send_away(g, NULL); /* there was nothing to be told */
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

static void listen_to(Guest *g)
{
    size_t need, n;

    while ((need = first_words(g->words, g->have)) > g->have) {
        switch (ff_channel_read(g->ch, g->words + g->have, need - g->have, &n)) {
        case FF_IO_DONE:
            g->have += n;
            break;
        case FF_IO_AGAIN:
            g->events = ff_channel_read_events(g->ch);
            return;
        case FF_IO_DEAD:
            g->stage = READY; /* who reads it finds the end behind what was said */
            return;
        }
    }
    g->stage = READY;
}

/* What he still says is not looked at. */
static void see_end(Guest *g)
{
    char sink[4096];
    ssize_t n = recv(ff_channel_fd(g->ch), sink, sizeof(sink), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        send_away(g, NULL);
    }
}

/* There may be news of G: as far as it goes. */
static void go_on(FfLobby *l, Guest *g)
{
    if (g->stage == REFUSED) {
        see_end(g);
        return;
    }
    if (g->stage == SILENT) {
        see_first_byte(l, g);
    }
    if (g->ch && g->stage == HANDSHAKE) {
        shake_hands(g);
    }
    if (g->ch && g->stage == SPEAKING) {
        listen_to(g);
    }
}

/* ---- places -----------------------------------------------------------------------------------
 */

static void free_place(FfLobby *l, unsigned i)
{
    memmove(&l->guest[i], &l->guest[i + 1], (--l->n - i) * sizeof(l->guest[0]));
}

static FfChannel *leave(FfLobby *l, unsigned i)
{
    Guest *g = &l->guest[i];
    FfChannel *ch = g->ch;

    ff_channel_unread(ch, g->words, g->have);
    free_place(l, i);
    return ch;
}

static void clear_places(FfLobby *l)
{
    for (unsigned i = l->n; i-- > 0;) {
        if (!l->guest[i].ch) {
            free_place(l, i);
        }
    }
}

static void send_overdue_away(FfLobby *l, int64_t now)
{
    for (unsigned i = 0; i < l->n; i++) {
        Guest *g = &l->guest[i];

        if (g->end <= now) {
            send_away(g, g->stage == REFUSED     ? NULL
                         : g->stage == HANDSHAKE ? "its TLS handshake was not finished in time"
                                                 : "nothing came in time");
        }
    }
    clear_places(l);
}

/* Who has to go first has the lowest. */
static int standing(const Guest *g)
{
    return g->stage == REFUSED ? 0 : ff_channel_proved(g->ch) ? 2 : 1;
}

/* Who makes room when every place is taken. */
static Guest *next_to_go(FfLobby *l)
{
    Guest *next = &l->guest[0];

    for (unsigned i = 1; i < l->n; i++) {
        next = standing(&l->guest[i]) < standing(next) ? &l->guest[i] : next;
    }
    return next;
}

/* From when on somebody may come in; 0: at any time. */
static int64_t when_is_room(FfLobby *l)
{
    if (l->n < FF_LOBBY_PLACES || next_to_go(l)->stage == REFUSED) {
        return l->not_before;
    }
    return MAX(l->not_before, next_to_go(l)->since + FF_LOBBY_GRACE_MS * (int64_t)1000);
}

static void make_room(FfLobby *l)
{
    if (l->n == FF_LOBBY_PLACES) {
        Guest *g = next_to_go(l);

        send_away(g, g->stage == REFUSED ? NULL : "nothing came in time");
        clear_places(l);
    }
}

/* It is over when others have let go of something, and there is no event for that. */
static bool is_short(int err)
{
    return err == EMFILE || err == ENFILE || err == ENOBUFS || err == ENOMEM;
}

/* FALSE and ERROR: nobody can come in any more. */
static bool let_in(FfLobby *l, GError **error)
{
    int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        make_room(l);
        Guest *g = &l->guest[l->n++];

        *g = (Guest){.ch = ff_channel_new(fd, FF_CHANNEL_MAIN), .number = ++l->next_number};
        g->since = g_get_monotonic_time();
        enter(g, SILENT, FF_LOBBY_DEADLINE_MS);
        go_on(l, g);
        clear_places(l);
    } else if (is_short(errno)) {
        l->not_before = g_get_monotonic_time() + SHORT_MS * (int64_t)1000;
    } else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "accept: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* Milliseconds until END; -1: never. */
static int time_left(int64_t end)
{
    return end == G_MAXINT64 ? -1 : (int)MAX(0, (end - g_get_monotonic_time() + 999) / 1000);
}

/* Waits for news, and goes on with those who have some. TRUE in *COMES: somebody waits outside and
 * may come in. FALSE and ERROR: cancelled. */
static bool await(FfLobby *l, bool *comes, GError **error)
{
    GPollFD cancelled;
    struct pollfd p[FF_LOBBY_PLACES + 2];
    int64_t end, room = when_is_room(l);
    bool full = room > g_get_monotonic_time();
    bool cancellable = g_cancellable_make_pollfd(l->cancel, &cancelled);

    end = full ? room : G_MAXINT64;
    for (unsigned i = 0; i < l->n; i++) {
        p[i] = (struct pollfd){ff_channel_fd(l->guest[i].ch), l->guest[i].events, 0};
        end = MIN(end, l->guest[i].end);
    }
    p[l->n] = (struct pollfd){full ? -1 : l->listen_fd, POLLIN, 0};
    p[l->n + 1] = (struct pollfd){cancellable ? cancelled.fd : -1, POLLIN, 0};
    if (poll(p, l->n + 2, time_left(end)) < 0) {
        memset(p, 0, sizeof(p)); /* EINTR */
    }
    if (cancellable) {
        g_cancellable_release_fd(l->cancel);
    }
    *comes = p[l->n].revents;
    if (g_cancellable_set_error_if_cancelled(l->cancel, error)) {
        return false;
    }
    for (unsigned i = 0; i < l->n; i++) {
        if (p[i].revents) {
            go_on(l, &l->guest[i]);
        }
    }
    clear_places(l);
    return true;
}

/* Who has spoken goes first, then who has been here longest. */
static FfChannel *who_has_spoken(FfLobby *l)
{
    for (unsigned i = 0; i < l->n; i++) {
        if (l->guest[i].stage == READY) {
            l->taken = l->guest[i].number;
            return leave(l, i);
        }
    }
    return NULL;
}

FfChannel *ff_lobby_next(FfLobby *l, GError **error)
{
    for (;;) {
        FfChannel *ch = who_has_spoken(l);
        bool comes;

        if (ch) {
            return ch;
        }
        send_overdue_away(l, g_get_monotonic_time());
        if (!await(l, &comes, error)) {
            return NULL;
        }
        if ((ch = who_has_spoken(l))) {
            return ch;
        }
        /* Who was next to go may have come further meanwhile. */
        if (comes && when_is_room(l) <= g_get_monotonic_time() && !let_in(l, error)) {
            return NULL;
        }
    }
}

GPtrArray *ff_lobby_later(FfLobby *l)
{
    GPtrArray *later = g_ptr_array_new_with_free_func((GDestroyNotify)ff_channel_free);

    for (unsigned i = 0; i < l->n;) {
        if (l->guest[i].number > l->taken && l->guest[i].stage != REFUSED) {
            g_ptr_array_add(later, leave(l, i));
        } else {
            i++;
        }
    }
    return later;
}

void ff_lobby_free(FfLobby *l)
{
    while (l->n) {
        ff_channel_free(leave(l, 0));
    }
    g_free(l);
}
