/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See ramblock.h. What is in QEMU's streams has a name in its list of RAM. Nothing but the human
 * monitor tells: one line for each block, the name first, right-aligned. Where that is not
 * understood everything counts as saved.
 *
 * What has no name is not what nobody uses: some devices (virtio-pmem, cxl-type3) take a backend
 * and leave it out of QEMU's streams. A device that has taken one has a link to it among its
 * properties. Where QEMU does not tell of these the backend counts as taken.
 *
 * Thread: the coordinator. No system calls.
 */
#include "guest/qemu/ramblock.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"
#include "qmp/json.h"

#define HEAD "Block Name"

bool ff_qemu_is_saved_in(const char *text, const char *block)
{
    const char *list = strstr(text, HEAD);
    g_auto(GStrv) lines = g_strsplit_set(list ? list : "", "\r\n", -1);
    bool any = false;

    for (unsigned i = 1; list && lines[i]; i++) {
        char *name = g_strstrip(lines[i]), *end = name + strcspn(name, " \t");
        bool named =
            !g_ascii_isdigit(*name) || memchr(name, ':', end - name); /* else its page size */

        *end = 0;
        const char *slash = strrchr(name, '/');
        if (named && *name && !strcmp(slash ? slash + 1 : name, block)) {
            return true;
        }
        any |= named && *name;
    }
    return !any;
}

/* ---- devices --------------------------------------------------------------------------------- */

static FfQmpCall *ask_qom(FfQemu *qemu, const char *command, const char *path, const char *property)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", path);
    if (property) {
        json_object_set_string_member(args, "property", property);
    }
    return ff_qemu_ask(qemu, command, args);
}

static JsonNode *take_answer(FfQemu *qemu, FfQmpCall *asked)
{
    return ff_qmp_call_end(asked, qemu->deadline_ms, qemu->cancel, NULL);
}

/* Adds the paths (g_free) of FOLDER's children. */
static bool list_devices(FfQemu *qemu, const char *folder, GPtrArray *paths)
{
    g_autoptr(JsonNode) list = take_answer(qemu, ask_qom(qemu, "qom-list", folder, NULL));

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *one = ff_json_node_nth(list, i);
        const char *name = one ? ff_json_string(one, "name") : NULL;

        if (name && g_str_has_prefix(ff_json_string_or(one, "type", ""), "child<")) {
            g_ptr_array_add(paths, g_strdup_printf("%s/%s", folder, name));
        }
    }
    return list;
}

static bool is_path(JsonNode *value, const char *path)
{
    return JSON_NODE_HOLDS_VALUE(value) && json_node_get_value_type(value) == G_TYPE_STRING &&
           !strcmp(json_node_get_string(value), path);
}

/* Whether one of the links among PROPERTIES (qom-list) of DEVICE is to TARGET. */
static bool has_link(FfQemu *qemu, const char *device, JsonNode *properties, const char *target)
{
    guint n = ff_json_node_length(properties);
    g_autofree FfQmpCall **asked = g_new0(FfQmpCall *, n + 1);
    bool found = false;

    for (guint i = 0; i < n; i++) {
        JsonObject *one = ff_json_node_nth(properties, i);
        const char *name = one ? ff_json_string(one, "name") : NULL;

        if (name && g_str_has_prefix(ff_json_string_or(one, "type", ""), "link<")) {
            asked[i] = ask_qom(qemu, "qom-get", device, name);
        }
    }
    for (guint i = 0; i < n; i++) {
        g_autoptr(JsonNode) value = asked[i] ? take_answer(qemu, asked[i]) : NULL;

        found |= asked[i] && (!value || is_path(value, target));
    }
    return found;
}

static bool is_taken(FfQemu *qemu, const char *block)
{
    g_autofree char *target = g_strdup_printf("/objects/%s", block);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    bool taken = !list_devices(qemu, "/machine/peripheral", paths) ||
                 !list_devices(qemu, "/machine/peripheral-anon", paths);
    g_autofree FfQmpCall **asked = g_new0(FfQmpCall *, paths->len + 1);

    for (guint i = 0; i < paths->len; i++) {
        asked[i] = ask_qom(qemu, "qom-list", paths->pdata[i], NULL);
    }
    for (guint i = 0; i < paths->len; i++) {
        g_autoptr(JsonNode) properties = take_answer(qemu, asked[i]);

        taken |= !properties || has_link(qemu, paths->pdata[i], properties, target);
    }
    return taken;
}

/* ------------------------------------------------------------------------------------------------
 */

FfBlockUse ff_qemu_block_use(FfVmmMemory *memory, const char *block)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "command-line", "info ramblock");
    g_autoptr(JsonNode) reply = ff_qemu_call(qemu, "human-monitor-command", args, NULL);
    const char *text = reply && JSON_NODE_HOLDS_VALUE(reply) ? json_node_get_string(reply) : NULL;

    return !text || ff_qemu_is_saved_in(text, block) ? FF_BLOCK_SAVED
           : is_taken(qemu, block)                   ? FF_BLOCK_LEFT_OUT
                                                     : FF_BLOCK_UNUSED;
}

GPtrArray *ff_qemu_backends(FfVmmMemory *memory, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    /* It is asked when a snapshot is written; QEMU's main loop may wait for the same disk. */
    g_autoptr(JsonNode) list =
        ff_qemu_call_patient(ff_qemu_of_memory(memory), "query-memdev", NULL, error);

    for (guint i = 0; i < ff_json_node_length(list); i++) {
        JsonObject *one = ff_json_node_nth(list, i);

        g_ptr_array_add(ids, g_strdup(one ? ff_json_string_or(one, "id", "") : ""));
    }
    return list ? g_steal_pointer(&ids) : NULL;
}
