/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The old QEMU's side of clients.h.
 *
 * The door is a pair of sockets, of which the other end is lent (qapi/upgrade.c). It is none at
 * which a relay gives its place (replace-relay.c): engines and who borrows memory have it.
 *
 * One thread; no locks. System calls: memfd_create, pwrite64, socketpair.
 */
#include "guest/relay/clients.h"

#include <errno.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/rights.h"
#include "contract/succession.h"
#include "guest/relay/backends.h"
#include "guest/relay/hook.h"
#include "guest/relay/monitor.h"
#include "guest/relay/placeholder.h"

/* Until clients are between two messages, where who asks takes them at once or never: QEMU answers
 * at once what it has been asked. */
#define QUIET_MS 500
/* Of a process that stays, or is behind one: until the new relay asks (its engine may have to be
 * started again), until the last client is between two messages, and until that relay has its turn.
 */
#define LEAVE_MS 60000

struct FfClientsGive {
    int talk;    /* with who has asked; -1: nobody has */
    bool rounds; /* that one waits for those that come later */
    bool told;   /* it has heard who comes, and who stays */
    GSource *quiet;
    guint timer, answer; /* 0: none */
    GArray *given;       /* of guint: indices of the monitors whose clients were described */
    unsigned n_stay;     /* of clients, after the last round */
    bool was_asked;      /* since the guest has left */
    void (*leave)(FfMonitor *mon); /* when that is over; NULL */
    guint last;                    /* not later than this; 0: none */
};

static FfClientsGive *give_of(FfRelay *relay)
{
    if (!relay->gives) {
        relay->gives = g_new0(FfClientsGive, 1); /* lives as long as the process */
        relay->gives->talk = -1;
        relay->gives->given = g_array_new(FALSE, FALSE, sizeof(guint));
    }
    return relay->gives;
}

static FfMonitor *nth_monitor(const FfRelay *relay, guint i)
{
    return relay->monitors->pdata[i];
}

/* ---- giving ---------------------------------------------------------------------------------- */

/* OTHERS: those that do not go. */
static void leave_clients(FfRelay *relay, bool others)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (!others || !ff_monitor_will_go(nth_monitor(relay, i))) {
            relay->gives->leave(nth_monitor(relay, i));
        }
    }
}

static void leave_now(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;

    g_clear_handle_id(&g->last, g_source_remove);
    if (g->leave) {
        leave_clients(relay, false);
        g->leave = NULL;
    }
}

static void end_giving(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;

    if (g->quiet) {
        g_source_destroy(g->quiet);
        g_clear_pointer(&g->quiet, g_source_unref);
    }
    g_clear_handle_id(&g->timer, g_source_remove);
    g_clear_handle_id(&g->answer, g_source_remove);
    close(g_steal_fd(&g->talk));
    relay->clients_go = false;
    leave_now(relay);
    if (relay->clients_late) {
        relay->pump(relay); /* they wait for nobody any more */
    }
}

static void refuse_clients(FfRelay *relay, const char *why)
{
    g_autofree char *text = g_strdup_printf("%c%s", FF_SUCCESSION_NO, why);

    ff_rights_send(relay->gives->talk, text, strlen(text), NULL, 0);
    end_giving(relay);
}

/* It can go, as when it was described. An older farfault takes no fds along. */
static bool still_quiet(const FfRelay *relay, guint i)
{
    const FfMonitor *mon = nth_monitor(relay, i);

    return ff_monitor_may_go(mon) && ff_monitor_is_quiet(mon) &&
           (relay->gives->rounds || !ff_monitor_has_fds(mon));
}

static void begin_client(JsonBuilder *b, const FfRelay *relay, guint i)
{
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "id");
    json_builder_add_string_value(b, ((FfRelayMonitor *)relay->plan->monitors->pdata[i])->id);
    json_builder_set_member_name(b, "oob-enabled");
    json_builder_add_boolean_value(b, ff_monitor_has_oob(nth_monitor(relay, i)));
}

/* Each run: with which byte, how many, and the first one's place in EXTRA. */
static void describe_fds(JsonBuilder *b, const GArray *runs, GArray *extra)
{
    json_builder_set_member_name(b, "fds");
    json_builder_begin_array(b);
    for (guint i = 0; i < runs->len; i++) {
        const FfUnreadFds *run = &g_array_index(runs, FfUnreadFds, i);

        json_builder_add_int_value(b, (gint64)run->at);
        json_builder_add_int_value(b, run->n);
        json_builder_add_int_value(b, extra->len);
        g_array_append_vals(extra, run->fds, run->n);
    }
    json_builder_end_array(b);
}

