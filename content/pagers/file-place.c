/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this pager do with content that they have read. Threads and locks: file.c.
 * System calls: none.
 */
#include "content/pagers/file-internal.h"

#include "uffd/place.h"

bool ff_file_has_data(const FfFilePagerBlock *b, uint64_t page)
{
    return b->per_page == 1 ? ff_bitmap_test(&b->data, page)
                            : ff_bitmap_count_run(&b->data, page * b->per_page, b->per_page) > 0;
}

void ff_file_count(uint64_t *n, uint64_t more)
{
    __atomic_fetch_add(n, more, __ATOMIC_RELAXED); /* statistics */
}

void ff_file_cannot_place(FfFilePager *p, const FfRun *run, int rc)
{
    g_atomic_int_set(&p->broken, 1);
    p->cfg.cannot_place(run, rc, p->cfg.opaque);
}

int ff_file_place_missing(FfFilePager *p, const FfRun *run, const uint8_t *data, FfRun *some)
{
    uint64_t end = run->first + run->n, ps = p->blocks[run->block].per_page * FF_FILE_PAGE;
    int rc = 0;

    for (*some = (FfRun){run->block, run->first, 0}; some->first < end; some->first += some->n) {
        bool there = ff_space_is_placed(p->cfg.space, run->block, some->first);

        for (some->n = 1;
             some->first + some->n < end &&
             ff_space_is_placed(p->cfg.space, run->block, some->first + some->n) == there;
             some->n++) {
        }
        rc = there ? 0 : ff_place_copy(p->cfg.space, some, data + (some->first - run->first) * ps);
        if (rc < 0) {
            break;
        }
    }
    return rc;
}
