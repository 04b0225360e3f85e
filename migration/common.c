/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind migration.h: events, status, configuration, statistics; the functions that
 * the driver calls. See internal.h for threads and locks.
 */
#include "migration/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/states.h"
#include "net/tls.h"

/* The relay answers in microseconds; without one that answers a client may learn things late. */
#define SYNC_DEADLINE_MS 1000

/* ---- events ------------------------------------------------------------------------- */

void ff_m_event(FfMigration *m, unsigned events)
{
    ff_mutex_lock(&m->lock);
    m->events |= events;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

static void set_error_locked(FfMigration *m, const char *text)
{
    if (!m->error) {
        m->error = g_strdup(text);
    }
}

void ff_m_set_error(FfMigration *m, const char *text)
{
    ff_mutex_lock(&m->lock);
    set_error_locked(m, text);
    ff_mutex_unlock(&m->lock);
}

void ff_m_dead(FfMigration *m, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    ff_mutex_lock(&m->lock);
    /* What follows from an orderly end is no failure: channels close in any order. */
    bool over = m->events & (FF_EV_FINISHED | FF_EV_QUIT | FF_EV_DONE | FF_EV_WANT_CANCEL) ||
                (m->given && m->events & FF_EV_ALL);
    if (!over) {
        set_error_locked(m, text);
    }
    m->events |= FF_EV_DEAD;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

unsigned ff_m_wait(FfMigration *m, unsigned want)
{
    ff_mutex_lock(&m->lock);
    while (!(m->events & want)) {
        ff_cond_wait(&m->changed, &m->lock);
    }
    unsigned got = m->events & want;
    ff_mutex_unlock(&m->lock);
    return got;
}

unsigned ff_m_events(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    unsigned got = m->events;
    ff_mutex_unlock(&m->lock);
    return got;
}

bool ff_m_await(FfMigration *m, unsigned want, GError **error)
{
    unsigned got = ff_m_wait(m, want | FF_EV_DEAD | FF_EV_WANT_CANCEL | FF_EV_QUIT);

    if (got & (FF_EV_WANT_CANCEL | FF_EV_QUIT)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "migration was cancelled");
        return false;
    }
    if (got & want) {
        return true;
    }
    ff_mutex_lock(&m->lock);
    g_set_error_literal(error, FF_M_ERROR, 0, m->error ? m->error : "the connection was lost");
    ff_mutex_unlock(&m->lock);
    return false;
}

/* ---- status: callbacks on the driver's main loop, in order ---------------------------- */

typedef struct {
    FfMigration *m;
    FfStatus status;
    uint64_t pass;
    bool done, stock, parted, sync;
    char *kill; /* why the VMM must die; can be NULL */
} Told;

static void tell_driver(FfMigration *m, Told t);

static gboolean tell(gpointer p)
{
    Told *t = p;

    ff_tsan_receive(t);
    if (t->m->freed) {
        return G_SOURCE_REMOVE;
    }
    if (t->kill) {
        t->m->ops.kill_vmm(t->kill, t->m->ops.opaque);
    } else if (t->stock && ff_m_events(t->m) & FF_EV_WANT_CANCEL) {
        /* Asked for after the coordinator had come to its end. */
        ff_journal_idle(t->m->cfg.state);
        ff_m_set_status(t->m, FF_STATUS_CANCELLING);
        ff_m_set_status(t->m, FF_STATUS_CANCELLED);
        tell_driver(t->m, (Told){.done = true});
    } else if (t->stock) {
        ff_m_give_back(t->m);
    } else if (t->sync) {
        t->m->ops.sync(t->m->ops.opaque);
    } else if (t->parted) {
        t->m->ops.parted(t->m->ops.opaque);
    } else if (t->done) {
        t->m->ops.done(t->m->ops.opaque);
    } else if (t->pass) {
        t->m->ops.pass(t->pass, t->m->ops.opaque);
    } else {
        t->m->ops.status(t->status, t->m->ops.opaque);
    }
    return G_SOURCE_REMOVE;
}

static void free_told(gpointer p)
{
    Told *t = p;

    g_atomic_rc_box_release(t->m);
    g_free(t->kill);
    g_free(t);
}

static void tell_driver(FfMigration *m, Told t)
{
    g_autoptr(GSource) source = g_idle_source_new();

    /* A reference: what the coordinator says last may be heard after ff_migration_free(). */
    t.m = g_atomic_rc_box_acquire(m);
    Told *told = g_memdup2(&t, sizeof(t));
    ff_tsan_publish(told);
    /* One priority for all: sources of one priority run in the order of their attachment. */
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, tell, told, free_told);
    g_source_attach(source, m->driver_ctx);
}

