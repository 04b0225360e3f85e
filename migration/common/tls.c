/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS on a connection of the migration, before anything else is said on it; and what is said of a
 * peer that does it differently. A side with credentials never talks in the clear: there is no
 * way from here back to it.
 *
 * Threads: the one that has made or accepted the connection, before others use it. Blocks, at most
 * for the deadlines; ff_channel_shutdown() ends it. ff_conn_admit(), the acceptor's, does not: what
 * follows it is of the handshakes (migration/destination/handshakes.c). The driver sets what an
 * adopting engine lacked.
 */
#include "migration/common/tls.h"

#include <errno.h>
#include <sys/socket.h>

#include "net/tls.h"

#define FIRST_BYTE_DEADLINE_MS 10000
#define HANDSHAKE_DEADLINE_MS 10000

/* Types of TLS records (RFC 8446, 5.1); no other stream that may come begins with them. */
#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22

static bool fail_handshake(GError **error, const FfChannel *ch, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch), why);
    return false;
}

/* A fatal alert, "unexpected message", in the clear as it must be before any handshake: the
 * peer understands it whether it expects TLS or not, and can tell its user. */
static void send_alert(FfChannel *ch)
{
    static const uint8_t alert[] = {RECORD_ALERT, 3, 3, 0, 2, 2, 10};

    send(ff_channel_fd(ch), alert, sizeof(alert), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool start_tls(const FfConnection *conn, FfChannel *ch, GError **error)
{
    if (!ff_channel_start_tls(ch, conn->cfg->tls, conn->cfg->tls_hostname, HANDSHAKE_DEADLINE_MS,
                              error)) {
        return false;
    }
    g_autofree char *what = ff_channel_tls(ch);
    g_debug("%s: %s", ff_channel_peer(ch), what);
    return true;
}

bool ff_conn_admit(FfChannel *ch, uint8_t first, gpointer opaque, GError **error)
{
    FfConnection *conn = opaque;

    if (ff_conn_lacks_tls(conn)) {
        return fail_handshake(error, ch, conn->cfg->tls_refusal);
    }
    if (conn->cfg->tls && first != RECORD_HANDSHAKE) {
        send_alert(ch);
        return fail_handshake(
            error, ch,
            "it speaks in the clear, and this side has tls-creds: set tls-creds at the "
            "source, too");
    }
    if (!conn->cfg->tls && first == RECORD_HANDSHAKE) {
        send_alert(ch);
        return fail_handshake(
            error, ch,
            "it speaks TLS, and this side has no tls-creds: set tls-creds here, too, with "
            "migrate-set-parameters before migrate-incoming");
    }
    if (conn->cfg->tls) {
        ff_channel_begin_tls(ch, conn->cfg->tls, conn->cfg->tls_hostname);
    }
    return true;
}

static bool secure_incoming(FfConnection *conn, FfChannel *ch, GError **error)
{
    uint8_t first = 0;
    int rc = ff_channel_peek(ch, &first, FIRST_BYTE_DEADLINE_MS);

    if (rc < 0) {
        return fail_handshake(error, ch,
                              rc == -ETIMEDOUT ? "nothing came in time"
                              : rc == -EPIPE   ? "it closed the connection before it said anything"
                                               : g_strerror(-rc));
    }
    return ff_conn_admit(ch, first, conn, error) && (!conn->cfg->tls || start_tls(conn, ch, error));
}

bool ff_conn_lacks_tls(const FfConnection *conn)
{
    return conn->cfg->tls_refusal && !__atomic_load_n(&conn->tls_set, __ATOMIC_ACQUIRE);
}

/* Nobody has looked at the credentials before tls_set. */
void ff_conn_set_tls(FfConnection *conn, FfTls *tls, const char *hostname)
{
    conn->cfg->tls = ff_tls_ref(tls);
    g_free(conn->cfg->tls_hostname);
    conn->cfg->tls_hostname = g_strdup(hostname);
    __atomic_store_n(&conn->tls_set, true, __ATOMIC_RELEASE);
}

bool ff_conn_secure(FfConnection *conn, FfChannel *ch, GError **error)
{
    if (ff_conn_lacks_tls(conn)) {
        return fail_handshake(error, ch, conn->cfg->tls_refusal);
    }
    if (conn->incoming) {
        return secure_incoming(conn, ch, error);
    }
    return conn->cfg->tls ? start_tls(conn, ch, error) : true;
}

bool ff_conn_check_clear(FfConnection *conn, FfChannel *ch, int deadline_ms, GError **error)
{
    uint8_t first = 0;

    /* Whatever else comes, or does not, is for the thread that reads it. */
    if (conn->cfg->tls || ff_channel_peek(ch, &first, deadline_ms) < 0 || first != RECORD_ALERT) {
        return true;
    }
    return fail_handshake(
        error, ch,
        "it uses TLS, and this side has no tls-creds: set tls-creds here, too, with "
        "migrate-set-parameters");
}
