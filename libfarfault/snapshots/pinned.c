/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See pinned.h. The kernel says how much of a process's memory is pinned for long (VmPin), and of
 * each ring which buffers are registered with it (fdinfo). Of a read that is just in flight it says
 * nothing.
 *
 * System calls: openat, getdents64, readlink, pread (/proc/self/status), read (fdinfo), close,
 * sched_yield.
 */
#include "libfarfault/snapshots/pinned.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* While its ring is submitting, for the length of a system call, the kernel lists no buffers. */
#define LOOKS 1000

static bool is_anything_pinned(const FfMemory *m)
{
    char text[8192];
    ssize_t n = pread(m->status_fd, text, sizeof(text) - 1, 0);

    text[MAX(n, 0)] = '\0';
    const char *line = strstr(text, "\nVmPin:");
    return !line || g_ascii_strtoull(line + strlen("\nVmPin:"), NULL, 10) > 0;
}

static const FfMemoryRegion *find_region(const FfMemory *m, uint64_t addr, uint64_t len)
{
    for (guint i = 0; i < m->regions->len; i++) {
        const FfMemoryRegion *r = &g_array_index(m->regions, FfMemoryRegion, i);
        if (addr < r->addr + r->len && r->addr < addr + len) {
            return r;
        }
    }
    return NULL;
}

/* "    0: 0x7ff679aa9000/8192" and so on, of file FD. */
static int check_buffers(const FfMemory *m, const char *fd, const char *lines)
{
    uint64_t addr, len;
    unsigned i;

    for (const char *at = lines; (at = strchr(at, '\n')); at++) {
        if (sscanf(at, " %u: %" SCNx64 "/%" SCNu64, &i, &addr, &len) != 3) {
            if (at != lines) {
                break;
            }
            continue;
        }
        if (find_region(m, addr, len)) {
            return ff_fail(-EBUSY,
                           "%#" PRIx64 ": a buffer of %" PRIu64
                           " bytes is registered with io_uring (file %s), which writes to it "
                           "without a fault: unregister it, or keep it out of regions",
                           addr, len, fd);
        }
    }
    return 0;
}

static int check_ring(const FfMemory *m, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%s", fd);

    for (unsigned i = 0; i < LOOKS; i++) {
        g_autofree char *text = NULL;
        g_autoptr(GError) error = NULL;
        if (!g_file_get_contents(path, &text, NULL, &error)) {
            return g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM)
                       ? ff_fail(-ENOMEM, "%s", error->message)
                       : 0; /* closed by now */
        }
        const char *list = strstr(text, "\nUserBufs:");
        if (list) {
            return check_buffers(m, fd, list + 1);
        }
        sched_yield();
    }
    return ff_fail(-EBUSY, "io_uring (file %s) is busy: let it complete what it does", fd);
}

int ff_pinned_check(const FfMemory *m)
{
    int rc = 0;

    if (!is_anything_pinned(m)) {
        return 0;
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) fds = g_dir_open("/proc/self/fd", 0, &error);
    if (!fds) {
        return ff_fail(-EIO, "%s", error->message);
    }
    for (const char *fd; rc == 0 && (fd = g_dir_read_name(fds));) {
        g_autofree char *path = g_build_filename("/proc/self/fd", fd, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        if (target && !strcmp(target, "anon_inode:[io_uring]")) {
            rc = check_ring(m, fd);
        }
    }
    return rc;
}
