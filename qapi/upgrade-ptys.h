/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pseudo-terminals of QEMU's process, for the QEMU that is to take its guest over. Main loop's
 * thread. */
#ifndef FF_QAPI_UPGRADE_PTYS_H
#define FF_QAPI_UPGRADE_PTYS_H

#include <json-glib/json-glib.h>
#include <sys/types.h>

typedef struct {
    char *id; /* of the chardev */
    int fd;   /* a copy of its master side */
} FfInheritedPty;

/* Of process PID, with PIDFD, whose CHARDEVS are what query-chardev says: of FfInheritedPty
 * (g_array_unref closes all). */
GArray *ff_upgrade_ptys(pid_t pid, int pidfd, JsonNode *chardevs);

#endif
