/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration that QEMU is to carry, because the peer has no farfault or because this side's engine
 * does not migrate such a guest: how it is told apart, and how its connection is given back to the
 * driver, for QEMU to carry the migration over it.
 *
 * The source opens with what QEMU itself would send: header, configuration section, and the
 * commands OPEN_RETURN_PATH and PING. QEMU echoes the PING's value, our token, in a PONG; farfault
 * answers with its greeting. Nothing has been changed in the guest then, on either side, so QEMU
 * can begin as if nothing had been: the source's QEMU is spliced in after what was sent, the
 * destination's QEMU gets first what was read. Under TLS the session stays with the engine: QEMU
 * could not continue inside it, so it is given the plain text on a private socket.
 *
 * A source that is refused says the same, but with QEMU's own PING, where its client may ask for
 * postcopy: so a farfault there leaves the guest to its QEMU, and QEMU's PONG is waited for as
 * well.
 *
 * Silence is no answer: the peer that accepts may be a host that hangs, or a socket that nobody
 * serves, and QEMU's own migration would fill the kernel's buffers and give the guest to nobody. So
 * QEMU begins after the PONG, never before it. A QEMU before 8.0 with postcopy-preempt reads
 * nothing before its second channel is there; it tells its channels apart by their order alone. So
 * after second_ms of silence the source (migration/source/hello.c) opens that channel, on which
 * nothing is said. QEMU's own second channel later becomes this one. A farfault that was only slow
 * takes it for a stranger, and the source closes it after the greeting.
 *
 * Threads: the coordinator; the destination's acceptor; give_back() is the main loop's.
 */
#include "migration/common/qemu-carries.h"

#include <errno.h>
#include <string.h>

#include "base/failpoints.h"
#include "migration/common/ownership.h"
#include "migration/common/tls.h"

/* A peer that has begun to speak continues within this time (milliseconds). */
#define SPEAK_DEADLINE_MS 10000

bool ff_plain_is(const GError *error)
{
    return g_error_matches(error, FF_M_ERROR, FF_M_ERROR_PLAIN) ||
           g_error_matches(error, FF_M_ERROR, FF_M_ERROR_REFUSED);
}

static bool all_zeros(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i]) {
            return false;
        }
    }
    return true;
}

/* ---- this side is refused -------------------------------------------------------------------- */

bool ff_plain_possible(const FfPlain *plain)
{
    return plain->cfg->plain && plain->control->ops.plain;
}

bool ff_plain_refuse(FfPlain *plain, GError **error)
{
    if (ff_plain_possible(plain) && !g_error_matches(*error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        plain->refused = g_strdup((*error)->message);
        g_clear_error(error);
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_REFUSED, plain->refused);
    }
    return false;
}

bool ff_plain_refuse_later(FfPlain *plain, const GError *error)
{
    if (!ff_plain_possible(plain) || g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        return false;
    }
    plain->refused = g_strdup(error->message);
    return true;
}

/* ---- source ---------------------------------------------------------------------------------- */

GBytes *ff_plain_opening(const FfPlain *plain)
{
    uint8_t configuration[FF_CONFIGURATION_MAX], out[FF_PROLOGUE_MAX];
    FfVmm *vmm = plain->cfg->vmm;
    g_autofree char *machine = vmm->state.machine ? vmm->state.machine(&vmm->state) : NULL;
    bool uuid =
        plain->cfg->validate_uuid && !all_zeros(plain->conn->vm_uuid, sizeof(plain->conn->vm_uuid));
    size_t n = machine ? ff_configuration_encode(configuration, machine,
                                                 uuid ? plain->conn->vm_uuid : NULL)
                       : 0;

    n = ff_prologue_encode(out, configuration, n);
    if (plain->refused) {
        ff_prologue_as_qemu(out, n);
    }
    return g_bytes_new(out, n);
}

/* QEMU's stream would have to begin as its peer was told. A UUID of zeros stands in it if somebody
 * has given it, which is not known. */
static bool is_opening_known(const FfPlain *plain)
{
    FfVmmState *state = &plain->cfg->vmm->state;
    g_autofree char *machine = !plain->unsure && state->machine ? state->machine(state) : NULL;

    return machine && !(plain->cfg->validate_uuid &&
                        all_zeros(plain->conn->vm_uuid, sizeof(plain->conn->vm_uuid)));
}

bool ff_plain_greets(const FfPlain *plain, GError **error)
{
    if (!plain->refused || !plain->cfg->answered_first || !is_opening_known(plain)) {
        return false;
    }
    g_clear_error(error);
    return true;
}

