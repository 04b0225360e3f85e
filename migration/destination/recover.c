/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination after a lost connection: waits for the source to come back (where it listens,
 * or where the client tells it to), proves that it is the same source, tells it which pages are
 * here, and asks again for those that somebody waits for.
 *
 * A destination that is LOADED cannot know whether the grant was on its way, so it stays too:
 * paused, recoverable, never running. Only the source (ABORT) or the user ends it.
 *
 * Where the source is gone for good its dump takes its place (dump.c). A source that comes
 * back then is sent away until every page is here.
 *
 * The fault thread continues while there is no connection; it is stopped only for the moment in
 * which its channel is exchanged, so it needs no lock for it.
 *
 * Thread: the coordinator.
 */
#include "migration/destination/recover.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "migration/common/keepalive.h"
#include "migration/common/ownership.h"
#include "migration/destination/accept.h"
#include "migration/destination/arm.h"
#include "migration/destination/dump.h"
#include "migration/destination/fault.h"
#include "migration/destination/greet.h"
#include "migration/destination/read.h"
#include "migration/destination/received.h"
#include "migration/destination/revoke.h"
#include "migration/destination/urgent.h"

#define FIRST_BYTES_DEADLINE_MS 20000
/* How long a completed destination waits for a source that has not heard of it (seconds), and
 * then for that source to end its QEMU's migration. */
#define LINGER_S 600
#define FINISH_S 60
#define LOST "the connection was lost"

/* ---- the end of a connection ----------------------------------------------------------------- */

void ff_dest_end_connection(FfDestination *d)
{
    ff_conn_say_last(d->conn);
    ff_conn_shutdown(d->conn);
    ff_keepalive_end(d->conn);
    ff_control_join(&d->conn->main_reader);
    ff_control_join(&d->conn->urgent_thread);
    ff_conn_end_bulk(d->conn);
    ff_mutex_lock(&d->control->lock);
    d->conn->recovering = true;
    d->conn->want_channel = false;
    ff_mutex_unlock(&d->control->lock);
    if (g_atomic_int_compare_and_exchange(&d->acceptor_failed, 1, 0)) {
        ff_control_join(&d->acceptor);
    }
    if (d->listen_fd >= 0 && !d->acceptor) {
        d->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, d); /* of the engine before us */
    }
}

static void drop_arrived(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    FfChannel *main = g_steal_pointer(&d->conn->arrived),
              *urgent = g_steal_pointer(&d->conn->arrived_urgent);
    d->control->events &= ~FF_EV_MAIN;
    ff_mutex_unlock(&d->control->lock);
    ff_channel_free(main);
    ff_channel_free(urgent);
}

/* ---- where the source comes to --------------------------------------------------------------- */

void ff_dest_stop_listening(FfDestination *d, const char *next_uri)
{
    g_cancellable_cancel(d->control->cancel);
    ff_mutex_lock(&d->control->lock);
    if (d->conn->accepting) {
        ff_channel_shutdown(d->conn->accepting);
    }
    ff_mutex_unlock(&d->control->lock);
    ff_control_join(&d->acceptor);
    g_atomic_int_set(&d->acceptor_failed, 0);
    g_cancellable_reset(d->control->cancel);
    if (ff_control_events(d->control) & FF_EV_QUIT) {
        g_cancellable_cancel(d->control->cancel);
    }
    if (d->listen_fd >= 0) {
        close(d->listen_fd);
        d->listen_fd = -1;
    }
    if (d->listener_held) {
        d->control->ops.drop("listener", d->control->ops.opaque);
        d->listener_held = false;
    }
    /* Not a socket that was made again under the same name. */
    if (d->listen_path && !(next_uri && strcmp(next_uri + strlen("unix:"), d->listen_path) == 0)) {
        unlink(d->listen_path);
    }
    g_clear_pointer(&d->listen_path, g_free);
}

void ff_dest_hold_listener(FfDestination *d)
{
    if (d->listen_fd >= 0 && d->control->ops.hold && d->control->ops.drop) {
        d->control->ops.hold("listener", d->listen_fd, d->control->ops.opaque);
        d->listener_held = true;
    }
}

