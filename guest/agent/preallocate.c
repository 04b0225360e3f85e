/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See preallocate.h. Never memory that is shared: that is the guest's, which runs in another QEMU.
 *
 * Thread: QEMU's main one. No lock, nothing is allocated but the pages. System calls: open, read,
 * close (/proc/self/maps), madvise.
 */
#include "guest/agent/preallocate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* A display may have more than a host wants to spend: then it is filled while the guest stands. */
#define FILL_MAX ((size_t)64 << 20)

/* LINE, of /proc/PID/maps, is private memory of no file, which can be written to, and all of it. */
static bool is_private(const char *line, uint64_t start, uint64_t end)
{
    unsigned long long first, last, offset, ino;
    unsigned major, minor;
    char perms[5];

    return sscanf(line, "%llx-%llx %4s %llx %x:%x %llu", &first, &last, perms, &offset, &major,
                  &minor, &ino) == 7 &&
           first <= start && last >= end && !strcmp(perms, "rw-p") && ino == 0;
}

static bool is_mapped_private(uint64_t start, uint64_t end)
{
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    char buf[8192];
    size_t have = 0;
    bool found = false;
    ssize_t n;

    while (fd >= 0 && !found && (n = read(fd, buf + have, sizeof(buf) - 1 - have)) > 0) {
        char *line = buf, *next;

        have += n;
        buf[have] = 0;
        while (!found && (next = strchr(line, '\n'))) {
            *next = 0;
            found = is_private(line, start, end);
            line = next + 1;
        }
        have -= line - buf;
        memmove(buf, line, have);
        if (have == sizeof(buf) - 1) {
            break; /* a line that is no line */
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return found;
}

void ff_preallocate_private(void *addr, size_t len)
{
    static size_t filled; /* bytes */
    int saved_errno = errno;
    uint64_t at = (uintptr_t)addr;

    if (len <= FILL_MAX - filled && is_mapped_private(at, at + len) &&
        syscall(SYS_madvise, addr, len, MADV_POPULATE_WRITE) == 0) {
        filled += len;
    }
    errno = saved_errno;
}
