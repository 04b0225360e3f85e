/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why there is no engine (internal.h). One thread; no locks. */
#include "guest/relay/internal.h"

#include "base/deadline.h"
#include "guest/relay/engine-internal.h"

/* One that was killed is dead by then, but where the kernel holds it. */
#define DEAD_US G_USEC_PER_SEC

void ff_absence_tell(FfRelay *relay, const char *why, bool again)
{
    FfEngine *engine = relay->engine;

    if (!engine->told_absent) {
        ff_relay_log(relay, "the migration engine %s cannot be started (%s): %s",
                     relay->plan->engine, why,
                     again ? "it is tried again" : "migrations are QEMU's own");
    }
    engine->told_absent = true;
}

const char *ff_absence_text(FfRelay *relay)
{
    static char text[256];
    FfEngine *engine = relay->engine;
    gint64 left = ff_deadline_left_us(engine->due);
    g_autofree char *next =
        engine->due == G_MAXINT64
            ? g_strdup("repeat the command")
            : g_strdup_printf("it is started again in %u s, or at once for a command",
                              (unsigned)((MAX(left, 1) + G_USEC_PER_SEC - 1) / G_USEC_PER_SEC));

    if (engine->ending >= 0 && engine->ending_since + DEAD_US < g_get_monotonic_time()) {
        return "the migration engine was killed and has not ended yet, as the kernel holds it: it "
               "is started again when it has; repeat the command then";
    }
    if (engine->absence) {
        g_snprintf(text, sizeof(text), "the migration engine cannot be started (%s): %s",
                   engine->absence, next);
    } else {
        g_snprintf(text, sizeof(text), "the migration engine ends unexpectedly again and again: %s",
                   next);
    }
    return text;
}
