/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taps that another QEMU has still, whose guest this one is to take over (docs/design/upgrade.md).
 */
#ifndef FF_GUEST_AGENT_TAPS_H
#define FF_GUEST_AGENT_TAPS_H

#define FF_AGENT_MAX_TAPS 16

/*
 * TEXT: FF_AGENT_ENV_TAPS. From now on ioctls of those stand-ins are answered here, until the guest
 * is this QEMU's. Before there is another thread. Returns 0 or -errno: then the taps are never
 * there.
 */
int ff_taps_start(const char *text);

#endif
