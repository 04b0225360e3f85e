/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See session.h.
 *
 * A back-end answers in the order in which it was asked, and its answers have no number. So words
 * of our own that have an answer go out only while it owes QEMU none, and while it owes us one
 * QEMU's messages wait here: then it is always clear whose an answer is.
 *
 * One thread; no locks. System calls: fcntl, pread64, pwrite64, poll, write, close.
 */
#include "guest/vhost/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "guest/vhost/rings.h"
#include "guest/vhost/session-internal.h"

/* Messages of QEMU's that are held at most. It sends some ten for each ring. */
#define MAX_HELD 4096
#define MAX_WAITING 4096
/* What was waited for rings that became empty comes back with the time that passes; what was waited
 * in vain, by one part of so many of it. A guest that spoils its rings can have its QEMU stand
 * still so long, and no longer; one whose storage is slow is waited for at each of its stops. */
#define VAIN_SHARE 100

/* With these a ring cannot be looked into: it is another kind of ring, or where it is only the
 * guest's IOMMU knows. */
#define OPAQUE (FF_VHOST_F_RING_PACKED | FF_VHOST_F_IOMMU)

#define PACKED "its rings are packed ones"
#define IOMMU "it is behind an IOMMU of the guest's"
#define RESET "the device was reset"
#define UNFINISHED "the back-end has not finished its requests"
#define MOVED "the guest's memory has changed its places"
#define NO_ROOM "the relay has no room for one more open file"

static void lose_log(FfVhostSession *s, const char *why)
{
    if (s->logs && !s->lost) {
        s->lost = why;
    }
}

FfVhostSession *ff_vhost_session_new(FfVhostKind kind, const FfVhostSessionOps *ops, void *opaque)
{
    FfVhostSession *s = g_new0(FfVhostSession, 1);

    s->kind = kind;
    s->ops = ops;
    s->opaque = opaque;
    s->log = s->marks = s->uffd = s->trial = -1;
    return s;
}

FfVhostSession *ff_vhost_session_new_absent(FfVhostKind kind, const FfVhostKnown *known,
                                            const FfVhostSessionOps *ops, void *opaque)
{
    FfVhostSession *s = ff_vhost_session_new(kind, ops, opaque);

    s->known = *known;
    s->offered = known->offered;
    s->offered_protocol = known->offered_protocol;
    s->knows_offer = s->absent = true;
    return s;
}

static void message_free(void *msg)
{
    ff_vhost_message_free(msg);
}

void ff_vhost_session_free(FfVhostSession *s)
{
    if (!s) {
        return;
    }
    g_queue_clear(&s->ours);
    g_queue_clear_full(&s->waiting, message_free);
    g_queue_clear_full(&s->held, message_free);
    ff_vhost_message_free(s->stopping);
    ff_vhost_message_free(s->reset);
    ff_vhost_rings_clear(&s->rings);
    if (s->log >= 0) {
        close(s->log);
    }
    if (s->marks >= 0) {
        close(s->marks);
    }
    ff_vhost_faults_clear(s);
    g_free(s);
}

/* ---- to the back-end ------------------------------------------------------------------------- */

/* The back-end gets nothing now that has to do with memory. */
static bool is_holding(const FfVhostSession *s)
{
    return ff_vhost_session_is_on_its_way(s) || s->absent ||
           (s->holds && s->faults != FF_VHOST_FAULTS_ON);
}

static bool is_busy(const FfVhostSession *s)
{
    return s->stopping || s->ours.length || s->ends_wait ||
           (s->held.length && !is_holding(s) && !ff_vhost_faults_keep(s));
}

static void add_log_flags(const FfVhostSession *s, FfVhostMessage *msg)
{
    if (!s->logs) {
        return;
    }
    if (msg->header.request == FF_VHOST_SET_FEATURES) {
        uint64_t features = ff_vhost_u64(msg) | FF_VHOST_F_LOG_ALL;

        memcpy(msg->payload, &features, sizeof(features));
    } else if (msg->header.request == FF_VHOST_SET_VRING_ADDR) {
        FfVhostVringAddr addr = ff_vhost_addr(msg);

        addr.flags |= FF_VHOST_VRING_F_LOG;
        memcpy(msg->payload, &addr, sizeof(addr));
    }
}

/* An answer is wanted, to a request that has one, or by a flag. With a log's fd there is one to
 * SET_LOG_BASE, whatever was agreed on: a QEMU that has not seen that its back-end is another one
 * does not shake hands with it. */
static bool wants_answer(const FfVhostSession *s, const FfVhostMessage *msg)
{
    return msg->header.flags & FF_VHOST_NEED_REPLY ||
           ff_vhost_has_answer(msg->header.request, s->protocol) ||
           (msg->header.request == FF_VHOST_SET_LOG_BASE && msg->n_fds);
}

/* Where a connection has ended and the back-end has not (its relay has died), it finished what was
 * under way after QEMU had looked how far it was: it would do that twice, and the guest would take
 * the second answer for another request's. Nor has anybody heard that it was done: the guest is
 * told when there is a way to. */
