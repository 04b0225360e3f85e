/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status without a monitor: a line for each guest of this host; and what the state of a
 * guest of this host knows besides. One thread.
 */
#ifndef FF_CLI_WATCH_STATUS_GUESTS_H
#define FF_CLI_WATCH_STATUS_GUESTS_H

#include "cli/common/qmp.h"

/* Where the guest of the QEMU behind QMP, whose monitor is at ADDRESS, has moved to, as the source
 * connected to it (g_free); NULL: it has not, or that is not known. */
char *ff_status_moved_to(const FfCliQmp *qmp, const char *address);
/* Prints them on stdout. Returns the exit status. */
int ff_status_guests(void);

#endif
