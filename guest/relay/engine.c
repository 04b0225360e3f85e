/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's process and the relay's end of the link: started when an owned command comes,
 * let go when it says IDLE, started again when it dies in the middle of something.
 *
 * What the engine may ask for is small (link.h) and every request is checked: the engine talks
 * to the network. It is killed when QEMU ends, when its link has ended (it may live on behind a
 * broken one) and when it hangs (ping.c). No other is started before its pidfd says that it is
 * dead, as two would act on one guest; and none runs that has no pidfd.
 *
 * While anything is at stake there is no last start (restart.c says when the next one is). A
 * command that finds no engine starts one, or waits a moment for it (command-queue.c).
 *
 * One thread; no locks. System calls: close.
 */
#include "guest/relay/engine.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "contract/upgrade-commit.h"
#include "guest/relay/backends.h"
#include "guest/relay/behind-placeholder.h"
#include "guest/relay/clients-wait.h"
#include "guest/relay/engine-internal.h"
#include "guest/relay/guest.h"
#include "guest/relay/hook.h"
#include "guest/relay/internal.h"
#include "guest/relay/placeholder.h"
#include "guest/relay/predecessor.h"
#include "guest/relay/uffds.h"

/* How long commands go to QEMU before an engine that ended at once is tried again. */
#define ABSENT_US (2 * G_USEC_PER_SEC)

#define DIED "the migration engine ended unexpectedly; it has been restarted, repeat the command"

static void start_if_due(FfRelay *relay);
static void lose_engine(FfRelay *relay, const char *why);
static void want_engine(FfRelay *relay, gint64 when);

/* ---- requests of the engine ------------------------------------------------------------------ */

static void take_fd(FfRelay *relay, const FfLinkHeader *header, const char *name)
{
    int fd = relay->engine->ops->take_fd(relay, header->mon, name);

    ff_link_send(relay->engine->link, FF_LINK_FD_REPLY, header->mon, header->seq, NULL, 0, &fd,
                 fd >= 0);
    if (fd >= 0) {
        close(fd);
    }
}

static void lend_uffd(FfRelay *relay, uint32_t seq, const char *name)
{
    FfLink *link = relay->engine->link;
    const char *why;
    int fd = ff_uffds_take(relay, name, &why);

    if (fd >= 0) {
        int rc = ff_link_send(link, FF_LINK_FD_REPLY, 0, seq, NULL, 0, &fd, 1);
        if (rc == 0) {
            return;
        }
        ff_uffds_untake(relay);
        why = g_strerror(-rc);
    }
    ff_link_send(link, FF_LINK_FD_REPLY, 0, seq, why, strlen(why), NULL, 0);
}

/* While this process takes the protection away no migration may begin: it would find memory that is
 * registered still. One that waits is enough. */
static void take_uffd(FfRelay *relay, const FfLinkHeader *header, const char *name)
{
    FfEngine *engine = relay->engine;

    if (ff_uffds_must_wait(relay, name) && !engine->uffd_seq) {
        engine->uffd_seq = header->seq;
    } else {
        lend_uffd(relay, header->seq, name);
    }
}

static void uffd_free(FfRelay *relay, const char *name)
{
    FfEngine *engine = relay->engine;
    uint32_t seq = engine->uffd_seq;

    engine->uffd_seq = 0;
    if (seq && engine->link) {
        lend_uffd(relay, seq, name);
    }
}

static void give_uffd(FfRelay *relay, const char *name, int *fds, unsigned n_fds)
{
    ff_uffds_give(relay, name, n_fds ? g_steal_fd(&fds[0]) : -1);
}

static void inject_command(FfRelay *relay, const FfLinkHeader *header, GBytes *command)
{
    if (!relay->engine->ops->inject(relay, header->mon, header->seq, command)) {
        ff_engine_inject_reply(relay, header->mon, header->seq, NULL, 0);
    }
}

static void clients_go(FfRelay *relay)
{
    if (relay->clients_wait) {
        relay->clients_wait = false;
        relay->engine->ops->go(relay);
    }
}

