/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the guest runs, as a virtual machine monitor lets somebody else say. It only carries
 * out: who may run the guest is decided by the journal (migration/common/ownership.h), or by
 * another one that asks.
 *
 * For threads and errors see contract/vmm.h.
 */
#ifndef FF_CONTRACT_VMM_RUN_H
#define FF_CONTRACT_VMM_RUN_H

#include <glib.h>
#include <stdbool.h>
#include <string.h>

/* Whether a guest in RUN_STATE is one that was not stopped. "suspended": it runs as well, until
 * somebody wakes it. */
static inline bool ff_vmm_runs(const char *run_state)
{
    return strcmp(run_state, "running") == 0 || strcmp(run_state, "suspended") == 0;
}

typedef struct FfVmmRun FfVmmRun;
struct FfVmmRun {
    /* Source: stops the guest and waits for the reply. *RUN_STATE (g_free) is what the guest
     * was before: "running", "paused", "suspended", ... */
    bool (*stop)(FfVmmRun *run, char **run_state, GError **error);
    /* Source, optional, right before the right to run is given away: the guest stands still for the
     * inner migration, and the VMM itself refuses to start it. What the VMM has reported before its
     * answer has been heard by the return. FALSE and ERROR: else. */
    bool (*stands)(FfVmmRun *run, GError **error);
    /* Destination, after SHUT(0) was seen: gives QEMU the run state that the source's guest had;
     * starts it if it ran in that (ff_vmm_runs()) and START. Source: the same, for a rollback.
     * *RUNNING says if it runs now, in the same sense. ERROR is G_IO_ERROR_NOT_CONNECTED if the VMM
     * cannot be asked, or its answer not be heard: another process may be able to. */
    bool (*resume)(FfVmmRun *run, const char *run_state, bool start, bool *running, GError **error);
    /* Source, optional, of a guest that was stopped for a one-way save (FfVmmState.one_way), after
     * resume(): since stop() nobody but resume() has started it, nobody has reset it, and the
     * VMM has not come to its devices before FfVmmState.let_save(). What the
     * VMM has reported before its answer to resume() has been heard. FALSE and ERROR: else. Once
     * for each stop(). */
    bool (*stood)(FfVmmRun *run, GError **error);
    /* Source, after resume(): stops the guest again. */
    bool (*halt)(FfVmmRun *run, GError **error);
    /* Rollback only: the network learns that the guest is still here (announce-self). */
    void (*announce)(FfVmmRun *run);
    /* Host thread ids of the vCPUs, in the order of their index; for blocktime. */
    GArray *(*vcpu_threads)(FfVmmRun *run); /* of int32_t; may be empty, never NULL */
};

#endif
