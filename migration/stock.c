/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration that QEMU is to carry, because the peer has no farfault or because this side's engine
 * does not migrate such a guest: how it is told apart, and how its connection is given back to the
 * driver, for QEMU to carry the migration over it.
 *
 * The source opens with what QEMU itself would send: header, configuration section, and the
 * commands OPEN_RETURN_PATH and PING. QEMU echoes the PING's value, our token, in a PONG; farfault
 * answers with its greeting. Nothing has been changed in the guest then, on either side, so QEMU
 * can begin as if nothing had been: the source's QEMU is spliced in behind what was sent, the
 * destination's QEMU gets first what was read. Under TLS the session stays with the engine: QEMU
 * could not go on inside it, so it is given the plain text on a private socket.
 *
 * Silence is no answer: whoever accepts may be a host that hangs, or a socket that nobody serves,
 * and QEMU's own migration would fill the kernel's buffers and give the guest to nobody. So QEMU
 * begins after the PONG, never before it. A QEMU before 8.0 with postcopy-preempt reads nothing
 * before its second channel is there; it tells its channels apart by their order alone. So after
 * second_ms of silence the source (source-connect.c) opens that channel, on which nothing is said.
 * QEMU's own second channel later becomes this one. A farfault that was only slow takes it for a
 * stranger, and the source closes it after the greeting.
 *
 * Threads: the coordinator; the destination's acceptor; give_back() is the main loop's.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A peer that has begun to speak goes on within this time (milliseconds). */
#define SPEAK_DEADLINE_MS 10000

bool ff_m_is_stock(const GError *error)
{
    return g_error_matches(error, FF_M_ERROR, FF_M_ERROR_STOCK) ||
           g_error_matches(error, FF_M_ERROR, FF_M_ERROR_REFUSED);
}

static bool zeros(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

/* ---- this side is refused ------------------------------------------------------------------ */

bool ff_m_may_be_native(const FfMigration *m)
{
    return m->cfg.stock && m->ops.stock;
}

bool ff_m_refuse(FfMigration *m, GError **error)
{
    if (ff_m_may_be_native(m) && !g_error_matches(*error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        m->refused = g_strdup((*error)->message);
        g_clear_error(error);
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_REFUSED, m->refused);
    }
    return false;
}

bool ff_dest_refuse(FfMigration *m, const GError *error)
{
    if (!ff_m_may_be_native(m) || g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        return false;
    }
    m->refused = g_strdup(error->message);
    return true;
}

/* ---- source -------------------------------------------------------------------------------- */

GBytes *ff_source_opening(FfMigration *m)
{
    uint8_t configuration[FF_CONFIGURATION_MAX], out[FF_PROLOGUE_MAX];
    FfVmm *vmm = m->cfg.vmm;
    g_autofree char *machine = vmm->state.machine ? vmm->state.machine(&vmm->state) : NULL;
    bool uuid = m->cfg.validate_uuid && !zeros(m->vm_uuid, sizeof(m->vm_uuid));
    size_t n =
        machine ? ff_configuration_encode(configuration, machine, uuid ? m->vm_uuid : NULL) : 0;

    return g_bytes_new(out, ff_prologue_encode(out, configuration, n));
}

int ff_source_first_answer(FfMigration *m, uint8_t first[FF_PONG_SIZE], GError **error)
{
    uint8_t pong[FF_PONG_SIZE];
    int rc;

    if (!ff_m_check_clear(m, m->main, SPEAK_DEADLINE_MS, error)) {
        return 0;
    }
    rc = ff_channel_read_all(m->main, first, FF_PONG_SIZE, SPEAK_DEADLINE_MS);
    if (rc == 0 && ff_switchover_ack_take(first)) {
        m->stock_acked = true;
        rc = ff_channel_read_all(m->main, first + FF_PONG_SIZE - FF_SWITCHOVER_ACK_SIZE,
                                 FF_SWITCHOVER_ACK_SIZE, SPEAK_DEADLINE_MS);
    }
    if (rc < 0) {
        return rc;
    }
    ff_pong_encode(pong);
    if (memcmp(first, pong, sizeof(pong)) == 0) {
        g_set_error(error, FF_M_ERROR, m->cfg.stock ? FF_M_ERROR_STOCK : 0,
                    "%s is a QEMU without farfault%s", ff_channel_peer(m->main),
                    m->cfg.stock ? "" : ", and x-farfault-peer is require");
    }
    return 0;
}

/* ---- destination --------------------------------------------------------------------------- */

FfPeer ff_dest_recognise(FfChannel *ch, GByteArray *first, int deadline_ms, int *rc)
{
    size_t need = first->len;
    FfPeer peer;

    *rc = 0;
    while ((peer = ff_prologue_decode(first->data, first->len, &need)) == FF_PEER_MORE) {
        guint have = first->len;

        g_byte_array_set_size(first, need);
        *rc = ff_channel_read_all(ch, first->data + have, need - have, deadline_ms);
        if (*rc < 0) {
            return FF_PEER_UNKNOWN;
        }
    }
    return peer;
}

bool ff_dest_recognise_passed(FfMigration *m, GError **error)
{
    g_autoptr(GByteArray) first = g_byte_array_new();
    int rc;

    if (m->listen_fd >= 0) {
        return true;
    }
    if (!ff_m_secure(m, m->arrived, error)) {
        return false;
    }
    switch (ff_dest_recognise(m->arrived, first, -1, &rc)) {
    case FF_PEER_FARFAULT:
        if (!m->refused) {
            return true;
        }
        /* Its opening is QEMU's own: this side's QEMU answers it as any would. */
        /* FALLTHRU */
    case FF_PEER_STOCK_QEMU:
        m->stock_first = m->cfg.stock ? g_byte_array_ref(first) : NULL;
        if (m->stock_first) {
            return true;
        }
        break;
    default:
        break;
    }
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(m->arrived),
                rc == -EPIPE ? "the source closed the connection"
                : rc < 0     ? g_strerror(-rc)
                             : "not a stream of a farfault source");
    return false;
}

