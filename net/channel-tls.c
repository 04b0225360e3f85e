/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS under a channel. See channel-tls.h for the threads. No lock.
 * System calls: recv, shutdown.
 */
#include "net/channel-tls.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/deadline.h"
#include "net/channel-internal.h"

/* How long a refused peer has to read why (milliseconds). A server has more than that one to talk
 * to; a client that has refused its server has all the time that the server may need to end. */
#define SERVER_LINGER_MS 1000
#define CLIENT_LINGER_MS 5000

/* This side has refused the peer, by an alert or by TLS's end. A close now would break the
 * connection under a peer that is still writing, and it would never read it. */
static void linger_after_refusal(FfChannel *ch, int ms)
{
    int64_t end = g_get_monotonic_time() + ms * 1000LL;
    char sink[1024];

    shutdown(ch->fd, SHUT_WR);
    while (ff_channel_wait(ch, POLLIN, ff_deadline_left_ms(end)) == 0 &&
           recv(ch->fd, sink, sizeof(sink), 0) > 0) {
    }
}

void ff_channel_begin_tls(FfChannel *ch, FfTls *tls, const char *hostname)
{
    ch->record = g_malloc(FF_TLS_RECORD);
    ch->tls = ff_tls_session_new(tls, ch->fd, hostname);
}

/* RC: 0, the peer just ended; or -errno. */
static void set_tls_error(const FfChannel *ch, int rc, GError **error)
{
    const char *why = ff_tls_why(ch->tls);

    g_set_error(error, g_quark_from_static_string("farfault-tls"), 0,
                "TLS handshake with %s failed: %s", ch->peer,
                why                ? why
                : rc == -ETIMEDOUT ? "it was not finished in time"
                : rc == 0          ? "the peer closed the connection: see its log, and set "
                                     "tls-creds on both sides"
                                   : g_strerror(-rc));
}

FfIo ff_channel_step_tls(FfChannel *ch, short *events, GError **error)
{
    FfIo io = ff_tls_handshake(ch->tls, events);

    if (io == FF_IO_DEAD) {
        int err = ff_tls_errno(ch->tls);
        ff_channel_died(ch, err ? err : EPIPE);
        set_tls_error(ch, -err, error);
    }
    return io;
}

bool ff_channel_start_tls(FfChannel *ch, FfTls *tls, const char *hostname, int deadline_ms,
                          GError **error)
{
    int64_t end = g_get_monotonic_time() + deadline_ms * 1000LL;
    short events;
    FfIo io;

    if (!ch->tls) {
        ff_channel_begin_tls(ch, tls, hostname);
    }
    /* The deadline is for the whole: a peer that sends a byte now and then gains nothing. */
    while ((io = ff_channel_step_tls(ch, &events, error)) == FF_IO_AGAIN) {
        int rc = ff_channel_wait(ch, events, ff_deadline_left_ms(end));
        if (rc < 0) {
            set_tls_error(ch, rc, error);
            return false;
        }
    }
    if (io == FF_IO_DEAD && ff_channel_error(ch) == EPROTO) {
        linger_after_refusal(ch, ff_tls_is_server(tls) ? SERVER_LINGER_MS : CLIENT_LINGER_MS);
    }
    return io == FF_IO_DONE;
}

bool ff_channel_has_tls(const FfChannel *ch)
{
    return ch->tls;
}

bool ff_channel_proved(const FfChannel *ch)
{
    return ch->tls && ff_tls_proved(ch->tls);
}

bool ff_channel_declined(const FfChannel *ch)
{
    return ch->tls && ff_tls_declined(ch->tls);
}

char *ff_channel_tls(const FfChannel *ch)
{
    return ch->tls ? ff_tls_describe(ch->tls) : NULL;
}
