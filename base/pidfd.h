/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a pidfd says of its process (pidfd_open(2)). Any thread; nothing is kept.
 */
#ifndef FF_BASE_PIDFD_H
#define FF_BASE_PIDFD_H

#include <stdbool.h>
#include <sys/types.h>

/* The process of PIDFD has ended. It need not have been reaped. */
bool ff_pidfd_has_ended(int pidfd);
/* Its pid in the pid namespace of /proc, which is no other's before its parent has reaped it. 0: it
 * has none there; -1: it has been reaped, or PIDFD is no pidfd. */
pid_t ff_pidfd_pid(int pidfd);

#endif
