/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes a snapshot of a Cloud Hypervisor that connects (vm.send-migration with local=on) and passes
 * its memory: as the receiver of a local migration, which writes the guest to a folder in place of
 * running it. One thread, which waits for it.
 *
 * Cloud Hypervisor ends its guest when the last step is acknowledged. It is not before all is on
 * the disk; whatever else happens, the guest continues where it is.
 */
#ifndef FF_PAGER_CLOUD_HYPERVISOR_TAKE_SNAPSHOT_H
#define FF_PAGER_CLOUD_HYPERVISOR_TAKE_SNAPSHOT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "pager/cloud-hypervisor/offload-write.h"

typedef struct {
    uint64_t memory; /* bytes that the guest has */
    uint64_t bytes;  /* of them that are no holes */
    gint64 us;       /* from its first word to the last answer */
    bool ran;        /* the guest, before it was stopped for this */
    bool gone;       /* Cloud Hypervisor has died meanwhile: its guest runs nowhere */
} FfReceived;

/* Waits at LISTENER for a process of this user, root, or one of UIDS that says something; others
 * are sent away, with a line on stderr. STOP: it ends the wait when it can be read (a signalfd). A
 * socket; -1 and ERROR (G_IO_ERROR, one line). */
int ff_receive_accept(int listener, int stop, const uid_t *uids, unsigned n_uids, GError **error);
/* Talks with SOCK (borrowed), and writes to W (borrowed; its folder, once). STOP as above, until
 * all is on the disk. TRUE: the snapshot is whole, and Cloud Hypervisor knows, or is gone.
 * FALSE and ERROR (G_IO_ERROR, one line): there is none, but where the line says that it is whole;
 * then Cloud Hypervisor has left before it could be told. */
bool ff_receive_snapshot(int sock, int stop, FfOffloadWriter *w, FfReceived *r, GError **error);

#endif
