/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients have told the running QEMU that its command line does not have, and that is no
 * setting of migrations (settings.h): what becomes of the guest at its end, and how often
 * balloons are asked for statistics. libvirt says both at the start. One thread.
 */
#ifndef FF_CLI_UPGRADE_RUNTIME_SETTINGS_H
#define FF_CLI_UPGRADE_RUNTIME_SETTINGS_H

#include "cli/common/qmp.h"

/* ACTIONS: of x-farfault-lend's answer; can be NULL. PREPARED is told the same. Returns why it
 * refuses some, in one line (g_free); NULL: it does not. */
char *ff_upgrade_carry_actions(JsonArray *actions, FfCliQmp *prepared);

/* Of each balloon that has a name, its QOM path and the seconds between two questions (g_array of
 * FfBalloon; g_array_unref): of the running QEMU. */
typedef struct {
    char *path;
    gint64 seconds;
} FfBalloon;
GArray *ff_upgrade_balloons(FfCliQmp *running);
/* QMP asks as often from now on. */
void ff_upgrade_poll_balloons(const GArray *balloons, FfCliQmp *qmp);

#endif