static void catch_up(FfVhostSession *s, const FfVhostMessage *msg)
{
    uint32_t i = ff_vhost_u64(msg) & FF_VHOST_VRING_INDEX;
    const uint64_t one = 1, bit = 1ull << i % 64;
    FfVhostVringState state;

    if (!ff_vhost_message_fits(msg)) {
        return;
    }
    if (msg->header.request == FF_VHOST_SET_VRING_KICK && !(s->features & OPAQUE)) {
        s->caught_up[i / 64] &= ~bit;
        if (ff_vhost_rings_is_behind(&s->rings, i, &state)) {
            s->caught_up[i / 64] |= bit;
            ff_vhost_say(s, ff_vhost_message_new(FF_VHOST_SET_VRING_BASE, 0, &state, sizeof(state)),
                         false);
        }
        ff_vhost_rings_forget_base(&s->rings, i);
    } else if (msg->header.request == FF_VHOST_SET_VRING_CALL && msg->n_fds == 1 &&
               s->caught_up[i / 64] & bit) {
        /* An interrupt too many does no harm. A counter that is full is one that was not heard. */
        struct pollfd pfd = {.fd = msg->fds[0], .events = POLLOUT};

        if (poll(&pfd, 1, 0) == 1 && pfd.revents == POLLOUT) {
            (void)!write(msg->fds[0], &one, sizeof(one));
        }
    }
}

/* QEMU's message, as it is but for the log's flags. */
static void pass_message(FfVhostSession *s, FfVhostMessage *msg)
{
    add_log_flags(s, msg);
    catch_up(s, msg);
    s->owed += wants_answer(s, msg);
    s->ops->to_backend(msg, s->opaque);
}

/* ---- what QEMU says -------------------------------------------------------------------------- */

static void note_log(FfVhostSession *s)
{
    s->foreign_log = true;
    lose_log(s, "QEMU has set a log of its own");
}

static const char *why_opaque(uint64_t features)
{
    return features & FF_VHOST_F_IOMMU ? IOMMU : features & FF_VHOST_F_RING_PACKED ? PACKED : NULL;
}

static void note_features(FfVhostSession *s, uint64_t features)
{
    s->features = features;
    s->has_features = true;
    if (!(features & FF_VHOST_F_LOG_ALL)) {
        s->foreign_log = false;
    }
    if (features & OPAQUE) {
        lose_log(s, why_opaque(features));
    }
}

static void note_memory(FfVhostSession *s, const FfVhostMessage *msg)
{
    bool changed = false;

    if (!ff_vhost_n_regions(msg)) {
        return; /* in its own postcopy QEMU says so that it has read the answer */
    }

    if (!ff_vhost_rings_memory(&s->rings, msg, &changed)) {
        s->odd = "its memory has more regions than farfault follows";
    }
    if (changed) {
        lose_log(s, MOVED);
        s->stale = true; /* against a table of ours, if there is one */
        /* The log may have no place for that, and libvhost-user asserts that it has. */
        s->ends_log = s->logs;
    }
}

/* QEMU says SET_STATUS 0 whenever a guest stops. Its rings are empty by then, so nothing is missed;
 * but a back-end that is reset may have forgotten its log. */
static void note_ring(FfVhostSession *s, const FfVhostMessage *msg)
{
    if (msg->header.request == FF_VHOST_SET_VRING_KICK && s->was_reset) {
        lose_log(s, RESET);
    }
    ff_vhost_rings_note(&s->rings, msg);
}

static void note_message(FfVhostSession *s, const FfVhostMessage *msg)
{
    if (msg->header.request == FF_VHOST_SET_VRING_KICK) {
        s->unfinished = false; /* what is written of old requests is in the next log */
    }
    if (msg->header.request > FF_VHOST_LAST_KNOWN || !msg->header.request ||
        msg->header.flags & FF_VHOST_REPLY || !ff_vhost_message_fits(msg)) {
        s->odd = "QEMU speaks of what this farfault does not know";
        lose_log(s, s->odd);
        return;
    }
    switch ((FfVhostRequest)msg->header.request) {
    case FF_VHOST_SET_FEATURES:
        note_features(s, ff_vhost_u64(msg));
        break;
    case FF_VHOST_SET_PROTOCOL_FEATURES:
        s->protocol = ff_vhost_u64(msg);
        break;
    case FF_VHOST_SET_LOG_BASE:
        note_log(s);
        break;
    case FF_VHOST_SET_CONFIG:
        ff_vhost_absent_note_config(s, msg);
        break;
    case FF_VHOST_SET_MEM_TABLE:
    case FF_VHOST_ADD_MEM_REG:
    case FF_VHOST_REM_MEM_REG:
        note_memory(s, msg);
        break;
    case FF_VHOST_RESET_OWNER:
    case FF_VHOST_RESET_DEVICE:
        lose_log(s, RESET);
        break;
    case FF_VHOST_SET_STATUS:
        s->was_reset |= !ff_vhost_u64(msg);
        break;
    case FF_VHOST_POSTCOPY_ADVISE:
        s->odd = "QEMU carries a postcopy of its own";
        break;
    default:
        note_ring(s, msg);
    }
}

