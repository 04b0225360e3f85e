/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether devices in other processes have been plugged into a guest of which nobody has asked that:
 * a migration that is QEMU's from the start. The engine's own check (guest/qemu/check.c) says it of
 * the others. By postcopy QEMU would lose such a guest, so without an answer it is not given one.
 * Main loop's thread.
 */
#include "qapi/driver-private.h"
#include "qmp/others.h"

typedef struct {
    const char *command, *argument, *value;
    bool (*names_some)(JsonNode *answer);
} Question;

static const Question questions[] = {
    {"qom-list", "path", "/machine/peripheral", ff_others_in_list},
    {"qom-list", "path", "/machine/peripheral-anon", ff_others_in_list},
    {"qom-list", "path", "/objects", ff_others_in_list},
    {"human-monitor-command", "command-line", "info network", ff_others_in_networks},
};

static void ask_next(FfCall *call);

static void on_answered(FfCall *call, JsonNode *result, const GError *error)
{
    /* A QEMU that lacks the command has no such network either. */
    if (error && !g_error_matches(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_COMMAND_NOT_FOUND)) {
        ff_call_gerror(call, error);
        return;
    }
    call->others |= result && questions[call->others_asked].names_some(result);
    call->others_asked++;
    ask_next(call);
}

static void ask_next(FfCall *call)
{
    if (call->others_asked == G_N_ELEMENTS(questions)) {
        call->next(call);
        return;
    }
    const Question *q = &questions[call->others_asked];
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, q->argument, q->value);
    ff_call_inner(call, q->command, args, on_answered);
}

void ff_call_when_others_known(FfCall *call, FfHandler next)
{
    call->others = false;
    if (!ff_policy_asks_for_others(call->driver)) {
        next(call);
        return;
    }
    call->others_asked = 0;
    call->next = next;
    ask_next(call);
}