bool ff_dest_no_stock(FfMigration *m, GError **error)
{
    if (m->stock_first && m->refused) {
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_REFUSED, m->refused);
    } else if (m->stock_first) {
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_STOCK,
                            "the source is a QEMU without farfault");
    }
    return !m->stock_first;
}

/* ---- both ------------------------------------------------------------------------------------ */

bool ff_m_hand_over(FfMigration *m, const GError *error)
{
    if (!ff_m_is_stock(error) || !m->ops.stock) {
        return false;
    }
    ff_mutex_lock(&m->lock);
    FfChannel **at = m->main ? &m->main : &m->arrived;
    /* NULL: this side is refused, and has connected to none */
    m->stock_channel = g_steal_pointer(at);
    ff_mutex_unlock(&m->lock);
    m->stock = true;
    g_message("%s: QEMU carries the migration", error->message);
    return true;
}

void ff_m_give_back(FfMigration *m)
{
    FfStockPeer peer = {
        .refused = m->refused,
        .fd = m->refused ? g_steal_fd(&m->cfg.fd) : -1,
        .opening = m->opening,
        .acked = m->stock_acked,
        .first = m->stock_first,
        .later = g_steal_pointer(&m->stock_later),
        .second = g_steal_pointer(&m->stock_second),
        .tls = m->cfg.tls,
        .tls_hostname = m->cfg.tls_hostname,
    };

    ff_mutex_lock(&m->lock);
    peer.channel = g_steal_pointer(&m->stock_channel);
    peer.postcopy = m->events & FF_EV_WANT_POSTCOPY;
    peer.run = m->client_cont || !m->cfg.start_paused;
    peer.run_changed = peer.run == m->began_paused;
    ff_mutex_unlock(&m->lock);
    m->ops.stock(&peer, m->ops.opaque);
    /* QEMU has not been told anything yet. From here on nothing is an engine's to adopt: it would
     * call QEMU's migration failed. */
    ff_journal_idle(m->cfg.state);
    FF_FAULT_AT("given-back");
}

void ff_m_stock_free(FfMigration *m)
{
    g_clear_pointer(&m->stock_channel, ff_channel_free);
    g_clear_pointer(&m->stock_second, ff_channel_free);
    if (m->refused && m->cfg.fd >= 0) {
        close(m->cfg.fd); /* cancelled meanwhile */
    }
    g_clear_pointer(&m->refused, g_free);
    g_clear_pointer(&m->opening, g_bytes_unref);
    g_clear_pointer(&m->stock_first, g_byte_array_unref);
    g_clear_pointer(&m->stock_later, g_ptr_array_unref);
}
