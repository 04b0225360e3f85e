/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. No state; any thread. System calls: eventfd2, dup3, close. */
#include "guest/agent/internal.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

void ff_quiet_put_over(int fd)
{
    int quiet = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (quiet >= 0) {
        dup3(quiet, fd, O_CLOEXEC);
        close(quiet);
    }
}
