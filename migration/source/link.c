/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the link is the limit. See link.h.
 *
 * A socket that is held short, and whose sender waits for it, waits for the link, or for who reads
 * at its other end. Where all of them carry much it is a processor that limits one
 * (net/link-rate.h), whatever the link could do.
 */
#include "migration/source/link.h"

bool ff_source_link_bound(FfSource *s)
{
    FfConnection *conn = s->conn;
    uint64_t bytes = ff_channel_bytes(conn->main);

    for (unsigned i = 0; i < conn->n_bulk; i++) {
        bytes += ff_channel_bytes(conn->bulk[i].ch);
    }
    bytes += conn->urgent ? ff_channel_bytes(conn->urgent) : 0;
    bool slow = ff_link_rate_is_slow(&s->link_rate, bytes, ff_channel_waited_us(conn->main),
                                     g_get_monotonic_time());
    bool bound = ff_channel_lead(conn->main, &s->link_rate, slow, conn->n_bulk > 0);

    for (unsigned i = 0; i < conn->n_bulk; i++) {
        ff_channel_follow(conn->bulk[i].ch, conn->main);
    }
    return bound;
}
