/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Holes of shared memory; see holes.h. System calls: lseek(SEEK_DATA, SEEK_HOLE), pread, uname.
 */
#include "uffd/holes.h"

#include <errno.h>
#include <gio/gio.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/huge.h"

#define PAGE 4096
#define PIECE (128 << 10) /* bytes that are read at once */

/* Of this kernel, 256 * major + minor; 0: not known. Asked for once: a search for data asks at each
 * hole. */
static unsigned kernel_release(void)
{
    static gsize known; /* 1 more */

    if (g_once_init_enter(&known)) {
        struct utsname u;
        unsigned major, minor;
        bool is_known = uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2;
        g_once_init_leave(&known, is_known ? (major << 8 | MIN(minor, 255)) + 1 : 1);
    }
    return known - 1;
}

bool ff_holes_are_true(void)
{
    if (FF_FAULT_STEP("doubt-holes", false)) {
        return false;
    }
    return kernel_release() >= (6 << 8 | 4) || !ff_huge_is_allowed();
}

bool ff_holes_bear_collapse(void)
{
    return kernel_release() >= (6 << 8 | 11);
}

bool ff_holes_check_memfd(GError **error)
{
    struct utsname u = {0};

    if (ff_holes_are_true() || ff_huge_is_set("shmem_enabled", "[never]")) {
        return true;
    }
    uname(&u);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                "this kernel (%s) may fill missing memory with huge pages: update to Linux 6.4, or "
                "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
                u.release);
    return false;
}

/* The first page of [AT, END) that is not zero, or END; -1: an errno. */
static off_t read_hole(int fd, off_t at, off_t end)
{
    g_autofree char *buffer = g_malloc(PIECE);

    while (at < end) {
        ssize_t n = pread(fd, buffer, MIN(PIECE, end - at), at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -1 : end; /* nothing is after the file's end */
        }
        for (ssize_t i = 0; i < n; i += PAGE) {
            ssize_t len = MIN(PAGE, n - i);
            if (buffer[i] || memcmp(buffer + i, buffer + i + 1, (size_t)len - 1) != 0) {
                return at + i;
            }
        }
        at += n;
    }
    return end;
}

/* What the kernel says; END: there is none before. */
static off_t seek_data(int fd, off_t at, off_t end)
{
    off_t data = FF_FAULT_CALL("seek-data", lseek(fd, at, SEEK_DATA));

    return data < 0 && errno == ENXIO ? end : data < 0 ? data : MIN(data, end);
}

off_t ff_holes_next_data(int fd, off_t at, off_t end)
{
    off_t data = at < end ? seek_data(fd, at, end) : end;

    if (data > at && !ff_holes_are_true()) {
        off_t seen = read_hole(fd, at, data);
        off_t again = seen < 0 ? seen : seek_data(fd, at, end); /* zeros that are data */
        data = again < 0 ? again : MIN(seen, again);
    }
    if (data == end) {
        errno = ENXIO;
        return -1;
    }
    return data;
}

off_t ff_holes_end_of_data(int fd, off_t data, off_t end)
{
    off_t hole = lseek(fd, data, SEEK_HOLE);

    return hole < 0 ? hole : MIN(end, MAX(hole, data + PAGE));
}
