/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See guard.h. Pages are read by a mapping of our own, made once and only for reading: a page
 * that is a hole is made by that (as it would be by the write that waits).
 *
 * Threads: the guard's, from ff_guard_new() to ff_guard_free(). No locks. System calls: eventfd,
 * mmap, munmap, ppoll.
 */
#include "uffd/guard.h"

#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd/regions.h"
#include "uffd/uffd.h"

#define MESSAGES 16

typedef struct {
    FfGuardBlock b;
    const uint8_t *map;
} Block;

struct FfGuard {
    FfGuardConfig c;
    Block *blocks;
    FfRegions *regions;
    int stop; /* eventfd */
    GThread *thread;
};

static int unprotect_range(FfGuard *g, uint64_t addr, uint64_t len)
{
    int rc;

    do {
        rc = ff_uffd_try_protect(g->c.uffd, addr, len, false);
    } while (rc == -EAGAIN); /* the mapping was being changed */
    return rc;
}

static int handle_fault(FfGuard *g, uint64_t addr)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(g->regions, &n);

    for (; n; n--, r++) {
        if (addr - r->addr < r->len) {
            const Block *b = &g->blocks[r->file];
            uint64_t at = r->offset + (addr - r->addr), page = at / b->b.page_size;
            uint64_t start = page * b->b.page_size;
            int rc = g->c.written(r->file, page, b->map + start, g->c.opaque);

            return rc < 0 ? rc : unprotect_range(g, r->addr + start - r->offset, b->b.page_size);
        }
    }
    return -EFAULT;
}

/* 0: nothing more now. */
static int serve_faults(FfGuard *g)
{
    struct uffd_msg msgs[MESSAGES];
    int n;

    while ((n = ff_uffd_read(g->c.uffd, msgs, MESSAGES)) > 0) {
        for (int i = 0; i < n; i++) {
            int rc = msgs[i].event == UFFD_EVENT_PAGEFAULT
                         ? handle_fault(g, msgs[i].arg.pagefault.address)
                         : -EPROTO;
            if (rc < 0) {
                return rc;
            }
        }
    }
    return n;
}

static gpointer run_guard(gpointer p)
{
    FfGuard *g = p;
    struct pollfd fds[] = {{g->c.uffd, POLLIN, 0}, {g->stop, POLLIN, 0}};

    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            break;
        }
        if (fds[1].revents) {
            return NULL;
        }
        int rc = fds[0].revents & POLLIN ? serve_faults(g) : fds[0].revents ? -EIO : 0;
        if (rc == -ESRCH) {
            return NULL; /* the process has ended: nobody writes any more */
        }
        if (rc < 0) {
            g->c.failed(rc, g->c.opaque);
            return NULL;
        }
    }
    g->c.failed(-errno, g->c.opaque);
    return NULL;
}

static bool set_errno_error(GError **error, int rc, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "%s: %s", what, g_strerror(-rc));
    return false;
}

static bool map_blocks(FfGuard *g, GError **error)
{
    g->blocks = g_new0(Block, g->c.n_blocks);
    for (unsigned i = 0; i < g->c.n_blocks; i++) {
        g->blocks[i].b = g->c.blocks[i];
        void *map = mmap(NULL, g->c.blocks[i].size, PROT_READ, MAP_SHARED, g->c.blocks[i].fd, 0);
        if (map == MAP_FAILED) {
            return set_errno_error(error, -errno, "guest memory cannot be mapped");
        }
        g->blocks[i].map = map;
    }
    return true;
}

static bool find_regions(FfGuard *g, GError **error)
{
    g_autofree int *fds = g_new(int, g->c.n_blocks);
    g_autofree uint64_t *sizes = g_new(uint64_t, g->c.n_blocks);

    for (unsigned i = 0; i < g->c.n_blocks; i++) {
        fds[i] = g->c.blocks[i].fd;
        sizes[i] = g->c.blocks[i].size;
    }
    g->regions = ff_regions_new(g->c.maps_fd, fds, sizes, g->c.n_blocks, error);
    return g->regions;
}

static bool protect_regions(FfGuard *g, GError **error)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(g->regions, &n);

    for (unsigned i = 0; i < n; i++) {
        int rc = ff_uffd_register_wp(g->c.uffd, r[i].addr, r[i].len);

        rc = rc < 0 ? rc : ff_uffd_protect(g->c.uffd, r[i].addr, r[i].len);
        if (rc < 0) {
            return set_errno_error(error, rc, "guest memory cannot be protected in the new QEMU");
        }
        rc = ff_uffd_map_protected(g->c.uffd, r[i].addr, r[i].len);
        if (rc < 0) {
            g_debug("guest memory is not mapped ahead: %s", g_strerror(-rc));
        }
    }
    return true;
}

FfGuard *ff_guard_new(const FfGuardConfig *config, GError **error)
{
    FfGuard *g = g_new0(FfGuard, 1);

    g->c = *config;
    g->stop = eventfd(0, EFD_CLOEXEC);
    if (g->stop < 0) {
        set_errno_error(error, -errno, "eventfd");
    } else if (map_blocks(g, error) && find_regions(g, error)) {
        /* Before the first page is protected: a process that writes is answered. */
        g->thread = g_thread_new("ff-guard", run_guard, g);
        if (protect_regions(g, error)) {
            g->c.blocks = NULL; /* the caller's */
            return g;
        }
    }
    ff_guard_free(g);
    return NULL;
}

void ff_guard_free(FfGuard *g)
{
    if (!g) {
        return;
    }
    if (g->thread) {
        uint64_t one = 1;

        if (write(g->stop, &one, sizeof(one)) == sizeof(one)) {
            g_thread_join(g->thread);
        }
    }
    for (unsigned i = 0; g->blocks && i < g->c.n_blocks; i++) {
        if (g->blocks[i].map) {
            munmap((void *)g->blocks[i].map, g->blocks[i].b.size);
        }
    }
    ff_regions_free(g->regions);
    g_free(g->blocks);
    if (g->stop >= 0) {
        close(g->stop);
    }
    g_free(g);
}
