/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two sides say to each other on a channel before its threads run: one frame after the other,
 * with a deadline. Who greets whom, and with what, is migration/source/connect.c and
 * migration/destination/greet.c.
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_COMMON_GREETING_H
#define FF_MIGRATION_COMMON_GREETING_H

#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel.h"

/* A peer that is there answers within this time (milliseconds). */
#define FF_GREETING_DEADLINE_MS 20000

/* How the failures of a conversation are worded. */
typedef struct {
    const char *saying, *hearing; /* what this side was doing; NULL: it is not said */
    const char *peer;             /* who closed the connection */
    const char *stranger;         /* after the name of a frame that does not belong there */
} FfGreetingWords;

/* Sets ERROR for CH, which failed while this side was DOING (can be NULL), with RC (-errno) or for
 * WHY (can be NULL). Always FALSE. */
bool ff_greeting_lost(GError **error, const FfChannel *ch, const FfGreetingWords *words,
                      const char *doing, int rc, const char *why);
/* Reads the head of a frame, in time. */
bool ff_greeting_hear_head(FfChannel *ch, const FfGreetingWords *words, FfFrame *f, GError **error);
/* The payload of F (at most CAP bytes), after it. */
bool ff_greeting_hear_payload(FfChannel *ch, const FfGreetingWords *words, const FfFrame *f,
                              void *payload, size_t cap, GError **error);
/* Both. */
bool ff_greeting_hear(FfChannel *ch, const FfGreetingWords *words, FfFrame *f, void *payload,
                      size_t cap, GError **error);
/* The same for a frame that must be of TYPE. */
bool ff_greeting_expect(FfChannel *ch, const FfGreetingWords *words, FfFrameType type, FfFrame *f,
                        void *payload, size_t cap, GError **error);
bool ff_greeting_say(FfChannel *ch, const FfGreetingWords *words, FfFrame f, const void *payload,
                     GError **error);
/* Compares N bytes of a secret in a time that does not depend on where they differ. */
bool ff_greeting_same(const uint8_t *a, const uint8_t *b, size_t n);

#endif