/* On a passed fd nobody has spoken yet: its first byte is the beginning of a recovery. NULL: the
 * client gave another target meanwhile, or the end. */
static FfChannel *await_first_byte(FfDestination *d, int fd)
{
    const unsigned ends = FF_EV_QUIT | FF_EV_RECOVER | FF_EV_FINISHED; /* it waits no more */
    FfChannel *ch = ff_conn_channel_new(d->conn, fd, FF_CHANNEL_MAIN);

    ff_mutex_lock(&d->control->lock);
    bool over = d->control->events & ends;
    d->conn->connecting = over ? NULL : ch;
    ff_mutex_unlock(&d->control->lock);
    if (!over) {
        ff_channel_wait_readable(ch, -1);
        over = ff_control_events(d->control) & ends;
    }
    if (over) {
        ff_conn_connecting(d->conn, NULL, 0, NULL);
        g_clear_pointer(&ch, ff_channel_free);
    }
    return ch;
}

/* The client's migrate-recover. Returns a channel if it named a connected fd. With a dump it
 * listens where it did. */
static FfChannel *change_target(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    int fd = d->control->new_fd;
    g_autofree char *uri = g_steal_pointer(&d->control->new_uri);
    d->control->new_fd = -1;
    d->control->events &= ~FF_EV_RECOVER;
    ff_mutex_unlock(&d->control->lock);
    if (uri && g_str_has_prefix(uri, FF_DUMP_SCHEME)) {
        g_free(d->dump_order);
        d->dump_order = g_strdup(uri + strlen(FF_DUMP_SCHEME));
        return NULL;
    }
    const char *local = uri && g_str_has_prefix(uri, "unix:") ? uri : NULL;
    ff_dest_stop_listening(d, local);
    drop_arrived(d);
    d->listen_path = local ? g_strdup(local + strlen("unix:")) : NULL;
    if (fd >= 0 && !ff_address_is_listening(fd)) {
        ff_dest_set_listener(d, -1);
        return await_first_byte(d, fd);
    }
    ff_dest_set_listener(d, fd);
    if (fd >= 0) {
        ff_dest_hold_listener(d);
        d->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, d);
    }
    return NULL;
}

/* Waits for a source. Without a channel: look at the events again. */
static FfVisit await_source(FfDestination *d, unsigned end, int64_t end_us)
{
    unsigned got = ff_control_wait_until(d->control, FF_EV_RECOVER | FF_EV_MAIN | end, end_us);
    FfVisit visit = {.unheard = got & FF_EV_RECOVER};

    if (!(got & end)) {
        visit.ch = visit.unheard ? change_target(d) : ff_dest_take_arrived(d);
    }
    return visit;
}

static void end_visit(FfDestination *d, FfVisit *visit)
{
    ff_conn_connecting(d->conn, NULL, 0, NULL);
    g_clear_pointer(&visit->ch, ff_channel_free);
}

/* ---- who it is ------------------------------------------------------------------------------- */

static const FfGreetingWords words = {.peer = "peer", .stranger = ""};

static const char *judge_resume(const FfDestination *d, const FfResume *r)
{
    if (GUINT32_FROM_LE(r->version) != FF_WIRE_VERSION) {
        return "another wire version: it is not the source of this migration";
    }
    bool session = ff_greeting_same(r->session, d->conn->session, sizeof(r->session));
    bool secret = ff_greeting_same(r->secret, d->conn->secret, sizeof(r->secret));
    return !session || !secret
               ? "a paused migration waits here for its own source, which you are not"
               : NULL;
}

static bool refuse_visit(FfVisit *visit, const char *why, GError **error)
{
    FfFrame f = ff_frame(
        visit->f.type == FF_FRAME_REVOKE ? FF_FRAME_REVOKED : FF_FRAME_RESUME_REPLY, strlen(why));

    f.page = 1;
    ff_channel_send_last(visit->ch, f, why, 0);
    g_set_error(error, FF_M_ERROR, 0, "%s was refused: %s", ff_channel_peer(visit->ch), why);
    return false;
}

static bool refuse_other(FfDestination *d, FfVisit *visit, GError **error)
{
    FfResume r;

    return ff_greeting_hear_payload(visit->ch, &words, &visit->f, &r, sizeof(r), error) &&
           refuse_visit(visit, "a paused migration waits here for its own source", error);
}

