/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing pages in the destination's guest RAM, and the arming and disarming of its uffd.
 *
 * UFFDIO_COPY is atomic towards faults and never overwrites: a page that is there stays, since
 * the guest may have changed it (EEXIST: drop ours, wake). The order for each page is: placed,
 * then woken (by the same ioctl), then marked received, then woken once more if somebody had been
 * noted for it; the mark is never taken back.
 *
 * Of a huge page the kernel says EEXIST also where there is no page, if it has none to give (Linux
 * 6.18: hugetlb_mfill_atomic_pte() makes it of a failed allocation where the page table is there).
 * Believed, that would lose the page. So there the file is asked. Tried, with an empty pool:
 * mincore(), SEEK_DATA and a read of our own mapping cannot tell; the pagemap knows QEMU's page
 * table only, and a page that was written before the switch is in the file and not in that;
 * UFFDIO_CONTINUE knows the file, and says EFAULT of a page that it lacks.
 *
 * Threads: main reader, urgent reader, fault thread, all at once; no lock.
 * System calls: ioctl(UFFDIO_*), lseek(SEEK_DATA, SEEK_HOLE), pread.
 */
#include "migration/dest-place.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "fault/fault.h"
#include "migration/dest-precopy.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
/* Taking a range out of the uffd splits QEMU's mapping, and QEMU has 65530 of them at most (trap
 * in the design): only big ranges, and few. */
/* A QEMU whose memory is gone has ended within this time (milliseconds). */
#define END_DEADLINE_MS 2000

#define HUGE_PAGE (2ull << 20) /* of shared memory */
#define UNREGISTER_MIN_BYTES HUGE_PAGE
#define UNREGISTER_MAX_RANGES 1000
#define UNREGISTER_AGAIN_US (100 * 1000)
/* Zero pages placed by one ioctl (bytes): the guest's mmap lock is held meanwhile. */
#define ZERO_CHUNK (2ull << 20)
/* So often in a row the same page is found to be there by who was told that it is missing. */
#define IN_VAIN_MAX 10000

/* ---- arming --------------------------------------------------------------------------------- */

static bool register_all(FfDestination *d, GError **error)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(d->regions, &n);

    for (unsigned i = 0; i < n; i++) {
        int rc = ff_uffd_register_missing(d->uffd, r[i].addr, r[i].len);
        if (rc < 0) {
            g_set_error(error, FF_M_ERROR, 0,
                        "userfaultfd cannot be registered over guest RAM '%s': %s",
                        d->ram->blocks[r[i].file].info.id, g_strerror(-rc));
            return false;
        }
    }
    return true;
}

/* Before Linux 6.4 khugepaged makes a huge page out of a range with holes in it, userfaultfd or
 * not: the guest would find zeros there that nobody was asked for. */
static bool khugepaged_is_safe(GError **error)
{
    g_autofree char *text = NULL;
    struct utsname u;
    unsigned major, minor;

    if (uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
        (major > 6 || (major == 6 && minor >= 4))) {
        return true;
    }
    if (!g_file_get_contents(SHMEM_ENABLED, &text, NULL, NULL) || strstr(text, "[never]") ||
        strstr(text, "[deny]")) {
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0,
                "this kernel (%s) may fill missing memory with huge pages: update to Linux 6.4, or "
                "echo never > " SHMEM_ENABLED,
                u.release);
    return false;
}

