/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a running QEMU may end, and its guest continue in one that is started from here. Any
 * thread.
 */
#ifndef FF_CLI_UPGRADE_PLACE_H
#define FF_CLI_UPGRADE_PLACE_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* PID, the running QEMU, may end, and the guest continue in another process. FALSE: it may be the
 * main process of a service, or of a container, which would end then, or be started again. */
bool ff_upgrade_may_leave(pid_t pid);
/* The same of what stands in CGROUP (/proc/PID/cgroup) and STATUS (/proc/PID/status), and the name
 * PARENT of its parent's program. */
bool ff_upgrade_may_leave_text(const char *cgroup, const char *status, const char *parent);
/* PREPARED, which has been started, does not end with the service that this program is of. FALSE
 * and ERROR: it does, as it could not have RUNNING's control group. The same of /proc/PID/cgroup.
 */
bool ff_upgrade_outlives(pid_t running, pid_t prepared, GError **error);
bool ff_upgrade_outlives_text(const char *theirs, const char *ours, GError **error);
/* This process, which has one thread and may be root, enters the namespaces of PID (mounts,
 * network, ...), as the new QEMU is started from here; only if they have this root folder. Its
 * own is / then. FALSE and ERROR: it cannot. */
bool ff_upgrade_come_near(pid_t pid, GError **error);

#endif
