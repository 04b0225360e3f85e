/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See clients-wait.h. The timer is there only while something may wait. One thread; no locks. */
#include "guest/relay/clients-wait.h"

/* From the mark to the end of the upgrade it takes some milliseconds. What hangs for longer has
 * other limits (x-farfault-peer-timeout), and a client is to hear of something meanwhile. */
#define WAIT_MS 5000

static gboolean clients_waited(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->clients_timer = 0;
    relay->clients_late = true;
    relay->pump(relay);
    return G_SOURCE_REMOVE;
}

/* An upgrade is under way, at the old QEMU's side; *STOPPED: from the guest's stop on. */
static bool is_upgraded(const FfRelay *relay, bool *stopped)
{
    const FfStateHeader *state = relay->state;
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE); /* the engine's */

    *stopped = phase != FF_PHASE_IDLE && phase != FF_PHASE_SETUP;
    return ff_state_is_marked(state, FF_MARK_MOVED) ||
           (state->role == FF_ROLE_SOURCE && phase != FF_PHASE_IDLE &&
            ff_state_is_marked(state, FF_MARK_UPGRADE));
}

static bool is_setting(const FfQmpCommand *command)
{
    return command && command->name && g_str_has_prefix(command->name, "migrate-set-");
}

static bool must_wait(const FfRelay *relay, bool owned, const FfQmpCommand *command)
{
    bool stopped;

    return is_upgraded(relay, &stopped) && (ff_state_is_marked(relay->state, FF_MARK_MOVED) ||
                                            (stopped && !owned) || is_setting(command));
}

/* Its QEMU may have been told that its migration is over, and would obey. */
static bool may_be_front(const FfRelay *relay)
{
    return ff_state_is_marked(relay->state, FF_MARK_FRONT) &&
           ff_state_is_marked(relay->state, FF_MARK_MOVED);
}

bool ff_clients_would_wait(const FfRelay *relay, bool owned, const FfQmpCommand *command)
{
    /* What is the engine's (query-migrate) says why it takes so long. */
    bool late = relay->clients_late && (owned || !may_be_front(relay)) &&
                !relay->clients_go; /* the other one carries it out */

    return !late && relay->door >= 0 && must_wait(relay, owned, command);
}

bool ff_clients_wait(FfRelay *relay, bool owned, const FfQmpCommand *command)
{
    if (!ff_clients_would_wait(relay, owned, command)) {
        return false;
    }
    if (!relay->clients_timer) {
        relay->clients_timer = g_timeout_add(WAIT_MS, clients_waited, relay);
    }
    return true;
}

void ff_clients_look(FfRelay *relay)
{
    bool stopped;

    if ((!relay->clients_timer && !relay->clients_late) || is_upgraded(relay, &stopped)) {
        return;
    }
    bool waits = relay->clients_timer;

    g_clear_handle_id(&relay->clients_timer, g_source_remove);
    relay->clients_late = false;
    if (waits) {
        relay->pump(relay);
    }
}