/* ---- holding --------------------------------------------------------------------------------- */

/* The device's status that QEMU has set last, of what is held; NULL: none is. */
static const FfVhostMessage *held_status(const FfVhostSession *s)
{
    for (GList *l = s->held.tail; l; l = l->prev) {
        const FfVhostMessage *held = l->data;

        if (held->header.request == FF_VHOST_SET_STATUS) {
            return held;
        }
    }
    return NULL;
}

/* What the back-end may have without memory. */
static bool may_pass(const FfVhostSession *s, const FfVhostMessage *msg)
{
    if (s->absent) {
        return false;
    }
    switch (msg->header.request) {
    case FF_VHOST_GET_STATUS:
        return !held_status(s);
    case FF_VHOST_SET_OWNER:
    case FF_VHOST_SET_PROTOCOL_FEATURES:
    case FF_VHOST_SET_BACKEND_REQ_FD:
        return true;
    case FF_VHOST_GET_VRING_BASE:
        return false;
    default:
        return ff_vhost_has_answer(msg->header.request, 0);
    }
}

/* Of ring I alone. */
static bool is_of_ring(const FfVhostMessage *msg, uint32_t i)
{
    switch (msg->header.request) {
    case FF_VHOST_SET_VRING_NUM:
    case FF_VHOST_SET_VRING_ADDR:
    case FF_VHOST_SET_VRING_BASE:
    case FF_VHOST_SET_VRING_ENABLE:
        return ff_vhost_state(msg).index == i;
    case FF_VHOST_SET_VRING_KICK:
    case FF_VHOST_SET_VRING_CALL:
    case FF_VHOST_SET_VRING_ERR:
        return (ff_vhost_u64(msg) & FF_VHOST_VRING_INDEX) == i;
    default:
        return false;
    }
}

bool ff_vhost_holds_ring(const FfVhostSession *s, uint32_t i)
{
    for (GList *l = s->held.head; l; l = l->next) {
        if (is_of_ring(l->data, i)) {
            return true;
        }
    }
    return false;
}

static void answer_qemu(FfVhostSession *s, uint32_t request, const void *payload, uint32_t size)
{
    s->ops->to_qemu(ff_vhost_message_new(request, FF_VHOST_REPLY, payload, size), s->opaque);
}

/* A ring that was never begun stops where it was to begin. */
static void stop_held(FfVhostSession *s, const FfVhostMessage *msg)
{
    FfVhostVringState state = ff_vhost_state(msg);

    for (GList *l = s->held.head, *next; l; l = next) {
        FfVhostMessage *held = l->data;

        next = l->next;
        if (is_of_ring(held, state.index)) {
            if (held->header.request == FF_VHOST_SET_VRING_BASE) {
                state.value = ff_vhost_state(held).value;
            }
            ff_vhost_message_free(held);
            g_queue_delete_link(&s->held, l);
        }
    }
    ff_vhost_rings_stopped(&s->rings, MIN(state.index, (uint32_t)FF_VHOST_MAX_RINGS));
    answer_qemu(s, FF_VHOST_GET_VRING_BASE, &state, sizeof(state));
}

/* Where the guest masks an interrupt and unmasks it, QEMU names another fd each time; and it
 * enables or disables each ring of a network whenever the guest says how many it uses. */
static void forget_earlier(FfVhostSession *s, const FfVhostMessage *msg)
{
    bool enables = msg->header.request == FF_VHOST_SET_VRING_ENABLE;
    uint32_t i =
        enables ? ff_vhost_state(msg).index : (uint32_t)(ff_vhost_u64(msg) & FF_VHOST_VRING_INDEX);

    for (GList *l = s->held.head; l && (enables || msg->header.request == FF_VHOST_SET_VRING_CALL);
         l = l->next) {
        FfVhostMessage *held = l->data;

        if (held->header.request == msg->header.request && is_of_ring(held, i)) {
            ff_vhost_message_free(held);
            g_queue_delete_link(&s->held, l);
            return;
        }
    }
}

static bool is_same_kind(const FfVhostMessage *a, const FfVhostMessage *b)
{
    return a->header.request == b->header.request ||
           (ff_vhost_is_memory(a) && ff_vhost_is_memory(b));
}

/* QEMU up to 8.0 says so before its rings stop, and a back-end may drop what is in them then. */
static bool is_reset(const FfVhostMessage *msg)
{
    return msg->header.request == FF_VHOST_SET_STATUS && ff_vhost_message_fits(msg) &&
           !ff_vhost_u64(msg);
}

/* A back-end may forget by it what it was told. */
static bool is_any_reset(const FfVhostMessage *msg)
{
    return is_reset(msg) || msg->header.request == FF_VHOST_RESET_OWNER ||
           msg->header.request == FF_VHOST_RESET_DEVICE;
}

