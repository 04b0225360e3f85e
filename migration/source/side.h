/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source: what its threads share, and what it stands on.
 *
 *   coordinator   walks through the switchover; the only one that talks to the VMM, the only one
 *                 that sets the status
 *   main reader   what the destination says (reader.c)
 *   senders       the coordinator in precopy, then bulk; one more for each bulk channel
 *   urgent        answers requests; on the fault path: no lock but its channel's, no allocation
 *                 (urgent.c)
 *   device        device state out of QEMU
 *
 * A field belongs to the coordinator unless it says otherwise; "lock" is the control's. What is set
 * before a thread starts is that thread's to read.
 */
#ifndef FF_MIGRATION_SOURCE_SIDE_H
#define FF_MIGRATION_SOURCE_SIDE_H

#include "migration/common/compress.h"
#include "migration/common/connection.h"
#include "migration/common/device-copy.h"
#include "migration/common/pace.h"
#include "migration/common/qemu-carries.h"
#include "migration/common/ram.h"
#include "migration/common/stats.h"
#include "migration/source/sent.h"
#include "migration/source/urgent-from-main.h"
#include "migration/source/write-frequency.h"
#include "net/delta.h"
#include "net/link-rate.h"

typedef struct FfPrecopy FfPrecopy; /* precopy.c */
typedef struct FfRounds FfRounds;   /* precopy-send.c */

typedef struct FfSource {
    /* Borrowed. */
    FfMigrationConfig *cfg;
    FfControl *control;
    FfRam *ram;
    FfConnection *conn;
    FfStats *stats;
    FfPlain *plain;
    FfDeviceCopy *copy;

    /* The guest and its QEMU. */
    FfChannel *inner;        /* device state and return path of QEMU */
    char *run_state;         /* what the guest was before stop */
    bool saving;             /* it may have begun that */
    bool stopped;            /* lock to write; the client's stop and cont are ours */
    bool stopped_by_us;      /* lock; stop was sent, and nobody may start it but we */
    bool resumed;            /* lock; somebody did */
    bool stands_there;       /* lock; the destination has been given the guest, and was not to run
                                it yet when it was last heard of that */
    gint guest_stopped;      /* atomic; what is sent is final. Observers: senders, keepalive */
    bool adopted;            /* of an engine that died */
    bool revoked;            /* it has the guest back */
    bool dest_may_be_loaded; /* coordinator, then the driver; it waits for a grant, perhaps */
    GThread *device_thread;
    FfDelta *device_base;  /* coordinator, then device; what the peer has; NULL: nothing */
    uint64_t private_rest; /* the thread that reads it, then coordinator; bytes not in it */
    bool private_more;     /* the same: there is more, which was left unread */
    gint base_unwanted;    /* atomic; observer: the thread that reads it */

    /* The connection. */
    char *parts; /* what the guest is made of (migration/destination/parts.h); NULL: not known */
    char *differences; /* lock; what the destination says of the guests; can be NULL */
    char *peer_uri;    /* lock; where the destination listens; can be NULL */
    FfFeed *feed;      /* requests come on the main channel; NULL: on the urgent one */
    int urgent_wake;   /* eventfd: the end of the urgent thread */
    FfSentLog sent[2 + FF_MAX_BULK]; /* by index; each its channel's sender and the main reader */
    /* lock; by index: how many ROUNDs were said there, and how many are answered */
    uint64_t asked[2 + FF_MAX_BULK], answered[2 + FF_MAX_BULK];

    /* Precopy. */
    FfPrecopy *precopy; /* NULL: writes are not tracked */
    FfRounds *rounds;   /* set before its senders start; NULL: there is no precopy */
    char *untracked;    /* lock; why not; can be NULL */
    bool holes_sent;    /* all of them; coordinator, then bulk */
    FfFrequency *heat;  /* coordinator, then bulk; NULL: no looks were taken */

    /* Bulk. */
    GThread *bulk_thread;
    FfPace bulk_pace;
    GArray *hot;   /* FfRun, what goes first; set before additional senders start; NULL: none */
    gint next_hot; /* atomic; the first of them that no sender has taken. Observers: all senders */
    FfLinkRate link_rate; /* the sender's on the main channel */
    bool link_bound;      /* lock; the link is the limit, one bulk connection is enough */
    uint64_t pivot;       /* atomic; where the last request was: block and page + 1, 0 = none */
    FfCompressPolicy compress_policy; /* the sender's on the main channel */
    gint compressing;    /* atomic; runs are compressed. Observers: the senders of bulk channels */
    uint64_t data_bytes; /* atomic; of the guest, sent as data by all senders */
} FfSource;

#endif
