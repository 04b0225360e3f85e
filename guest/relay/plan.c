/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading of the launcher's plan. The launcher is the relay's own parent and trusted; the
 * checks here catch a launcher of another version. One thread, once, at the start.
 */
#include "guest/relay/plan.h"

#include <errno.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/succession.h"
#include "guest/relay/vhost-rest.h"
#include "qmp/json.h"

static char *read_all(int fd, gsize *len, GError **error)
{
    struct stat st;
    g_autofree char *text = NULL;
    size_t done = 0;

    if (fstat(fd, &st) < 0 || st.st_size > 16 << 20) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "the plan cannot be read");
        return NULL;
    }
    text = g_malloc(st.st_size + 1);
    while (done < (size_t)st.st_size) {
        ssize_t n = pread(fd, text + done, st.st_size - done, done);

        if (n <= 0 && errno != EINTR) {
            g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_IO, "the plan cannot be read");
            return NULL;
        }
        done += MAX(n, 0);
    }
    *len = done;
    return g_steal_pointer(&text);
}

static int get_fd(FfRelayPlan *plan, JsonObject *o, const char *name)
{
    int fd = ff_json_int(o, name, -1);

    if (fd >= 0) {
        g_array_append_val(plan->fds, fd);
    }
    return fd;
}

static char *get_text(JsonObject *o, const char *name)
{
    return g_strdup(ff_json_string(o, name));
}

static void close_fd(gpointer fd)
{
    close(GPOINTER_TO_INT(fd));
}

static GHashTable *read_named(FfRelayPlan *plan, JsonObject *session)
{
    GHashTable *named = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, close_fd);
    JsonNode *node = json_object_get_member(session, "named-fds");
    g_autoptr(GList) names = node && JSON_NODE_HOLDS_OBJECT(node)
                                 ? json_object_get_members(json_node_get_object(node))
                                 : NULL;

    for (GList *l = names; l; l = l->next) {
        int fd = get_fd(plan, json_node_get_object(node), l->data);

        g_hash_table_insert(named, g_strdup(l->data), GINT_TO_POINTER(fd));
    }
    return named;
}

static FfRelaySession *read_session(FfRelayPlan *plan, JsonObject *monitor)
{
    JsonNode *node = json_object_get_member(monitor, "session");

    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        return NULL;
    }
    JsonObject *o = json_node_get_object(node);
    FfRelaySession *session = g_new0(FfRelaySession, 1);

    session->in = get_fd(plan, o, "in");
    session->out = ff_json_int(o, "out", -1);
    if (session->out != session->in) {
        session->out = get_fd(plan, o, "out");
    }
    session->qemu = get_fd(plan, o, "qemu");
    session->negotiated = ff_json_bool(o, "negotiated");
    session->oob_enabled = ff_json_bool(o, "oob-enabled");
    session->qemu_oob = ff_json_bool(o, "qemu-oob");
    session->greeting = get_text(o, "greeting");
    session->named_fds = read_named(plan, o);
    return session;
}

/* FALSE: it is not understood. */
static bool read_backend(FfRelayPlan *plan, JsonObject *monitor, FfRelayBackend **had)
{
    JsonNode *node = json_object_get_member(monitor, "vhost");

    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        return !node;
    }
    JsonObject *o = json_node_get_object(node);
    FfRelayBackend *backend = *had = g_new0(FfRelayBackend, 1);

    backend->backend = get_fd(plan, o, "backend");
    backend->qemu = get_fd(plan, o, "qemu");
    backend->cannot_wait = ff_json_bool(o, "cannot-wait");
    backend->rest = ff_vhost_rest_read(o, plan->fds);
    return backend->backend >= 0 && backend->qemu >= 0 && backend->rest;
}

/* FALSE: it is not understood. */
static bool read_known(JsonObject *monitor, FfVhostKnown **known, pid_t *pid)
{
    JsonObject *o = ff_json_object(monitor, "known");

    *pid = o ? (pid_t)ff_json_int(o, "pid", 0) : 0;

    *known = o ? ff_vhost_known_read(o) : NULL;
    return *known || !json_object_has_member(monitor, "known");
}

