/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See replace-relay.h.
 *
 * The door is a pair of sockets of which this process keeps both ends: who asks takes the other end
 * with pidfd_getfd(), so it is who may look into this process (root, as it is not dumpable). Its
 * number is in the state.
 *
 * One thread; no locks. System calls: socketpair, poll, fcntl, memfd_create.
 */
#include "guest/relay/replace-relay.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/files.h"
#include "base/pidfd.h"
#include "base/rights.h"
#include "guest/relay/backends.h"
#include "guest/relay/engine.h"
#include "guest/relay/monitor.h"
#include "guest/relay/placeholder.h"
#include "guest/relay/vhost-rest.h"
#include "qmp/json.h"

typedef struct {
    FfRelay *relay;
    int door[2];
    int talk;      /* with the command that asks; -1: none does */
    GSource *rest; /* until all is at rest; NULL: not waited for */
    guint timer;   /* 0: none */
    guint gone;    /* the watch for its end, until it is answered; 0: none */
    uint32_t said; /* FfRelay.last_seq when the engine was told to rest; ~0: it was not */
    GArray *given; /* of int: copies of what the plan names */
    bool no_room;  /* for one of them */
} FfSuccession;

/* ---- whether it can be ----------------------------------------------------------------------- */

static bool other_lives(const FfRelay *relay)
{
    return relay->waits_for_other && relay->plan->other_fd >= 0 &&
           !ff_pidfd_has_ended(relay->plan->other_fd);
}

/* NULL: it can, now or in a moment. */
static const char *why_not(const FfRelay *relay)
{
    if (!relay->guest.hello) {
        return "there is no agent of farfault's in QEMU";
    }
    if (ff_state_is_front(relay->state)) {
        return "its guest is in another QEMU, and this process only stays for those who know it: "
               "replace that one's farfault";
    }
    if (ff_state_is_marked(relay->state, FF_MARK_BORROWED | FF_MARK_MOVED) || other_lives(relay)) {
        return "the guest changes its QEMU (farfault upgrade)";
    }
    if (relay->clients_wait || ff_engine_is_at_stake(relay)) {
        return "a migration or a snapshot is under way, is waited for, or has left something to "
               "clean up: repeat it when that is over";
    }
    return NULL;
}

/* The first monitor that does not rest; NULL: all do. */
static const char *restless_monitor(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (!ff_monitor_rests(relay->monitors->pdata[i])) {
            return ((FfRelayMonitor *)relay->plan->monitors->pdata[i])->id;
        }
    }
    return NULL;
}

static bool clients_rest(const FfRelay *relay)
{
    return !restless_monitor(relay) && !ff_backends_restless(relay);
}

static bool engine_rests(const FfRelay *relay)
{
    const FfGuest *guest = &relay->guest;

    return ff_engine_is_needless(relay) && !relay->filters && !guest->uffd_lent &&
           !guest->uffd_timer && !guest->uffd_lifting && !guest->uffd_overdue;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Returns the number under which the next relay has a copy of FD; -1: FD is none. */
static int give_fd(FfSuccession *s, int fd)
{
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FF_SUCCESSION_FIRST_FD);

    if (copy >= 0) {
        g_array_append_val(s->given, copy);
    } else if (fd >= 0) {
        s->no_room = true;
    }
    return copy;
}

static void set_fd(FfSuccession *s, JsonObject *o, const char *name, int fd)
{
    json_object_set_int_member(o, name, give_fd(s, fd));
}

static JsonArray *numbers_of(const int32_t *numbers, unsigned n)
{
    JsonArray *array = json_array_new();

    for (unsigned i = 0; i < n; i++) {
        json_array_add_int_element(array, numbers[i]);
    }
    return array;
}

