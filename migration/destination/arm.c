/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The space of the destination's QEMU: guest RAM is emptied of what is not valid, and registered,
 * so that a thread that touches a hole waits for its page; in the end it becomes ordinary memory
 * again. The received bitmaps in the state memfd are the space's marks, so they outlive this
 * engine.
 *
 * Thread: the coordinator. System calls: ioctl(UFFDIO_*), lseek(SEEK_DATA, SEEK_HOLE).
 */
#include "migration/destination/arm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "migration/destination/precopy.h"
#include "migration/destination/vhost-faults.h"
#include "uffd/holes.h"
#include "uffd/place.h"
#include "uffd/uffd.h"

/* A QEMU whose memory is gone has ended within this time (milliseconds). */
#define END_DEADLINE_MS 2000
#define UNREGISTER_AGAIN_US (100 * 1000)

/* ---- what the space says --------------------------------------------------------------------- */

static void all_is_here(gpointer side)
{
    FfDestination *d = side;

    ff_control_event(d->control, FF_EV_ALL);
}

void ff_dest_cannot_place(FfDestination *d, const FfRun *run, int rc)
{
    /* QEMU's memory is gone, and that it has ended is known in a moment: the source is told. */
    if (rc == -ESRCH && ff_conn_vmm_ended(d->conn, END_DEADLINE_MS)) {
        ff_control_dead(d->control, "this QEMU has ended");
        return;
    }
    const FfBlock *b = &d->ram->blocks[run->block];
    uint64_t page;

    if (!ff_bitmap_next_run(&b->bitmap, run->first, false, &page) || page >= run->first + run->n) {
        page = run->first;
    }
    ff_control_dead(
        d->control, "page %" G_GUINT64_FORMAT " of '%s' cannot be placed: %s%s", page, b->info.id,
        rc == -ELOOP ? "it is there, and whoever waits for it is woken in vain" : g_strerror(-rc),
        rc == -ENOMEM ? " (free memory or hugepages on this host)" : "");
}

static void on_place_failed(const FfRun *run, int rc, gpointer side)
{
    FfDestination *d = side;

    if (run) {
        ff_dest_cannot_place(d, run, rc);
    } else {
        ff_control_dead(d->control, "userfaultfd: %s", g_strerror(-rc));
    }
}

/* ---- making it ------------------------------------------------------------------------------- */

static FfBacking backing_of(const FfRamBlock *b)
{
    return (FfBacking){.kind = b->page_size > 4096 ? FF_BACKING_HUGETLB : FF_BACKING_SHARED,
                       .fd = b->memfd,
                       .size = b->size,
                       .page_size = b->page_size};
}

static int add_blocks(FfSpace *s, const FfRam *ram)
{
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        const FfBlock *b = &ram->blocks[i];
        FfBacking backing = backing_of(&b->info);
        int rc = ff_space_add_block(s, &backing, b->bitmap.words);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int add_ranges(FfSpace *s, const FfRegions *regions)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(regions, &n);
    int rc = 0;

    for (unsigned i = 0; i < n && rc == 0; i++) {
        rc = ff_space_add_range(s, r[i].addr, r[i].len, r[i].file, r[i].offset);
    }
    return rc;
}

static bool make_space(FfDestination *d, uint64_t features, GError **error)
{
    g_autoptr(FfRegions) regions = ff_ram_regions(d->ram, d->cfg->maps_fd, error);

    if (!regions) {
        return false;
    }
    ff_peer_pager_init(&d->peer, &d->stats->requests);
    d->placer.ram = d->ram;
    d->placer.stats = d->stats;
    d->placer.all = all_is_here;
    d->placer.failed = on_place_failed;
    d->placer.side = d;
    g_autoptr(FfSpace) s = ff_space_new(&(FfSpaceConfig){.uffd = d->uffd,
                                                         .features = features,
                                                         .pagemap_fd = d->cfg->pagemap_fd,
                                                         .pager = &d->peer.pager,
                                                         .ops = &ff_placer_ops,
                                                         .opaque = &d->placer});
    int rc = s ? add_blocks(s, d->ram) : -errno;
    rc = rc < 0 ? rc : add_ranges(s, regions);
    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0, "guest RAM cannot be watched: %s", g_strerror(-rc));
        return false;
    }
    g_atomic_pointer_set(&d->placer.space, g_steal_pointer(&s));
    return true;
}