FfStatus ff_m_enter_locked(FfMigration *m, FfStatus status)
{
    FfStatus old = m->status;

    if (old != status && !ff_state_may_follow(old, status)) {
        g_error("migration status %s cannot follow %s", ff_status_name(status),
                ff_status_name(old));
    }
    m->status = status;
    return old;
}

void ff_m_entered(FfMigration *m, FfStatus old, FfStatus status)
{
    if (old == status) {
        return;
    }
    FF_FAULT_STATE(ff_status_name(status));
    g_debug("status %s -> %s", ff_status_name(old), ff_status_name(status));
    ff_m_note_break(m, status);
    if (ff_state_is_final(status) && !ff_counted(m->end_us)) {
        ff_stamp(m->end_us);
    }
    tell_driver(m, (Told){.status = status});
}

void ff_m_set_status(FfMigration *m, FfStatus status)
{
    ff_mutex_lock(&m->lock);
    FfStatus old = ff_m_enter_locked(m, status);
    ff_mutex_unlock(&m->lock);
    ff_m_entered(m, old, status);
}

void ff_m_sync(FfMigration *m)
{
    if (!m->ops.sync) {
        return;
    }
    ff_mutex_lock(&m->lock);
    m->events &= ~(unsigned)FF_EV_SYNCED;
    ff_mutex_unlock(&m->lock);
    tell_driver(m, (Told){.sync = true});
    ff_m_wait_until(m, FF_EV_SYNCED | FF_EV_DEAD | FF_EV_QUIT,
                    g_get_monotonic_time() + SYNC_DEADLINE_MS * 1000);
}

void ff_migration_synced(FfMigration *m)
{
    ff_m_event(m, FF_EV_SYNCED);
}

void ff_m_new_pass(FfMigration *m)
{
    uint64_t pass = __atomic_add_fetch(&m->pass, 1, __ATOMIC_RELAXED);

    tell_driver(m, (Told){.pass = pass});
}

void ff_m_kill_vmm(FfMigration *m, const char *why)
{
    tell_driver(m, (Told){.kill = g_strdup(why)});
}

/* ---- blocks ---------------------------------------------------------------------------- */

bool ff_m_set_blocks(FfMigration *m, GPtrArray *blocks, GError **error)
{
    if (blocks->len == 0 || blocks->len > FF_MAX_BLOCKS) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the guest has %u blocks of RAM that farfault can move, expected 1 to %u",
                    blocks->len, FF_MAX_BLOCKS);
        return false;
    }
    g_autofree FfFrameBlock *fb = g_new0(FfFrameBlock, blocks->len);
    uint64_t pages = 0, bytes = 0;
    for (unsigned i = 0; i < blocks->len; i++) {
        const FfRamBlock *b = blocks->pdata[i];
        if (b->page_size > FF_FRAME_MAX_DATA || b->size % b->page_size) {
            g_set_error(error, FF_M_ERROR, 0,
                        "memory backend '%s' has pages of %" G_GUINT64_FORMAT
                        " bytes: farfault moves pages of up to 2 MiB, use smaller hugepages",
                        b->id, b->page_size);
            return false;
        }
        fb[i] = (FfFrameBlock){b->size, b->page_size};
        pages += b->size / b->page_size;
        bytes += b->size;
    }
    /* Published whole: the driver looks at the totals at any time. */
    ff_mutex_lock(&m->lock);
    m->n_blocks = blocks->len;
    m->blocks = g_new0(FfBlock, m->n_blocks);
    for (unsigned i = 0; i < m->n_blocks; i++) {
        m->blocks[i].info = *(FfRamBlock *)blocks->pdata[i];
        m->blocks[i].info.id = g_strdup(m->blocks[i].info.id);
        m->blocks[i].n_pages = fb[i].size / fb[i].page_size;
    }
    m->frame_blocks = g_steal_pointer(&fb);
    m->total_pages = pages;
    m->total_bytes = bytes;
    ff_mutex_unlock(&m->lock);
    return true;
}

