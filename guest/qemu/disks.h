/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's disks, as contract/vmm-disks.h asks for them. The coordinator's thread. */
#ifndef FF_GUEST_QEMU_DISKS_H
#define FF_GUEST_QEMU_DISKS_H

#include "contract/vmm.h"

bool ff_qemu_flush_disks(FfVmmDisks *disks, GError **error);
bool ff_qemu_branch_disks(FfVmmDisks *disks, GError **error);
bool ff_qemu_describe_disks(FfVmmDisks *disks, const char *theirs, char **here, char **anywhere,
                            GError **error);

#endif
