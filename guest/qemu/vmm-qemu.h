/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU as contract/vmm.h sees it, over the private QMP monitor. What else there is of it:
 * settings.h (the client's view of capabilities and parameters while QEMU itself runs with other
 * ones), hotplug.h.
 */
#ifndef FF_GUEST_QEMU_VMM_QEMU_H
#define FF_GUEST_QEMU_VMM_QEMU_H

#include "contract/vmm.h"
#include "qmp/client.h"

typedef struct FfQemu FfQemu;

typedef struct {
    FfQmpClient *qmp;     /* the private monitor; a reference is taken */
    FfStateHeader *state; /* holds the undo log; borrowed */
    GPtrArray *ram;       /* FfRamBlock *: all memory that is ours (gpa ignored); copied, the memfds
                             are borrowed */
    const char *name;     /* guest name for messages; can be NULL */
    int qemu_pid;         /* to look at its fds; 0 = do not */
    int backends;         /* contract/backends.h; borrowed; -1: no device's process is followed */
    GCancellable
        *cancel; /* ends waits before the switchover (check ... wait_loaded); can be NULL */
    unsigned deadline_ms; /* for the answers to queries; 0 = none */
} FfQemuConfig;

FfQemu *ff_qemu_new(const FfQemuConfig *config);
void ff_qemu_free(FfQemu *qemu);
/* Valid as long as QEMU is. */
FfVmm *ff_qemu_vmm(FfQemu *qemu);

#endif