/* It takes the place of the one before, which nobody was given: a guest can begin its driver as
 * often as it likes, and a table has up to eight fds. FALSE: there is none, or of memory some was
 * added since. */
static bool replace_held(FfVhostSession *s, FfVhostMessage *msg)
{
    uint32_t request = msg->header.request;
    GList *l = request == FF_VHOST_SET_MEM_TABLE || request == FF_VHOST_SET_FEATURES ||
                       request == FF_VHOST_SET_INFLIGHT_FD
                   ? s->held.tail
                   : NULL;

    bool reset = false;

    while (l && !is_same_kind(l->data, msg)) {
        reset |= is_any_reset(l->data);
        l = l->prev;
    }
    if (!l || ((FfVhostMessage *)l->data)->header.request != request) {
        return false;
    }
    ff_vhost_message_free(l->data);
    l->data = msg;
    if (reset) { /* which is said before it, or a back-end would forget it */
        g_queue_unlink(&s->held, l);
        g_queue_push_tail_link(&s->held, l);
    }
    return true;
}

/* What the device's status was before a reset is of no interest behind it. */
static void forget_status(FfVhostSession *s)
{
    for (GList *l = s->held.head, *next; l; l = next) {
        next = l->next;
        if (((FfVhostMessage *)l->data)->header.request == FF_VHOST_SET_STATUS) {
            ff_vhost_message_free(l->data);
            g_queue_delete_link(&s->held, l);
        }
    }
}

/* What QEMU wants to hear of MSG, which the back-end is not told now. */
static void acknowledge_message(FfVhostSession *s, const FfVhostMessage *msg)
{
    const uint64_t good = 0;

    if (wants_answer(s, msg)) {
        answer_qemu(s, msg->header.request, &good, sizeof(good));
    }
}

static bool hold_message(FfVhostSession *s, FfVhostMessage *msg)
{
    uint32_t request = msg->header.request;

    if (request == FF_VHOST_GET_VRING_BASE) {
        stop_held(s, msg);
        ff_vhost_message_free(msg);
        return true;
    }
    if (request == FF_VHOST_GET_STATUS) {
        /* QEMU writes it back with one bit more. Without a back-end it may have set none. */
        const FfVhostMessage *set = held_status(s);
        uint64_t status = set ? ff_vhost_u64(set) : 0;

        answer_qemu(s, request, &status, sizeof(status));
        ff_vhost_message_free(msg);
        return true;
    }
    if (ff_vhost_absent_answer(s, msg)) {
        ff_vhost_message_free(msg);
        return true;
    }
    /* In its own migration QEMU believes that a back-end logs before a ring of it runs. */
    bool early_log = s->absent && request == FF_VHOST_SET_LOG_BASE;
    if (request > FF_VHOST_LAST_KNOWN || early_log) {
        ff_vhost_message_free(msg);
        return false; /* nobody knows what QEMU wants to hear */
    }
    acknowledge_message(s, msg);
    if (request == FF_VHOST_SET_VRING_KICK) {
        ff_vhost_faults_want(s);
    }
    forget_earlier(s, msg);
    if (is_reset(msg)) {
        forget_status(s);
    }
    if (!replace_held(s, msg)) {
        g_queue_push_tail(&s->held, msg);
    }
    return s->held.length <= MAX_HELD;
}

static void release_held(FfVhostSession *s)
{
    FfVhostMessage *msg;

    while ((msg = g_queue_pop_head(&s->held))) {
        /* QEMU has its acknowledgement; the back-end's own would be one too many. */
        msg->header.flags &= ~(uint32_t)FF_VHOST_NEED_REPLY;
        catch_up(s, msg);
        ff_vhost_say(s, msg, wants_answer(s, msg));
    }
}

static bool pump_messages(FfVhostSession *s);

int ff_vhost_session_hold(FfVhostSession *s, bool hold)
{
    if (hold) {
        unsigned n;

        ff_vhost_session_regions(s, &n, NULL);
        if (n && (!s->holds || s->parked)) {
            return -EBUSY;
        }
        s->holds = true;
        return 0;
    }
    if (s->holds) {
        s->holds = s->parked = false;
        ff_vhost_faults_end(s);
    }
    pump_messages(s);
    return 0;
}

int ff_vhost_session_park(FfVhostSession *s)
{
    if (!s->holds) {
        if (ff_vhost_session_runs(s)) {
            return -EBUSY;
        }
        s->holds = s->parked = true;
    }
    return 0;
}

/* ---- draining -------------------------------------------------------------------------------- */

/* The ring that MSG stops: -1: none. */
static int stopped_ring(const FfVhostMessage *msg)
{
    bool disables = msg->header.request == FF_VHOST_SET_VRING_ENABLE;

    if ((!disables && msg->header.request != FF_VHOST_GET_VRING_BASE) ||
        !ff_vhost_message_fits(msg)) {
        return -1;
    }
    FfVhostVringState state = ff_vhost_state(msg);
    return disables && state.value ? -1 : (int)MIN(state.index, (uint32_t)FF_VHOST_MAX_RINGS);
}

