/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One client monitor: a client's commands on their way to QEMU or to the engine.
 *
 * Each client has a connection to QEMU of its own, so greeting, negotiation and the end of the
 * input are QEMU's. Commands are passed as they come. One that the engine owns waits until QEMU
 * has answered every in-band command before it, and the in-band commands after it wait for its
 * answer: QMP answers in order. Out-of-band commands overtake, once the client has enabled them.
 * Whether the client has negotiated is known only when QEMU has answered, hence the same wait
 * decides it; until then nothing is owned, and QEMU refuses what it must.
 *
 * A client that reads slowly or writes fast is read no further (limits below); the others are
 * not touched by that. One thread; no locks.
 */
#include "guest/relay/monitor.h"

#include "contract/link.h"
#include "guest/relay/clients-wait.h"
#include "guest/relay/clients.h"
#include "guest/relay/engine.h"
#include "guest/relay/guest.h"
#include "guest/relay/internal.h"
#include "guest/relay/monitor-internal.h"
#include "guest/relay/routing.h"
#include "net/outbox.h"
#include "qmp/json.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_TO_QEMU (256 << 10)  /* bytes that QEMU has not read */
#define MAX_TODO_BYTES (1 << 20) /* of commands that wait for an owned one */
#define MAX_TODO 64
#define MAX_LOSSES 3                   /* engines that may die over a command that is asked again */
#define MAX_OWNED_OOB 8                /* as many commands as QEMU queues */
#define MAX_TO_CLIENT (1 << 20)        /* bytes that the client has not read: QEMU is not read */
#define MAX_EVENTS_TO_CLIENT (4 << 20) /* above it the engine's events are dropped */
#define MAX_UNREAD (FF_CLIENTS_UNREAD_MAX / 4 * 3 - 4) /* of a client that goes: as base64 */
#define MAX_UNREAD_FDS 64
#define HANG_UP_MS 1000 /* by then QEMU's pidfd has said that it has ended, or it lives */

static void close_client(FfMonitor *mon);

static void update_reading(FfMonitor *mon)
{
    if (mon->client) {
        ff_conn_set_reading(
            mon->client, !mon->client_ended && !mon->going && mon->todo_bytes < MAX_TODO_BYTES &&
                             mon->todo.length < MAX_TODO && mon->owned_oob.length < MAX_OWNED_OOB &&
                             (!mon->qemu || ff_conn_queued(mon->qemu) < MAX_TO_QEMU));
    }
    if (mon->qemu) {
        /* The engine must not wait for a client that does not read. */
        size_t waits = mon->client ? ff_conn_queued(mon->client) + mon->insert_bytes
                                   : mon->batch->len; /* for one that is awaited */

        ff_conn_set_reading(mon->qemu,
                            ff_inject_pending(mon) ||
                                (ff_engine_awaits_words(mon->relay) && ff_monitor_has_words(mon)) ||
                                waits < MAX_TO_CLIENT);
    }
}

static char *json_quote(const char *text)
{
    GString *out = g_string_new("\"");

    for (; *text; text++) {
        if ((unsigned char)*text < 0x20) {
            g_string_append_printf(out, "\\u%04x", *text);
        } else {
            if (*text == '"' || *text == '\\') {
                g_string_append_c(out, '\\');
            }
            g_string_append_c(out, *text);
        }
    }
    g_string_append_c(out, '"');
    return g_string_free(out, FALSE);
}

static void reply_error(FfMonitor *mon, const FfItem *item, const char *desc)
{
    const char *id = item->command ? item->command->id : NULL;
    g_autofree char *quoted = json_quote(desc);
    g_autofree char *line = NULL;

    line = g_strdup_printf("{%s%s%s\"error\": {\"class\": \"GenericError\", \"desc\": %s}}",
                           id ? "\"id\": " : "", id ? id : "", id ? ", " : "", quoted);
    if (mon->client) {
        ff_answer_insert(mon, line, strlen(line));
    }
}

/* Takes ITEM. TEXT (plain JSON of COMMAND) goes in its place if it is not NULL. */
static void pass_item(FfMonitor *mon, FfItem *item, const FfQmpCommand *instead)
{
    const FfQmpCommand *command = instead ? instead : item->command;
    FfSent *sent = g_new0(FfSent, 1);
    gsize len;
    const char *raw = g_bytes_get_data(item->raw, &len);

    sent->getfd_copy = -1;
    sent->since = g_get_monotonic_time();
    sent->id = command ? g_strdup(command->id) : NULL;
    sent->negotiates = command && !g_strcmp0(command->name, "qmp_capabilities");
    sent->enables_oob = command && command->enable_oob;
    sent->conts = command && !g_strcmp0(command->name, "cont");
    sent->own = ff_own_entries(command);
    sent->says = ff_says(command);
    sent->caps = item->caps;
    sent->carried = ff_starts_incoming(command) || ff_recovers(command)
                        ? FF_CARRIED_GIVEN | FF_CARRIED_INCOMING
                    : ff_starts_migration(command) ? FF_CARRIED_GIVEN
                                                   : FF_CARRIED_NONE;
    ff_fds_note(mon, item, sent);
    ff_plug_note(mon, item, sent);
    ff_actions_note(mon->relay->state, command);
    g_queue_push_tail(command && command->oob && mon->oob_enabled ? &mon->oob : &mon->inband, sent);
    ff_overdue_watch(mon);
    if (instead) {
        ff_conn_write(mon->qemu, instead->json->str, instead->json->len, item->fds, item->n_fds);
    } else {
        ff_conn_write(mon->qemu, raw, len, item->fds, item->n_fds);
    }
    item->n_fds = 0; /* the connection has them */
    ff_item_free(item);
}

