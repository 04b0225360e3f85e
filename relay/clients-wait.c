/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See clients-wait.h. The timer is there only while something may wait. One thread; no locks. */
#include "relay/clients-wait.h"

/* From the mark to the end of the upgrade it takes some milliseconds. What hangs for longer has
 * other limits (x-farfault-peer-timeout), and a client is to hear of something meanwhile. */
#define WAIT_MS 5000

static gboolean waited(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->clients_timer = 0;
    relay->clients_late = true;
    relay->pump(relay);
    return G_SOURCE_REMOVE;
}

bool ff_clients_wait(FfRelay *relay)
{
    if (!ff_state_is_marked(relay->state, FF_MARK_MOVED) || relay->clients_late ||
        relay->door < 0) {
        return false;
    }
    if (!relay->clients_timer) {
        relay->clients_timer = g_timeout_add(WAIT_MS, waited, relay);
    }
    return true;
}

void ff_clients_look(FfRelay *relay)
{
    if ((!relay->clients_timer && !relay->clients_late) ||
        ff_state_is_marked(relay->state, FF_MARK_MOVED)) {
        return;
    }
    bool waits = relay->clients_timer;

    g_clear_handle_id(&relay->clients_timer, g_source_remove);
    relay->clients_late = false;
    if (waits) {
        relay->pump(relay);
    }
}
