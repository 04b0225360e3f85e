/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What migration/ asks of the virtual machine monitor. qemu/inner.c implements it over the
 * private QMP monitor; another VMM can be put there.
 *
 * Every function may block until QEMU has answered and is called from the migration's
 * coordinator thread only (never the main loop's thread, which serves the answers), with no
 * lock held. Each either succeeds or sets ERROR to one line for the QMP client.
 */
#ifndef FF_MIGRATION_VMM_H
#define FF_MIGRATION_VMM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "state/state.h"

/* One block of guest RAM that the engine moves. */
typedef struct {
    char *id;           /* id of the memory backend, equal on both sides */
    uint64_t size;      /* bytes, multiple of page_size */
    uint64_t page_size; /* bytes: host page size of the backing (4096 or huge) */
    uint64_t gpa;       /* guest-physical address of a DIMM; 0 for machine RAM */
    int memfd;          /* borrowed */
    bool unreserved;    /* reserve=off: its huge pages need not be there; known from check() on */
} FfRamBlock;

typedef struct FfVmm FfVmm;
struct FfVmm {
    /* Destination: the client asked (exit-on-error false) that a failed incoming migration does
     * not end the VMM. Heeded as long as its state is not loaded. Set before the start. */
    bool keep_failed;
    /* check() has failed because of what the guest is made of: the VMM's own migration may do
     * better. Set by check(), read by its caller. */
    bool refused;
    /* Destination: check() has found a guest that is not waiting for a migration: it has come in
     * another way, and runs. Such a VMM must not be ended. Set and read as above. */
    bool occupied;
    /* Before anything is stopped: checks blockers, run state, memory backends and devices;
     * fills *BLOCKS (FfRamBlock *, owned by the callee, valid until undo()) and the guest's
     * UUID (16 bytes; zeros if it has none). */
    bool (*check)(FfVmm *vmm, FfRole role, GPtrArray **blocks, uint8_t uuid[16], GError **error);
    /* For an engine that adopts: the blocks (FfRamBlock *, owned by the callee, gpa unknown),
     * without a question to the VMM, which may hang. */
    GPtrArray *(*blocks)(FfVmm *vmm);
    /* Writes the undo log, then sets QEMU's capabilities and parameters for the inner
     * migration. */
    bool (*prepare)(FfVmm *vmm, FfRole role, GError **error);
    /* Source: stops the guest and waits for the reply. *RUN_STATE (g_free) is what the guest
     * was before: "running", "paused", "suspended", ... */
    bool (*stop)(FfVmm *vmm, char **run_state, GError **error);
    /* Source: starts the inner migration. *FD is a stream socket, owned by the caller: device
     * state is read from it; an 8-byte SHUT message written to it ends the inner migration. */
    bool (*save)(FfVmm *vmm, int *fd, GError **error);
    /* Source, optional: the same in two steps, of which the first is taken while the guest runs.
     * offer() gives the VMM its end of *FD, which is as save()'s. stop_and_save() is stop() and,
     * with the guest stopped, save(), in one go. FALSE with *RUN_STATE set: the guest is stopped;
     * in any case the inner migration may have begun. */
    bool (*offer)(FfVmm *vmm, int *fd, GError **error);
    bool (*stop_and_save)(FfVmm *vmm, char **run_state, GError **error);
    /* Source, optional, right before the right to run is given away: the guest stands still for the
     * inner migration, and the VMM itself refuses to start it. What the VMM has reported before its
     * answer has been heard by the return. FALSE and ERROR: else. */
    bool (*stands)(FfVmm *vmm, GError **error);
    /* Source, optional, after save() or offer(): has the VMM itself keep a copy of *FD, so that the
     * inner migration sees no end when everybody else who holds it dies. Does not wait for the VMM.
     */
    void (*keep)(FfVmm *vmm);
    /* Source, optional: takes that copy back, if there is one. */
    void (*forget_kept)(FfVmm *vmm);
    /* Destination: starts the inner incoming migration. *FD is a stream socket, owned by the
     * caller: device state is written to it; the return path (PONG, SHUT) is read from it. */
    bool (*load)(FfVmm *vmm, int *fd, GError **error);
    /* Source, after SHUT was written (status 0 or 1) : waits until the inner migration has
     * ended as "completed" (status 0) or failed/cancelled (status 1; it may also never have
     * begun). */
    bool (*wait_saved)(FfVmm *vmm, int status, GError **error);
    /* Destination, after SHUT(0) was seen: gives QEMU the run state that the source's guest had;
     * starts it if that was "running" and START. Source: the same, for a rollback. *RUNNING says if
     * it runs now. */
    bool (*resume)(FfVmm *vmm, const char *run_state, bool start, bool *running, GError **error);
    /* Source, after resume(): stops the guest again. */
    bool (*halt)(FfVmm *vmm, GError **error);
    /* QEMU is about to be given a connection that is under TLS already: writes the undo log, then
     * unsets its TLS credentials. Any thread but the main loop's, while there is no migration. */
    bool (*unset_tls)(FfVmm *vmm, GError **error);
    /* Undoes what prepare() or unset_tls() set, by the undo log; clears the log. Safe to call
     * twice. */
    bool (*undo)(FfVmm *vmm, GError **error);
    /* Rollback only: the network learns that the guest is still here (announce-self). */
    void (*announce)(FfVmm *vmm);
    /* Destination, before the grant: ends QEMU the way a failed incoming migration does
     * (exit status 1). */
    void (*abandon)(FfVmm *vmm);
    /* Its first half, optional: from the return on that status is certain, whatever signal comes
     * now. QEMU may be gone at any moment then, and this process with it. */
    void (*doom)(FfVmm *vmm);
    /* Source, optional (NULL: nothing is to be drained). Returns when every read from a disk into
     * guest RAM that was under way at the call is over, the guest going on. Asked for between a
     * scan and the copy (docs/precopy.md says why). */
    bool (*drain)(FfVmm *vmm, GError **error);
    /* Source, optional: why writes to this guest's memory cannot be tracked from outside (g_free),
     * NULL if they can. As it is now; STOPPED: as it was when stop() or stop_and_save() had stopped
     * the guest. */
    char *(*untrackable)(FfVmm *vmm, bool stopped);
    /* Source: the name of the machine type, as it stands in QEMU's stream; NULL if it cannot be
     * had. Can be NULL: then no QEMU without farfault can be the destination. */
    char *(*machine)(FfVmm *vmm); /* g_free */
    /* Host thread ids of the vCPUs, in the order of their index; for blocktime. */
    GArray *(*vcpu_threads)(FfVmm *vmm); /* of int32_t; may be empty, never NULL */
};

#endif
