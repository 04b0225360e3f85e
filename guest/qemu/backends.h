/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Devices of QEMU's that are processes of their own (vhost-user), as the relay knows them, which
 * stands in their sockets. The coordinator's thread. */
#ifndef FF_GUEST_QEMU_BACKENDS_H
#define FF_GUEST_QEMU_BACKENDS_H

#include "contract/vmm-memory.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

/* The chardevs of QEMU's whose devices a migration can follow, each with a newline before and
 * after (g_free). NULL and ERROR: why it cannot. */
char *ff_qemu_backends_probe(FfQemu *qemu, FfRole role, GError **error);
/* See FfVmmMemory. */
bool ff_qemu_log_begin(FfVmmMemory *memory, GError **error);
void ff_qemu_log_take(FfVmmMemory *memory, FfVmmWritten *fn, void *opaque);
bool ff_qemu_log_whole(FfVmmMemory *memory, bool stopped, GError **error);
void ff_qemu_log_end(FfVmmMemory *memory);
bool ff_qemu_devices_stand(FfVmmMemory *memory, GError **error);
void ff_qemu_devices_leave(FfVmmMemory *memory);
void ff_qemu_devices_take(FfVmmMemory *memory);
GPtrArray *ff_qemu_devices_known(FfVmmMemory *memory, bool lent, GError **error);
void ff_qemu_all_here(FfVmmMemory *memory);

#endif
