/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The copy of the device state; see device-copy.h. System calls: memfd_create, write. */
#include "migration/common/device-copy.h"

#include <sys/mman.h>
#include <unistd.h>

void ff_device_copy_begin(FfDeviceCopy *copy)
{
    FfControl *c = copy->control;
    int fd = memfd_create("farfault-device", MFD_CLOEXEC);

    if (fd >= 0 && c->ops.hold && c->ops.drop) {
        c->ops.hold("device", fd, c->ops.opaque);
    }
    ff_mutex_lock(&c->lock);
    copy->fd = fd;
    ff_mutex_unlock(&c->lock);
}

int ff_device_copy_fd_locked(const FfDeviceCopy *copy)
{
    return copy->until_grant && copy->control->granted ? -1 : copy->fd;
}

void ff_device_copy_write(FfDeviceCopy *copy, const void *data, size_t len)
{
    FfControl *c = copy->control;

    /* Under the lock: the coordinator may close it, and its number then be another file's. */
    ff_mutex_lock(&c->lock);
    bool whole = copy->fd < 0 || write(copy->fd, data, len) == (ssize_t)len;
    ff_mutex_unlock(&c->lock);
    if (!whole) {
        ff_device_copy_end(copy);
    }
}

void ff_device_copy_end(FfDeviceCopy *copy)
{
    FfControl *c = copy->control;

    ff_mutex_lock(&c->lock);
    int fd = copy->fd;
    copy->fd = -1;
    ff_mutex_unlock(&c->lock);
    if (fd < 0) {
        return;
    }
    close(fd);
    if (c->ops.hold && c->ops.drop) {
        c->ops.drop("device", c->ops.opaque);
    }
}
