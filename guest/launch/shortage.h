/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What this process may not do, and so can start no guest that farfault migrates: limits, and a
 * /proc that is not there.
 */
#ifndef FF_GUEST_LAUNCH_SHORTAGE_H
#define FF_GUEST_LAUNCH_SHORTAGE_H

#include "guest/launch/plan.h"

/* What stands against PLAN, in one line (g_free); NULL: nothing. Main thread. */
char *ff_shortage_of(const FfPlan *plan);

#endif
