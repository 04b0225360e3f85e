/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's coordinator: await the peer, empty and arm guest RAM, load device state,
 * wait for the grant, start the guest, and end when every page is here.
 *
 * A guest that is LOADED but not GRANTED never runs; before the grant every failure ends this
 * QEMU as a failed incoming migration does, after it nothing but the last page ends the
 * migration.
 *
 * Thread: the coordinator.
 */
#include "migration/internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A source connects, shakes hands and has its answer within 20 s each, or does without. */
#define CHANNEL_DEADLINE_MS 90000

/* For a QEMU that is to end by itself (milliseconds). */
#define END_DEADLINE_MS 1000

/* ---- the received bitmaps, in the state memfd ---------------------------------------------- */

/* Lays the received bitmaps out behind the header. Returns the length of it all. */
static size_t lay_out_bitmaps(FfMigration *m, uint64_t *offsets)
{
    FfStateHeader *s = m->cfg.state;
    size_t page = sysconf(_SC_PAGESIZE), at = (sizeof(*s) + page - 1) / page * page;

    for (unsigned i = 0; i < m->n_blocks; i++) {
        s->block[i].bitmap_offset = offsets[i] = at;
        at += ff_bitmap_words(m->blocks[i].n_pages) * sizeof(uint64_t);
    }
    return at;
}

/* The length that the bitmaps of the engine before us need; 0: they are not all there. OFFSETS is
 * where they are: read once, as others can write to the state. */
static size_t length_of_bitmaps(FfMigration *m, uint64_t *offsets)
{
    const FfStateHeader *s = m->cfg.state;
    struct stat st;
    size_t end = sizeof(*s);

    for (unsigned i = 0; i < m->n_blocks; i++) {
        uint64_t at = __atomic_load_n(&s->block[i].bitmap_offset, __ATOMIC_RELAXED);

        if (at < sizeof(*s) || at > INT64_MAX / 2 || at % sizeof(uint64_t)) {
            return 0;
        }
        offsets[i] = at;
        end = MAX(end, at + ff_bitmap_words(m->blocks[i].n_pages) * sizeof(uint64_t));
    }
    return fstat(m->cfg.state_fd, &st) == 0 && (size_t)st.st_size >= end ? end : 0;
}

bool ff_dest_map_bitmaps(FfMigration *m, bool fresh, GError **error)
{
    uint64_t offsets[FF_STATE_MAX_BLOCKS];
    size_t len;

    if (fresh) {
        ff_recovery_store_blocks(m);
    }
    len = fresh ? lay_out_bitmaps(m, offsets) : length_of_bitmaps(m, offsets);
    if (!len || (fresh && FF_FAULT_CALL("grow-state", ftruncate(m->cfg.state_fd, len)) < 0)) {
        g_set_error(error, FF_M_ERROR, 0, "no memory for the received bitmap: %s",
                    len ? g_strerror(errno) : "it is not there any more");
        return false;
    }
    void *p = FF_FAULT_MAP("map-state",
                           mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->cfg.state_fd, 0));
    if (p == MAP_FAILED) {
        g_set_error(error, FF_M_ERROR, 0, "the state memfd cannot be mapped: %s",
                    g_strerror(errno));
        return false;
    }
    m->bitmaps_len = len;
    for (unsigned i = 0; i < m->n_blocks; i++) {
        FfBlock *b = &m->blocks[i];
        uint64_t *words = (uint64_t *)((char *)p + offsets[i]);
        if (fresh) {
            memset(words, 0, ff_bitmap_words(b->n_pages) * sizeof(uint64_t));
        }
        ff_bitmap_init_over(&b->bitmap, words, b->n_pages);
        ff_bitmap_init(&b->requested, b->n_pages, false);
    }
    ff_mutex_lock(&m->lock);
    m->bitmaps_map = p; /* whole. Observer: who dumps */
    ff_mutex_unlock(&m->lock);
    return true;
}

/* ---- before the switch ------------------------------------------------------------------------
 */