static bool arm(FfDestination *d, bool again, GError **error)
{
    if (!khugepaged_is_safe(error)) {
        return false;
    }
    g_autofree int *fds = g_new(int, d->ram->n_blocks);
    g_autofree uint64_t *sizes = g_new(uint64_t, d->ram->n_blocks);
    uint64_t features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID;

    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        fds[i] = d->ram->blocks[i].info.memfd;
        sizes[i] = d->ram->blocks[i].info.size;
        if (d->ram->blocks[i].info.page_size > 4096) {
            features |= UFFD_FEATURE_MISSING_HUGETLBFS;
        }
    }
    d->zero_page = mmap(NULL, FF_FRAME_MAX_DATA, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (d->zero_page == MAP_FAILED) {
        d->zero_page = NULL;
        g_set_error(error, FF_M_ERROR, 0, "mmap: %s", g_strerror(errno));
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
    d->regions = ff_regions_new(d->cfg->maps_fd, fds, sizes, d->ram->n_blocks, error);
    /* The firmware of this side has touched RAM, and a page that is there must never be taken for
     * one that was received: everything else goes. */
    if (!d->regions || (!again && !ff_dest_drop_missing(d, error)) || !register_all(d, error)) {
        return false;
    }
    /* Once more: QEMU's main loop may have touched a page between the two. From the registration on
     * it cannot. Nearly always this only looks. */
    if (!again && !ff_dest_drop_missing(d, error)) {
        return false;
    }
    g_atomic_int_set(&d->armed, 1);
    return true;
}

bool ff_dest_arm(FfDestination *d, GError **error)
{
    return arm(d, false, error);
}

/* Pages that were placed, and whose marks the dead engine did not come to: nothing but
 * placing makes a page in registered memory. (hugetlbfs cannot tell: there the page comes once
 * more, and is found to be there.) */
static void mark_present(FfDestination *d, unsigned block)
{
    FfBlock *b = &d->ram->blocks[block];
    off_t hole = 0, data;

    if (b->info.page_size > 4096) {
        return;
    }
    while ((data = lseek(b->info.memfd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(b->info.memfd, data, SEEK_HOLE);
        if (hole <= data || data % b->info.page_size) {
            return;
        }
        ff_bitmap_set_run(&b->bitmap, data / b->info.page_size,
                          MIN((uint64_t)hole / b->info.page_size, b->n_pages) -
                              data / b->info.page_size);
    }
}

bool ff_dest_arm_again(FfDestination *d, GError **error)
{
    /* Registers also what had been taken out as a hole: zeros come from here then. */
    if (!arm(d, true, error)) {
        return false;
    }
    g_atomic_int_set(&d->final, 1);
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        mark_present(d, i);
    }
    /* A message that the dead engine had read is not delivered again by itself. */
    ff_dest_wake_all(d);
    return true;
}

void ff_dest_wake_all(FfDestination *d)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(d->regions, &n);

    for (unsigned i = 0; i < n; i++) {
        int rc = ff_uffd_wake(d->uffd, r[i].addr, r[i].len);
        if (rc < 0) {
            g_warning("userfaultfd: waiters cannot be woken: %s", g_strerror(-rc));
        }
    }
}

/* Memory that stays registered when nobody answers any more would stop whoever touches a hole in
 * it, for ever. The kernel runs out of memory for a moment, and there is no event for its end;
 * faults are still answered until then. */
static int unregister_region(FfDestination *d, const FfRegion *r)
{
    int rc;

    while ((rc = ff_uffd_unregister(d->uffd, r->addr, r->len)) == -ENOMEM &&
           !ff_control_wait_until(d->control, FF_EV_QUIT,
                                  g_get_monotonic_time() + UNREGISTER_AGAIN_US)) {
        g_message("userfaultfd: no memory to unregister it, trying again");
    }
    return rc;
}

void ff_dest_disarm(FfDestination *d)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(d->regions, &n);

    for (unsigned i = 0; i < n; i++) {
        int rc = unregister_region(d, &r[i]);
        if (rc < 0) {
            g_warning("userfaultfd cannot be unregistered: %s", g_strerror(-rc));
        }
    }
}

/* ---- accounting ------------------------------------------------------------------------------ */

static void received(FfDestination *d, unsigned block, uint64_t page, uint64_t n, bool zero)
{
    FfBlock *b = &d->ram->blocks[block];
    uint64_t fresh = ff_bitmap_set_run(&b->bitmap, page, n);

    /* The fault thread notes a wait and then looks at the bitmap; here it is the other way round,
     * and all four are sequentially consistent: one of the two sees the other. */
    if (ff_stats_wait_end(d->stats, block, page, n, g_get_monotonic_time())) {
        /* Who waits may have come behind the ioctl that woke the others: the guest dropped the page
         * (balloon) between that and the mark, and touched it again. He was noted as one who waits
         * for a page that is still to come, and asked for it in vain; now he is told anew, and
         * finds the mark. */
        uint64_t ps = b->info.page_size, run;
        ff_uffd_wake(d->uffd, ff_regions_addr(d->regions, block, page * ps, &run), n * ps);
    }
    if (zero) {
        ff_count(d->stats->pages_zero, fresh);
    } else {
        ff_count(d->stats->pages_normal, fresh);
    }
    ff_count(d->ram->done_bytes, fresh * b->info.page_size);
    if (fresh &&
        __atomic_add_fetch(&d->ram->done_pages, fresh, __ATOMIC_ACQ_REL) == d->ram->total_pages) {
        ff_control_event(d->control, FF_EV_ALL);
    }
}

