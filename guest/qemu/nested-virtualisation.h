/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether the guest is a hypervisor, whose memory is written past the tracking. */
#ifndef FF_GUEST_QEMU_NESTED_VIRTUALISATION_H
#define FF_GUEST_QEMU_NESTED_VIRTUALISATION_H

#include "contract/vmm.h"
#include "qmp/client.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

/* Of FfVmmMemory. */
char *ff_qemu_untrackable(FfVmmMemory *memory, bool stopped);
/* Asks for the vCPUs' registers, for ff_qemu_take_registers(); NULL if nobody need know them. As
 * for stop, without deadline and cancel. */
FfQmpCall *ff_qemu_ask_registers(FfQemu *qemu);
/* Why the guest is a hypervisor now (g_free), or may be; NULL if it is not. ASKED can be NULL. */
char *ff_qemu_take_registers(FfQmpCall *asked);
/* The same of what "info registers -a" says. */
char *ff_qemu_nested_in(const char *text);

#endif
