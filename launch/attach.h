/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new relay for a guest whose relay has ended: what `farfault attach` does. docs/recovery.md says
 * what it needs and where that is kept.
 *
 * Everything comes from QEMU's process, so it is hostile input: attach.c checks what it takes over.
 * All functions: the only thread of the command.
 */
#ifndef FF_LAUNCH_ATTACH_H
#define FF_LAUNCH_ATTACH_H

#include "launch/attach-find.h"

/*
 * Starts a relay for the guest of process PID. Waits up to 5 s for an engine that still ends.
 * NOTES gets what is not as it was before (char *, one line each). Returns the relay's PID; 0 and
 * ERROR (one line, nothing has changed then, but that the old QEMU of an upgrade may have the guest
 * for good).
 */
pid_t ff_attach(pid_t pid, GPtrArray *notes, GError **error);

#endif
