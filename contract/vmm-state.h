/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All of a guest but its memory: the state of its devices and vCPUs, which a virtual machine
 * monitor writes to and reads from a stream by a migration of its own, the inner migration. For as
 * long as that takes the VMM has other settings than its client's.
 *
 * For threads and errors see contract/vmm.h.
 */
#ifndef FF_CONTRACT_VMM_STATE_H
#define FF_CONTRACT_VMM_STATE_H

#include <glib.h>
#include <stdbool.h>

#include "contract/state.h"

/* Why such a guest is not loaded: FfVmmState.keeps_suspended(). */
#define FF_WOULD_NOT_STAY_SUSPENDED                                                                \
    "the guest is suspended, and the QEMU that it would go to (before 9.0) would let it run as "   \
    "if it was awake: wake it first (system_wakeup)"

typedef struct FfVmmState FfVmmState;
struct FfVmmState {
    /* Destination: the client asked (exit-on-error false) that a failed incoming migration does
     * not end the VMM. Heeded as long as its state is not loaded. Set before the start. */
    bool keep_failed;
    /* Source: nobody answers on the stream of the inner migration, which ends by itself when all is
     * written: the VMM closes it then, and has completed it. Set before prepare(). */
    bool one_way;
    /* Source, set by prepare() for a one-way save: the inner migration fails when all is written,
     * by intention, and the VMM has not completed one. */
    bool ends_failed;
    /* Source, optional: called by stop_and_save() with the guest stopped, before the inner
     * migration begins. FALSE and ERROR: it does not begin, and stop_and_save() fails. */
    bool (*between)(void *opaque, GError **error);
    void *between_opaque;

    /* Optional: the VMM has guests that are suspended to RAM stay so over all this. NULL: it does.
     * Any thread. */
    bool (*keeps_suspended)(FfVmmState *state);

    /* ---- settings ---- */

    /* Writes the undo log, then sets QEMU's capabilities and parameters for the inner
     * migration. */
    bool (*prepare)(FfVmmState *state, FfRole role, GError **error);
    /* QEMU is about to be given a connection that is under TLS already: writes the undo log, then
     * unsets its TLS credentials. Any thread but the main loop's, while there is no migration. */
    bool (*unset_tls)(FfVmmState *state, GError **error);
    /* Undoes what prepare() or unset_tls() set, by the undo log; clears the log. Safe to call
     * twice. */
    bool (*undo)(FfVmmState *state, GError **error);
    /* Optional: the inner migration is over, and the guest does not run yet. Has the VMM take back
     * what prepare() set, so that what is saved at a monitor of its own has the guest's memory; the
     * log stays until undo(). Does not wait for the VMM. FfVmmRun.resume() does it as well. Safe to
     * call twice. */
    void (*put_back)(FfVmmState *state);

    /* ---- out ---- */

    /* Source: starts the inner migration. *FD is a stream socket, owned by the caller: device
     * state is read from it; an 8-byte SHUT message written to it ends the inner migration. */
    bool (*save)(FfVmmState *state, int *fd, GError **error);
    /* Source, optional: the same in two steps, of which the first is taken while the guest runs.
     * offer() gives the VMM its end of *FD, which is as save()'s. stop_and_save() is
     * FfVmmRun.stop() and, with the guest stopped, save(), in one go. FALSE with *RUN_STATE set:
     * the guest is stopped; in any case the inner migration may have begun. */
    bool (*offer)(FfVmmState *state, int *fd, GError **error);
    bool (*stop_and_save)(FfVmmState *state, char **run_state, GError **error);
    /* Source, optional, of a one-way save that was offered: it does not come to the devices before
     * this, however early it began. *FD has nothing but what was saved from then on. */
    bool (*let_save)(FfVmmState *state, GError **error);
    /* Source, optional, after save() or offer(): has the VMM itself keep a copy of *FD, so that the
     * inner migration sees no end when everybody else that holds it dies. Does not wait for the
     * VMM.
     */
    void (*keep)(FfVmmState *state);
    /* Source, optional: takes that copy back, if there is one. */
    void (*forget_kept)(FfVmmState *state);
    /* Either side of an upgrade, optional: has the VMM itself keep copies of the N FDS
     * (FF_UPGRADE_COMMIT_KEPT), for those that come when everybody else that holds them has died;
     * forgets them. Waits for the VMM. */
    bool (*keep_pact)(FfVmmState *state, const int *fds, unsigned n, GError **error);
    void (*forget_pact)(FfVmmState *state);
    /* Source, after SHUT was written (status 0 or 1) : waits until the inner migration has
     * ended as "completed" (status 0) or failed/cancelled (status 1; it may also never have
     * begun). */
    bool (*wait_saved)(FfVmmState *state, int status, GError **error);
    /* Source of an upgrade whose VMM (its PIDFD) stays, optional: the guest is another VMM's. What
     * is connected to this one is let go, and its ports are free. */
    void (*leave)(FfVmmState *state, int pidfd);
    /* Source: the name of the machine type, as it stands in QEMU's stream; NULL if it cannot be
     * had, or check() has found that more of the machine stands there (no x86). Can be NULL: then
     * no QEMU without farfault can be the destination. */
    char *(*machine)(FfVmmState *state); /* g_free */
    /* Optional, of both sides while their guest has not moved: what it is made of, as
     * migration/destination/parts.h compares it (g_free); NULL: it cannot be had. */
    char *(*parts)(FfVmmState *state);

    /* ---- in ---- */

    /* Destination: starts the inner incoming migration. *FD is a stream socket, owned by the
     * caller: device state is written to it; the return path (PONG, SHUT) is read from it. */
    bool (*load)(FfVmmState *state, int *fd, GError **error);
    /* Destination, before the grant: ends QEMU the way a failed incoming migration does
     * (exit status 1). */
    void (*abandon)(FfVmmState *state);
    /* Its first half, optional: from the return on that status is certain, whatever signal comes
     * now. QEMU may be gone at any moment then, and this process with it. */
    void (*doom)(FfVmmState *state);
};

#endif
