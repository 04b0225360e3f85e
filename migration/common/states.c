/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state table; see states.h. Constant data; any thread. */
#include "migration/common/states.h"

#include <glib.h>

#define TO(s) (1u << FF_STATUS_##s)

static const FfState table[FF_STATUS__MAX] = {
    [FF_STATUS_NONE] = {FF_STATUS_NONE, "none", "no migration yet", "no migration yet",
                        TO(SETUP) | TO(POSTCOPY_ACTIVE) | TO(POSTCOPY_PAUSED) |
                            TO(POSTCOPY_RECOVER)},
    [FF_STATUS_SETUP] = {FF_STATUS_SETUP, "setup",
                         "connecting, greeting the peer, comparing the guests' memory",
                         "listening, or the peer is being greeted",
                         TO(ACTIVE) | TO(POSTCOPY_ACTIVE) | TO(CANCELLING) | TO(FAILED)},
    [FF_STATUS_ACTIVE] = {FF_STATUS_ACTIVE, "active",
                          "the peer agreed; the guest runs here, precopy rounds are sent",
                          "the peer is accepted; the guest runs at the source",
                          TO(COMPLETED) | TO(DEVICE) | TO(PRE_SWITCHOVER) | TO(POSTCOPY_ACTIVE) |
                              TO(POSTCOPY_PAUSED) | TO(POSTCOPY_RECOVER) | TO(CANCELLING) |
                              TO(FAILED)},
    [FF_STATUS_PRE_SWITCHOVER] = {FF_STATUS_PRE_SWITCHOVER, "pre-switchover",
                                  "the guest is stopped; waiting for migrate-continue", NULL,
                                  TO(DEVICE) | TO(CANCELLING) | TO(FAILED)},
    [FF_STATUS_DEVICE] = {FF_STATUS_DEVICE, "device",
                          "the guest is stopped; device state is on its way", NULL,
                          TO(POSTCOPY_PAUSED) | TO(POSTCOPY_RECOVER) | TO(COMPLETED) |
                              TO(POSTCOPY_ACTIVE) | TO(CANCELLING) | TO(FAILED)},
    [FF_STATUS_POSTCOPY_ACTIVE] = {FF_STATUS_POSTCOPY_ACTIVE, "postcopy-active",
                                   "the right to run is given away; pages are being sent",
                                   "the guest may run here; pages are being received",
                                   TO(POSTCOPY_PAUSED) | TO(POSTCOPY_RECOVER) | TO(COMPLETED)},
    [FF_STATUS_POSTCOPY_PAUSED] = {FF_STATUS_POSTCOPY_PAUSED, "postcopy-paused",
                                   "the connection is lost; everything is kept",
                                   "the connection is lost; who needs a missing page waits",
                                   TO(POSTCOPY_RECOVER_SETUP) | TO(POSTCOPY_RECOVER) | TO(FAILED)},
    [FF_STATUS_POSTCOPY_RECOVER_SETUP] = {FF_STATUS_POSTCOPY_RECOVER_SETUP,
                                          "postcopy-recover-setup", "connecting once more", NULL,
                                          TO(POSTCOPY_RECOVER) | TO(POSTCOPY_PAUSED)},
    [FF_STATUS_POSTCOPY_RECOVER] = {FF_STATUS_POSTCOPY_RECOVER, "postcopy-recover",
                                    "a new connection is being agreed on",
                                    "a new connection is being agreed on",
                                    TO(POSTCOPY_ACTIVE) | TO(POSTCOPY_PAUSED) | TO(FAILED)},
    [FF_STATUS_CANCELLING] = {FF_STATUS_CANCELLING, "cancelling",
                              "being undone at the client's wish", NULL,
                              TO(CANCELLED) | TO(FAILED)},
    [FF_STATUS_CANCELLED] = {FF_STATUS_CANCELLED, "cancelled", "undone; the guest is as before",
                             NULL, 0},
    [FF_STATUS_COMPLETED] = {FF_STATUS_COMPLETED, "completed", "every page is at the destination",
                             "every page is here", 0},
    [FF_STATUS_FAILED] = {FF_STATUS_FAILED, "failed",
                          "given up before the right to run was given; the guest is as before",
                          "given up before the guest could run here", 0},
};

const FfState *ff_state(FfStatus status)
{
    g_assert(status < FF_STATUS__MAX);
    return &table[status];
}

const char *ff_status_name(FfStatus status)
{
    return ff_state(status)->name;
}

bool ff_state_may_follow(FfStatus from, FfStatus to)
{
    return ff_state(from)->next >> to & 1;
}

bool ff_state_is_final(FfStatus status)
{
    return status != FF_STATUS_NONE && ff_state(status)->next == 0;
}

char *ff_states_markdown(void)
{
    GString *s = g_string_new("| status | at the source | at the destination | next |\n"
                              "|---|---|---|---|\n");

    for (unsigned i = 0; i < FF_STATUS__MAX; i++) {
        const FfState *st = &table[i];
        g_string_append_printf(s, "| `%s` | %s | %s |", st->name, st->source ? st->source : "–",
                               st->destination ? st->destination : "–");
        for (unsigned j = 0; j < FF_STATUS__MAX; j++) {
            if (st->next >> j & 1) {
                g_string_append_printf(s, " `%s`", table[j].name);
            }
        }
        g_string_append(s, st->next ? " |\n" : " – |\n");
    }
    return g_string_free(s, FALSE);
}