int ff_dest_cannot_place(FfDestination *d, unsigned block, uint64_t page, int rc)
{
    /* QEMU's memory is gone, and that it has ended is known in a moment: the source is told. */
    if (rc == -ESRCH && ff_conn_vmm_ended(d->conn, END_DEADLINE_MS)) {
        ff_control_dead(d->control, "this QEMU has ended");
        return rc;
    }
    ff_control_dead(d->control, "page %" G_GUINT64_FORMAT " of '%s' cannot be placed: %s%s", page,
                    d->ram->blocks[block].info.id,
                    rc == -ELOOP ? "it is there, and whoever waits for it is woken in vain"
                                 : g_strerror(-rc),
                    rc == -ENOMEM ? " (free memory or hugepages on this host)" : "");
    return rc;
}

/* ---- placing ------------------------------------------------------------------------------------
 */

/* RC, which placing the page at ADDR came to, or what EEXIST stands for. Allocates nothing. */
static int believe(const FfDestination *d, int rc, uint64_t addr, uint64_t ps)
{
    if (rc != -EEXIST || ps <= 4096) {
        return rc;
    }
    int there = ff_uffd_present(d->uffd, addr, ps);
    if (there == -EINVAL) {
        /* A page that only the file has cannot be told from none here: that pauses. */
        there = ff_pagemap_mapped(d->cfg->pagemap_fd, addr);
    }
    return there == 0 ? -ENOMEM : there < 0 ? there : -EEXIST;
}

/* One ioctl's worth: as much of the run as lies in one mapping. DATA NULL: zeros. *DONE pages
 * were placed (or were there). */
static int place_some(FfDestination *d, unsigned block, uint64_t page, uint64_t n, const void *data,
                      uint64_t *done)
{
    uint64_t ps = d->ram->blocks[block].info.page_size, run, bytes;
    uint64_t addr = ff_regions_addr(d->regions, block, page * ps, &run);
    int rc;

    if (data) {
        rc = ff_uffd_copy(d->uffd, addr, data, MIN(n * ps, run), &bytes);
    } else if (ps > 4096) {
        rc = ff_uffd_copy(d->uffd, addr, d->zero_page, ps, &bytes);
    } else {
        rc = ff_uffd_zero(d->uffd, addr, MIN(n * ps, MIN(run, ZERO_CHUNK)), &bytes);
    }
    *done = bytes / ps;
    if (*done) {
        FF_FAULT_AT("placed");
        received(d, block, page, *done, !data);
    }
    rc = believe(d, rc, addr + bytes, ps);
    if (rc == -EEXIST) {
        ff_count(d->stats->pages_duplicate, 1);
        ff_uffd_wake(d->uffd, addr + bytes, ps);
        received(d, block, page + *done, 1, !data);
        *done += 1;
        rc = 0;
    }
    return rc < 0 ? ff_dest_cannot_place(d, block, page + *done, rc) : 0;
}

/* A run of which nothing was received before (the usual case, and without recovery the only
 * one). */
static bool is_fresh(const FfDestination *d, unsigned block, uint64_t page, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (ff_bitmap_test(&d->ram->blocks[block].bitmap, page + i)) {
            return false;
        }
    }
    return true;
}

