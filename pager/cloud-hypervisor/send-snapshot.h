/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replays a snapshot (offload.h) to a Cloud Hypervisor that listens (vm.receive-migration): all but
 * the memory, which it asks for on a connection of its own. One thread, which waits for it.
 *
 * Until the last step the guest does not run; what fails before has changed nothing.
 */
#ifndef FF_PAGER_CLOUD_HYPERVISOR_SEND_SNAPSHOT_H
#define FF_PAGER_CLOUD_HYPERVISOR_SEND_SNAPSHOT_H

#include <sys/types.h>

#include "pager/cloud-hypervisor/offload.h"

typedef struct {
    const char *path; /* its socket, for errors; borrowed */
    int control;
    int fault; /* where it asks */
    pid_t pid; /* who listens there */
    uid_t uid;
} FfSendSnapshot;

/* Up to the moment from which on it may ask. ERROR (G_IO_ERROR, one line). */
bool ff_send_snapshot_begin(FfSendSnapshot *r, const char *path, const FfOffload *o,
                            GError **error);
/* The rest: RUN, or the guest stays paused. TALK: a socket, on which there is a byte when it has
 * got its first page, or the end if it has not. */
bool ff_send_snapshot_finish(const FfSendSnapshot *r, const FfOffload *o, int talk, bool run,
                             GError **error);
void ff_send_snapshot_clear(FfSendSnapshot *r);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfSendSnapshot, ff_send_snapshot_clear)

#endif
