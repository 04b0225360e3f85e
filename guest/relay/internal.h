/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small parts of the relay. */
#ifndef FF_GUEST_RELAY_INTERNAL_H
#define FF_GUEST_RELAY_INTERNAL_H

#include "contract/sharers.h"
#include "contract/state.h"
#include "guest/relay/qmp-frame.h"
#include "guest/relay/shared.h"

/* ---- actions.c ---- */

/* What a client says of the guest's end (contract/actions.h). The main loop's thread. */

/* COMMAND goes to QEMU: notes what it says, if it is such a one. */
void ff_actions_note(FfStateHeader *state, const FfQmpCommand *command);

/* ---- capabilities.c ---- */

/*
 * Which capabilities a client sets that are farfault's. For want of an engine QEMU is told of them,
 * and the next engine must ask it. Pure; any thread.
 */

/* FF_CLIENT_CAP_* that COMMAND names, on or off; 0 if it is not migrate-set-capabilities. What is
 * said to the human monitor is not looked at. */
unsigned ff_sets_capabilities(const FfQmpCommand *command);
/* COMMAND switches x-ignore-shared on, also through the human monitor. */
bool ff_ignores_shared(const FfQmpCommand *command);

/* ---- orphaned-uffds.c ---- */

/*
 * Userfaultfds in which a back-end waits for pages since before this relay: the one that had been
 * given them has died. They are copied out of that process, which needs the right to trace it.
 */

typedef struct {
    int uffd;
    FfSharersRegion regions[FF_SHARERS_REGIONS];
    unsigned n_regions;
} FfLeftWait;

/* Those of process PID in which memory of this guest is registered (of FfLeftWait; can be empty).
 */
GPtrArray *ff_left_waits_new(const FfRelay *relay, pid_t pid);

/* ---- socket-renames.c ---- */

/*
 * Files that QEMU has made beside those of the QEMU whose guest it takes over: sockets at which it
 * listens, its pid file (guest/launch/inherit-argv.h). They take the others' places when the guest
 * is its own. The main loop's thread.
 */

/* TAKEN: the engine says that the guest is this QEMU's. Else, while it is another QEMU's still
 * (FF_MARK_BORROWED), nothing is done; nor the second time. */
void ff_names_take(FfRelay *relay, bool taken);
/* QEMU has ended: it has made them under names that they do not have any more. */
void ff_names_end(FfRelay *relay);

/* ---- no-engine-reason.c ---- */

/* Why there is no engine. The main loop's thread. */

/* One line for a client. Valid until the next call. */
const char *ff_absence_text(FfRelay *relay);
/* The same for the log, once. AGAIN: it is going to be tried again. */
void ff_absence_tell(FfRelay *relay, const char *why, bool again);

/* ---- hand-incoming.c ---- */

/*
 * Hands -incoming's URI to QEMU, which was started with "defer" in its place: for want of an
 * engine QEMU listens itself.
 *
 * One thread (the main loop's); no locks.
 */

typedef struct FfHandIncoming FfHandIncoming;

/* QEMU has answered. WHY NULL: it listens now, or did before. Else it refuses the URI, and this is
 * its reason. */
typedef void (*FfHandIncomingDone)(const char *why, void *opaque);

/* MONITOR: O_PATH of the private monitor's listening socket, which nobody else may use meanwhile.
 * DONE is called once, and not from inside; never if QEMU ends or ff_hand_incoming_free() comes
 * before its answer. NULL: QEMU does not take the connection, and errno says why. */
FfHandIncoming *ff_hand_incoming_new(int monitor, const char *uri, FfHandIncomingDone done,
                                     void *opaque);
void ff_hand_incoming_free(FfHandIncoming *hand);

#endif
