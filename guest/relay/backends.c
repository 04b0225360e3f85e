/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See backends.h. A log is the engine's: it ends with it, and tells nothing more once a back-end
 * that writes to it has gone. What is held back is held by the phase in the state memfd alone, so
 * it outlives engines.
 *
 * One thread; no locks. System calls: socketpair, fstat, close.
 */
#include "guest/relay/backends.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/rights.h"
#include "contract/backends.h"
#include "guest/relay/conn.h"
#include "guest/relay/page-waits.h"
#include "guest/relay/vhost-conn.h"
#include "guest/relay/vhost-rest.h"

/* A guest of 32 TiB. */
#define MAX_LOG_BYTES (1ull << 30)

struct FfBackends {
    FfRelay *relay;
    GPtrArray *all; /* FfVhostConn * */
    int engine;     /* our end of its socket; -1: none */
    GSource *source;
    FfPageWaits *page_waits;
    bool logging;      /* a log was asked for, and not its end */
    unsigned missing;  /* of them that do not log yet; the engine waits */
    const char *lost;  /* one line; NULL: nothing */
    char **lent;       /* of each of .all: what was lent of it (g_free); NULL: nothing */
    bool other_ended;  /* the QEMU whose back-ends these were, or it has left them */
    guint other_watch; /* of its end; 0: none */
};

static FfVhostConn *nth_backend(const FfBackends *b, guint i)
{
    return b->all->pdata[i];
}

/* ---- answers --------------------------------------------------------------------------------- */

static void G_GNUC_PRINTF(2, 3) say_why(FfBackendsAnswer *answer, const char *format, ...)
{
    va_list ap;

    if (!answer->why[0]) {
        va_start(ap, format);
        g_vsnprintf(answer->why, sizeof(answer->why), format, ap);
        va_end(ap);
    }
}

static void send_answer(FfBackends *b, const FfBackendsAnswer *answer)
{
    if (b->engine >= 0) {
        (void)ff_rights_send(b->engine, answer, sizeof(*answer), NULL, 0);
    }
}

static void add_regions(FfBackendsAnswer *answer, FfVhostConn *backend)
{
    const int *fds;
    unsigned n;
    const FfVhostRegion *regions =
        ff_vhost_session_regions(ff_vhost_conn_session(backend), &n, &fds);

    for (unsigned i = 0; i < n; i++) {
        FfBackendRegion region = {regions[i].guest, regions[i].size, regions[i].offset, 0, 0};
        struct stat st;
        bool known = false;

        if (fstat(fds[i], &st) == 0) {
            region.dev = st.st_dev;
            region.ino = st.st_ino;
        }
        for (uint32_t k = 0; k < answer->n_regions && !known; k++) {
            known = memcmp(&region, &answer->regions[k], sizeof(region)) == 0;
        }
        if (!known && answer->n_regions == FF_BACKENDS_REGIONS) {
            say_why(answer, "they have too many regions of guest memory");
        } else if (!known) {
            answer->regions[answer->n_regions++] = region;
        }
    }
}

static void not_connected(FfBackendsAnswer *answer, const FfVhostConn *backend)
{
    const char *path = ff_vhost_conn_path(backend);

    say_why(answer, "the back-end of chardev '%s' is not connected: start it%s%s",
            ff_vhost_conn_id(backend), path ? " at " : "", path ? path : "");
}

static void survey_backend(FfBackendsAnswer *answer, FfVhostConn *backend, bool destination)
{
    FfVhostSession *session = ff_vhost_conn_session(backend);
    const char *id = ff_vhost_conn_id(backend);
    const char *why = session ? ff_vhost_session_unloggable(session) : NULL;
    unsigned n;

    if (!session) {
        not_connected(answer, backend);
        return;
    }
    ff_vhost_session_regions(session, &n, NULL);
    if (!destination && ff_vhost_session_is_absent(session)) {
        /* It begins to write when it is there, without QEMU's log as well. */
        answer->busy = 1;
        if (ff_vhost_conn_is_awaited(backend)) {
            not_connected(answer, backend);
        }
        say_why(answer,
                "the back-end of chardev '%s' is the QEMU's still that had this guest before: "
                "repeat it in a moment",
                id);
    }
    if (!destination && ff_vhost_session_is_unfinished(session)) {
        answer->busy = 1;
        say_why(answer,
                "the back-end of chardev '%s' had not finished its requests when the guest was "
                "stopped: let the guest continue, and stop it again",
                id);
    }
    if (destination && n) {
        say_why(answer, "the back-end of chardev '%s' has guest memory already", id);
    } else if (!destination && why) {
        say_why(answer, "the back-end of chardev '%s': %s", id, why);
    }
    answer->log_bytes = MAX(answer->log_bytes, ff_vhost_session_log_bytes(session));
    add_regions(answer, backend);
}

