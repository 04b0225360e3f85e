/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes guest memory out of the userfaultfd for synchronous write protection (see unprotect.h).
 *
 * UNREGISTER wakes no writer at a protected page, so each is followed by a wake
 * (ff_uffd_unregister() does it). A thread of which the dead engine had read is in nobody's queue:
 * all are woken first, fault once more, and are told of again. A thread that still has a write
 * protection under way gets ENOENT: both wait for the same lock of QEMU's, and what is taken out
 * cannot be protected. No locks. System calls: fcntl, close.
 */
#include "uffd/unprotect.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/regions.h"
#include "uffd/uffd.h"

#define PIECE (16ull << 20)
#define MESSAGES 64

typedef struct {
    int uffd;
    const FfLiftBlock *blocks;
    const FfRegion *regions;
    unsigned n_regions;
} Lift;

static const FfRegion *region_of(const Lift *l, uint64_t addr)
{
    for (unsigned i = 0; i < l->n_regions; i++) {
        if (addr - l->regions[i].addr < l->regions[i].len) {
            return &l->regions[i];
        }
    }
    return NULL;
}

/* One page, for the threads that wait there. An error is none: its piece is still to come. */
static void let_go(const Lift *l, uint64_t addr)
{
    const FfRegion *r = region_of(l, addr);

    if (r) {
        uint64_t size = l->blocks[r->file].page_size, page = addr & ~(size - 1);

        if (ff_uffd_try_protect(l->uffd, page, size, false) < 0) {
            ff_uffd_wake(l->uffd, page, size);
        }
    }
}

static void serve_writers(const Lift *l)
{
    struct uffd_msg msgs[MESSAGES];
    int n;

    while ((n = ff_uffd_read(l->uffd, msgs, MESSAGES)) > 0) {
        for (int i = 0; i < n; i++) {
            if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
                let_go(l, msgs[i].arg.pagefault.address);
            }
        }
    }
}

static int lift_region(const Lift *l, const FfRegion *r)
{
    uint64_t piece = MAX(PIECE, l->blocks[r->file].page_size);
    bool whole = false;

    for (uint64_t at = 0; at < r->len; at += piece) {
        uint64_t len = MIN(piece, r->len - at);

        if (ff_uffd_unregister(l->uffd, r->addr + at, len) < 0) {
            whole = true;
            if (ff_uffd_try_protect(l->uffd, r->addr + at, len, false) < 0) {
                ff_uffd_wake(l->uffd, r->addr + at, len);
            }
        }
        serve_writers(l);
    }
    /* A piece splits a mapping, and QEMU may have as many as it can have. */
    int rc = whole ? ff_uffd_unregister(l->uffd, r->addr, r->len) : 0;
    if (rc < 0) {
        ff_uffd_wake(l->uffd, r->addr, r->len);
        serve_writers(l);
    }
    return rc;
}

static int lift_regions(const Lift *l)
{
    int rc = 0;

    for (unsigned i = 0; i < l->n_regions; i++) {
        ff_uffd_wake(l->uffd, l->regions[i].addr, l->regions[i].len);
    }
    serve_writers(l);
    for (unsigned i = 0; i < l->n_regions; i++) {
        int one = lift_region(l, &l->regions[i]);
        rc = rc < 0 ? rc : one;
    }
    return rc;
}

bool ff_unprotect_all(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n, GError **error)
{
    g_autofree FfLiftBlock *have = g_new0(FfLiftBlock, n + 1);
    g_autofree int *fds = g_new0(int, n + 1);
    unsigned n_have = 0;

    for (unsigned i = 0; i < n; i++) {
        if (blocks[i].memfd >= 0) {
            fds[n_have] = blocks[i].memfd;
            have[n_have++] = blocks[i];
        }
    }
    g_autoptr(FfRegions) regions = ff_regions_find(maps_fd, fds, n_have, error);
    if (!regions) {
        return false;
    }
    Lift l = {.uffd = uffd, .blocks = have};
    l.regions = ff_regions_all(regions, &l.n_regions);
    int rc = lift_regions(&l);
    if (rc == 0 && n_have < n) {
        rc = -EBADF;
    }
    if (rc < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc),
                    "guest memory stays in a userfaultfd: %s", g_strerror(-rc));
    }
    return rc == 0;
}

/* ---- in a thread of its own ------------------------------------------------------------------ */

typedef struct {
    int uffd, maps_fd;
    FfLiftBlock *blocks;
    unsigned n;
    FfLiftDone *done;
    void *opaque;
    GThread *thread; /* NULL: there could be none */
    GError *error;   /* NULL: it is done */
} Work;

static int copy_fd(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static gboolean on_unprotected(gpointer p)
{
    Work *w = p;

    if (w->thread) {
        g_thread_join(w->thread);
    }
    close_fd(w->uffd);
    close_fd(w->maps_fd);
    for (unsigned i = 0; i < w->n; i++) {
        close_fd(w->blocks[i].memfd);
    }
    w->done(w->error, w->opaque);
    g_clear_error(&w->error);
    g_free(w->blocks);
    g_free(w);
    return G_SOURCE_REMOVE;
}

static gpointer run_unprotect(gpointer p)
{
    Work *w = p;

    (void)FF_FAULT_STEP("lift", ff_unprotect_all(w->uffd, w->maps_fd, w->blocks, w->n, &w->error));
    g_idle_add(on_unprotected, w);
    return NULL;
}

void ff_unprotect_start(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n,
                        FfLiftDone *done, void *opaque)
{
    Work *w = g_new0(Work, 1);

    *w = (Work){.uffd = copy_fd(uffd),
                .maps_fd = copy_fd(maps_fd),
                .blocks = g_memdup2(blocks, n * sizeof(*blocks)),
                .n = n,
                .done = done,
                .opaque = opaque};
    for (unsigned i = 0; i < n; i++) {
        w->blocks[i].memfd = copy_fd(blocks[i].memfd);
    }
    /* Where memory has run out there may be no thread, and in the relay that must not be QEMU's end
     * as well. */
    w->thread = g_thread_try_new("lift", run_unprotect, w, &w->error);
    if (!w->thread) {
        g_idle_add(on_unprotected, w);
    }
}
