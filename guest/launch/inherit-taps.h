/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The taps of the QEMU whose guest is to be taken over, for the one that is being started: it gets
 * stand-ins, which its agent replaces by the taps (guest/agent/taps.h). The launcher's only thread.
 */
#ifndef FF_GUEST_LAUNCH_INHERIT_TAPS_H
#define FF_GUEST_LAUNCH_INHERIT_TAPS_H

#include <glib.h>
#include <stdbool.h>

#include "guest/launch/inherit.h"

/* All fds are close-on-exec here; QEMU is to inherit those of .fds. */
typedef struct {
    int *stand_ins; /* for the command line, one for each tap; NULL: there are none */
    GArray *fds;    /* of int: all that the agent needs */
    char *text;     /* FF_AGENT_ENV_TAPS; NULL: there are none */
    int go;         /* an eventfd; -1: there are none */
} FfLentTaps;

/* For the taps on ARGV. PIDFD: of the running QEMU, -1: it was not lent. FALSE and ERROR: one of
 * them was not lent, or there is no room for it. */
bool ff_lent_taps_take(FfLentTaps *taps, FfLent *lent, int pidfd, char *const *argv,
                       GError **error);
/* Not the fds: QEMU is to have them, or this process ends. */
void ff_lent_taps_clear(FfLentTaps *taps);

#endif
