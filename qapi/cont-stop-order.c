/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of what clients say of running and of what the engine does with the guest by itself:
 * the switch waits for words that are under way, and words wait while the guest is being stopped or
 * started. Main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    FfHandler next;
} Waiting;

void ff_call_when_moved(FfCall *call, FfHandler next)
{
    Waiting *w = g_new(Waiting, 1);

    *w = (Waiting){call, next};
    g_queue_push_tail(&call->driver->waiting_moved, w);
}

void ff_driver_moved(FfDriver *d)
{
    g_autoptr(GQueue) waiting = g_queue_copy(&d->waiting_moved);
    Waiting *w;

    g_queue_clear(&d->waiting_moved);
    while ((w = g_queue_pop_head(waiting))) {
        w->next(w->call); /* waits once more if it moves again */
        g_free(w);
    }
}

/* What a client has said before the guest is held went to QEMU by the client's own monitor, or by
 * the private one, and its answer may be all that the client waits for. So the guest is not stopped
 * before QEMU has carried it out: the relay says so of all that it has passed. A question on the
 * private monitor comes after what went there, and after each event that was caused by any of
 * it. */
void ff_driver_await_words(FfDriver *d)
{
    static const char words[] = "words";

    d->words_seq += d->words_seq == UINT32_MAX ? 2 : 1; /* never 0 */
    ff_driver_send(d, FF_LINK_SYNC, 0, d->words_seq, words, strlen(words));
}

static void words_heard(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (d->migration && call->seq == d->words_seq) {
        ff_migration_words_heard(d->migration);
    }
    ff_call_return(call, NULL);
}

void ff_driver_words_answered(FfDriver *d, uint32_t seq)
{
    FfCall *call;

    if (seq != d->words_seq) {
        return; /* of a migration that is over */
    }
    call = ff_call_new_own(d);
    call->seq = seq;
    call->patient = true;
    ff_call_inner(call, "query-status", NULL, words_heard);
}
