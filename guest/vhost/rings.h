/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a back-end has of a guest, as its front-end has told it: regions of memory, and rings. Looks
 * into a ring whether the back-end has finished what is in it. One thread; no locks.
 */
#ifndef FF_GUEST_VHOST_RINGS_H
#define FF_GUEST_VHOST_RINGS_H

#include "guest/vhost/message.h"

#define FF_VHOST_MAX_RINGS 256u
/* For so long rings of a connection that are stopped together are waited for at most, while QEMU's
 * main loop waits as well. */
#define FF_VHOST_DRAIN_US (30 * G_USEC_PER_SEC)

typedef struct {
    FfVhostVringAddr addr; /* .flags as the front-end has said */
    uint32_t num;          /* entries; 0: it has not said how many */
    uint16_t base;         /* where it begins, if has_base */
    int kick;              /* -1: none */
    bool has_addr, has_base, started, disabled;
    uint64_t was_used, was_size; /* address and bytes of its used ring when it stopped */
} FfVhostRing;

/* All zeros: it has nothing. */
typedef struct {
    FfVhostRegion regions[FF_VHOST_MAX_REGIONS];
    int fds[FF_VHOST_MAX_REGIONS]; /* own ones */
    unsigned n_regions;
    FfVhostRing *rings; /* FF_VHOST_MAX_RINGS; NULL: none was named */
} FfVhostRings;

/* A SET_MEM_TABLE, ADD_MEM_REG or REM_MEM_REG that fits. *CHANGED: it is not what was before.
 * FALSE: more than is followed here. */
bool ff_vhost_rings_memory(FfVhostRings *rings, const FfVhostMessage *msg, bool *changed);
/* Any other message that fits. */
void ff_vhost_rings_note(FfVhostRings *rings, const FfVhostMessage *msg);
void ff_vhost_rings_stopped(FfVhostRings *rings, unsigned i);
/* The address of ring I, whether it runs or not yet; NULL: it has none. */
const FfVhostVringAddr *ff_vhost_rings_addr(const FfVhostRings *rings, unsigned i);

typedef enum {
    FF_VHOST_RING_IDLE, /* it does not run, or is disabled, or nothing is in it that is not used */
    FF_VHOST_RING_BUSY,
    FF_VHOST_RING_UNREADABLE, /* it is in no region */
} FfVhostRingLook;

FfVhostRingLook ff_vhost_rings_look(const FfVhostRings *rings, unsigned i);
/* TRUE: it has been started, and not stopped; disabled or not. */
bool ff_vhost_rings_run(const FfVhostRings *rings, unsigned i);
/* TRUE: what the front-end has said of where ring I begins lies behind what was used of it: *STATE
 * is where it does begin. FALSE also where that cannot be read, or is not there yet. */
bool ff_vhost_rings_is_behind(const FfVhostRings *rings, unsigned i, FfVhostVringState *state);
/* It begins there. */
void ff_vhost_rings_forget_base(FfVhostRings *rings, unsigned i);
/* Has the back-end look into ring I, which it does without harm at any time. */
void ff_vhost_rings_kick(const FfVhostRings *rings, unsigned i);
/* Sets the bits of all pages in LOG, a file of SIZE bytes, that the used ring I had when it was
 * stopped; and perhaps some more. -errno: they are not all set. */
int ff_vhost_rings_log_used(const FfVhostRings *rings, unsigned i, int log, uint64_t size);
/* Ring I, made if it was not named yet; NULL: there can be no such ring. */
FfVhostRing *ff_vhost_rings_make(FfVhostRings *rings, uint64_t i);
void ff_vhost_rings_clear(FfVhostRings *rings);

#endif