/* ITEM goes to QEMU for want of an engine. The next engine must know who carries what comes, and
 * must not answer for it with what it was told of an older migration, nor with capabilities that
 * QEMU was told otherwise since. */
static void note_native(FfMonitor *mon, FfItem *item)
{
    const FfQmpCommand *command = item->command;
    FfStateHeader *state = mon->relay->state;

    item->caps = ff_sets_capabilities(command);

    if (ff_starts_incoming(command)) {
        state->driver_flags |= FF_DRIVER_NATIVE_INCOMING;
    }
    if (ff_starts_incoming(command) || ff_starts_migration(command)) {
        state->driver_flags &= ~(uint32_t)FF_DRIVER_PLAIN_PEER;
        state->native[0] = 0;
        __atomic_store_n(&state->info_len, 0, __ATOMIC_RELEASE);
    }
}

/* The guest runs, or may run, in its next QEMU, whose monitor this is not yet: the end of this one
 * would not be its end, and a client that was told that it is may start it elsewhere. And this one
 * may obey (a front's QEMU would continue: guest/relay/placeholder.h), with memory and disks that
 * are the other one's. */
static bool is_anothers(const FfMonitor *mon, const FfQmpCommand *command)
{
    return ff_needs_guest(command) && ff_state_is_marked(mon->relay->state, FF_MARK_MOVED);
}

static void say_anothers(FfMonitor *mon, const FfItem *item)
{
    reply_error(mon, item,
                "the guest goes to another QEMU, or is there by now: connect again, and repeat it; "
                "if it continues nowhere, end this process by SIGTERM");
}

/* The guest moved away for good: another copy of it would run on the same disks. */
static bool is_given_away(const FfMonitor *mon, const FfQmpCommand *command)
{
    return ff_says(command) == FF_SAID_CONT && ff_state_is_given(mon->relay->state);
}

static const char given_away[] =
    "the guest has moved away, and the destination has all of it: it would run twice; if it has "
    "never run there, say x-farfault-revoke with \"force\": true, and cont again; if it has run "
    "and ended there, start it from its disks";

/* For want of an engine QEMU would be told what an engine keeps from it: it leaves memory that is
 * shared, as farfault has made this guest's, out of what it saves. */
static bool is_kept(const FfMonitor *mon, const FfQmpCommand *command)
{
    const FfRelayPlan *plan = mon->relay->plan;

    return (plan->ram->len || !plan->engine_refused) && ff_ignores_shared(command);
}

static const char kept[] =
    "x-ignore-shared would leave the guest's memory, which is shared by farfault's doing, out of "
    "what QEMU saves, and no migration engine can be started that keeps it from QEMU: repeat it "
    "later";

/* Takes ITEM, an owned command whose turn has come. */
static void own_item(FfMonitor *mon, FfItem *item)
{
    const char *desc = NULL;

    item->seq = ++mon->relay->last_seq;
    switch (ff_engine_command(mon->relay, mon->index, item->seq, item->command, &desc)) {
    case FF_ENGINE_SENT:
        if (item->command->oob && mon->oob_enabled) {
            g_queue_push_tail(&mon->owned_oob, item);
        } else {
            mon->owned = item;
        }
        break;
    case FF_ENGINE_ABSENT:
        if (mon->qemu && is_anothers(mon, item->command)) {
            say_anothers(mon, item); /* it was said before */
            ff_item_free(item);
        } else if (mon->qemu && is_kept(mon, item->command)) {
            reply_error(mon, item, kept);
            ff_item_free(item);
        } else if (mon->qemu) {
            note_native(mon, item);
            pass_item(mon, item, NULL);
        } else {
            ff_item_free(item); /* QEMU has hung up */
        }
        break;
    case FF_ENGINE_BROKEN:
        reply_error(mon, item, desc);
        ff_item_free(item);
        break;
    }
}

/* An undo log that was left behind: QEMU may save nothing before the engine has put its settings
 * back. */
