/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all sessions (session.h) of a pager share. */
#ifndef FF_PAGER_SERVER_SESSIONS_H
#define FF_PAGER_SERVER_SESSIONS_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "pager/server/dialect.h"
#include "pager/server/source.h"

/* As which the pager opens the source, of which `name` is the name. */
#define FF_SOURCE_INHERITED "/proc/self/fd/4"

typedef struct {
    const FfDialect *const *dialects; /* by FfSpaceRecord.dialect */
    FfContent *source;                /* borrowed; NULL: each client has its own */
    int inherited;                    /* the fd of what --from names: a file, a folder, a plugin */
    FfFetchedPages *fetched;          /* dialects/criu.c; borrowed, or NULL */
    unsigned slots;                   /* dialects/cloud-hypervisor.c: blocks of the one client */
    int slot_fd;   /* so many memfds from here on, and then as many files with their content */
    int link;      /* to the holder */
    bool bulk;     /* pages that nobody waits for are placed as well */
    uint64_t rate; /* bytes per second of those, for each client; 0: no limit */
    uint64_t
        memory; /* bytes: a client that has been given so much gets none of those; 0: no limit */
    bool sets;  /* working sets are used */
    bool learn; /* where there is none, it is found out */
    const char *name;      /* of the source, for the log; NULL: none */
    const char *set;       /* the name of the source's; NULL: it has none */
    unsigned hurry;        /* atomic; neither `bulk` nor a limit counts. Observers: owners, bulk */
    unsigned bulk_threads; /* atomic; that place what nobody waits for. Observers: owners that would
                              start another */
    pthread_mutex_t lock;  /* a leaf, but that a space's lock is taken under it to read */
    pthread_mutex_t making; /* the first message of a client is looked at; before `lock` */
    pthread_cond_t changed;
    GPtrArray *sessions; /* lock; FfSession *, unsorted */
    GPtrArray *learning; /* lock; char *: paths of working sets that clients find out now */
} FfSessions;

#endif
