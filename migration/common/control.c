/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events, waits, status, error and the messages to the driver; see control.h for threads and the
 * lock. A message holds a reference: what the coordinator says last may be heard after the
 * migration is freed, and is then dropped.
 */
#include "migration/common/control.h"

#include <poll.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/trace-mark.h"
#include "migration/common/states.h"
#include "migration/common/stats.h"

/* The relay answers in microseconds; without one that answers a client may learn things late. */
#define SYNC_DEADLINE_MS 1000
/* The same where clients of another QEMU are to come first (guest/relay/clients.h: COME_BEHIND_MS,
 * until it is said who comes, and then until they are here). */
#define CLIENTS_MS 21000

/* ---- events ---------------------------------------------------------------------------------- */

void ff_control_event(FfControl *c, unsigned events)
{
    ff_mutex_lock(&c->lock);
    c->events |= events;
    ff_cond_broadcast(&c->changed);
    ff_mutex_unlock(&c->lock);
}

unsigned ff_control_events(FfControl *c)
{
    ff_mutex_lock(&c->lock);
    unsigned got = c->events;
    ff_mutex_unlock(&c->lock);
    return got;
}

void ff_control_set_error_locked(FfControl *c, const char *text)
{
    if (!c->error) {
        c->error = g_strdup(text);
        c->only_lost = false;
    }
}

void ff_control_set_error(FfControl *c, const char *text)
{
    ff_mutex_lock(&c->lock);
    ff_control_set_error_locked(c, text);
    ff_mutex_unlock(&c->lock);
}

/* TRUE: TEXT is the error now. */
static bool dead_locked(FfControl *c, const char *text)
{
    /* What follows from an orderly end is no failure: channels close in any order. */
    bool over = c->events & (FF_EV_FINISHED | FF_EV_QUIT | FF_EV_DONE | FF_EV_WANT_CANCEL) ||
                (c->granted && c->events & FF_EV_ALL);
    bool first = !over && !c->error;

    if (first) {
        ff_control_set_error_locked(c, text);
    }
    c->events |= FF_EV_DEAD;
    ff_cond_broadcast(&c->changed);
    return first;
}

void ff_control_dead(FfControl *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    ff_mutex_lock(&c->lock);
    dead_locked(c, text);
    ff_mutex_unlock(&c->lock);
}

void ff_control_lost(FfControl *c, const char *text)
{
    ff_mutex_lock(&c->lock);
    if (dead_locked(c, text)) {
        c->only_lost = true;
    }
    ff_mutex_unlock(&c->lock);
}

void ff_control_gave_up(FfControl *c, const char *text)
{
    ff_mutex_lock(&c->lock);
    c->events |= FF_EV_ABORTED;
    if (c->only_lost && c->error) {
        c->only_lost = false;
        g_free(c->error);
        c->error = g_strdup(text);
    }
    dead_locked(c, text);
    ff_mutex_unlock(&c->lock);
}

void ff_control_peer_ended(FfControl *c, const char *name)
{
    ff_mutex_lock(&c->lock);
    c->peer_ended = true;
    ff_mutex_unlock(&c->lock);
    ff_control_dead(c, "the %s's QEMU has ended", name);
}

unsigned ff_control_wait_until(FfControl *c, unsigned want, int64_t end_us)
{
    ff_mutex_lock(&c->lock);
    while (!(c->events & want) && (end_us < 0 || g_get_monotonic_time() < end_us)) {
        if (end_us < 0) {
            ff_cond_wait(&c->changed, &c->lock);
        } else {
            ff_cond_wait_until(&c->changed, &c->lock, end_us);
        }
    }
    unsigned got = c->events & want;
    ff_mutex_unlock(&c->lock);
    return got;
}

unsigned ff_control_wait(FfControl *c, unsigned want)
{
    return ff_control_wait_until(c, want, -1);
}

bool ff_control_await(FfControl *c, unsigned want, GError **error)
{
    unsigned got = ff_control_wait(c, want | FF_EV_DEAD | FF_EV_WANT_CANCEL | FF_EV_QUIT);

    if (got & (FF_EV_WANT_CANCEL | FF_EV_QUIT)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
        return false;
    }
    if (got & want) {
        return true;
    }
    ff_mutex_lock(&c->lock);
    g_set_error_literal(error, FF_M_ERROR, 0, c->error ? c->error : "the connection was lost");
    ff_mutex_unlock(&c->lock);
    return false;
}

void ff_control_forget_events(FfControl *c, unsigned events)
{
    ff_mutex_lock(&c->lock);
    c->events &= ~(events | FF_EV_MAIN_ENDED);
    ff_mutex_unlock(&c->lock);
}

