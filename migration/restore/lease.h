/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The read lease on the file of a restore: a process that opens the file for writing, or truncates
 * it by its name, waits in the kernel until the lease is given up, but for fs.lease-break-time at
 * most.
 */
#ifndef FF_MIGRATION_RESTORE_LEASE_H
#define FF_MIGRATION_RESTORE_LEASE_H

#include <glib.h>
#include <stdbool.h>

typedef struct FfLease FfLease;
/* Somebody waits, or came in before there was a lease: the sooner the restore ends the better. The
 * taker's thread, before ff_lease_take() returns, or the thread of its CONTEXT. At most once. */
typedef void (*FfLeaseFunc)(void *opaque);

/* The kernel tells by SIGIO, which ends a process that does not expect it. The main thread, before
 * there is another one. */
void ff_lease_init(void);
/* A description of the file that FD has open, for its lease alone. A process that may have a lease
 * at first may not always give it up: libvirt gives the file back to root when it was told that the
 * restore is over. Then it ends when the last copy of this one is closed, and so nobody else may
 * have any. Where the file cannot be opened once more, or FD has a lease of an engine before, it is
 * a copy of FD. -1: none. */
int ff_lease_open(int fd);
/* FD, a description for reading alone, can have a lease now. */
bool ff_lease_is_possible(int fd);
/* A lease on the file that FD, a description for reading alone, has open; or the one that an engine
 * before this one took on the same description. PATH is for the log. NULL: there can be none, which
 * the log says. OPAQUE is used by the thread of CONTEXT, which may be in WAITS when ff_lease_end()
 * returns, and does not call it after that. */
FfLease *ff_lease_take(int fd, const char *path, GMainContext *context, FfLeaseFunc waits,
                       void *opaque);
/* Gives it up: a process that waits continues. L can be NULL. The thread that took it, or
 * CONTEXT's. */
void ff_lease_end(FfLease *l);
/* A process that writes is held back for so long at most. */
unsigned ff_lease_seconds(void);

#endif
