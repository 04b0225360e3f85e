/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages for a guest that has come. See dest-huge.h.
 *
 * Postcopy needs small pages: each missing one is a hole. When all is there and no userfaultfd is
 * registered the kernel is asked to make huge pages of them (uffd/huge.h), through mappings of the
 * engine's own, so for every user's guest. The next migration, snapshot or restore frees this one
 * first, and so ends it: before anything is registered again. So does a relay that waits for this
 * engine's end, because another one is to take its place.
 *
 * Thread: the coordinator, after the end of the migration.
 *
 * System calls: fcntl, close.
 */
#include "migration/dest-huge.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "fault/fault.h"
#include "net/priority.h"
#include "uffd/huge.h"

enum { SHARE = 19, LONGEST_MS = 100 };

typedef struct {
    int fd; /* a duplicate */
    uint64_t size;
} File;

static void file_clear(gpointer file)
{
    close(((File *)file)->fd);
}

void ff_dest_huge_keep(FfDestination *d)
{
    if (!d->control->ops.parted || !ff_huge_is_allowed()) {
        return;
    }
    d->huge = g_array_new(FALSE, FALSE, sizeof(File));
    g_array_set_clear_func(d->huge, file_clear);
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        const FfRamBlock *info = &d->ram->blocks[i].info;
        File file = {-1, info->size};

        if (info->page_size == 4096 && info->size >= FF_HUGE_PAGE) {
            file.fd = fcntl(info->memfd, F_DUPFD_CLOEXEC, 0);
        }
        if (file.fd >= 0) {
            g_array_append_val(d->huge, file);
        }
    }
}

/* While one is made the guest can wait for it: SHARE times as long as that nothing is made, but
 * LONGEST_MS at most (more than 5 ms is a busy host). FALSE: the migration is being freed. */
static bool wait_for_turn(int64_t took_us, void *opaque)
{
    FfControl *c = opaque;
    int64_t pause_us = MIN(took_us * SHARE, LONGEST_MS * 1000);

    return !ff_control_wait_until(c, FF_EV_FREED, g_get_monotonic_time() + pause_us);
}

void ff_dest_huge_make(FfDestination *d)
{
    int64_t made = 0;

    /* Not at a low priority: what this thread locks in the kernel the guest waits for, and a thread
     * of low priority may not run for long. */
    ff_priority_bulk();
    for (guint i = 0; i < d->huge->len; i++) {
        const File *file = &g_array_index(d->huge, File, i);
        int64_t n = ff_huge_collapse(file->fd, file->size, wait_for_turn, d->control);

        if (n < 0) {
            /* Of no importance to the guest, which has what it had. */
            g_debug("no huge pages: %s", g_strerror((int)-n));
            break;
        }
        made += n;
    }
    FF_FAULT_AT("huge");
    g_debug("%" G_GINT64_FORMAT " huge pages", made);
}

void ff_dest_huge_clear(FfDestination *d)
{
    g_clear_pointer(&d->huge, g_array_unref);
}
