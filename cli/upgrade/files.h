/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the disks of a QEMU that waits for a guest are the same files as those of the one that
 * runs it, and not only called the same. One thread.
 */
#ifndef FF_CLI_UPGRADE_FILES_H
#define FF_CLI_UPGRADE_FILES_H

#include <sys/types.h>

#include "cli/common/qmp.h"

/* FALSE and ERROR: which files process PID has open cannot be found out. */
bool ff_upgrade_can_see(pid_t pid, GError **error);
/* QEMU PID has ended; ABOUT_TO: it is waited for a moment, as its monitor is gone before. */
bool ff_upgrade_has_ended(pid_t pid, bool about_to);
/* To be asked when names are known to agree (compare.h). FALSE and ERROR: one line that
 * names the disk, or it cannot be found out. */
bool ff_upgrade_same_files(FfCliQmp *running, pid_t running_pid, FfCliQmp *prepared,
                           pid_t prepared_pid, GError **error);

#endif
