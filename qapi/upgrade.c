/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The change of a guest's QEMU as farfault upgrade asks for it (docs/design/upgrade.md): memory is
 * lent, then the guest is handed over by one QEMU and taken over by the other. For clients that
 * look it is a migration at either.
 *
 * Main loop's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/pidfd.h"
#include "base/rights.h"
#include "migration/upgrade/link.h"
#include "qapi/driver-private.h"
#include "qapi/driver.h"
#include "qapi/upgrade-ptys.h"
#include "qapi/upgrade-taps.h"

/* ---- memory that is borrowed ----------------------------------------------------------------- */

bool ff_upgrade_refuses(FfCall *call)
{
    static const char *const touching[] = {"migrate",
                                           "migrate-incoming",
                                           "x-farfault-restore",
                                           "x-farfault-snapshot",
                                           "x-farfault-lend",
                                           "x-farfault-hand-over",
                                           NULL};

    /* What a client says when it has come here with the guest waits for the end. */
    if (ff_driver_has_guest(call->driver) || !g_strv_contains(touching, call->name)) {
        return false;
    }
    ff_call_error(call, "this QEMU was started to take over a guest that another QEMU runs: its "
                        "memory is not its own yet");
    return true;
}

bool ff_driver_is_guarded(const FfDriver *d)
{
    return ff_state_is_guarded(d->config.state);
}

/* ---- lending --------------------------------------------------------------------------------- */

static void add_thing(JsonBuilder *b, const char *id, GArray *fds, int fd)
{
    json_builder_set_member_name(b, "id");
    json_builder_add_string_value(b, id);
    g_array_append_val(fds, fd);
}

static void begin_things(JsonBuilder *b, const char *name)
{
    json_builder_set_member_name(b, name);
    json_builder_begin_array(b);
}

static void add_only(JsonBuilder *b, const char *id, GArray *fds, int fd)
{
    json_builder_begin_object(b);
    add_thing(b, id, fds, fd);
    json_builder_end_object(b);
}

/* DEVICES: JSON objects, char *. */
static void add_devices(JsonBuilder *b, const GPtrArray *devices)
{
    begin_things(b, "backends");
    for (guint i = 0; i < devices->len; i++) {
        JsonNode *node = ff_json_from_text(devices->pdata[i]);

        if (node) {
            json_builder_add_value(b, node);
        }
    }
    json_builder_end_array(b);
}

/* The process that others know the guest by: the one behind which this QEMU runs; or this one, if
 * it STAYS. */
static void add_front(FfDriver *d, JsonBuilder *b, GArray *fds, bool stays)
{
    int front = d->config.front >= 0 ? d->config.front : stays ? d->config.pidfd : -1;
    int door = d->config.front >= 0 ? d->config.front_door : d->config.door;

    if (front >= 0) {
        add_only(b, "front", fds, front);
    }
    if (front >= 0 && door >= 0) {
        add_only(b, "front-door", fds, door);
    }
}

/* Two QEMUs wait at a socket that listens for a moment: who comes second must not wait in accept().
 * The sockets that it makes do not inherit that. */
static void set_nonblocking(int fd)
{
    int listens = 0, flags = fcntl(fd, F_GETFL);
    socklen_t len = sizeof(listens);

    if (flags >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens) {
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    }
}