static bool is_owned(const FfMonitor *mon, const FfQmpCommand *command)
{
    bool left = __atomic_load_n(&mon->relay->state->undo_len, __ATOMIC_ACQUIRE);

    return ff_owned(command, mon->relay->filters | (left ? FF_FILTER_RUN_STATE : 0));
}

/* Whether ITEM can be judged only when all before it is answered. */
static bool needs_wait(const FfMonitor *mon, const FfItem *item)
{
    return is_owned(mon, item->command) || is_anothers(mon, item->command) ||
           is_given_away(mon, item->command) ||
           (mon->relay->plan->backends->len && ff_hotplug_adds(item->command)) ||
           (item->command && item->command->oob);
}

/* Out of band nothing waits: from the guest's stop on it would do to QEMU's own migration what the
 * engine does not see any more. */
static bool comes_between(const FfMonitor *mon, const FfQmpCommand *command)
{
    return ff_needs_guest(command) && ff_monitor_may_go(mon) &&
           ff_clients_would_wait(mon->relay, is_owned(mon, command), command);
}

/* TRUE: ITEM is taken: it waits until its chardev is the relay's, or must not be carried out. */
static bool begin_plug(FfMonitor *mon, FfItem *item)
{
    const char *why = NULL;
    bool waits = ff_plug_begins(mon, item, &why);

    if (why) {
        reply_error(mon, item, why);
        ff_item_free(item);
    }
    return waits || why;
}

/* ITEM is the next one. What the engine does not answer for QEMU would do to a guest whose state is
 * saved already. */
static bool is_waiting(const FfMonitor *mon, const FfItem *item)
{
    return mon->adopting ||
           (ff_monitor_may_go(mon) &&
            ff_clients_wait(mon->relay, is_owned(mon, item->command), item->command));
}

void ff_monitor_pump(FfMonitor *mon)
{
    FfItem *item;

    if (mon->plugged && mon->qemu) {
        /* Its turn once more: it may be the engine's by now. */
        mon->plugged = false;
        mon->plugging->plugged = true;
        mon->todo_bytes += g_bytes_get_size(mon->plugging->raw);
        g_queue_push_head(&mon->todo, g_steal_pointer(&mon->plugging));
    }
    while (mon->qemu && !mon->owned && !mon->plugging && (item = g_queue_peek_head(&mon->todo)) &&
           !is_waiting(mon, item)) {
        bool wait = needs_wait(mon, item);

        if (wait && ff_overdue_waits(mon)) {
            break;
        }
        g_queue_pop_head(&mon->todo);
        mon->todo_bytes -= g_bytes_get_size(item->raw);
        if (mon->kept && !mon->negotiated) {
            ff_overdue_negotiate(mon, item);
        } else if (mon->negotiated && is_anothers(mon, item->command)) {
            say_anothers(mon, item);
            ff_item_free(item);
        } else if (mon->negotiated && is_given_away(mon, item->command)) {
            reply_error(mon, item, given_away);
            ff_item_free(item);
        } else if (wait && mon->negotiated && is_owned(mon, item->command) &&
                   (!item->command->oob || mon->oob_enabled)) {
            own_item(mon, item);
        } else if (!mon->negotiated || !begin_plug(mon, item)) {
            pass_item(mon, item, NULL);
        }
    }
    if (mon->client_ended && mon->client && mon->qemu && !mon->owned && !mon->plugging &&
        g_queue_is_empty(&mon->todo) && g_queue_is_empty(&mon->owned_oob)) {
        if (!mon->may_be_overdue || g_queue_is_empty(&mon->inband)) {
            ff_conn_finish(mon->qemu);
        } else if (!ff_overdue_waits(mon) && !ff_conn_queued(mon->client)) {
            close_client(mon); /* it has all its answers, and QEMU does not see the end */
        }
    }
    update_reading(mon);
}

static void command_came(FfMonitor *mon, GBytes *raw)
{
    FfItem *item = g_new0(FfItem, 1);
    gsize len;
    const char *text = g_bytes_get_data(raw, &len);

    item->raw = raw;
    item->command = ff_qmp_command_parse(text, len);
    item->fds = g_steal_pointer(&mon->fds);
    item->n_fds = mon->n_fds;
    mon->n_fds = 0;
    if (mon->qemu && mon->oob_enabled && item->command && item->command->oob) {
        if (is_anothers(mon, item->command) || comes_between(mon, item->command)) {
            say_anothers(mon, item);
            ff_item_free(item);
        } else if (is_owned(mon, item->command)) {
            own_item(mon, item);
        } else {
            pass_item(mon, item, NULL);
        }
        return;
    }
    g_queue_push_tail(&mon->todo, item);
    mon->todo_bytes += len;
    ff_monitor_pump(mon);
}