/* One that the back-end was not given yet has nothing under way. */
static FfVhostRingLook look_at_ring(const FfVhostSession *s, unsigned i)
{
    return ff_vhost_holds_ring(s, i) ? FF_VHOST_RING_IDLE : ff_vhost_rings_look(&s->rings, i);
}

static FfVhostRingLook look_at_rings(const FfVhostSession *s)
{
    FfVhostRingLook all = FF_VHOST_RING_IDLE;

    for (unsigned i = 0; i < FF_VHOST_MAX_RINGS && all != FF_VHOST_RING_BUSY; i++) {
        FfVhostRingLook one = look_at_ring(s, i);

        all = one == FF_VHOST_RING_IDLE ? all : one;
    }
    return all;
}

static FfVhostRingLook look_at_stopped(const FfVhostSession *s, const FfVhostMessage *msg)
{
    int ring = stopped_ring(msg);

    if (is_reset(msg)) {
        return look_at_rings(s);
    }
    return ring < 0 ? FF_VHOST_RING_IDLE : look_at_ring(s, (unsigned)ring);
}

/* The guest may have been stopped between filling a ring and saying so. */
static void kick_stopped(const FfVhostSession *s, const FfVhostMessage *msg)
{
    int ring = stopped_ring(msg);

    for (unsigned i = 0; i < FF_VHOST_MAX_RINGS; i++) {
        if (is_reset(msg) || (int)i == ring) {
            ff_vhost_rings_kick(&s->rings, i);
        }
    }
}

/* How long may be waited from now on, microseconds. */
static gint64 remaining_patience(FfVhostSession *s, gint64 now)
{
    gint64 passed = now - s->came_back_at;

    s->waited = MAX(s->waited - passed, 0);
    s->in_vain = MAX(s->in_vain - passed / VAIN_SHARE, 0);
    s->came_back_at = now;
    return FF_VHOST_DRAIN_US - s->waited - s->in_vain;
}

/* What becomes of a message that stops a ring, or all of them. */
typedef enum {
    PASSES, /* it is empty */
    WAITS,
    PASSES_BUSY, /* it is not, and was waited for, or cannot be waited for */
} Drained;

static Drained is_drained(FfVhostSession *s, const FfVhostMessage *msg)
{
    if (is_holding(s) || s->features & OPAQUE || s->kind == FF_VHOST_NETWORK) {
        return PASSES;
    }
    switch (look_at_stopped(s, msg)) {
    case FF_VHOST_RING_IDLE:
        return PASSES;
    case FF_VHOST_RING_UNREADABLE:
        lose_log(s, "a ring of the device lies outside of the guest's memory");
        s->unfinished = true;
        return PASSES_BUSY;
    case FF_VHOST_RING_BUSY:
        break;
    }
    gint64 now = g_get_monotonic_time();

    if (s->stopping ? now >= s->stopping_until : remaining_patience(s, now) <= 0) {
        lose_log(s, UNFINISHED);
        s->unfinished = true;
        return PASSES_BUSY;
    }
    return WAITS;
}

static void begin_wait(FfVhostSession *s, FfVhostMessage *msg)
{
    s->stopping = msg;
    s->stopping_since = g_get_monotonic_time();
    s->stopping_until = s->stopping_since + remaining_patience(s, s->stopping_since);
    kick_stopped(s, msg);
    s->ops->again(s->opaque);
}

static void end_wait(FfVhostSession *s, bool in_vain)
{
    gint64 now = g_get_monotonic_time();

    *(in_vain ? &s->in_vain : &s->waited) += now - s->stopping_since;
    s->came_back_at = now;
    s->stopping = NULL;
}

/* ---- the two ways ---------------------------------------------------------------------------- */

static void stop_and_pass(FfVhostSession *s, FfVhostMessage *msg)
{
    if (msg->header.request == FF_VHOST_GET_VRING_BASE && ff_vhost_message_fits(msg)) {
        ff_vhost_rings_stopped(&s->rings, stopped_ring(msg));
    }
    pass_message(s, msg);
}

/* A network's rings are not empty when QEMU up to 8.0 says SET_STATUS 0, before they stop: a
 * back-end that takes that for a reset would write to them without its log. So it is said later,
 * when they have stopped, or before whatever else is said. */
static bool is_early_reset(const FfVhostSession *s, const FfVhostMessage *msg)
{
    return s->kind == FF_VHOST_NETWORK && is_reset(msg) && ff_vhost_session_runs(s);
}

static void keep_reset(FfVhostSession *s, FfVhostMessage *msg)
{
    acknowledge_message(s, msg);
    ff_vhost_message_free(s->reset); /* once is enough */
    s->reset = msg;
}

static void tell_reset(FfVhostSession *s)
{
    if (s->reset) {
        s->reset->header.flags &= ~(uint32_t)FF_VHOST_NEED_REPLY; /* QEMU has been answered */
        s->was_reset = true;
        pass_message(s, g_steal_pointer(&s->reset));
    }
}

