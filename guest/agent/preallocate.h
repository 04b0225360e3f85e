/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's private memory of guest devices (a VGA's), of a QEMU that is to take over a guest: what it
 * loads into it while the guest stands is there before. The kernel clears 2 MiB for the first byte
 * of each huge page, 16 MiB of them in some 5 ms.
 */
#ifndef FF_GUEST_AGENT_PREALLOCATE_H
#define FF_GUEST_AGENT_PREALLOCATE_H

#include <stddef.h>

/* QEMU has asked for huge pages for LEN bytes at ADDR, as it does for each piece of guest memory.
 * Pages of zeros from now on, if that is private, and not too much in all. Main thread, while QEMU
 * starts. Keeps errno. */
void ff_preallocate_private(void *addr, size_t len);

#endif
