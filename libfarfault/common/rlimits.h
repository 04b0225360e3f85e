/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the limits of a program would end it for is an error of the call: no memory, and a file that
 * may not grow.
 */
#ifndef FARFAULT_RLIMITS_H
#define FARFAULT_RLIMITS_H

#include <glib.h>
#include <signal.h>
#include <stdbool.h>

/* 0: there are EXTRA bytes now, and what a call needs for its small things. -ENOMEM, said of CALL.
 */
int ff_reserve(const char *call, size_t extra);

typedef struct {
    sigset_t old;
    bool was_pending;
} FfXfsz;

/* g_auto(FfXfsz) x = ff_xfsz_begin(): until the end of the block a write of this thread that
 * RLIMIT_FSIZE forbids is -EFBIG, and no SIGXFSZ. */
FfXfsz ff_xfsz_begin(void);
void ff_xfsz_end(FfXfsz *x);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfXfsz, ff_xfsz_end)

#endif
