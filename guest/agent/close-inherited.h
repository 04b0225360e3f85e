/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What this process has no more. */
#ifndef FF_GUEST_AGENT_CLOSE_INHERITED_H
#define FF_GUEST_AGENT_CLOSE_INHERITED_H

/* In the place of the file that is FD, and keeps its number, comes one that never has anything to
 * say, so that QEMU is not woken by it again; unless there is no such file to be had. Any thread.
 */
void ff_quiet_put_over(int fd);

#endif
