/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * THE state table: every status of a migration, in one plain sentence for each side, and the
 * changes that are allowed. Nobody sets a status but ff_migration_set_status(), which asks here.
 * docs/architecture.md shows the table; a unit test compares the two.
 */
#ifndef FF_MIGRATION_COMMON_STATES_H
#define FF_MIGRATION_COMMON_STATES_H

#include <stdbool.h>

#include "migration/common/config.h"

typedef struct {
    FfStatus status;
    const char *name;        /* QEMU's string */
    const char *source;      /* what it means there; NULL: cannot be */
    const char *destination; /* likewise */
    unsigned next;           /* bit mask of the statuses that may follow */
} FfState;

/* The row of STATUS. */
const FfState *ff_state(FfStatus status);
bool ff_state_may_follow(FfStatus from, FfStatus to);
/* No status can follow. */
bool ff_state_is_final(FfStatus status);
/* The table as Markdown; g_free. */
char *ff_states_markdown(void);

/* The guest is at the destination, part of its memory at the source, and the connection is lost. */
static inline bool ff_state_is_lost(FfStatus status)
{
    return status == FF_STATUS_POSTCOPY_PAUSED || status == FF_STATUS_POSTCOPY_RECOVER_SETUP ||
           status == FF_STATUS_POSTCOPY_RECOVER;
}

/* The same, whether it is lost or not. */
static inline bool ff_state_is_postcopy(FfStatus status)
{
    return status == FF_STATUS_POSTCOPY_ACTIVE || ff_state_is_lost(status);
}

#endif