/* What guest/launch/inherit.h reads. TAPS: of FfInheritedTap, PTYS: of FfInheritedPty. */
static char *describe_guest(FfDriver *d, GArray *taps, GArray *ptys, const GPtrArray *devices,
                            GArray *fds, bool stays)
{
    FfVmmMemory *memory = &d->config.port->vmm(d->config.port_opaque)->memory;
    GPtrArray *blocks = memory->blocks(memory);
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    begin_things(b, "ram");
    for (guint i = 0; i < blocks->len; i++) {
        const FfRamBlock *block = blocks->pdata[i];

        json_builder_begin_object(b);
        add_thing(b, block->id, fds, block->memfd);
        json_builder_set_member_name(b, "size");
        json_builder_add_int_value(b, (gint64)block->size);
        json_builder_set_member_name(b, "page-size");
        json_builder_add_int_value(b, (gint64)block->page_size);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    begin_things(b, "monitors");
    for (guint i = 0; d->config.listening && i < d->config.listening->len; i++) {
        const FfInheritedMonitor *monitor = d->config.listening->pdata[i];

        add_only(b, monitor->id, fds, monitor->fd);
    }
    json_builder_end_array(b);
    begin_things(b, "taps");
    for (guint i = 0; i < taps->len; i++) {
        const FfInheritedTap *tap = &g_array_index(taps, FfInheritedTap, i);

        add_only(b, tap->name, fds, tap->fd);
    }
    json_builder_end_array(b);
    begin_things(b, "qemu");
    add_only(b, "pidfd", fds, d->config.pidfd);
    if (d->config.door >= 0) {
        add_only(b, "door", fds, d->config.door);
    }
    add_front(d, b, fds, stays);
    json_builder_end_array(b);
    begin_things(b, "given");
    for (guint i = 0; d->config.given && i < d->config.given->len; i++) {
        const FfGiven *given = &g_array_index(d->config.given, FfGiven, i);
        g_autofree char *number = g_strdup_printf("%d", given->number);

        set_nonblocking(given->fd);
        add_only(b, number, fds, given->fd);
    }
    json_builder_end_array(b);
    begin_things(b, "ptys");
    for (guint i = 0; i < ptys->len; i++) {
        const FfInheritedPty *pty = &g_array_index(ptys, FfInheritedPty, i);

        add_only(b, pty->id, fds, pty->fd);
    }
    json_builder_end_array(b);
    add_devices(b, devices);
    json_builder_set_member_name(b, "stays");
    json_builder_add_boolean_value(b, stays && d->config.front < 0);
    json_builder_end_object(b);
    g_autoptr(JsonNode) root = json_builder_get_root(b);
    return json_to_string(root, FALSE);
}

/* What was said to farfault run, or set since, and is not QEMU's. */
static void add_options(JsonBuilder *b, const FfStateHeader *state, const char *vhost_user)
{
    static const char *const policies[] = {[FF_POLICY_AUTO] = "--policy=auto",
                                           [FF_POLICY_ALWAYS] = "--policy=always",
                                           [FF_POLICY_NEVER] = "--policy=never"};
    static const char *const untracked[] = {[FF_UNTRACKED_QEMU] = "--untracked=qemu",
                                            [FF_UNTRACKED_POSTCOPY] = "--untracked=postcopy",
                                            [FF_UNTRACKED_WAIT] = "--untracked=wait"};

    json_builder_set_member_name(b, "options");
    json_builder_begin_array(b);
    json_builder_add_string_value(b, policies[MIN(state->policy, G_N_ELEMENTS(policies) - 1)]);
    json_builder_add_string_value(b, untracked[MIN(state->untracked, G_N_ELEMENTS(untracked) - 1)]);
    json_builder_add_string_value(b, state->restore == FF_RESTORE_LAZY ? "--restore=lazy"
                                                                       : "--restore=eager");
    if (vhost_user) {
        g_autofree char *option = g_strconcat("--vhost-user=", vhost_user, NULL);

        json_builder_add_string_value(b, option);
    }
    json_builder_end_array(b);
}

static void add_actions(JsonBuilder *b, const FfStateHeader *state)
{
    static const char *const kinds[FF_ACTIONS] = FF_ACTION_KINDS, *const values[] =
                                                                      FF_ACTION_VALUES;

    begin_things(b, "actions");
    for (unsigned i = 0; i < FF_ACTIONS; i++) {
        unsigned value = state->actions[i];

        if (value && value <= G_N_ELEMENTS(values)) {
            g_autofree char *text = g_strdup_printf("%s=%s", kinds[i], values[value - 1]);

            json_builder_add_string_value(b, text);
        }
    }
    json_builder_end_array(b);
}

/* As FfVmmMemory.devices_known(); no migration is under way. */
static GPtrArray *devices_of(FfDriver *d, bool are_lent, GError **error)
{
    FfVmmMemory *memory = &d->config.port->vmm(d->config.port_opaque)->memory;

    return memory->devices_known ? memory->devices_known(memory, are_lent, error)
                                 : g_ptr_array_new();
}

static JsonNode *is_lent(FfDriver *d)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "pid");
    json_builder_add_int_value(b, d->config.qemu_pid);
    if (d->config.command_line) {
        json_builder_set_member_name(b, "command-line");
        json_builder_begin_array(b);
        for (char *const *word = d->config.command_line; *word; word++) {
            json_builder_add_string_value(b, *word);
        }
        json_builder_end_array(b);
    }
    add_options(b, d->config.state, d->config.vhost_user);
    if (d->config.front >= 0) {
        json_builder_set_member_name(b, "front");
        json_builder_add_int_value(b, ff_pidfd_pid(d->config.front));
    }
    begin_things(b, "given");
    for (guint i = 0; d->config.given && i < d->config.given->len; i++) {
        json_builder_add_int_value(b, g_array_index(d->config.given, FfGiven, i).number);
    }
    json_builder_end_array(b);
    json_builder_set_member_name(b, "leaves-back-ends");
    json_builder_add_boolean_value(b, d->config.leaves_backends);
    add_actions(b, d->config.state);
    json_builder_end_object(b);
    return json_builder_get_root(b);
}

