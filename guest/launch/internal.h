/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small parts of the launcher and of farfault attach. */
#ifndef FF_GUEST_LAUNCH_INTERNAL_H
#define FF_GUEST_LAUNCH_INTERNAL_H

#include <glib.h>
#include <stdbool.h>

#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/launch/inherit.h"
#include "guest/launch/plan.h"

/* ---- shortage.c ---- */

/*
 * What this process may not do, and so can start no guest that farfault migrates: limits, and a
 * /proc that is not there.
 */

/* What stands against PLAN, in one line (g_free); NULL: nothing. Main thread. */
char *ff_shortage_of(const FfPlan *plan);

/* ---- inherit-taps.c ---- */

/*
 * The taps of the QEMU whose guest is to be taken over, for the one that is being started: it gets
 * stand-ins, which its agent replaces by the taps (guest/agent/taps.h). The launcher's only thread.
 */

/* All fds are close-on-exec here; QEMU is to inherit those of .fds. */
typedef struct {
    int *stand_ins; /* for the command line, one for each tap; NULL: there are none */
    GArray *fds;    /* of int: all that the agent needs */
    char *text;     /* FF_AGENT_ENV_TAPS; NULL: there are none */
    int go;         /* an eventfd; -1: there are none */
} FfInheritedTaps;

/* For the taps on ARGV. PIDFD: of the running QEMU, -1: it was not lent. FALSE and ERROR: one of
 * them was not lent, or there is no room for it. */
bool ff_inherited_taps_take(FfInheritedTaps *taps, FfInherited *lent, int pidfd, char *const *argv,
                            GError **error);
/* Not the fds: QEMU is to have them, or this process ends. */
void ff_inherited_taps_clear(FfInheritedTaps *taps);

/* ---- attach-kinds.c ---- */

/* Which userfaultfds a guest has, as its relay has noted it. Any thread. */

/* 0: the agent has handed one of KIND over, and it was not lost since; else FfAgentHello.error. */
int ff_attach_kind_error(const FfStateHeader *state, FfKind kind);
/* Fills in HELLO's .error and .kept: what QEMU still has when its relay has ended. */
void ff_attach_kinds(const FfStateHeader *state, FfAgentHello *hello);

#endif
