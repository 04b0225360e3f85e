/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's side of a connection, one way for every one that it makes:
 *
 *   ff_source_call()   connect, TLS, opening, the destination's greeting, the first sentence and
 *                      the answer to it
 *   ff_source_join()   the other channels, the main reader
 *
 * There are three first sentences: HELLO (hello.c), RESUME (recover.c) and REVOKE
 * (revoke.c), which needs no other channels. What differs between them is in FfSentence.
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_CONNECT_H
#define FF_MIGRATION_SOURCE_CONNECT_H

#include "migration/common/greeting.h"
#include "migration/source/side.h"

typedef struct FfConnectAttempt FfConnectAttempt;

/* A first sentence. What takes an ERROR returns FALSE if the attempt has failed. */
typedef struct {
    const FfGreetingWords *words;
    bool first;         /* the peer may be anything, a QEMU without farfault too */
    bool recovers;      /* the status says so when the opening has gone out */
    unsigned gives_way; /* events that end the attempt, as a cancelled one */
    const char *other;  /* of a destination with another wire version: what to do, or what it is */
    /* The connection stands, nothing was said on it; can be NULL. */
    bool (*dialed)(FfSource *s, FfConnectAttempt *call, GError **error);
    /* The opening has gone out; can be NULL. */
    bool (*opened)(FfSource *s, FfConnectAttempt *call, GError **error);
    /* The destination has greeted: says the sentence, and hears the answer. */
    bool (*say)(FfSource *s, FfConnectAttempt *call, GError **error);
    /* All channels are there, nobody reads them yet: says so. NULL: there are none but the first.
     */
    bool (*joined)(FfSource *s, FfConnectAttempt *call, GError **error);
} FfSentence;

/* Of one that is said to a destination that is known. */
#define FF_SENTENCE_AGAIN                                                                          \
    .words = &(const FfGreetingWords){.peer = "peer", .stranger = ""},                             \
    .other = "it is not the destination of this migration"

/* One attempt. */
struct FfConnectAttempt {
    const FfSentence *sentence;
    /* The peer: a socket (-1: none; taken), else an address (can be NULL). */
    int fd;
    char *uri;

    FfAddress *address; /* where the destination listens; NULL: it cannot be connected to */
    FfChannel *ch;      /* the first one; NULL: not there yet, or the connection's */
    FfChannel *urgent;  /* likewise; NULL: shares the main one */
    FfPhase phase;      /* RESUME: the destination's */
    bool refused;       /* REVOKE: it answered, and has not ended */
};

/* A call to where the client has said last that the destination is. */
FfConnectAttempt ff_source_redial(FfSource *s, const FfSentence *sentence);
/* Connects, and has the answer. */
bool ff_source_call(FfSource *s, FfConnectAttempt *call, GError **error);
/* The connection stands: opens the other channels, puts all of them in place, starts the main
 * reader and keepalive. */
bool ff_source_join(FfSource *s, FfConnectAttempt *call, GError **error);
/* Ends what is not the connection's. */
void ff_source_hang_up(FfSource *s, FfConnectAttempt *call);
/* Urgent frames use the main channel: the main reader feeds the urgent thread. */
bool ff_source_feed_urgent(FfSource *s, GError **error);
/* Where the destination listens. g_free; can be NULL. */
char *ff_source_peer_uri(FfSource *s);

#endif
