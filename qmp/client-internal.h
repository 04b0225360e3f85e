/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QMP client's object, shared by its two files: client.c (input, output) and client-wait.c
 * (waiting). Threads and lock: see there. */
#ifndef FF_QMP_CLIENT_INTERNAL_H
#define FF_QMP_CLIENT_INTERNAL_H

#include "base/sync.h"
#include "qmp/client.h"

typedef enum {
    FF_QMP_STATE_GREETING,    /* nothing came yet */
    FF_QMP_STATE_NEGOTIATING, /* qmp_capabilities was sent */
    FF_QMP_STATE_READY,
    FF_QMP_STATE_GONE, /* dead, for good */
} FfQmpState;

typedef struct FfQmpClientSource FfQmpClientSource;

struct FfQmpClient {
    gatomicrefcount refs;
    int fd;
    int inode;                 /* what it is to be connected to; -1: it was at its start */
    GMainContext *context;     /* NULL = the default one */
    FfQmpClientSource *source; /* under the lock; NULL when it has ended */
    FfQmpEventFunc on_event;
    FfQmpGoneFunc on_gone;
    void *opaque;
    bool shared;          /* of ff_qmp_client_new_shared() */
    unsigned patience_ms; /* ff_qmp_client_set_patience() */

    /* Context thread only. */
    GByteArray *in;
    size_t scanned; /* bytes of it that the scanner has seen */
    unsigned depth; /* open brackets at .scanned */
    bool in_string, escaped;

    FfMutex lock; /* guards everything below */
    FfCond cond;  /* a reply, an event, a change of state, a cancel */
    FfQmpState state;
    char *why;      /* of FF_QMP_STATE_GONE */
    char *greeting; /* JSON; NULL before it came */
    unsigned version;
    GQueue out;        /* lines to be sent; before FF_QMP_STATE_READY nothing of it is sent */
    uint64_t first_id; /* of qmp_capabilities; never changed */
    uint64_t next_id;
    uint64_t fds_flying; /* id of the unanswered command that carried fds; 0 = none */
    GHashTable *pending; /* uint64_t * -> Pending * */
    GList *watches;      /* FfQmpWatch * */
};

struct FfQmpWatch {
    FfQmpClient *client;
    char *name;
    GQueue events; /* JsonNode *; under client->lock */
};

/* ff_qmp_call() with TAKE: REPLY owns its result, and nobody else refers to it. */
void ff_qmp_call_full(FfQmpClient *client, const char *command, JsonObject *args, const int *fds,
                      unsigned n_fds, FfQmpReplyFunc reply, void *opaque, bool take);

#endif
