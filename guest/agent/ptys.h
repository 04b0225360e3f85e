/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pseudo-terminals that another QEMU has still, whose guest this one is to take over. */
#ifndef FF_GUEST_AGENT_PTYS_H
#define FF_GUEST_AGENT_PTYS_H

#include <stdint.h>

#define FF_AGENT_MAX_PTYS 16

/*
 * TEXT: FF_AGENT_ENV_PTYS; NULL: none. ACCEPTS: of the shared memory (contract/discards.h), for as
 * long as this process lives. Before there is another thread. Returns 0 or -errno.
 */
int ff_ptys_start(const char *text, const uint32_t *accepts);

#endif
