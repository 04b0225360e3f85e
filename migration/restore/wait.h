/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long the client of a lazy restore, which takes it for one of QEMU's, must still wait for
 * "completed". From then on it may overwrite the file, and is held back for a time only
 * (lease.h): what is not read by then is expected to be in half of that.
 */
#ifndef FF_MIGRATION_RESTORE_WAIT_H
#define FF_MIGRATION_RESTORE_WAIT_H

#include <stdint.h>

/* So much comes in time from any disk, if there is a time. */
#define FF_RESTORE_SURE (256ull << 20)
/* A speed is known after so long. */
#define FF_RESTORE_TRIAL_US 100000

/* Of DATA bytes READ were read and placed in ELAPSED_US, and a process that writes is held back
 * for HELD_US. For so long the client must wait before it asks again, us; 0: no more. Where nobody
 * is held back (0) that never comes: the client waits until every page is there, whatever was
 * read. */
int64_t ff_restore_wait_us(uint64_t data, uint64_t read, int64_t elapsed_us, int64_t held_us);

#endif