static void survey_backends(FfBackends *b, FfBackendsAnswer *answer, bool destination)
{
    for (guint i = 0; i < b->all->len; i++) {
        if (ff_vhost_conn_is_removed(nth_backend(b, i))) {
            continue;
        }
        g_strlcat(answer->ids, ff_vhost_conn_id(nth_backend(b, i)), sizeof(answer->ids));
        if (g_strlcat(answer->ids, "\n", sizeof(answer->ids)) >= sizeof(answer->ids)) {
            say_why(answer, "there are too many of them");
        }
        survey_backend(answer, nth_backend(b, i), destination);
    }
    if (answer->log_bytes > MAX_LOG_BYTES) {
        say_why(answer, "the guest's memory lies too high");
    }
}

/* ---- the phase ------------------------------------------------------------------------------- */

/* From before guest RAM is emptied until every page is there. It is there always where the guest
 * changes its QEMU alone; from GRANTED on it is this one's for good. */
static bool memory_is_missing(void *opaque)
{
    const FfStateHeader *state = ((FfBackends *)opaque)->relay->state;
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE); /* the engine's */

    return state->role == FF_ROLE_DESTINATION &&
           (phase == FF_PHASE_LOADING || phase == FF_PHASE_LOADED ||
            (phase == FF_PHASE_GRANTED && !ff_state_is_marked(state, FF_MARK_UPGRADE)));
}

/* From the instant of a snapshot until its memory is saved: their writes would not be caught. */
static bool snapshot_parks(void *opaque)
{
    const FfStateHeader *state = ((FfBackends *)opaque)->relay->state;
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE);

    return state->role == FF_ROLE_SOURCE && phase != FF_PHASE_IDLE &&
           ff_state_is_marked(state, FF_MARK_PARKED);
}

/* The guest is this QEMU's: nobody takes it back. */
static bool is_taken(const FfBackends *b)
{
    const FfStateHeader *state = b->relay->state;
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE);

    return !ff_state_is_marked(state, FF_MARK_BORROWED) || phase == FF_PHASE_GRANTED ||
           phase == FF_PHASE_DONE;
}

/* A back-end serves one QEMU at a time, and the next one when that has ended, or left it. */
static void take_from_other(FfBackends *b)
{
    for (guint i = 0; b->other_ended && is_taken(b) && i < b->all->len; i++) {
        ff_vhost_conn_is_free(nth_backend(b, i));
    }
}

static void look_at_phase(FfBackends *b)
{
    take_from_other(b);
    if (!memory_is_missing(b)) {
        ff_page_waits_forget(b->page_waits);
    }
    for (guint i = 0; i < b->all->len; i++) {
        ff_vhost_conn_look(nth_backend(b, i));
    }
}

/* ---- the log --------------------------------------------------------------------------------- */

static void end_log(FfBackends *b)
{
    b->logging = false;
    b->missing = 0;
    b->lost = NULL;
    for (guint i = 0; i < b->all->len; i++) {
        FfVhostSession *session = ff_vhost_conn_session(nth_backend(b, i));

        if (session) {
            ff_vhost_session_log_end(session);
        }
    }
}

static void add_lost(const FfBackends *b, FfBackendsAnswer *answer)
{
    if (b->lost) {
        say_why(answer, "%s", b->lost);
    }
    for (guint i = 0; i < b->all->len; i++) {
        FfVhostSession *session = ff_vhost_conn_session(nth_backend(b, i));
        const char *why = session ? ff_vhost_session_lost(session) : NULL;

        if (why) {
            say_why(answer, "the back-end of chardev '%s': %s", ff_vhost_conn_id(nth_backend(b, i)),
                    why);
        }
    }
}