void ff_m_shutdown_channels(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    FfChannel *all[] = {m->main,       m->urgent,         m->urgent_in, m->arrived,
                        m->connecting, m->arrived_urgent, m->accepting};
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i] && !(m->keep_main && all[i] == m->main)) {
            ff_channel_shutdown(all[i]);
        }
    }
    for (unsigned i = 0; i < m->n_extra; i++) {
        ff_channel_shutdown(m->extra[i].ch);
    }
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

void ff_m_join(GThread **thread)
{
    if (*thread) {
        g_thread_join(*thread);
        *thread = NULL;
    }
}

/* ---- the driver's side ------------------------------------------------------------------ */

static gpointer coordinate(gpointer p)
{
    FfMigration *m = p;

    /* The guest stands still while this thread and those of the device state work. */
    ff_priority_urgent();
    if (m->adopting) {
        ff_m_adopt(m);
    } else if (m->cfg.role == FF_ROLE_SOURCE) {
        ff_source_coordinator(m);
    } else {
        ff_dest_coordinator(m);
    }
    tell_driver(m, m->stock ? (Told){.stock = true} : (Told){.done = true});
    if (ff_migration_lives_on(m)) {
        ff_source_tell_roll_back(m);
        tell_driver(m, (Told){.parted = true});
    }
    return NULL;
}

bool ff_migration_lives_on(FfMigration *m)
{
    return m->in_doubt && m->ops.parted;
}

static FfMigration *migration_new(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                  GError **error)
{
    FfMigration *m = g_atomic_rc_box_new0(FfMigration);

    FF_FAULT_SIDE(config->role == FF_ROLE_SOURCE ? "source" : "destination");
    m->cfg = *config;
    m->cfg.listen_fd = m->device_copy = -1;
    m->began_paused = config->start_paused;
    m->cfg.uri = g_strdup(config->uri);
    m->cfg.tls = ff_tls_ref(config->tls);
    m->cfg.tls_hostname = g_strdup(config->tls_hostname);
    m->cfg.tls_refusal = g_strdup(config->tls_refusal);
    m->ops = *ops;
    m->driver_ctx = g_main_context_ref_thread_default();
    m->cancel = g_cancellable_new();
    ff_mutex_init(&m->lock);
    ff_cond_init(&m->changed);
    m->max_postcopy_bandwidth = config->max_postcopy_bandwidth;
    m->listen_fd = m->uffd = m->urgent_feed = m->new_fd = -1;
    m->urgent_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->fault_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->device_queue = g_async_queue_new_full((GDestroyNotify)g_bytes_unref);
    for (unsigned i = 0; i < G_N_ELEMENTS(m->sent); i++) {
        ff_mutex_init(&m->sent[i].lock);
        g_queue_init(&m->sent[i].runs);
    }
    m->epoch = 1;
    m->expected_ms = -1;
    ff_stamp(m->start_us);
    if (m->urgent_wake < 0 || m->fault_wake < 0) {
        g_set_error(error, FF_M_ERROR, 0, "eventfd: %s", g_strerror(errno));
        g_clear_pointer(&m, ff_migration_free);
    }
    return m;
}

static FfMigration *run(FfMigration *m, FfStatus first)
{
    ff_m_set_status(m, first);
    m->coordinator = g_thread_new("ff-coordinator", coordinate, m);
    return m;
}

