/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What others see of a migration that QEMU carries (FfStateTotals.carried): QEMU's events while an
 * engine lives; and, where its connections are the engine's, what QEMU says at each PING, as a
 * client may want no events. Main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"

static uint32_t carried_totals(const FfDriver *d)
{
    return ff_carried(&d->config.state->totals);
}

void ff_carried_status(FfDriver *d, const char *status)
{
    static const struct {
        const char *status;
        FfCarried carried;
    } table[] = {
        {"setup", FF_CARRIED_PRECOPY},
        {"wait-unplug", FF_CARRIED_PRECOPY},
        {"active", FF_CARRIED_PRECOPY},
        {"pre-switchover", FF_CARRIED_PRECOPY},
        {"device", FF_CARRIED_PRECOPY},
        {"cancelling", FF_CARRIED_PRECOPY},
        {"postcopy-device", FF_CARRIED_SWITCHED},
        {"postcopy-active", FF_CARRIED_SWITCHED},
        {"postcopy-recover-setup", FF_CARRIED_SWITCHED},
        {"postcopy-recover", FF_CARRIED_SWITCHED},
        {"postcopy-paused", FF_CARRIED_PAUSED},
        {"completed", FF_CARRIED_COMPLETED},
        {"failed", FF_CARRIED_FAILED},
        {"cancelled", FF_CARRIED_CANCELLED},
    };

    /* Else it is one of an inner migration, which may come late. */
    if (!carried_totals(d) || d->migration) {
        return;
    }
    for (unsigned i = 0; status && i < G_N_ELEMENTS(table); i++) {
        if (!strcmp(table[i].status, status)) {
            ff_carried_set(&d->config.state->totals,
                           table[i].carried | (carried_totals(d) & FF_CARRIED_INCOMING));
        }
    }
}

static void on_looked(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    JsonObject *info = error ? NULL : ff_json_node_object(result);

    d->looking = false;
    if (info) {
        ff_carried_status(d, ff_json_string(info, "status"));
    }
    ff_call_return(call, NULL);
}

void ff_carried_look(FfDriver *d)
{
    bool joined = (d->outgoing && ff_outgoing_has_begun(d->outgoing)) ||
                  (d->incoming && ff_incoming_is_native(d->incoming));

    if (joined && !d->looking) {
        d->looking = true;
        ff_call_inner(ff_call_new_own(d), "query-migrate", NULL, on_looked);
    }
}