/* FALSE with *REFUSED: because of what the guest is made of. */
static bool check_guest(FfMigration *m, bool *refused, GError **error)
{
    FfVmmMemory *memory = &m->cfg.vmm->memory;
    GPtrArray *blocks = NULL;
    FfGuestFit fit = memory->check(memory, FF_ROLE_DESTINATION, &blocks, m->vm_uuid, error);

    m->occupied = fit == FF_GUEST_OCCUPIED;
    *refused = fit == FF_GUEST_FITS || fit == FF_GUEST_REFUSED;
    if (fit != FF_GUEST_FITS || !ff_m_set_blocks(m, blocks, error) ||
        !ff_dest_map_bitmaps(m, true, error)) {
        return false;
    }
    if (m->cfg.n_uffds < 2) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "no userfaultfd was handed over by the destination QEMU: start it "
                            "through farfault, with permission for userfaultfd");
        return false;
    }
    m->uffd = m->cfg.uffds[1];
    return true;
}

static bool accept_peer(FfMigration *m, GError **error)
{
    g_autoptr(GError) local = NULL;
    bool refused = false;

    if (!check_guest(m, &refused, &local) && !(refused && ff_dest_refuse(m, local))) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (m->cfg.fd >= 0) {
        ff_mutex_lock(&m->lock);
        m->arrived = ff_m_channel_new(m, m->cfg.fd, FF_CHANNEL_MAIN);
        m->cfg.fd = -1;
        m->events |= FF_EV_MAIN;
        ff_mutex_unlock(&m->lock);
    } else {
        m->acceptor = g_thread_new("ff-accept", ff_dest_acceptor, m);
    }
    return true;
}

static bool await_peer(FfMigration *m, GError **error)
{
    return ff_m_await(m, FF_EV_MAIN, error) && ff_dest_recognise_passed(m, error) &&
           ff_dest_no_stock(m, error);
}

/* TRUE: it was none of ours, and the right one may still come. */
static bool go_on_waiting(const FfMigration *m, const GError *error)
{
    if (!g_error_matches(error, FF_M_ERROR, FF_M_ERROR_STRAY) || m->listen_fd < 0) {
        return false;
    }
    g_message("connection refused: %s", error->message);
    return true;
}