static unsigned count_fds(const GArray *runs)
{
    unsigned n = 0;

    for (guint i = 0; i < runs->len; i++) {
        n += g_array_index(runs, FfUnreadFds, i).n;
    }
    return n;
}

/* FALSE: with what others have said it is too much for one message. *ROOM: bytes that are left. */
static bool describe_client(JsonBuilder *b, const FfRelay *relay, guint i, GArray *fds,
                            GArray *extra, size_t *room)
{
    const FfMonitor *mon = nth_monitor(relay, i);
    FfRelaySession session;
    g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(FfUnreadFds));
    g_autofree char *unread = ff_monitor_unread(mon, runs);

    if (strlen(unread) > *room || fds->len + extra->len + 1 + count_fds(runs) > FF_RIGHTS_MAX) {
        return false;
    }
    *room -= strlen(unread);
    ff_monitor_session(mon, &session);
    g_free(session.greeting);
    g_array_append_val(fds, session.in);
    begin_client(b, relay, i);
    json_builder_set_member_name(b, "unread");
    json_builder_add_string_value(b, unread);
    describe_fds(b, runs, extra);
    json_builder_end_object(b);
    return true;
}

/* After all that come, whose fds are in the order of these objects. */
static void describe_one_that_stays(JsonBuilder *b, const FfRelay *relay, guint i)
{
    begin_client(b, relay, i);
    json_builder_set_member_name(b, "stays");
    json_builder_add_boolean_value(b, true);
    json_builder_end_object(b);
}

/* FDS: the first one is to be this text's. An empty array: there is nobody. */
static char *describe_all(FfRelay *relay, GArray *fds)
{
    FfClientsGive *g = relay->gives;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(GArray) stay = g_array_new(FALSE, FALSE, sizeof(guint));
    g_autoptr(GArray) extra = g_array_new(FALSE, FALSE, sizeof(int));
    size_t room = FF_CLIENTS_UNREAD_MAX;

    g_array_set_size(g->given, 0);
    json_builder_begin_array(b);
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (still_quiet(relay, i) && describe_client(b, relay, i, fds, extra, &room)) {
            g_array_append_val(g->given, i);
        } else if (g->rounds && ff_monitor_will_go(nth_monitor(relay, i))) {
            g_array_append_val(stay, i);
        }
    }
    for (guint i = 0; i < stay->len; i++) {
        describe_one_that_stays(b, relay, g_array_index(stay, guint, i));
    }
    g_array_append_vals(fds, extra->data, extra->len);
    json_builder_end_array(b);
    g_autoptr(JsonNode) root = json_builder_get_root(b);
    return json_to_string(root, FALSE);
}

static int memfd_of(const char *text)
{
    int fd = memfd_create("farfault-clients", MFD_CLOEXEC);
    ssize_t len = (ssize_t)strlen(text);

    if (fd >= 0 && pwrite(fd, text, (size_t)len, 0) != len) {
        close(g_steal_fd(&fd));
    }
    return fd;
}

/* FALSE: they are this one's still. */
static bool give_all(FfRelay *relay)
{
    const FfClientsGive *g = relay->gives;
    char words[1 + FF_RIGHTS_MAX] = {FF_SUCCESSION_GIVEN};

    for (guint i = 0; i < g->given->len; i++) {
        words[1 + i] = still_quiet(relay, g_array_index(g->given, guint, i));
    }
    if (ff_rights_send(g->talk, words, 1 + g->given->len, NULL, 0) != 1 + (ssize_t)g->given->len) {
        return false;
    }
    for (guint i = 0; i < g->given->len; i++) {
        FfMonitor *mon = nth_monitor(relay, g_array_index(g->given, guint, i));

        if (words[1 + i]) {
            ff_monitor_gone(mon);
        } else {
            ff_monitor_hold(mon, false);
        }
    }
    return true;
}

static void hold_given(FfRelay *relay, bool held)
{
    const GArray *given = relay->gives->given;

    for (guint i = 0; i < given->len; i++) {
        ff_monitor_hold(nth_monitor(relay, g_array_index(given, guint, i)), held);
    }
}

static unsigned will_go(const FfRelay *relay)
{
    unsigned n = 0;

    for (guint i = 0; i < relay->monitors->len; i++) {
        n += ff_monitor_will_go(nth_monitor(relay, i));
    }
    return n;
}

static void wait_quiet(FfRelay *relay);

/* A round is over. */
static void end_round(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;

    g->n_stay = will_go(relay);
    if (g->rounds && g->n_stay) {
        wait_quiet(relay);
        if (g->leave) {
            leave_clients(relay, true);
        }
    } else {
        end_giving(relay);
    }
}

