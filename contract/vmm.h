/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is asked of a virtual machine monitor by a process that moves, saves or restores its guest.
 * It has four parts, and a caller that needs one of them takes that one: run, memory, state, disks.
 * A migration needs the first three. guest/qemu/ implements them over the private QMP monitor;
 * another VMM can be put there.
 *
 * Every function may block until QEMU has answered and is called from the migration's
 * coordinator, FfVmmRun.resume() also from the destination's starter; never from the main loop's
 * thread, which serves the answers; with no lock held. Each either succeeds or sets ERROR to one
 * line for the QMP client.
 */
#ifndef FF_CONTRACT_VMM_H
#define FF_CONTRACT_VMM_H

#include <stddef.h>

#include "contract/vmm-disks.h"
#include "contract/vmm-memory.h"
#include "contract/vmm-run.h"
#include "contract/vmm-state.h"

typedef struct {
    FfVmmRun run;
    FfVmmMemory memory;
    FfVmmState state;
    FfVmmDisks disks;
} FfVmm;

/* For code that implements a part and gets it back: the whole. */
static inline FfVmm *ff_vmm_of_run(FfVmmRun *run)
{
    return (FfVmm *)(void *)((char *)run - offsetof(FfVmm, run));
}

static inline FfVmm *ff_vmm_of_memory(FfVmmMemory *memory)
{
    return (FfVmm *)(void *)((char *)memory - offsetof(FfVmm, memory));
}

static inline FfVmm *ff_vmm_of_state(FfVmmState *state)
{
    return (FfVmm *)(void *)((char *)state - offsetof(FfVmm, state));
}

static inline FfVmm *ff_vmm_of_disks(FfVmmDisks *disks)
{
    return (FfVmm *)(void *)((char *)disks - offsetof(FfVmm, disks));
}

#endif
