/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one migration came to, as its command saw it. Any thread; no state. */
#ifndef FF_CLI_COMMON_MOVE_RESULT_H
#define FF_CLI_COMMON_MOVE_RESULT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FF_OUTCOME_COMPLETED,
    FF_OUTCOME_FAILED,    /* the guest is still at the source */
    FF_OUTCOME_CANCELLED, /* the same, on request */
    FF_OUTCOME_PAUSED,    /* postcopy-paused: waits for recovery */
    FF_OUTCOME_LEFT,      /* continues without us */
} FfOutcome;

typedef struct {
    FfOutcome outcome;
    char *reason;                             /* one line; NULL if completed */
    bool postcopy;                            /* the switch happened */
    JsonNode *source_info, *destination_info; /* last query-migrate of each; can be NULL */
    char *guest_state;                        /* query-status of the destination; NULL if unknown */
    int64_t total_ms;                         /* from migrate to the end, as seen from here */
    int64_t stopped_us; /* from STOP at the source to RESUME at the destination, by QEMU's own
                           event times; -1 if not both on this host or not both seen */
} FfMoveResult;
void ff_move_result_clear(FfMoveResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfMoveResult, ff_move_result_clear)

/* "completed", "failed", ... */
const char *ff_outcome_name(FfOutcome outcome);

#endif