static FfRelayMonitor *read_monitor(FfRelayPlan *plan, JsonObject *o, GError **error)
{
    static const char *const kinds[] = {"listen", "connected", "connect-unix", "connect-tcp",
                                        "stdio",  "spare",     "door",         NULL};
    FfRelayMonitor *mon = g_new0(FfRelayMonitor, 1);
    g_autofree char *kind = get_text(o, "kind");
    struct stat st;

    mon->id = get_text(o, "id");
    mon->qemu = get_fd(plan, o, "qemu");
    mon->fd = get_fd(plan, o, "fd");
    mon->in = get_fd(plan, o, "in");
    mon->out = get_fd(plan, o, "out");
    mon->path = get_text(o, "path");
    mon->abstract = ff_json_bool(o, "abstract");
    mon->host = get_text(o, "host");
    mon->port = get_text(o, "port");
    mon->reconnect = ff_json_int(o, "reconnect", 0);
    mon->unlink = get_text(o, "unlink");
    mon->backend = ff_json_bool(o, "backend");
    mon->network = ff_json_bool(o, "network");
    mon->followed = ff_json_bool(o, "followed");
    mon->in_qemu = ff_json_int(o, "in-qemu", -1);
    mon->spare = !g_strcmp0(kind, "spare");
    mon->session = read_session(plan, o);
    if (!read_backend(plan, o, &mon->had) || !read_known(o, &mon->known, &mon->known_pid)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "what is left of back-end '%s' is not understood", mon->id);
        return mon;
    }
    if (mon->backend) {
        /* QEMU waits for a connection, where it would have made one itself. */
        mon->reconnect = MAX(mon->reconnect, 1);
    }
    if (mon->unlink && stat(mon->unlink, &st) == 0) {
        mon->unlink_dev = st.st_dev;
        mon->unlink_ino = st.st_ino;
    }
    if (json_object_has_member(o, "unlink-ino")) {
        /* The file was made long ago, and another one may be there now. */
        mon->unlink_dev = (dev_t)ff_json_int(o, "unlink-dev", 0);
        mon->unlink_ino = (ino_t)ff_json_int(o, "unlink-ino", 0);
    }
    for (int i = 0; kind && kinds[i]; i++) {
        if (!strcmp(kind, kinds[i])) {
            mon->kind = i;
            return mon;
        }
    }
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                "the plan has a monitor of the unknown kind '%s'", kind ? kind : "");
    return mon;
}

static bool read_monitors(FfRelayPlan *plan, JsonObject *root, GError **error)
{
    JsonArray *array = ff_json_array(root, "monitors");
    GError *wrong = NULL;

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        FfRelayMonitor *mon = read_monitor(plan, json_array_get_object_element(array, i), &wrong);

        g_ptr_array_add(mon->backend ? plan->backends : plan->monitors, mon);
        if (wrong) {
            g_propagate_error(error, wrong);
            return false;
        }
    }
    return true;
}

static void read_ram(FfRelayPlan *plan, JsonObject *root)
{
    JsonArray *array = ff_json_array(root, "ram");

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonObject *o = json_array_get_object_element(array, i);
        FfRelayRam *ram = g_new0(FfRelayRam, 1);

        ram->id = get_text(o, "id");
        ram->size = ff_json_int(o, "size", 0);
        ram->page_size = ff_json_int(o, "page-size", 4096);
        ram->fd = get_fd(plan, o, "fd");
        g_ptr_array_add(plan->ram, ram);
    }
}

static void read_names(FfRelayPlan *plan, JsonObject *root)
{
    JsonArray *array = ff_json_array(root, "names");

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonObject *o = json_array_get_object_element(array, i);
        FfRelayName *name = g_new0(FfRelayName, 1);

        name->now = get_text(o, "now");
        name->then = get_text(o, "then");
        name->dev = (dev_t)ff_json_int(o, "dev", 0);
        name->ino = (ino_t)ff_json_int(o, "ino", 0);
        g_ptr_array_add(plan->names, name);
    }
}

static void read_given(FfRelayPlan *plan, JsonObject *root)
{
    JsonArray *array = ff_json_array(root, "given");

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonObject *o = json_array_get_object_element(array, i);
        FfRelayGiven given = {(int)ff_json_int(o, "number", -1), get_fd(plan, o, "fd")};

        if (given.fd >= 0) {
            g_array_append_val(plan->given, given);
        }
    }
}

static void read_held(FfRelayPlan *plan, JsonObject *root)
{
    JsonArray *array = ff_json_array(root, "held");

    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonNode *node = json_array_get_element(array, i);
        JsonObject *o = json_node_get_object(node);
        FfRelayHeld *held = g_new0(FfRelayHeld, 1);

        held->name = get_text(o, "name");
        held->fd = get_fd(plan, o, "fd");
        json_object_remove_member(o, "fd");
        held->json = json_to_string(node, FALSE);
        g_ptr_array_add(plan->held, held);
    }
}

static void read_numbers(JsonObject *o, const char *name, int32_t *numbers)
{
    JsonArray *array = ff_json_array(o, name);

    for (unsigned i = 0; i < FF_KINDS; i++) {
        bool is_there = array && i < json_array_get_length(array);
        numbers[i] = is_there ? (int32_t)json_array_get_int_element(array, i) : -1;
    }
}

