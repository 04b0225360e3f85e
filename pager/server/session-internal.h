/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind session.h.
 *
 * From the bottom:
 *
 *   session-end.c          the log, the end
 *   family.c               what one process means for its relatives
 *   messages.c             FfMessages: what the holder has read, and the gate
 *   work.c                 threads that place
 *   session-working-set.c  the working set
 *   session.c              comes, is adopted, goes
 *   dialects/              what is different with each kind of client
 *
 * Threads: the owner (one for each session; makes it, places in bulk, ends it) and its helper,
 * fault, two demand, and the pager's main thread, which adds and probes. Of Cloud Hypervisor: the
 * owner and one that answers. Locks: FfSession.lock, a leaf: the queue and the end.
 * FfSessions.lock. FfSession.asked_lock, calm_lock, bulk_lock.
 */
#ifndef FF_PAGER_SERVER_SESSION_INTERNAL_H
#define FF_PAGER_SERVER_SESSION_INTERNAL_H

#include <pthread.h>

#include "content/image/working-set.h"
#include "pager/server/criu.h"
#include "pager/server/image.h"
#include "pager/server/sessions.h"
#include "uffd/bitmap.h"
#include "uffd/faults.h"
#include "uffd/place.h"

#define FF_SESSION_QUEUE 8192
#define FF_SESSION_DEMANDS 2

typedef struct {
    FfRun run;
    int64_t since_us;
} FfDemand;

typedef struct FfWorker FfWorker;

struct FfSession {
    FfMessages messages; /* first */
    FfPager pager;
    FfSessions *all;
    const FfDialect *dialect; /* NULL: its record could not be mapped */
    uint64_t id, root, parent;
    int uffd, memfd, news, told;
    FfSpaceRecord *rec, *root_rec;
    FfContent *source; /* owner, before the others run; borrowed. NULL: `block_source` */
    FfContent *block_source[FF_IMAGE_BLOCKS]; /* the same; borrowed */
    char *set_path;                           /* the same: of its working set; NULL: it has none */
    FfCriu criu;                              /* dialects/criu.c; owner, before the others run */
    struct {
        uint64_t map_len[FF_IMAGE_BLOCKS]; /* owner: so much is mapped */
        void *answer; /* the same; then the thread that answers. NULL: pages are no part of
                         answers */
    } vmm;            /* dialects/cloud-hypervisor.c */
    FfImage *image;   /* NULL: not made yet. Set once; lock of FfSessions */
    FfSpace *space;   /* the same */
    FfBitmap placed[FF_IMAGE_BLOCKS];
    FfWorker *at_once;       /* fault thread */
    FfContentReader *cached; /* atomic; the owner, once. Observer: the fault thread */
    GThread *faults, *demand[FF_SESSION_DEMANDS];
    bool started, said_waits; /* main thread */
    bool said_enough;         /* owner */
    int64_t next_us;     /* owner; it places nothing that nobody waits for before (monotonic) */
    FfWorkingSet *set;   /* owner; NULL: there is none */
    uint64_t *learnt;    /* owner, before the others run; by places of the source, in order */
    bool learnt_taken;   /* owner; it is written, or was */
    uint64_t learnt_max; /* the same */
    uint64_t learnt_n;   /* atomic; fault thread. Observer: the owner */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* of the queue, the end, and that nobody waits */
    FfDemand *queue;        /* lock; FF_SESSION_QUEUE, a ring */
    unsigned queue_first, queue_n;
    FfBitmap overflow[FF_IMAGE_BLOCKS]; /* what the ring had no room for */
    unsigned overflow_n;                /* lock; an upper bound */
    FfBitmap later[FF_IMAGE_BLOCKS];    /* what somebody waits for and could not be read */
    unsigned later_n;                   /* lock */
    int64_t later_us;                   /* lock; when it is tried again */
    FfBitmap bad[FF_IMAGE_BLOCKS];      /* what could not be read the last time */
    uint64_t bad_n;                     /* lock */
    unsigned waiting;           /* atomic; requests that were not answered. Observer: bulk */
    pthread_mutex_t asked_lock; /* a leaf. Of FfDialect.memory_is_ours: what is placed is not
                                   answered for before; nothing is placed after that */
    pthread_mutex_t bulk_lock;  /* a leaf */
    unsigned bulk_block;        /* bulk_lock: from here on nobody has been given what is missing */
    uint64_t bulk_at;           /* the same; a page of it */
    pthread_mutex_t calm_lock;  /* a leaf; of `calm` alone, as bulk shares no lock with faults */
    pthread_cond_t calm;        /* nobody waits */
    bool ending;                /* atomic, stored under lock. Observers: all its threads */
    bool said_registered;       /* fault thread */
    bool stuck;                 /* atomic; the gate stays closed. Observer: the owner */
    guint said_why;             /* lock; a hash of what was said of the source last */
    int64_t said_us;            /* lock; when */
    bool said_source;           /* stored under lock; there is something in `bad` */
    bool said_memory;           /* atomic; once. Observers: threads that would say it again */
};

/* ---- session-end.c: any thread
 * -------------------------------------------------------------------- */
void ff_session_log(const FfSession *s, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The process is gone, or there is nothing to be done for it. */
void ff_session_end(FfSession *s);
void ff_session_wait_end(FfSession *s);
static inline bool ff_session_is_ending(FfSession *s)
{
    return __atomic_load_n(&s->ending, __ATOMIC_ACQUIRE);
}
/* Neither `bulk` nor a limit counts any more. */
static inline bool ff_session_hurries(FfSession *s)
{
    return __atomic_load_n(&s->all->hurry, __ATOMIC_ACQUIRE);
}
/* The gate stays closed from now on: WHY. */
void ff_session_stick(FfSession *s, const char *why);
static inline bool ff_session_is_stuck(FfSession *s)
{
    return __atomic_load_n(&s->stuck, __ATOMIC_ACQUIRE);
}

/* ---- session.c: the owner, for dialects ------------------------------------------------------ */

/* Features that the process has asked for with its userfaultfd. FALSE and ERROR: not known. */
bool ff_session_features(const FfSession *s, uint64_t *features, GError **error);
/* The same; those that tell of memory that is given back must be among them. */
bool ff_session_check_features(const FfSession *s, uint64_t *features, GError **error);
/* S->space, of S->image. FAULTS: its userfaultfd is read. FALSE: that was logged, and it waits. */
bool ff_session_open_space(FfSession *s, bool faults);
/* Starts DEMANDS threads that place what threads wait for, and RUN, which receives the requests.
 * FALSE: the end. */
bool ff_session_begin(FfSession *s, unsigned demands, const char *name, GThreadFunc run);
/* All of these for a client whose faults are read. FALSE: nothing more is to be done. */
bool ff_session_answer_faults(FfSession *s);
/* The working set, and with BULK all pages: until none is missing, or the end. FALSE: these were
 * not tried. */
bool ff_session_fill(FfSession *s, bool bulk);

#endif
