/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's stream says of the guest's run state, which it gets when it is loaded. No state; any
 * thread.
 */
#ifndef FF_CONTENT_IMAGE_RUN_STATE_H
#define FF_CONTENT_IMAGE_RUN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* N bytes of STREAM, whose guest was stopped just before, are to say what it was: RUN_STATE. FALSE:
 * they are as they were, as they do not say "paused", or it is not clear where. */
bool ff_run_state_set(uint8_t *stream, size_t n, const char *run_state);

/* The run state that N bytes of STREAM name (g_free); "running" if they name none, "paused" if
 * it is not clear which. */
char *ff_run_state_read(const uint8_t *stream, size_t n);

/* The section as it is looked for in a stream that comes in pieces: name and head, length, run
 * state, and two bytes: QEMU knows whether a stopped guest was suspended, and it was. */
#define FF_RUN_STATE_BYTES (20 + 4 + 32 + 2)

typedef struct {
    uint8_t had[FF_RUN_STATE_BYTES - 1]; /* the end of what came before */
    size_t n;
    bool suspended;
} FfRunStateSeeker;

/* TRUE: the N bytes of DATA that come next, or those before, say that the guest is suspended, or
 * was when it was stopped. */
bool ff_run_state_seek(FfRunStateSeeker *s, const uint8_t *data, size_t n);

#endif
