/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's roof: its life, frames in, commands in order, each to its handler (answers out:
 * command.c).
 *
 * Commands of one client run one after the other, as in QEMU; those of several clients, and
 * out-of-band ones, do not wait for each other. A handler ends its call with exactly one of
 * ff_call_return(), ff_call_error(), ff_call_gerror() and ff_call_pass(), at once or from a
 * continuation. Everything runs on the main loop's thread.
 */
#include "qapi/driver.h"

#include <string.h>
#include <unistd.h>

#include "qapi/driver-private.h"

static const struct {
    const char *name;
    FfHandler handler;
} handlers[] = {
    {"query-migrate", ff_handle_query_migrate},
    {"migrate-set-capabilities", ff_handle_set_capabilities},
    {"query-migrate-capabilities", ff_handle_query_capabilities},
    {"migrate-set-parameters", ff_handle_set_parameters},
    {"query-migrate-parameters", ff_handle_query_parameters},
    {"migrate-start-postcopy", ff_handle_start_postcopy},
    {"migrate_cancel", ff_handle_cancel},
    {"migrate-continue", ff_handle_continue},
    {"migrate", ff_handle_migrate},
    {"migrate-incoming", ff_handle_incoming},
    {"migrate-recover", ff_handle_recover},
    {"migrate-pause", ff_handle_pause},
    {"x-farfault-revoke", ff_handle_revoke},
    {"x-farfault-dump", ff_handle_dump},
    {"x-farfault-end", ff_handle_end},
    {"x-farfault-restore", ff_handle_restore},
    {"x-farfault-snapshot", ff_handle_snapshot},
    {"x-farfault-lend", ff_handle_lend},
    {"x-farfault-hand-over", ff_handle_hand_over},
    {"x-farfault-take-over", ff_handle_take_over},
    {"query-status", ff_handle_query_status},
    {"cont", ff_handle_cont},
    {"stop", ff_handle_stop},
    {"system_reset", ff_handle_reset},
    {"system_wakeup", ff_handle_wakeup},
    {"object-add", ff_handle_object_add},
    {"object-del", ff_handle_object_del},
    {"human-monitor-command", ff_hmp_command},
};

/* ---- commands in ----------------------------------------------------------------------------- */

/* Arguments that our schema refuses are refused by QEMU, too, each version in its own words; but
 * for our own members, and while QEMU may not be able to answer. */
static bool qemu_refuses(FfCall *call)
{
    g_autoptr(GList) names = call->args ? json_object_get_members(call->args) : NULL;

    for (GList *l = names; l; l = l->next) {
        if (g_str_has_prefix(l->data, "x-farfault-")) {
            return false;
        }
    }
    return !call->driver->migration && !g_str_has_prefix(call->name, "x-farfault-");
}

static void dispatch_call(FfCall *call)
{
    FfDriver *d = call->driver;

    if (ff_capabilities_hold(call)) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (!strcmp(handlers[i].name, call->name)) {
            const FfQapiCommand *command = ff_qapi_command(call->name);
            g_autofree char *error = ff_qapi_check_arguments(command, call->args);

            if (ff_upgrade_refuses(call)) {
                return;
            }
            if (call->oob && !command->allow_oob) {
                ff_call_error(call, "The command %s does not support OOB", call->name);
            } else if (error && qemu_refuses(call)) {
                ff_call_pass(call);
            } else if (error) {
                ff_call_error(call, "%s", error);
            } else if (d->outgoing && ff_outgoing_holds(d->outgoing, call)) {
                return;
            } else {
                handlers[i].handler(call);
            }
            return;
        }
    }
    if (!ff_call_refuse(call)) {
        ff_call_pass(call); /* not ours after all */
    }
}

