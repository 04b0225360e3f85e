/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A peer that says what the fuzzer wants, against a whole side of a migration in this process.
 */
#ifndef FF_TESTS_FUZZ_PEER_H
#define FF_TESTS_FUZZ_PEER_H

#include "tests/fuzz/fuzz.h"
#include "tests/lib/side.h"

#define FUZZ_RAM_BYTES (64ull << 10)

/* A side of ROLE with one small block; *PEER is the peer's end of its connection. */
Side *fuzz_side(FfRole role, int *peer);
/* Sends DATA as a source does that is in step with its destination: what PREPARE and device
 * state are answered with is waited for (a moment), so that what follows can be right. */
void fuzz_be_source(int peer, const uint8_t *data, size_t size);
/* Runs SIDE until it is done or paused. The peer's end is closed. */
void fuzz_end(Side *side, int peer);

#endif
