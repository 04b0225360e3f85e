/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See lobby.h. What has come is only looked at (MSG_PEEK), until the opening of a source, the
 * greeting of a further channel or the first record of TLS is there: who reads it then, waits for
 * nothing. Of TLS that is the first word only; the rest of a handshake has a deadline of its own
 * (tls.c).
 *
 * A connection that has said a part of it is looked at every LOOK_MS: its socket stays readable,
 * so poll() would not wait for more.
 *
 * System calls: accept4, recvfrom, ioctl(FIONREAD), poll.
 */
#include "migration/lobby.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/channel.h"
#include "net/frame.h"

#define LOOK_MS 20
#define TLS_HANDSHAKE 22 /* the type of its first record */
#define TLS_HEADER 5
#define TLS_MOST (16384 + TLS_HEADER)

typedef struct {
    int fd;
    unsigned number; /* in the order in which they came */
    int64_t since;   /* monotonic, us */
    bool part;       /* something has come, and more is to */
    bool ended;      /* nothing more comes: whoever reads it finds out */
} Guest;

struct FfLobby {
    int listen_fd;
    GCancellable *cancel;
    Guest guest[FF_LOBBY_PLACES]; /* [n], the oldest first */
    unsigned n, next_number, taken;
};

FfLobby *ff_lobby_new(int listen_fd, GCancellable *cancel)
{
    FfLobby *l = g_new0(FfLobby, 1);

    l->listen_fd = listen_fd;
    l->cancel = cancel;
    return l;
}

/* ---- what has come ----------------------------------------------------------------------------
 */

/* How many bytes the first words have, as far as the first N of them (IN) tell: N or less if they
 * are all there. */
static size_t first_words(const uint8_t *in, size_t n)
{
    uint32_t magic;
    size_t need = 0;

    if (in[0] == TLS_HANDSHAKE) {
        return n < TLS_HEADER ? TLS_HEADER
                              : MIN(TLS_MOST, TLS_HEADER + ((size_t)in[3] << 8 | in[4]));
    }
    memcpy(&magic, in, sizeof(magic)); /* IN has room for it */
    if (n >= sizeof(magic) && GUINT32_FROM_LE(magic) == FF_FRAME_MAGIC) {
        return sizeof(FfFrame) + sizeof(FfChannelHello);
    }
    return ff_prologue_decode(in, n, &need) == FF_PEER_MORE ? need : 0;
}

/* TRUE: whoever reads now has not to wait. */
static bool has_spoken(Guest *g)
{
    uint8_t in[FF_PROLOGUE_MAX] = {0};
    ssize_t n = recv(g->fd, in, sizeof(in), MSG_PEEK | MSG_DONTWAIT);
    int all = 0;

    if (n <= 0) {
        return n == 0 || (errno != EAGAIN && errno != EINTR); /* its end is what it has to say */
    }
    g->part = true;
    return ioctl(g->fd, FIONREAD, &all) < 0 || (size_t)all >= first_words(in, n);
}

/* ---- places -----------------------------------------------------------------------------------
 */

static int leave(FfLobby *l, unsigned i)
{
    int fd = l->guest[i].fd;

    memmove(&l->guest[i], &l->guest[i + 1], (--l->n - i) * sizeof(l->guest[0]));
    return fd;
}

static void send_away(FfLobby *l, unsigned i)
{
    g_autoptr(FfChannel) ch = ff_channel_new(leave(l, i), FF_CHANNEL_MAIN);

    g_message("connection from %s refused: nothing came in time", ff_channel_peer(ch));
}

static bool is_older(const Guest *g, int64_t now, int ms)
{
    return now - g->since >= ms * (int64_t)1000;
}

static void send_overdue_away(FfLobby *l, int64_t now)
{
    while (l->n && is_older(&l->guest[0], now, FF_LOBBY_DEADLINE_MS)) {
        send_away(l, 0);
    }
}