/* QEMU keeps only the fds that came last. */
static void keep_fds(FfMonitor *mon, const int *fds, unsigned n_fds)
{
    for (unsigned i = 0; i < mon->n_fds; i++) {
        close(mon->fds[i]);
    }
    g_free(mon->fds);
    mon->fds = n_fds ? g_memdup2(fds, n_fds * sizeof(int)) : NULL;
    mon->n_fds = n_fds;
}

static void client_data(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds,
                        void *opaque)
{
    FfMonitor *mon = opaque;
    GBytes *message;

    if (n_fds) {
        size_t used = ff_qmp_framer_feed(mon->framer, buf, 1, &message);

        /* A message that ends before the byte that brought the fds has no part in them. */
        if (used == 0) {
            command_came(mon, message);
            ff_qmp_framer_feed(mon->framer, buf, 1, &message);
        }
        keep_fds(mon, fds, n_fds);
        if (message) {
            command_came(mon, message);
        }
        buf++;
        len--;
    }
    while (len) {
        size_t used = ff_qmp_framer_feed(mon->framer, buf, len, &message);

        if (message) {
            command_came(mon, message);
        }
        buf += used;
        len -= used;
    }
    update_reading(mon);
}

static void drop_commands(FfMonitor *mon)
{
    g_queue_clear_full(&mon->todo, (GDestroyNotify)ff_item_free);
    g_queue_clear_full(&mon->owned_oob, (GDestroyNotify)ff_item_free);
    g_clear_pointer(&mon->owned, ff_item_free);
    g_clear_pointer(&mon->plugging, ff_item_free);
    mon->plugged = false;
    ff_plug_client_gone(mon);
    mon->todo_bytes = 0;
    keep_fds(mon, NULL, 0);
    ff_fds_reset(mon);
}

/* Client and connection to QEMU are both gone. */
static void session_over(FfMonitor *mon)
{
    mon->event_filters = mon->relay->filters;
    mon->barriers = 0;
    ff_answer_reset(mon);
    g_clear_pointer(&mon->framer, ff_qmp_framer_free);
    g_clear_pointer(&mon->greeting, g_byte_array_unref);
    mon->greeted = mon->negotiated = mon->oob_enabled = false;
    mon->client_ended = mon->kept = mon->qemu_oob = false;
    mon->going = mon->adopting = mon->awaited = false;
    if (mon->relay->hands_over == mon) {
        mon->relay->hands_over = NULL;
    }
    if (mon->plan->kind == FF_RELAY_CONNECTED) {
        ff_guest_left(mon->relay);
    }
    if (mon->accept && !mon->accepting && !mon->gone) {
        ff_accept_next(mon->accept);
    }
}

static void close_client(FfMonitor *mon)
{
    g_clear_handle_id(&mon->hang_up, g_source_remove);
    ff_conn_free(g_steal_pointer(&mon->client));
    ff_inject_give_up(mon);
    drop_commands(mon);
    ff_engine_client_gone(mon->relay, mon->index);
    if (mon->qemu && ff_overdue_keep(mon)) {
        update_reading(mon);
    } else if (mon->qemu && mon->taking) {
        /* Of what it carries out after the end QEMU says nothing, and the chardev would be on a
         * socket that nobody serves. */
        mon->taking->closes = true;
        update_reading(mon);
    } else if (mon->qemu) {
        /* QEMU still executes what was passed, as it does for a client that leaves at once;
         * its closing, which makes room for the next client, is waited for. */
        ff_conn_finish(mon->qemu);
        update_reading(mon);
    } else {
        session_over(mon);
    }
}

static void client_end(FfConn *conn, bool gone, void *opaque)
{
    FfMonitor *mon = opaque;

    mon->client_ended = true;
    if (gone) {
        close_client(mon);
    } else {
        ff_monitor_pump(mon);
    }
}

static void client_drained(FfConn *conn, void *opaque)
{
    FfMonitor *mon = opaque;

    if (!mon->qemu && !mon->relay->clients_wait && !mon->hang_up) {
        close_client(mon); /* that was the rest of what QEMU said */
    } else {
        update_reading(mon);
    }
}

static void qemu_data(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds,
                      void *opaque)
{
    FfMonitor *mon = opaque;

    for (unsigned i = 0; i < n_fds; i++) {
        close(fds[i]); /* no QMP command returns fds */
    }
    ff_answer_data(mon, buf, len);
    ff_monitor_pump(mon);
}

static gboolean hung_up(gpointer opaque)
{
    FfMonitor *mon = opaque;

    mon->hang_up = 0;
    if (!ff_conn_queued(mon->client)) {
        close_client(mon);
    }
    return G_SOURCE_REMOVE;
}

/* Not asked for, this is most often QEMU's end, and the client hears of it when relay and engine
 * have ended: relay_finish() in relay.c. */