void ff_control_forget(FfControl *c, unsigned events)
{
    ff_control_forget_events(c, events);
    ff_mutex_lock(&c->lock);
    g_clear_pointer(&c->error, g_free);
    ff_mutex_unlock(&c->lock);
}

void ff_control_reset_cancel(FfControl *c)
{
    g_cancellable_reset(c->cancel);
    if (ff_control_events(c) & (FF_EV_QUIT | FF_EV_PAUSE)) {
        g_cancellable_cancel(c->cancel);
    }
}

int64_t ff_control_auto_end(FfControl *c)
{
    ff_mutex_lock(&c->lock);
    bool nobody = c->events & FF_EV_PAUSE || c->peer_ended;
    int64_t span = nobody ? 0 : c->auto_recover_s * G_TIME_SPAN_SECOND;
    ff_mutex_unlock(&c->lock);
    return span ? g_get_monotonic_time() + span : 0;
}

bool ff_control_client_stopped(FfControl *c)
{
    ff_mutex_lock(&c->lock);
    bool stopped = c->start_paused;
    ff_mutex_unlock(&c->lock);
    return stopped;
}

/* ---- messages: callbacks on the driver's main loop, in order --------------------------------- */

typedef struct {
    FfControl *c;
    FfStatus status;
    uint64_t pass;
    bool done, parted, sync;
    char *kill;                 /* why the VMM must die; can be NULL */
    char *fail;                 /* why this process cannot continue; can be NULL */
    void (*run)(gpointer data); /* can be NULL */
    gpointer data;
} Told;

static gboolean deliver_report(gpointer p)
{
    Told *t = p;
    const FfMigrationOps *ops = &t->c->ops;

    ff_tsan_receive(t);
    if (t->c->freed) {
        return G_SOURCE_REMOVE;
    }
    if (t->kill) {
        ops->kill_vmm(t->kill, ops->opaque);
    } else if (t->fail) {
        ops->fail(t->fail, ops->opaque);
    } else if (t->run) {
        t->run(t->data);
    } else if (t->sync) {
        ops->sync(ops->opaque);
    } else if (t->parted) {
        ops->parted(ops->opaque);
    } else if (t->done) {
        ops->done(ops->opaque);
    } else if (t->pass) {
        ops->pass(t->pass, ops->opaque);
    } else {
        ops->status(t->status, ops->opaque);
    }
    return G_SOURCE_REMOVE;
}

static void free_control(gpointer p)
{
    FfControl *c = p;

    g_object_unref(c->cancel);
    g_main_context_unref(c->driver_ctx);
    ff_mutex_clear(&c->lock);
    ff_cond_clear(&c->changed);
    g_free(c->error);
    g_free(c->new_uri);
}

static void free_told(gpointer p)
{
    Told *t = p;

    g_atomic_rc_box_release_full(t->c, free_control);
    g_free(t->kill);
    g_free(t->fail);
    g_free(t);
}

static void tell_driver(FfControl *c, Told t)
{
    g_autoptr(GSource) source = g_idle_source_new();

    t.c = g_atomic_rc_box_acquire(c);
    Told *told = g_memdup2(&t, sizeof(t));
    ff_tsan_publish(told);
    /* One priority for all: sources of one priority run in the order of their attachment. */
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, deliver_report, told, free_told);
    g_source_attach(source, c->driver_ctx);
}

static void sync_within(FfControl *c, unsigned ms)
{
    if (!c->ops.sync) {
        return;
    }
    ff_mutex_lock(&c->lock);
    c->events &= ~(unsigned)FF_EV_SYNCED;
    ff_mutex_unlock(&c->lock);
    tell_driver(c, (Told){.sync = true});
    ff_control_wait_until(c, FF_EV_SYNCED | FF_EV_DEAD | FF_EV_QUIT,
                          g_get_monotonic_time() + ms * 1000LL);
}

void ff_control_sync(FfControl *c)
{
    sync_within(c, SYNC_DEADLINE_MS);
}

void ff_control_sync_clients(FfControl *c)
{
    sync_within(c, CLIENTS_MS);
}

void ff_control_new_pass(FfControl *c)
{
    uint64_t pass = __atomic_add_fetch(&c->pass, 1, __ATOMIC_RELAXED);

    FF_MARK1(pass, pass);

    tell_driver(c, (Told){.pass = pass});
}

void ff_control_kill_vmm(FfControl *c, const char *why)
{
    tell_driver(c, (Told){.kill = g_strdup(why)});
}

