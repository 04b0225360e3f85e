/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What stands in front of QEMU's discards of guest memory (hook.c). */
#ifndef FF_GUEST_AGENT_HOOK_H
#define FF_GUEST_AGENT_HOOK_H

#include <stdint.h>

/* Makes the shared memory by which it is armed (contract/discards.h), with room for what QEMU says
 * (contract/stderr.h). Before there is another thread.
 * Returns its fd, which is close-on-exec, or -errno: nothing is ever dropped. */
int ff_hook_start(void);
/* This QEMU is to take over a guest: its private guest memory is filled
 * (guest/agent/preallocate.h). After ff_hook_start(), before there is another thread. */
void ff_hook_fill(void);
/* The word in it that says who is let in at this process's sockets (FfAccepts), FIRST to begin
 * with; NULL: there is no such memory. After ff_hook_start(). */
const uint32_t *ff_hook_accepts(uint32_t first);

#endif
