/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the relay asks an engine about back-ends that wait for pages in userfaultfds of their own
 * (uffd/sharers.h), on a SOCK_SEQPACKET pair of which each engine gets one end in INIT
 * ("device-faults"). First the engine says READY by itself, when pages are missing and it answers
 * for them; from then on one request, one answer. Each connection of a back-end has a number that
 * is not used again, and waits at the same places until all is there, also when it has ended: its
 * process may wait for a page still. A new engine is told of all of them.
 */
#ifndef FF_CONTRACT_SHARERS_H
#define FF_CONTRACT_SHARERS_H

#include <assert.h>
#include <stdint.h>

typedef enum {
    FF_SHARERS_HAND = 1, /* with its userfaultfd: answer its faults at these addresses, too */
    FF_SHARERS_CHECK,    /* whether it has registered all of them */
    FF_SHARERS_READY,    /* an answer to nothing */
} FfSharersOp;

#define FF_SHARERS_REGIONS 8

typedef struct {
    uint64_t addr, size; /* in the back-end; bytes */
    uint64_t offset;     /* of its beginning in the file ... */
    uint64_t dev, ino;   /* ... which is this one */
} FfSharersRegion;
static_assert(sizeof(FfSharersRegion) == 40, "sent between processes");

typedef struct {
    uint32_t op, number;
    uint32_t n_regions; /* HAND */
    uint32_t padding;
    FfSharersRegion regions[FF_SHARERS_REGIONS];
} FfSharersRequest;
static_assert(sizeof(FfSharersRequest) == 16 + 40 * FF_SHARERS_REGIONS, "sent between processes");

typedef struct {
    uint32_t op, number;
    int32_t rc; /* 0 or -errno */
    uint32_t padding;
} FfSharersAnswer;
static_assert(sizeof(FfSharersAnswer) == 16, "sent between processes");

#endif
