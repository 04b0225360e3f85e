/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Userfaultfds in which a back-end waits for pages since before this relay: the one that had been
 * given them has died. They are copied out of that process, which needs the right to trace it.
 */
#ifndef FF_GUEST_RELAY_ORPHANED_UFFDS_H
#define FF_GUEST_RELAY_ORPHANED_UFFDS_H

#include "contract/sharers.h"
#include "guest/relay/shared.h"

typedef struct {
    int uffd;
    FfSharersRegion regions[FF_SHARERS_REGIONS];
    unsigned n_regions;
} FfLeftWait;

/* Those of process PID in which memory of this guest is registered (of FfLeftWait; can be empty).
 */
GPtrArray *ff_left_waits_new(const FfRelay *relay, pid_t pid);

#endif
