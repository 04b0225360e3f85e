/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two sides say to each other on a channel before its threads run: one frame after the other,
 * with a deadline. Who greets whom, and with what, is source-connect.c and dest-accept.c.
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_GREETING_H
#define FF_MIGRATION_GREETING_H

#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel.h"

/* A peer that is there answers within this time (milliseconds). */
#define FF_GREETING_DEADLINE_MS 20000

/* Sets ERROR for CH, which failed with RC (-errno) or for WHY (can be NULL). Always FALSE. */
bool ff_greeting_lost(GError **error, const FfChannel *ch, int rc, const char *why);
/* Reads one frame and its payload (at most CAP bytes), in time. */
bool ff_greeting_hear(FfChannel *ch, FfFrame *f, void *payload, size_t cap, GError **error);
/* The same for a frame that must be of TYPE. */
bool ff_greeting_expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                        GError **error);
bool ff_greeting_say(FfChannel *ch, FfFrame f, const void *payload, GError **error);
/* Compares N bytes of a secret in a time that does not depend on where they differ. */
bool ff_greeting_same(const uint8_t *a, const uint8_t *b, size_t n);

#endif
