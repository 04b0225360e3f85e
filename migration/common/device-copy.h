/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A copy of the device state as it comes by, for a dump: held beyond a crash, until nobody needs
 * it. Nothing depends on it: one that cannot be kept is not there.
 *
 * Threads: the coordinator begins and ends it; the device thread (S) or the main reader (D) is the
 * only one to write it; the driver looks. The control's lock.
 */
#ifndef FF_MIGRATION_COMMON_DEVICE_COPY_H
#define FF_MIGRATION_COMMON_DEVICE_COPY_H

#include "migration/common/control.h"

typedef struct {
    FfControl *control; /* borrowed */
    bool until_grant;   /* D: a guest that was granted to this side may have continued from it */
    int fd;             /* lock; -1: none */
} FfDeviceCopy;

void ff_device_copy_begin(FfDeviceCopy *copy);
void ff_device_copy_write(FfDeviceCopy *copy, const void *data, size_t len);
/* The copy (an fd, not the caller's) if it is what the guest would continue from, else -1. The lock
 * is held. */
int ff_device_copy_fd_locked(const FfDeviceCopy *copy);
void ff_device_copy_end(FfDeviceCopy *copy);

#endif