static void backend_logs(FfVhostConn *backend, void *opaque)
{
    FfBackends *b = opaque;
    FfBackendsAnswer answer = {.op = FF_BACKENDS_LOG};

    if (!b->missing || --b->missing) {
        return;
    }
    survey_backends(b, &answer, false); /* as it is now */
    add_lost(b, &answer);
    send_answer(b, &answer);
    if (answer.why[0]) {
        end_log(b);
    }
}

static unsigned n_connected(const FfBackends *b)
{
    unsigned n = 0;

    for (guint i = 0; i < b->all->len; i++) {
        n += ff_vhost_conn_session(nth_backend(b, i)) != NULL;
    }
    return n;
}

/* A back-end that is not connected was an objection, or is removed. */
static void begin_log(FfBackends *b, int fd)
{
    FfBackendsAnswer answer = {.op = FF_BACKENDS_LOG};
    struct stat st;

    end_log(b);
    survey_backends(b, &answer, false);
    if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < answer.log_bytes) {
        say_why(&answer, "the log is too short");
    }
    b->logging = !answer.why[0];
    b->missing = b->logging ? n_connected(b) : 0;
    if (!b->missing) {
        send_answer(b, &answer);
        return;
    }
    for (guint i = 0; i < b->all->len; i++) {
        FfVhostSession *session = ff_vhost_conn_session(nth_backend(b, i));

        if (session) {
            ff_vhost_session_log_begin(session, fd, (uint64_t)st.st_size);
        }
    }
}

/* Whatever has made QEMU stop the guest and not a ring: its back-end may still write. */
static void add_running(const FfBackends *b, FfBackendsAnswer *answer)
{
    for (guint i = 0; i < b->all->len; i++) {
        FfVhostSession *session = ff_vhost_conn_session(nth_backend(b, i));

        if (session && ff_vhost_session_runs(session)) {
            say_why(answer, "the back-end of chardev '%s': QEMU has not stopped it",
                    ff_vhost_conn_id(nth_backend(b, i)));
        }
    }
}

static void tell_lost(FfBackends *b, bool stopped)
{
    FfBackendsAnswer answer = {.op = FF_BACKENDS_LOST};

    if (!b->logging) {
        say_why(&answer, "there is no log");
    }
    add_lost(b, &answer);
    if (stopped) {
        add_running(b, &answer);
    }
    if (stopped && !answer.why[0]) {
        look_at_phase(b); /* if they are to stand from now on, they do before the answer */
    }
    send_answer(b, &answer);
}

/* What the next QEMU of the guest is to know of BACKEND, as JSON (g_free); NULL: .why says why that
 * cannot be. */
static char *known_of(FfVhostConn *backend, FfBackendsAnswer *answer)
{
    const char *id = ff_vhost_conn_id(backend);
    g_autofree char *place = ff_vhost_conn_place(backend);
    FfVhostSession *session = ff_vhost_conn_session(backend);
    bool disk = !ff_vhost_conn_is_network(backend);
    FfVhostKnown known;

    if (!session) {
        not_connected(answer, backend);
        return NULL;
    }
    if (!ff_vhost_session_known(session, &known)) {
        say_why(answer, "what the back-end of chardev '%s' can do is not known", id);
        return NULL;
    }
    if (disk && !known.config_size) {
        say_why(answer,
                "the back-end of chardev '%s' has told its configuration before farfault attach: "
                "migrate the guest to another QEMU",
                id);
        return NULL;
    }
    if (disk && known.offered_protocol & FF_VHOST_PROTOCOL_F_INFLIGHT_SHMFD) {
        say_why(answer,
                "the back-end of chardev '%s' has memory of its own for its requests "
                "(INFLIGHT_SHMFD), which the next QEMU cannot have: migrate the guest",
                id);
        return NULL;
    }
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *o = ff_vhost_known_write(&known);
    json_object_set_string_member(o, "id", id);
    json_object_set_string_member(o, "path", place);
    json_node_take_object(node, o);
    return json_to_string(node, FALSE);
}