/* Of QEMU's own copy of what the client passed. */
static void close_qemus_copy(FfCall *call, FfCallInner next)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", call->target.name);
    ff_call_inject(call, "closefd", args, next);
}

/* What the relay has said of devices is what was lent: it is not asked once more. */
static void lend_over(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_return(call, is_lent(call->driver));
}

/* Nothing is lent yet; or why it cannot be. */
static void say_what_is_lent(FfCall *call)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) devices = devices_of(call->driver, false, &error);

    if (devices) {
        ff_call_return(call, is_lent(call->driver));
    } else {
        ff_call_error(call, "%s", error->message);
    }
}

/* A front without a relay of its own would not hear of the QEMU after this one, and nobody would
 * end it. */
static bool can_stay(const FfCall *call)
{
    return !ff_json_bool(call->args, "keep-process") || call->driver->config.front >= 0 ||
           call->driver->config.door >= 0;
}

static void lend_all(FfCall *call, JsonNode *chardevs, const GError *failed)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

    const FfDriverConfig *config = &call->driver->config;
    g_autoptr(GError) error = NULL;
    if (failed) {
        ff_call_gerror(call, failed);
        return;
    }
    if (!can_stay(call)) {
        ff_call_error(call, "this process cannot stay: its relay has no room for a socket");
        return;
    }
    g_autoptr(GPtrArray) devices = devices_of(call->driver, true, &error);
    if (!devices) {
        ff_call_error(call, "%s", error->message);
        return;
    }
    g_autoptr(GArray) taps = ff_upgrade_taps(config->qemu_pid, config->pidfd);
    g_autoptr(GArray) ptys = ff_upgrade_ptys(config->qemu_pid, config->pidfd, chardevs);
    g_autofree char *text = describe_guest(call->driver, taps, ptys, devices, fds,
                                           ff_json_bool(call->args, "keep-process"));
    ssize_t n = fds->len > FF_RIGHTS_MAX ? -EMSGSIZE
                                         : ff_rights_send(call->fd, text, strlen(text),
                                                          (int *)(void *)fds->data, fds->len);

    if (n != (ssize_t)strlen(text)) {
        ff_call_error(call, "guest memory cannot be lent: %s",
                      n < 0 ? g_strerror((int)-n) : "the socket is too small");
        return;
    }
    close_qemus_copy(call, lend_over);
}

static void lend_guest(FfCall *call)
{
    if (call->fd < 0) {
        ff_call_error(call, "File descriptor named '%s' has not been found", call->target.name);
        return;
    }
    ff_call_inner(call, "query-chardev", NULL, lend_all);
}

static const char *refusal_reason(FfDriver *d)
{
    const char *why = ff_driver_refusal(d);

    return why ? why
           : d->migration || d->outgoing
               ? "another migration, snapshot or upgrade of this guest is under way"
               : NULL;
}

