/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's guest agent, in the test guest: the program of scripts/get guest-agent, at the first port
 * of the first virtio-serial device. A thread of its own waits for the port.
 */
#ifndef FF_TESTS_GUEST_GA_H
#define FF_TESTS_GUEST_GA_H

/* Process 1 only, with the drivers loaded. Returns NULL, or what is wrong (static). */
const char *ga_start(void);

#endif
