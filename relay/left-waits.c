/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See left-waits.h. A back-end may serve other guests as well, and their userfaultfds are not ours
 * to read: whose a mapping is says UFFDIO_REGISTER, which does nothing where the userfaultfd has it
 * already, and is EBUSY where another one has it. What nobody has registered it would register:
 * that is asked before, as in uffd/sharers.c.
 *
 * One thread; no locks. System calls: open, read, readlink, pidfd_open, pidfd_getfd, fstat, mmap,
 * ioctl(UFFDIO_*), close.
 */
#include "relay/left-waits.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/maps.h"
#include "uffd/uffd.h"

#define RAM "ram:"
#define PAGE 4096

static void left_free(void *p)
{
    FfLeftWait *left = p;

    close(left->uffd);
    g_free(left);
}

/* UFFD has M registered, whose memory is registered by somebody. */
static bool has(int uffd, const FfMapping *m, const void *unreadable)
{
    uint64_t done;

    return ff_uffd_try(uffd, FF_UFFD_COPY, m->start, unreadable, PAGE, &done) == -EFAULT &&
           ff_uffd_register(uffd, m->start, m->end - m->start, UFFDIO_REGISTER_MODE_MISSING) == 0;
}

static void add_mappings(FfLeftWait *left, const char *maps, int memory, const void *unreadable)
{
    g_autoptr(GArray) all = ff_maps_of_file(maps, memory);
    struct stat st;

    for (guint i = 0; i < all->len && left->n_regions < FF_SHARERS_REGIONS; i++) {
        const FfMapping *m = &g_array_index(all, FfMapping, i);

        if (fstat(memory, &st) == 0 && has(left->uffd, m, unreadable)) {
            left->regions[left->n_regions++] =
                (FfSharersRegion){m->start, m->end - m->start, m->offset, st.st_dev, st.st_ino};
        }
    }
}

static void look_at(GPtrArray *all, const FfRelay *relay, const char *maps, int uffd)
{
    FfLeftWait *left = g_new0(FfLeftWait, 1);
    void *p = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    left->uffd = uffd;
    for (guint i = 0; i < relay->held->len && p != MAP_FAILED; i++) {
        const FfHeld *held = relay->held->pdata[i];

        if (g_str_has_prefix(held->name, RAM)) {
            add_mappings(left, maps, held->fd, p);
        }
    }
    if (p != MAP_FAILED) {
        munmap(p, PAGE);
    }
    if (left->n_regions) {
        g_ptr_array_add(all, left);
    } else {
        left_free(left);
    }
}

/* A copy of fd NUMBER of the process, if it is a userfaultfd; -1. */
static int copy(int pidfd, const char *folder, const char *number)
{
    g_autofree char *path = g_build_filename(folder, number, NULL);
    g_autofree char *link = g_file_read_link(path, NULL);

    return g_strcmp0(link, FF_UFFD_LINK) ? -1 : pidfd_getfd(pidfd, atoi(number), 0);
}

GPtrArray *ff_left_waits_new(const FfRelay *relay, pid_t pid)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(left_free);
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", pid);
    g_autofree char *maps = ff_maps_of_process(pid);
    g_autoptr(GDir) dir = maps ? g_dir_open(folder, 0, NULL) : NULL;
    int pidfd = dir ? pidfd_open(pid, 0) : -1;

    for (const char *name; pidfd >= 0 && (name = g_dir_read_name(dir));) {
        int uffd = copy(pidfd, folder, name);

        if (uffd >= 0) {
            look_at(all, relay, maps, uffd);
        }
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    return all;
}
