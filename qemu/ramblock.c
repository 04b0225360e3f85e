/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See ramblock.h. Memory that neither machine nor device has taken has no name in QEMU's list of
 * RAM, and is in no stream of QEMU's. Nothing but the human monitor tells: one line for each block,
 * the name first, right-aligned. Where that is not understood everything counts as used.
 *
 * Thread: the coordinator. No system calls.
 */
#include "qemu/ramblock.h"

#include <string.h>

#include "qemu/call.h"
#include "qemu/internal.h"
#include "qmp/json.h"

#define HEAD "Block Name"

bool ff_qemu_is_used_in(const char *text, const char *block)
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

bool ff_qemu_is_used(FfVmmMemory *memory, const char *block)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "command-line", "info ramblock");
    g_autoptr(JsonNode) reply =
        ff_qemu_call(ff_qemu_of_memory(memory), "human-monitor-command", args, NULL);
    const char *text = reply && JSON_NODE_HOLDS_VALUE(reply) ? json_node_get_string(reply) : NULL;

    return !text || ff_qemu_is_used_in(text, block);
}