static JsonObject *describe_agent(FfSuccession *s)
{
    const FfGuest *guest = &s->relay->guest;
    const FfStateHeader *state = s->relay->state;
    const int process[] = {[FF_AGENT_FD_PIDFD] = guest->pidfd,
                           [FF_AGENT_FD_PAGEMAP] = guest->pagemap,
                           [FF_AGENT_FD_MAPS] = guest->maps,
                           [FF_AGENT_FD_MEM] = guest->mem};
    JsonObject *o = json_object_new();
    JsonArray *fds = json_array_new();

    for (unsigned i = 0; i < FF_AGENT_FD_UFFDS; i++) {
        json_array_add_int_element(fds, give_fd(s, process[i]));
    }
    for (unsigned i = 0; i < FF_KINDS; i++) {
        if (!state->kind_error[i]) {
            json_array_add_int_element(fds, give_fd(s, guest->uffds[i]));
        }
    }
    if (guest->hook >= 0) {
        json_array_add_int_element(fds, give_fd(s, guest->hook));
    }
    json_object_set_array_member(o, "fds", fds);
    json_object_set_array_member(o, "errors", numbers_of(state->kind_error, FF_KINDS));
    json_object_set_array_member(o, "kept", numbers_of(state->kind_in_qemu, FF_KINDS));
    json_object_set_int_member(o, "hook-error", guest->hook >= 0 ? 0 : guest->hook_errno);
    json_object_set_int_member(o, "hook-kept", state->hook_in_qemu ? state->hook_in_qemu : -1);
    return o;
}

static JsonObject *describe_session(FfSuccession *s, const FfRelaySession *had)
{
    JsonObject *o = json_object_new();
    int in = give_fd(s, had->in);

    json_object_set_int_member(o, "in", in);
    json_object_set_int_member(o, "out", had->out == had->in ? in : give_fd(s, had->out));
    set_fd(s, o, "qemu", had->qemu);
    json_object_set_boolean_member(o, "negotiated", had->negotiated);
    json_object_set_boolean_member(o, "oob-enabled", had->oob_enabled);
    json_object_set_boolean_member(o, "qemu-oob", had->qemu_oob);
    json_object_set_string_member(o, "greeting", had->greeting);
    g_free(had->greeting);
    JsonObject *named = json_object_new();
    GHashTableIter iter;
    gpointer name, fd;

    if (had->named_fds) {
        g_hash_table_iter_init(&iter, had->named_fds);
        while (g_hash_table_iter_next(&iter, &name, &fd)) {
            set_fd(s, named, name, GPOINTER_TO_INT(fd));
        }
    }
    json_object_set_object_member(o, "named-fds", named);
    return o;
}

/* Where clients come from when this one has gone. FALSE: from nowhere. */
static bool describe_source(FfSuccession *s, JsonObject *o, const FfRelayMonitor *plan)
{
    switch (plan->kind) {
    case FF_RELAY_LISTEN:
        set_fd(s, o, "fd", plan->fd);
        return true;
    case FF_RELAY_CONNECTED:
    case FF_RELAY_CONNECT_UNIX:
    case FF_RELAY_CONNECT_TCP:
        json_object_set_int_member(o, "fd", -1); /* the session's, or closed */
        if (plan->reconnect && (plan->path || plan->host)) {
            json_object_set_string_member(o, "kind", plan->path ? "connect-unix" : "connect-tcp");
            return true;
        }
        return false;
    case FF_RELAY_STDIO:
        json_object_remove_member(o, "in");
        json_object_remove_member(o, "out");
        return false;
    case FF_RELAY_SPARE:
    case FF_RELAY_DOOR:
        return true;
    }
    return false;
}

static int give_to(int fd, void *opaque)
{
    return give_fd(opaque, fd);
}

static JsonObject *describe_connection(FfSuccession *s, const FfRelayBackend *had)
{
    JsonObject *o = ff_vhost_rest_write(had->rest, give_to, s);

    set_fd(s, o, "backend", had->backend);
    set_fd(s, o, "qemu", had->qemu);
    json_object_set_boolean_member(o, "cannot-wait", had->cannot_wait);
    return o;
}

/* The socket of QEMU's, and the name that is to be removed at its end. */
static void describe_place(FfSuccession *s, JsonObject *o, const FfRelayMonitor *plan)
{
    set_fd(s, o, "qemu", plan->qemu);
    json_object_set_int_member(o, "unlink-dev", (gint64)plan->unlink_dev);
    json_object_set_int_member(o, "unlink-ino", (gint64)plan->unlink_ino);
}

/* FALSE: it has a client no more, and none will come. */
static bool describe_monitor(FfSuccession *s, JsonObject *o, guint i)
{
    const FfMonitor *mon = s->relay->monitors->pdata[i];
    const FfRelayMonitor *plan = s->relay->plan->monitors->pdata[i];
    FfRelaySession session;
    bool is = ff_monitor_session(mon, &session), comes = describe_source(s, o, plan);

    describe_place(s, o, plan);
    json_object_remove_member(o, "session"); /* this relay's own */
    if (is) {
        json_object_set_object_member(o, "session", describe_session(s, &session));
    }
    return is || comes;
}