/* TRUE: it is our source. */
static bool hear_proof(FfDestination *d, FfVisit *visit, FfResume *r, GError **error)
{
    if (!ff_greeting_hear_payload(visit->ch, &words, &visit->f, r, sizeof(*r), error)) {
        return false;
    }
    const char *why = judge_resume(d, r);
    return !why || refuse_visit(visit, why, error);
}

static bool take_revoke(FfDestination *d, FfVisit *visit, GError **error)
{
    FfResume r;

    if (hear_proof(d, visit, &r, error)) {
        visit->revoked = ff_dest_take_revoke(d, visit->ch, error);
    }
    if (visit->revoked) {
        visit->ch = NULL; /* it gets its answer when this side has ended */
    }
    return false;
}

/* ---- what is here ---------------------------------------------------------------------------- */

static bool say_have(FfDestination *d, FfChannel *ch, unsigned block, uint64_t page, uint64_t n,
                     uint64_t *have, GError **error)
{
    const FfBitmap *bm = &d->ram->blocks[block].bitmap;
    uint64_t n_words = ff_bitmap_words(n), set = 0;

    for (uint64_t i = 0; i < n_words; i++) {
        uint64_t w = __atomic_load_n(&bm->words[page / 64 + i], __ATOMIC_ACQUIRE);
        set += __builtin_popcountll(w);
        have[i] = GUINT64_TO_LE(w);
    }
    if (!set) {
        return true;
    }
    FfFrame f = ff_frame(FF_FRAME_HAVE, set == n ? 0 : n_words * sizeof(uint64_t));
    f.flags = set == n;
    f.block = block;
    f.page = page;
    f.n_pages = n;
    return ff_greeting_say(ch, &words, f, have, error);
}

static bool say_list(FfDestination *d, FfChannel *ch, GError **error)
{
    g_autofree uint64_t *have = g_malloc(FF_HAVE_MAX_PAGES / 8);

    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        for (uint64_t page = 0; page < d->ram->blocks[i].n_pages; page += FF_HAVE_MAX_PAGES) {
            uint64_t n = MIN(FF_HAVE_MAX_PAGES, d->ram->blocks[i].n_pages - page);
            if (!say_have(d, ch, i, page, n, have, error)) {
                return false;
            }
        }
    }
    return ff_greeting_say(ch, &words, ff_frame(FF_FRAME_HAVE_END, 0), NULL, error);
}

/* What a source that comes back wants to know. */
static bool say_what_is_here(FfDestination *d, FfVisit *visit, const FfResume *r, GError **error)
{
    FfResumeReply reply = {.phase = GUINT32_TO_LE(ff_ownership_phase(d->cfg->state))};

    d->conn->peer_features = GUINT32_FROM_LE(r->features);
    /* Both engines may have been replaced: newer than what either has seen. */
    visit->epoch = MAX(GUINT64_FROM_LE(r->epoch), d->conn->epoch + 1);
    reply.epoch = GUINT64_TO_LE(visit->epoch);
    ff_dest_expect_channels(d, visit->epoch);
    return ff_greeting_say(visit->ch, &words, ff_frame(FF_FRAME_RESUME_REPLY, sizeof(reply)),
                           &reply, error) &&
           say_list(d, visit->ch, error);
}

/* ---- continuing ------------------------------------------------------------------------------ */

static bool await_channels(FfDestination *d, FfChannel *ch, FfChannel **urgent, GError **error)
{
    FfFrame f;

    if (!ff_greeting_expect(ch, &words, FF_FRAME_RESUMED, &f, NULL, 0, error)) {
        return false;
    }
    if (f.page == 0) {
        /* It has had the reply on it, so it is here in a moment. */
        ff_control_wait_until(d->control, FF_EV_CHANNEL | FF_EV_DEAD | FF_EV_QUIT,
                              g_get_monotonic_time() + FIRST_BYTES_DEADLINE_MS * 1000LL);
    }
    ff_mutex_lock(&d->control->lock);
    ff_conn_agreed_locked(d->conn);
    *urgent = g_steal_pointer(&d->conn->arrived_urgent);
    ff_mutex_unlock(&d->control->lock);
    if (!*urgent != (f.page != 0)) {
        g_set_error(error, FF_M_ERROR, 0, "%s: its urgent channel %s", ff_channel_peer(ch),
                    *urgent ? "came, and yet it shares the main one" : "did not come");
        g_clear_pointer(urgent, ff_channel_free);
        return false;
    }
    return true;
}