/* FALSE and ERROR: nobody can come in any more. */
static bool let_in(FfLobby *l, int64_t now, GError **error)
{
    int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        if (l->n == FF_LOBBY_PLACES) {
            send_away(l, 0);
        }
        l->guest[l->n++] = (Guest){.fd = fd, .number = ++l->next_number, .since = now};
    } else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "accept: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* Milliseconds until something is to be done of itself; -1: never. */
static int time_left(const FfLobby *l, int64_t now)
{
    int64_t end = G_MAXINT64;

    for (unsigned i = 0; i < l->n; i++) {
        end = MIN(end, l->guest[i].part ? now + LOOK_MS * 1000 : G_MAXINT64);
    }
    if (l->n) {
        int ms = l->n == FF_LOBBY_PLACES && !is_older(&l->guest[0], now, FF_LOBBY_GRACE_MS)
                     ? FF_LOBBY_GRACE_MS
                     : FF_LOBBY_DEADLINE_MS;
        end = MIN(end, l->guest[0].since + ms * (int64_t)1000);
    }
    return end == G_MAXINT64 ? -1 : (int)MAX(0, (end - now + 999) / 1000);
}

/* TRUE in *COMES: somebody waits outside and may come in. FALSE and ERROR: cancelled. */
static bool await(FfLobby *l, bool *comes, GError **error)
{
    GPollFD cancelled;
    struct pollfd p[FF_LOBBY_PLACES + 2];
    int64_t now = g_get_monotonic_time();
    bool room = l->n < FF_LOBBY_PLACES || is_older(&l->guest[0], now, FF_LOBBY_GRACE_MS);
    bool cancellable = g_cancellable_make_pollfd(l->cancel, &cancelled);

    for (unsigned i = 0; i < l->n; i++) {
        /* Of a part only the end is news. */
        p[i] = (struct pollfd){l->guest[i].fd, l->guest[i].part ? POLLRDHUP : POLLIN, 0};
    }
    p[l->n] = (struct pollfd){room ? l->listen_fd : -1, POLLIN, 0};
    p[l->n + 1] = (struct pollfd){cancellable ? cancelled.fd : -1, POLLIN, 0};
    poll(p, l->n + 2, time_left(l, now));
    if (cancellable) {
        g_cancellable_release_fd(l->cancel);
    }
    *comes = p[l->n].revents;
    for (unsigned i = 0; i < l->n; i++) {
        l->guest[i].ended = p[i].revents & (POLLRDHUP | POLLHUP | POLLERR);
    }
    return !g_cancellable_set_error_if_cancelled(l->cancel, error);
}

int ff_lobby_next(FfLobby *l, GError **error)
{
    for (;;) {
        bool comes;

        /* Who has spoken goes first, then who has been here longest. */
        for (unsigned i = 0; i < l->n; i++) {
            if (l->guest[i].ended || has_spoken(&l->guest[i])) {
                l->taken = l->guest[i].number;
                return leave(l, i);
            }
        }
        send_overdue_away(l, g_get_monotonic_time());
        if (!await(l, &comes, error) || (comes && !let_in(l, g_get_monotonic_time(), error))) {
            return -1;
        }
    }
}

static void close_fd(gpointer fd)
{
    if (*(int *)fd >= 0) {
        close(*(int *)fd);
    }
}

GArray *ff_lobby_later(FfLobby *l)
{
    GArray *later = g_array_new(FALSE, FALSE, sizeof(int));

    g_array_set_clear_func(later, close_fd);
    for (unsigned i = 0; i < l->n;) {
        if (l->guest[i].number > l->taken) {
            int fd = leave(l, i);
            g_array_append_val(later, fd);
        } else {
            i++;
        }
    }
    return later;
}

void ff_lobby_free(FfLobby *l)
{
    while (l->n) {
        close(leave(l, 0));
    }
    g_free(l);
}
