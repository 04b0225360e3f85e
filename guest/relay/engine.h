/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine, as the rest of the relay sees it. The main loop's thread. */
#ifndef FF_GUEST_RELAY_ENGINE_H
#define FF_GUEST_RELAY_ENGINE_H

#include "guest/relay/engine-ops.h"
#include "guest/relay/qmp-frame.h"
#include "guest/relay/shared.h"

/* Makes relay->held, too. */
FfEngine *ff_engine_new(FfRelay *relay, const FfEngineOps *ops);
void ff_engine_keep_libraries(FfRelay *relay); /* blocks for milliseconds */

typedef enum {
    FF_ENGINE_SENT,   /* the engine will answer, or ff_monitor_pass() or _refuse() come */
    FF_ENGINE_ABSENT, /* it cannot be started, and QEMU is as the client left it: ask QEMU */
    FF_ENGINE_BROKEN, /* it cannot be had now; *DESC says why, until the next call */
} FfEngineResult;
FfEngineResult ff_engine_command(FfRelay *relay, unsigned mon, uint32_t seq,
                                 const FfQmpCommand *command, const char **desc);
void ff_engine_inject_reply(FfRelay *relay, unsigned mon, uint32_t seq, const char *reply,
                            size_t len);
void ff_engine_client_gone(FfRelay *relay, unsigned mon);
/* The engine waits for QEMU's answers to cont and stop: QEMU is read, whoever else is slow. */
bool ff_engine_awaits_words(const FfRelay *relay);
/* QEMU has answered cont or stop, or owes no answer any more. */
void ff_engine_word_answered(FfRelay *relay);
/* Its SYNC that waited for clients (FfEngineOps.coming) is answered. */
void ff_engine_synced(FfRelay *relay, uint32_t seq);
/* Handles what the engine has said by now. */
void ff_engine_read_now(FfRelay *relay);
void ff_engine_start_incoming(FfRelay *relay);
/* -incoming URI, and nobody has come yet: the engine starts when QEMU stands. */
bool ff_engine_listens_first(const FfRelay *relay);
/* This relay comes after another one: what the state says is under way has an engine again. */
void ff_engine_take_over(FfRelay *relay);
/* A migration, or what is left of one, needs an engine sooner or later. */
bool ff_engine_is_at_stake(const FfRelay *relay);
/* One that only waits whether a client says more ends now. */
void ff_engine_rest(FfRelay *relay);
/* There is none, not even one that is dying, and nobody waits for one. */
bool ff_engine_is_needless(const FfRelay *relay);
void ff_engine_end(FfRelay *relay);

#endif
