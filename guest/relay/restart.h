/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When an engine that ended is started again. Pure functions: what is known are its ends and the
 * clock (monotonic time, us). Any thread, no lock; one owner. */
#ifndef FF_GUEST_RELAY_RESTART_H
#define FF_GUEST_RELAY_RESTART_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    unsigned failures; /* in a row: ends that nobody wanted, and starts that failed */
    gint64 started;    /* when it was started last, or was to be; us. 0: never */
} FfRestart;

#define FF_RESTART_AT_ONCE 4 /* so many deaths in a row cost no time */
#define FF_RESTART_MAX_S 60  /* between two starts; as old a death is forgotten */

/* It is being started. */
void ff_restart_started(FfRestart *r, gint64 now);
/* It has died (DIED), or could not be started. Returns when it is to be started next (us), which
 * can be NOW: 0 s after the last start for the first deaths, then 1, 2, 4 ... 60 s. What could not
 * be started is not tried again before a second is over. */
gint64 ff_restart_failed(FfRestart *r, gint64 now, bool died);
/* It has ended because nobody needed it. */
void ff_restart_ended_well(FfRestart *r);
/* A client has a command for it. Returns when it may be started: at once for one that does
 * something (ACTS); for one that only asks, as a client may ask all the time, not more than once a
 * second while it dies again and again. */
gint64 ff_restart_hurry(const FfRestart *r, gint64 now, bool acts);

#endif
