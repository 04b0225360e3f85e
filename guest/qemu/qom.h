/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Properties of QEMU's objects. The coordinator's thread. */
#ifndef FF_GUEST_QEMU_QOM_H
#define FF_GUEST_QEMU_QOM_H

#include "guest/qemu/tristate.h"
#include "qmp/client.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

/* The string property NAME of the object at PATH (g_free). NULL: it has none, or, with ERROR, QEMU
 * has not said so. */
char *ff_qemu_string_of(FfQemu *qemu, const char *path, const char *name, GError **error);
/* Whether the object at PATH has the boolean property NAME, and it is on. */
FfTold ff_qemu_is_on(FfQemu *qemu, const char *path, const char *name, GError **error);

#endif