/* ---- arming ---------------------------------------------------------------------------------- */

static bool register_all(FfDestination *d, GError **error)
{
    unsigned block;
    int rc = ff_space_register(d->placer.space, UFFDIO_REGISTER_MODE_MISSING, &block);

    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0,
                    "userfaultfd cannot be registered over guest RAM '%s': %s",
                    d->ram->blocks[block].info.id, g_strerror(-rc));
    }
    return rc == 0;
}

static uint64_t features_of(const FfRam *ram)
{
    uint64_t features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID;

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        FfBacking backing = backing_of(&ram->blocks[i].info);
        features |= ff_backing_features(&backing, UFFDIO_REGISTER_MODE_MISSING);
    }
    return features;
}

static bool arm_space(FfDestination *d, bool again, GError **error)
{
    uint64_t features = features_of(d->ram);

    if (!ff_holes_check_memfd(error)) {
        return false;
    }
    /* The kernel takes UFFDIO_API once: the engine before us has done it. */
    int rc = again ? 0 : ff_uffd_init(d->uffd, features, NULL);
    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0,
                    "userfaultfd lacks what guest RAM needs (%s): Linux 5.7 or newer is needed",
                    g_strerror(-rc));
        return false;
    }
    /* The firmware of this side has touched RAM, and a page that is there must never be taken for
     * one that was received: everything else goes. */
    if ((!d->placer.space && !make_space(d, features, error)) ||
        (!again && !ff_dest_drop_missing(d, error)) || !register_all(d, error)) {
        return false;
    }
    /* Once more: QEMU's main loop may have touched a page between the two. From the registration on
     * it cannot. Nearly always this only looks. */
    if (!again && !ff_dest_drop_missing(d, error)) {
        return false;
    }
    g_atomic_int_set(&d->armed, 1);
    if (again || !d->conn->complete_at_grant) {
        ff_dest_vhost_faults_start(d);
    }
    return true;
}

bool ff_dest_arm(FfDestination *d, GError **error)
{
    return arm_space(d, false, error);
}

/* Pages that were placed, and whose marks the dead engine did not come to: nothing but
 * placing makes a page in registered memory. (hugetlbfs cannot tell: there the page comes once
 * more, and is found to be there.) */
static void mark_present(FfDestination *d, unsigned block)
{
    const FfBlock *b = &d->ram->blocks[block];
    uint64_t ps = b->info.page_size;
    off_t hole = 0, data;

    if (ps > 4096) {
        return;
    }
    while ((data = lseek(b->info.memfd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(b->info.memfd, data, SEEK_HOLE);
        if (hole <= data || data % ps) {
            return;
        }
        FfRun run = {block, data / ps, MIN((uint64_t)hole / ps, b->n_pages) - data / ps};
        ff_place_mark(d->placer.space, &run);
    }
}

bool ff_dest_arm_again(FfDestination *d, GError **error)
{
    /* Registers also what had been taken out as a hole: zeros come from here then. */
    if (!arm_space(d, true, error)) {
        return false;
    }
    g_atomic_int_set(&d->final, 1);
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        mark_present(d, i);
    }
    /* A message that the dead engine had read is not delivered again by itself. */
    int rc = ff_space_wake_all(d->placer.space);
    if (rc < 0) {
        g_warning("userfaultfd: waiters cannot be woken: %s", g_strerror(-rc));
    }
    return true;
}

/* Memory that stays registered when nobody answers any more would stop any thread that touches a
 * hole in it, for ever. The kernel runs out of memory for a moment, and there is no event for its
 * end; faults are still answered until then. */
void ff_dest_disarm(FfDestination *d)
{
    int rc;

    while ((rc = ff_space_unregister(d->placer.space)) == -ENOMEM &&
           !ff_control_wait_until(d->control, FF_EV_QUIT,
                                  g_get_monotonic_time() + UNREGISTER_AGAIN_US)) {
        g_message("userfaultfd: no memory to unregister it, trying again");
    }
    if (rc < 0) {
        g_warning("userfaultfd cannot be unregistered: %s", g_strerror(-rc));
    }
    ff_dest_vhost_faults_end(d);
}
