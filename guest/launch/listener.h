/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which process listens at the name of a unix socket: asked of the kernel, so that process notices
 * nothing (a connection would be a client, and a monitor has one at a time), unless it is in
 * another network namespace.
 */
#ifndef FF_GUEST_LAUNCH_LISTENER_H
#define FF_GUEST_LAUNCH_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    bool is;   /* a process listens there */
    pid_t pid; /* if it is, or is the relay of, a guest: QEMU. 0: this user may not see it */
} FfListener;

/* Finds which process listens at PATH. A relay whose QEMU has ended counts as none: it ends. Any
 * thread. */
void ff_listener_find(const char *path, FfListener *listener);

#endif
