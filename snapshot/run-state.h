/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's stream says of the guest's run state, which it gets when it is loaded. No state; any
 * thread.
 */
#ifndef FF_SNAPSHOT_RUN_STATE_H
#define FF_SNAPSHOT_RUN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* N bytes of STREAM, whose guest was stopped just before, are to say what it was: RUN_STATE. FALSE:
 * they are as they were, as they do not say "paused", or it is not clear where. */
bool ff_run_state_set(uint8_t *stream, size_t n, const char *run_state);

/* The run state that N bytes of STREAM name (g_free); "running" if they name none, "paused" if
 * it is not clear which. */
char *ff_run_state_read(const uint8_t *stream, size_t n);

#endif
