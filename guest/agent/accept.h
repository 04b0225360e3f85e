/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who connects to a QEMU that has not got its guest yet, or has it no more (contract/discards.h).
 */
#ifndef FF_GUEST_AGENT_ACCEPT_H
#define FF_GUEST_AGENT_ACCEPT_H

#include <stdint.h>

/* ACCEPTS: of the shared memory, for as long as this process lives. Before there is another thread.
 */
void ff_accept_start(const uint32_t *accepts);

#endif
