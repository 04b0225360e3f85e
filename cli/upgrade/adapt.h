/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The running QEMU's command line, as the second QEMU of farfault upgrade needs it: what would be
 * truncated when it is opened once more is appended to, and what QEMU makes up at its start is
 * said. One thread.
 */
#ifndef FF_CLI_UPGRADE_ADAPT_H
#define FF_CLI_UPGRADE_ADAPT_H

#include "cli/common/qmp.h"

/* The interfaces of the taps that process PID has open (g_strfreev). */
char **ff_upgrade_taps_of(int pid);

/* *ARGS: NULL-terminated, without QEMU itself; replaced. RUNNING: the first QEMU's monitor; PID:
 * its process. What is left as it was is for ff_upgrade_check_args() to refuse. FALSE and ERROR:
 * RUNNING does not answer. */
bool ff_upgrade_adapt_args(FfCliQmp *running, int pid, char ***args, GError **error);

#endif