/* FALSE: what another relay has left is not understood here. */
static bool read_agent(FfRelayPlan *plan, JsonObject *root)
{
    JsonNode *node = json_object_get_member(root, "agent");
    unsigned n = FF_AGENT_FD_UFFDS;

    if (ff_json_int(root, "succession", 0) > FF_SUCCESSION_VERSION) {
        return false;
    }
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        return plan->succeeds < 0;
    }
    JsonObject *o = json_node_get_object(node);
    JsonArray *fds = ff_json_array(o, "fds");
    FfRelayAgent *agent = g_new0(FfRelayAgent, 1);

    agent->hello = (FfAgentHello){.magic = FF_AGENT_MAGIC,
                                  .version = FF_AGENT_VERSION,
                                  .pid = plan->qemu_pid,
                                  .hook_error = (int32_t)ff_json_int(o, "hook-error", 0),
                                  .hook_kept = (int32_t)ff_json_int(o, "hook-kept", -1)};
    read_numbers(o, "errors", agent->hello.error);
    read_numbers(o, "kept", agent->hello.kept);
    for (unsigned i = 0; fds && i < json_array_get_length(fds) && i < FF_AGENT_MAX_FDS; i++) {
        int fd = (int)json_array_get_int_element(fds, i);

        agent->fds[agent->n_fds++] = fd;
        g_array_append_val(plan->fds, fd);
    }
    for (unsigned i = 0; i < FF_KINDS; i++) {
        n += agent->hello.error[i] == 0;
    }
    plan->agent = agent;
    return agent->n_fds == n + !agent->hello.hook_error;
}

static FfPolicy read_policy(JsonObject *root)
{
    g_autofree char *text = get_text(root, "policy");

    return !g_strcmp0(text, "always")  ? FF_POLICY_ALWAYS
           : !g_strcmp0(text, "never") ? FF_POLICY_NEVER
                                       : FF_POLICY_AUTO;
}

static FfUntracked read_untracked(JsonObject *root)
{
    g_autofree char *text = get_text(root, "untracked");

    return !g_strcmp0(text, "postcopy") ? FF_UNTRACKED_POSTCOPY
           : !g_strcmp0(text, "wait")   ? FF_UNTRACKED_WAIT
                                        : FF_UNTRACKED_QEMU;
}

static FfRestoreWish read_restore(JsonObject *root)
{
    g_autofree char *text = get_text(root, "restore");

    return !g_strcmp0(text, "lazy") ? FF_RESTORE_LAZY : FF_RESTORE_EAGER;
}

FfRelayPlan *ff_relay_plan_read(int fd, GError **error)
{
    FfRelayPlan *plan = g_new0(FfRelayPlan, 1); /* lives as long as the process */
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    JsonObject *root;
    gsize len;

    text = read_all(fd, &len, error);
    close(fd);
    if (!text) {
        return NULL;
    }
    text[len] = 0;
    node = json_from_string(text, error);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        if (error && !*error) {
            g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "the plan is no JSON object");
        }
        return NULL;
    }
    root = json_node_get_object(node);
    plan->text = g_steal_pointer(&text);
    plan->fds = g_array_new(FALSE, FALSE, sizeof(int));
    plan->monitors = g_ptr_array_new();
    plan->backends = g_ptr_array_new();
    plan->ram = g_ptr_array_new();
    plan->names = g_ptr_array_new();
    plan->given = g_array_new(FALSE, FALSE, sizeof(FfRelayGiven));
    plan->held = g_ptr_array_new();
    plan->qemu_pid = ff_json_int(root, "qemu-pid", 0);
    plan->agent_fd = get_fd(plan, root, "agent-fd");
    plan->ready_fd = get_fd(plan, root, "ready-fd");
    plan->stderr_fd = get_fd(plan, root, "stderr-fd");
    plan->state_fd = get_fd(plan, root, "state-fd");
    plan->taps_fd = get_fd(plan, root, "taps-fd");
    plan->other_fd = get_fd(plan, root, "other-fd");
    plan->other_door = get_fd(plan, root, "other-door");
    plan->front_fd = get_fd(plan, root, "front-fd");
    plan->front_door = get_fd(plan, root, "front-door");
    plan->door_inner = get_fd(plan, root, "door-inner");
    plan->door = get_fd(plan, root, "door");
    plan->other_stays = ff_json_bool(root, "other-stays");
    plan->succeeds = get_fd(plan, root, "succeeds");
    plan->qemu_monitor = get_fd(plan, root, "qemu-monitor");
    plan->engine = get_text(root, "engine");
    plan->name = get_text(root, "name");
    plan->userfault_fix = get_text(root, "userfault-fix");
    plan->incoming = get_text(root, "incoming");
    plan->engine_refused = get_text(root, "engine-refused");
    plan->policy = read_policy(root);
    plan->untracked = read_untracked(root);
    plan->restore = read_restore(root);
    plan->daemonize = ff_json_bool(root, "daemonize");
    plan->start_paused = ff_json_bool(root, "start-paused");
    plan->incoming_taken = ff_json_bool(root, "incoming-taken");
    plan->attached = ff_json_bool(root, "attached");
    plan->borrowed = ff_json_bool(root, "borrowed");
    if (json_object_has_member(root, "command-line")) {
        plan->command_line = json_to_string(json_object_get_member(root, "command-line"), FALSE);
    }
    read_ram(plan, root);
    read_names(plan, root);
    read_given(plan, root);
    read_held(plan, root);
    if (!read_agent(plan, root)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "the relay before this one is of a newer farfault");
        return NULL;
    }
    if (!read_monitors(plan, root, error)) {
        return NULL;
    }
    if (plan->qemu_pid <= 0 || !plan->engine) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "the plan lacks \"qemu-pid\" or \"engine\"");
        return NULL;
    }
    return plan;
}
