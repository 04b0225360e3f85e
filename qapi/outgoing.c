/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration that the engine began and QEMU carries.
 *
 * Because the destination answers as QEMU does (FF_PLAIN_DESTINATION): QEMU's own migration is
 * started into a private socket and joined to the connection after what the peer has been sent
 * already (net/splice.c). With postcopy-preempt QEMU opens more than one channel, so it connects to
 * a private listening socket; else it is given a socketpair.
 *
 * Because this side's engine does not migrate such a guest: the same, where postcopy may be asked
 * for. Else nobody was connected to, QEMU gets what the client wrote, and is on its own.
 *
 * A peer that was connected to has answered by then (migration/common/qemu-carries.c), also where
 * it waited for a second channel. So nothing of the guest goes to a peer that has not said a byte.
 *
 * Until QEMU has begun, commands of clients wait: QEMU would answer them from before. Where
 * postcopy may be asked for the most wait until its stream was found to begin as the peer was told,
 * too: a switch that is asked for earlier could have stopped the guest by the time that the
 * connection is broken, and nobody would have it then. The request itself is answered at once, as
 * QEMU does, and kept (where QEMU connects by itself, for the engine after this one as well): what
 * the same client says next, migrate_cancel above all, does not wait for it. Main loop's thread.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "net/splice.h"
#include "qapi/driver-private.h"
#include "qapi/listen.h"
#include "qapi/private-name.h"

#define FD_NAME "farfault-outgoing"
/* QEMU writes the beginning of its stream within this time, once it has answered (seconds). That is
 * before ram_save_setup(), so the size of memory does not matter; but its main loop, which connects
 * where there are several channels, may be stuck in storage. */
#define BEGIN_S 60

struct FfOutgoing {
    FfDriver *driver;
    FfSplice *native;
    FfSpliceBegun begun;
    FfStream *peer;      /* NULL: native's */
    FfStream *second;    /* of FfPlainPeer; NULL: none, or native's */
    bool tls;            /* it is under TLS */
    bool refused;        /* there is no peer: QEMU connects */
    char *why;           /* that; NULL */
    int fd;              /* refused: or continues over this one; -1: to uri */
    char *uri;           /* of the peer; NULL: none that can be connected to */
    bool postcopy;       /* the switch was asked for already */
    bool started;        /* QEMU has its migration, and its stream is the one that was expected */
    bool matched;        /* the latter */
    bool ended;          /* the connections are over, before it had */
    FfCall *answered;    /* QEMU has its migration, and its stream was not seen yet; NULL */
    guint timer;         /* until it is; 0 */
    GQueue waiting;      /* FfCall: until then */
    int listener;        /* for QEMU's channels; -1 */
    FfPrivateName *name; /* the listener's; NULL */
    bool fd_given;       /* QEMU has a socket of ours by name, until it migrates */
};

/* The engine ends. What came out-of-band is in no client's queue, where the others are. */
static void free_waiting(FfOutgoing *out)
{
    FfCall *call;

    while ((call = g_queue_pop_head(&out->waiting))) {
        if (call->oob) {
            ff_call_free(call);
        }
    }
}

void ff_outgoing_free(FfOutgoing *out)
{
    g_clear_pointer(&out->native, ff_splice_free);
    g_clear_handle_id(&out->timer, g_source_remove);
    ff_stream_free(out->peer);
    ff_stream_free(out->second);
    if (out->fd >= 0) {
        close(out->fd);
    }
    if (out->listener >= 0) {
        close(out->listener);
    }
    g_clear_pointer(&out->answered, ff_call_free);
    ff_private_name_free(out->name);
    g_clear_pointer(&out->begun.opening, g_bytes_unref);
    free_waiting(out);
    g_free(out->uri);
    g_free(out->why);
    g_free(out);
}

void ff_outgoing_remove_name(FfOutgoing *out)
{
    ff_private_name_remove(out->name);
}

bool ff_outgoing_has_begun(const FfOutgoing *out)
{
    return out->started;
}

/* What comes in the human monitor comes again as the command that it is. */
static bool is_harmless(const char *command)
{
    return !strcmp(command, "migrate_cancel") || !strcmp(command, "human-monitor-command") ||
           g_str_has_prefix(command, "query-");
}

static bool is_switch(const FfCall *call)
{
    return !strcmp(call->name, "migrate-start-postcopy") &&
           call->driver->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM;
}

/* An engine after this one does it where QEMU has its own connection. Through one of ours, which
 * ends with this engine, it would be a switch to a peer that is gone. */