bool ff_control_fail(FfControl *c, const char *why)
{
    if (c->ops.fail) {
        tell_driver(c, (Told){.fail = g_strdup(why)});
        ff_control_wait(c, FF_EV_QUIT);
    }
    return c->ops.fail;
}

/* Its monitor may be closed before it is known to have ended. */
#define VMM_END_MS 1000

bool ff_control_fail_unheard(FfControl *c, int pidfd, const GError *error)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_CONNECTED) &&
           !(pidfd >= 0 && poll(&p, 1, VMM_END_MS) > 0) && ff_control_fail(c, error->message);
}

void ff_control_tell_done(FfControl *c)
{
    tell_driver(c, (Told){.done = true});
}

void ff_control_tell_parted(FfControl *c)
{
    tell_driver(c, (Told){.parted = true});
}

void ff_control_call(FfControl *c, void (*run)(gpointer data), gpointer data)
{
    tell_driver(c, (Told){.run = run, .data = data});
}

bool ff_control_await_words(FfControl *c, GError **error)
{
    if (!c->ops.words) {
        return true;
    }
    ff_mutex_lock(&c->lock);
    c->events &= ~(unsigned)FF_EV_WORDS;
    ff_mutex_unlock(&c->lock);
    ff_control_call(c, c->ops.words, c->ops.opaque);
    /* No end: a VMM that takes long to carry out a client's stop takes as long for ours. */
    return ff_control_await(c, FF_EV_WORDS, error);
}

void ff_control_moved(FfControl *c)
{
    ff_mutex_lock(&c->lock);
    bool moves = c->moves;
    c->moves = false;
    ff_mutex_unlock(&c->lock);
    if (moves && c->ops.moved) {
        ff_control_call(c, c->ops.moved, c->ops.opaque);
    }
}

/* ---- status ---------------------------------------------------------------------------------- */

FfStatus ff_control_enter_locked(FfControl *c, FfStatus status)
{
    FfStatus old = c->status;

    if (old != status && !ff_state_may_follow(old, status)) {
        g_error("migration status %s cannot follow %s", ff_status_name(status),
                ff_status_name(old));
    }
    c->status = status;
    return old;
}

static void note_break(FfControl *c, FfStatus status)
{
    if (status == FF_STATUS_POSTCOPY_ACTIVE) {
        __atomic_store_n(&c->broken_us, 0, __ATOMIC_RELAXED);
    } else if ((status == FF_STATUS_POSTCOPY_PAUSED || status == FF_STATUS_POSTCOPY_RECOVER) &&
               !ff_counted(c->broken_us)) {
        ff_stamp(c->broken_us);
    }
}

void ff_control_entered(FfControl *c, FfStatus old, FfStatus status)
{
    if (old == status) {
        return;
    }
    FF_FAULT_STATE(ff_status_name(status));
    FF_MARK4(status, ff_status_name(old), ff_status_name(status), c->role, status);
    g_debug("status %s -> %s", ff_status_name(old), ff_status_name(status));
    note_break(c, status);
    if (ff_state_is_final(status) && !ff_counted(c->end_us)) {
        ff_stamp(c->end_us);
    }
    tell_driver(c, (Told){.status = status});
}

void ff_control_set_status(FfControl *c, FfStatus status)
{
    ff_mutex_lock(&c->lock);
    FfStatus old = ff_control_enter_locked(c, status);
    ff_mutex_unlock(&c->lock);
    ff_control_entered(c, old, status);
}

void ff_control_pause(FfControl *c, const char *why)
{
    ff_control_set_error(c, why);
    ff_mutex_lock(&c->lock);
    FfStatus s = c->status;
    ff_mutex_unlock(&c->lock);
    if (s != FF_STATUS_COMPLETED) {
        ff_control_set_status(c, FF_STATUS_POSTCOPY_PAUSED);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_control_join(GThread **thread)
{
    if (*thread) {
        g_thread_join(*thread);
        *thread = NULL;
    }
}

void ff_close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

FfControl *ff_control_new(const FfMigrationOps *ops)
{
    FfControl *c = g_atomic_rc_box_new0(FfControl);

    c->ops = *ops;
    c->driver_ctx = g_main_context_ref_thread_default();
    c->cancel = g_cancellable_new();
    c->new_fd = -1;
    ff_mutex_init(&c->lock);
    ff_cond_init(&c->changed);
    return c;
}

void ff_control_free(FfControl *c)
{
    c->freed = true;
    ff_close_fd(&c->new_fd);
    g_atomic_rc_box_release_full(c, free_control);
}
