/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See wait.h. Any thread; system calls: none. */
#include "migration/restore/wait.h"

#include <glib.h>

/* The speed is looked at again after so long: what was read first may have been in the page cache.
 */
#define LOOK_US G_USEC_PER_SEC

int64_t ff_restore_wait_us(uint64_t data, uint64_t read, int64_t elapsed_us, int64_t held_us)
{
    uint64_t left = data - MIN(read, data);

    if (!held_us) {
        return LOOK_US;
    }
    if (left <= FF_RESTORE_SURE) {
        return 0;
    }
    if (elapsed_us < FF_RESTORE_TRIAL_US) {
        return FF_RESTORE_TRIAL_US - elapsed_us;
    }
    if (!read) {
        return LOOK_US;
    }
    double late_us = (double)left / (double)read * (double)elapsed_us - (double)held_us / 2;

    return late_us <= 0         ? 0
           : late_us >= LOOK_US ? LOOK_US
                                : MAX((int64_t)late_us, FF_RESTORE_TRIAL_US / 10);
}
