/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An FfMemory begins and ends. See libfarfault/common/farfault.h for the threads.
 *
 * System calls: open, close, pidfd_open, getpid.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "libfarfault/common/callers.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"
#include "libfarfault/snapshots/fork.h"

static int open_files(FfMemory *m)
{
    m->mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    m->maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    m->status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (m->mem_fd < 0 || m->pagemap_fd < 0 || m->maps_fd < 0 || m->status_fd < 0) {
        return ff_fail(-errno,
                       "/proc/self cannot be read (%s): mount /proc; after setuid() call "
                       "prctl(PR_SET_DUMPABLE, 1) first",
                       ff_strerror(errno));
    }
    m->callers = ff_callers_new();
    /* -1: huge mappings are not made again. */
    m->pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
    return 0;
}

int ff_memory_new(unsigned flags, FfMemory **memory)
{
    if (!memory) {
        return ff_fail(-EINVAL, "ff_memory_new: nowhere to put it: MEMORY is NULL");
    }
    *memory = NULL;
    int rc = ff_reserve("ff_memory_new", 0);
    if (rc < 0) {
        return rc;
    }
    FfMemory *m = g_new0(FfMemory, 1);
    m->pid = getpid();
    m->flags = flags;
    m->mem_fd = m->pagemap_fd = m->maps_fd = m->status_fd = m->pidfd = m->uffd = -1;
    m->regions = g_array_new(FALSE, FALSE, sizeof(FfMemoryRegion));
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->discards, NULL);
    ff_memory_enlist(m);
    rc = flags & ~FF_MEMORY_USER_MODE
             ? ff_fail(-EINVAL, "ff_memory_new: flags are 0 or FF_MEMORY_USER_MODE")
             : open_files(m);
    /* A caller that has no permission hears of it here, and not at the first snapshot. */
    int fd = rc < 0 ? rc : ff_memory_open_uffd(m, 0);
    if (fd < 0) {
        ff_memory_free(m);
        return fd;
    }
    close(fd);
    *memory = m;
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static void end_all(FfMemory *m)
{
    char keep[512];

    g_strlcpy(keep, ff_last_error(), sizeof(keep));
    ff_snapshot_cancel(m);
    if (m->state == FF_SAVING || m->state == FF_SAVED) {
        ff_snapshot_wait(m, NULL);
    }
    ff_fail(0, "%s", keep);
}

void ff_memory_free(FfMemory *m)
{
    if (!m) {
        return;
    }
    if (m->pid == getpid()) {
        end_all(m);
        ff_template_end(m);
        ff_memory_delist(m);
    }
    for (guint i = 0; i < m->regions->len; i++) {
        ff_owner_unref(g_array_index(m->regions, FfMemoryRegion, i).owner);
    }
    g_array_unref(m->regions);
    close_fd(m->mem_fd);
    close_fd(m->pagemap_fd);
    close_fd(m->maps_fd);
    close_fd(m->status_fd);
    close_fd(m->pidfd);
    ff_callers_free(m->callers);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->discards);
    g_free(m);
}
