/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the engine hangs: its main loop owes an answer to PING. One that was stopped or does not
 * come out of a loop would keep every owned command waiting, query-status too, on every monitor.
 * Its main loop waits for nobody, so after 30 s it is taken for dead, and is killed.
 *
 * What is counted are looks without the answer, not time: a relay that was stopped itself, and a
 * host that was suspended, do not take their own absence for the engine's. Each look reads first
 * what has come. One that a debugger holds is left alone.
 *
 * One that somebody else has killed (the kernel, as memory has run out) is dead, and its link ends,
 * when the last of its threads comes out of the kernel; which one does not that waits for a disk
 * that does not answer. What can be seen before is that its first thread has ended.
 *
 * The timer is there only while an engine is: a guest that does not migrate pays nothing. One
 * thread; no locks.
 */
#include "guest/relay/engine-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint-deadline.h"
#include "base/pidfd.h"

#define HUNG_MS 30000
#define LOOKS 6

/* The value of FIELD ("\nNAME:\t") in its status; NULL. */
static char *status_of(int pidfd, const char *field)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)ff_pidfd_pid(pidfd));
    g_autofree char *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(at = strstr(text, field))) {
        return NULL;
    }
    at += strlen(field);
    return g_strndup(at, strcspn(at, "\n"));
}

static bool is_traced(const FfEngine *engine)
{
    g_autofree char *tracer = engine->pidfd < 0 ? NULL : status_of(engine->pidfd, "\nTracerPid:\t");

    return tracer && strtol(tracer, NULL, 10) != 0;
}

/* Its first thread, which the main loop is, has ended. */
static bool is_killed(const FfEngine *engine)
{
    g_autofree char *state = engine->pidfd < 0 ? NULL : status_of(engine->pidfd, "\nState:\t");

    return state && *state == 'Z';
}

static gboolean check_ping(gpointer opaque)
{
    FfRelay *relay = opaque;
    FfEngine *engine = relay->engine;
    GSource *self = g_main_current_source();

    ff_link_read_now(engine->link);
    if (engine->ping.timer != self) {
        return G_SOURCE_REMOVE; /* it has just ended */
    }
    if (!engine->ping.owed) {
        engine->ping.owed = true;
        engine->ping.silent = 0;
        ff_link_send(engine->link, FF_LINK_PING, 0, ++engine->ping.seq, NULL, 0, NULL, 0);
        return G_SOURCE_CONTINUE;
    }
    if (is_killed(engine)) {
        engine->ping.hung(relay, "it was killed, and does not end: does a disk not answer?");
        return G_SOURCE_REMOVE;
    }
    if (++engine->ping.silent < LOOKS) {
        return G_SOURCE_CONTINUE;
    }
    if (is_traced(engine)) {
        if (!engine->ping.told) {
            ff_relay_log(relay, "the migration engine is held by a debugger, and is waited for");
        }
        engine->ping.told = true;
        engine->ping.silent = 0;
        return G_SOURCE_CONTINUE;
    }
    g_autofree char *why = g_strdup_printf("it has not answered for %u s, and is killed",
                                           (ff_deadline_ms("engine-hung", HUNG_MS) + 999) / 1000);
    engine->ping.hung(relay, why);
    return G_SOURCE_REMOVE;
}

void ff_ping_start(FfRelay *relay, FfPingHung *hung)
{
    FfEngine *engine = relay->engine;

    ff_ping_end(relay);
    engine->ping.owed = engine->ping.told = false;
    engine->ping.silent = 0;
    engine->ping.hung = hung;
    unsigned look_ms = ff_deadline_ms("engine-hung", HUNG_MS) / LOOKS;
    engine->ping.timer = g_timeout_source_new(MAX(1, look_ms));
    g_source_set_callback(engine->ping.timer, check_ping, relay, NULL);
    g_source_attach(engine->ping.timer, NULL);
}

void ff_ping_answered(FfRelay *relay, uint32_t seq)
{
    if (seq == relay->engine->ping.seq) {
        relay->engine->ping.owed = false;
    }
}

void ff_ping_end(FfRelay *relay)
{
    if (relay->engine->ping.timer) {
        g_source_destroy(relay->engine->ping.timer);
        g_clear_pointer(&relay->engine->ping.timer, g_source_unref);
    }
}