static void start_again(FfDestination *d, FfChannel *main, FfChannel *urgent, uint64_t epoch)
{
    ff_dest_fault_stop(d);
    ff_conn_install(d->conn, main, urgent);
    ff_mutex_lock(&d->control->lock);
    d->conn->epoch = epoch;
    d->conn->recovering = false;
    d->control->peer_ended = false;
    if (!(d->control->events & FF_EV_DEAD)) {
        d->control->events &=
            ~(unsigned)FF_EV_PAUSE; /* of a connection that is gone, not of this one */
    }
    bool given = d->control->granted;
    ff_mutex_unlock(&d->control->lock);
    ff_conn_store(d->conn, d->cfg->state);
    drop_arrived(d);
    if (given) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    }
    d->conn->main_reader = g_thread_new("ff-main", ff_dest_main_reader, d);
    if (urgent) {
        d->conn->urgent_thread = g_thread_new("ff-urgent", ff_dest_urgent_reader, d);
    }
    ff_conn_start_bulk(d->conn, ff_dest_bulk_reader);
    ff_dest_fault_start(d);
    ff_keepalive_start(d->conn, d->ram, d->stats, NULL);
}

static void begin_recovery(FfDestination *d)
{
    ff_control_forget(d->control, FF_EV_DEAD);
    ff_control_set_status(d->control, FF_STATUS_POSTCOPY_RECOVER);
    /* A client that drives both sides asks this one as soon as the other has its answer. */
    ff_control_sync(d->control);
}

/* A peer that comes to a port must prove who it is before the recovery begins. */
static bool take_resume(FfDestination *d, FfVisit *visit, GError **error)
{
    FfResume r;

    if (!hear_proof(d, visit, &r, error)) {
        return false;
    }
    if (!visit->unheard) {
        begin_recovery(d);
    }
    return say_what_is_here(d, visit, &r, error);
}

static const FfManners while_paused = {
    .words = &words,
    .opening_ms = FIRST_BYTES_DEADLINE_MS,
    .resume = take_resume,
    .revoke = take_revoke,
    .other = refuse_other,
};

static bool agree_again(FfDestination *d, FfVisit *visit, GError **error)
{
    FfChannel *urgent = NULL;

    if (!ff_dest_receive(d, visit, &while_paused, error) ||
        !await_channels(d, visit->ch, &urgent, error)) {
        return false;
    }
    start_again(d, g_steal_pointer(&visit->ch), urgent, visit->epoch);
    return true;
}

/* One source has come. TRUE: the connection stands, or there is an event for its end. On an fd that
 * the client gave, its first byte begins the recovery, as in QEMU. */
static bool try_source(FfDestination *d, FfVisit *visit)
{
    g_autoptr(GError) error = NULL;

    if (visit->unheard) {
        begin_recovery(d);
    }
    if (agree_again(d, visit, &error) || visit->revoked) {
        return true;
    }
    end_visit(d, visit);
    g_message("recovery: %s", error->message);
    if (!d->auto_end_us) {
        ff_control_pause(d->control, error->message);
    }
    return false;
}

/* Where nothing is lost but time, nobody is asked for help yet: the source knows where we listen,
 * and may come back by itself. */
static void await_by_itself(FfDestination *d)
{
    d->auto_end_us = d->listen_fd >= 0 ? ff_control_auto_end(d->control) : 0;
    if (d->auto_end_us) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_RECOVER);
    } else {
        ff_control_pause(d->control, LOST);
    }
}

/* If it is time to. */
static void ask_for_help(FfDestination *d)
{
    if (d->auto_end_us &&
        (g_get_monotonic_time() >= d->auto_end_us || ff_control_events(d->control) & FF_EV_PAUSE)) {
        d->auto_end_us = 0;
        ff_control_pause(d->control, LOST);
    }
}

