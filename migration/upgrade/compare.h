/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the old engine of an upgrade compares by itself: farfault upgrade has compared the two
 * QEMUs, but is another program, and some moments have passed since, in which clients of the old
 * QEMU may have changed it. The coordinator; no state.
 */
#ifndef FF_MIGRATION_UPGRADE_COMPARE_H
#define FF_MIGRATION_UPGRADE_COMPARE_H

#include "contract/vmm.h"
#include "migration/common/ram.h"
#include "migration/upgrade/link.h"

/* M, an OFFER, is of this very memory. FALSE and ERROR. */
bool ff_upgrade_same_memory(const FfRam *ram, const FfUpgradeMessage *m, GError **error);
/* As FfVmmDisks.describe; "" both: nobody can tell. */
bool ff_upgrade_look_at_disks(FfVmm *vmm, const char *theirs, char **here, char **anywhere,
                              GError **error);
/* THEIRS (NULL: the new QEMU does not say) has the lines of OURS, and no other one. FALSE and
 * ERROR, which names one. */
bool ff_upgrade_same_parts(const char *theirs, const char *ours, GError **error);

#endif
