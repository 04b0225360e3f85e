/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind snapshot.h.
 *
 * Threads: the coordinator; one that lets the guest run again; those of content/capture/capture.h.
 * A field belongs to the coordinator unless it says otherwise; "lock" is the control's.
 */
#ifndef FF_MIGRATION_SNAPSHOT_SIDE_H
#define FF_MIGRATION_SNAPSHOT_SIDE_H

#include "content/capture/capture.h"
#include "content/image/live-file.h"
#include "content/image/output.h"
#include "contract/discards.h"
#include "migration/common/qemu-carries.h"
#include "migration/common/ram.h"
#include "migration/common/stats.h"

/* To the thread that lets the guest run on. DONE, by itself: it runs, or will not. */
typedef enum { FF_RESUME_LATER, FF_RESUME_NOW, FF_RESUME_NEVER, FF_RESUME_DONE } FfResumeOrder;

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
    bool is_cut; /* nothing of an older one is after its offset */
    FfLiveFile *file;
    GPtrArray *unused;    /* char *: memory backends that are no part of the guest */
    int *numbers;         /* by block: which one of the file's it is */
    GByteArray *state;    /* of the devices */
    GThread *resumer;     /* lets the guest run on; NULL: not yet made, or ended */
    FfResumeOrder order;  /* lock; to it */
    GError *resume_error; /* its, until it is joined; NULL */
    GError *intruder;     /* why memory and devices are not of one instant (FfVmmRun.stood); NULL */
    int inner;            /* QEMU's device state; -1 */
    char *run_state;      /* what the guest was before stop, or is to be again; the releaser's */
    char *saved_state;    /* of run_state, what the file is to say; NULL: what it says */
    bool prepared;        /* the VMM has the settings for the inner migration */
    bool stopping;        /* it was told to stop the guest */
    bool saving;          /* it has the stream of the inner migration */
    bool begun;           /* it has, and ends by itself */
    bool left_to_next;    /* the next engine starts the guest: nothing may be done any more */
    bool stopped;         /* lock; the client's stop and cont are ours */
    bool stopped_by_us;   /* lock; nobody may start the guest but we */
} FfSnapshot;

#endif