static void tell_whether_all_stand(FfBackends *b)
{
    FfBackendsAnswer answer = {.op = FF_BACKENDS_STAND};

    survey_backends(b, &answer, false);
    add_running(b, &answer);
    for (guint i = 0; i < b->all->len && !answer.why[0]; i++) {
        const char *lent = ff_vhost_conn_is_removed(nth_backend(b, i)) ? NULL : b->lent[i];
        g_autofree char *now = lent ? known_of(nth_backend(b, i), &answer) : NULL;

        if (lent && now && strcmp(lent, now) != 0) {
            say_why(&answer, "the back-end of chardev '%s' has changed meanwhile: repeat it",
                    ff_vhost_conn_id(nth_backend(b, i)));
        }
    }
    send_answer(b, &answer);
}

static void forget_lent(FfBackends *b)
{
    for (guint i = 0; i < b->all->len; i++) {
        g_clear_pointer(&b->lent[i], g_free);
    }
}

/* TEXT, with what may change without making it another one (g_free). */
static char *with_process(const char *text, const FfVhostConn *backend)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    json_object_set_int_member(json_node_get_object(node), "pid", ff_vhost_conn_pid(backend));
    return json_to_string(node, FALSE);
}

/* The N-th of those that QEMU has. LENT: to another QEMU. */
static void tell_known(FfBackends *b, uint32_t n, bool lent)
{
    FfBackendsAnswer answer = {.op = FF_BACKENDS_KNOWN};

    if (lent && n == 0) {
        forget_lent(b);
    }
    for (guint i = 0; i < b->all->len; i++) {
        if (ff_vhost_conn_is_removed(nth_backend(b, i)) || n--) {
            continue;
        }
        g_autofree char *text = known_of(nth_backend(b, i), &answer);

        if (lent) {
            g_free(b->lent[i]);
            b->lent[i] = g_strdup(text);
        }
        g_autofree char *whole = text ? with_process(text, nth_backend(b, i)) : NULL;
        if (whole && g_strlcpy(answer.ids, whole, sizeof(answer.ids)) >= sizeof(answer.ids)) {
            say_why(&answer, "the id or the path of chardev '%s' is too long",
                    ff_vhost_conn_id(nth_backend(b, i)));
        }
        break;
    }
    send_answer(b, &answer);
}

static const FfRelayMonitor *plan_of(const FfRelay *relay, guint i)
{
    return relay->plan->backends->pdata[i];
}

/* Or will be, when they are plugged. */
static bool are_followed(const FfRelay *relay)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        if (plan_of(relay, i)->followed) {
            return true;
        }
    }
    return false;
}

/* There are spare ones at least, if it is not "qemu". */
const char *ff_backends_option(const FfRelay *relay)
{
    return are_followed(relay) ? "migrate" : relay->plan->backends->len ? "farfault" : "qemu";
}

bool ff_backends_from_start(const FfRelay *relay)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        if (plan_of(relay, i)->followed && !plan_of(relay, i)->spare) {
            return true;
        }
    }
    return false;
}

/* ---- what is plugged ------------------------------------------------------------------------- */

/* The place in the state of back-end I of the plan; NULL: it has none. */
static FfStatePlugged *state_of_spare(const FfRelay *relay, guint i)
{
    unsigned n = 0;

    for (guint k = 0; k < i; k++) {
        n += plan_of(relay, k)->spare;
    }
    return plan_of(relay, i)->spare && n < FF_STATE_PLUGGED ? &relay->state->plugged[n] : NULL;
}

static uint32_t use_of(const FfStatePlugged *p)
{
    return __atomic_load_n(&p->use, __ATOMIC_ACQUIRE);
}

/* Observers: the next relay, and the engine. */
static void set_use(FfStatePlugged *p, uint32_t use)
{
    __atomic_store_n(&p->use, use, __ATOMIC_RELEASE);
}

/* What was asked for when a relay died is never used again: who has its socket is not known. */
int ff_backends_spare(FfRelay *relay, int *in_qemu)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        FfStatePlugged *p = state_of_spare(relay, i);

        if (p && use_of(p) != FF_PLUGGED_IN && use_of(p) != FF_PLUGGED_OVER &&
            plan_of(relay, i)->in_qemu >= 0) {
            set_use(p, FF_PLUGGED_OVER);
            *in_qemu = plan_of(relay, i)->in_qemu;
            return (int)i;
        }
    }
    return -1;
}