static void incoming_done(FfRelay *relay)
{
    relay->engine->incoming_seq = 0;
    clients_go(relay);
}

static bool has_unanswered(const FfRelay *relay)
{
    return relay->engine->ops->has_pending(relay) || relay->engine->incoming_seq != 0;
}

static void set_filters(FfRelay *relay, unsigned filters)
{
    relay->filters = filters;
    relay->engine->ops->filters_changed(relay);
}

static void store_fds(FfRelay *relay, char *json, int *fds, unsigned n_fds)
{
    const char *name = ff_held_add(relay, json, fds, n_fds);
    int heir = name && !strcmp(name, FF_HEIR_HELD) ? ff_held_copy(relay, name) : -1;

    ff_behind_next(relay, heir);
    if (heir >= 0) {
        close(heir);
    }
}

/* The guest is another QEMU's, for good, and this process stays. */
static void become_front(FfRelay *relay)
{
    int heir = ff_held_copy(relay, FF_HEIR_HELD);

    ff_held_drop(relay, FF_HEIR_HELD);
    ff_hook_set_accepts(relay, FF_ACCEPTS_NONE);
    if (ff_placeholder_begin(relay, heir)) {
        ff_backends_leave(relay); /* its engine, and who has the guest, may have died before */
        relay->engine->ops->leave(relay);
        ff_held_drop_given(relay);
        ff_engine_rest(
            relay); /* it has copies of the sockets that listen: they are the other one's */
    }
}

/* The guest is this QEMU's, unless it has gone on to the next one. */
static void guest_is_here(FfRelay *relay, bool taken)
{
    if (!ff_state_is_marked(relay->state, FF_MARK_MOVED)) {
        ff_hook_set_accepts(relay, FF_ACCEPTS_ALL);
    }
    ff_names_take(relay, taken);
    ff_behind_taken(relay);
    if (taken || !ff_state_is_marked(relay->state, FF_MARK_BORROWED)) {
        ff_predecessor_leaves(relay);
    }
}

static void open_to_clients(FfRelay *relay)
{
    guest_is_here(relay, false);
    ff_predecessor_ends(relay);
    relay->engine->ops->open(relay);
}

/* Its link has ended. The engine may live on for a moment: what it does not know must not change
 * under it. */
static void release_engine(FfRelay *relay)
{
    relay->engine->words_seq = relay->engine->uffd_seq = 0;
    ff_process_let_go(relay->engine);
    /* It may have died before it could say so. */
    if (ff_state_is_front(relay->state)) {
        become_front(relay);
    } else if (!ff_state_is_marked(relay->state, FF_MARK_BORROWED)) {
        open_to_clients(relay);
    }
    if (relay->engine->ending < 0) {
        ff_hook_engine_dead(relay);
        ff_backends_engine_dead(relay);
    }
}

/* It was let go. CONDEMNED: as for ff_process_kill(). */
static void kill_engine(FfRelay *relay, bool condemned)
{
    ff_uffds_engine_ended(relay, ff_process_kill(relay->engine, condemned));
}

static void engine_dead(FfRelay *relay)
{
    ff_carried_rest(&relay->state->totals);
    ff_hook_engine_dead(relay);
    ff_uffds_engine_dead(relay);
    ff_backends_engine_dead(relay);
    start_if_due(relay);
}

/* A command that was sent while IDLE was under way is still unanswered: the engine stays. One that
 * leaves something undone is not let go in peace: nobody would come who does it. */
static void engine_idle(FfRelay *relay)
{
    if (has_unanswered(relay)) {
        return;
    }
    if (ff_state_is_under_way(relay->state) && !ff_state_is_front(relay->state)) {
        lose_engine(relay, "it has left something undone");
        return;
    }
    ff_ping_end(relay);
    g_clear_pointer(&relay->engine->link, ff_link_free);
    release_engine(relay);
    ff_restart_ended_well(&relay->engine->restart);
    set_filters(relay, 0);
    if (relay->guest.uffd_lent) {
        kill_engine(relay, true);
    }
    if (ff_state_is_marked(relay->state, FF_MARK_PROTECTED)) {
        want_engine(relay, g_get_monotonic_time()); /* it has left what must not stay */
    }
}