/* The client has named a dump. TRUE: it takes the source's place. */
static bool try_dump(FfDestination *d)
{
    g_autofree char *path = g_steal_pointer(&d->dump_order);
    g_autoptr(GError) error = NULL;

    begin_recovery(d);
    if (ff_dest_dump_use(d, path, &error)) {
        return true;
    }
    g_message("recovery: %s", error->message);
    ff_control_pause(d->control, error->message);
    return false;
}

bool ff_dest_reconnect(FfDestination *d)
{
    ff_dest_end_connection(d);
    /* Perhaps the last that the readers heard. */
    ff_mutex_lock(&d->control->lock);
    bool decided =
        d->control->events & (d->control->granted ? FF_EV_ALL : FF_EV_GRANT | FF_EV_ABORTED);
    ff_mutex_unlock(&d->control->lock);
    if (decided) {
        return true;
    }
    await_by_itself(d);
    for (;;) {
        bool by_itself = d->auto_end_us;
        FfVisit visit = await_source(d, FF_EV_QUIT | (by_itself ? FF_EV_PAUSE : 0),
                                     by_itself ? d->auto_end_us : -1);
        if (ff_control_events(d->control) & FF_EV_QUIT) {
            end_visit(d, &visit);
            return false;
        }
        if (d->dump_order ? try_dump(d) : visit.ch && try_source(d, &visit)) {
            return true;
        }
        ask_for_help(d);
    }
}

/* ---- with a dump in place of the source ------------------------------------------------------ */

static bool send_away(FfDestination *d, FfVisit *visit, GError **error)
{
    FfResume r;

    /* What it has nobody needs, unless the dump cannot be read: so it must not let go yet. */
    return hear_proof(d, visit, &r, error) &&
           refuse_visit(
               visit,
               "this migration is recovered from a dump of its source: come back when every "
               "page is there",
               error);
}

static const FfManners while_from_dump = {
    .words = &words,
    .opening_ms = FIRST_BYTES_DEADLINE_MS,
    .resume = send_away,
    .revoke = take_revoke, /* in vain: the guest is here */
    .other = refuse_other,
};

void ff_dest_send_away(FfDestination *d)
{
    g_autoptr(GError) error = NULL;
    FfVisit visit = {.ch = ff_dest_take_arrived(d)};

    if (!visit.ch) {
        return;
    }
    if (!ff_dest_receive(d, &visit, &while_from_dump, &error)) {
        g_message("recovery: %s", error->message);
    }
    end_visit(d, &visit);
}

/* The client's migrate-recover, or an end. */
static unsigned await_dump(FfDestination *d)
{
    for (;;) {
        unsigned got =
            ff_control_wait(d->control, FF_EV_RECOVER | FF_EV_ALL | FF_EV_QUIT | FF_EV_MAIN);

        if (got & FF_EV_RECOVER) {
            FfVisit visit = {.ch = change_target(d)};

            if (visit.ch) { /* asked for while the dump took the source's place */
                end_visit(d, &visit);
            }
        }
        if (got != FF_EV_MAIN) {
            return got;
        }
        ff_dest_send_away(d);
    }
}

bool ff_dest_dump_again(FfDestination *d)
{
    bool asked = ff_dest_dump_take_adopted(d); /* where only the engine has died */

    ff_dest_end_connection(d);
    for (;; asked = false) {
        g_autoptr(GError) error = NULL;
        unsigned got = 0;

        if (!asked) {
            ff_dest_dump_pause(d);
            ff_control_pause(d->control, "the dump cannot be read");
            got = await_dump(d);
            if (got & FF_EV_QUIT) {
                return false;
            }
            ff_control_forget(d->control, FF_EV_DEAD);
            ff_control_set_status(d->control, FF_STATUS_POSTCOPY_RECOVER);
        }
        if (got & FF_EV_ALL) { /* faults alone have brought the last pages */
            ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
            return true;
        }
        g_autofree char *path = g_steal_pointer(&d->dump_order);
        if (ff_dest_dump_use(d, path, &error)) {
            return true;
        }
        g_message("recovery: %s", error->message);
        if (asked) {
            ff_control_forget(d->control, 0); /* newer than what was said first */
        }
        ff_control_set_error(d->control, error->message);
    }
}

