/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Until when QEMU lets the kernel's cache of its images be. A QEMU that opens its disks for writing
 * (bdrv_activate_all(); "drop-cache" of block/file-posix.c) has the whole cache of each image
 * dropped, since another host may have written to it. In an upgrade the guest would stand for as
 * long as that takes, which grows with the cache, and find none of it behind: but the QEMU that has
 * written is on the same host.
 *
 * The time stands in the memory that the agent in QEMU shares with relay and engine, after what
 * arms its hook (discards.h). The engine ends it when QEMU has opened them, and it ends by itself:
 * later, behind a migration that fails, the cache may be old.
 */
#ifndef FF_CONTRACT_CACHES_H
#define FF_CONTRACT_CACHES_H

#include <assert.h>
#include <stdint.h>

#include "contract/discards.h"

#define FF_CACHES_OFFSET 8128 /* in the memfd; of an agent of before it nobody looks there */

typedef struct {
    uint64_t kept_until_us; /* CLOCK_MONOTONIC; 0: never. Atomic: the engine. Observer: the hook
                               (guest/agent/caches.c) */
} FfCachesPage;
static_assert(sizeof(FfCachesPage) == 8, "shared between processes");
static_assert(sizeof(FfDiscardsPage) <= FF_CACHES_OFFSET, "it comes first");

/* From now on until UNTIL_US; 0: no more. FD: the agent's memory (borrowed), -1: there is none. 0
 * or -errno: the caches are dropped as ever. Any thread. */
int ff_caches_keep(int fd, uint64_t until_us);

#endif
