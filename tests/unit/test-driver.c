/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver with everything around it made by the test: the relay (frames are recorded), QEMU's
 * private monitor (answers are given by the test), the migration (obeys, and reports what it is
 * told to report).
 */
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "migration/dump.h"
#include "migration/migration.h"
#include "qapi/driver-private.h"
#include "qapi/driver.h"
#include "qapi/json.h"
#include "qapi/schema.h"
#include "tests/lib/slow-names.h"

/* --- the migration -------------------------------------------------------------------------- */

struct FfMigration {
    FfMigrationOps ops;
    FfMigrationConfig config;
    FfMigrationInfo info;
    bool holds, start_postcopy, cancelled, conted, auto_postcopy, synced;
    uint64_t downtime_limit;
    uint64_t bandwidth;
    char *resumed_at;
    bool recover_setup;
};

static FfMigration *migration; /* the one that runs, or NULL */
static bool refuse_start;

static const char *const names[] = {
    [FF_STATUS_NONE] = "none",
    [FF_STATUS_SETUP] = "setup",
    [FF_STATUS_CANCELLING] = "cancelling",
    [FF_STATUS_CANCELLED] = "cancelled",
    [FF_STATUS_ACTIVE] = "active",
    [FF_STATUS_POSTCOPY_ACTIVE] = "postcopy-active",
    [FF_STATUS_POSTCOPY_PAUSED] = "postcopy-paused",
    [FF_STATUS_POSTCOPY_RECOVER_SETUP] = "postcopy-recover-setup",
    [FF_STATUS_POSTCOPY_RECOVER] = "postcopy-recover",
    [FF_STATUS_COMPLETED] = "completed",
    [FF_STATUS_FAILED] = "failed",
    [FF_STATUS_PRE_SWITCHOVER] = "pre-switchover",
    [FF_STATUS_DEVICE] = "device",
};

unsigned ff_channels_default(void)
{
    return 4;
}

const char *ff_status_name(FfStatus status)
{
    return names[status];
}

FfMigration *ff_migration_start(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    if (refuse_start) {
        g_set_error_literal(error, FF_DRIVER_ERROR, 0, "Connection refused");
        return NULL;
    }
    migration = g_new0(FfMigration, 1);
    migration->ops = *ops;
    migration->config = *config;
    migration->config.uri = g_strdup(config->uri);
    migration->info.role = config->role;
    migration->info.status = FF_STATUS_SETUP;
    migration->info.downtime = -1;
    migration->info.page_size = 4096;
    migration->bandwidth = config->max_bandwidth;
    return migration;
}

FfMigration *ff_migration_adopt(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    return ff_migration_start(config, ops, error);
}

bool ff_migration_start_postcopy(FfMigration *m, GError **error)
{
    m->start_postcopy = true;
    return true;
}

bool ff_migration_continue(FfMigration *m, FfStatus from, GError **error)
{
    return m->info.status == from;
}

bool ff_migration_cancel(FfMigration *m, GError **error)
{
    m->cancelled = true;
    return true;
}

bool ff_migration_pause(FfMigration *m, GError **error)
{
    return true;
}

bool ff_migration_resume(FfMigration *m, const char *uri, int fd, bool recover_setup,
                         GError **error)
{
    m->resumed_at = g_strdup(uri);
    m->recover_setup = recover_setup;
    return true;
}

bool ff_migration_revoke(FfMigration *m, const char *uri, int fd, bool force, GError **error)
{
    g_assert_cmpint(fd, ==, -1);
    g_free(m->resumed_at);
    m->resumed_at = g_strconcat("back from ", uri ? uri : "there", NULL);
    return true;
}

FfDump *ff_dump_new(FfMigration *m, GError **error)
{
    g_set_error_literal(error, G_IO_ERROR, 0, "not paused");
    return NULL;
}

bool ff_dump_write(FfDump *dump, const char *directory, uint64_t *bytes, GError **error)
{
    g_assert_not_reached();
}

bool ff_dump_has_device_state(const FfDump *dump)
{
    return false;
}

void ff_dump_free(FfDump *dump)
{
}

void ff_migration_set_auto_recover(FfMigration *m, unsigned seconds)
{
}

bool ff_migration_lives_on(FfMigration *m)
{
    return false;
}

void ff_migration_vmm_ended(FfMigration *m)
{
}

bool ff_migration_speaks(FfMigration *m)
{
    return false;
}

bool ff_migration_lacks_tls(FfMigration *m)
{
    return false;
}

void ff_migration_set_tls(FfMigration *m, FfTls *tls, const char *hostname)
{
    g_assert_not_reached();
}

void ff_migration_synced(FfMigration *m)
{
    m->synced = true;
}

bool ff_migration_recover(FfMigration *m, const char *uri, int fd, GError **error)
{
    if (fd >= 0) {
        close(fd);
    }
    m->resumed_at = g_strdup(uri);
    return true;
}

void ff_migration_stop_waiting(FfMigration *m)
{
}

bool ff_migration_client_cont(FfMigration *m, bool *now, GError **error)
{
    m->conted = true;
    *now = !m->holds;
    return true;
}

bool ff_migration_client_stop(FfMigration *m)
{
    m->conted = m->conted && !m->holds;
    return m->holds;
}

bool ff_migration_resumed(FfMigration *m)
{
    return m->holds;
}

void ff_migration_vmm_failed(FfMigration *m)
{
}

bool ff_migration_holds_guest(FfMigration *m)
{
    return m->holds;
}

void ff_migration_set_bandwidth(FfMigration *m, uint64_t max_bandwidth,
                                uint64_t max_postcopy_bandwidth)
{
    m->bandwidth = max_bandwidth;
}

void ff_migration_set_switchover(FfMigration *m, uint64_t downtime_limit,
                                 uint64_t switchover_bandwidth, bool auto_postcopy)
{
    m->downtime_limit = downtime_limit;
    m->auto_postcopy = auto_postcopy;
}

FfMigrationInfo *ff_migration_info(FfMigration *m)
{
    FfMigrationInfo *info = g_memdup2(&m->info, sizeof(m->info));

    info->error_desc = g_strdup(m->info.error_desc);
    info->vcpu_blocktime_ms =
        g_memdup2(m->info.vcpu_blocktime_ms, m->info.n_vcpus * sizeof(uint32_t));
    return info;
}

void ff_migration_info_free(FfMigrationInfo *info)
{
    g_free(info->error_desc);
    g_free(info->vcpu_blocktime_ms);
    g_free(info);
}

void ff_migration_free(FfMigration *m)
{
    if (m->config.fd >= 0) {
        close(m->config.fd);
    }
    g_free(m->config.uri);
    g_free(m->resumed_at);
    g_free(m);
}

static void become(FfStatus status)
{
    migration->info.status = status;
    migration->ops.status(status, migration->ops.opaque);
}

