/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QEMU that had this one's guest before (docs/design/upgrade.md). The main loop's thread. */
#ifndef FF_GUEST_RELAY_PREDECESSOR_H
#define FF_GUEST_RELAY_PREDECESSOR_H

#include "guest/relay/shared.h"

/* The guest is this QEMU's, for good: the other one ends soon, and is ended if it does not. Does
 * nothing where there is none, or it stays (placeholder.h), or the second time. */
void ff_predecessor_ends(FfRelay *relay);
/* The same of one that stays: its relay leaves the back-ends of its devices, and then, or when that
 * has ended, they are this one's (backends.h). */
void ff_predecessor_leaves(FfRelay *relay);

#endif