static void answer_client(FfRelay *relay, const FfLinkHeader *header, GBytes *payload)
{
    const FfEngineOps *ops = relay->engine->ops;

    if (header->type == FF_LINK_REPLY) {
        ops->reply(relay, header->mon, header->seq, payload);
    } else {
        ops->pass(relay, header->mon, header->seq,
                  header->type == FF_LINK_PASS_AS ? payload : NULL);
    }
}

/* What it said before has been done by now. WORDS: it waits for QEMU as well. */
static void sync_with(FfRelay *relay, uint32_t seq, bool words)
{
    FfEngine *engine = relay->engine;

    if (words && seq && engine->ops->has_words(relay)) {
        engine->words_seq = seq;
        engine->ops->pump(relay); /* QEMU is read */
    } else if (!engine->ops->coming(relay, seq)) {
        ff_link_send(engine->link, FF_LINK_SYNCED, 0, seq, NULL, 0, NULL, 0);
    }
}

static void engine_spoke(FfEngine *engine)
{
    engine->spoke = true;
    engine->told_absent = false;
    engine->absent_until = 0;
}

static void handle_frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds,
                         void *opaque)
{
    FfRelay *relay = opaque;

    engine_spoke(relay->engine);
    ff_clients_look(relay);
    if (!ff_state_is_marked(relay->state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
        relay->engine->ops->open(relay); /* those that waited as the guest was about to leave */
    }
    gsize len;
    const char *data = g_bytes_get_data(payload, &len);
    g_autofree char *text = NULL;

    if (header->type == FF_LINK_REPLY && header->seq == relay->engine->incoming_seq &&
        header->seq) {
        incoming_done(relay);
        return;
    }
    switch (header->type) {
    case FF_LINK_REPLY:
    case FF_LINK_PASS:
    case FF_LINK_PASS_AS:
    case FF_LINK_TAKE_FD:
    case FF_LINK_INJECT:
        if (header->mon >= relay->monitors->len) {
            ff_relay_log(relay, "the engine named monitor %u of %u", header->mon,
                         relay->monitors->len);
            return;
        }
        break;
    }
    switch (header->type) {
    case FF_LINK_STARTED:
        break;
    case FF_LINK_REPLY:
    case FF_LINK_PASS:
    case FF_LINK_PASS_AS:
        answer_client(relay, header, payload);
        break;
    case FF_LINK_EVENT:
        relay->engine->ops->event(relay, payload);
        break;
    case FF_LINK_FILTER:
        if (len == sizeof(uint32_t)) {
            uint32_t filters;

            memcpy(&filters, data, sizeof(filters));
            set_filters(relay, filters);
        }
        break;
    case FF_LINK_TAKE_FD:
        text = g_strndup(data, len);
        take_fd(relay, header, text);
        break;
    case FF_LINK_TAKE_UFFD:
        text = g_strndup(data, len);
        take_uffd(relay, header, text);
        break;
    case FF_LINK_GIVE_UFFD:
        text = g_strndup(data, len);
        give_uffd(relay, text, fds, header->n_fds);
        break;
    case FF_LINK_INJECT:
        inject_command(relay, header, payload);
        break;
    case FF_LINK_HOLD:
        store_fds(relay, g_strndup(data, len), fds, header->n_fds);
        break;
    case FF_LINK_DROP:
        text = g_strndup(data, len);
        ff_held_drop(relay, text);
        break;
    case FF_LINK_IDLE:
        engine_idle(relay);
        break;
    case FF_LINK_SYNC:
        sync_with(relay, header->seq, len > 0);
        break;
    case FF_LINK_PONG:
        ff_ping_answered(relay, header->seq);
        break;
    case FF_LINK_TAKEN:
        guest_is_here(relay, true);
        relay->engine->ops->taken(relay);
        break;
    case FF_LINK_FRONT:
        become_front(relay);
        break;
    case FF_LINK_OPEN:
        open_to_clients(relay);
        break;
    case FF_LINK_KILL_QEMU:
        text = g_strndup(data, len);
        ff_guest_kill(relay, text);
        break;
    default:
        ff_relay_log(relay, "the engine sent an unknown frame (type %u)", header->type);
    }
}

/* ---- its death ------------------------------------------------------------------------------- */

static unsigned filters_of_state(const FfRelay *relay)
{
    uint32_t phase = __atomic_load_n(&relay->state->phase, __ATOMIC_ACQUIRE);

    bool lacks =
        relay->state->role == FF_ROLE_DESTINATION &&
        (phase == FF_PHASE_LOADING || phase == FF_PHASE_LOADED || phase == FF_PHASE_GRANTED);

    return phase == FF_PHASE_IDLE
               ? 0
               : FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS | (lacks ? FF_FILTER_OVERDUE : 0);
}

static bool holds_listener(const FfRelay *relay)
{
    for (guint i = 0; i < relay->held->len; i++) {
        if (g_str_has_prefix(((FfHeld *)relay->held->pdata[i])->name, FF_LISTENER_HELD)) {
            return true;
        }
    }
    return false;
}

/* A source may come to the sockets that are held, or wait there already. And -incoming URI names no
 * client that would say it again: it is listened for until somebody has come, also if the first
 * engine (or the relay before this one) did not get as far as to listen. */
static bool must_listen(const FfRelay *relay)
{
    uint32_t flags = relay->state->driver_flags;

    if (holds_listener(relay)) {
        return true;
    }
    bool unheard =
        relay->state->role == FF_ROLE_NONE && !(flags & (uint32_t)FF_DRIVER_NATIVE_INCOMING);

    return relay->plan->incoming_taken && (flags & FF_DRIVER_LISTENS || unheard);
}

static bool gives_back(const FfRelay *relay)
{
    return relay->state->driver_flags & FF_DRIVER_GIVING_BACK;
}

/* Somebody needs an engine, whether or not a client has a command for it: a client that was told of
 * a migration which QEMU may not have begun waits for what becomes of it. */
static bool at_stake(const FfRelay *relay)
{
    return ff_state_is_under_way(relay->state) || relay->engine->incoming_seq ||
           must_listen(relay) || gives_back(relay) ||
           ff_state_is_marked(relay->state, FF_MARK_PROTECTED);
}

/* Nobody listens for -incoming URI, and nothing is at stake that only an engine can see to. */
static bool qemu_may_listen(const FfRelay *relay)
{
    return must_listen(relay) && !holds_listener(relay) && !ff_state_is_under_way(relay->state) &&
           !(gives_back(relay) && relay->state->role == FF_ROLE_SOURCE);
}

static void want_engine(FfRelay *relay, gint64 when)
{
    relay->engine->due = MIN(relay->engine->due, when);
    start_if_due(relay);
}

/* ---- one that never worked ------------------------------------------------------------------- */

/* QEMU has -incoming's URI, or refuses it: then it ends, as it would have without farfault. */
static void incoming_handed(const char *why, void *opaque)
{
    FfRelay *relay = opaque;
    FfEngine *engine = relay->engine;
    FfStateHeader *state = relay->state;

    g_clear_pointer(&engine->handing, ff_hand_incoming_free);
    if (why) {
        g_autofree char *text = g_strdup_printf("-incoming %s: %s", relay->plan->incoming, why);

        ff_guest_kill(relay, text);
        return;
    }
    state->driver_flags &= ~(uint32_t)(FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK);
    state->driver_flags |= FF_DRIVER_NATIVE_INCOMING;
    clients_go(relay);
    ff_waiting_pass(relay);
}

/* No engine can be started to listen for -incoming URI: the port must be open all the same. FALSE:
 * QEMU is not to listen, or cannot be reached. */
static bool hand_incoming(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    if (!qemu_may_listen(relay) || engine->handing) {
        return engine->handing;
    }
    uint32_t before = relay->state->driver_flags;
    relay->state->driver_flags |= FF_DRIVER_GIVING_BACK; /* for the next relay if this one dies */
    engine->handing = ff_hand_incoming_new(relay->plan->qemu_monitor, relay->plan->incoming,
                                           incoming_handed, relay);
    if (!engine->handing) {
        relay->state->driver_flags = before;
        ff_relay_log(relay, "QEMU's private monitor: %s", g_strerror(errno));
        return false;
    }
    engine->incoming_seq = 0;
    engine->incoming_sent = true;
    return true;
}

/* Nothing was done, and nothing is at stake: the commands are repeated, or are QEMU's. */
static bool is_stillborn(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    bool again = !engine->spoke && ff_process_try_kept(relay);

    if (engine->spoke || (at_stake(relay) && (again || !hand_incoming(relay)))) {
        return false;
    }
    if (!again) {
        ff_absence_tell(relay, "it ends at once", false);
        engine->absent_until = g_get_monotonic_time() + ABSENT_US;
    }
    engine->ops->own_again(relay);
    engine->ops->pump(relay);
    return true;
}

/* WHY it ended. What ended may be its link alone: so it is killed, and is not dead before its pidfd
 * says so. */
static void lose_engine(FfRelay *relay, const char *why)
{
    FfEngine *engine = relay->engine;

    ff_ping_end(relay);
    ff_link_free(g_steal_pointer(&engine->link));
    release_engine(relay);
    if (ff_guest_has_ended(relay)) {
        return; /* the engine has seen it, too */
    }
    kill_engine(relay, why != NULL);
    if (is_stillborn(relay)) {
        return;
    }
    engine->restarts++;
    gint64 now = g_get_monotonic_time(), next = ff_restart_failed(&engine->restart, now, true);
    ff_relay_log(relay, "the migration engine ended unexpectedly%s%s", why ? ": " : "",
                 why ? why : "");
    set_filters(relay, filters_of_state(relay));
    if (engine->spoke || !qemu_may_listen(relay)) {
        clients_go(relay); /* else the next one listens, or QEMU */
    }
    if (at_stake(relay)) {
        engine->incoming_sent =
            engine->incoming_sent && !engine->incoming_seq &&
            (ff_state_is_under_way(relay->state) || holds_listener(relay) || !must_listen(relay));
        want_engine(relay, next);
    }
    engine->ops->engine_lost(relay, next > now ? NULL : DIED);
    engine->ops->pump(relay);
}

static void link_closed(FfLink *link, const GError *error, void *opaque)
{
    lose_engine(opaque, error ? error->message : NULL);
}

/* Kills it, and what it was about has a new one: as if its link had ended. */
static void engine_hung(FfRelay *relay, const char *why)
{
    lose_engine(relay, why);
}

static const FfLinkOps link_ops = {handle_frame, link_closed};

/* ---- start ----------------------------------------------------------------------------------- */

static void send_incoming(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    const char *uri = relay->plan->incoming;

    if (relay->plan->incoming_taken && !engine->incoming_sent) {
        engine->incoming_sent = true;
        engine->incoming_seq = ++relay->last_seq;
        ff_link_send(engine->link, FF_LINK_START_INCOMING, 0, engine->incoming_seq, uri,
                     strlen(uri), NULL, 0);
    }
}

/* 0 or -errno: there is none then. */
static int start_once(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autofree char *init = NULL;
    FfBackendsEnds backends;
    int link = -1, ret;

    if (!ff_process_reap_unwatched(engine)) {
        return -EBUSY;
    }
    ret = ff_process_start(relay, &link);
    if (ret < 0) {
        return ret;
    }
    ff_guest_look(relay);
    engine->spoke = false;
    engine->link = ff_link_new(link, NULL, &link_ops, relay);
    ret = ff_backends_offer(relay, &backends);
    if (ret == 0) {
        init = ff_held_init(relay, engine->restarts, &backends, fds);
        ret = ff_link_send(engine->link, FF_LINK_INIT, 0, 0, init, strlen(init), (int *)fds->data,
                           fds->len);
    }
    ff_backends_ends_close(&backends); /* the link has copies */
    if (ret < 0) {
        g_clear_pointer(&engine->link, ff_link_free);
        ff_process_let_go(engine);
        ff_process_kill(engine, true);
        return ret;
    }
    send_incoming(relay);
    ff_waiting_send(relay);
    ff_ping_start(relay, engine_hung);
    return 0;
}

/* RC: why. Where nothing is under way QEMU is as the client left it, and does without. */
static void not_started(FfRelay *relay, int rc)
{
    FfEngine *engine = relay->engine;
    gint64 next = ff_restart_failed(&engine->restart, g_get_monotonic_time(), false);
    bool handing = hand_incoming(relay), again = !handing && at_stake(relay);

    g_free(engine->absence);
    engine->absence = g_strdup(g_strerror(-rc));
    ff_absence_tell(relay, engine->absence, again);
    ff_backends_engine_dead(relay); /* of a relay that has died, too, nobody saves a snapshot */
    if (handing) {
        return; /* what waits continues when QEMU listens */
    }
    clients_go(relay);
    if (again) {
        want_engine(relay, next);
    } else {
        ff_waiting_pass(relay);
    }
}

static void stop_timer(FfEngine *engine)
{
    if (engine->timer) {
        g_source_destroy(engine->timer);
        g_clear_pointer(&engine->timer, g_source_unref);
    }
}

/* FALSE: it is not there; what waits for it has been seen to. */
static bool start_engine(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    stop_timer(engine);
    engine->due = G_MAXINT64;
    ff_restart_started(&engine->restart, g_get_monotonic_time());
    int rc = start_once(relay);
    if (rc < 0) {
        not_started(relay, rc);
        return false;
    }
    g_clear_pointer(&engine->absence, g_free);
    return true; /* that it works its first frame says */
}

static gboolean is_due(gpointer opaque)
{
    FfRelay *relay = opaque;

    g_clear_pointer(&relay->engine->timer, g_source_unref);
    start_if_due(relay);
    return G_SOURCE_REMOVE;
}

/* Starts one that is wanted as soon as that may be. */
static void start_if_due(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    gint64 now = g_get_monotonic_time();

    stop_timer(engine);
    if (engine->link || engine->handing || engine->ending >= 0 || engine->due == G_MAXINT64 ||
        ff_guest_has_ended(relay)) {
        return;
    }
    if (engine->due <= now) {
        start_engine(relay);
        return;
    }
    engine->timer = g_timeout_source_new((engine->due - now + 999) / 1000);
    g_source_set_callback(engine->timer, is_due, relay, NULL);
    g_source_attach(engine->timer, NULL);
}

/* ---- what the other parts of the relay ask for ----------------------------------------------- */

/* A client may ask all the time. */
static bool changes_guest(const FfQmpCommand *command)
{
    return !g_str_has_prefix(command->name, "query-");
}

FfEngineResult ff_engine_command(FfRelay *relay, unsigned mon, uint32_t seq,
                                 const FfQmpCommand *command, const char **desc)
{
    FfEngine *engine = relay->engine;
    const char *json = command->json->str;

    if (command->json->len > FF_LINK_MAX_PAYLOAD) {
        *desc = "the command is too long";
        return FF_ENGINE_BROKEN;
    }
    if (!engine->link && !engine->handing) {
        gint64 now = g_get_monotonic_time();
        if (now < engine->absent_until && !at_stake(relay)) {
            return FF_ENGINE_ABSENT;
        }
        gint64 when = ff_restart_hurry(&engine->restart, now, changes_guest(command));

        ff_process_kill(engine, true); /* it was let go, and needs nothing any more */
        if (engine->ending >= 0 || when > now) {
            ff_waiting_add(relay, mon, seq, json);
            want_engine(relay, when);
            return FF_ENGINE_SENT;
        }
        if (!start_engine(relay) && !engine->handing) {
            *desc = ff_absence_text(relay);
            return at_stake(relay) ? FF_ENGINE_BROKEN : FF_ENGINE_ABSENT;
        }
    }
    if (engine->handing) {
        ff_waiting_add(relay, mon, seq, json);
        return FF_ENGINE_SENT;
    }
    ff_link_send(engine->link, FF_LINK_COMMAND, mon, seq, json, strlen(json), NULL, 0);
    return FF_ENGINE_SENT; /* a dead link is reported by link_closed(), which answers */
}

bool ff_engine_awaits_words(const FfRelay *relay)
{
    return relay->engine && relay->engine->words_seq;
}

void ff_engine_word_answered(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    if (engine && engine->link && engine->words_seq && !engine->ops->has_words(relay)) {
        uint32_t seq = engine->words_seq;

        engine->words_seq = 0;
        ff_link_send(engine->link, FF_LINK_SYNCED, 0, seq, NULL, 0, NULL, 0);
    }
}

void ff_engine_synced(FfRelay *relay, uint32_t seq)
{
    if (relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_SYNCED, 0, seq, NULL, 0, NULL, 0);
    }
}