static bool agree(FfMigration *m, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!await_peer(m, error)) {
        return false;
    }
    FF_FAULT_AT("met");
    while (!ff_dest_greet(m, &local)) {
        if (!go_on_waiting(m, local)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        g_clear_error(&local);
        if (!await_peer(m, error)) {
            return false;
        }
    }
    /* Stored first: what prepare() leaves half done is the next engine's to undo. Until here
     * nothing was changed, and the next one goes on listening. */
    ff_journal_setup(m->cfg.state);
    FF_FAULT_AT("setup");
    ff_recovery_store_session(m);
    FF_FAULT_AT("greeted");
    /* The source goes on meanwhile: READY, for which it waits, comes later. */
    if (!m->cfg.vmm->state.prepare(&m->cfg.vmm->state, FF_ROLE_DESTINATION, error)) {
        return false;
    }
    FF_FAULT_AT("prepared");
    ff_stamp(m->setup_us);
    ff_m_set_status(m, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    return true;
}

/* ---- the switchover
 * ------------------------------------------------------------------------------ */

static void know_vcpus(FfMigration *m)
{
    g_autoptr(GArray) tids = m->cfg.vmm->run.vcpu_threads(&m->cfg.vmm->run);

    uint32_t n = MIN(tids->len, FF_MAX_VCPUS);
    for (unsigned i = 0; i < n; i++) {
        m->stats.vcpu_tid[i] = g_array_index(tids, int32_t, i);
    }
    /* Observer: the driver's statistics. */
    __atomic_store_n(&m->stats.n_vcpus, n, __ATOMIC_RELEASE);
}

/* The source has all its channels, and is looked after from here on. */
static bool await_channel(FfMigration *m, GError **error)
{
    unsigned end = FF_EV_DEAD | FF_EV_WANT_CANCEL | FF_EV_QUIT;
    int64_t until = g_get_monotonic_time() + CHANNEL_DEADLINE_MS * 1000LL;

    if (!ff_m_wait_until(m, FF_EV_CHANNEL | end, until)) {
        ff_m_dead(m, "the source opened no urgent channel within %d s", CHANNEL_DEADLINE_MS / 1000);
    }
    if (!ff_m_await(m, FF_EV_CHANNEL, error)) {
        return false;
    }
    ff_keepalive_start(m);
    return true;
}

/* What is missing from RAM is gone and armed before the first byte of device state: loading it
 * reads guest RAM. QEMU is asked to load (and waits for bytes) before that, because from the arming
 * on its main loop may wait for a page, which nobody can send before the source has stopped. */
static bool prepare_load(FfMigration *m, GError **error)
{
    int fd = -1;

    if (!await_channel(m, error) || !ff_m_await(m, FF_EV_PREPARE, error)) {
        return false;
    }
    know_vcpus(m);
    ff_journal_loading(m->cfg.state);
    FF_FAULT_AT("loading");
    if (!m->cfg.vmm->state.load(&m->cfg.vmm->state, &fd, error)) {
        return false;
    }
    if (m->ops.hold) {
        m->ops.hold("inner", fd, m->ops.opaque);
    }
    ff_dest_hold_listener(m);
    FF_FAULT_AT("loading-held");
    ff_m_begin_device_copy(m);
    m->inner = ff_channel_new(fd, FF_CHANNEL_MAIN);
    m->feeder = g_thread_new("ff-feeder", ff_dest_feeder, m);
    m->return_path = g_thread_new("ff-return", ff_dest_return_path, m);
    if (!ff_dest_arm(m, error)) {
        return false;
    }
    FF_FAULT_AT("armed");
    int rc = ff_channel_send(m->main, ff_frame(FF_FRAME_READY, 0), NULL, true);
    if (rc < 0) {
        g_set_error(error, FF_M_ERROR, 0, "lost the connection to the source: %s", g_strerror(-rc));
        return false;
    }
    ff_stamp(m->stop_us);
    return true;
}

static bool load(FfMigration *m, GError **error)
{
    /* QEMU says SHUT when it has left "inmigrate"; resume() looks. */
    if (!prepare_load(m, error) || !ff_m_await(m, FF_EV_SHUT, error)) {
        return false;
    }
    if (m->whole && !ff_m_await(m, FF_EV_ALL, error)) {
        return false;
    }
    FF_FAULT_AT("shut");
    ff_journal_loaded(m->cfg.state);
    FF_FAULT_AT("loaded");
    FfFrame f = ff_frame(FF_FRAME_LOADED, 0);
    f.epoch = m->epoch;
    int rc = ff_channel_send(m->main, f, NULL, true);
    if (rc < 0) {
        /* Not a whole frame has left: the source cannot have given the guest away. */
        g_set_error(error, FF_M_ERROR, 0, "lost the connection to the source: %s", g_strerror(-rc));
    }
    return rc == 0;
}

/* From here on the grant may be on its way, whatever becomes of the connection: only the source
 * knows whether it was given. So this side stays, paused, until the source says so. */
static bool await_grant(FfMigration *m, GError **error)
{
    while (!ff_m_await(m, FF_EV_GRANT, error)) {
        if (ff_m_events(m) & (FF_EV_ABORTED | FF_EV_QUIT)) {
            return false;
        }
        g_clear_error(error);
        if (!ff_dest_reconnect(m)) {
            g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "the engine ends");
            return false;
        }
        m->whole = false; /* its status is one of postcopy's by now */
    }
    return true;
}

/* QEMU may be unable to answer before it has a page, which only a connection brings; and who makes
 * connections is the coordinator. So it does not wait for the answer alone. */
static gpointer start_guest(gpointer p)
{
    FfMigration *m = p;
    g_autoptr(GError) error = NULL;
    bool running = false;

    if (!m->cfg.vmm->run.resume(&m->cfg.vmm->run, m->cfg.state->run_state, m->starts, &running,
                                &error)) {
        g_warning("the guest could not be started: %s; try the monitor's cont", error->message);
        ff_m_set_error(m, error->message);
    }
    FF_FAULT_AT("resumed");
    __atomic_store_n(&m->cfg.state->resumed, 1, __ATOMIC_RELEASE);
    FF_FAULT_AT("running");
    ff_stamp(m->running_us);
    m->runs = running;
    ff_m_event(m, FF_EV_RESUMED);
    ff_m_end_device_copy(m); /* the guest goes on from it */
    return NULL;
}

