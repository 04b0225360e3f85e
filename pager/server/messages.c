/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the holder has read of a session's userfaultfd, as uffd/messages.h wants it; and what the
 * pager of the space is told. See session-internal.h for the threads.
 */
#include "pager/server/messages.h"

#include <errno.h>

#include "base/failpoints.h"
#include "pager/server/family.h"
#include "pager/server/session-working-set.h"
#include "pager/server/work.h"

static FfSession *session_of(FfMessages *m)
{
    return (FfSession *)m;
}

/* Faults are older than the event, so they come first: all of them before it is returned. An event
 * whose gate is not set yet comes later, and the holder tells: it would set the gate after it was
 * opened here, and nobody would open it again. */
static int read_messages(FfMessages *m, struct uffd_msg *msgs, size_t max)
{
    FfSession *s = session_of(m);

    ff_untell(s->news);
    if (!s->said_registered && __atomic_load_n(&s->root_rec->registered, __ATOMIC_ACQUIRE)) {
        s->said_registered = true;
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->changed); /* to the owner */
        pthread_mutex_unlock(&s->lock);
    }
    unsigned n = ff_space_record_take_faults(s->rec, msgs, max - 1, s->told);
    bool all = __atomic_load_n(&s->rec->head, __ATOMIC_SEQ_CST) == s->rec->tail;
    if (!all) {
        ff_tell(s->news); /* to itself */
    } else if (ff_space_record_owes_event(s->rec, s->root_rec)) {
        FF_FAULT_AT("event-seen");
        msgs[n++] = s->rec->in;
    }
    return n;
}

static bool enter_gate(FfMessages *m, unsigned *seen)
{
    *seen = ff_gate_look(session_of(m)->root_rec);
    return ff_gate_enter(session_of(m)->root_rec, session_of(m)->told);
}

static void wait_changed(FfMessages *m, unsigned seen)
{
    if (ff_gate_state(seen) != FF_GATE_OPEN) {
        ff_gate_wait(session_of(m)->root_rec, seen);
    }
}

static void leave_gate(FfMessages *m)
{
    ff_gate_leave(session_of(m)->root_rec, session_of(m)->told);
}

/* The gate is seen before the event is looked for: if there is one since, the gate has changed. */
static bool enter_to_answer(FfMessages *m)
{
    unsigned seen;

    while (!enter_gate(m, &seen)) {
        if (ff_space_record_has_event(session_of(m)->rec)) {
            return false; /* it is this thread that opens the gate */
        }
        wait_changed(m, seen); /* the holder reads, or another one of the family has an event */
    }
    return true;
}

/* The gate first: while it is not open something may have been read that is not known. */
static bool is_idle(FfMessages *m)
{
    return ff_gate_state(ff_gate_look(session_of(m)->root_rec)) == FF_GATE_OPEN &&
           !ff_space_record_has_event(session_of(m)->rec);
}

static void on_forked(FfMessages *m, unsigned child)
{
    ff_family_fork(session_of(m), session_of(m)->rec->child);
}

static void on_applied(FfMessages *m, int rc)
{
    FfSession *s = session_of(m);

    ff_image_count(s->image, events, 1);
    FF_FAULT_AT("event-made");
    if (rc == -ENOTSUP) {
        ff_session_stick(s, "it gave back a part of a large page that is not there yet, so that "
                            "page is lost, and it waits from now on");
    } else if (rc < 0) {
        ff_session_stick(s, "it has changed its memory in a way that is not known, and waits from "
                            "now on");
    } else if (!ff_session_is_stuck(s) &&
               !ff_image_store(s->image, s->rec, s->space, s->rec->seq)) {
        ff_session_stick(s, "it has cut its memory into too many pieces, and waits from now on");
    }
    if (!ff_session_is_stuck(s)) {
        bool forked = s->rec->in.event == UFFD_EVENT_FORK;
        ff_gate_set(s->root_rec, FF_GATE_OPEN);
        ff_tell(s->told);
        if (forked) {
            ff_family_probe(s->all, s->root); /* no event tells of a child's end */
        }
    }
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->changed); /* to an owner that waits for this before it ends */
    pthread_mutex_unlock(&s->lock);
}

/* ---- the pager ------------------------------------------------------------------------------- */

static FfSession *of_pager(FfPager *p)
{
    return (FfSession *)((char *)p - G_STRUCT_OFFSET(FfSession, pager));
}

/* The lock is held by others for as long as it takes to take one from the queue. */
static void enqueue_runs(FfSession *s, const FfRun *runs, unsigned n, int64_t now)
{
    if (!n) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < n; i++) {
        if (s->queue_n < FF_SESSION_QUEUE) {
            s->queue[(s->queue_first + s->queue_n++) % FF_SESSION_QUEUE] = (FfDemand){runs[i], now};
        } else if (ff_bitmap_set(&s->overflow[runs[i].block], runs[i].first)) {
            s->overflow_n++;
        } else {
            __atomic_sub_fetch(&s->waiting, 1, __ATOMIC_SEQ_CST);
        }
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Fault thread. It places one itself, if that waits for nothing, while others place the rest. */
static int request_runs(FfPager *p, const FfRun *runs, unsigned n)
{
    FfSession *s = of_pager(p);
    int64_t now = g_get_monotonic_time();

    ff_image_count(s->image, faults, n);
    __atomic_add_fetch(&s->waiting, n, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < n; i++) {
        ff_set_note(s, &runs[i]);
    }
    enqueue_runs(s, runs + 1, n - 1, now);
    if (ff_worker_place_at_once(s->at_once, &runs[0])) {
        ff_work_answered(s, now);
    } else {
        enqueue_runs(s, runs, 1, now);
    }
    return 0;
}

static void on_removed(FfPager *p, const FfRun *run, FfRemoved why)
{
    FfSession *s = of_pager(p);

    if (why == FF_REMOVED_UNMAPPED) {
        ff_image_count(s->image, unmapped, run->n);
        return;
    }
    ff_image_count(s->image, given_back, run->n);
    if (s->image->block[run->block].sharing == FF_SHARING_SHARED) {
        ff_family_gave_back(s, run);
    }
}

void ff_session_read_message(FfSession *s)
{
    s->messages = (FfMessages){.fd = s->news,
                               .read = read_messages,
                               .enter = enter_gate,
                               .wait = wait_changed,
                               .leave = leave_gate,
                               .enter_to_answer = enter_to_answer,
                               .is_idle = is_idle,
                               .forked = on_forked,
                               .applied = on_applied};
    s->pager = (FfPager){.request = request_runs, .removed = on_removed};
}
