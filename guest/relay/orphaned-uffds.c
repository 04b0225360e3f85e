/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. A back-end may serve other guests as well, and their userfaultfds are not
 * ours to read: whose a mapping is says UFFDIO_REGISTER, which does nothing where the userfaultfd
 * has it already, and is EBUSY where another one has it. What nobody has registered it would
 * register: that is asked before.
 *
 * One thread; no locks. System calls: open, read, readlink, pidfd_open, pidfd_getfd, fstat,
 * ioctl(UFFDIO_*), close.
 */
#include "guest/relay/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/maps.h"
#include "uffd/backing.h"
#include "uffd/uffd.h"

#define RAM "ram:"

static void left_free(void *p)
{
    FfLeftWait *left = p;

    if (left->uffd >= 0) {
        close(left->uffd);
    }
    g_free(left);
}

/* UFFD has M registered, whose memory is registered by somebody. */
static bool is_registered(int uffd, const FfMapping *m, uint64_t page_size)
{
    return ff_uffd_is_registered(uffd, m->start, page_size) == 0 &&
           ff_uffd_register(uffd, m->start, m->end - m->start, UFFDIO_REGISTER_MODE_MISSING) == 0;
}

static void add_mappings(FfLeftWait *left, const char *maps, int memory)
{
    g_autoptr(GArray) all = ff_maps_of_file(maps, memory);
    FfBacking backing;
    struct stat st;

    if (ff_backing_of_file(memory, &backing) < 0 || fstat(memory, &st) < 0) {
        return;
    }
    for (guint i = 0; i < all->len && left->n_regions < FF_SHARERS_REGIONS; i++) {
        const FfMapping *m = &g_array_index(all, FfMapping, i);

        if (is_registered(left->uffd, m, backing.page_size)) {
            left->regions[left->n_regions++] =
                (FfSharersRegion){m->start, m->end - m->start, m->offset, st.st_dev, st.st_ino};
        }
    }
}

static void add_uffd(GPtrArray *all, const FfRelay *relay, const char *maps, int uffd)
{
    FfLeftWait *left = g_new0(FfLeftWait, 1);

    left->uffd = uffd;
    for (guint i = 0; i < relay->held->len; i++) {
        const FfHeld *held = relay->held->pdata[i];

        if (g_str_has_prefix(held->name, RAM)) {
            add_mappings(left, maps, held->fd);
        }
    }
    if (left->n_regions) {
        g_ptr_array_add(all, left);
    } else {
        left_free(left);
    }
}

/* A copy of fd NUMBER of the process, if it is a userfaultfd; -1. */
static int copy_uffd(int pidfd, const char *folder, const char *number)
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
        int uffd = copy_uffd(pidfd, folder, name);

        if (uffd >= 0) {
            add_uffd(all, relay, maps, uffd);
        }
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    return all;
}
