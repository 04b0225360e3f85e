/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's process (docs/design/pager.md): what the holder starts. It has the fds that are named
 * here, and nothing that must outlive it.
 */
#ifndef FF_PAGER_SERVER_SERVER_H
#define FF_PAGER_SERVER_SERVER_H

#include <stdbool.h>

#include "content/source/content.h"
#include "pager/holder/wire.h"
#include "pager/server/dialect.h"

#define FF_SERVER_SOURCE_FD (FF_HOLD_LINK_FD + 1)
/* Listening: a program that connects reads what is known of all clients, as JSON. May be closed. */
#define FF_SERVER_CONTROL_FD (FF_HOLD_LINK_FD + 2)
/* The same of TCP, as OpenMetrics by HTTP. */
#define FF_SERVER_METRICS_FD (FF_HOLD_LINK_FD + 3)

/* The fetched pages, which come from CRIU's page server: its memfd, and the eventfd after that. */
#define FF_SERVER_FETCHED_FD (FF_HOLD_LINK_FD + 4)
/* Of Cloud Hypervisor: the memfds of its slots, and then as many files with their content. */
#define FF_SERVER_SLOT_FD (FF_HOLD_LINK_FD + 6)
#define FF_SERVER_SLOTS 32

typedef struct {
    const FfDialect *const *dialects; /* by FfSpaceRecord.dialect; NULL-terminated */
    const FfDialect *only;            /* of all clients; NULL: what each says first decides */
    unsigned slots;                   /* Cloud Hypervisor's: how many */
    FfContentIdentity source;         /* of the source, when the holder began */
    bool bulk;                        /* pages that nobody waits for are placed as well */
    uint64_t rate;                    /* bytes per second of those, for each client; 0: no limit */
    uint64_t memory;  /* bytes: a client that was given so much gets none of those; 0: no limit */
    bool sets, learn; /* working sets are used; and found out where there is none */
    const char *set;  /* the name of the source's; NULL: it has none */
    const char *name; /* of the source, as the user knows it; NULL: none */
    const char *far;  /* the source, as ff_content_open() has it; NULL: it is inherited */
    FfContentAccess access; /* to that; its plugin is FF_SERVER_SOURCE_FD */
    bool control;           /* FF_SERVER_CONTROL_FD is there */
    bool metrics;           /* FF_SERVER_METRICS_FD */
    bool fetched;           /* FF_SERVER_FETCHED_FD */
} FfServerConfig;

/* Until the holder has gone: the exit status. */
int ff_server_run(const FfServerConfig *cfg);

#endif
