/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files that the new QEMU of an upgrade makes beside those of the running one: sockets at which
 * it listens, its pid file (guest/launch/inherit-argv.h). The new relay renames them as well; which
 * of the two is first does not matter. One thread.
 */
#ifndef FF_CLI_UPGRADE_NAMES_H
#define FF_CLI_UPGRADE_NAMES_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* Of a QEMU with ARGS that is process PID, started beside RUNNING: of FfInheritedName * (free with
 * g_ptr_array_unref). */
GPtrArray *ff_upgrade_names(char *const *args, pid_t running, pid_t pid);
/* Each is in the place of one of the running QEMU's, OWN (NULL: an older farfault did not keep its
 * command line), or of nothing. FALSE and ERROR: it is somebody else's. */
bool ff_upgrade_names_are_own(const GPtrArray *names, const GPtrArray *own, GError **error);
/* They get the rights, the owner and the group that their users have given to those of the running
 * QEMU. FALSE and ERROR: somebody could not reach the guest any more, or too many could. */
bool ff_upgrade_names_copy_rights(const GPtrArray *names, GError **error);
/* The guest is the new QEMU's. */
void ff_upgrade_names_take(const GPtrArray *names);
/* It is not, and that QEMU has ended. */
void ff_upgrade_names_remove(const GPtrArray *names);

#endif
