/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deadlines that a test waits for: in a build with fault points the environment variable
 * FARFAULT_DEADLINES ("NAME=MS,...") changes them, so that what comes after one is tried in no
 * time. Any other build has them as they are. No state; any thread.
 */
#ifndef FF_BASE_FAILPOINT_DEADLINE_H
#define FF_BASE_FAILPOINT_DEADLINE_H

#ifdef FF_FAULTS

#include <stdlib.h>
#include <string.h>

/* Milliseconds of the deadline NAME. */
static inline unsigned ff_deadline_ms(const char *name, unsigned ms)
{
    const char *all = getenv("FARFAULT_DEADLINES");
    size_t len = strlen(name);

    for (const char *at = all; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (!strncmp(at, name, len) && at[len] == '=') {
            return (unsigned)strtoul(at + len + 1, NULL, 10);
        }
    }
    return ms;
}

#else

#define ff_deadline_ms(name, ms) ((unsigned)(ms))

#endif
#endif
