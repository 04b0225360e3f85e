/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine's side of the relay asks of the client monitors, which stand above it. MON is
 * the index of one; SEQ names a command that was given to ff_engine_command(), an unknown one is
 * ignored (the client is gone). The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_ENGINE_OPS_H
#define FF_GUEST_RELAY_ENGINE_OPS_H

#include "guest/relay/shared.h"

typedef struct {
    /* ---- of one command ---- */
    void (*reply)(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *line);
    /* It is QEMU's; INSTEAD (can be NULL) goes there in its place. */
    void (*pass)(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *instead);
    /* It is QEMU's, as there is no engine. */
    void (*do_without)(FfRelay *relay, unsigned mon, uint32_t seq);
    void (*refuse)(FfRelay *relay, unsigned mon, uint32_t seq, const char *desc);
    /* ---- of one monitor ---- */
    /* The fd that the client gave by this name, the caller's from now on; -1: none. */
    int (*take_fd)(FfRelay *relay, unsigned mon, const char *name);
    /* FALSE: no client, or no object. */
    bool (*inject)(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *command);
    /* ---- of all ---- */
    void (*event)(FfRelay *relay, GBytes *line);
    void (*filters_changed)(FfRelay *relay);   /* relay->filters */
    bool (*has_pending)(const FfRelay *relay); /* a command is the engine's */
    bool (*has_words)(const FfRelay *relay);   /* QEMU owes an answer to cont or stop */
    void (*go)(FfRelay *relay);                /* clients need not wait any more */
    void (*open)(FfRelay *relay);              /* clients may come to those that listen */
    void (*leave)(FfRelay *relay);             /* they are let go, and no other one comes */
    /* The engine is gone: what it owed is asked again, or answered with an error. DESC NULL: as
     * ff_absence_text() says. */
    void (*engine_lost)(FfRelay *relay, const char *desc);
    /* The engine has never worked: what it was sent has its turn once more, at another or at QEMU.
     */
    void (*own_again)(FfRelay *relay);
    void (*pump)(FfRelay *relay); /* continues with what waits */
    /* The guest is this QEMU's: clients of the old one come. TRUE of COMING: ff_engine_synced(SEQ)
     * when they have. */
    void (*taken)(FfRelay *relay);
    bool (*coming)(FfRelay *relay, uint32_t seq);
} FfEngineOps;

#endif