static void become_plugged(FfRelayMonitor *plan, const FfStatePlugged *p)
{
    g_free(plan->id); /* the launcher's, which says nothing */
    plan->id = g_strndup(p->id, sizeof(p->id));
    plan->path = g_strndup(p->path, sizeof(p->path));
    plan->reconnect = MAX(p->reconnect, 1);
    plan->network = p->network;
    plan->kind = FF_RELAY_CONNECT_UNIX;
}

void ff_backends_plug(FfRelay *relay, int spare, const FfBackendPlug *plug, int fd)
{
    FfRelayMonitor *plan = relay->plan->backends->pdata[spare];
    FfStatePlugged *p = state_of_spare(relay, (guint)spare);

    p->reconnect = plug->reconnect;
    p->network = plug->network;
    g_strlcpy(p->id, plug->id, sizeof(p->id));
    g_strlcpy(p->path, plug->path, sizeof(p->path));
    set_use(p, FF_PLUGGED_IN);
    become_plugged(plan, p);
    plan->fd = fd;
    ff_vhost_conn_open(nth_backend(relay->backends, (guint)spare));
    plan->fd = -1;
}

bool ff_backends_has(const FfRelay *relay, const char *id, bool *network)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        const FfStatePlugged *p = state_of_spare(relay, i);

        if (!g_strcmp0(plan_of(relay, i)->id, id) &&
            (p ? use_of(p) == FF_PLUGGED_IN
               : !ff_vhost_conn_is_removed(nth_backend(relay->backends, i)))) {
            *network = plan_of(relay, i)->network;
            return true;
        }
    }
    return false;
}

void ff_backends_unplugged(FfRelay *relay, const char *id)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        FfStatePlugged *p = state_of_spare(relay, i);

        if (p && use_of(p) == FF_PLUGGED_IN && !strncmp(p->id, id, sizeof(p->id))) {
            set_use(p, FF_PLUGGED_OVER);
        }
    }
}

/* What the relay before this one has taken over is there still, or QEMU has removed it since. */
static void find_plugged(FfRelay *relay)
{
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        FfRelayMonitor *plan = relay->plan->backends->pdata[i];
        FfStatePlugged *p = state_of_spare(relay, i);

        if (!p || (use_of(p) != FF_PLUGGED_IN && !plan->had)) {
            continue;
        }
        if (plan->had) {
            set_use(p, FF_PLUGGED_IN); /* or QEMU has removed it just now, and its end comes */
        }
        if (plan->had || ff_conn_qemu_listens(plan->qemu)) {
            become_plugged(plan, p);
        } else {
            set_use(p, FF_PLUGGED_OVER);
        }
    }
}

/* ---- the connections ------------------------------------------------------------------------- */

/* Not while all of them end. */
static void backend_mapped(void *opaque)
{
    FfBackends *b = opaque;

    if (b->relay->backends) {
        ff_page_waits_go_on(b->page_waits);
    }
}

static void backend_ended(FfVhostConn *backend, void *opaque)
{
    FfBackends *b = opaque;

    if (b->logging && !b->lost) {
        b->lost = "the connection of one of them has ended";
    }
    if (b->missing) {
        b->missing = 1;
        backend_logs(backend, b); /* it is not waited for any more: nothing is to be had */
    }
    backend_mapped(b);
}

/* Memory of this guest was missing while its engine ran it, or is. Where QEMU carries the migration
 * what a back-end waits in is QEMU's. */
static bool was_held(FfBackends *b)
{
    const FfStateHeader *state = b->relay->state;

    return memory_is_missing(b) ||
           (state->role == FF_ROLE_DESTINATION &&
            __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE) == FF_PHASE_DONE);
}

/* It may wait for pages since before this relay; if all of them are there, until it is let go. */
static void backend_came(FfVhostConn *backend, void *opaque)
{
    FfBackends *b = opaque;

    if (are_followed(b->relay) && was_held(b)) {
        ff_page_waits_take_left(b->page_waits, backend);
        if (!memory_is_missing(b)) {
            ff_page_waits_forget(b->page_waits);
        }
    }
}

static void keep_waits(FfVhostConn *backend, void *opaque)
{
    ff_page_waits_keep(((FfBackends *)opaque)->page_waits, backend);
}

static void all_there(FfVhostConn *backend, void *opaque)
{
    ff_page_waits_all_there(backend);
}