/* FALSE: QEMU has removed its chardev. */
static bool describe_backend(FfSuccession *s, JsonObject *o, guint i)
{
    const FfRelayMonitor *plan = s->relay->plan->backends->pdata[i];
    FfRelayBackend had;

    if (!ff_backends_describe(s->relay, i, &had)) {
        return false;
    }
    if (!plan->spare) {
        describe_source(s, o, plan); /* else it is in the state */
    }
    describe_place(s, o, plan);
    json_object_remove_member(o, "vhost"); /* this relay's own */
    json_object_remove_member(o, "known");
    if (had.known) {
        json_object_set_object_member(o, "known", ff_vhost_known_write(had.known));
        g_free(had.known);
    }
    if (had.rest) {
        json_object_set_object_member(o, "vhost", describe_connection(s, &had));
        g_free(had.rest);
    }
    return true;
}

static void describe_monitors(FfSuccession *s, JsonObject *root)
{
    JsonArray *had = ff_json_array(root, "monitors"), *all = json_array_new();
    guint n_monitors = 0, n_backends = 0;

    for (guint i = 0; had && i < json_array_get_length(had); i++) {
        JsonObject *o = json_object_ref(json_array_get_object_element(had, i));

        if (ff_json_bool(o, "backend") ? describe_backend(s, o, n_backends++)
                                       : describe_monitor(s, o, n_monitors++)) {
            json_array_add_object_element(all, o);
        } else {
            json_object_unref(o);
        }
    }
    json_object_set_array_member(root, "monitors", all);
}

/* What the plan names may have been unplugged since, and something else plugged by that name. */
static void describe_memory(FfSuccession *s, JsonObject *root)
{
    JsonArray *all = json_array_new();

    for (guint i = 0; i < s->relay->held->len; i++) {
        const FfHeld *h = s->relay->held->pdata[i];
        JsonNode *node = json_from_string(h->json, NULL);

        set_fd(s, json_node_get_object(node), "fd", h->fd);
        json_array_add_element(all, node);
    }
    json_object_set_array_member(root, "ram", json_array_new());
    json_object_set_array_member(root, "held", all);
}

/* Which files have got their names already. */
static void describe_names(const FfRelay *relay, JsonObject *root)
{
    JsonArray *names = ff_json_array(root, "names");

    for (guint i = 0; names && i < json_array_get_length(names); i++) {
        JsonObject *o = json_array_get_object_element(names, i);
        const FfRelayName *name = relay->plan->names->pdata[i];

        json_object_set_int_member(o, "dev", (gint64)name->dev);
        json_object_set_int_member(o, "ino", (gint64)name->ino);
    }
}

static void describe_given(FfSuccession *s, JsonObject *root)
{
    const GArray *given = s->relay->plan->given;
    JsonArray *all = json_array_new();

    for (guint i = 0; i < given->len; i++) {
        JsonObject *o = json_object_new();

        json_object_set_int_member(o, "number", g_array_index(given, FfRelayGiven, i).number);
        set_fd(s, o, "fd", g_array_index(given, FfRelayGiven, i).fd);
        json_array_add_object_element(all, o);
    }
    json_object_set_array_member(root, "given", all);
}