static void keep_switch(FfOutgoing *out)
{
    out->postcopy = true;
    if (out->refused) {
        out->driver->config.state->driver_flags |= FF_DRIVER_SWITCH_KEPT;
    }
}

bool ff_outgoing_holds(FfOutgoing *out, FfCall *call)
{
    if (out->started || (out->answered && is_harmless(call->name))) {
        return false;
    }
    if (is_switch(call)) {
        keep_switch(out);
        ff_call_return(call, NULL);
    } else {
        g_queue_push_tail(&out->waiting, call);
    }
    return true;
}

/* QEMU answers from now on. */
static void let_calls_go(FfDriver *d, GQueue *waiting)
{
    FfCall *call;

    while ((call = g_queue_pop_head(waiting))) {
        ff_call_dispatch(call);
    }
}

/* Some of them may. */
static void let_harmless_go(FfDriver *d)
{
    GQueue waiting = d->outgoing->waiting;

    g_queue_init(&d->outgoing->waiting);
    let_calls_go(d, &waiting);
}

void ff_outgoing_end(FfDriver *d)
{
    g_clear_pointer(&d->outgoing, ff_outgoing_free);
    ff_driver_restore_settings(d);
    ff_driver_touch(d);
}

static void fail_outgoing(FfCall *call, const char *why)
{
    FfDriver *d = call->driver;
    GQueue waiting = d->outgoing->waiting;

    if (d->outgoing->fd_given) {
        ff_driver_close_given(d, FD_NAME);
    }

    g_queue_init(&d->outgoing->waiting);
    d->config.state->driver_flags &=
        ~(FF_DRIVER_PLAIN_PEER | FF_DRIVER_GIVING_BACK | FF_DRIVER_SWITCH_KEPT);
    ff_carried_set(&d->config.state->totals, FF_CARRIED_NONE);
    ff_driver_store_failure(d, FF_ROLE_SOURCE, why);
    ff_driver_report(d, FF_STATUS_FAILED);
    ff_driver_log(d, "farfault: migration source failed: %s", why);
    ff_outgoing_end(d);
    ff_call_return(call, NULL);
    let_calls_go(d, &waiting);
}

static void asked_for_postcopy(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_driver_log(call->driver, "farfault: migrate-start-postcopy: %s", error->message);
    }
    ff_call_return(call, NULL);
}

/* Clients may ask for the switch from now on: the peer follows QEMU's stream, or it has ended. */
static void go_on(FfCall *call)
{
    FfDriver *d = call->driver;
    GQueue waiting = d->outgoing->waiting;
    /* Of a connection that has ended the peer has had what nobody knows. */
    bool follows = d->outgoing->matched && !d->outgoing->ended;
    bool postcopy = d->outgoing->postcopy && (follows || d->outgoing->refused);

    d->outgoing->answered = NULL;
    d->outgoing->started = true;
    g_clear_handle_id(&d->outgoing->timer, g_source_remove);
    g_queue_init(&d->outgoing->waiting);
    if (postcopy) {
        ff_call_inner(call, "migrate-start-postcopy", NULL, asked_for_postcopy);
    } else {
        ff_call_return(call, NULL);
    }
    if (d->outgoing->ended) {
        ff_outgoing_end(d);
    }
    let_calls_go(d, &waiting);
}

static void on_over(gpointer opaque)
{
    FfDriver *d = opaque;
    FfOutgoing *out = d->outgoing;

    if (out->started) {
        ff_outgoing_end(d);
        return;
    }
    out->ended = true;
    if (out->answered) { /* else: somebody waits for QEMU's answer still */
        go_on(out->answered);
    }
}

static void on_matched(gpointer opaque)
{
    FfDriver *d = opaque;
    FfOutgoing *out = d->outgoing;

    out->matched = true;
    if (out->answered) {
        go_on(out->answered);
    }
}

/* Whatever QEMU is about to write, nobody reads it any more. */
static gboolean nothing_came(gpointer opaque)
{
    FfDriver *d = opaque;
    FfOutgoing *out = d->outgoing;

    out->timer = 0;
    if (ff_splice_matches(out->native)) {
        return G_SOURCE_REMOVE; /* on_matched() is about to be called */
    }
    ff_driver_log(d, "farfault: QEMU's migration stream did not begin within %d s", BEGIN_S);
    g_clear_pointer(&out->native, ff_splice_free);
    out->ended = true;
    go_on(out->answered);
    return G_SOURCE_REMOVE;
}

/* A test of it need not wait for so long. */
static unsigned begin_ms(void)
{
    return FF_FAULT_CALL("begin", 0) ? 0 : BEGIN_S * 1000;
}

