/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A peer that a test speaks for by hand, frame by frame: a source up to a moment, a destination up
 * to the device state. One thread.
 */
#ifndef FF_TESTS_UNIT_PEER_H
#define FF_TESTS_UNIT_PEER_H

#include "net/channel.h"
#include "tests/lib/side.h"

#define RAM_BYTES (4ull << 20)
#define RAM_PAGES (RAM_BYTES / PAGE)

/* Everything up to and including a moment, as an honest source does it. */
typedef enum {
    AT_START,
    AT_GREETING,
    AT_HELLO,
    AT_SHARED,
    AT_READY,
    AT_FROZEN,
    AT_LOADED,
    AT_GRANT
} Moment;

typedef struct {
    uint8_t hello[sizeof(FfHello) + sizeof(FfHelloBlock)];
} PeerHello;

/* A peer that has hung up is an answer too. */
void peer_say(FfChannel *ch, FfFrame f, const void *payload);
/* Reads a frame, which must be of TYPE, and its payload. */
FfFrame peer_hear(FfChannel *ch, FfFrameType type, void *payload, size_t cap);
/* A frame about pages, of epoch 1. */
FfFrame peer_run(FfFrameType type, uint32_t length, uint32_t block, uint64_t page, uint32_t n);

PeerHello peer_hello(void);
void peer_say_prologue(FfChannel *ch);
void peer_say_hello(FfChannel *ch, const PeerHello *h, unsigned n);
void peer_say_device(FfChannel *ch);
void peer_answer_requests(FfChannel *ch, FfFrameType until);
void peer_say_stale(FfChannel *ch, FfStaleRun r, unsigned flags);
void peer_stale_last(FfChannel *ch);
/* Does what an honest source does up to MOMENT. */
void peer_be_source(FfChannel *ch, Moment moment);

/* An honest destination: until HELLO is heard, the urgent channel is agreed on, READY is said. */
void peer_greet(FfChannel *ch);
void peer_accept_hello(FfChannel *ch);
void peer_until_device(FfChannel *ch);

#endif