static void qemu_end(FfConn *conn, bool gone, void *opaque)
{
    FfMonitor *mon = opaque;
    bool asked = mon->client_ended;

    ff_inject_give_up(mon);
    ff_overdue_end(mon);
    ff_plug_unheard(mon);
    ff_plug_end(mon);
    ff_conn_free(g_steal_pointer(&mon->qemu));
    g_queue_clear_full(&mon->inband, (GDestroyNotify)ff_sent_free);
    g_queue_clear_full(&mon->oob, (GDestroyNotify)ff_sent_free);
    ff_engine_word_answered(mon->relay);
    if (!mon->client) {
        session_over(mon);
    } else if (!asked || ff_conn_queued(mon->client)) {
        mon->client_ended = true;
        mon->hang_up = asked ? 0 : g_timeout_add(HANG_UP_MS, hung_up, mon);
        update_reading(mon);
    } else {
        close_client(mon);
    }
    if (!asked) {
        ff_guest_hung_up(mon->relay);
    }
}

static void qemu_drained(FfConn *conn, void *opaque)
{
    update_reading(opaque);
}

static const FfConnOps client_ops = {client_data, client_end, client_drained};
static const FfConnOps qemu_ops = {qemu_data, qemu_end, qemu_drained};

static void open_qemu(FfMonitor *mon)
{
    int fd = ff_conn_to_qemu(mon->plan->qemu);

    if (fd < 0) {
        ff_relay_log(mon->relay, "monitor '%s': QEMU does not take the connection: %s",
                     mon->plan->id, g_strerror(-fd));
        if (mon->client) {
            close_client(mon);
        } else {
            session_over(mon);
        }
        return;
    }
    mon->greeting = g_byte_array_new();
    mon->qemu = ff_conn_new(fd, fd, &qemu_ops, mon);
    ff_monitor_pump(mon);
}

static void client_came(int in, int out, void *opaque)
{
    FfMonitor *mon = opaque;

    mon->accepting = false;
    mon->framer = ff_qmp_framer_new();
    mon->client = ff_conn_new(in, out, &client_ops, mon);
    if (mon->qemu) {
        ff_overdue_greet(mon);
        return;
    }
    mon->splitter = ff_qmp_splitter_new();
    if (!mon->relay->clients_wait) {
        open_qemu(mon);
    }
}

void ff_monitor_go(FfMonitor *mon)
{
    if (mon->client && !mon->qemu) {
        open_qemu(mon);
    }
}

void ff_monitor_open(FfMonitor *mon)
{
    if (mon->accept && !mon->client && !mon->qemu) { /* else when that one has gone */
        ff_accept_open(mon->accept);
    }
}

/* The client is the one of the relay before this one. */
static void inherit_session(FfMonitor *mon)
{
    const FfRelaySession *had = mon->plan->session;

    mon->framer = ff_qmp_framer_new();
    mon->splitter = ff_qmp_splitter_new();
    mon->greeting = g_byte_array_new();
    g_byte_array_append(mon->greeting, (const guint8 *)had->greeting, strlen(had->greeting));
    mon->greeted = true;
    mon->negotiated = had->negotiated;
    mon->oob_enabled = had->oob_enabled;
    mon->qemu_oob = had->qemu_oob;
    mon->named_fds = had->named_fds;
    mon->qemu = ff_conn_new(had->qemu, had->qemu, &qemu_ops, mon);
    mon->client = ff_conn_new(had->in, had->out, &client_ops, mon);
}

/* Nothing of QEMU's is half here, and all answers are given. Of a command that comes a part may be.
 */
static bool is_between(const FfMonitor *mon)
{
    return mon->client && mon->qemu && mon->greeted && !mon->kept && !mon->hang_up &&
           !mon->accepting && !mon->adopting && !mon->overdue && !mon->owned && !mon->plugging &&
           !mon->barriers && !mon->inside && mon->out == FF_OUT_UNDECIDED && !mon->held->len &&
           !mon->batch->len && !mon->insert_bytes && g_queue_is_empty((GQueue *)&mon->inband) &&
           g_queue_is_empty((GQueue *)&mon->oob) && g_queue_is_empty((GQueue *)&mon->owned_oob) &&
           ff_qmp_splitter_idle(mon->splitter) && !ff_conn_queued(mon->client) &&
           !ff_conn_queued(mon->qemu);
}

bool ff_monitor_rests(const FfMonitor *mon)
{
    if (!mon->client && !mon->qemu) {
        return !mon->kept && !mon->hang_up;
    }
    return is_between(mon) && ff_qmp_framer_rests(mon->framer) && !mon->n_fds &&
           !mon->client_ended && mon->event_filters == mon->relay->filters &&
           g_queue_is_empty((GQueue *)&mon->todo);
}