void ff_dest_start_guest(FfMigration *m, bool start)
{
    m->starts = start;
    m->starter = g_thread_new("ff-start", start_guest, m);
}

/* The commit point of this side. */
static void take_over(FfMigration *m)
{
    FF_FAULT_AT("grant");
    /* Stored first: an engine that comes after a crash must know that the guest may run. */
    ff_journal_grant(m->cfg.state, m->granted_state);
    FF_FAULT_AT("granted");
    ff_mutex_lock(&m->lock);
    /* A cont that comes from now on goes to QEMU; one that came before is carried out here. */
    m->given = true;
    bool start = !m->cfg.start_paused || m->client_cont;
    ff_mutex_unlock(&m->lock);
    if (!m->whole) {
        ff_m_set_status(m, FF_STATUS_POSTCOPY_ACTIVE);
    }
    ff_dest_start_guest(m, start);
    if (ff_m_wait(m, FF_EV_RESUMED | FF_EV_DEAD | FF_EV_QUIT) & FF_EV_RESUMED) {
        FfFrame f = ff_frame(FF_FRAME_RUNNING, 0);
        f.page = m->runs;
        ff_channel_send(m->main, f, NULL, true);
    }
}

/* ---- the end
 * ----------------------------------------------------------------------------------------- */

static void end_threads(FfMigration *m)
{
    uint64_t one = 1;

    ff_m_event(m, FF_EV_QUIT);
    ff_m_shutdown_channels(m);
    if (m->inner) {
        ff_channel_shutdown(m->inner);
    }
    g_async_queue_push(m->device_queue, g_bytes_new(NULL, 0));
    G_GNUC_UNUSED ssize_t n = write(m->fault_wake, &one, sizeof(one));
    ff_dest_stop_listening(m, NULL);
    ff_keepalive_end(m);
    ff_m_join(&m->starter);
    ff_m_join(&m->main_reader);
    ff_m_join(&m->urgent_thread);
    ff_extra_end(m);
    ff_m_join(&m->feeder);
    ff_m_join(&m->return_path);
    ff_m_join(&m->fault_thread);
}

static void tell_source(FfMigration *m, const char *why)
{
    const char *text = m->refusal ? m->refusal : why;
    FfFrame f = ff_frame(m->refusal ? FF_FRAME_HELLO_REPLY : FF_FRAME_ABORT,
                         MIN(strlen(text), FF_FRAME_MAX_TEXT));

    f.page = m->refusal != NULL;
    if (m->main && f.length) {
        ff_channel_send_last(m->main, f, text, 0);
    }
}

/* Who learns from the source that it failed may end this QEMU at once, and expects the status of a
 * failure. So QEMU ends first, where there is time for it: the guest runs at the source. */
static void end_vmm(FfMigration *m)
{
    struct pollfd p = {.fd = m->cfg.pidfd, .events = POLLIN};

    if (!m->cfg.vmm->state.doom) {
        return;
    }
    m->cfg.vmm->state.doom(&m->cfg.vmm->state);
    if (!m->inner && p.fd >= 0) {
        poll(&p, 1, END_DEADLINE_MS);
    }
}

static void give_up(FfMigration *m, const GError *why)
{
    FfVmm *vmm = m->cfg.vmm;

    ff_m_set_error(m, why->message);
    if (ff_m_events(m) & FF_EV_QUIT) {
        tell_source(m, why->message);
        end_threads(m); /* the engine ends with its QEMU: nothing is left to tell */
        return;
    }
    if (m->occupied) {
        /* Nothing was touched, and the guest that runs here is not this source's. */
        end_threads(m);
        ff_m_set_status(m, FF_STATUS_FAILED);
        return;
    }
    /* Device state may be half loaded, and RAM is gone: such a QEMU must never run. */
    g_assert(!m->given);
    ff_mutex_lock(&m->lock);
    m->parting = true;
    ff_mutex_unlock(&m->lock);
    bool lives_on = vmm->state.keep_failed && ff_journal_phase(m->cfg.state) != FF_PHASE_LOADED;
    ff_journal_dead(m->cfg.state);
    if (lives_on && m->regions && m->uffd >= 0) {
        ff_dest_disarm(m); /* with empty memory: nothing in it may wait for a page */
    }
    /* The engine ends with its QEMU, perhaps before it has said more than this. */
    g_message("the migration cannot come in: %s", why->message);
    if (!lives_on) {
        ff_m_set_status(m, FF_STATUS_FAILED);
        end_vmm(m);
    }
    tell_source(m, why->message);
    ff_m_event(m, FF_EV_TOLD);
    g_main_context_wakeup(m->driver_ctx);
    vmm->state.abandon(&vmm->state);
    if (lives_on) {
        ff_journal_idle(m->cfg.state);
    } else {
        ff_dest_answer_revoke(m, ff_dest_ensure_end(m));
    }
    end_threads(m);
    ff_m_set_status(m, FF_STATUS_FAILED);
}