static bool holds_request(const FfVhostSession *s, uint32_t request)
{
    for (GList *l = s->held.head; l; l = l->next) {
        if (((FfVhostMessage *)l->data)->header.request == request) {
            return true;
        }
    }
    return false;
}

/* A back-end that waits for pages, and does not know the guest's memory as it is now: what runs
 * runs on, and is stopped; what begins, and words on memory, wait. */
static bool must_keep(const FfVhostSession *s, const FfVhostMessage *msg)
{
    if (!ff_vhost_faults_keep(s) || !ff_vhost_message_fits(msg)) {
        return false;
    }
    uint32_t ring = ff_vhost_state(msg).index;

    switch (msg->header.request) {
    case FF_VHOST_SET_MEM_TABLE:
    case FF_VHOST_ADD_MEM_REG:
    case FF_VHOST_REM_MEM_REG:
        return true;
    case FF_VHOST_SET_VRING_NUM:
    case FF_VHOST_SET_VRING_BASE:
    case FF_VHOST_SET_VRING_ADDR:
        return ff_vhost_holds_ring(s, ring) || !ff_vhost_rings_run(&s->rings, ring);
    case FF_VHOST_GET_VRING_BASE:
    case FF_VHOST_SET_VRING_ENABLE:
        return ff_vhost_holds_ring(s, ring);
    case FF_VHOST_SET_VRING_KICK:
    case FF_VHOST_SET_VRING_CALL:
    case FF_VHOST_SET_VRING_ERR:
        return ff_vhost_holds_ring(s, ff_vhost_u64(msg) & FF_VHOST_VRING_INDEX);
    case FF_VHOST_SET_FEATURES:
    case FF_VHOST_SET_STATUS:
        return holds_request(s, msg->header.request);
    case FF_VHOST_GET_STATUS:
        return holds_request(s, FF_VHOST_SET_STATUS);
    default:
        return false;
    }
}

/* The same memory once more, for a back-end that waits: it would map it anew. */
static bool is_known(const FfVhostSession *s, const FfVhostMessage *msg)
{
    return s->faults == FF_VHOST_FAULTS_ON && !s->stale && ff_vhost_is_memory(msg);
}

/* The next of QEMU's messages waits here. Not what is held on the way to pages, which QEMU is
 * answered for whatever the back-end does; what that is to be told then it would take for the word
 * that its faults are answered, or its answer would be taken for one to a word of ours. */
static bool must_wait(const FfVhostSession *s, const FfVhostMessage *msg)
{
    if (s->absent) { /* nothing of it goes to a back-end, which may not answer us for long */
        return ff_vhost_absent_must_wait(s, msg);
    }
    if (ff_vhost_session_is_on_its_way(s) && !s->stopping) {
        return may_pass(s, msg) &&
               (s->ours.length || s->ends_wait || s->faults == FF_VHOST_FAULTS_HANDED);
    }
    return is_busy(s);
}

/* It need not be waited for any more. FALSE: nothing is of use any more. */
static bool carry_out(FfVhostSession *s, FfVhostMessage *msg)
{
    note_message(s, msg);
    if ((is_holding(s) && !may_pass(s, msg)) || must_keep(s, msg)) {
        bool ok = hold_message(s, msg);

        if (!ff_vhost_session_runs(s)) {
            tell_reset(s);
        }
        return ok;
    }
    if (is_known(s, msg)) {
        acknowledge_message(s, msg);
        ff_vhost_message_free(msg);
    } else if (is_early_reset(s, msg)) {
        keep_reset(s, msg);
    } else {
        if (stopped_ring(msg) < 0) {
            tell_reset(s);
        }
        stop_and_pass(s, msg);
        if (!ff_vhost_session_runs(s)) {
            tell_reset(s);
        }
    }
    return true;
}

/* FALSE: it waits for a drain, or nothing is of use any more (*BROKEN). */
static bool handle_message(FfVhostSession *s, FfVhostMessage *msg, bool *broken)
{
    if (is_drained(s, msg) == WAITS) {
        begin_wait(s, msg);
        return false;
    }
    *broken = !carry_out(s, msg);
    return !*broken;
}

static void begin_log(FfVhostSession *s);
static void end_log(FfVhostSession *s);

/* Before anything else is said: what QEMU has just said may have nothing in the log. */
static void end_log_if_wanted(FfVhostSession *s)
{
    if (!is_busy(s) && s->ends_log) {
        end_log(s);
    }
}

