/* SPDX-License-Identifier: GPL-2.0-or-later */
/* farfault status without a monitor: a line for each guest of this host. One thread. */
#ifndef FF_CLI_STATUS_GUESTS_H
#define FF_CLI_STATUS_GUESTS_H

/* Prints them on stdout. Returns the exit status. */
int ff_status_guests(void);

#endif