/* In a restore no engine answers for them. */
static bool misses_pages(void *opaque)
{
    FfBackends *b = opaque;

    return ff_page_waits_is_ready(b->page_waits) ||
           ff_state_is_marked(b->relay->state, FF_MARK_FILE);
}

static bool can_wait(FfVhostConn *backend, void *opaque)
{
    return ff_page_waits_can_wait(((FfBackends *)opaque)->page_waits, backend);
}

static bool hand_waits(FfVhostConn *backend, void *opaque)
{
    return ff_page_waits_hand(((FfBackends *)opaque)->page_waits, backend);
}

static bool may_begin(FfVhostConn *backend, void *opaque)
{
    return ff_page_waits_may_begin(((FfBackends *)opaque)->page_waits, backend);
}

static void check_waits(FfVhostConn *backend, void *opaque)
{
    ff_page_waits_check(((FfBackends *)opaque)->page_waits, backend);
}

/* QEMU has removed its chardev, whoever has told it so. */
static void backend_removed(FfVhostConn *backend, void *opaque)
{
    FfBackends *b = opaque;

    for (guint i = 0; i < b->all->len; i++) {
        FfStatePlugged *p = nth_backend(b, i) == backend ? state_of_spare(b->relay, i) : NULL;

        if (p) {
            set_use(p, FF_PLUGGED_OVER);
        }
    }
}

static const FfVhostConnOps backend_ops = {.removed = backend_removed,
                                           .holds = memory_is_missing,
                                           .parks = snapshot_parks,
                                           .logs = backend_logs,
                                           .ended = backend_ended,
                                           .mapped = backend_mapped,
                                           .parts = keep_waits,
                                           .all_there = all_there,
                                           .came = backend_came,
                                           .misses = misses_pages,
                                           .can_wait = can_wait,
                                           .hand = hand_waits,
                                           .may_begin = may_begin,
                                           .check = check_waits};

/* ---- the engine ------------------------------------------------------------------------------ */

static void engine_gone(FfBackends *b)
{
    if (b->source) {
        g_source_destroy(b->source);
        g_clear_pointer(&b->source, g_source_unref);
    }
    if (b->engine >= 0) {
        close(g_steal_fd(&b->engine));
    }
    ff_page_waits_end(b->page_waits);
    end_log(b);
    look_at_phase(b);
}

void ff_backends_engine_dead(FfRelay *relay)
{
    FfStateHeader *state = relay->state;

    if (relay->backends && state->role == FF_ROLE_SOURCE &&
        ff_state_is_marked(state, FF_MARK_PARKED)) {
        ff_state_unmark(state, FF_MARK_PARKED); /* nobody saves anything any more */
        look_at_phase(relay->backends);
    }
}

void ff_backends_leave(FfRelay *relay)
{
    FfBackends *b = relay->backends;

    for (guint i = 0; b && i < b->all->len; i++) {
        ff_vhost_conn_leave(nth_backend(b, i));
    }
}

void ff_backends_left(FfRelay *relay)
{
    if (relay->backends) {
        relay->backends->other_ended = true;
        look_at_phase(relay->backends);
    }
}

static void answer_request(FfBackends *b, const FfBackendsRequest *request, int fd)
{
    FfBackendsAnswer answer = {.op = request->op};

    switch (request->op) {
    case FF_BACKENDS_PROBE:
        survey_backends(b, &answer, request->flag);
        break;
    case FF_BACKENDS_LOG:
        begin_log(b, fd);
        return;
    case FF_BACKENDS_LOST:
        tell_lost(b, request->flag);
        return;
    case FF_BACKENDS_END:
        end_log(b);
        break;
    case FF_BACKENDS_LOOK:
        look_at_phase(b);
        break;
    case FF_BACKENDS_KNOWN:
        tell_known(b, request->flag & ~FF_BACKENDS_LENT, request->flag & FF_BACKENDS_LENT);
        return;
    case FF_BACKENDS_LEAVE:
        ff_backends_leave(b->relay);
        break;
    case FF_BACKENDS_TAKE:
        ff_backends_left(b->relay);
        break;
    case FF_BACKENDS_STAND:
        tell_whether_all_stand(b);
        return;
    default:
        say_why(&answer, "the relay does not know request %u", request->op);
    }
    send_answer(b, &answer);
}