void ff_handle_lend(FfCall *call)
{
    const char *name = ff_json_string(call->args, "fdname");
    const char *why = refusal_reason(call->driver);

    if (ff_call_when_over(call, ff_handle_lend) ||
        ff_call_when_guest_is_here(call, ff_handle_lend)) {
        return;
    }
    if (why) {
        ff_call_error(call, "%s", why);
    } else if (!name) {
        say_what_is_lent(call);
    } else {
        call->target.name = g_strdup(name);
        ff_call_take_fd(call, name, lend_guest);
    }
}

/* ---- handing over, taking over --------------------------------------------------------------- */

static void on_plain(FfDriver *d, const FfPlainPeer *peer)
{
    g_assert_not_reached(); /* FfMigrationConfig.plain is false */
}

static void on_active(FfDriver *d)
{
}

static void give_back(FfDriver *d, bool is_free)
{
    int uffd = g_steal_fd(&d->snapshot_uffd);

    if (uffd >= 0 && is_free) {
        ff_driver_give_uffd(d, uffd);
    } else if (uffd >= 0) {
        ff_driver_lose_uffd(d, uffd);
    }
}

/* Ports of the guest that are open: the guest says so when its devices have been loaded, which may
 * be before any client is there. libvirt connects to a guest agent only when it hears of it. */
void ff_driver_qemu_said(FfDriver *d, const char *name, JsonObject *event)
{
    if (strcmp(name, "VSERPORT_CHANGE") || !d->migration || d->start_ops != &ff_upgrade_ops ||
        d->config.state->role != FF_ROLE_DESTINATION) {
        return;
    }
    if (!d->kept_events) {
        d->kept_events = g_ptr_array_new_with_free_func(g_free);
    }
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_set_object(node, event);
    g_ptr_array_add(d->kept_events, json_to_string(node, FALSE));
}

static void say_kept(FfDriver *d)
{
    for (guint i = 0; d->kept_events && i < d->kept_events->len; i++) {
        const char *line = d->kept_events->pdata[i];

        ff_driver_send(d, FF_LINK_EVENT, 0, 0, line, strlen(line));
    }
    g_clear_pointer(&d->kept_events, g_ptr_array_unref);
}

static void on_done(FfDriver *d, FfMigration *m)
{
    const FfStateHeader *state = d->config.state;

    if (ff_driver_is_guarded(d)) {
        return; /* QEMU is being ended, and its memory stays guarded until then */
    }
    give_back(d, ff_migration_frees_uffd(m));
    if (state->role == FF_ROLE_DESTINATION) {
        say_kept(d);
        ff_driver_send(d, FF_LINK_OPEN, 0, 0, NULL, 0);
    } else if (ff_state_is_front(state)) {
        ff_driver_send(d, FF_LINK_FRONT, 0, 0, NULL, 0);
    }
}

const FfStartOps ff_upgrade_ops = {
    .plain = on_plain, .active = on_active, .done = on_done, .needs_events = true};

static void start_upgrade(FfCall *call, FfRole role)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) error = NULL;
    FfMigrationConfig config = {.role = role, .fd = g_steal_fd(&call->fd)};

    config.upgrade = (FfUpgradeConfig){.wanted = true,
                                       .uffd = d->snapshot_uffd,
                                       .pact_fd = -1,
                                       .heir_fd = -1,
                                       .stays = role == FF_ROLE_SOURCE && d->config.front < 0 &&
                                                ff_json_bool(call->args, "keep-process")};
    g_clear_pointer(&d->uri, g_free);
    ff_driver_report_anew(d, FF_STATUS_NONE);
    if (!ff_driver_start(d, &config, call->capabilities, &ff_upgrade_ops, &error)) {
        give_back(d, true);
        ff_call_error(call, "%s", error->message);
        return;
    }
    ff_driver_report(d, FF_STATUS_SETUP);
    ff_call_return(call, NULL);
}

/* Another client's may have been faster meanwhile. */
static bool is_late(FfCall *call)
{
    const char *why = refusal_reason(call->driver);

    if (why || call->fd < 0) {
        ff_call_error(call, "%s", why ? why : "the socket has not been found");
    }
    return why || call->fd < 0;
}