/* The launcher's plan, as it is now (g_free). */
static char *describe_relay(FfSuccession *s)
{
    const FfRelay *relay = s->relay;
    g_autoptr(JsonNode) node = json_from_string(relay->plan->text, NULL);
    JsonObject *root = json_node_get_object(node);

    json_object_set_int_member(root, "qemu-pid", relay->guest.pid);
    json_object_set_boolean_member(root, "attached", TRUE);
    json_object_set_boolean_member(root, "daemonize", FALSE);
    json_object_set_boolean_member(root, "borrowed", FALSE);
    set_fd(s, root, "agent-fd", relay->guest.agent_source ? relay->plan->agent_fd : -1);
    set_fd(s, root, "state-fd", relay->state_fd);
    set_fd(s, root, "taps-fd", relay->plan->taps_fd);
    set_fd(s, root, "stderr-fd", relay->plan->stderr_fd);
    set_fd(s, root, "qemu-monitor", relay->plan->qemu_monitor);
    json_object_set_int_member(root, "other-fd", -1);
    json_object_set_int_member(root, "other-door", -1);
    set_fd(s, root, "door-inner", relay->door_inner);
    set_fd(s, root, "door", relay->door);
    set_fd(s, root, "front-fd", relay->plan->front_fd);
    set_fd(s, root, "front-door", relay->plan->front_door);
    json_object_set_int_member(root, "succession",
                               relay->plan->backends->len ? FF_SUCCESSION_VERSION : 1);
    describe_memory(s, root);
    describe_names(relay, root);
    describe_given(s, root);
    describe_monitors(s, root);
    json_object_set_object_member(root, "agent", describe_agent(s));
    json_object_set_array_member(root, "fds",
                                 numbers_of((const int32_t *)s->given->data, s->given->len));
    return json_to_string(node, FALSE);
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void forget_given(FfSuccession *s)
{
    for (guint i = 0; i < s->given->len; i++) {
        close(g_array_index(s->given, int, i));
    }
    g_array_set_size(s->given, 0);
}

static void end_replacement(FfSuccession *s)
{
    if (s->rest) {
        g_source_destroy(s->rest);
        g_clear_pointer(&s->rest, g_source_unref);
    }
    g_clear_handle_id(&s->timer, g_source_remove);
    g_clear_handle_id(&s->gone, g_source_remove);
    forget_given(s);
    if (s->talk >= 0) {
        close(g_steal_fd(&s->talk));
    }
}

static void say_no(int talk, const char *why)
{
    g_autofree char *text = g_strdup_printf("%c%s", FF_SUCCESSION_NO, why);

    ff_rights_send(talk, text, MIN(strlen(text), (size_t)FF_SUCCESSION_TEXT), NULL, 0);
}

static void refuse_replacement(FfSuccession *s, const char *why)
{
    say_no(s->talk, why);
    end_replacement(s);
}

static int memfd_of(const char *text)
{
    int fd = memfd_create("farfault-succession", MFD_CLOEXEC);
    size_t len = strlen(text), done = 0;

    while (fd >= 0 && done < len) {
        ssize_t n = write(fd, text + done, len - done);

        if (n < 0) {
            close(g_steal_fd(&fd));
        } else {
            done += (size_t)n;
        }
    }
    return fd;
}

/* Whether TAKE comes in time: by the clock, as this process may be stopped meanwhile. */
static bool is_taken(const FfSuccession *s)
{
    gint64 end = g_get_monotonic_time() + (gint64)FF_SUCCESSION_FROZEN_MS * 1000, left;
    struct pollfd pfd = {s->talk, POLLIN, 0};
    char word = 0;

    while ((left = end - g_get_monotonic_time()) > 0) {
        if (poll(&pfd, 1, (int)((left + 999) / 1000)) <= 0) {
            continue;
        }
        return g_get_monotonic_time() < end && recv(s->talk, &word, 1, MSG_DONTWAIT) == 1 &&
               word == FF_SUCCESSION_TAKE;
    }
    return false;
}

/* From here on the other one lives, or this one goes on. */
static void give_place(FfSuccession *s)
{
    ff_files_raise(); /* the copies have high numbers */
    const char plan = FF_SUCCESSION_PLAN, given = FF_SUCCESSION_GIVEN;
    s->no_room = false;
    g_autofree char *text = describe_relay(s);
    int fd = s->no_room ? -1 : memfd_of(text);

    FF_FAULT_AT("asked");
    if (fd < 0 || ff_rights_send(s->talk, &plan, 1, &fd, 1) != 1) {
        refuse_replacement(
            s, "it may not have as many open files as the next one needs (RLIMIT_NOFILE)");
    } else if (is_taken(s)) {
        FF_FAULT_AT("taken");
        if (ff_rights_send(s->talk, &given, 1, NULL, 0) == 1) {
            _exit(0); /* what is the other one's is not touched */
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    end_replacement(s);
}

/* ---- until all is at rest -------------------------------------------------------------------- */

typedef struct {
    GSource source;
    FfSuccession *s;
} Rest;

/* Looked at in each turn of the main loop, which each event brings about. */
static gboolean rest_prepare(GSource *source, gint *timeout)
{
    const FfSuccession *s = ((Rest *)source)->s;

    *timeout = -1;
    return why_not(s->relay) ||
           (clients_rest(s->relay) && (engine_rests(s->relay) || s->said != s->relay->last_seq));
}

static gboolean rest_check(GSource *source)
{
    return FALSE; /* prepare() says it */
}

static gboolean rest_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    FfSuccession *s = ((Rest *)source)->s;
    const char *why = why_not(s->relay);

    if (why) {
        refuse_replacement(s, why);
    } else if (!clients_rest(s->relay)) {
        return G_SOURCE_CONTINUE;
    } else if (!engine_rests(s->relay)) {
        s->said = s->relay->last_seq;
        ff_engine_rest(s->relay);
        return G_SOURCE_CONTINUE;
    } else {
        give_place(s);
    }
    return G_SOURCE_REMOVE;
}

static GSourceFuncs rest_funcs = {
    .prepare = rest_prepare, .check = rest_check, .dispatch = rest_dispatch};

static gboolean too_late(gpointer opaque)
{
    FfSuccession *s = opaque;

    const char *id = restless_monitor(s->relay), *backend = ff_backends_restless(s->relay);
    g_autofree char *why =
        id ? g_strdup_printf("the client of monitor '%s' has sent half a command, waits for an "
                             "answer, or does not read it: repeat it",
                             id)
        : backend ? g_strdup_printf("the back-end of chardev '%s' has not answered QEMU yet, or "
                                    "QEMU does not take it: repeat it",
                                    backend)
                  : g_strdup("a migration engine is at work, or has not ended yet: repeat it");

    s->timer = 0;
    refuse_replacement(s, why);
    return G_SOURCE_REMOVE;
}

/* Who has asked says nothing before it is answered. */
static gboolean asker_gone(gint fd, GIOCondition condition, gpointer opaque)
{
    FfSuccession *s = opaque;

    s->gone = 0;
    end_replacement(s);
    return G_SOURCE_REMOVE;
}

/* FALSE: FD is not taken. */
static bool give_monitor(FfRelay *relay, int fd)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (ff_monitor_give(relay->monitors->pdata[i], fd)) {
            return true;
        }
    }
    return false;
}

