/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images of a guest that has come, and does not run. The coordinator's thread. */
#ifndef FF_GUEST_QEMU_ACTIVATE_H
#define FF_GUEST_QEMU_ACTIVATE_H

#include "guest/qemu/internal.h"

/* QEMU's images are its own again, with their locks. Else, until cont, anybody could open them,
 * and a QEMU before 10.0 would abort when the guest is migrated or saved. What cannot be done is
 * logged. */
void ff_qemu_activate_disks(FfQemu *qemu);

#endif
