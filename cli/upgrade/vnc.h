/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VNC server on a port, which the running QEMU has: the new QEMU is started with one that listens
 * nowhere, and listens there when the running one has ended. One thread.
 */
#ifndef FF_CLI_UPGRADE_VNC_H
#define FF_CLI_UPGRADE_VNC_H

#include <glib.h>
#include <stdbool.h>

#include "cli/common/qmp.h"

/* What stands against VALUE, the argument of a -vnc; NULL: nothing. */
const char *ff_upgrade_vnc_refused(const char *value);
/* The one on ARGS is the one that RUNNING has. FALSE and ERROR: somebody has changed by
 * display-update where it listens, and the new one would be open again as on the command line. */
bool ff_upgrade_vnc_is_unchanged(char *const *args, FfCliQmp *running, GError **error);
/* There is one at a port on ARGS. */
bool ff_upgrade_vnc_has_port(char *const *args);
/* There is one whose password clients set (password=on). */
bool ff_upgrade_vnc_has_password(char *const *args);
/* PREPARED, the new QEMU, listens at the port that is on ARGS, if there is one. FALSE and ERROR: it
 * does not, and how it can. */
bool ff_upgrade_vnc_listen(char *const *args, FfCliQmp *prepared, GError **error);

#endif