bool ff_monitor_session(const FfMonitor *mon, FfRelaySession *session)
{
    if (!mon->client) {
        return false;
    }
    *session = (FfRelaySession){
        .in = ff_conn_in(mon->client),
        .out = ff_conn_out(mon->client),
        .qemu = ff_conn_in(mon->qemu),
        .negotiated = mon->negotiated,
        .oob_enabled = mon->oob_enabled,
        .qemu_oob = mon->qemu_oob,
        .named_fds = mon->named_fds,
        .greeting = g_strndup((const char *)mon->greeting->data, mon->greeting->len)};
    return true;
}

/* ---- a client that goes to another relay ----------------------------------------------------- */

bool ff_monitor_may_go(const FfMonitor *mon)
{
    return mon->plan->kind == FF_RELAY_LISTEN && mon->client && mon->qemu && mon->negotiated &&
           !mon->kept && mon->relay->hands_over != mon;
}

bool ff_monitor_will_go(const FfMonitor *mon)
{
    return ff_monitor_may_go(mon) || mon->awaited ||
           (mon->adopting && mon->client && mon->relay->hands_over != mon);
}

/* Fds that came with what waits. */
static unsigned waiting_fds(const FfMonitor *mon)
{
    unsigned n = mon->n_fds;

    for (const GList *l = mon->todo.head; l; l = l->next) {
        n += ((const FfItem *)l->data)->n_fds;
    }
    return n;
}

bool ff_monitor_is_quiet(const FfMonitor *mon)
{
    return is_between(mon) && ff_qmp_framer_moves(mon->framer) &&
           mon->todo_bytes + ff_qmp_framer_pending(mon->framer) <= MAX_UNREAD &&
           waiting_fds(mon) <= MAX_UNREAD_FDS;
}

bool ff_monitor_has_fds(const FfMonitor *mon)
{
    return waiting_fds(mon);
}

bool ff_monitor_has_oob(const FfMonitor *mon)
{
    return mon->oob_enabled;
}

static void add_unread(GByteArray *all, GArray *fds, const void *raw, size_t len, const int *came,
                       unsigned n)
{
    FfUnreadFds run = {all->len, came, n};

    if (n) {
        g_array_append_val(fds, run);
    }
    g_byte_array_append(all, raw, len);
}

char *ff_monitor_unread(const FfMonitor *mon, GArray *fds)
{
    g_autoptr(GByteArray) all = g_byte_array_new();

    for (const GList *l = mon->todo.head; l; l = l->next) {
        const FfItem *item = l->data;
        gsize len;
        const void *raw = g_bytes_get_data(item->raw, &len);

        add_unread(all, fds, raw, len, item->fds, item->n_fds);
    }
    add_unread(all, fds, ff_qmp_framer_held(mon->framer), ff_qmp_framer_pending(mon->framer),
               mon->fds, mon->n_fds);
    return g_base64_encode(all->data, all->len);
}

void ff_monitor_hold(FfMonitor *mon, bool held)
{
    mon->going = held;
    update_reading(mon);
}

void ff_monitor_gone(FfMonitor *mon)
{
    mon->gone = true;
    close_client(mon);
}

/* It has seen STOP of the other QEMU, and this one's RESUME was before its time. */
static void say_resumed(FfMonitor *mon)
{
    gint64 now = g_get_real_time();
    g_autofree char *line =
        g_strdup_printf("{\"timestamp\": {\"seconds\": %" G_GINT64_FORMAT
                        ", \"microseconds\": %" G_GINT64_FORMAT "}, \"event\": \"RESUME\"}",
                        now / G_USEC_PER_SEC, now % G_USEC_PER_SEC);

    if (mon->client || mon->awaited) {
        ff_answer_insert(mon, line, strlen(line));
    }
}

/* query-status: QEMU has been told before. */
static void status_adopted(FfMonitor *mon, FfSent *sent, bool error)
{
    static const char runs[] = "\"running\": true";

    mon->adopting = false;
    if (!error && memmem(mon->held->data, mon->held->len, runs, strlen(runs))) {
        say_resumed(mon);
    }
}

/* Of a client that is there, or is awaited. */
static void open_adopted(FfMonitor *mon, bool oob_enabled)
{
    mon->framer = ff_qmp_framer_new();
    mon->splitter = ff_qmp_splitter_new();
    mon->greeted = mon->adopting = true;
    open_qemu(mon);
    if (!mon->qemu) {
        return;
    }
    FfSent *negotiates = ff_inject_own(
        mon, oob_enabled
                 ? "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}"
                 : "{\"execute\": \"qmp_capabilities\"}");
    negotiates->negotiates = true;
    negotiates->enables_oob = oob_enabled;
    ff_inject_own(mon, "{\"execute\": \"query-status\"}")->answered = status_adopted;
}