FfMigration *ff_migration_start(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    FfMigration *m = migration_new(config, ops, error);

    if (m && config->role == FF_ROLE_DESTINATION) {
        ff_m_close_mem(m);
    }
    /* Here, before any thread of the migration: the driver reads it without a lock. */
    config->state->role = config->role;
    if (m && config->role == FF_ROLE_DESTINATION && ff_address_is_listening(config->fd)) {
        ff_dest_set_listener(m, config->fd);
        m->cfg.fd = -1;
    } else if (m && config->role == FF_ROLE_DESTINATION && config->fd < 0 &&
               !ff_dest_listen(m, error)) {
        g_clear_pointer(&m, ff_migration_free);
    }
    return m ? run(m, FF_STATUS_SETUP) : NULL;
}

FfMigration *ff_migration_adopt(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    FfMigration *m = migration_new(config, ops, error);

    if (!m) {
        return NULL;
    }
    ff_m_close_mem(m);
    m->device_copy = config->device_fd;
    m->cfg.listen_fd = config->role == FF_ROLE_DESTINATION ? config->listen_fd : -1;
    /* Clients that look in this moment must not see a migration begin. */
    return run(m, ff_m_begin_adoption(m));
}

static bool refuse(GError **error, const char *text)
{
    g_set_error_literal(error, FF_M_ERROR, 0, text);
    return false;
}

bool ff_migration_start_postcopy(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->lock);
    FfStatus s = m->status;
    ff_mutex_unlock(&m->lock);
    if (m->cfg.role != FF_ROLE_SOURCE || s == FF_STATUS_NONE || ff_state_is_final(s)) {
        return refuse(error, "Must be started before start-postcopy");
    }
    ff_m_event(m, FF_EV_WANT_POSTCOPY);
    return true;
}

bool ff_migration_continue(FfMigration *m, FfStatus from, GError **error)
{
    ff_mutex_lock(&m->lock);
    FfStatus s = m->status;
    ff_mutex_unlock(&m->lock);
    if (s != from) {
        g_set_error(error, FF_M_ERROR, 0, "Migration not in expected state: %s", ff_status_name(s));
        return false;
    }
    ff_m_event(m, FF_EV_WANT_CONTINUE);
    return true;
}

bool ff_migration_cancel(FfMigration *m, GError **error)
{
    ff_mutex_lock(&m->lock);
    if (m->given) {
        ff_mutex_unlock(&m->lock);
        return refuse(error, "Postcopy migration in progress, cannot cancel.");
    }
    m->events |= FF_EV_WANT_CANCEL;
    /* With device state on its way the coordinator waits for events alone, and must still tell the
     * destination: one that has loaded it cannot know otherwise that the guest stays here. */
    bool tell = m->status == FF_STATUS_DEVICE;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
    g_cancellable_cancel(m->cancel);
    if (!tell) {
        ff_m_shutdown_channels(m);
    }
    return true;
}

bool ff_migration_client_cont(FfMigration *m, bool *now, GError **error)
{
    ff_mutex_lock(&m->lock);
    bool source = m->cfg.role == FF_ROLE_SOURCE;
    *now = source ? !m->stopped : m->given;
    if (!source && !m->given) {
        m->client_cont = true;
    }
    ff_mutex_unlock(&m->lock);
    if (source && !*now) {
        return refuse(error, "Migration is not finalized yet");
    }
    return true;
}

static bool holds_guest_locked(const FfMigration *m)
{
    return m->cfg.role == FF_ROLE_SOURCE ? m->stopped : !m->given;
}

bool ff_migration_client_stop(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    bool holds = holds_guest_locked(m);
    if (holds) {
        m->client_cont = false;
        m->cfg.start_paused = true;
    }
    ff_mutex_unlock(&m->lock);
    return holds;
}

bool ff_m_client_stopped(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    bool stopped = m->cfg.start_paused;
    ff_mutex_unlock(&m->lock);
    return stopped;
}

