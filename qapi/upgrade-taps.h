/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The taps that QEMU has open, for one that takes its guest over. Main loop's thread. */
#ifndef FF_QAPI_UPGRADE_TAPS_H
#define FF_QAPI_UPGRADE_TAPS_H

#include <glib.h>
#include <sys/types.h>

typedef struct {
    char *name; /* of the interface */
    int fd;     /* a copy */
} FfInheritedTap;

/* Of FfInheritedTap; free with g_array_unref, which closes the copies. PID, PIDFD: QEMU. Those that
 * may not be seen are left out. */
GArray *ff_upgrade_taps(pid_t pid, int pidfd);

#endif