/* As if it had come from the client now. */
static void hear_unread(FfMonitor *mon, const char *said, size_t len, const GArray *fds)
{
    size_t at = 0;

    for (guint i = 0; i <= fds->len; i++) {
        size_t next = i < fds->len ? MIN(g_array_index(fds, FfUnreadFds, i).at, len) : len;
        const FfUnreadFds *run = i ? &g_array_index(fds, FfUnreadFds, i - 1) : NULL;

        if (next > at) {
            client_data(mon->client, said + at, next - at, run ? (int *)run->fds : NULL,
                        run ? run->n : 0, mon);
            at = next;
        } else {
            ff_outbox_close_fds(run ? run->fds : NULL, run ? run->n : 0);
        }
    }
}

bool ff_monitor_adopt(FfMonitor *mon, int fd, bool oob_enabled, const char *unread,
                      const GArray *fds)
{
    if (mon->client || (mon->qemu && !mon->awaited) || mon->plan->kind != FF_RELAY_LISTEN) {
        return false;
    }
    gsize len = 0;
    g_autofree guchar *said = g_base64_decode(unread, &len);

    mon->client = ff_conn_new(fd, fd, &client_ops, mon);
    if (mon->qemu) {
        mon->awaited = false;
        ff_answer_flush(mon);
        update_reading(mon); /* it was not read where all that was a lot */
    } else {
        open_adopted(mon, oob_enabled);
    }
    /* Else it is closed, and nobody hears it. */
    hear_unread(mon, (const char *)said, mon->qemu ? len : 0, fds);
    return true;
}

void ff_monitor_await(FfMonitor *mon, bool oob_enabled)
{
    if (!mon->client && !mon->qemu && mon->plan->kind == FF_RELAY_LISTEN) {
        mon->awaited = true;
        open_adopted(mon, oob_enabled);
    }
}

bool ff_monitor_await_no_more(FfMonitor *mon)
{
    bool was = mon->awaited;

    if (was) {
        mon->awaited = false;
        mon->client_ended = true;
        g_byte_array_set_size(mon->batch, 0);
        ff_conn_finish(mon->qemu);
        update_reading(mon);
    }
    return was;
}

