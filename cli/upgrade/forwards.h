/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ports of the host that a user network forwards to the guest (hostfwd=), which the running QEMU
 * has: the new QEMU is started without, and forwards them when the running one has ended. One
 * thread.
 */
#ifndef FF_CLI_UPGRADE_FORWARDS_H
#define FF_CLI_UPGRADE_FORWARDS_H

#include <glib.h>
#include <stdbool.h>

#include "cli/common/qmp.h"

/* There are some on ARGS. */
bool ff_upgrade_has_forwards(char *const *args);
/* RUNNING has as many as ARGS. FALSE and ERROR: somebody has added or removed some since. */
bool ff_upgrade_forwards_are_unchanged(char *const *args, FfCliQmp *running, GError **error);
/* PREPARED, the new QEMU, forwards those on ARGS. Which it does not, and what to do, in one line
 * (g_free); NULL: it does. */
char *ff_upgrade_forward(char *const *args, FfCliQmp *prepared);

#endif