static void got_capabilities(FfCall *call)
{
    if (!is_late(call)) {
        start_upgrade(call, FF_ROLE_SOURCE);
    }
}

static void hand_over_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_get_capabilities(call, got_capabilities);
}

static void hand_over(FfCall *call)
{
    close_qemus_copy(call, hand_over_closed);
}

static void got_status(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object =
        result && JSON_NODE_HOLDS_OBJECT(result) ? json_node_get_object(result) : NULL;

    if (error) {
        ff_call_gerror(call, error);
    } else if (object && !g_strcmp0(ff_json_string(object, "status"), "inmigrate")) {
        ff_call_error(call, "Guest is waiting for an incoming migration");
    } else if (object && !g_strcmp0(ff_json_string(object, "status"), "postmigrate")) {
        ff_call_error(call, "Can't migrate the vm that was paused due to previous migration");
    } else {
        ff_call_take_fd(call, call->target.name, hand_over);
    }
}

static void ask_status(FfCall *call)
{
    ff_call_inner(call, "query-status", NULL, got_status);
}

/* The devices go by a migration of QEMU's own. */
void ff_handle_hand_over(FfCall *call)
{
    const char *why = refusal_reason(call->driver);

    if (ff_call_when_over(call, ff_handle_hand_over) ||
        ff_call_when_guest_is_here(call, ff_handle_hand_over)) {
        return;
    }
    call->target.name = g_strdup(ff_json_string(call->args, "fdname"));
    if (why) {
        ff_call_error(call, "%s", why);
    } else {
        ff_call_after_return_path(call, ask_status);
    }
}

static void take_over_ready(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!is_late(call)) {
        start_upgrade(call, FF_ROLE_DESTINATION);
        return;
    }
    give_back(d, true);
}

static void take_over_closed(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_get_capabilities(call, take_over_ready);
}

/* The old side, which waits for an offer, has the reason; QEMU's copy of the socket stays open. */
static void tell_old_side(int link, const char *why)
{
    if (ff_upgrade_send(link, 0, FF_UPGRADE_FAILED, why, strlen(why), NULL, 0) < 0) {
        g_message("upgrade: the old QEMU's engine is not there any more");
    }
}

static void uffd_taken(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    g_autoptr(GError) fault = NULL;

    if (FF_FAULT_CALL("take-uffd", 0) < 0) {
        g_set_error_literal(&fault, G_IO_ERROR, G_IO_ERROR_FAILED, g_strerror(errno));
        error = fault;
    }
    if (error) {
        tell_old_side(call->snapshot->fd, error->message);
        ff_call_gerror(call, error);
        return;
    }
    d->snapshot_uffd = g_steal_fd(&call->fd);
    call->fd = g_steal_fd(&call->snapshot->fd);
    close_qemus_copy(call, take_over_closed);
}

static void take_uffd(FfCall *call)
{
    if (call->fd < 0) {
        ff_call_error(call, "File descriptor named '%s' has not been found", call->target.name);
        return;
    }
    /* call->fd is where the userfaultfd comes to. */
    call->snapshot = g_new0(FfSnapshotRequest, 1);
    call->snapshot->fd = g_steal_fd(&call->fd);
    ff_call_take_uffd(call, uffd_taken);
}

static void could_take(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    ff_driver_give_uffd(call->driver, g_steal_fd(&call->fd));
    ff_call_return(call, NULL);
}

void ff_handle_take_over(FfCall *call)
{
    FfDriver *d = call->driver;
    const char *why = refusal_reason(d);

    call->target.name = g_strdup(ff_json_string(call->args, "fdname"));
    if (why) {
        ff_call_error(call, "%s", why);
    } else if (!ff_state_is_marked(d->config.state, FF_MARK_BORROWED)) {
        ff_call_error(call, "this QEMU has its own memory: it was not started by farfault upgrade");
    } else if (!call->target.name) {
        ff_call_take_uffd(call, could_take);
    } else {
        ff_call_take_fd(call, call->target.name, take_uffd);
    }
}