bool ff_migration_resumed(FfMigration *m)
{
    static const char why[] = "the guest was resumed by another monitor during the switchover: "
                              "repeat the migration";

    ff_mutex_lock(&m->lock);
    bool source = m->cfg.role == FF_ROLE_SOURCE;
    bool back = source && m->standing && !m->given;
    bool rogue = source ? m->given : !m->given;
    if (back) {
        /* Looked at under the same lock before the guest is given away. */
        m->resumed = true;
        set_error_locked(m, why);
        m->events |= FF_EV_DEAD;
        ff_cond_broadcast(&m->changed);
    }
    ff_mutex_unlock(&m->lock);
    return rogue;
}

void ff_migration_vmm_failed(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    bool source = m->cfg.role == FF_ROLE_SOURCE && m->standing && !m->given;
    ff_mutex_unlock(&m->lock);
    /* Given between the two, which takes a destination that has loaded the state of a QEMU that
     * failed to write it, or an end of ours: then it is a lost connection, and is recovered. */
    if (source) {
        ff_m_dead(m, "the source QEMU could not write its device state: see its log");
    }
}

bool ff_migration_holds_guest(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    bool holds = holds_guest_locked(m);
    ff_mutex_unlock(&m->lock);
    return holds;
}

void ff_migration_set_bandwidth(FfMigration *m, uint64_t max_bandwidth,
                                uint64_t max_postcopy_bandwidth)
{
    ff_mutex_lock(&m->lock);
    m->cfg.max_bandwidth = max_bandwidth;
    m->max_postcopy_bandwidth = max_postcopy_bandwidth;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

void ff_migration_set_switchover(FfMigration *m, uint64_t downtime_limit,
                                 uint64_t switchover_bandwidth, bool auto_postcopy)
{
    ff_mutex_lock(&m->lock);
    m->cfg.downtime_limit = downtime_limit;
    m->cfg.switchover_bandwidth = switchover_bandwidth;
    m->cfg.auto_postcopy = auto_postcopy;
    ff_cond_broadcast(&m->changed);
    ff_mutex_unlock(&m->lock);
}

/* ---- looking at it ------------------------------------------------------------------------ */

/* Megabits per second since the last look that is at least 100 ms back. */
static double recent_mbps(FfMigration *m, uint64_t bytes, int64_t now)
{
    if (!m->rate_us) {
        m->rate_us = m->start_us;
    }
    int64_t dt = now - m->rate_us;
    if (dt >= 100000) {
        m->rate_x100 = (bytes - m->rate_bytes) * 800 / dt;
        m->rate_bytes = bytes;
        m->rate_us = now;
    }
    return m->rate_x100 / 100.0;
}

static int64_t span_ms(int64_t from, int64_t to)
{
    return from && to > from ? (to - from + 500) / 1000 : 0;
}

FfMigrationInfo *ff_migration_info(FfMigration *m)
{
    FfMigrationInfo *info = g_new0(FfMigrationInfo, 1);
    int64_t now = g_get_monotonic_time();

    ff_stats_fill(&m->stats, info);
    ff_mutex_lock(&m->lock);
    info->role = m->cfg.role;
    info->status = m->status;
    info->all_here = m->events & FF_EV_ALL;
    info->error_desc = g_strdup(m->error);
    info->socket_address = g_strdup(m->socket_address);
    info->bytes_wire = m->past_bytes + (m->main ? ff_channel_bytes(m->main) : 0) +
                       (m->urgent ? ff_channel_bytes(m->urgent) : 0);
    for (unsigned i = 0; i < m->n_extra; i++) {
        info->bytes_wire += ff_channel_bytes(m->extra[i].ch);
    }
    info->urgent_shared = m->channel_shared;
    info->untracked = g_strdup(m->untracked);
    info->ram_total = m->total_bytes;
    info->page_size = m->n_blocks ? m->frame_blocks[0].page_size : 4096;
    ff_mutex_unlock(&m->lock);

    info->half = ff_m_half(m);
    int64_t end = ff_counted(m->end_us), stop = ff_counted(m->stop_us);
    int64_t running = ff_counted(m->running_us);
    info->total_time = span_ms(m->start_us, end ? end : now);
    info->setup_time = span_ms(m->start_us, ff_counted(m->setup_us));
    info->downtime = running && stop ? span_ms(stop, running) : -1;
    info->ram_remaining = info->ram_total - MIN(info->ram_total, ff_counted(m->done_bytes));
    info->ram_transferred = info->bytes_wire;
    info->dirty_sync_count = ff_counted(m->pass);
    info->postcopy_bytes = stop && !m->whole ? info->bytes_wire - ff_counted(m->precopy_bytes) : 0;
    info->dirty_pages_rate = ff_counted(m->dirty_rate);
    info->expected_downtime = ff_counted(m->expected_ms);
    info->mbps = end ? info->bytes_wire * 8.0 / MAX(1, end - m->start_us)
                     : recent_mbps(m, info->bytes_wire, now);
    return info;
}

void ff_migration_info_free(FfMigrationInfo *info)
{
    if (info) {
        g_free(info->error_desc);
        g_free(info->untracked);
        g_free(info->socket_address);
        g_free(info->vcpu_blocktime_ms);
        ff_half_free(info->half);
        g_free(info);
    }
}

/* ---- the end -------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void ff_m_close_mem(FfMigration *m)
{
    close_fd(&m->cfg.mem_fd);
}

static void free_blocks(FfMigration *m)
{
    for (unsigned i = 0; i < m->n_blocks && m->blocks; i++) {
        FfBlock *b = &m->blocks[i];
        if (b->map) {
            munmap(b->map, b->info.size);
        }
        ff_bitmap_clear(&b->bitmap);
        ff_bitmap_clear(&b->requested);
        g_free(b->fingerprint);
        g_free(b->info.id);
    }
    g_free(m->blocks);
    g_free(m->frame_blocks);
}

void ff_migration_free(FfMigration *m)
{
    if (!m) {
        return;
    }
    ff_m_event(m, FF_EV_QUIT);
    g_cancellable_cancel(m->cancel);
    ff_m_shutdown_channels(m);
    ff_m_join(&m->coordinator);
    ff_source_forget_sent(m);
    ff_precopy_free(m);
    ff_extra_end(m);
    ff_channel_free(m->urgent_in != m->urgent ? m->urgent_in : NULL);
    ff_channel_free(m->urgent);
    ff_channel_free(m->main);
    ff_channel_free(m->inner);
    ff_channel_free(m->arrived);
    ff_channel_free(m->arrived_urgent);
    ff_channel_free(m->revoker);
    g_free(m->refusal);
    close_fd(&m->urgent_feed);
    close_fd(&m->urgent_wake);
    close_fd(&m->fault_wake);
    close_fd(&m->listen_fd);
    close_fd(&m->new_fd);
    close_fd(&m->cfg.listen_fd);
    close_fd(&m->device_copy);
    ff_m_close_mem(m);
    ff_m_stock_free(m);
    free_blocks(m);
    ff_regions_free(m->regions);
    ff_address_free(m->listen_address);
    g_async_queue_unref(m->device_queue);
    if (m->bitmaps_map) {
        munmap(m->bitmaps_map, m->bitmaps_len);
    }
    if (m->zero_page) {
        munmap(m->zero_page, FF_FRAME_MAX_DATA);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(m->sent); i++) {
        ff_mutex_clear(&m->sent[i].lock);
    }
    g_object_unref(m->cancel);
    g_main_context_unref(m->driver_ctx);
    ff_mutex_clear(&m->lock);
    ff_cond_clear(&m->changed);
    g_free(m->cfg.uri);
    g_free(m->new_uri);
    g_free(m->listen_path);
    g_free(m->peer_uri);
    g_free(m->cfg.tls_hostname);
    g_free(m->cfg.tls_refusal);
    ff_tls_unref(m->cfg.tls);
    g_free(m->error);
    g_free(m->socket_address);
    g_free(m->run_state);
    g_free(m->untracked);
    g_clear_pointer(&m->hot, g_array_unref);
    g_clear_pointer(&m->feed_late, g_array_unref);
    g_free(m->granted_state);
    ff_delta_free(m->device_base);
    m->freed = true;
    g_atomic_rc_box_release(m);
}
