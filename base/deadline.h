/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long it is until a moment. The clock is looked at once: of a macro that looks at it twice
 * (GLib's MAX) the second look may be past the moment, and what is negative waits for ever.
 */
#ifndef FF_BASE_DEADLINE_H
#define FF_BASE_DEADLINE_H

#include <glib.h>

/* Microseconds until END (monotonic, us); 0: it is over. Any thread. */
static inline gint64 ff_deadline_left_us(gint64 end)
{
    gint64 left = end - g_get_monotonic_time();

    return MAX(left, 0);
}

/* The same in milliseconds, begun ones whole. */
static inline gint64 ff_deadline_left_ms(gint64 end)
{
    return (ff_deadline_left_us(end) + 999) / 1000;
}

#endif
