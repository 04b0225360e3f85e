/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See driver-world.h. */
#include "tests/unit/driver-world.h"
#include "migration/restore-file.h"
#include "migration/states.h"
#include <string.h>
#include <unistd.h>

#include "qapi/json.h"
#include "uffd/lift.h"

/* ---- the migration --------------------------------------------------------------------------- */

FfMigration *migration;
bool refuse_start;

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

bool ff_state_is_final(FfStatus status)
{
    return status == FF_STATUS_COMPLETED || status == FF_STATUS_FAILED ||
           status == FF_STATUS_CANCELLED;
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

bool ff_restore_file_is_mapped(int fd, int64_t offset)
{
    return false;
}

const char *ff_restore_file_doubt(int fd, const char *path, int64_t offset)
{
    return "no migrations here";
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

bool ff_migration_frees_uffd(const FfMigration *m)
{
    return true;
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

bool ff_migration_is_restore(FfMigration *m)
{
    return false;
}

void ff_migration_hurry(FfMigration *m)
{
}

bool ff_migration_recover_file(FfMigration *m, const char *path, GError **error)
{
    g_assert_not_reached();
}

bool ff_migration_recover_dump(FfMigration *m, const char *path, GError **error)
{
    g_assert_not_reached();
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

FfStopSaid ff_migration_client_stop(FfMigration *m, bool *holds, GError **error)
{
    m->conted = m->conted && !m->holds;
    *holds = m->holds;
    return m->moves ? FF_STOP_LATER : m->holds ? FF_STOP_STANDS : FF_STOP_IS_VMMS;
}

void ff_migration_words_heard(FfMigration *m)
{
    m->words_heard = true;
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

void become(FfStatus status)
{
    migration->info.status = status;
    migration->ops.status(status, migration->ops.opaque);
}

void finish(FfStatus status)
{
    FfMigration *m = migration;

    become(status);
    migration = NULL;
    m->ops.done(m->ops.opaque);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

typedef struct {
    FfLiftDone *done;
    void *opaque;
} Lift;

static gboolean lifted(gpointer p)
{
    g_autofree Lift *l = p;

    l->done(NULL, l->opaque);
    return G_SOURCE_REMOVE;
}

/* No case has memory. */
void ff_lift_start(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n, FfLiftDone *done,
                   void *opaque)
{
    Lift l = {done, opaque};

    g_idle_add(lifted, g_memdup2(&l, sizeof(l)));
}

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

static void world_log(void *opaque, const char *line)
{
    World *w = opaque;

    g_free(w->log);
    w->log = g_strdup(line);
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
    .vmm = world_vmm,
    .log = world_log,
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

bool world_lends;
int world_pid;

void world_begin(World *w, FfStateHeader state, bool start_paused, const char *incoming,
                 const char *refused)
{
    world_prepare(w, &state);
    w->driver = ff_driver_new(&(FfDriverConfig){
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
        .discard_fd = -1,
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
