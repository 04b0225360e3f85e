/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See driver-world.h. */
#include "tests/unit/driver-world.h"

#include <string.h>
#include <unistd.h>

#include "qapi/json.h"

/* ---- the relay and QEMU ---------------------------------------------------------------------- */

static const char *frame_name(FfLinkType type)
{
    switch (type) {
    case FF_LINK_REPLY:
        return "reply";
    case FF_LINK_PASS:
        return "pass";
    case FF_LINK_EVENT:
        return "event";
    case FF_LINK_FILTER:
        return "filter";
    case FF_LINK_TAKE_FD:
        return "take-fd";
    case FF_LINK_TAKE_UFFD:
        return "take-uffd";
    case FF_LINK_GIVE_UFFD:
        return "give-uffd";
    case FF_LINK_INJECT:
        return "inject";
    case FF_LINK_IDLE:
        return "idle";
    case FF_LINK_SYNC:
        return "sync";
    case FF_LINK_HOLD:
        return "hold";
    default:
        return "other";
    }
}

static void world_send(void *opaque, FfLinkType type, unsigned mon, uint32_t seq,
                       const char *payload, size_t length, int fd)
{
    World *w = opaque;

    g_string_append_printf(w->out, "%s", frame_name(type));
    if (type == FF_LINK_FILTER) {
        uint32_t filter;

        memcpy(&filter, payload, sizeof(filter));
        g_string_append_printf(w->out, " %u", filter);
    } else if (type == FF_LINK_EVENT) {
        /* without the timestamp */
        g_autofree char *text = g_strndup(payload, length);

        g_string_append_printf(w->out, " %s", strstr(text, "\"event\""));
    } else if (length) {
        g_string_append_printf(w->out, " %.*s", (int)length, payload);
    }
    g_string_append_c(w->out, '\n');
}

static void world_inner(void *opaque, const char *command, JsonObject *args, int fd,
                        FfPortReply reply, gpointer data)
{
    World *w = opaque;
    Asked *asked = g_new0(Asked, 1);

    if (!strcmp(command, "getfd")) {
        w->given = dup(fd);
    }
    asked->command = g_strdup(command);
    asked->args = args ? json_object_ref(args) : NULL;
    asked->reply = reply;
    asked->data = data;
    g_queue_push_tail(&w->questions, asked);
}

static JsonNode *world_view(void *opaque, bool parameters)
{
    World *w = opaque;
    const char *text = parameters ? w->parameters : w->capabilities;

    return text ? ff_json_parse(text, strlen(text), NULL, NULL) : NULL;
}

static bool world_set_view(void *opaque, bool parameters, JsonNode *changes, GError **error)
{
    World *w = opaque;

    g_clear_pointer(&w->changed, json_node_unref);
    w->changed = json_node_copy(changes);
    return true;
}

static void world_ram_changed(void *opaque, const char *id, uint64_t size, uint64_t page_size,
                              int memfd)
{
    World *w = opaque;

    g_assert_cmpint(memfd, ==, -1);
    g_free(w->dropped);
    w->dropped = g_strdup(id);
}

static bool world_has_ram(void *opaque, const char *id)
{
    return !strcmp(id, "m");
}

static void world_log(void *opaque, const char *line)
{
    World *w = opaque;

    g_free(w->log);
    w->log = g_strdup(line);
}

static void world_fail(void *opaque)
{
    World *w = opaque;

    w->failed++;
}

FfVmm vmm;

static FfVmm *world_vmm(void *opaque)
{
    return &vmm;
}

unsigned qemu_version;

static unsigned world_version(void *opaque)
{
    return qemu_version;
}

const FfDriverPort world_port = {
    .send = world_send,
    .inner = world_inner,
    .view = world_view,
    .set_view = world_set_view,
    .ram_changed = world_ram_changed,
    .has_ram = world_has_ram,
    .vmm = world_vmm,
    .log = world_log,
    .fail = world_fail,
    .version = world_version,
};