int ff_plain_first_answer(FfPlain *plain, FfChannel *ch, uint8_t first[FF_PONG_SIZE],
                          GError **error)
{
    uint8_t pong[FF_PONG_SIZE];
    gsize len;
    const uint8_t *opening = g_bytes_get_data(plain->opening, &len);
    int rc = ff_channel_read_all(ch, first, FF_PONG_SIZE, SPEAK_DEADLINE_MS);

    if (rc == 0 && ff_switchover_ack_take(first)) {
        plain->acked = true;
        rc = ff_channel_read_all(ch, first + FF_PONG_SIZE - FF_SWITCHOVER_ACK_SIZE,
                                 FF_SWITCHOVER_ACK_SIZE, SPEAK_DEADLINE_MS);
    }
    if (rc < 0) {
        return rc;
    }
    ff_pong_encode(pong, opening, len);
    if (plain->refused && memcmp(first, pong, sizeof(pong)) == 0) {
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_REFUSED, plain->refused);
    } else if (plain->refused) {
        g_set_error(error, FF_M_ERROR, 0, "%s does not answer as a QEMU", ff_channel_peer(ch));
    } else if (memcmp(first, pong, sizeof(pong)) == 0) {
        g_set_error(error, FF_M_ERROR, plain->cfg->plain ? FF_M_ERROR_PLAIN : 0,
                    "%s: " FF_PLAIN_DESTINATION "%s", ff_channel_peer(ch),
                    plain->cfg->plain ? "" : ", and x-farfault-peer is require");
    }
    return 0;
}

/* ---- destination ----------------------------------------------------------------------------- */

/* Reads from CH, after what is in FIRST, until it is known who connected. *RC < 0: -errno. */
static FfPeer recognise_peer(FfChannel *ch, GByteArray *first, int deadline_ms, int *rc)
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

bool ff_plain_recognise_passed(FfPlain *plain, FfChannel *ch, int deadline_ms, bool qemu,
                               GError **error)
{
    g_autoptr(GByteArray) first = g_byte_array_new();
    int rc;
    FfPeer peer = recognise_peer(ch, first, deadline_ms, &rc);

    if (peer == FF_PEER_FARFAULT && !(qemu && plain->refused)) {
        return true;
    }
    /* To a side that is refused the opening of a farfault is QEMU's own: its QEMU answers it as any
     * would. */
    if (qemu && plain->cfg->plain && (peer == FF_PEER_FARFAULT || peer == FF_PEER_PLAIN_QEMU)) {
        plain->first = g_steal_pointer(&first);
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                rc == -EPIPE       ? "the source closed the connection"
                : rc == -ETIMEDOUT ? "the source said nothing in time"
                : rc < 0           ? g_strerror(-rc)
                                   : "not a stream of a farfault source");
    return false;
}

bool ff_plain_none(const FfPlain *plain, GError **error)
{
    if (plain->first && plain->refused) {
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_REFUSED, plain->refused);
    } else if (plain->first) {
        g_set_error_literal(error, FF_M_ERROR, FF_M_ERROR_PLAIN, FF_PLAIN_SOURCE);
    }
    return !plain->first;
}

/* ---- both ------------------------------------------------------------------------------------ */

bool ff_plain_hand_over(FfPlain *plain, const GError *error)
{
    if (!ff_plain_is(error) || !plain->control->ops.plain) {
        return false;
    }
    ff_mutex_lock(&plain->control->lock);
    /* NULL: this side is refused, and has connected to none */
    plain->channel = g_steal_pointer(&plain->conn->main);
    ff_mutex_unlock(&plain->control->lock);
    plain->carried = true;
    g_message("%s: QEMU carries the migration", error->message);
    return true;
}

void ff_plain_give_back(FfPlain *plain)
{
    FfPlainPeer peer = {
        .refused = plain->refused,
        .fd = plain->refused ? g_steal_fd(&plain->cfg->fd) : -1,
        .opening = plain->opening,
        .acked = plain->acked,
        .first = plain->first,
        .later = g_steal_pointer(&plain->later),
        .second = g_steal_pointer(&plain->second),
        .tls = plain->cfg->tls,
        .tls_hostname = plain->cfg->tls_hostname,
    };

    ff_mutex_lock(&plain->control->lock);
    peer.channel = g_steal_pointer(&plain->channel);
    peer.postcopy = plain->control->events & FF_EV_WANT_POSTCOPY;
    peer.run = plain->control->client_cont || !plain->control->start_paused;
    peer.run_changed = peer.run == plain->began_paused;
    ff_mutex_unlock(&plain->control->lock);
    plain->control->ops.plain(&peer, plain->control->ops.opaque);
    /* QEMU has not been told anything yet. From here on nothing is an engine's to adopt: it would
     * call QEMU's migration failed. */
    ff_ownership_idle(plain->cfg->state);
    FF_FAULT_AT("given-back");
}

void ff_plain_clear(FfPlain *plain)
{
    g_clear_pointer(&plain->channel, ff_channel_free);
    g_clear_pointer(&plain->second, ff_channel_free);
    g_clear_pointer(&plain->refused, g_free);
    g_clear_pointer(&plain->opening, g_bytes_unref);
    g_clear_pointer(&plain->first, g_byte_array_unref);
    g_clear_pointer(&plain->later, g_ptr_array_unref);
}