static bool pump_messages(FfVhostSession *s)
{
    FfVhostMessage *msg;
    bool broken = false;

    if (s->ends_wait && !s->owed && !s->ours.length) {
        ff_vhost_faults_tell_end(s);
    }
    if (!is_holding(s) && !ff_vhost_faults_keep(s) && !s->owed && !s->ours.length) {
        release_held(s);
    }
    while ((msg = g_queue_peek_head(&s->waiting)) && !must_wait(s, msg) &&
           handle_message(s, g_queue_pop_head(&s->waiting), &broken)) {
        end_log_if_wanted(s);
    }
    if (s->faults == FF_VHOST_FAULTS_WANTED && !s->owed && !s->ours.length &&
        (!s->ops->may_begin || s->ops->may_begin(s->opaque))) {
        ff_vhost_faults_begin(s);
    }
    end_log_if_wanted(s);
    if (!is_busy(s) && !s->owed && !s->reset && s->log >= 0 && !s->logs) {
        begin_log(s);
    }
    return !broken;
}

bool ff_vhost_session_from_qemu(FfVhostSession *s, FfVhostMessage *msg)
{
    g_queue_push_tail(&s->waiting, msg);
    return s->waiting.length <= MAX_WAITING && pump_messages(s);
}

unsigned ff_vhost_session_waiting(const FfVhostSession *s)
{
    return s->waiting.length;
}

bool ff_vhost_session_again(FfVhostSession *s)
{
    FfVhostMessage *msg = s->stopping;
    Drained drained = msg ? is_drained(s, msg) : PASSES;

    if (!msg) {
        return true;
    }
    if (drained == WAITS) {
        s->ops->again(s->opaque);
        return true;
    }
    end_wait(s, drained == PASSES_BUSY);
    return carry_out(s, msg) && pump_messages(s);
}

/* The request that MSG answers; 0: none of ours. With LOG_SHMFD an answer to SET_LOG_BASE is due
 * (what is in it is different with each back-end, and says nothing); a back-end that leaves it out
 * may not have understood the request, and is known by its answer to the next one. */
static uint32_t answered_request(FfVhostSession *s, const FfVhostMessage *msg)
{
    uint32_t request = GPOINTER_TO_UINT(g_queue_pop_head(&s->ours));

    if (request == FF_VHOST_SET_LOG_BASE && msg->header.request != request && s->ours.length) {
        lose_log(s, "it does not acknowledge a log");
        request = GPOINTER_TO_UINT(g_queue_pop_head(&s->ours));
    }
    return msg->header.flags & FF_VHOST_REPLY && msg->header.request == request ? request : 0;
}

/* The last answer to what began the log is that of GET_FEATURES. Nobody waits any more for one
 * whose end is wanted already. */
static void ours_answered(FfVhostSession *s, uint32_t request)
{
    if (!s->ours.length && s->logs && !s->ends_log && request == FF_VHOST_GET_FEATURES) {
        s->ops->logs(s->opaque);
    }
}

/* The ring has stopped, and the back-end writes to it no more. It has logged what it has put into
 * it, but neither the avail event, by which the guest sees whether it must kick, nor the flags:
 * QEMU's own migration has them sent as it maps the ring for writing until then. */
static void log_used(FfVhostSession *s, const FfVhostMessage *msg)
{
    if (s->logs && (!ff_vhost_message_fits(msg) ||
                    ff_vhost_rings_log_used(&s->rings, ff_vhost_state(msg).index, s->marks,
                                            s->marks_size) < 0)) {
        lose_log(s, "its log has no place for a ring");
    }
}

bool ff_vhost_session_from_backend(FfVhostSession *s, FfVhostMessage *msg)
{
    if (s->ours.length) {
        g_autoptr(FfVhostMessage) own = msg;
        uint32_t request = answered_request(s, msg);

        if (!request || !(s->absent ? ff_vhost_absent_answered(s, request, msg)
                                    : ff_vhost_faults_answered(s, request, msg))) {
            return false;
        }
        ours_answered(s, request);
        return pump_messages(s);
    }
    if (msg->n_fds && !s->owed && !s->odd) {
        ff_vhost_message_free(msg);
        return false; /* QEMU has asked for nothing, and might not read for long */
    }
    if (msg->header.request == FF_VHOST_GET_VRING_BASE) {
        log_used(s, msg);
    } else {
        ff_vhost_absent_note(s, msg);
    }
    s->owed -= s->owed > 0;
    s->ops->to_qemu(msg, s->opaque);
    return pump_messages(s);
}

/* ---- the log --------------------------------------------------------------------------------- */

bool ff_vhost_session_is_unfinished(const FfVhostSession *s)
{
    return s->unfinished;
}

const char *ff_vhost_session_unloggable(const FfVhostSession *s)
{
    if (!s->knows_offer) {
        return "it has not said yet what it can do";
    }
    if (s->odd) {
        return s->odd;
    }
    if (s->absent) {
        return "it is another QEMU's still";
    }
    if (s->parked) {
        return "it stands until a snapshot is saved";
    }
    if (s->holds || s->faults == FF_VHOST_FAULTS_END) {
        return "the guest's memory is not all there yet";
    }
    if (s->foreign_log) {
        return "QEMU has set a log of its own";
    }
    if (!(s->offered & FF_VHOST_F_LOG_ALL) || !(s->protocol & FF_VHOST_PROTOCOL_F_LOG_SHMFD)) {
        return "it cannot log what it writes to guest memory (LOG_ALL, LOG_SHMFD)";
    }
    return why_opaque(s->features);
}

