/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination: what its threads share, and what it stands on.
 *
 *   coordinator   walks through the switchover; the only one that talks to the VMM, the only one
 *                 that sets the status
 *   acceptor      takes connections
 *   readers       one for each channel, all of them place pages. The main one is the migration
 *                 thread; the urgent one is on the fault path
 *   fault         reads who waits; on the fault path: no lock but its channel's, no allocation
 *   starter       starts the guest after the grant
 *   huge          makes huge pages of what has come whole
 *   feeder, return path   device state into QEMU, and its answer
 *
 * A field belongs to the coordinator unless it says otherwise; "lock" is the control's. What is set
 * before a thread starts is that thread's to read.
 */
#ifndef FF_MIGRATION_DESTINATION_SIDE_H
#define FF_MIGRATION_DESTINATION_SIDE_H

#include "content/image/run-state.h"
#include "content/pagers/peer.h"
#include "migration/common/connection.h"
#include "migration/common/device-copy.h"
#include "migration/common/qemu-carries.h"
#include "migration/destination/place.h"
#include "net/delta.h"

typedef struct FfDestination FfDestination;
typedef struct FfRestore FfRestore;
typedef struct FfDestDump FfDestDump;
typedef struct FfDestSharers FfDestSharers;

/* A destination that has no source: what it does in place of connections. The coordinator. */
typedef struct {
    /* There is an event for an end. TRUE: it continues, or there is an event for that. FALSE: the
     * engine ends. */
    bool (*again)(FfDestination *d);
    /* The guest runs, or was to. */
    void (*granted)(FfDestination *d);
    /* Every page is here. */
    void (*all)(FfDestination *d);
    /* No thread of it is left. */
    void (*end)(FfDestination *d);
    /* The journal has come to its end. */
    void (*over)(FfDestination *d);
} FfDestOrigin;

struct FfDestination {
    /* Borrowed. */
    FfMigrationConfig *cfg;
    FfControl *control;
    FfRam *ram;
    FfConnection *conn;
    FfStats *stats;
    FfPlain *plain;
    FfDeviceCopy *copy;
    const FfDestOrigin *origin; /* NULL: a source */
    FfRestore *restore; /* of migration/restore/restore.c; lock: to describe it. NULL: a source */
    FfDestDump *dump;   /* of dump.c, in place of a source that is gone; else NULL */
    char *dump_uri;     /* lock; its "file:DIRECTORY" */
    char *dump_order;   /* the directory of the client's migrate-recover; else NULL */

    /* Where the source comes to. */
    int listen_fd;
    FfAddress *listen_address;
    char *socket_address; /* lock; for clients; can be NULL */
    char *listen_path;    /* of the unix socket that migrate-recover made; can be NULL */
    bool listener_held;
    GThread *acceptor;
    gint acceptor_failed; /* atomic; it has ended, and was not told to */
    char *refusal;        /* what the answer to the source's hello must say; can be NULL */
    uint64_t
        stderr_before;   /* ff_stderr_written() when this began; before the journal's first step */
    char *suspects;      /* what device state may not be loadable for; set before it comes; NULL */
    int64_t auto_end_us; /* it still reconnects by itself. 0: it does not */
    FfChannel *revoker;  /* lock; the source that waits for this QEMU's end; can be NULL */
    bool parting;        /* lock; is giving up, and says TOLD when the source knows */

    /* Pages. */
    gint emptied;     /* atomic; main reader: guest RAM was emptied for precopy */
    gint rounds_open; /* atomic; bulk readers that have pages of a round and not its ROUND */
    gint rounds_over; /* atomic; main reader: the bulk ones take no page until `final` */
    gint final;       /* atomic; the last stale page is dropped, pages that come are final.
                         Observers: the readers */
    gint armed;       /* atomic; the uffd is armed. Observer: the main reader */
    int uffd;
    FfPlacer placer;  /* readers and fault thread; its space is made when guest RAM is armed */
    FfPeerPager peer; /* fault thread, while there is one */
    GThread *fault_thread;
    FfDestSharers *sharers; /* of vhost-faults.c; NULL: nobody else waits for pages */

    /* Device state and the guest. */
    FfChannel *inner; /* device state and return path of QEMU */
    GThread *feeder, *return_path;
    GAsyncQueue *device_queue;  /* GBytes *, empty one = end */
    uint64_t device_queued;     /* atomic, bytes */
    FfRunStateSeeker run_state; /* of the device state; the thread that feeds it */
    FfDelta *device_base;       /* main reader; what the source has sent of it; NULL: nothing */
    char *granted_state;        /* lock; payload of GRANT */
    bool occupied;              /* another guest is there, which must not be ended */
    GThread *starter;
    bool starts;             /* before the starter: the guest must run */
    bool runs;               /* before FF_EV_RESUMED: it does */
    bool has_run;            /* lock; somebody has continued it since it is this side's */
    struct FfDestHuge *huge; /* of huge.c; NULL: no huge pages are made */
};

#endif
