/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See sharers.h. A slot is filled once and never again, so its readers need no lock: the fault
 * thread, and threads that place, which look only if somebody was noted as waiting. What they wait
 * for is noted in the space's own table, before the page's mark is looked at (waits.h).
 *
 * Lock: sharers.lock, of those that add and unregister; a leaf. System calls: ioctl(UFFDIO_*),
 * write (eventfd), close.
 */
#include "uffd/sharers.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "uffd/uffd.h"

#define SMALL_PAGE 4096u

static FfSharer *nth_sharer(FfSharers *t, unsigned i)
{
    return &t->all[i];
}

static unsigned n_sharers(const FfSharers *t)
{
    return __atomic_load_n(&t->n, __ATOMIC_SEQ_CST);
}

/* ---- adding ---------------------------------------------------------------------------------- */

static void wake_ranges(const FfSharer *x)
{
    for (unsigned i = 0; i < x->n_ranges; i++) {
        ff_uffd_wake(x->uffd, x->ranges[i].addr, x->ranges[i].len);
    }
}

static void look_there(FfSharers *t)
{
    uint64_t one = 1;

    while (write(t->changed_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* Whether the file has a huge page can be found out there: an older kernel does not know the word,
 * a newer one looks first whether that is registered. */
static bool can_tell(int uffd, const FfSharerRange *ranges, unsigned n)
{
    uint64_t done;

    for (unsigned i = 0; i < n; i++) {
        const FfSharerRange *r = &ranges[i];

        if (r->page_size > SMALL_PAGE &&
            ff_uffd_try(uffd, FF_UFFD_CONTINUE, r->addr, NULL, r->page_size, &done) == -EINVAL) {
            return false;
        }
    }
    return true;
}

int ff_sharers_add(FfSharers *t, int uffd, const FfSharerRange *ranges, unsigned n)
{
    int rc = 0;

    pthread_mutex_lock(&t->lock);
    unsigned i = n_sharers(t);
    if (t->closed) {
        rc = -ESHUTDOWN;
    } else if (!can_tell(uffd, ranges, n)) {
        rc = -ENOTSUP;
    } else if (i == FF_MAX_SHARERS || n > FF_MAX_SHARER_RANGES) {
        rc = -ENOSPC;
    } else {
        FfSharer *x = nth_sharer(t, i);

        x->uffd = uffd;
        memcpy(x->ranges, ranges, n * sizeof(*ranges));
        x->n_ranges = n;
        /* Observers: the fault thread, and threads that place. */
        __atomic_store_n(&t->n, i + 1, __ATOMIC_SEQ_CST);
        wake_ranges(x);
    }
    pthread_mutex_unlock(&t->lock);
    if (rc < 0) {
        close(uffd);
        return rc;
    }
    look_there(t);
    return (int)i;
}

/* ---- whether it waits there ------------------------------------------------------------------ */

static int check_sharer(const FfSharer *x)
{
    int rc = 0;

    for (unsigned i = 0; i < x->n_ranges && rc == 0; i++) {
        const FfSharerRange *r = &x->ranges[i];

        rc = ff_uffd_is_registered(x->uffd, r->addr, r->page_size);
        rc = rc < 0 ? rc
                    : ff_uffd_is_registered(x->uffd, r->addr + r->len - r->page_size, r->page_size);
    }
    return rc;
}

int ff_sharers_check(FfSharers *t, int sharer)
{
    pthread_mutex_lock(&t->lock);
    int rc = t->closed ? -ESHUTDOWN : check_sharer(nth_sharer(t, sharer));
    pthread_mutex_unlock(&t->lock);
    return rc;
}

int ff_sharers_unregister(FfSharers *t)
{
    int rc = 0;

    pthread_mutex_lock(&t->lock);
    t->closed = true;
    for (unsigned i = 0; i < n_sharers(t); i++) {
        const FfSharer *x = nth_sharer(t, i);

        for (unsigned k = 0; k < x->n_ranges; k++) {
            int one = ff_uffd_unregister_own(x->uffd, x->ranges[k].addr, x->ranges[k].len);
            /* Anything else: it has unmapped that, or ended. */
            rc = one == -ENOMEM ? one : rc;
        }
    }
    pthread_mutex_unlock(&t->lock);
    return rc;
}

/* ---- waking ---------------------------------------------------------------------------------- */

static void wake_in(const FfSharer *x, const FfSharerRange *r, uint64_t offset, uint64_t len)
{
    uint64_t begin = MAX(offset, r->offset), end = MIN(offset + len, r->offset + r->len);

    if (begin < end) {
        ff_uffd_wake(x->uffd, r->addr + (begin - r->offset), end - begin);
    }
}

void ff_sharers_wake(FfSharers *t, unsigned block, uint64_t page, uint64_t n)
{
    for (unsigned i = 0; i < n_sharers(t); i++) {
        const FfSharer *x = nth_sharer(t, i);

        for (unsigned k = 0; k < x->n_ranges; k++) {
            if (x->ranges[k].block == block) {
                uint64_t size = x->ranges[k].page_size;

                wake_in(x, &x->ranges[k], page * size, n * size);
            }
        }
    }
}

void ff_sharers_wake_all(FfSharers *t)
{
    for (unsigned i = 0; i < n_sharers(t); i++) {
        wake_ranges(nth_sharer(t, i));
    }
}

bool ff_sharer_find(const FfSharer *x, uint64_t addr, unsigned *block, uint64_t *page,
                    uint64_t *start)
{
    for (unsigned k = 0; k < x->n_ranges; k++) {
        const FfSharerRange *r = &x->ranges[k];

        if (addr >= r->addr && addr - r->addr < r->len) {
            uint64_t n = (addr - r->addr) / r->page_size;

            *block = r->block;
            *page = r->offset / r->page_size + n;
            *start = r->addr + n * r->page_size;
            return true;
        }
    }
    return false;
}

int ff_sharer_place_zeros(const FfSharer *x, uint64_t start, uint64_t page_size, const void *zeros)
{
    uint64_t done;

    if (page_size == SMALL_PAGE) {
        return ff_uffd_try(x->uffd, FF_UFFD_ZERO, start, NULL, page_size, &done);
    }
    int rc = ff_uffd_try(x->uffd, FF_UFFD_COPY, start, zeros, page_size, &done);
    if (rc != -EEXIST) {
        return rc;
    }
    /* So the kernel says as well where no huge page is free; the file tells. */
    rc = ff_uffd_try(x->uffd, FF_UFFD_CONTINUE, start, NULL, page_size, &done);
    return rc == -EFAULT ? -ENOMEM : rc == 0 || rc == -EIO ? -EEXIST : rc;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_sharers_init(FfSharers *t, int changed_fd)
{
    t->changed_fd = changed_fd;
    pthread_mutex_init(&t->lock, NULL);
}

void ff_sharers_clear(FfSharers *t)
{
    for (unsigned i = 0; i < n_sharers(t); i++) {
        close(nth_sharer(t, i)->uffd);
    }
    if (t->changed_fd >= 0) {
        close(t->changed_fd);
    }
    pthread_mutex_destroy(&t->lock);
}
