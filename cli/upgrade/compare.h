/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a QEMU that waits for a guest can take it from the one that runs it: both are asked what
 * they are made of. One thread.
 */
#ifndef FF_CLI_UPGRADE_COMPARE_H
#define FF_CLI_UPGRADE_COMPARE_H

#include "cli/common/qmp.h"

/* CWD: both QEMUs' folder; NULL: not known. FALSE and ERROR: one line that names the difference, or
 * an answer is missing. */
bool ff_upgrade_compare(FfCliQmp *running, FfCliQmp *prepared, const char *cwd, GError **error);

#endif
