/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What clients have set for migrations, in the QEMU that farfault upgrade is about to replace. Any
 * thread; no state. */
#ifndef FF_CLI_UPGRADE_SETTINGS_H
#define FF_CLI_UPGRADE_SETTINGS_H

#include "cli/common/qmp.h"

/* Capabilities and parameters of PREPARED become those of RUNNING, as far as it has them. Returns
 * which it refuses, and why, in one line (g_free); NULL: none. */
char *ff_upgrade_carry_settings(FfCliQmp *running, FfCliQmp *prepared);

#endif