void ff_engine_read_now(FfRelay *relay)
{
    if (relay->engine->link) {
        ff_link_read_now(relay->engine->link);
    }
}

void ff_engine_inject_reply(FfRelay *relay, unsigned mon, uint32_t seq, const char *reply,
                            size_t len)
{
    if (relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_INJECT_REPLY, mon, seq, reply, len, NULL, 0);
    }
}

void ff_engine_client_gone(FfRelay *relay, unsigned mon)
{
    if (!relay->engine) {
        return;
    }
    ff_waiting_drop(relay, mon);
    if (relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_CLIENT_GONE, mon, 0, NULL, 0, NULL, 0);
    }
}

void ff_engine_start_incoming(FfRelay *relay)
{
    if (!relay->engine->link) {
        want_engine(relay, g_get_monotonic_time());
    }
}

bool ff_engine_listens_first(const FfRelay *relay)
{
    return relay->plan->incoming_taken && relay->plan->incoming &&
           (!relay->plan->attached || (must_listen(relay) && !ff_state_is_under_way(relay->state)));
}

void ff_engine_take_over(FfRelay *relay)
{
    set_filters(relay, filters_of_state(relay));
    relay->engine->incoming_sent = !ff_engine_listens_first(relay);
    if (ff_state_is_under_way(relay->state) || gives_back(relay)) {
        want_engine(relay, g_get_monotonic_time());
    }
}