/* A file is refused for what its client may change; QEMU 7.2 knows no files. */
static char *say_both(const FfOutgoing *out, const char *error)
{
    return out->why && out->uri && g_str_has_prefix(out->uri, "file:")
               ? g_strdup_printf("%s (and the engine: %s)", error, out->why)
               : g_strdup(error);
}

static void on_started(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    FfOutgoing *out = d->outgoing;

    if (error) {
        g_autofree char *both = say_both(out, error->message);

        fail_outgoing(call, both);
        return;
    }
    FF_FAULT_AT("qemu-began");
    d->config.state->driver_flags &= ~(FF_DRIVER_GIVING_BACK | FF_DRIVER_SWITCH_KEPT);
    ff_driver_filter(d, 0); /* "setup" was said before this answer */
    bool switches = d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM;
    if (out->matched || out->ended || !switches) {
        go_on(call);
    } else {
        out->answered = call;
        out->timer = g_timeout_add(begin_ms(), nothing_came, d);
        let_harmless_go(d);
    }
}

/* The migration's events are QEMU's, and so is the guest's run state. Lifting a filter of all
 * events takes a while, in which QEMU may say "active": where QEMU has said nothing yet that must
 * be dropped, it is lifted at once, but for "setup", which the clients have been told already. */
static void show_events(FfDriver *d)
{
    ff_driver_filter(d, d->inner_begun ? 0 : FF_FILTER_SETUP_EVENTS);
}

static void send_migrate(FfCall *call, char *uri)
{
    JsonObject *args = json_object_new();

    show_events(call->driver);
    json_object_set_string_member(args, "uri", uri);
    g_free(uri);
    call->patient = true; /* what QEMU has done must be known */
    ff_call_inner(call, "migrate", args, on_started);
}

static void fd_given(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        fail_outgoing(call, error->message);
    } else {
        send_migrate(call, g_strdup("fd:" FD_NAME));
    }
}

/* FD is taken. */
static void give_fd(FfCall *call, int fd)
{
    JsonObject *args = json_object_new();

    call->fd = fd;
    call->driver->outgoing->fd_given = true;
    json_object_set_string_member(args, "fdname", FD_NAME);
    ff_call_inner_fd(call, "getfd", args, call->fd, fd_given);
}

/* One channel: a socketpair. */
static void give_socket(FfCall *call)
{
    FfOutgoing *out = call->driver->outgoing;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fail_outgoing(call, "no socket pair for QEMU can be made");
        return;
    }
    ff_splice_join(out->native, g_steal_pointer(&out->peer), pair[0], &out->begun);
    give_fd(call, pair[1]);
}

/* Several channels: QEMU connects to a socket of ours. */
static void let_connect(FfCall *call)
{
    FfOutgoing *out = call->driver->outgoing;
    g_auto(FfUri) target = {.kind = FF_URI_UNIX};
    g_autoptr(JsonArray) addresses = NULL;
    g_autoptr(GArray) fds = NULL;
    g_autoptr(GError) error = NULL;

    out->name = ff_private_name_new("outgoing", &error);
    if (out->name) {
        target.path = g_strdup(ff_private_name_path(out->name));
        fds = ff_listen(&target, NULL, &addresses, &error);
    }
    if (!fds) {
        fail_outgoing(call, error->message);
        return;
    }
    out->listener = g_array_index(fds, int, 0);
    ff_splice_expect_qemu(out->native, out->listener, g_steal_pointer(&out->peer), &out->begun,
                          g_steal_pointer(&out->second), out->uri);
    send_migrate(call, g_strdup_printf("unix:%s", target.path));
}

static void settings_made(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        fail_outgoing(call, error->message);
    } else if (d->outgoing->refused && d->outgoing->fd >= 0) {
        give_fd(call, g_steal_fd(&d->outgoing->fd));
    } else if (d->outgoing->refused) {
        send_migrate(call, g_strdup(d->outgoing->uri));
    } else if (d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_PREEMPT && d->outgoing->uri) {
        let_connect(call);
    } else {
        give_socket(call);
    }
}

static void capabilities_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error && call->driver->outgoing->tls) {
        ff_call_unset_tls(call, settings_made);
    } else {
        settings_made(call, result, error);
    }
}

static void set_peer(FfOutgoing *out, const FfPlainPeer *peer)
{
    out->native = ff_splice_new(on_over, out->driver);
    ff_splice_when_matched(out->native, on_matched);
    ff_splice_set_tls(out->native, peer->tls, peer->tls_hostname);
    out->peer = ff_stream_new_channel(peer->channel);
    out->second = peer->second ? ff_stream_new_channel(peer->second) : NULL;
    out->tls = peer->tls;
    out->begun.opening = g_bytes_ref(peer->opening);
    out->begun.ack = peer->acked;
}

