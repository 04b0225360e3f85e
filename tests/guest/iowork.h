/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test guest's disk and network: kept busy and verified, as memwork.c does with the memory.
 */
#ifndef FF_TESTS_GUEST_IOWORK_H
#define FF_TESTS_GUEST_IOWORK_H

#include <stdbool.h>
#include <stdint.h>

/* Process 1 only: the kernel's drivers for virtio disks and networks. */
void io_load_modules(void);

/*
 * Starts the disk's thread (DISK: /dev/vda is overwritten, its first half with O_DIRECT, the
 * second buffered) and the network's (PORT other than 0: one TCP connection from 10.199.7.100 to
 * an echo server at 10.199.7.1). Returns NULL, or what is wrong (static). Process 1 only.
 */
const char *io_start(bool disk, unsigned port);

/* Ends the disk's thread; returns when nothing of its is under way any more. */
void io_stop_disk(void);

typedef struct {
    uint64_t disk; /* blocks read back and found right, from the disk itself */
    uint64_t net;  /* messages that came back as they were sent */
    uint64_t bad;  /* wrong blocks and messages, I/O errors, lost connections */
} IoCounts;
IoCounts io_counts(void);

#endif
