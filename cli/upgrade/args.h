/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which command lines of QEMU can be started a second time while the first QEMU runs: what is on
 * them is not known to take, truncate or remove anything that the running one needs. Any thread.
 */
#ifndef FF_CLI_UPGRADE_ARGS_H
#define FF_CLI_UPGRADE_ARGS_H

#include <glib.h>
#include <stdbool.h>

/* IN_ROOT: the running QEMU's folder is /, as a daemon's. ARGV: NULL-terminated, without QEMU
 * itself. VHOST: farfault stands between it and its vhost-user back-ends. GIVEN (int): numbers of
 * fds that the new QEMU gets. FALSE and ERROR, one line that names the option. */
bool ff_upgrade_check_args(char *const *argv, bool in_root, bool vhost, const GArray *given,
                           GError **error);
/* The taps of ARGV are those of the running QEMU's own arguments, by the names of the networks, as
 * far as it has them still. TAPS: the interfaces that it has. FALSE and ERROR: a network would be
 * another one. */
bool ff_upgrade_same_taps(char *const *own, char *const *argv, const char *const *taps,
                          GError **error);

#endif
