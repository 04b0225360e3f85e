/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is known of a bulk socket's window: net/window.c follows the round trip with it, and
 * net/window-trial.c tries others.
 */
#ifndef FF_NET_WINDOW_STATE_H
#define FF_NET_WINDOW_STATE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FF_WINDOW_FOLLOWS, /* the round trip */
    FF_WINDOW_BEFORE,  /* the rate is looked at before it is doubled or halved ... */
    FF_WINDOW_DOUBLED, /* ... and then */
    FF_WINDOW_HALVED,  /* the same, the other way */
} FfWindowPhase;

typedef struct {
    int64_t next_us; /* not looked at before; monotonic time */
    unsigned bytes;  /* 0: as the kernel likes */
    bool opening;    /* it has only grown so far */
    uint64_t rate;   /* the best of late, bytes per second */
    bool begun;      /* it was looked at */
    bool leads;      /* it tries more for all bulk sockets of its connection */
    bool bound;      /* the link is the limit, as it was before a trial */
    bool alone;      /* no other one is in use */
    bool waits;      /* its sender, for the socket */
    int64_t measured_us;
    uint64_t acked;     /* bytes, then */
    uint64_t waited_us; /* of all time, then */
    FfWindowPhase phase;
    bool halves;            /* this trial, or doubles */
    bool takes_part;        /* in the trial of the one that leads */
    int64_t until_us;       /* this phase is looked at next */
    int64_t waits_until_us; /* the same, if nothing is known by then, and it was looked at often */
    int64_t ends_us;        /* it ends at the latest */
    uint64_t best;          /* rate of all of them in it */
    uint64_t flight;        /* bytes on their way in it, over all looks ... */
    unsigned flights;       /* ... so many */
    uint64_t rate_before;   /* it was doubled, or halved */
    uint64_t flight_before;
    unsigned bytes_before; /* the same */
    unsigned least;        /* that a trial has found; more than any bound: none. 0: nothing found */
    int64_t believed_us;   /* the last trial is, so there is none before */
    int64_t settles_us;    /* nor before, unless that lasts too long */
    int64_t counts_us;     /* in this phase: what was carried before is of the one before */
    bool aborted;          /* the trial under way says nothing */
    unsigned trial;        /* of the one that leads: what it has come to; see ff_window_trial() */
    unsigned seen;         /* of one that does not lead: the last .trial that it has followed */
} FfWindow;

#endif