/* QEMU's qmp_dispatch_check_obj(): NULL if OBJECT is a command, else the error. */
static char *check_envelope(JsonObject *object, const char **command, bool *oob)
{
    JsonObjectIter iter;
    const char *name, *key = NULL;
    JsonNode *value;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        if (!strcmp(name, "execute") || !strcmp(name, "exec-oob")) {
            if (!ff_json_string(object, name)) {
                return g_strdup_printf("QMP input member '%s' must be a string", name);
            }
            if (key) {
                return g_strdup_printf("QMP input member '%s' clashes with '%s'", name, key);
            }
            key = name;
            *command = ff_json_string(object, name);
            *oob = !strcmp(name, "exec-oob");
        } else if (!strcmp(name, "arguments")) {
            if (!JSON_NODE_HOLDS_OBJECT(value)) {
                return g_strdup("QMP input member 'arguments' must be an object");
            }
        } else if (strcmp(name, "id")) {
            return g_strdup_printf("QMP input member '%s' is unexpected", name);
        }
    }
    return key ? NULL : g_strdup("QMP input lacks member 'execute'");
}

static void enqueue_call(FfDriver *d, FfCall *call)
{
    GQueue *queue = g_hash_table_lookup(d->clients, GUINT_TO_POINTER(call->mon));

    if (!queue) {
        queue = g_queue_new();
        g_hash_table_insert(d->clients, GUINT_TO_POINTER(call->mon), queue);
    }
    g_queue_push_tail(queue, call);
    if (g_queue_get_length(queue) == 1) {
        dispatch_call(call);
    }
}

static void command_frame(FfDriver *d, unsigned mon, uint32_t seq, const char *payload,
                          gsize length)
{
    FfCall *call = g_new0(FfCall, 1);
    g_autoptr(JsonNode) node = ff_json_parse(payload, length, &call->id, NULL);

    call->driver = d;
    call->mon = mon;
    call->seq = seq;
    call->fd = -1;
    d->calls++;
    ff_driver_touch(d);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        /* QEMU says what is wrong with it. But it reads more than we do, and obeys. */
        if (ff_driver_is_engaged(d) || d->outgoing) {
            ff_call_error(call, "The command could not be read while a migration is under way");
        } else {
            ff_call_pass(call);
        }
        return;
    }
    JsonObject *object = json_node_get_object(node);
    const char *name = NULL;
    g_autofree char *error = check_envelope(object, &name, &call->oob);

    if (error) {
        ff_call_error(call, "%s", error);
        return;
    }
    call->name = g_strdup(name);
    if (json_object_has_member(object, "arguments")) {
        call->args = json_object_ref(json_object_get_object_member(object, "arguments"));
    }
    if (call->oob) {
        dispatch_call(call);
    } else {
        enqueue_call(d, call);
    }
}

static void client_gone(FfDriver *d, unsigned mon)
{
    GQueue *queue = g_hash_table_lookup(d->clients, GUINT_TO_POINTER(mon));

    /* The one that runs ends by itself, its answer goes nowhere; the others never begin. */
    while (queue && g_queue_get_length(queue) > 1) {
        ff_call_free(g_queue_pop_tail(queue));
        d->calls--;
    }
    if (queue && g_queue_peek_head(queue)) {
        ((FfCall *)g_queue_peek_head(queue))->gone = true;
    }
}

