/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. That an object or a property is not there QEMU says by an error, which is an
 * answer. A QEMU that is busy, or whose monitor is lost, has not said so.
 *
 * Threads: the coordinator's. No lock, no system calls.
 */
#include "guest/qemu/internal.h"

#include "guest/qemu/call.h"

/* NULL without ERROR: there is none. */
static JsonNode *get_property(FfQemu *qemu, const char *path, const char *name, GError **error)
{
    JsonObject *args = json_object_new();
    g_autoptr(GError) local = NULL;

    json_object_set_string_member(args, "path", path);
    json_object_set_string_member(args, "property", name);
    JsonNode *value = ff_qemu_call(qemu, "qom-get", args, &local);
    if (!value && !ff_qmp_refused(local)) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return value;
}

static bool is_of(JsonNode *value, GType type)
{
    return JSON_NODE_HOLDS_VALUE(value) && json_node_get_value_type(value) == type;
}

char *ff_qemu_string_of(FfQemu *qemu, const char *path, const char *name, GError **error)
{
    g_autoptr(JsonNode) value = get_property(qemu, path, name, error);

    return value && is_of(value, G_TYPE_STRING) ? g_strdup(json_node_get_string(value)) : NULL;
}

FfTold ff_qemu_is_on(FfQemu *qemu, const char *path, const char *name, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) value = get_property(qemu, path, name, &local);

    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FF_TOLD_NOTHING;
    }
    if (value && !is_of(value, G_TYPE_BOOLEAN)) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                    "qom-get: QEMU says neither yes nor no to %s of %s", name, path);
        return FF_TOLD_NOTHING;
    }
    return value && json_node_get_boolean(value) ? FF_TOLD_YES : FF_TOLD_NO;
}
