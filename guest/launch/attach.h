/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new relay for a guest whose relay has ended: what `farfault attach` does.
 * docs/design/recovery.md says what it needs and where that is kept.
 *
 * Everything comes from QEMU's process, so it is hostile input: attach.c checks what it takes over.
 * All functions: the only thread of the command.
 */
#ifndef FF_GUEST_LAUNCH_ATTACH_H
#define FF_GUEST_LAUNCH_ATTACH_H

#include "guest/launch/attach-find.h"

/*
 * Starts a relay for the guest of process PID. Waits up to 5 s for an engine that still ends.
 * NOTES gets what is not as it was before (char *, one line each). Returns the relay's PID; 0 and
 * ERROR (one line, nothing has changed then, but that the old QEMU of an upgrade may have the guest
 * for good).
 */
pid_t ff_attach(pid_t pid, GPtrArray *notes, GError **error);

/*
 * Starts a relay in the place of the one that the guest of process PID has: QEMU and its clients
 * notice nothing. Sockets that have lost their names get them again; NOTES (char *) has a line for
 * each whose name is another process's. Waits up to 10 s for that one to be at rest. *BEFORE: its
 * PID. Returns the new one's PID; 0 and ERROR (one line, and all is as it was). The calling process
 * has the relay's control groups and limits afterwards.
 */
pid_t ff_attach_replace(pid_t pid, pid_t *before, GPtrArray *notes, GError **error);

/* A monitor of the guest of process *PID, where all that it has are taken by who has started it
 * (libvirt): a connected socket, the caller's, on which QEMU greets; its end: somebody else has it,
 * or an older farfault has started the guest, which has none. *PID: the process in which it is, if
 * that one is its front alone. -1 and ERROR (one line). */
int ff_attach_monitor(pid_t *pid, GError **error);

#endif