void ff_driver_frame(FfDriver *d, FfLinkType type, unsigned mon, uint32_t seq, const char *payload,
                     size_t length, int fd)
{
    switch (type) {
    case FF_LINK_COMMAND:
        command_frame(d, mon, seq, payload, length);
        break;
    case FF_LINK_FD_REPLY:
    case FF_LINK_INJECT_REPLY:
        ff_driver_relay_answer(d, seq, payload, length, fd);
        return;
    case FF_LINK_CLIENT_GONE:
        client_gone(d, mon);
        ff_snapshot_client_gone(d, mon);
        break;
    case FF_LINK_SYNCED:
        if (seq) {
            ff_driver_words_answered(d, seq);
        } else if (d->migration) {
            ff_migration_synced(d->migration);
        }
        break;
    case FF_LINK_REST:
        ff_driver_rest(d);
        break;
    case FF_LINK_START_INCOMING: {
        g_autofree char *uri = g_strndup(payload, length);

        ff_driver_start_incoming(d, seq, uri);
        break;
    }
    default:
        break; /* a newer relay's: nothing to answer */
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void call_destroy(gpointer call)
{
    ff_call_free(call);
}

/* ---- life ------------------------------------------------------------------------------------ */

FfDriver *ff_driver_new(const FfDriverConfig *config)
{
    FfDriver *d = g_new0(FfDriver, 1);

    d->snapshot_uffd = -1;
    d->attendant = UINT_MAX;

    d->config = *config;
    d->dispatch = dispatch_call;
    d->clients = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_queue_free);
    d->waiting = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    d->names = g_ptr_array_new();
    d->downtime_limit = 300;
    ff_driver_touch(d);
    ff_driver_listen_again(d);
    ff_driver_lift_protection(d);
    if (d->config.state->phase == FF_PHASE_DEAD) {
        /* The engine that gave it up died before it had ended, and it must never run. */
        static const char why[] = "the incoming migration was given up";

        ff_driver_send(d, FF_LINK_KILL_QEMU, 0, 0, why, strlen(why));
    } else if (d->config.state->phase != FF_PHASE_IDLE) {
        ff_driver_adopt(d, ff_state_is_marked(d->config.state, FF_MARK_UPGRADE) ? &ff_upgrade_ops
                           : d->config.state->role == FF_ROLE_DESTINATION       ? &ff_incoming_ops
                                                                                : &ff_migrate_ops);
    } else {
        d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_AS_EAGER; /* it is over */
        ff_totals_settle(d);
        ff_driver_restore_settings(
            d); /* what an engine left that died while QEMU carried a migration */
        ff_outgoing_look(d);
    }
    ff_deferred_adopt(d);
    return d;
}

static gboolean too_late(gpointer late)
{
    *(bool *)late = true;
    return G_SOURCE_REMOVE;
}

void ff_driver_last_words(FfDriver *d)
{
    bool late = false;

    if (d->incoming) {
        ff_incoming_remove_name(d->incoming);
    }
    if (d->outgoing) {
        ff_outgoing_remove_name(d->outgoing);
    }
    if (d->migration) {
        ff_migration_vmm_ended(d->migration);
    }
    guint timer = g_timeout_add(FF_DRIVER_LAST_WORDS_MS, too_late, &late);
    /* QEMU's last answer may still have to be read, for the coordinator to continue. */
    while (!late && d->migration && ff_migration_speaks(d->migration)) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (!late) {
        g_source_remove(timer);
    }
}

void ff_driver_look(FfDriver *d)
{
    ff_totals_look(d);
    ff_carried_look(d);
}

void ff_driver_free(FfDriver *d)
{
    GHashTableIter iter;
    gpointer queue;

    if (d->linger) {
        g_source_remove(d->linger);
    }
    ff_driver_close_mem(d);
    ff_driver_forget_names(d);
    ff_driver_report_clear(d);
    g_clear_pointer(&d->deferred, ff_call_free);
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->outgoing, ff_outgoing_free);
    g_clear_pointer(&d->parting, ff_migration_free);
    g_clear_pointer(&d->kept_events, g_ptr_array_unref);
    ff_capabilities_forget(d);
    g_free(d->uri);
    g_free(d->client_uri);
    g_clear_pointer(&d->socket_address, json_array_unref);
    g_hash_table_iter_init(&iter, d->clients);
    while (g_hash_table_iter_next(&iter, NULL, &queue)) {
        g_queue_clear_full(queue, call_destroy);
    }
    g_hash_table_unref(d->clients);
    g_hash_table_unref(d->waiting);
    g_queue_clear_full(&d->waiting_restored, g_free);
    g_queue_clear_full(&d->waiting_over, g_free);
    g_queue_clear_full(&d->waiting_moved, g_free);
    g_free(d->globals);
    g_free(d);
}
