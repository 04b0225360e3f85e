/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether QEMU may discard guest memory just now: memory that the agent in QEMU has made, and relay
 * and engine map as well. While a live snapshot is under way the agent's hook (guest/agent/hook.c)
 * drops what a balloon, free page reporting or virtio-mem give back, so that the content of the
 * snapshot is not lost.
 *
 * The process that arms it says first which memory is meant: the files of guest RAM, and where QEMU
 * has them mapped. Only the engine does, for as long as its snapshot lasts. The relay disarms when
 * its engine has died.
 *
 * Threads: one at a time changes it in this process; anybody may read the counters. The hook reads
 * in any thread of QEMU.
 */
#ifndef FF_CONTRACT_DISCARDS_H
#define FF_CONTRACT_DISCARDS_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

/* Of the memfd. Not "farfault-...", which is RAM to a program that looks at what QEMU keeps
 * open. */
#define FF_DISCARDS_NAME "ff-discards"
#define FF_DISCARDS_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FF_DISCARDS_MAGIC 0x43534446u /* "FDSC" */
#define FF_DISCARDS_VERSION 1u
#define FF_DISCARDS_MAX 128 /* files, and ranges */

/* Whether QEMU takes who connects to what it listens at, but for the relay. */
typedef enum {
    FF_ACCEPTS_ALL,
    FF_ACCEPTS_LATER, /* the guest, and who comes there, are another QEMU's still */
    FF_ACCEPTS_NONE,  /* they are, for good: this QEMU has done with these sockets */
} FfAccepts;

/* The memfd's content. All but the counters is written by the engine (and .armed by the relay); it
 * is as QEMU has left it, so nobody outside of QEMU relies on what it reads here. */
typedef struct {
    uint32_t magic;
    uint32_t version;
    /* Atomic; stored (release) after the tables, which stay as they are until it is 0 again.
     * Observer: the hook, in front of each discard. */
    uint32_t armed;
    uint32_t n_files, n_ranges;
    uint32_t accepts; /* FfAccepts, atomic; the agent's first, then the relay's. Observer: the hook
                         in front of accept() (guest/agent/accept.c) */
    uint64_t dropped, dropped_bytes; /* atomic counters since QEMU's start, by the hook */
    struct {
        uint64_t dev, ino; /* st_dev, st_ino */
    } file[FF_DISCARDS_MAX];
    struct {
        uint64_t addr, len; /* bytes, in QEMU */
    } range[FF_DISCARDS_MAX];
} FfDiscardsPage;
static_assert(sizeof(FfDiscardsPage) == 40 + 32 * FF_DISCARDS_MAX, "shared between processes");

/* The same as this process has it. */
typedef struct FfDiscards FfDiscards;

/* Maps FD (borrowed). 0; -EINVAL: it is not what an agent makes, or of another version; -errno. */
int ff_discards_map(int fd, FfDiscards **result);
/* Leaves it armed or not. D can be NULL. */
void ff_discards_free(FfDiscards *d);

/* Guest RAM for the next ff_discards_arm(): discards of the file MEMFD (borrowed) must be
 * dropped; and those of LEN bytes at ADDR in QEMU, where one of the files is mapped. 0, -E2BIG:
 * there is no room, -EBUSY: it is armed; -errno. */
int ff_discards_add_file(FfDiscards *d, int memfd);
int ff_discards_add_range(FfDiscards *d, uint64_t addr, uint64_t len);
/* From now on discards of what was added are dropped. One that is past its check may still be
 * carried out: QEMU's reply to any command after that says that none is any more. */
void ff_discards_arm(FfDiscards *d);
/* Discards are carried out again, and what was added is forgotten. What was dropped is not made up
 * for. TRUE: it was armed. D can be NULL. */
bool ff_discards_disarm(FfDiscards *d);
bool ff_discards_is_armed(const FfDiscards *d);
/* The relay. D can be NULL. */
void ff_discards_set_accepts(FfDiscards *d, FfAccepts accepts);
/* How many discards were dropped since QEMU's start; *BYTES: of how much memory. */
uint64_t ff_discards_dropped(const FfDiscards *d, uint64_t *bytes);

#endif
