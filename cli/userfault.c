/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See userfault.h. System calls: open, ioctl(USERFAULTFD_IOC_NEW), userfaultfd. */
#include "cli/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int ff_cli_new_uffd(void)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC) : -1;

    if (device >= 0) {
        close(device);
    }
    if (fd < 0) {
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    }
    return fd >= 0 ? fd : -errno;
}
