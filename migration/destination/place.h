/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placing pages in the destination's guest RAM, and the account of it.
 */
#ifndef FF_MIGRATION_DESTINATION_PLACE_H
#define FF_MIGRATION_DESTINATION_PLACE_H

#include "migration/common/ram.h"
#include "migration/common/stats.h"
#include "migration/destination/pieces.h"
#include "uffd/space.h"

/* What placing and answering faults need, and no more: nothing here has a lock, so the fault path
 * has it as well. */
typedef struct {
    FfRam *ram;
    FfStats *stats;
    FfPieces *pieces; /* atomic; NULL: no huge pages are made. Observers: who places */
    FfSpace *space;   /* atomic; NULL: guest RAM is not armed. Observers: readers, the driver */
    unsigned unregistered; /* atomic; ranges taken out of the userfaultfd, apart from each other */
    uint64_t hole_end;     /* atomic; where the last one of them ended. Observers: readers */
    /* What ends the fault path, so that locks do not matter: every page is here, and said once; RUN
     * (NULL: not known which) cannot be had. Any thread that places, the fault thread. */
    void (*all)(gpointer side);
    void (*failed)(const FfRun *run, int rc, gpointer side);
    gpointer side;
} FfPlacer;

/* Of the placer's space, with the placer for OPAQUE. */
extern const FfSpaceOps ff_placer_ops;

/* Any thread, after guest RAM was armed. 0; -errno: the migration cannot continue, and the first
 * page of RUN that is not here is the one. */
int ff_placer_copy(FfPlacer *p, const FfRun *run, const void *data);
int ff_placer_zero(FfPlacer *p, const FfRun *run);

#endif