static void finish(FfStatus status)
{
    FfMigration *m = migration;

    become(status);
    migration = NULL;
    m->ops.done(m->ops.opaque);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

/* --- the relay and QEMU ---------------------------------------------------------------------- */

typedef struct {
    char *command;
    JsonObject *args;
    FfPortReply reply;
    gpointer data;
} Asked;

typedef struct {
    FfDriver *driver;
    FfStateHeader *state;
    GString *out;     /* frames to the relay, one line each */
    GQueue questions; /* Asked: to QEMU, not answered yet */
    char *log;
    char *capabilities; /* the undo log's, or NULL */
    char *parameters;
    char *dropped;     /* the backend that the guest's memory lacks now; NULL */
    JsonNode *changed; /* what set_view was given last */
    uint32_t seq;
} World;

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

static void world_log(void *opaque, const char *line)
{
    World *w = opaque;

    g_free(w->log);
    w->log = g_strdup(line);
}

static FfVmm vmm; /* what a case fills in */

static FfVmm *world_vmm(void *opaque)
{
    return &vmm;
}

static unsigned version; /* QEMU's; 0: not known */

static unsigned world_version(void *opaque)
{
    return version;
}

static const FfDriverPort world_port = {
    .send = world_send,
    .inner = world_inner,
    .view = world_view,
    .set_view = world_set_view,
    .ram_changed = world_ram_changed,
    .vmm = world_vmm,
    .log = world_log,
    .version = world_version,
};

static void world_prepare(World *w, const FfStateHeader *state)
{
    memset(w, 0, sizeof(*w));
    w->state = g_memdup2(state, sizeof(*state));
    w->out = g_string_new(NULL);
    g_queue_init(&w->questions);
}

static bool world_lends; /* the relay of the next world is of this farfault */

static void world_begin(World *w, FfStateHeader state, bool start_paused, const char *incoming,
                        const char *refused)
{
    world_prepare(w, &state);
    w->driver = ff_driver_new(&(FfDriverConfig){
        .port = &world_port,
        .port_opaque = w,
        .state = w->state,
        .state_fd = -1,
        .pidfd = -1,
        .mem_fd = -1,
        .inner_fd = -1,
        .listener_fd = -1,
        .device_fd = -1,
        .start_paused = start_paused,
        .incoming = incoming,
        .engine_refused = refused,
        .lends = world_lends,
    });
    refuse_start = false;
}

static void world_init(World *w, const char *incoming, const char *refused)
{
    world_begin(w, (FfStateHeader){0}, false, incoming, refused);
}

static void world_clear(World *w)
{
    g_assert_true(g_queue_is_empty(&w->questions));
    ff_driver_free(w->driver);
    g_clear_pointer(&migration, ff_migration_free);
    g_string_free(w->out, TRUE);
    g_clear_pointer(&w->changed, json_node_unref);
    g_free(w->log);
    g_free(w->dropped);
    g_free(w->capabilities);
    g_free(w->parameters);
    g_free(w->state);
}

static void command_of(World *w, unsigned mon, const char *text)
{
    ff_driver_frame(w->driver, FF_LINK_COMMAND, mon, ++w->seq, text, strlen(text), -1);
}

static void command(World *w, const char *text)
{
    command_of(w, 0, text);
}

/* QEMU was asked COMMAND, and answers RESULT (JSON), or an error if that begins with '!'. */
static void qemu_answers(World *w, const char *name, const char *result)
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

/* Something is said to the relay: a name was found, or not. */
static void wait_sent(World *w)
{
    while (!w->out->len) {
        g_main_context_iteration(NULL, TRUE);
    }
}

/* All that went to the relay since the last time. */
static void sent(World *w, const char *expected)
{
    g_assert_cmpstr(w->out->str, ==, expected);
    g_string_truncate(w->out, 0);
}

#define CAP(name, state) "{'state':" state ",'capability':'" name "'}"
#define CAPS_EVENTS                                                                                \
    "[" CAP("xbzrle", "false") "," CAP("events", "true") "," CAP("postcopy-ram", "false") "]"
#define SET(caps) "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[" caps "]}}"
#define PARAMETERS "{'max-bandwidth':1000,'downtime-limit':50,'tls-creds':''}"

static void set_postcopy(World *w)
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

static void start_source(World *w)
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

/* --- cases ----------------------------------------------------------------------------------- */

static void test_capabilities(void)
{
    World w;

    world_init(&w, NULL, NULL);
    set_postcopy(&w);
    command(&w, "{'execute':'query-migrate-capabilities'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    sent(&w, "reply {\"return\": [{\"state\": false, \"capability\": \"xbzrle\"}, "
             "{\"state\": true, \"capability\": \"events\"}, "
             "{\"state\": true, \"capability\": \"postcopy-ram\"}, "
             "{\"state\": false, \"capability\": \"postcopy-preempt\"}, "
             "{\"state\": false, \"capability\": \"postcopy-blocktime\"}]}\n");
    /* What QEMU refuses is not half set. */
    command(&w, SET(CAP("postcopy-ram", "false") "," CAP("x-colo", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "migrate-set-capabilities", "!no COLO");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"no COLO\"}}\n");
    g_assert_cmpuint(w.state->client_flags, ==, FF_CLIENT_CAP_POSTCOPY_RAM);
    /* Ours alone: QEMU is not told anything. */
    command(&w, SET(CAP("postcopy-preempt", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    sent(&w, "reply {\"return\": {}}\n");
    world_clear(&w);
}

static void set_postcopy_for_qemu(World *w)
{
    command(w, SET(CAP("postcopy-ram", "true")));
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "migrate-set-capabilities", "{}");
    sent(w, "reply {\"return\": {}}\n");
}

/* A guest that the engine does not migrate: QEMU has the capability, and carries the migration. */
static void test_refused(void)
{
    World w;

    world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
    set_postcopy_for_qemu(&w);
    g_assert_cmpuint(w.state->client_flags, ==, FF_CLIENT_CAP_POSTCOPY_RAM);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:b:1'},'id':2}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", "{}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_null(migration);
    command(&w, "{'execute':'query-migrate','id':3}");
    qemu_answers(&w, "query-migrate", "{\"status\":\"active\"}");
    sent(&w, "reply {\"return\": {\"status\": \"active\", \"x-farfault\": {\"engine\": \"qemu\", "
             "\"reason\": \"the guest's RAM is a regular file; use memory-backend-memfd\"}}, "
             "\"id\": 3}\n");
    world_clear(&w);
}

/* A reason that is longer than there is room for, cut in the middle of a character. */
static void test_refused_long(void)
{
    g_autoptr(GString) why = g_string_new(NULL);
    World w;

    while (why->len < 2 * sizeof(w.state->native)) {
        g_string_append(why, "\u20ac"); /* three bytes */
    }
    world_init(&w, NULL, why->str);
    set_postcopy_for_qemu(&w);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:b:1'},'id':2}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", "{}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_true(g_utf8_validate(w.state->native, -1, NULL));
    g_assert_cmpuint(strlen(w.state->native), >, sizeof(w.state->native) - 4);
    world_clear(&w);
}

/* A client that wants no migration of QEMU's is told so at once. */
static void test_refused_required(void)
{
    World w;

    world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
    w.state->peer = FF_PEER_WISH_REQUIRE;
    command(&w, SET(CAP("postcopy-ram", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"the guest's RAM is a "
             "regular file; use memory-backend-memfd\"}}\n");
    g_assert_cmpuint(w.state->client_flags, ==, 0);
    world_clear(&w);
}

/* RAM on a disk: QEMU before 8.1 takes postcopy-ram at the destination, and loses the guest. */
static void test_refused_disk(void)
{
    static const char why[] = "the backend 'm0' keeps guest RAM in the file /x" FF_RAM_ON_DISK;
    static const struct {
        const char *incoming;
        unsigned version;
        bool refused;
    } rows[] = {
        {"defer", 70222, true},
        {"defer", 80002, true},
        {"defer", 80100, false},
        {NULL, 70222, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *refusal = g_strdup_printf(
            "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n", why);
        World w;

        version = rows[i].version;
        world_init(&w, rows[i].incoming, why);
        if (rows[i].refused) {
            command(&w, SET(CAP("postcopy-ram", "true")));
            qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
            sent(&w, refusal);
        } else {
            set_postcopy_for_qemu(&w); /* at a source it does no harm */
        }
        world_clear(&w);
        version = 0;
    }
}

static void test_order(void)
{
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'query-migrate-parameters','id':1}");
    command(
        &w,
        "{'execute':'migrate-continue','id':2}"); /* at once QEMU's to refuse, but not before 1 */
    sent(&w, "");
    qemu_answers(&w, "query-migrate-parameters", "{'max-bandwidth':-1}");
    sent(&w, "reply {\"return\": {\"max-bandwidth\": 18446744073709551615, "
             "\"x-farfault-policy\": \"auto\", \"x-farfault-auto-postcopy\": false, "
             "\"x-farfault-peer\": \"auto\", \"x-farfault-peer-timeout\": 30, "
             "\"x-farfault-channels\": 4, \"x-farfault-auto-recover\": 0, "
             "\"x-farfault-compress\": \"never\", \"x-farfault-zstd-level\": 1, "
             "\"x-farfault-untracked\": \"qemu\"}, \"id\": 1}\n"
             "pass\n");
    /* A client that goes: the one that runs ends silently, the next never begins. */
    command(&w, "{'execute':'query-migrate-parameters','id':3}");
    command(&w, "{'execute':'query-migrate-parameters','id':4}");
    ff_driver_frame(w.driver, FF_LINK_CLIENT_GONE, 0, 0, "", 0, -1);
    qemu_answers(&w, "query-migrate-parameters", "{}");
    sent(&w, "");
    world_clear(&w);
}

static void test_source(void)
{
    World w;
    uint32_t latency = 5;

    world_init(&w, NULL, NULL);
    start_source(&w);
    g_assert_cmpstr(migration->config.uri, ==, "tcp:h:1");
    g_assert_cmpuint(migration->config.max_bandwidth, ==, 1000);
    become(FF_STATUS_SETUP); /* reported already */
    sent(&w, "");
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, "reply {\"return\": {\"status\": \"setup\"}}\n");
    become(FF_STATUS_ACTIVE);
    migration->ops.pass(1, migration->ops.opaque);
    sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n"
             "event \"event\": \"MIGRATION_PASS\", \"data\": {\"pass\": 1}}\n");
    command(&w, SET(CAP("events", "false")));
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    command(&w, "{'execute':'migrate-start-postcopy'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"There's a migration process in progress\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"There's a migration process in progress\"}}\n"
             "reply {\"return\": {}}\n");
    g_assert_true(migration->start_postcopy);
    migration->holds = true;
    command(&w, "{'execute':'cont'}");
    command(&w, "{'execute':'query-status'}");
    command(&w, "{'execute':'stop'}");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'c'}}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Migration is not finalized yet\"}}\n"
             "reply {\"return\": {\"status\": \"finish-migrate\", \"singlestep\": false, "
             "\"running\": false}}\n"
             "reply {\"return\": {}}\n"
             "reply {\"return\": \"Error: Migration is not finalized yet\\r\\n\"}\n");
    migration->info.latency[latency] = 3;
    migration->info.requests = 3;
    migration->info.downtime = 7;
    migration->info.total_time = 70;
    finish(FF_STATUS_COMPLETED);
    sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n"
             "filter 2\n");
    g_assert_true(g_str_has_prefix(w.log, "farfault: migration source completed: total 70 ms, "
                                          "downtime 7 ms, "));
    /* From the state memfd, with what QEMU has against another one. */
    command(&w, "{'execute':'query-migrate'}");
    qemu_answers(&w, "query-migrate", "{'blocked-reasons':['because']}");
    g_assert_nonnull(strstr(w.out->str, "\"latency-us\": [[32, 3]]"));
    g_assert_nonnull(strstr(w.out->str, "\"blocked-reasons\": [\"because\"]"));
    world_clear(&w);
}

/* While QEMU runs with the engine's values the client sees and changes its own. */
static void test_view(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    w.parameters = g_strdup(PARAMETERS);
    w.capabilities = g_strdup(CAPS_EVENTS);
    command(&w, "{'execute':'query-migrate-parameters'}");
    sent(&w, "reply {\"return\": {\"max-bandwidth\": 1000, \"downtime-limit\": 50, "
             "\"tls-creds\": \"\", \"x-farfault-policy\": \"auto\", \"x-farfault-auto-postcopy\": "
             "false, \"x-farfault-peer\": \"auto\", \"x-farfault-peer-timeout\": 30, "
             "\"x-farfault-channels\": 4, \"x-farfault-auto-recover\": 0, "
             "\"x-farfault-compress\": \"never\", \"x-farfault-zstd-level\": 1, "
             "\"x-farfault-untracked\": \"qemu\"}}\n");
    command(&w, "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':5,"
                "'downtime-limit':2000001}}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter "
             "'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms\"}}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 1000);
    command(&w, "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':5}}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 5);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(w.changed), "max-bandwidth"),
                    ==, 5);
    command(&w, "{'execute':'human-monitor-command','arguments':"
                "{'command-line':'migrate_set_parameter max-bandwidth 2'}}");
    sent(&w, "reply {\"return\": \"\"}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 2 << 20);
    g_clear_pointer(&w.parameters, g_free);
    g_clear_pointer(&w.capabilities, g_free);
    finish(FF_STATUS_CANCELLED);
    world_clear(&w);
}

/* The switchover begins while QEMU is told of the client's settings. */
static void test_view_meanwhile(void)
{
    World w;

    world_init(&w, NULL, NULL);
    command(&w, SET(CAP("xbzrle", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    w.capabilities = g_strdup(CAPS_EVENTS);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_nonnull(w.changed);
    g_assert_cmpint(json_array_get_length(json_node_get_array(w.changed)), ==, 1);
    world_clear(&w);
}

/* What the engine does not do goes to QEMU, postcopy capabilities first. */
static void test_native(void)
{
    static const char *const foreign[] = {
        "[" CAP("postcopy-ram", "true") "," CAP("compress", "true") "]",
        "[" CAP("xbzrle", "true") "]",
    };
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    sent(&w, "pass\n"); /* no postcopy */
    set_postcopy(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(foreign); i++) {
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", foreign[i]);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        sent(&w, "pass\n");
    }
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", "{'tls-creds':'tls0'}");
    qemu_answers(&w, "qom-list", "[{'name':'tls0','type':'child<tls-creds-anon>'}]");
    qemu_answers(&w, "migrate-set-capabilities", "!Postcopy is not supported");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Postcopy is not supported\"}}\n");
    command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    w.state->policy = FF_POLICY_NEVER;
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_null(migration);
    world_clear(&w);
}

/* What QEMU says of the objects that the TLS parameters name, and what becomes of it. */
static const struct {
    const char *parameters, *objects;
    const char *properties[8]; /* answers in the order of the questions */
    const char *error;
} tls_rows[] = {
    {"{'tls-creds':'t'}", "[]", {NULL}, "No TLS credentials with id 't'"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<secret>'}]",
     {"''", "'/nowhere'", "'raw'", "''", "''"},
     "Object with id 't' is not TLS credentials"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'server'", "'/nowhere'", "''", "''"},
     "Expected TLS credentials for a client endpoint"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'client'", "'/nowhere'", "''", "''"},
     "Unable to access credentials /nowhere/keys.psk: No such file or directory"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'client'", "'/nowhere'", "'NORMAL:+NULL'", "''"},
     "Unable to set TLS session priority NORMAL:+NULL: farfault does not know '+NULL'; it takes "
     "NORMAL, SECURE128, SECURE192, SECURE256 and +VERS-/-VERS- of TLS1.2 and TLS1.3"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-x509>'}]",
     {"'client'", "'/nowhere'", "''", "true", "true", "'s'"},
     "No secret with id 's'"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-x509>'}]",
     {"'client'", "'/nowhere'", "''", "!no such property"},
     "the TLS object /objects/t cannot be read from QEMU: no such property"},
};

static void test_tls(void)
{
    World w;

    world_init(&w, NULL, NULL);
    set_postcopy(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(tls_rows); i++) {
        g_autofree char *line =
            g_strdup_printf("reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n",
                            tls_rows[i].error);

        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", tls_rows[i].parameters);
        qemu_answers(&w, "qom-list", tls_rows[i].objects);
        for (unsigned j = 0; j < 8 && tls_rows[i].properties[j]; j++) {
            qemu_answers(&w, "qom-get", tls_rows[i].properties[j]);
        }
        sent(&w, line);
    }
    g_assert_null(migration);
    world_clear(&w);
}

static void to_fd_answer(World *w, int fd)
{
    set_postcopy(w);
    command(w, "{'execute':'migrate','arguments':{'uri':'fd:mig'}}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    sent(w, "take-fd mig\n");
    ff_driver_frame(w->driver, FF_LINK_FD_REPLY, 0, 1, "", 0, fd);
}

static char *refusal; /* g_free */
static int given = -1;

static void uffd_came(FfCall *call, JsonNode *result, const GError *error)
{
    refusal = error ? g_strdup(error->message) : NULL;
    given = call->fd;
    call->fd = -1;
    ff_call_return(call, NULL);
}

static void expect_refusal(const char *what)
{
    g_assert_cmpstr(refusal, ==, what);
    g_assert_cmpint(given, ==, -1);
    g_clear_pointer(&refusal, g_free);
}

/* The userfaultfd for synchronous write protection: of an older relay, of one that has none, of one
 * that has it. */
static void test_uffd(void)
{
    World w;

    world_init(&w, NULL, NULL);
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    expect_refusal(
        "no live snapshots: an older farfault has started this guest; they need it to be "
        "started again");
    sent(&w, "");
    world_clear(&w);
    world_lends = true;
    world_init(&w, NULL, NULL);
    world_lends = false;
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    sent(&w, "take-uffd protect\n");
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 1, "not here", strlen("not here"), -1);
    expect_refusal("not here");
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    sent(&w, "take-uffd protect\n");
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 2, "", 0, fd);
    g_assert_null(refusal);
    g_assert_cmpint(given, ==, fd);
    ff_driver_give_uffd(w.driver, given);
    given = -1;
    sent(&w, "give-uffd protect\n");
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    world_clear(&w);
}

static void test_fd(void)
{
    int pair[2], ends[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    g_assert_cmpint(pipe(ends), ==, 0);
    world_init(&w, NULL, NULL);
    to_fd_answer(&w, pair[0]);
    qemu_answers(&w, "query-status", "{'status':'running'}");
    qemu_answers(&w, "query-migrate", "{}");
    sent(&w, "inject {\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"mig\"}}\n");
    ff_driver_frame(w.driver, FF_LINK_INJECT_REPLY, 0, 2, "{\"return\": {}}", 14, -1);
    g_assert_nonnull(strstr(w.out->str, "reply {\"return\": {}}\n"));
    g_assert_cmpint(migration->config.fd, ==, pair[0]);
    world_clear(&w);
    /* A pipe (virsh save) is QEMU's: it still has its own copy. */
    world_init(&w, NULL, NULL);
    to_fd_answer(&w, ends[1]);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_cmpint(fcntl(ends[1], F_GETFD), ==, -1); /* ours is closed */
    world_clear(&w);
    close(pair[1]);
    close(ends[0]);
}

/* The migration is QEMU's, over PEER. */
static void give_back(World *w, const FfStockPeer *peer)
{
    FfMigration *m = migration;

    migration = NULL;
    m->ops.stock(peer, m->ops.opaque);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    qemu_answers(w, "migrate-set-capabilities", "{}");
}

/* QEMU refuses to migrate over the socket that it was given: then it is closed, at both places. */
static void test_fd_refused(void)
{
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, NULL, NULL);
    start_source(&w);
    give_back(&w, &(FfStockPeer){.refused = "why", .fd = pair[0]});
    qemu_answers(&w, "getfd", "{}");
    qemu_answers(&w, "migrate", "!not now");
    qemu_answers(&w, "closefd", "{}");
    g_assert_cmpint(fcntl(pair[0], F_GETFD), ==, -1);
    g_assert_cmpstr(w.log, ==, "farfault: migration source failed: not now");
    close(pair[1]);
    world_clear(&w);
}

/* QEMU's channels to a peer without farfault come by a socket with a name, which does not outlive
 * an engine that ends together with its QEMU. */
static void test_private_name(void)
{
    g_autoptr(GBytes) opening = g_bytes_new_static("x", 1);
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, NULL, NULL);
    start_source(&w);
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_PREEMPT;
    give_back(&w, &(FfStockPeer){.fd = -1,
                                 .channel = ff_channel_new(pair[0], FF_CHANNEL_MAIN),
                                 .opening = opening});
    const Asked *asked = g_queue_peek_head(&w.questions);
    g_autofree char *path =
        g_strdup(json_object_get_string_member(asked->args, "uri") + strlen("unix:"));
    g_autofree char *folder = g_path_get_dirname(path);

    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    ff_driver_last_words(w.driver);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
    qemu_answers(&w, "migrate", "!QEMU has ended");
    close(pair[1]);
    world_clear(&w);
}

static void test_blocked(void)
{
    static const struct {
        const char *status, *info, *desc;
    } rows[] = {
        {"{'status':'inmigrate'}", NULL, "Guest is waiting for an incoming migration"},
        {"{'status':'postmigrate'}", NULL,
         "Can't migrate the vm that was paused due to previous migration"},
        {"{'status':'running'}", "{'blocked-reasons':['b','a']}", "a"},
        {"{'status':'running'}", "{'blocked-reasons':['a','non-migratable device: /x']}",
         "State blocked by non-migratable device '/x'"},
        {"!gone", NULL, "gone"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *expected = g_strdup_printf(
            "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n", rows[i].desc);
        World w;

        world_init(&w, NULL, NULL);
        set_postcopy(&w);
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "query-status", rows[i].status);
        if (rows[i].info) {
            qemu_answers(&w, "query-migrate", rows[i].info);
        }
        sent(&w, expected);
        world_clear(&w);
    }
}

static void test_start_fails(void)
{
    World w;

    world_init(&w, NULL, NULL);
    set_postcopy(&w);
    refuse_start = true;
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(&w, "query-status", "{'status':'running'}");
    qemu_answers(&w, "query-migrate", "{}");
    sent(&w, "filter 3\nfilter 0\n"
             "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Connection refused\"}}\n");
    command(&w, "{'execute':'query-migrate'}");
    qemu_answers(&w, "query-migrate", "{}");
    g_assert_nonnull(strstr(w.out->str, "\"error-desc\": \"Connection refused\""));
    world_clear(&w);
}

/* Listens, and hands the listening socket over when somebody connects. */
static void test_incoming(void)
{
    static uint32_t vcpus[] = {3, 4};
    g_autofree char *dir = g_dir_make_tmp("test-driver-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *line =
        g_strdup_printf("{'execute':'migrate-incoming','arguments':{'uri':'unix:%s'}}", path);
    g_autofree char *expected = g_strdup_printf(
        "reply {\"return\": {\"socket-address\": [{\"path\": \"%s\", \"type\": \"unix\"}]}}\n",
        path);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    int listening = 0;
    socklen_t length = sizeof(listening);
    World w;

    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, line);
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    /* The next engine is to find the socket that a source may wait at. */
    sent(&w, "hold {\"name\": \"incoming:0\"}\n"
             "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "reply {\"return\": {}}\n");
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, expected);
    command(&w, line);
    command(&w, "{'execute':'migrate-start-postcopy'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"The incoming migration has already been started\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Postcopy must be started after migration has been started\"}}\n");
    g_autoptr(GSocketConnection) connection =
        g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, NULL);

    g_assert_nonnull(connection);
    while (g_queue_is_empty(&w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(g_queue_get_length(&w.questions), ==, 3); /* in one go */
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    g_assert_null(migration);
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    g_assert_nonnull(migration);
    g_assert_cmpint(
        getsockopt(migration->config.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length), ==, 0);
    g_assert_cmpint(listening, ==, 1);
    sent(&w, "");
    migration->holds = true;
    command(&w, "{'execute':'cont'}");
    command(&w, "{'execute':'query-status'}");
    command(&w, "{'execute':'system_reset'}");
    sent(&w, "reply {\"return\": {}}\n"
             "reply {\"return\": {\"status\": \"inmigrate\", \"running\": false}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Guest is waiting for an incoming migration\"}}\n");
    g_assert_true(migration->conted);
    migration->holds = false;
    command(&w, "{'execute':'cont'}");
    sent(&w, "pass\n");
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_BLOCKTIME;
    migration->info.n_vcpus = 2;
    migration->info.vcpu_blocktime_ms = vcpus;
    finish(FF_STATUS_COMPLETED);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    rmdir(dir);
    world_clear(&w);
}

/* Two clients begin a migration at once: one of them is late, whichever way QEMU is to go. */
/* --- names that nobody answers for ---------------------------------------------------------- */

#define INCOMING_SLOW                                                                              \
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:" SLOW_NAME ":0'},'id':'in'}"
#define STARTED_ALREADY                                                                            \
    "\"error\": {\"class\": \"GenericError\", \"desc\": "                                          \
    "\"The incoming migration has already been started\"}}\n"

static char *gate; /* of slow-names.h */

/* A destination whose client names a host that is not found yet. */
static int ask_slowly(World *w)
{
    set_postcopy(w);
    command(w, INCOMING_SLOW);
    qemu_answers(w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    return slow_names_await(gate);
}

static void test_name(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    /* Who did not ask for it does not wait; who did waits in order. */
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, "");
    command_of(&w, 1, "{'execute':'query-migrate'}");
    sent(&w, "pass\n"); /* nothing is under way yet */
    close(fd);
    wait_sent(&w);
    g_assert_true(g_str_has_prefix(
        w.out->str, "hold {\"name\": \"incoming:0\"}\n"
                    "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
                    "reply {\"return\": {}, \"id\": \"in\"}\n"
                    "reply {\"return\": {\"socket-address\": [{\"port\": "));
    world_clear(&w);
}

static void test_name_unknown(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    g_assert_cmpint(write(fd, "x", 1), ==, 1);
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"id\": \"in\", \"error\": {\"class\": \"GenericError\", \"desc\": \"address "
             "resolution failed for " SLOW_NAME ":0: Name or service not known\"}}\n");
    world_clear(&w);
}

/* Two clients: the second one's address needs no name. */
static void test_name_overtaken(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    command_of(&w, 1, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    wait_sent(&w);
    sent(&w, "hold {\"name\": \"incoming:0\"}\n"
             "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "reply {\"return\": {}}\n");
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"id\": \"in\", " STARTED_ALREADY);
    world_clear(&w);
}

/* The driver ends, and the answer comes when there is nobody any more. */
static void test_name_driver_ends(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    world_clear(&w);
    close(fd);
    /* The answer is the main loop's to throw away. */
    g_main_context_iteration(NULL, TRUE);
}

/* The relay's own question, -incoming URI: it is answered when somebody listens. */
static void test_name_argument(void)
{
    static const char uri[] = "tcp:" SLOW_NAME ":0";
    World w;

    world_init(&w, uri, NULL);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    int fd = slow_names_await(gate);

    sent(&w, "");
    close(fd);
    wait_sent(&w);
    g_assert_true(g_str_has_suffix(w.out->str, "reply\n"));
    command(&w, "{'execute':'query-migrate'}");
    g_assert_nonnull(strstr(w.out->str, "socket-address"));
    world_clear(&w);
}

/* A source connects to the only address at which W listens, and QEMU says what it is asked. */
static void migration_comes(World *w)
{
    command(w, "{'execute':'query-migrate'}");
    g_autofree char *at = g_strdup(strstr(w->out->str, "\"port\": \""));
    g_autoptr(GSocketClient) client = g_socket_client_new();

    g_assert_nonnull(at);
    g_autoptr(GSocketConnection) connection = g_socket_client_connect_to_host(
        client, "127.0.0.1", (guint16)g_ascii_strtoull(at + strlen("\"port\": \""), NULL, 10), NULL,
        NULL);

    g_assert_nonnull(connection);
    while (g_queue_is_empty(&w->questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    qemu_answers(w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    g_assert_nonnull(migration);
    migration->info.role = FF_ROLE_DESTINATION;
}

/* A migration that is paused, and is to listen at a name. */
static void test_name_recover(void)
{
    static const char uri[] = "tcp:127.0.0.1:0";
    World w;

    world_init(&w, uri, NULL);
    set_postcopy(&w);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    wait_sent(&w);
    g_string_truncate(w.out, 0);
    migration_comes(&w);
    become(FF_STATUS_POSTCOPY_PAUSED);
    g_string_truncate(w.out, 0);
    command(&w, "{'exec-oob':'migrate-recover','arguments':{'uri':'tcp:" SLOW_NAME ":0'}}");
    int fd = slow_names_await(gate);

    sent(&w, "");
    command(&w, "{'execute':'query-migrate'}");
    g_assert_nonnull(strstr(w.out->str, "postcopy-paused"));
    g_string_truncate(w.out, 0);
    g_assert_null(migration->resumed_at);
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_cmpstr(migration->resumed_at, ==, "tcp:" SLOW_NAME ":0");
    world_clear(&w);
}

/* --- an engine before it died while it gave an incoming migration to QEMU -----------------------
 */

/* QEMU's settings are not back yet, and what QEMU's socket has seen until they are. */
typedef struct {
    World w;
    bool works;   /* they can be put back */
    int qemu;     /* QEMU's private socket, which listens */
    bool early;   /* somebody connected to it before they were back */
    gint ended;   /* atomic; this QEMU was ended */
    char *folder; /* of the socket's name */
} GivenBack;

static GivenBack *given_back;

#define NOTHING_COMES_MS 200

static bool undo_settings(FfVmmState *state, GError **error)
{
    struct pollfd p = {.fd = given_back->qemu, .events = POLLIN};

    given_back->early = poll(&p, 1, NOTHING_COMES_MS) != 0;
    if (!given_back->works) {
        g_set_error_literal(error, FF_DRIVER_ERROR, 0, "QEMU does not take them");
        return false;
    }
    /* Observer: the main loop, after this thread was joined. */
    g_clear_pointer(&given_back->w.capabilities, g_free);
    return true;
}

static FfGuestFit check_fits(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                             GError **error)
{
    return FF_GUEST_FITS;
}

static void end_vmm(FfVmmState *state)
{
    g_atomic_int_set(&given_back->ended, true);
    g_main_context_wakeup(NULL);
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* An engine comes that finds a socket to listen on, at which a source waits already (returned), and
 * QEMU that has taken the migration at a socket of its own. */
static int find_given(GivenBack *g)
{
    static const FfStateHeader state = {.role = FF_ROLE_DESTINATION,
                                        .driver_flags = FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK};
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

    g->folder = g_dir_make_tmp("farfault-XXXXXX", NULL);
    g_autofree char *at_engine = g_build_filename(g->folder, "engine", NULL);
    g_autofree char *at_qemu = g_build_filename(g->folder, "incoming", NULL);
    int listener = listen_unix(at_engine), source = connect_unix(at_engine);
    g_autofree char *info =
        g_strdup_printf("{'socket-address': [{'type': 'unix', 'path': '%s'}]}", at_qemu);

    g->qemu = listen_unix(at_qemu);
    g_array_append_val(fds, listener);
    world_prepare(&g->w, &state);
    g->w.capabilities = g_strdup("{}");
    vmm.state.undo = undo_settings;
    vmm.state.abandon = end_vmm;
    vmm.memory.check = check_fits;
    given_back = g;
    g->w.driver = ff_driver_new(&(FfDriverConfig){
        .port = &world_port,
        .port_opaque = &g->w,
        .state = g->w.state,
        .state_fd = -1,
        .pidfd = -1,
        .mem_fd = -1,
        .inner_fd = -1,
        .listener_fd = -1,
        .device_fd = -1,
        .incoming_fds = fds,
    });
    qemu_answers(&g->w, "query-version", "{}");
    qemu_answers(&g->w, "migrate-incoming", "!The incoming migration has already been started");
    qemu_answers(&g->w, "query-migrate", info);
    g_unlink(at_engine);
    return source;
}

static void given_clear(GivenBack *g, int source)
{
    close(source);
    close(g->qemu);
    world_clear(&g->w);
    g_autofree char *at_qemu = g_build_filename(g->folder, "incoming", NULL);
    g_unlink(at_qemu);
    g_rmdir(g->folder);
    g_free(g->folder);
    vmm = (FfVmm){0};
}

/* The source is let through to QEMU when QEMU has its settings back. */
static void test_given_back(void)
{
    GivenBack g = {.works = true};
    int source = find_given(&g);
    char byte = 0;

    g_assert_cmpint(write(source, "Q", 1), ==, 1);
    int fd = -1;
    fcntl(g.qemu, F_SETFL, O_NONBLOCK);
    while ((fd = accept(g.qemu, NULL, NULL)) < 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
    g_assert_cmpint(byte, ==, 'Q');
    g_assert_false(g.early);
    close(fd);
    given_clear(&g, source);
}

/* They cannot be put back, so without its credentials QEMU would take anybody: it takes nobody. */
static void test_given_back_in_vain(void)
{
    GivenBack g = {0};
    int source = find_given(&g);
    struct pollfd p = {.events = POLLIN};

    while (!g_atomic_int_get(&g.ended)) {
        g_main_context_iteration(NULL, TRUE);
    }
    p.fd = g.qemu;
    g_assert_cmpint(poll(&p, 1, 0), ==, 0);
    g_assert_false(g.early);
    g_assert_nonnull(
        strstr(g.w.log, "QEMU's settings for an incoming migration cannot be restored"));
    given_clear(&g, source);
}

static void test_two(void)
{
    static const char *const late = "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                                    "\"There's a migration process in progress\"}}\n";
    static const char *const lines[] = {
        "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}",
        "{'execute':'migrate','arguments':{'uri':'exec:cat'}}",
    };
    World w;

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        bool native = i == 1;

        world_init(&w, NULL, NULL);
        set_postcopy(&w);
        command(&w, lines[0]);
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "query-status", "{'status':'running'}");
        ff_driver_frame(w.driver, FF_LINK_COMMAND, 1, ++w.seq, lines[i], strlen(lines[i]), -1);
        qemu_answers(&w, "query-migrate", "{}");
        g_assert_nonnull(migration);
        g_string_truncate(w.out, 0);
        if (native) {
            qemu_answers(&w, "migrate-set-capabilities", "{}");
        } else {
            qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
            qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
            qemu_answers(&w, "query-status", "{'status':'running'}");
            qemu_answers(&w, "query-migrate", "{}");
        }
        sent(&w, late);
        world_clear(&w);
    }
}

/* One connection, which QEMU is to carry: it is given that one, with multifd, too. */
static void test_incoming_fd(void)
{
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, "{'execute':'migrate-incoming','arguments':{'uri':'fd:mig'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    sent(&w, "take-fd mig\n");
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 1, "", 0, pair[0]);
    ff_driver_frame(w.driver, FF_LINK_INJECT_REPLY, 0, 2, "{\"return\": {}}", 14, -1);
    g_assert_cmpint(write(pair[1], "Q", 1), ==, 1);
    while (g_queue_is_empty(&w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(&w, "query-migrate-capabilities",
                 "[" CAP("xbzrle", "true") "," CAP("multifd", "true") "]");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    qemu_answers(&w, "getfd", "{}");
    qemu_answers(&w, "migrate-incoming", "{}");
    g_assert_null(migration);
    world_clear(&w);
    close(pair[1]);
}

/* A reply for every status, on both sides, fits the schema. */
static void test_every_status(void)
{
    static uint32_t vcpus[] = {3, 4};

    for (int role = FF_ROLE_SOURCE; role <= FF_ROLE_DESTINATION; role++) {
        for (int status = 0; status < FF_STATUS__MAX; status++) {
            World w;

            world_init(&w, NULL, NULL);
            start_source(&w);
            migration->info.role = role;
            migration->info.status = status;
            migration->info.error_desc = (char *)"why";
            migration->info.ram_total = UINT64_C(1) << 40;
            migration->info.mbps = 1.5;
            migration->info.n_vcpus = 2;
            migration->info.vcpu_blocktime_ms = vcpus;
            command(&w, "{'execute':'query-migrate'}");
            const char *text = w.out->str + strlen("reply ");
            g_autoptr(JsonNode) node = ff_json_parse(text, strlen(text), NULL, NULL);
            JsonNode *result = json_object_get_member(json_node_get_object(node), "return");
            g_autofree char *wrong =
                ff_qapi_check(ff_qapi_command("query-migrate")->returns, result);

            g_assert_cmpstr(wrong, ==, NULL);
            g_assert_cmpstr(ff_json_string(json_node_get_object(result), "status"), ==,
                            status == FF_STATUS_NONE ? NULL : names[status]);
            migration->info.error_desc = NULL;
            world_clear(&w);
        }
    }
}

/* Pause, and resume by a URI; QEMU's version decides which statuses the client knows. */
static void test_resume(void)
{
    static const struct {
        const char *version;
        bool setup;
    } rows[] = {
        {"{'qemu':{'major':7,'minor':2,'micro':22},'package':''}", false},
        {"{'qemu':{'major':10,'minor':0,'micro':2},'package':''}", true},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World w;

        world_init(&w, NULL, NULL);
        start_source(&w);
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:2','resume':true}}");
        sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                 "\"Cannot resume if there is no paused migration\"}}\n");
        /* The switch is told first, the pause when the client has gone on. */
        become(FF_STATUS_POSTCOPY_PAUSED);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-active\"}}\n");
        command(&w, "{'execute':'query-migrate'}");
        g_assert_true(g_str_has_prefix(w.out->str, "event \"event\": \"MIGRATION\", \"data\": "
                                                   "{\"status\": \"postcopy-paused\"}}\nreply "));
        g_string_truncate(w.out, 0);
        command(&w, "{'execute':'migrate-recover','arguments':{'uri':'tcp:h:2'}}");
        command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat','resume':true}}");
        sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                 "\"Migrate recover can only be run when postcopy is paused.\"}}\n"
                 "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"a paused migration "
                 "goes on over tcp:HOST:PORT, unix:PATH or fd:NAME only\"}}\n");
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:2','resume':true}}");
        qemu_answers(&w, "query-version", rows[i].version);
        g_assert_cmpstr(migration->resumed_at, ==, "tcp:h:2");
        /* Answered when the destination has agreed. */
        sent(&w, "");
        become(FF_STATUS_POSTCOPY_RECOVER);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-recover\"}}\n");
        migration->ops.sync(migration->ops.opaque);
        sent(&w, "sync\n");
        g_assert_false(migration->synced);
        ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 0, NULL, 0, -1);
        g_assert_true(migration->synced);
        become(FF_STATUS_POSTCOPY_ACTIVE);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-active\"}}\n"
                 "reply {\"return\": {}}\n");
        g_assert_true(migration->recover_setup == rows[i].setup);
        finish(FF_STATUS_COMPLETED);
        world_clear(&w);
    }
}

static void test_envelope(void)
{
    static const struct {
        const char *line, *answer;
    } rows[] = {
        {"{'execute':'migrate','foo':1}", "QMP input member 'foo' is unexpected"},
        {"{'execute':5}", "QMP input member 'execute' must be a string"},
        {"{'execute':'migrate','exec-oob':'migrate'}",
         "QMP input member 'exec-oob' clashes with 'execute'"},
        {"{'execute':'migrate','arguments':[]}", "QMP input member 'arguments' must be an object"},
        {"{'arguments':{}}", "QMP input lacks member 'execute'"},
        {"{'exec-oob':'query-migrate'}", "The command query-migrate does not support OOB"},
    };
    World w;

    world_init(&w, NULL, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *expected = g_strdup_printf(
            "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n", rows[i].answer);

        command(&w, rows[i].line);
        sent(&w, expected);
    }
    command(&w, "{'execute':'migrate'"); /* QEMU says what is wrong */
    command(&w, "{'execute':'somebody-elses'}");
    sent(&w, "pass\npass\n");
    world_clear(&w);
}

/* The client's last word on running, as an engine that adopts finds it. */
static void test_last_word(void)
{
    static const struct {
        FfRole role;
        bool start_paused; /* -S */
        uint32_t flags;
        bool paused;
        FfSaid said; /* before migrate-incoming */
    } rows[] = {
        {FF_ROLE_SOURCE, false, 0, false},
        {FF_ROLE_SOURCE, true, 0, false},
        {FF_ROLE_SOURCE, false, FF_DRIVER_CLIENT_STOP, true},
        {FF_ROLE_SOURCE, true, FF_DRIVER_CLIENT_CONT, false},
        {FF_ROLE_DESTINATION, false, 0, false},
        {FF_ROLE_DESTINATION, true, 0, true},
        {FF_ROLE_DESTINATION, false, FF_DRIVER_CLIENT_STOP, true},
        {FF_ROLE_DESTINATION, true, FF_DRIVER_CLIENT_CONT, false},
        {FF_ROLE_DESTINATION, true, 0, false, FF_SAID_CONT},
        {FF_ROLE_DESTINATION, false, 0, true, FF_SAID_STOP},
        {FF_ROLE_DESTINATION, false, FF_DRIVER_CLIENT_CONT, false, FF_SAID_STOP},
        {FF_ROLE_SOURCE, false, 0, false, FF_SAID_STOP},
    };
    World w;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfStateHeader state = {.role = rows[i].role,
                               .phase = FF_PHASE_STOPPED,
                               .driver_flags = rows[i].flags,
                               .said = rows[i].said};

        world_begin(&w, state, rows[i].start_paused, NULL, NULL);
        g_assert_true(migration->config.start_paused == rows[i].paused);
        world_clear(&w);
    }
    world_init(&w, NULL, NULL);
    start_source(&w);
    command(&w, "{'execute':'stop'}"); /* QEMU's */
    sent(&w, "pass\n");
    g_assert_false(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    migration->holds = true;
    command(&w, "{'execute':'stop'}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    command(&w, "{'execute':'cont'}"); /* refused */
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    migration->holds = false;
    command(&w, "{'execute':'cont'}");
    g_assert_false(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    world_clear(&w);
}

/* Milliseconds until the next timer. */
static int next_timer(void)
{
    GMainContext *context = g_main_context_default();
    GPollFD fds[16];
    int priority, timeout;

    g_assert_true(g_main_context_acquire(context));
    g_main_context_prepare(context, &priority);
    g_main_context_query(context, priority, &timeout, fds, G_N_ELEMENTS(fds));
    g_main_context_release(context);
    return timeout;
}

/* The engine does not end while it waits for QEMU on its own account. */
static void test_own_call(void)
{
    static const char uri[] = "exec:true";
    World w;

    world_init(&w, uri, NULL);
    g_assert_cmpint(next_timer(), <=, (FF_DRIVER_LINGER + 2) * 1000);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 1, uri, strlen(uri), -1);
    sent(&w, "");
    g_assert_cmpint(next_timer(), ==, -1); /* nor does the question end before QEMU answers */
    qemu_answers(&w, "migrate-incoming", "{}");
    sent(&w, "reply\n"); /* QEMU listens */
    g_assert_cmpint(next_timer(), <=, (FF_DRIVER_LINGER + 2) * 1000);
    world_clear(&w);
}

/* QEMU takes its time, and the client has gone: the memory is dropped all the same. */
static void test_object_del(void)
{
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'object-del','arguments':{'id':'m'}}");
    g_assert_cmpint(next_timer(), ==, -1); /* no deadline */
    ff_driver_frame(w.driver, FF_LINK_CLIENT_GONE, 0, 0, "", 0, -1);
    qemu_answers(&w, "object-del", "{}");
    sent(&w, "other ram:m\n");
    g_assert_cmpstr(w.dropped, ==, "m");
    world_clear(&w);
}

/* What only QEMU can read is not for it while a migration is under way. */
static void test_unread(void)
{
    static const char *const hmp[] = {
        "savevm/x", "cont/", "stop x", "migrate \\\"tcp:h:1", "migrate -x tcp:h:1",
    };
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'cont','id':'\\u0000'}");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'cont/'}}");
    sent(&w, "pass\npass\n");
    start_source(&w);
    migration->holds = true;
    command(&w, "{'execute':'cont','id':'\\u0000'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"The command could not be "
             "read while a migration is under way\"}}\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(hmp); i++) {
        g_autofree char *line =
            g_strdup_printf("{\"execute\":\"human-monitor-command\",\"arguments\":"
                            "{\"command-line\":\"%s\"}}",
                            hmp[i]);

        command(&w, line);
        g_assert_true(g_str_has_prefix(w.out->str, "reply {\"return\": \"Error: "));
        g_string_truncate(w.out, 0);
    }
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'\\u000bcont'}}");
    sent(&w, "reply {\"return\": \"Error: Migration is not finalized yet\\r\\n\"}\n");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'info nothing'}}");
    sent(&w, "pass\n");
    world_clear(&w);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-driver-XXXXXX", NULL);

    gate = g_build_filename(dir, "gate", NULL);
    g_assert_cmpint(mkfifo(gate, 0600), ==, 0);
    g_setenv(SLOW_NAMES_GATE, gate, TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/driver/capabilities", test_capabilities);
    g_test_add_func("/driver/refused", test_refused);
    g_test_add_func("/driver/refused/long", test_refused_long);
    g_test_add_func("/driver/refused/disk", test_refused_disk);
    g_test_add_func("/driver/refused/required", test_refused_required);
    g_test_add_func("/driver/order", test_order);
    g_test_add_func("/driver/envelope", test_envelope);
    g_test_add_func("/driver/last-word", test_last_word);
    g_test_add_func("/driver/own-call", test_own_call);
    g_test_add_func("/driver/object-del", test_object_del);
    g_test_add_func("/driver/unread", test_unread);
    g_test_add_func("/driver/source", test_source);
    g_test_add_func("/driver/resume", test_resume);
    g_test_add_func("/driver/view", test_view);
    g_test_add_func("/driver/view/meanwhile", test_view_meanwhile);
    g_test_add_func("/driver/native", test_native);
    g_test_add_func("/driver/fd", test_fd);
    g_test_add_func("/driver/uffd", test_uffd);
    g_test_add_func("/driver/fd/refused", test_fd_refused);
    g_test_add_func("/driver/private-name", test_private_name);
    g_test_add_func("/driver/tls", test_tls);
    g_test_add_func("/driver/blocked", test_blocked);
    g_test_add_func("/driver/start-fails", test_start_fails);
    g_test_add_func("/driver/incoming", test_incoming);
    g_test_add_func("/driver/incoming/fd", test_incoming_fd);
    g_test_add_func("/driver/name", test_name);
    g_test_add_func("/driver/name/unknown", test_name_unknown);
    g_test_add_func("/driver/name/overtaken", test_name_overtaken);
    g_test_add_func("/driver/name/driver-ends", test_name_driver_ends);
    g_test_add_func("/driver/name/argument", test_name_argument);
    g_test_add_func("/driver/name/recover", test_name_recover);
    g_test_add_func("/driver/given-back", test_given_back);
    g_test_add_func("/driver/given-back/in-vain", test_given_back_in_vain);
    g_test_add_func("/driver/two", test_two);
    g_test_add_func("/driver/every-status", test_every_status);
    int rc = g_test_run();

    g_unlink(gate);
    g_rmdir(dir);
    g_free(gate);
    return rc;
}