void ff_outgoing_start(FfDriver *d, const FfPlainPeer *peer, const char *uri)
{
    FfOutgoing *out = g_new0(FfOutgoing, 1);

    out->driver = d;
    d->config.state->driver_flags &= ~FF_DRIVER_SWITCH_KEPT;
    d->config.state->driver_flags |= FF_DRIVER_GIVING_BACK;
    ff_driver_close_mem(d);
    if (!peer->channel) {
        out->refused = out->ended = true;
    } else {
        set_peer(out, peer);
    }
    out->fd = peer->fd;
    out->why = g_strdup(peer->refused);
    out->uri = g_strdup(uri);
    if (peer->postcopy && d->config.state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM) {
        keep_switch(out);
    }
    out->listener = -1;
    g_queue_init(&out->waiting);
    d->outgoing = out;
    ff_driver_store_info(d, NULL);
    ff_carried_set(&d->config.state->totals, FF_CARRIED_GIVEN);
    ff_driver_store_native(d, peer->refused ? peer->refused : FF_PLAIN_DESTINATION);
    if (peer->channel) {
        d->config.state->driver_flags |= FF_DRIVER_PLAIN_PEER;
    }
    FfCall *call = ff_call_new_own(d);
    g_autofree char *lost = ff_policy_would_lose(d, ff_policy_found_others(d), out->why);

    if (lost) {
        fail_outgoing(call, lost);
    } else {
        ff_call_give_capabilities(call, capabilities_set);
    }
}

/* ---- an engine that died in between ---------------------------------------------------------- */

void ff_outgoing_note_older(FfDriver *d, JsonNode *info)
{
    uint32_t *flags = &d->config.state->driver_flags;

    if (ff_has_ended(info)) {
        *flags |= FF_DRIVER_ENDED_BEFORE;
    } else {
        *flags &= ~FF_DRIVER_ENDED_BEFORE;
    }
}

/* BEGUN: QEMU has, and says itself what became of it. */
static void on_outcome(FfCall *call, bool begun)
{
    static const char why[] = "the migration engine ended before QEMU had begun the migration";
    FfDriver *d = call->driver;
    uint32_t *flags = &d->config.state->driver_flags;
    bool switches = begun && *flags & FF_DRIVER_SWITCH_KEPT;

    *flags &= ~(FF_DRIVER_GIVING_BACK | FF_DRIVER_SWITCH_KEPT);
    if (!begun) {
        *flags &= ~FF_DRIVER_PLAIN_PEER;
        ff_carried_set(&d->config.state->totals, FF_CARRIED_NONE);
        d->events = *flags & FF_DRIVER_EVENTS;
        ff_driver_store_failure(d, FF_ROLE_SOURCE, why);
        ff_driver_report(d, FF_STATUS_FAILED);
        ff_driver_log(d, "farfault: migration source failed: %s", why);
    }
    if (switches) {
        ff_call_inner(call, "migrate-start-postcopy", NULL, asked_for_postcopy);
    } else {
        ff_call_return(call, NULL);
    }
}

/* Its status is "completed", and was before. A guest that has gone stands for that. */
static void looked_at_run_state(FfCall *call, JsonNode *result, const GError *error)
{
    const char *state = result && JSON_NODE_HOLDS_OBJECT(result)
                            ? ff_json_string(json_node_get_object(result), "status")
                            : NULL;

    if (error) {
        ff_call_return(call, NULL); /* as in on_looked() */
    } else {
        on_outcome(call, !g_strcmp0(state, "postmigrate"));
    }
}

static void on_looked(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;
    const char *status = result && JSON_NODE_HOLDS_OBJECT(result)
                             ? ff_json_string(json_node_get_object(result), "status")
                             : NULL;
    bool older = d->config.state->driver_flags & FF_DRIVER_ENDED_BEFORE && ff_has_ended(result);

    if (error) {
        ff_call_return(call, NULL); /* nothing is known: the next engine looks again */
    } else if (older && !strcmp(status, "completed")) {
        ff_call_inner(call, "query-status", NULL, looked_at_run_state);
    } else {
        on_outcome(call, status && strcmp(status, "none") && !older);
    }
}

void ff_outgoing_look(FfDriver *d)
{
    if (d->config.state->role == FF_ROLE_SOURCE &&
        d->config.state->driver_flags & FF_DRIVER_GIVING_BACK) {
        ff_call_inner(ff_call_new_own(d), "query-migrate", NULL, on_looked);
    }
}