/* TAKE, or the end of who has asked: then they are this one's still. */
static gboolean clients_answered(gint talk, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;
    FfClientsGive *g = relay->gives;
    FfRights rights;
    char word = 0;
    bool take = ff_rights_receive(talk, &word, 1, &rights) == 1 && word == FF_SUCCESSION_TAKE;

    g->answer = 0;
    g_clear_handle_id(&g->timer, g_source_remove);
    if (take && give_all(relay)) {
        FF_FAULT_AT("clients-given");
        end_round(relay);
    } else {
        hold_given(relay, false);
        end_giving(relay);
    }
    return G_SOURCE_REMOVE;
}

static gboolean not_answered(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->gives->timer = 0;
    hold_given(relay, false);
    end_giving(relay);
    return G_SOURCE_REMOVE;
}

/* Who has this guest's process knows the guest by it, or by the one before it. */
static bool has_time(const FfRelay *relay)
{
    return relay->plan->front_fd >= 0 || ff_state_is_marked(relay->state, FF_MARK_FRONT);
}

static void give_now(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;
    const char plan = FF_SUCCESSION_PLAN;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    int text_fd = -1;

    g_array_append_val(fds, text_fd);
    g_autofree char *text = describe_all(relay, fds);
    text_fd = memfd_of(text);
    g_array_index(fds, int, 0) = text_fd;
    g->told = true;
    bool sent =
        text_fd >= 0 && ff_rights_send(g->talk, &plan, 1, (int *)(void *)fds->data, fds->len) == 1;
    if (text_fd >= 0) {
        close(text_fd);
    }
    if (!sent) {
        refuse_clients(relay, "it has no room for what its clients are");
        return;
    }
    hold_given(relay, true);
    g->timer =
        g_timeout_add(has_time(relay) ? LEAVE_MS : FF_SUCCESSION_FROZEN_MS, not_answered, relay);
    g->answer = g_unix_fd_add(g->talk, G_IO_IN | G_IO_HUP, clients_answered, relay);
}

typedef struct {
    GSource source;
    FfRelay *relay;
} Quiet;

static bool all_quiet(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (ff_monitor_may_go(nth_monitor(relay, i)) &&
            !ff_monitor_is_quiet(nth_monitor(relay, i))) {
            return false;
        }
    }
    return true;
}

static bool is_any_quiet(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (still_quiet(relay, i)) {
            return true;
        }
    }
    return false;
}

/* There is something to say. */
static bool is_time(const FfRelay *relay)
{
    const FfClientsGive *g = relay->gives;

    return !g->rounds ? all_quiet(relay)
                      : !g->told || is_any_quiet(relay) || will_go(relay) < g->n_stay;
}

/* Looked at in each turn of the main loop, which each event brings about. */
static gboolean quiet_prepare(GSource *source, gint *timeout)
{
    *timeout = -1;
    return is_time(((Quiet *)source)->relay);
}

static gboolean quiet_check(GSource *source)
{
    return FALSE; /* prepare() says it */
}

static void begin_round(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;

    g_source_destroy(g->quiet);
    g_clear_pointer(&g->quiet, g_source_unref);
    g_clear_handle_id(&g->timer, g_source_remove);
    g_clear_handle_id(&g->answer, g_source_remove);
    if (g->rounds && !will_go(relay)) {
        end_giving(relay);
    } else {
        give_now(relay);
    }
}

static gboolean quiet_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    if (!is_time(((Quiet *)source)->relay)) {
        return G_SOURCE_CONTINUE; /* something has come in this turn */
    }
    begin_round(((Quiet *)source)->relay);
    return G_SOURCE_REMOVE;
}

static GSourceFuncs quiet_funcs = {
    .prepare = quiet_prepare, .check = quiet_check, .dispatch = quiet_dispatch};

/* Those that are, go. */
static gboolean not_quiet(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->gives->timer = 0;
    begin_round(relay);
    return G_SOURCE_REMOVE;
}

/* Between two rounds it says nothing, so this is its end. */
static gboolean successor_ended(gint talk, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->gives->answer = 0;
    end_giving(relay);
    return G_SOURCE_REMOVE;
}

static void wait_quiet(FfRelay *relay)
{
    FfClientsGive *g = relay->gives;

    g->answer = g_unix_fd_add(g->talk, G_IO_IN | G_IO_HUP, successor_ended, relay);
    g->quiet = g_source_new(&quiet_funcs, sizeof(Quiet));
    ((Quiet *)g->quiet)->relay = relay;
    /* After what has come, which the turn begins with. */
    g_source_set_priority(g->quiet, G_PRIORITY_LOW);
    g_source_attach(g->quiet, NULL);
}

