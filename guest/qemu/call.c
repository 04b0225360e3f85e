/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See call.h. Threads: the coordinator's; the answers are read by the thread that runs the QMP
 * client's context. No lock here.
 */
#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"

static JsonNode *call_command(FfQemu *qemu, const char *command, JsonObject *args,
                              unsigned deadline_ms, GCancellable *cancel, GError **error)
{
    JsonNode *result =
        ff_qmp_call_sync(qemu->qmp, command, args, NULL, 0, deadline_ms, cancel, error);

    if (args) {
        json_object_unref(args);
    }
    if (!result) {
        g_prefix_error(error, "%s: ", command);
    }
    return result;
}

JsonNode *ff_qemu_call(FfQemu *qemu, const char *command, JsonObject *args, GError **error)
{
    return call_command(qemu, command, args, qemu->deadline_ms, qemu->cancel, error);
}

JsonNode *ff_qemu_call_firm(FfQemu *qemu, const char *command, JsonObject *args, GError **error)
{
    return call_command(qemu, command, args, 0, NULL, error);
}

JsonNode *ff_qemu_call_patient(FfQemu *qemu, const char *command, JsonObject *args, GError **error)
{
    return call_command(qemu, command, args, 0, qemu->cancel, error);
}

JsonNode *ff_qemu_call_within(FfQemu *qemu, const char *command, JsonObject *args,
                              unsigned deadline_ms, GError **error)
{
    return call_command(qemu, command, args, deadline_ms, NULL, error);
}

JsonNode *ff_qemu_call_optional(FfQemu *qemu, const char *command, JsonObject *args, GError **error)
{
    g_autoptr(GError) local = NULL;
    JsonNode *result = ff_qemu_call(qemu, command, args, &local);

    if (!result && !g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return result;
}

void ff_qemu_call_and_forget(FfQemu *qemu, const char *command, JsonObject *args,
                             unsigned deadline_ms)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = call_command(qemu, command, args, deadline_ms, NULL, &error);

    if (!reply) {
        g_message("%s: %s", qemu->name, error->message);
    }
}

FfQmpCall *ff_qemu_ask(FfQemu *qemu, const char *command, JsonObject *args)
{
    FfQmpCall *asked = ff_qmp_call_begin(qemu->qmp, command, args, NULL, 0);

    if (args) {
        json_object_unref(args);
    }
    return asked;
}

JsonNode *ff_qemu_answer(FfQmpCall *asked, const char *command, GError **error)
{
    g_autoptr(GError) local = NULL;
    JsonNode *result = ff_qmp_call_end(asked, 0, NULL, &local);

    if (!result && error && !*error) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", command);
    }
    return result;
}
