/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A running guest into a file: the coordinator of a live snapshot. For its client it is a source's
 * migration without a peer; the right to run stays here, whatever happens.
 *
 * Threads: the coordinator; one that lets the guest run again; those of snapshot/capture.h. A
 * field belongs to the coordinator unless it says otherwise; "lock" is the control's.
 */
#ifndef FF_MIGRATION_SNAPSHOT_H
#define FF_MIGRATION_SNAPSHOT_H

#include "migration/plain.h"
#include "migration/ram.h"
#include "migration/stats.h"
#include "snapshot/capture.h"
#include "snapshot/live-file.h"
#include "snapshot/output.h"
#include "state/discards.h"

typedef struct {
    /* Borrowed. */
    FfMigrationConfig *cfg;
    FfControl *control;
    FfRam *ram;
    FfStats *stats;
    FfPlain *plain;

    FfDiscards *discards; /* NULL: QEMU has no hook */
    FfCapture *capture;   /* lock to change; NULL: there is none, or it has ended */
    FfCaptureStats last;  /* lock; of one that has ended */
    bool uffd_is_free;    /* coordinator, then the driver: nothing is registered any more */
    FfOutput *output;
    bool is_cut; /* nothing of an older one is behind its offset */
    FfLiveFile *file;
    int *numbers;         /* by block: which one of the file's it is */
    GByteArray *state;    /* of the devices */
    GThread *resumer;     /* the guest runs on; NULL: not yet, or any more */
    GError *resume_error; /* its, until it is joined; NULL */
    int inner;            /* QEMU's device state; -1 */
    char *run_state;      /* what the guest was before stop */
    bool prepared;        /* the VMM has the settings for the inner migration */
    bool stopping;        /* it was told to stop the guest */
    bool saving;          /* it has the stream of the inner migration */
    bool begun;           /* it has, and ends by itself */
    bool stopped;         /* lock; the client's stop and cont are ours */
    bool stopped_by_us;   /* lock; nobody may start the guest but we */
} FfSnapshot;

void ff_snapshot_init(FfSnapshot *s);
/* The coordinator, from the beginning to the end. */
void ff_snapshot_coordinate(FfSnapshot *s);
/* Driver: it is to end soon. The control's lock is held. */
void ff_snapshot_cancel_locked(FfSnapshot *s);
/* Driver, likewise: what of INFO is a snapshot's own. */
void ff_snapshot_describe_locked(const FfSnapshot *s, FfMigrationInfo *info);
/* No thread is left. */
void ff_snapshot_clear(FfSnapshot *s);

#endif