int ff_dest_place(FfDestination *d, unsigned block, uint64_t page, uint64_t n, const void *data)
{
    uint64_t ps = d->ram->blocks[block].info.page_size;
    bool fresh = is_fresh(d, block, page, n);

    for (uint64_t i = 0, done; i < n; i += done) {
        done = 1;
        if (!fresh && ff_bitmap_test(&d->ram->blocks[block].bitmap, page + i)) {
            /* Received, maybe punched by the guest since: an old copy must not come back. */
            ff_count(d->stats->pages_duplicate, 1);
            continue;
        }
        int rc =
            place_some(d, block, page + i, fresh ? n - i : 1, (const char *)data + i * ps, &done);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* A big hole becomes ordinary memory again: no page is allocated for it. Returns how many pages,
 * from *FIRST on: whole huge pages only. A fault there may give the file one (before Linux 6.11
 * without a look at where the mapping ends), and what stands beside the hole must not be found in
 * it. */
static uint64_t unregister_hole(FfDestination *d, unsigned block, uint64_t page, uint64_t n,
                                uint64_t *first)
{
    uint64_t ps = d->ram->blocks[block].info.page_size, run;
    uint64_t per_huge = MAX(1, HUGE_PAGE / ps);

    *first = (page + per_huge - 1) / per_huge * per_huge;
    uint64_t end = (page + n) / per_huge * per_huge, len = (end - *first) * ps;
    if (end <= *first || len < UNREGISTER_MIN_BYTES) {
        return 0;
    }
    uint64_t addr = ff_regions_addr(d->regions, block, *first * ps, &run);
    if (run < len ||
        __atomic_fetch_add(&d->unregistered, 1, __ATOMIC_RELAXED) >= UNREGISTER_MAX_RANGES) {
        return 0;
    }
    /* Unregistering wakes who waits there; the page that they then find is a fresh zero page of
     * shared memory, which is what the source has. */
    int rc = ff_uffd_unregister(d->uffd, addr, len);
    if (rc < 0) {
        return 0;
    }
    received(d, block, *first, end - *first, true);
    return end - *first;
}

static int place_zeros(FfDestination *d, unsigned block, uint64_t page, uint64_t n)
{
    for (uint64_t i = 0, done; i < n; i += done) {
        done = 1;
        if (ff_bitmap_test(&d->ram->blocks[block].bitmap, page + i)) {
            ff_count(d->stats->pages_duplicate, 1);
            continue;
        }
        int rc = place_some(d, block, page + i, n - i, NULL, &done);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int ff_dest_place_zero(FfDestination *d, unsigned block, uint64_t page, uint64_t n)
{
    uint64_t first,
        out = is_fresh(d, block, page, n) ? unregister_hole(d, block, page, n, &first) : 0;

    if (!out) {
        return place_zeros(d, block, page, n);
    }
    int rc = place_zeros(d, block, page, first - page);
    return rc < 0 ? rc : place_zeros(d, block, first + out, page + n - (first + out));
}

/* Zeros were not placed, since the page is there, and whoever waits was woken. It finds the page,
 * so it does not come back, unless something here is wrong; and then it must not go round for ever.
 * Others may have waited for the same page: as many as QEMU has threads. */
static int note_in_vain(FfDestination *d, unsigned block, uint64_t page)
{
    if (d->vain_block != block || d->vain_page != page) {
        d->vain_n = 0;
    }
    d->vain_block = block;
    d->vain_page = page;
    return ++d->vain_n > IN_VAIN_MAX ? -ELOOP : 0;
}

int ff_dest_place_again(FfDestination *d, unsigned block, uint64_t page)
{
    uint64_t ps = d->ram->blocks[block].info.page_size, run, done;
    uint64_t addr = ff_regions_addr(d->regions, block, page * ps, &run);
    int rc = ps > 4096 ? ff_uffd_copy(d->uffd, addr, d->zero_page, ps, &done)
                       : ff_uffd_zero(d->uffd, addr, ps, &done);

    rc = believe(d, rc, addr, ps);
    if (rc == -EEXIST) {
        rc = ff_uffd_wake(d->uffd, addr, ps);
        rc = rc < 0 ? rc : note_in_vain(d, block, page);
    } else {
        d->vain_n = 0;
    }
    /* ENOENT: taken out of the uffd meanwhile, which woke everybody. ESRCH: QEMU is gone. */
    return rc == -ENOENT || rc == -ESRCH ? 0 : rc;
}