bool ff_engine_is_at_stake(const FfRelay *relay)
{
    return at_stake(relay);
}

void ff_engine_rest(FfRelay *relay)
{
    if (relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_REST, 0, 0, NULL, 0, NULL, 0);
    }
}

bool ff_engine_is_needless(const FfRelay *relay)
{
    const FfEngine *engine = relay->engine;

    return !engine->link && !engine->handing && engine->pidfd < 0 && engine->ending < 0 &&
           !engine->unwatched && engine->due == G_MAXINT64 && !engine->words_seq &&
           !engine->uffd_seq && g_queue_is_empty((GQueue *)&engine->waiting);
}

void ff_engine_end(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    stop_timer(engine);
    ff_waiting_end(relay);
    ff_ping_end(relay);
    g_clear_pointer(&engine->handing, ff_hand_incoming_free);
    g_clear_pointer(&engine->link, ff_link_free);
    ff_process_end(engine);
}

FfEngine *ff_engine_new(FfRelay *relay, const FfEngineOps *ops)
{
    FfEngine *engine = g_new0(FfEngine, 1);

    engine->pidfd = engine->ending = -1;
    engine->dead = engine_dead;
    relay->guest.uffd_free = uffd_free;
    engine->ops = ops;
    engine->due = G_MAXINT64;
    g_queue_init(&engine->waiting);
    ff_engine_keep_program(relay);
    ff_held_new(relay);
    return engine;
}