static gboolean engine_asks(gint fd, GIOCondition condition, gpointer data)
{
    FfBackends *b = data;
    FfBackendsRequest request;
    FfRights rights;
    ssize_t n = ff_rights_receive(fd, &request, sizeof(request), &rights);

    if (n == -EAGAIN || n == -EINTR) {
        return G_SOURCE_CONTINUE;
    }
    if (n != sizeof(request)) {
        engine_gone(b);
        return G_SOURCE_REMOVE;
    }
    answer_request(b, &request, rights.n ? rights.fd[0] : -1);
    for (unsigned i = 0; i < rights.n; i++) {
        close(rights.fd[i]);
    }
    return G_SOURCE_CONTINUE;
}

void ff_backends_ends_close(FfBackendsEnds *ends)
{
    if (ends->asks >= 0) {
        close(g_steal_fd(&ends->asks));
    }
    if (ends->faults >= 0) {
        close(g_steal_fd(&ends->faults));
    }
}

int ff_backends_offer(FfRelay *relay, FfBackendsEnds *ends)
{
    FfBackends *b = relay->backends;
    int pair[2];

    *ends = (FfBackendsEnds){-1, -1};
    if (!b || !are_followed(relay)) {
        return 0;
    }
    engine_gone(b);
    ends->faults = ff_page_waits_offer(b->page_waits);
    if (ends->faults < 0 ||
        FF_FAULT_CALL("backends-pair",
                      socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) <
            0) {
        int rc = -errno;

        ff_backends_ends_close(ends);
        ff_page_waits_end(b->page_waits); /* it waits for the next engine */
        return rc;
    }
    b->engine = pair[0];
    b->source = g_unix_fd_source_new(b->engine, G_IO_IN | G_IO_HUP);
    g_source_set_callback(b->source, G_SOURCE_FUNC(engine_asks), b, NULL);
    g_source_attach(b->source, NULL);
    ends->asks = pair[1];
    return 0;
}

static gboolean on_other_ended(gint fd, GIOCondition condition, gpointer opaque)
{
    FfBackends *b = opaque;

    b->other_watch = 0;
    b->other_ended = true;
    take_from_other(b);
    return G_SOURCE_REMOVE;
}

void ff_backends_start(FfRelay *relay)
{
    FfBackends *b = g_new0(FfBackends, 1);

    relay->backends = b;
    b->relay = relay;
    b->engine = -1;
    b->all = g_ptr_array_new();
    b->page_waits = ff_page_waits_new(relay, b->all);
    find_plugged(relay);
    for (guint i = 0; i < relay->plan->backends->len; i++) {
        g_ptr_array_add(b->all,
                        ff_vhost_conn_new(relay, relay->plan->backends->pdata[i], &backend_ops, b));
    }
    b->lent = g_new0(char *, b->all->len + 1);
    b->other_ended = relay->plan->other_fd < 0;
    if (!b->other_ended && ff_state_is_marked(relay->state, FF_MARK_BORROWED)) {
        b->other_watch = g_unix_fd_add(relay->plan->other_fd, G_IO_IN, on_other_ended, b);
    }
}

const char *ff_backends_restless(const FfRelay *relay)
{
    const FfBackends *b = relay->backends;

    for (guint i = 0; i < b->all->len; i++) {
        if (!ff_vhost_conn_rests(nth_backend(b, i))) {
            return ff_vhost_conn_id(nth_backend(b, i));
        }
    }
    return NULL;
}

bool ff_backends_describe(const FfRelay *relay, guint i, FfRelayBackend *had)
{
    FfVhostConn *backend = nth_backend(relay->backends, i);

    if (ff_vhost_conn_is_removed(backend) && !plan_of(relay, i)->spare) {
        return false;
    }
    *had = ff_vhost_conn_describe(backend);
    return true;
}

void ff_backends_end(FfRelay *relay)
{
    FfBackends *b = g_steal_pointer(&relay->backends);

    if (!b) {
        return;
    }
    engine_gone(b);
    g_clear_handle_id(&b->other_watch, g_source_remove);
    for (guint i = 0; i < b->all->len; i++) {
        ff_vhost_conn_end(nth_backend(b, i));
    }
    ff_page_waits_free(b->page_waits);
    forget_lent(b);
    g_free(b->lent);
    g_ptr_array_unref(b->all);
    g_free(b);
}
