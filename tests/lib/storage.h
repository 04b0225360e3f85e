/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A qemu-storage-daemon that is the back-end of a vhost-user-blk device. For the test's thread. */
#ifndef FF_TESTS_STORAGE_H
#define FF_TESTS_STORAGE_H

#include <glib.h>
#include <stdbool.h>

typedef struct Storage Storage;

/* TRUE if there is one; else *WHY (static). */
bool storage_available(const char **why);
/* Path of QEMU 10's, which scripts/get qemu 10 unpacked (g_free). NULL, and the test is skipped:
 * there is none. */
char *storage_newer(void);

typedef struct {
    const char *program; /* NULL: the installed one */
    const char *image;   /* others may have it open as well; past the page cache */
    const char *socket;
    unsigned n_queues; /* of the device */
    unsigned iops;     /* so many requests each second at most; 0: as many as it can */
    bool unable;       /* has no right to a userfaultfd, so does not offer to wait for pages */
    bool iothread;     /* the rings have a thread of their own */
} StorageConfig;

/* Starts one, which listens when this returns. It ends with the test. */
Storage *storage_start(const StorageConfig *config);
/* TRUE: one that is not made UNABLE can make a userfaultfd; else *WHY (static). */
bool storage_can_wait(const char **why);
/* SIGKILL, and reaped. */
void storage_kill(Storage *storage);
/* SIGSTOP, or SIGCONT. */
void storage_stand(Storage *storage, bool stands);
/* SIGTERM, and reaped; it must have ended by itself with status 0. */
void storage_end(Storage *storage);

#endif
