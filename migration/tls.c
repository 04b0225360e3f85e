/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS on a connection of the migration, before anything else is said on it; and what is said of a
 * peer that does it differently. A side with credentials never talks in the clear: there is no
 * way from here back to it.
 *
 * Threads: whoever has made or accepted the connection, before others use it. Blocks, at most for
 * the deadlines; ff_channel_shutdown() ends it. ff_m_admit(), the acceptor's, does not: what
 * follows it is of the handshakes (handshakes.c). The driver sets what an adopting engine lacked.
 */
#include "migration/internal.h"

#include <errno.h>
#include <sys/socket.h>

#include "net/tls.h"

#define FIRST_BYTE_DEADLINE_MS 10000
#define HANDSHAKE_DEADLINE_MS 10000

/* Types of TLS records (RFC 8446, 5.1); no other stream that may come begins with them. */
#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22

static bool fail(GError **error, const FfChannel *ch, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch), why);
    return false;
}

/* A fatal alert, "unexpected message", in the clear as it has to be before any handshake: the
 * peer understands it whether it expects TLS or not, and can tell its user. */
static void send_alert(FfChannel *ch)
{
    static const uint8_t alert[] = {RECORD_ALERT, 3, 3, 0, 2, 2, 10};

    send(ff_channel_fd(ch), alert, sizeof(alert), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool start(FfMigration *m, FfChannel *ch, GError **error)
{
    if (!ff_channel_start_tls(ch, m->cfg.tls, m->cfg.tls_hostname, HANDSHAKE_DEADLINE_MS, error)) {
        return false;
    }
    g_autofree char *what = ff_channel_tls(ch);
    g_debug("%s: %s", ff_channel_peer(ch), what);
    return true;
}

bool ff_m_admit(FfChannel *ch, uint8_t first, gpointer opaque, GError **error)
{
    FfMigration *m = opaque;

    if (ff_migration_lacks_tls(m)) {
        return fail(error, ch, m->cfg.tls_refusal);
    }
    if (m->cfg.tls && first != RECORD_HANDSHAKE) {
        send_alert(ch);
        return fail(error, ch,
                    "it speaks in the clear, and this side has tls-creds: set tls-creds at the "
                    "source, too");
    }
    if (!m->cfg.tls && first == RECORD_HANDSHAKE) {
        send_alert(ch);
        return fail(error, ch,
                    "it speaks TLS, and this side has no tls-creds: set tls-creds here, too, with "
                    "migrate-set-parameters before migrate-incoming");
    }
    if (m->cfg.tls) {
        ff_channel_begin_tls(ch, m->cfg.tls, m->cfg.tls_hostname);
    }
    return true;
}

static bool secure_incoming(FfMigration *m, FfChannel *ch, GError **error)
{
    uint8_t first = 0;
    int rc = ff_channel_peek(ch, &first, FIRST_BYTE_DEADLINE_MS);

    if (rc < 0) {
        return fail(error, ch,
                    rc == -ETIMEDOUT ? "nothing came in time"
                    : rc == -EPIPE   ? "it closed the connection before it said anything"
                                     : g_strerror(-rc));
    }
    return ff_m_admit(ch, first, m, error) && (!m->cfg.tls || start(m, ch, error));
}

bool ff_migration_lacks_tls(FfMigration *m)
{
    return m->cfg.tls_refusal && !__atomic_load_n(&m->tls_set, __ATOMIC_ACQUIRE);
}

/* Nobody has looked at the credentials before tls_set. */
void ff_migration_set_tls(FfMigration *m, FfTls *tls, const char *hostname)
{
    m->cfg.tls = ff_tls_ref(tls);
    g_free(m->cfg.tls_hostname);
    m->cfg.tls_hostname = g_strdup(hostname);
    __atomic_store_n(&m->tls_set, true, __ATOMIC_RELEASE);
}

bool ff_m_secure(FfMigration *m, FfChannel *ch, GError **error)
{
    if (ff_migration_lacks_tls(m)) {
        return fail(error, ch, m->cfg.tls_refusal);
    }
    if (m->cfg.role == FF_ROLE_DESTINATION) {
        return secure_incoming(m, ch, error);
    }
    return m->cfg.tls ? start(m, ch, error) : true;
}

bool ff_m_check_clear(FfMigration *m, FfChannel *ch, int deadline_ms, GError **error)
{
    uint8_t first = 0;

    /* Whatever else comes, or does not, is for who reads it. */
    if (m->cfg.tls || ff_channel_peek(ch, &first, deadline_ms) < 0 || first != RECORD_ALERT) {
        return true;
    }
    return fail(error, ch,
                "it uses TLS, and this side has no tls-creds: set tls-creds here, too, with "
                "migrate-set-parameters");
}
