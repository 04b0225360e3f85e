/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See move-result.h. */
#include "cli/common/move-result.h"

const char *ff_outcome_name(FfOutcome outcome)
{
    static const char *const name[] = {"completed", "failed", "cancelled", "paused", "left"};

    return name[outcome];
}

void ff_move_result_clear(FfMoveResult *result)
{
    g_clear_pointer(&result->reason, g_free);
    g_clear_pointer(&result->source_info, json_node_unref);
    g_clear_pointer(&result->destination_info, json_node_unref);
    g_clear_pointer(&result->guest_state, g_free);
}