/* Takes TALK, a socket of who has asked. */
static void begin_giving(FfRelay *relay, int talk, bool rounds)
{
    FfClientsGive *g = give_of(relay);

    if (g->talk >= 0) {
        close(talk);
        return;
    }
    g->talk = talk;
    if (!ff_state_is_marked(relay->state, FF_MARK_MOVED)) {
        refuse_clients(relay, "its guest has not left");
        return;
    }
    ff_hook_set_accepts(relay, FF_ACCEPTS_NONE); /* only who has the guest asks */
    g->was_asked = relay->clients_go = true;
    FF_FAULT_AT("clients-asked");
    g->rounds = rounds;
    g->told = false;
    g->timer = rounds ? 0 : g_timeout_add(QUIET_MS, not_quiet, relay);
    wait_quiet(relay);
}

/* The end of TALK, which the caller closes, says that they are free; -1: this process had no room
 * for it, and its end has said so already. */
static void leave_back_ends(FfRelay *relay, int talk)
{
    const char no = FF_SUCCESSION_NO;

    if (ff_state_is_marked(relay->state, FF_MARK_MOVED)) {
        ff_backends_leave(relay);
        FF_FAULT_AT("back-ends-left");
    } else if (talk >= 0) {
        (void)ff_rights_send(talk, &no, 1, NULL, 0);
    }
}

static gboolean door_asked(gint door, GIOCondition condition, gpointer opaque)
{
    char words[2] = "";
    FfRights rights;
    ssize_t n = ff_rights_receive(door, words, sizeof(words), &rights);
    char word = words[0];

    if (n >= 1 && word == FF_SUCCESSION_CLIENTS && rights.n == 1) {
        begin_giving(opaque, rights.fd[0], n == 2 && words[1] == FF_SUCCESSION_ROUNDS);
        return G_SOURCE_CONTINUE;
    }
    if (n == 1 && word == FF_SUCCESSION_HEIR && rights.n == 1) {
        ff_hook_set_accepts(opaque, FF_ACCEPTS_NONE);
        ff_placeholder_set_heir(opaque, rights.fd[0]);
        return G_SOURCE_CONTINUE;
    }
    if (n == 1 && word == FF_SUCCESSION_NEXT && rights.n == 1) {
        ff_placeholder_set_next(opaque, rights.fd[0]);
        return G_SOURCE_CONTINUE;
    }
    if (n == 1 && word == FF_SUCCESSION_LEAVE) {
        leave_back_ends(opaque, rights.n ? rights.fd[0] : -1);
    } else if (n == 1 && word == FF_SUCCESSION_ORDERLY) {
        ff_placeholder_orderly(opaque);
    } else if (n == 1 && word == FF_SUCCESSION_HEIR) {
        ff_placeholder_lost_heir(opaque); /* this process had no room for its pidfd */
    }
    for (unsigned i = 0; i < rights.n; i++) {
        close(rights.fd[i]);
    }
    if (n == 0) {
        ff_relay_log(opaque, "its door was shut by who had been lent it");
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

static gboolean has_waited(gpointer opaque)
{
    FfRelay *relay = opaque;

    relay->gives->last = 0;
    ff_relay_log(relay, relay->gives->talk >= 0
                            ? "clients are disconnected: they have not come to the end of a "
                              "command in time"
                            : "clients are disconnected: the new QEMU's relay does not take them");
    if (relay->gives->talk >= 0) {
        end_giving(relay);
    } else {
        leave_now(relay);
    }
    return G_SOURCE_REMOVE;
}

void ff_clients_leave(FfRelay *relay, void (*leave)(FfMonitor *mon))
{
    FfClientsGive *g = give_of(relay);

    g->leave = leave;
    if (!will_go(relay) || (g->was_asked && g->talk < 0)) {
        leave_now(relay);
        return;
    }
    g->last = g_timeout_add(LEAVE_MS, has_waited, relay);
    if (g->rounds && g->told) {
        leave_clients(relay, true); /* farfault upgrade waits for that */
    }
}

/* Who was lent it knocks there still: it goes on to the relay that takes this one's place. */
static bool make_door(FfRelay *relay)
{
    int door[2] = {relay->plan->door_inner, relay->plan->door};

    if ((door[0] < 0 || door[1] < 0) &&
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, door) < 0) {
        return false;
    }
    relay->door_inner = door[0];
    relay->door = door[1];
    return true;
}

void ff_clients_open(FfRelay *relay)
{
    if (!make_door(relay)) {
        ff_relay_log(relay, "clients cannot go along to another QEMU: %s", g_strerror(errno));
        return;
    }
    g_unix_fd_add(relay->door_inner, G_IO_IN, door_asked, relay);
}