/* A guest that has ended has no use for its pages, and its source must not say that it is well. */
static bool vmm_has_ended(const FfMigration *m)
{
    struct pollfd p = {.fd = m->cfg.pidfd, .events = POLLIN};

    return p.fd >= 0 && poll(&p, 1, 0) > 0;
}

static void complete(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    FF_FAULT_AT("all");
    ff_m_join(&m->starter); /* it waits for nothing here any more */
    ff_dest_disarm(m);
    FF_FAULT_AT("disarmed");
    ff_journal_done(m->cfg.state);
    FF_FAULT_AT("done");
    if (vmm_has_ended(m)) {
        end_threads(m); /* and so does this engine */
        return;
    }
    if (m->main) {
        ff_channel_send(m->main, ff_frame(FF_FRAME_DONE, 0), NULL, true);
    }
    /* While the source cleans up as well. It is completed when this side is. */
    if (!m->cfg.vmm->state.undo(&m->cfg.vmm->state, &error)) {
        g_warning("%s", error->message);
    }
    FF_FAULT_AT("undone");
    /* The source's word comes before the end of the main channel, but perhaps after that of the
     * urgent one. */
    bool known = m->main && ff_m_wait(m, FF_EV_FINISHED | FF_EV_MAIN_ENDED | FF_EV_QUIT) &
                                (FF_EV_FINISHED | FF_EV_QUIT);
    if (!known) {
        /* Everything is here: the guest needs nobody any more, only the source does not know. */
        ff_dest_end_connection(m); /* who sees the status may come back at once */
        ff_m_set_status(m, FF_STATUS_COMPLETED);
        ff_dest_linger(m);
    }
    FF_FAULT_AT("finished");
    /* Its end tells the source that this side is completed: whoever sees that the source is may ask
     * here at once (QEMU's tests do). */
    ff_mutex_lock(&m->lock);
    m->keep_main = m->events & FF_EV_FINISHED;
    ff_mutex_unlock(&m->lock);
    end_threads(m);
    if (m->ops.drop) {
        m->ops.drop("inner", m->ops.opaque);
    }
    ff_journal_idle(m->cfg.state);
    FF_FAULT_AT("idle");
    ff_m_set_status(m, FF_STATUS_COMPLETED);
    ff_mutex_lock(&m->lock);
    m->keep_main = false;
    ff_mutex_unlock(&m->lock);
    ff_m_shutdown_channels(m);
}

void ff_dest_see_through(FfMigration *m)
{
    for (;;) {
        if (ff_m_wait(m, FF_EV_ALL | FF_EV_DEAD | FF_EV_QUIT) & FF_EV_ALL) {
            complete(m);
            return;
        }
        /* The fault thread goes on: who touches a missing page waits, and is never shown zeros. */
        if (ff_m_events(m) & FF_EV_QUIT || !ff_dest_reconnect(m)) {
            end_threads(m);
            return;
        }
    }
}

void ff_dest_end_loaded(FfMigration *m)
{
    g_autoptr(GError) error = NULL;

    if (!await_grant(m, &error)) {
        give_up(m, error);
        return;
    }
    take_over(m);
    ff_dest_see_through(m);
}

gpointer ff_dest_coordinator(gpointer p)
{
    FfMigration *m = p;
    g_autoptr(GError) error = NULL;

    if (!accept_peer(m, &error) || !agree(m, &error) || !load(m, &error)) {
        if (ff_m_hand_over(m, error)) {
            end_threads(m);
        } else {
            give_up(m, error);
        }
    } else {
        ff_dest_end_loaded(m);
    }
    return NULL;
}
