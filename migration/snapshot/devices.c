/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See devices.h. That they have finished is known as in a migration: by a log, which is
 * whole, and rings that QEMU has stopped. What is in the log nobody needs. That they begin nothing
 * more is the relay's doing, who stands between QEMU and them, and looks at FF_MARK_PARKED; it is
 * there for the next relay and engine as well.
 */
#include "migration/snapshot/devices.h"

#include "base/failpoints.h"

bool ff_snapshot_devices_begin(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    return !memory->has_devices || memory->log_begin(memory, error);
}

bool ff_snapshot_devices_park(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (!memory->has_devices) {
        return true;
    }
    /* First: what begins behind the question is held, what began before it is told. */
    ff_state_mark(s->cfg->state, FF_MARK_PARKED);
    FF_FAULT_AT("parked");
    bool whole = memory->log_whole(memory, true, error);

    memory->log_end(memory);
    return whole;
}

void ff_snapshot_devices_unpark(FfStateHeader *state, FfVmmMemory *memory)
{
    if (ff_state_is_marked(state, FF_MARK_PARKED)) {
        ff_state_unmark(state, FF_MARK_PARKED);
        FF_FAULT_AT("unparked");
        if (memory->all_here) {
            memory->all_here(memory);
        }
    }
}

void ff_snapshot_devices_end(FfSnapshot *s)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (memory->has_devices) {
        memory->log_end(memory);
    }
    ff_snapshot_devices_unpark(s->cfg->state, memory);
}
