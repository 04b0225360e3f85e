/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See greet.h. No system calls of its own. */
#include "migration/destination/greet.h"

#include <errno.h>

#include "base/failpoints.h"
#include "migration/common/tls.h"

FfChannel *ff_dest_take_arrived(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    FfChannel *ch = g_steal_pointer(&d->conn->arrived);
    d->control->events &= ~FF_EV_MAIN;
    d->conn->connecting = ch;
    ff_mutex_unlock(&d->control->lock);
    return ch;
}

FfGreeting ff_dest_greeting(const FfDestination *d)
{
    return (FfGreeting){
        .version = GUINT32_TO_LE(FF_WIRE_VERSION),
        .features =
            GUINT32_TO_LE(FF_FEATURE_ALIVE | FF_FEATURE_ZSTD | FF_FEATURE_COMPRESSED_DEVICE |
                          FF_FEATURE_DELTA_DEVICE | FF_FEATURE_ROUNDS | FF_FEATURE_ENDED |
                          (d->cfg->vmm->state.parts ? FF_FEATURE_PARTS : 0) |
                          (d->listen_fd >= 0 ? FF_FEATURE_LISTENS : 0)),
    };
}

static bool hear_opening(FfDestination *d, FfVisit *visit, const FfManners *manners, GError **error)
{
    return ff_conn_secure(d->conn, visit->ch, error) &&
           ff_plain_recognise_passed(d->plain, visit->ch, manners->opening_ms, manners->first,
                                     error);
}

static FfAnswer choose_answer(const FfManners *manners, FfFrameType type)
{
    FfAnswer answer = type == FF_FRAME_HELLO    ? manners->hello
                      : type == FF_FRAME_RESUME ? manners->resume
                      : type == FF_FRAME_REVOKE ? manners->revoke
                                                : NULL;

    return answer ? answer : manners->other;
}

bool ff_dest_receive(FfDestination *d, FfVisit *visit, const FfManners *manners, GError **error)
{
    FfGreeting g = ff_dest_greeting(d);

    if (visit->unheard && !hear_opening(d, visit, manners, error)) {
        return false;
    }
    if (manners->first) {
        if (!ff_plain_none(d->plain, error)) {
            return false;
        }
        FF_FAULT_AT("met");
    }
    return ff_greeting_say(visit->ch, manners->words, ff_frame(FF_FRAME_GREETING, sizeof(g)), &g,
                           error) &&
           ff_greeting_hear_head(visit->ch, manners->words, &visit->f, error) &&
           choose_answer(manners, visit->f.type)(d, visit, error);
}

void ff_dest_expect_channels(FfDestination *d, uint64_t epoch)
{
    ff_mutex_lock(&d->control->lock);
    d->conn->want_channel = false;
    ff_mutex_unlock(&d->control->lock);
    ff_conn_end_bulk(d->conn);
    ff_mutex_lock(&d->control->lock);
    FfChannel *stale = g_steal_pointer(&d->conn->arrived_urgent);
    d->control->events &= ~FF_EV_CHANNEL;
    d->conn->want_epoch = epoch;
    d->conn->want_channel = true;
    ff_mutex_unlock(&d->control->lock);
    ff_channel_free(stale);
}
