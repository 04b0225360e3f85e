/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's commands, QMP and HMP, one a line. QEMU's answer to what is asked on the way is
 * the next line; "!" begins an error. A line that begins with "%" is a command of the human
 * monitor; one that begins with "@" is what the migration reports, if one has begun. Where the
 * first line is "refused", the guest is one that the engine refuses.
 */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "qapi/driver.h"
#include "qapi/json.h"
#include "tests/unit/told-migration.h"

typedef struct {
    FfPortReply reply;
    gpointer data;
} Asked;

static GQueue asked = G_QUEUE_INIT;
static unsigned answers;

static void port_send(void *opaque, FfLinkType type, unsigned mon, uint32_t seq,
                      const char *payload, size_t length, int fd)
{
    answers += type == FF_LINK_REPLY || type == FF_LINK_PASS || type == FF_LINK_PASS_AS;
    if (type == FF_LINK_REPLY) {
        g_autoptr(JsonNode) node = ff_json_parse(payload, length, NULL, NULL);
        g_assert_nonnull(node);
    }
}

static void port_inner(void *opaque, const char *command, JsonObject *args, int fd,
                       FfPortReply reply, gpointer data)
{
    g_queue_push_tail(&asked, g_memdup2(&(Asked){reply, data}, sizeof(Asked)));
}

static JsonNode *port_view(void *opaque, bool parameters)
{
    return NULL;
}

static bool port_set_view(void *opaque, bool parameters, JsonNode *changes, GError **error)
{
    return true;
}

static void port_object_add(void *opaque, const char *text, FfPortObjectReply reply, gpointer data)
{
    FfPortObject o = {.memfd = -1};

    reply(&o, NULL, data);
}

static void port_ram(void *opaque, const char *id, uint64_t size, uint64_t page_size, int memfd)
{
}

static FfVmm *port_vmm(void *opaque)
{
    static FfVmm vmm;

    return &vmm;
}

static void port_log(void *opaque, const char *line)
{
    g_assert_null(strchr(line, '\n'));
}

static void port_fail(void *opaque)
{
}

/* By name: what is added to the port and may be absent stays absent here. */
static const FfDriverPort port = {
    .send = port_send,
    .inner = port_inner,
    .view = port_view,
    .set_view = port_set_view,
    .object_add = port_object_add,
    .ram_changed = port_ram,
    .vmm = port_vmm,
    .log = port_log,
    .fail = port_fail,
};

static void answer(const char *line)
{
    g_autofree Asked *a = g_queue_pop_head(&asked);

    if (*line == '!') {
        g_autoptr(GError) error = g_error_new_literal(FF_DRIVER_ERROR, 0, line + 1);
        a->reply(NULL, error, a->data);
        return;
    }
    g_autoptr(JsonNode) node = ff_json_parse(line, strlen(line), NULL, NULL);
    if (!node) {
        node = json_node_init_object(json_node_alloc(), NULL);
        json_node_take_object(node, json_object_new());
    }
    a->reply(node, NULL, a->data);
}

static void migration_is(const char *text)
{
    if (migration) {
        become_named(text);
    }
}

static void command(FfDriver *driver, unsigned seq, const char *line)
{
    GString *text = g_string_new(NULL);

    if (*line == '%') {
        g_autofree char *valid = g_utf8_make_valid(line + 1, -1);
        g_string_append(text, "{\"execute\": \"human-monitor-command\", \"arguments\": "
                              "{\"command-line\": ");
        ff_dialect_print_string(text, valid);
        g_string_append(text, "}}");
    } else {
        g_string_append(text, line);
    }
    ff_driver_frame(driver, FF_LINK_COMMAND, 0, seq, text->str, text->len, -1);
    g_string_free(text, TRUE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_quiet();
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    static FfStateHeader *state;
    if (!state) {
        state = g_new0(FfStateHeader, 1);
    }
    /* The logs after it are as long as it says. */
    memset(state, 0, offsetof(FfStateHeader, block));
    bool refused = !g_strcmp0(lines[0], "refused");
    FfDriver *driver =
        ff_driver_new(&(FfDriverConfig){.front = -1,
                                        .front_door = -1,
                                        .port = &port,
                                        .state = state,
                                        .state_fd = -1,
                                        .pagemap_fd = -1,
                                        .maps_fd = -1,
                                        .mem_fd = -1,
                                        .pidfd = -1,
                                        .inner_fd = -1,
                                        .listener_fd = -1,
                                        .device_fd = -1,
                                        .discard_fd = -1,
                                        .sharers_fd = -1,
                                        .file_fd = -1,
                                        .lease_fd = -1,
                                        .tls_fd = -1,
                                        .engine_refused = refused ? "fuzzed" : NULL});
    unsigned sent = 0;

    answers = 0;
    for (unsigned i = refused; lines[i]; i++) {
        if (*lines[i] == '@') {
            migration_is(lines[i] + 1);
        } else if (!g_queue_is_empty(&asked)) {
            answer(lines[i]);
        } else if (*lines[i]) {
            command(driver, ++sent, lines[i]);
        }
    }
    for (unsigned i = 0; !g_queue_is_empty(&asked); i++) {
        g_assert_cmpuint(i, <, 1000);
        answer("!the end");
    }
    ff_driver_free(driver);
    g_clear_pointer(&migration, ff_migration_free);
    return 0;
}
