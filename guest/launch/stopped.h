/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes of guests that a signal (SIGSTOP) or a debugger has stopped. */
#ifndef FF_GUEST_LAUNCH_STOPPED_H
#define FF_GUEST_LAUNCH_STOPPED_H

#include <glib.h>
#include <sys/types.h>

typedef enum { FF_STOPPED_QEMU, FF_STOPPED_RELAY, FF_STOPPED_ENGINE } FfStoppedKind;

typedef struct {
    pid_t pid;
    FfStoppedKind kind;
    pid_t qemu; /* whose it is; 0: this user cannot see that */
} FfStopped;

/* All of them (FfStopped), QEMU only if this user may look at it. The only thread. */
GArray *ff_stopped_find(void);

#endif
