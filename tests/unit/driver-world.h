/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver with everything around it made by the test: the relay (frames are recorded), QEMU's
 * private monitor (answers are given by the test), the migration (obeys, and reports what it is
 * told to report).
 */
#ifndef FF_TESTS_UNIT_DRIVER_WORLD_H
#define FF_TESTS_UNIT_DRIVER_WORLD_H

#include "qapi/driver.h"
#include "tests/unit/told-migration.h"

typedef struct {
    char *command;
    JsonObject *args;
    FfPortReply reply;
    gpointer data;
} Asked;

typedef struct {
    FfDriver *driver;
    FfStateHeader *state;
    GString *out;     /* frames to the relay, one line each */
    GQueue questions; /* Asked: to QEMU, not answered yet */
    char *log;
    char *capabilities; /* the undo log's, or NULL */
    char *parameters;
    char *dropped;     /* the backend that the guest's memory lacks now; NULL */
    JsonNode *changed; /* what set_view was given last */
    int given;         /* the last that QEMU was given by getfd; -1 */
    unsigned failed;   /* so often the driver has said that this engine is to end */
    uint32_t seq;
} World;

extern const FfDriverPort world_port;
extern FfVmm vmm;             /* what a case fills in */
extern unsigned qemu_version; /* 0: not known */

#define CAP(name, state) "{'state':" state ",'capability':'" name "'}"
#define CAPS_EVENTS                                                                                \
    "[" CAP("xbzrle", "false") "," CAP("events", "true") "," CAP("postcopy-ram", "false") "]"
#define SET(caps) "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[" caps "]}}"
#define PARAMETERS "{'max-bandwidth':1000,'downtime-limit':50,'tls-creds':''}"

extern int world_pid;     /* of the next world's QEMU; 0: none that can be looked at */
extern bool world_shares; /* the memory of the next world's guest is shared by farfault's doing */
extern bool world_lends;  /* the relay of the next world is of this farfault */

/* All but the driver, which the case makes. */
void world_prepare(World *w, const FfStateHeader *state);
/* A driver; INCOMING and REFUSED as in FfDriverConfig. */
void world_begin(World *w, FfStateHeader state, bool start_paused, const char *incoming,
                 const char *refused);
void world_init(World *w, const char *incoming, const char *refused);
/* No question may be left that QEMU has not answered. */
void world_clear(World *w);
/* A client says TEXT; one of several. */
void command_of(World *w, unsigned mon, const char *text);
void command(World *w, const char *text);
/* QEMU was asked COMMAND, and answers RESULT (JSON), or an error if that begins with '!'. */
void qemu_answers(World *w, const char *name, const char *result);
/* Something is said to the relay: a name was found, or not. */
void wait_sent(World *w);
/* All that went to the relay since the last time. */
void sent(World *w, const char *expected);
/* A client sets postcopy-ram and events; and begins a migration. */
void set_postcopy(World *w);
void start_source(World *w);

#endif
