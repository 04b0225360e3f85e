/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A qemu-storage-daemon that is the back-end of a vhost-user-blk device. One thread. */
#ifndef FF_TESTS_STORAGE_H
#define FF_TESTS_STORAGE_H

#include <glib.h>
#include <stdbool.h>

typedef struct Storage Storage;

/* TRUE if there is one; else *WHY (static). */
bool storage_available(const char **why);
/* Starts one over IMAGE, which others may have open as well, past the page cache; listens at SOCKET
 * when this returns, for a device of N_QUEUES. IOPS: so many requests each second at most; 0: as
 * many as it can. UNABLE: without the right to a userfaultfd, so it does not offer to wait for
 * pages. It ends with the test.
 */
Storage *storage_start(const char *image, const char *socket, unsigned n_queues, unsigned iops,
                       bool unable);
/* TRUE: one that is not made UNABLE can make a userfaultfd; else *WHY (static). */
bool storage_can_wait(const char **why);
/* SIGKILL, and reaped. */
void storage_kill(Storage *storage);
/* SIGTERM, and reaped; it must have ended by itself with status 0. */
void storage_end(Storage *storage);

#endif
