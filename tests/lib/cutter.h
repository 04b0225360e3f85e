/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A proxy between two sides of a migration that breaks their connections: after so many bytes, or
 * at a frame; or stops passing anything on there, with all connections open.
 */
#ifndef FF_TESTS_CUTTER_H
#define FF_TESTS_CUTTER_H

#include <gio/gio.h>

#include "net/address.h"
#include "net/frame.h"

#define CUTTER_LATE_MS 300

typedef struct {
    FfAddress *to;
    char *uri;
    int listen_fd;
    GCancellable *cancel;
    GThread *acceptor;
    GMutex lock;
    int64_t budget; /* lock; bytes that may still pass, both directions; < 0: no end */
    int64_t left;   /* lock; of it */
    /* Atomic; set by the test, observer: the pumps. */
    gint type;        /* if not 0: cuts at the first frame of this FfFrameType */
    gint also;        /* ... or of this one, whichever comes first */
    gint after;       /* ... when it has passed, not before */
    gint once;        /* ... and passes everything on connections that come afterwards */
    gint leaves;      /* ... and nobody listens there any more */
    gint renews;      /* connections that come after a cut have the whole budget again */
    gint freezes;     /* ... and nothing is closed: nothing passes any more */
    gint late;        /* if not 0: the first frame of this type comes CUTTER_LATE_MS later, or when
                         another connection has ended and that was passed on; set at the start */
    bool frozen;      /* lock */
    bool over;        /* lock; being freed */
    unsigned ends;    /* lock; directions that have ended */
    GCond ended;      /* lock: ends has grown */
    GCond thawed;     /* lock: frozen is over */
    GPtrArray *pumps; /* lock; GThread * */
    GArray *fds;      /* lock; of int: open ends */
} Cutter;

/* Listens at c->uri and connects to TO for each connection. BUDGET bytes may pass; < 0: no end. */
Cutter *cutter_new(const char *to, int64_t budget);
/* Now, whatever was set. */
void cutter_freeze(Cutter *c);
void cutter_cut(Cutter *c);
void cutter_free(Cutter *c);

#endif
