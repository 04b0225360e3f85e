/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind protect.h, for protect.c and protect-keep.c.
 *
 * A page is free (armed, nobody has it yet), somebody's (armed, not free: its old content is being
 * read), or open (not armed: it may be written). The thread that clears its bit in `free` has it,
 * nobody else. Then: the content is read, the bit in `armed` is cleared, and the protection is
 * lifted, which wakes its writers. Somebody who reads a page where it is, and can read it again,
 * sets its bit in `lent`: the thread that clears that one has it.
 */
#ifndef FF_UFFD_PROTECT_INTERNAL_H
#define FF_UFFD_PROTECT_INTERNAL_H

#include "uffd/protect.h"
#include "uffd/space-internal.h"

#define FF_PROTECT_LOCKS 64

typedef struct {
    FfBitmap armed, free, lent;
    FfBitmap ready;    /* protected and not armed; set with the lock of its piece written */
    FfBitmap given;    /* given back since it was registered: never ready; the space is locked */
    FfBitmap gaps;     /* had no address when they were to be armed; the arming thread's */
    uint32_t *slot_of; /* by page: where it was kept last, + 1; atomic, and to be checked */
} FfProtectBlock;

struct FfProtect {
    FfSpace *s;
    FfProtectBlock *blocks; /* as in the space */
    uint8_t *buffer;
    size_t slot_size, buffer_len;
    unsigned n_slots;
    uint64_t around;      /* bytes; 0: the page alone */
    unsigned used;        /* atomic; slots; observer: how much is kept around a fault */
    FfRun *slots;         /* what is kept there; written by its owner, before its bit in `kept` */
    FfBitmap empty, kept; /* slots */
    FfBitmap doubted;     /* slots; fault thread: kept as soon as no change is under way */
    unsigned n_doubted;
    /* Fault thread: the process has given something back; an event was read since, and there has
     * been a change ever since. */
    bool gives, stirred;
    bool awaits;   /* fault thread: there is an event to be read, or about to be */
    FfWaits waits; /* of writers without a slot */
    pthread_rwlock_t locks[FF_PROTECT_LOCKS];
    bool still, given_up;        /* atomic; observer: the fault thread */
    bool stuck;                  /* atomic; something could not be lifted; observer: the end */
    uint64_t prepared;           /* of the thread that prepares */
    uint64_t left, lost, waited; /* atomic; left: armed and not saved, wherever its content is */
    uint64_t spoilt;             /* atomic; of those that are lost */
    uint64_t latency[FF_PROTECT_BUCKETS], faults; /* atomic; the fault thread counts */
    uint32_t exact[FF_PROTECT_EXACT];             /* of the latencies, by microsecond; likewise */
};

/* ---- protect-keep.c, for protect-given.c ----------------------------------------------------- */

bool ff_protect_take_slot(FfProtect *p, uint64_t *slot);
/* Without a look at the threads that wait for one. */
void ff_protect_leave_slot(FfProtect *p, uint64_t slot);
/* SLOT, whose page is armed no more, is any saver's. */
void ff_protect_set_kept(FfProtect *p, uint64_t slot);
void ff_protect_tell_written(FfProtect *p, const FfRun *run);
/* The content of what is at the address of the page RUN, entered or fault thread. */
int ff_protect_copy_page(FfSpace *s, const FfRun *run, void *buf);

#endif