bool ff_monitor_give(FfMonitor *mon, int fd)
{
    if (mon->plan->kind != FF_RELAY_DOOR || !mon->accept || mon->client || mon->qemu ||
        ff_state_is_marked(mon->relay->state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
        return false;
    }
    ff_accept_give(mon->accept, fd);
    return true;
}

FfMonitor *ff_monitor_new(FfRelay *relay, unsigned index)
{
    FfMonitor *mon = g_new0(FfMonitor, 1);

    mon->relay = relay;
    mon->index = index;
    mon->pump = ff_monitor_pump;
    mon->plan = relay->plan->monitors->pdata[index];
    mon->held = g_byte_array_new();
    mon->batch = g_byte_array_new();
    if (mon->plan->session) {
        inherit_session(mon);
    }
    mon->accept = ff_accept_new(relay, mon->plan, client_came, mon);
    return mon;
}

/* Takes the command SEQ out of those that the engine has. */
static FfItem *take_owned(FfMonitor *mon, uint32_t seq)
{
    if (mon->owned && mon->owned->seq == seq) {
        return g_steal_pointer(&mon->owned);
    }
    for (GList *l = mon->owned_oob.head; l; l = l->next) {
        FfItem *item = l->data;

        if (item->seq == seq) {
            g_queue_delete_link(&mon->owned_oob, l);
            return item;
        }
    }
    return NULL;
}

/* The client of an upgrade stays with the old QEMU, whose end it waits for. One that was refused,
 * as another client's upgrade is under way, changes nothing. */
static void note_hand_over(FfMonitor *mon, const FfItem *item, const char *text, gsize len)
{
    if (!g_strcmp0(item->command->name, "x-farfault-hand-over")) {
        g_autofree char *line = g_strndup(text, len);
        g_autoptr(JsonNode) node = ff_json_from_text(line);
        JsonObject *reply = ff_json_node_object(node);

        if (reply && json_object_has_member(reply, "return")) {
            mon->relay->hands_over = mon;
        }
    }
}

void ff_monitor_reply(FfMonitor *mon, uint32_t seq, GBytes *line)
{
    FfItem *item = take_owned(mon, seq);
    gsize len;
    const char *text = g_bytes_get_data(line, &len);

    if (item) {
        note_hand_over(mon, item, text, len);
        ff_answer_insert(mon, text, len);
        ff_item_free(item);
        ff_monitor_pump(mon);
    }
}

void ff_monitor_do_without(FfMonitor *mon, uint32_t seq)
{
    if (mon->owned && mon->owned->seq == seq && is_kept(mon, mon->owned->command)) {
        ff_monitor_refuse(mon, seq, kept);
        return;
    }
    if (mon->owned && mon->owned->seq == seq) {
        note_native(mon, mon->owned);
    }
    ff_monitor_pass(mon, seq, NULL);
}

void ff_monitor_pass(FfMonitor *mon, uint32_t seq, GBytes *instead)
{
    FfItem *item = take_owned(mon, seq);
    g_autoptr(FfQmpCommand) command = NULL;

    if (!item) {
        return;
    }
    if (instead) {
        gsize len;
        const char *text = g_bytes_get_data(instead, &len);

        command = ff_qmp_command_parse(text, len);
    }
    if (instead && !command) {
        reply_error(mon, item, "the migration engine passed on something that is no command");
        ff_item_free(item);
    } else if (ff_starts_migration(command ? command : item->command) &&
               __atomic_load_n(&mon->relay->state->undo_len, __ATOMIC_ACQUIRE)) {
        /* QEMU would migrate with x-ignore-shared: without the guest's memory. */
        reply_error(mon, item,
                    "QEMU's own migration is locked: its settings are not restored after the "
                    "last migration; repeat the command");
        ff_item_free(item);
    } else if (is_given_away(mon, command ? command : item->command)) {
        reply_error(mon, item, given_away);
        ff_item_free(item);
    } else if (mon->qemu && !command && begin_plug(mon, item)) {
        /* it waits, or is answered */
    } else if (mon->qemu) {
        pass_item(mon, item, command);
    } else {
        ff_item_free(item);
    }
    ff_monitor_pump(mon);
}

void ff_monitor_refuse(FfMonitor *mon, uint32_t seq, const char *desc)
{
    FfItem *item = take_owned(mon, seq);

    if (item) {
        reply_error(mon, item, desc);
        ff_item_free(item);
        ff_monitor_pump(mon);
    }
}

void ff_monitor_event(FfMonitor *mon, GBytes *line)
{
    gsize len;
    const char *text = g_bytes_get_data(line, &len);

    size_t waits = mon->client ? ff_conn_queued(mon->client) : mon->batch->len;

    if (mon->relay->clients_go && ff_monitor_will_go(mon)) {
        return; /* the end of the upgrade it hears from the other engine */
    }
    if ((mon->client || mon->awaited) && (mon->negotiated || mon->adopting) &&
        waits + mon->insert_bytes < MAX_EVENTS_TO_CLIENT) {
        ff_answer_insert(mon, text, len);
        update_reading(mon);
    }
}

bool ff_monitor_has_pending(const FfMonitor *mon)
{
    return mon->owned || !g_queue_is_empty((GQueue *)&mon->owned_oob);
}

bool ff_monitor_has_words(const FfMonitor *mon)
{
    for (const GList *l = mon->inband.head; l; l = l->next) {
        const FfSent *sent = l->data;

        if (sent->says != FF_SAID_NOTHING || sent->adds) {
            return true;
        }
    }
    return false;
}

static GQueue take_all_owned(FfMonitor *mon)
{
    GQueue all = G_QUEUE_INIT;
    FfItem *item;

    while ((item = g_queue_pop_head(&mon->owned_oob)) || (item = g_steal_pointer(&mon->owned))) {
        g_queue_push_tail(&all, item);
    }
    return all;
}

void ff_monitor_own_again(FfMonitor *mon)
{
    GQueue all = take_all_owned(mon);
    FfItem *item;

    while ((item = g_queue_pop_head(&all))) {
        own_item(mon, item);
    }
}

void ff_monitor_engine_lost(FfMonitor *mon, const char *desc)
{
    FfItem *item;

    for (GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        sent->lost |= sent->injected;
    }
    GQueue lost = take_all_owned(mon);

    while ((item = g_queue_pop_head(&lost))) {
        /* Said twice they change nothing, and the new engine knows the answer. (libvirt destroys a
         * guest that came in and whose cont fails.) What another command that does something had
         * done when the engine died, only its user can find out. */
        bool again = g_str_has_prefix(item->command->name, "query-") ||
                     !strcmp(item->command->name, "cont") || !strcmp(item->command->name, "stop");

        if (again && ++item->losses < MAX_LOSSES) {
            own_item(mon, item);
        } else {
            reply_error(mon, item, desc ? desc : ff_absence_text(mon->relay));
            ff_item_free(item);
        }
    }
}

void ff_monitor_hear_out(FfMonitor *mon)
{
    FfAccept *accept = g_steal_pointer(&mon->accept); /* the name is free for the next relay */

    if (mon->qemu) {
        ff_conn_read_rest(mon->qemu);
    }
    if (accept) {
        ff_accept_end(accept);
    }
}

void ff_monitor_end(FfMonitor *mon)
{
    if (mon->client) {
        close_client(mon);
    }
    ff_overdue_end(mon);
    if (mon->qemu) {
        ff_conn_free(g_steal_pointer(&mon->qemu));
    }
}

void ff_monitor_leave(FfMonitor *mon)
{
    FfRelayMonitor *plan = mon->relay->plan->monitors->pdata[mon->index];

    ff_monitor_hear_out(mon);
    ff_monitor_end(mon);
    plan->fd = -1; /* accept.c has closed it */
}