static gboolean door_asked(gint door, GIOCondition condition, gpointer opaque)
{
    FfSuccession *s = opaque;
    char word = 0;
    FfRights rights;
    ssize_t n = ff_rights_receive(door, &word, 1, &rights);
    bool asks = n == 1 && word == FF_SUCCESSION_ASK && rights.n == 1, is = asks && s->talk < 0;

    if (n == 1 && word == FF_SUCCESSION_MONITOR && rights.n == 1 &&
        give_monitor(s->relay, rights.fd[0])) {
        return G_SOURCE_CONTINUE;
    }
    if (n == 1 && word == FF_SUCCESSION_WHERE && rights.n == 1) {
        ff_placeholder_say_where(s->relay, rights.fd[0]);
    }
    if (asks && !is) {
        say_no(rights.fd[0], "another one is just asking for it: repeat it");
    }
    for (unsigned i = is ? 1 : 0; n > 0 && i < rights.n; i++) {
        close(rights.fd[i]);
    }
    if (is) {
        s->talk = rights.fd[0];
        s->gone = g_unix_fd_add(s->talk, G_IO_IN | G_IO_HUP, asker_gone, s);
        s->said = ~0u;
        s->timer = g_timeout_add(FF_SUCCESSION_REST_MS, too_late, s);
        s->rest = g_source_new(&rest_funcs, sizeof(Rest));
        ((Rest *)s->rest)->s = s;
        /* After what has come, which the turn begins with. */
        g_source_set_priority(s->rest, G_PRIORITY_LOW);
        g_source_attach(s->rest, NULL);
    }
    return G_SOURCE_CONTINUE;
}

void ff_replace_relay_open(FfRelay *relay)
{
    FfSuccession *s = g_new0(FfSuccession, 1); /* lives as long as the process */

    s->relay = relay;
    s->talk = -1;
    s->given = g_array_new(FALSE, FALSE, sizeof(int));
    relay->state->relay = relay->state->relay_door = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s->door) < 0) {
        ff_relay_log(relay, "no other relay can take the place of this one: %s", g_strerror(errno));
        return;
    }
    g_unix_fd_add(s->door[0], G_IO_IN, door_asked, s);
    relay->state->relay_door = s->door[1];
    relay->state->relay = getpid();
}

bool ff_replace_relay_take(const FfRelay *relay)
{
    const char take = FF_SUCCESSION_TAKE;
    int talk = relay->plan->succeeds;
    struct pollfd pfd = {talk, POLLIN, 0};
    char word = 0;

    FF_FAULT_AT("takes");
    if (ff_rights_send(talk, &take, 1, NULL, 0) != 1) {
        return false;
    }
    /* It has a limit of its own, and then this connection ends. */
    while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {
    }
    bool given = recv(talk, &word, 1, MSG_DONTWAIT) == 1 && word == FF_SUCCESSION_GIVEN;

    close(talk);
    return given;
}