/* ---- the last word
 * -----------------------------------------------------------------------------------
 */

static bool take_late_resume(FfDestination *d, FfVisit *visit, GError **error)
{
    FfResume r;

    return hear_proof(d, visit, &r, error) && say_what_is_here(d, visit, &r, error);
}

static const FfManners while_done = {
    .words = &words,
    .opening_ms = FIRST_BYTES_DEADLINE_MS,
    .resume = take_late_resume,
    .revoke = take_revoke, /* in vain: the guest is here */
    .other = refuse_other,
};

static bool tell_done(FfDestination *d, FfVisit *visit)
{
    g_autoptr(GError) error = NULL;
    FfFrame f;

    if (ff_dest_receive(d, visit, &while_done, &error)) {
        /* It ends its QEMU's migration first. */
        ff_channel_wait_readable(visit->ch, FINISH_S * 1000);
        if (ff_greeting_expect(visit->ch, &words, FF_FRAME_FINISHED, &f, NULL, 0, &error)) {
            return true;
        }
    }
    g_message("recovery: %s", error->message);
    return false;
}

/* The main channel's end alone counts: that of the urgent one may be seen before the word. A source
 * whose QEMU hangs lives and says nothing of it. */
bool ff_dest_hear_finished(FfDestination *d)
{
    unsigned over = FF_EV_FINISHED | FF_EV_QUIT;
    int64_t ms = d->cfg->peer_timeout_ms ? d->cfg->peer_timeout_ms : FINISH_S * 1000;

    return ff_control_wait_until(d->control, over | FF_EV_MAIN_ENDED | FF_EV_PAUSE,
                                 g_get_monotonic_time() + ms * 1000) &
           over;
}

void ff_dest_linger(FfDestination *d)
{
    int64_t end = g_get_monotonic_time() + LINGER_S * G_TIME_SPAN_SECOND;

    while (g_get_monotonic_time() < end &&
           !(ff_control_events(d->control) & (FF_EV_QUIT | FF_EV_FINISHED))) {
        FfVisit visit = await_source(d, FF_EV_QUIT | FF_EV_FINISHED, end);
        bool told = visit.ch && tell_done(d, &visit);
        if (visit.ch) {
            end_visit(d, &visit);
        }
        if (told) {
            return;
        }
    }
}

/* ---- after the death of an engine
 * ----------------------------------------------------------------------
 */

void ff_dest_adopt_listener(FfDestination *d)
{
    if (d->cfg->listen_fd >= 0) {
        ff_dest_set_listener(d, d->cfg->listen_fd);
        d->cfg->listen_fd = -1;
        d->listener_held = d->control->ops.drop != NULL;
    }
}

bool ff_dest_adopt(FfDestination *d, GError **error)
{
    uint64_t pages = 0, bytes = 0;

    if (d->cfg->fd >= 0) {
        d->inner = ff_channel_new(d->cfg->fd, FF_CHANNEL_MAIN);
        d->cfg->fd = -1;
    }
    d->uffd = FF_FAULT_CALL("uffd-held", d->cfg->uffds[FF_KIND_MISSING]);
    if (d->uffd < 0) {
        g_set_error_literal(error, FF_M_ERROR, 0, "the userfaultfd is not there any more");
        return false;
    }
    ff_dest_adopt_listener(d);
    if (!ff_ram_adopt(d->ram, d->control, d->cfg->vmm->memory.blocks(&d->cfg->vmm->memory),
                      d->cfg->state, error) ||
        !ff_received_map(d->ram, d->control, d->cfg->state, d->cfg->state_fd, false, error) ||
        !ff_dest_arm_again(d, error)) {
        return false;
    }
    for (unsigned i = 0; i < d->ram->n_blocks; i++) {
        uint64_t n = ff_bitmap_count(&d->ram->blocks[i].bitmap);
        pages += n;
        bytes += n * d->ram->blocks[i].info.page_size;
    }
    d->ram->done_pages = pages;
    d->ram->done_bytes = bytes;
    g_atomic_int_set(&d->ram->uncounted, 0);
    if (pages == d->ram->total_pages) {
        ff_control_event(d->control, FF_EV_ALL);
    }
    ff_dest_fault_start(d);
    return true;
}
