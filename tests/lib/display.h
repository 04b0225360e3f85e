/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A display whose memory holds what does not compress, and how long a guest that has one stands
 * still when it moves over a shaped link. One thread.
 */
#ifndef FF_TESTS_DISPLAY_H
#define FF_TESTS_DISPLAY_H

#include "tests/lib/shapednet.h"
#include "tests/lib/vm.h"

typedef struct {
    const ShapedNet *net;
    const char *const *more;    /* words of QEMU's, with the display; ended by NULL */
    const BootsectConfig *boot; /* of a guest of 64 MiB; can be NULL: nothing is booted from */
    const char *memory;         /* value of -m */
    VmLauncher launcher;
} DisplayConfig;

typedef struct {
    Vm *source, *destination;
    uint64_t vram; /* its guest-physical address */
} DisplayPair;

/* Both sides, the firmware has set the display up. */
DisplayPair display_pair_start(const DisplayConfig *config);
void display_pair_end(DisplayPair *p);
/* Random bytes made of SEED into the display's memory, from offset AT on. */
void display_draw(DisplayPair *p, uint64_t at, uint64_t bytes, uint64_t seed);
/* The destination listens: returns where (g_free). */
char *display_begin(DisplayPair *p);
/* By precopy, with this downtime-limit and no limit of the bandwidth, to the end. Returns
 * microseconds from the source's STOP to the destination's RESUME. */
int64_t display_move(DisplayPair *p, unsigned limit_ms);
/* The same by postcopy with postcopy-preempt, switched at once. */
int64_t display_move_at_once(DisplayPair *p);

#endif
