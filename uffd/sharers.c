/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See sharers.h. A slot is filled once and never again, so its readers need no lock: the fault
 * thread, and threads that place, which look only if somebody was noted as waiting. What they wait
 * for is noted in the space's own table, before the page's mark is looked at (waits.h).
 *
 * Lock: sharers.lock, of those that add and unregister; a leaf. System calls: ioctl(UFFDIO_*),
 * write (eventfd), mmap, munmap, close.
 */
#include "uffd/sharers.h"

#include <errno.h>
#include <glib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd/uffd.h"

static FfSharer *nth(FfSharers *t, unsigned i)
{
    return &t->all[i];
}

static unsigned n_sharers(const FfSharers *t)
{
    return __atomic_load_n(&t->n, __ATOMIC_SEQ_CST);
}

static unsigned n_ranges(const FfSharer *x)
{
    return __atomic_load_n(&x->n_ranges, __ATOMIC_ACQUIRE);
}

bool ff_sharer_is_live(const FfSharer *x)
{
    return !__atomic_load_n(&x->gone, __ATOMIC_ACQUIRE);
}

/* ---- adding ---------------------------------------------------------------------------------- */

static void wake_ranges(const FfSharer *x, unsigned from)
{
    for (unsigned i = from; i < n_ranges(x); i++) {
        ff_uffd_wake(x->uffd, x->ranges[i].addr, x->ranges[i].len);
    }
}

/* Locked. */
static int extend(FfSharer *x, const FfSharerRange *ranges, unsigned n)
{
    unsigned have = x->n_ranges;

    if (n > FF_MAX_SHARER_RANGES - have) {
        return -ENOSPC;
    }
    for (unsigned i = 0; i < n; i++) {
        x->ranges[have + i] = ranges[i];
    }
    __atomic_store_n(&x->n_ranges, have + n, __ATOMIC_RELEASE); /* observer: n_ranges() */
    wake_ranges(x, have);
    return 0;
}

static void look_there(FfSharers *t)
{
    uint64_t one = 1;

    while (write(t->changed_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

int ff_sharers_add(FfSharers *t, int uffd, const FfSharerRange *ranges, unsigned n)
{
    int rc = -ESHUTDOWN;

    pthread_mutex_lock(&t->lock);
    unsigned i = n_sharers(t);
    if (!t->closed) {
        rc = i == FF_MAX_SHARERS ? -ENOSPC : 0;
    }
    if (rc == 0) {
        nth(t, i)->uffd = uffd;
        rc = extend(nth(t, i), ranges, n);
    }
    if (rc == 0) {
        /* Observers: the fault thread, and threads that place. */
        __atomic_store_n(&t->n, i + 1, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&t->lock);
    if (rc < 0) {
        close(uffd);
        return rc;
    }
    look_there(t);
    return (int)i;
}

int ff_sharers_extend(FfSharers *t, int sharer, const FfSharerRange *ranges, unsigned n)
{
    int rc;

    pthread_mutex_lock(&t->lock);
    rc = t->closed ? -ESHUTDOWN : extend(nth(t, sharer), ranges, n);
    pthread_mutex_unlock(&t->lock);
    return rc;
}

/* Its userfaultfd stays open until the space ends: somebody may be about to wake there. */
void ff_sharers_remove(FfSharers *t, int sharer)
{
    __atomic_store_n(&nth(t, sharer)->gone, true, __ATOMIC_RELEASE); /* ff_sharer_is_live() */
    look_there(t);
}

/* ---- whether it waits there ------------------------------------------------------------------ */

/* The kernel looks for a registered mapping before it reads the source, which cannot be read. */
static int probe(int uffd, uint64_t addr, const void *unreadable)
{
    uint64_t done;
    int rc;

    do {
        rc = ff_uffd_try(uffd, FF_UFFD_COPY, addr, unreadable, FF_SHARED_PAGE, &done);
    } while (rc == -EAGAIN);
    return rc == -EFAULT ? 0 : rc == 0 ? -EPROTO : rc;
}

int ff_sharers_check(FfSharers *t, int sharer)
{
    const FfSharer *x = nth(t, sharer);
    void *p = mmap(NULL, FF_SHARED_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int rc = p == MAP_FAILED ? -errno : 0;

    for (unsigned i = 0; i < n_ranges(x) && rc == 0; i++) {
        const FfSharerRange *r = &x->ranges[i];

        rc = probe(x->uffd, r->addr, p);
        rc = rc < 0 ? rc : probe(x->uffd, r->addr + r->len - FF_SHARED_PAGE, p);
    }
    if (p != MAP_FAILED) {
        munmap(p, FF_SHARED_PAGE);
    }
    return rc;
}

int ff_sharers_unregister(FfSharers *t)
{
    int rc = 0;

    pthread_mutex_lock(&t->lock);
    t->closed = true;
    for (unsigned i = 0; i < n_sharers(t); i++) {
        const FfSharer *x = nth(t, i);

        for (unsigned k = 0; k < n_ranges(x); k++) {
            int one = ff_uffd_unregister(x->uffd, x->ranges[k].addr, x->ranges[k].len);
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
        const FfSharer *x = nth(t, i);

        for (unsigned k = 0; ff_sharer_is_live(x) && k < n_ranges(x); k++) {
            if (x->ranges[k].block == block) {
                wake_in(x, &x->ranges[k], page * FF_SHARED_PAGE, n * FF_SHARED_PAGE);
            }
        }
    }
}

void ff_sharers_wake_all(FfSharers *t)
{
    for (unsigned i = 0; i < n_sharers(t); i++) {
        if (ff_sharer_is_live(nth(t, i))) {
            wake_ranges(nth(t, i), 0);
        }
    }
}

bool ff_sharer_find(const FfSharer *x, uint64_t addr, unsigned *block, uint64_t *page)
{
    /* The last one that was said counts: an address is used again. */
    for (unsigned k = n_ranges(x); k > 0; k--) {
        const FfSharerRange *r = &x->ranges[k - 1];

        if (addr >= r->addr && addr - r->addr < r->len) {
            *block = r->block;
            *page = (r->offset + (addr - r->addr)) / FF_SHARED_PAGE;
            return true;
        }
    }
    return false;
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
        close(nth(t, i)->uffd);
    }
    if (t->changed_fd >= 0) {
        close(t->changed_fd);
    }
    pthread_mutex_destroy(&t->lock);
}