uint64_t ff_vhost_session_log_bytes(const FfVhostSession *s)
{
    unsigned n;
    const FfVhostRegion *regions = ff_vhost_session_regions(s, &n, NULL);
    uint64_t end = 0;

    for (unsigned i = 0; i < n; i++) {
        end = MAX(end, regions[i].guest + regions[i].size);
    }
    return end / FF_VHOST_LOG_PAGE / 8 + 1;
}

const FfVhostRegion *ff_vhost_session_regions(const FfVhostSession *s, unsigned *n, const int **fds)
{
    *n = s->rings.n_regions;
    if (fds) {
        *fds = s->rings.fds;
    }
    return s->rings.regions;
}

/* The features and the ring addresses once more, with or without the log's flag: also of a ring
 * that has an address and runs in a moment. Nothing of it is answered. */
static void tell_features(FfVhostSession *s)
{
    FfVhostMessage *msg;

    if (s->has_features) {
        msg = ff_vhost_message_new(FF_VHOST_SET_FEATURES, 0, &s->features, sizeof(s->features));
        add_log_flags(s, msg);
        ff_vhost_say(s, msg, false);
    }
    for (unsigned i = 0; i < FF_VHOST_MAX_RINGS; i++) {
        const FfVhostVringAddr *addr = ff_vhost_rings_addr(&s->rings, i);

        if (addr) {
            msg = ff_vhost_message_new(FF_VHOST_SET_VRING_ADDR, 0, addr, sizeof(*addr));
            add_log_flags(s, msg);
            ff_vhost_say(s, msg, false);
        }
    }
}

/* What has passed since it was asked for may stand against it, a log of QEMU's above all. */
static void refuse_log(FfVhostSession *s, const char *why)
{
    if (s->log >= 0) {
        close(g_steal_fd(&s->log));
    }
    s->lost = why;
    s->ops->logs(s->opaque);
}

/* The answer to the last question comes when all of it is done. */
static void begin_log(FfVhostSession *s)
{
    FfVhostLog log = {s->log_size, 0};
    const char *why = ff_vhost_session_unloggable(s);

    if (!why && s->log_size < ff_vhost_session_log_bytes(s)) {
        why = MOVED; /* since it was made */
    }
    if (why) {
        refuse_log(s, why);
        return;
    }
    int marks = fcntl(s->log, F_DUPFD_CLOEXEC, 0);

    if (marks < 0) {
        refuse_log(s, NO_ROOM);
        return;
    }
    s->marks = marks;
    s->marks_size = s->log_size;
    FfVhostMessage *msg = ff_vhost_message_new(FF_VHOST_SET_LOG_BASE, 0, &log, sizeof(log));

    msg->fds[0] = g_steal_fd(&s->log);
    msg->n_fds = 1;
    s->logs = true;
    s->was_reset = false;
    ff_vhost_say(s, msg, true);
    tell_features(s);
    ff_vhost_say(s, ff_vhost_message_new(FF_VHOST_GET_FEATURES, 0, NULL, 0), true);
}

static void end_log(FfVhostSession *s)
{
    s->ends_log = s->logs = false;
    close(g_steal_fd(&s->marks));
    tell_features(s);
}

void ff_vhost_session_log_begin(FfVhostSession *s, int fd, uint64_t size)
{
    if (s->log >= 0) {
        close(s->log); /* one that the back-end has not been given yet */
    }
    s->log = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    s->log_size = size;
    s->lost = NULL;
    if (s->log < 0) {
        refuse_log(s, NO_ROOM);
        return;
    }
    pump_messages(s);
}

const char *ff_vhost_session_lost(const FfVhostSession *s)
{
    return s->lost;
}

bool ff_vhost_session_runs(const FfVhostSession *s)
{
    for (unsigned i = 0; i < FF_VHOST_MAX_RINGS; i++) {
        if (ff_vhost_rings_run(&s->rings, i)) {
            return true;
        }
    }
    return false;
}

void ff_vhost_session_log_end(FfVhostSession *s)
{
    if (s->log >= 0) {
        close(s->log);
        s->log = -1;
    }
    s->ends_log = s->logs;
    pump_messages(s);
}

/* ---- pages that the back-end waits for ------------------------------------------------------- */

bool ff_vhost_session_handed(FfVhostSession *s)
{
    ff_vhost_faults_handed(s);
    return pump_messages(s);
}

bool ff_vhost_session_checked(FfVhostSession *s)
{
    ff_vhost_faults_checked(s);
    return pump_messages(s);
}

bool ff_vhost_session_may_wait(FfVhostSession *s)
{
    if (s->faults == FF_VHOST_FAULTS_NONE && holds_request(s, FF_VHOST_SET_VRING_KICK)) {
        ff_vhost_faults_want(s);
    }
    return pump_messages(s);
}
