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
} FfReplay;

/* Up to the moment from which on it may ask. ERROR (G_IO_ERROR, one line). */
bool ff_replay_begin(FfReplay *r, const char *path, const FfOffload *o, GError **error);
/* The rest: RUN, or the guest stays paused. TALK: a socket, on which there is a byte when it has
 * got its first page, or the end if it has not. */
bool ff_replay_finish(const FfReplay *r, const FfOffload *o, int talk, bool run, GError **error);
void ff_replay_clear(FfReplay *r);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfReplay, ff_replay_clear)

#endif