void world_prepare(World *w, const FfStateHeader *state)
{
    memset(w, 0, sizeof(*w));
    w->state = g_memdup2(state, sizeof(*state));
    w->out = g_string_new(NULL);
    g_queue_init(&w->questions);
    w->given = -1;
}

bool world_lends, world_shares;
int world_pid;

void world_begin(World *w, FfStateHeader state, bool start_paused, const char *incoming,
                 const char *refused)
{
    world_prepare(w, &state);
    w->driver = ff_driver_new(&(FfDriverConfig){
        .front = -1,
        .front_door = -1,
        .port = &world_port,
        .port_opaque = w,
        .state = w->state,
        .state_fd = -1,
        .qemu_pid = world_pid,
        .pidfd = -1,
        .mem_fd = -1,
        .inner_fd = -1,
        .listener_fd = -1,
        .device_fd = -1,
        .file_fd = -1,
        .lease_fd = -1,
        .start_paused = start_paused,
        .incoming = incoming,
        .engine_refused = refused,
        .lends = world_lends,
        .shares_ram = world_shares,
        .discard_fd = -1,
        .sharers_fd = -1,
    });
    refuse_start = false;
}

void world_init(World *w, const char *incoming, const char *refused)
{
    world_begin(w, (FfStateHeader){0}, false, incoming, refused);
}

void world_clear(World *w)
{
    g_assert_true(g_queue_is_empty(&w->questions));
    ff_driver_free(w->driver);
    g_clear_pointer(&migration, ff_migration_free);
    g_string_free(w->out, TRUE);
    g_clear_pointer(&w->changed, json_node_unref);
    if (w->given >= 0) {
        close(w->given);
    }
    g_free(w->log);
    g_free(w->dropped);
    g_free(w->capabilities);
    g_free(w->parameters);
    g_free(w->state);
}

void command_of(World *w, unsigned mon, const char *text)
{
    ff_driver_frame(w->driver, FF_LINK_COMMAND, mon, ++w->seq, text, strlen(text), -1);
}

void command(World *w, const char *text)
{
    command_of(w, 0, text);
}

void qemu_answers(World *w, const char *name, const char *result)
{
    Asked *asked = g_queue_pop_head(&w->questions);

    g_assert_nonnull(asked);
    g_assert_cmpstr(asked->command, ==, name);
    if (*result == '!') {
        g_autoptr(GError) error = g_error_new_literal(FF_DRIVER_ERROR, 0, result + 1);

        asked->reply(NULL, error, asked->data);
    } else {
        g_autoptr(JsonNode) node = ff_json_parse(result, strlen(result), NULL, NULL);

        asked->reply(node, NULL, asked->data);
    }
    g_free(asked->command);
    g_clear_pointer(&asked->args, json_object_unref);
    g_free(asked);
}

void wait_sent(World *w)
{
    while (!w->out->len) {
        g_main_context_iteration(NULL, TRUE);
    }
}

void sent(World *w, const char *expected)
{
    g_assert_cmpstr(w->out->str, ==, expected);
    g_string_truncate(w->out, 0);
}

void set_postcopy(World *w)
{
    command(w, SET(CAP("postcopy-ram", "true") "," CAP("events", "true")));
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    /* QEMU never hears of postcopy-ram. */
    Asked *asked = g_queue_peek_head(&w->questions);
    JsonArray *list = json_object_get_array_member(asked->args, "capabilities");

    g_assert_cmpint(json_array_get_length(list), ==, 1);
    qemu_answers(w, "migrate-set-capabilities", "{}");
    sent(w, "reply {\"return\": {}}\n");
}

void start_source(World *w)
{
    set_postcopy(w);
    command(w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'},'id':'m'}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(w, "query-status", "{'status':'running','singlestep':false,'running':true}");
    qemu_answers(w, "query-migrate", "{}");
    sent(w, "filter 3\n"
            "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
            "reply {\"return\": {}, \"id\": \"m\"}\n");
}
