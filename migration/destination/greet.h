/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's side of the first words, one way for every source that comes: its opening (of a
 * socket that the client gave; that of others has been read by the acceptor), the greeting, the
 * source's first sentence, the answer. Which sentences are answered, and how, depends on what this
 * side is at, and is a table: a migration that begins (hello.c), one that has lost its source,
 * one that is done (recover.c).
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_GREET_H
#define FF_MIGRATION_DESTINATION_GREET_H

#include "migration/common/greeting.h"
#include "migration/destination/side.h"

/* One source that has come. */
typedef struct {
    FfChannel *ch;  /* NULL: it is the connection's, or gone */
    bool unheard;   /* nothing was read of it yet */
    FfFrame f;      /* the head of its sentence */
    bool revoked;   /* it has the guest back: this side must end */
    uint64_t epoch; /* RESUME: of the new connection */
} FfVisit;

/* Reads what follows the head, and answers. FALSE and ERROR: nothing comes of it. */
typedef bool (*FfAnswer)(FfDestination *d, FfVisit *visit, GError **error);

typedef struct {
    const FfGreetingWords *words;
    bool first;     /* it may be a QEMU without farfault */
    int opening_ms; /* for the opening of one that is unheard; -1: no end */
    /* NULL: such a sentence is another one. */
    FfAnswer hello, resume, revoke, other;
} FfManners;

/* The source that has arrived; it can be reached by pause and the end from here on. NULL: none. */
FfChannel *ff_dest_take_arrived(FfDestination *d);
/* TRUE: it has its answer. */
bool ff_dest_receive(FfDestination *d, FfVisit *visit, const FfManners *manners, GError **error);
/* Additional channels of EPOCH may come. What is left of an attempt that failed ends. */
void ff_dest_expect_channels(FfDestination *d, uint64_t epoch);
/* What a destination says first. */
FfGreeting ff_dest_greeting(const FfDestination *d);

#endif
