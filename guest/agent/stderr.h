/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies what QEMU says on its stderr (stderr.c). */
#ifndef FF_GUEST_AGENT_STDERR_H
#define FF_GUEST_AGENT_STDERR_H

/* From now on it is copied to the memory FD (borrowed; of ff_hook_start(), or an error of it). */
void ff_stderr_start(int fd);

#endif
