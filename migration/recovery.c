/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's commands on a migration whose connection is lost, or is to be: pause, resume,
 * recover, take back. What they ask for is noted for the coordinator, which does it:
 * migration/source/recover.c, migration/destination/recover.c; docs/design/recovery.md has the
 * protocol.
 *
 * Thread: the driver.
 */
#include "migration/internal.h"
#include "migration/migration.h"

#include <unistd.h>

#include "migration/common/ownership.h"
#include "migration/destination/dump.h"
#include "migration/source/connect.h"

static bool refuse_recovery(GError **error, const char *text)
{
    g_set_error_literal(error, FF_M_ERROR, 0, text);
    return false;
}

static FfStatus status_of(FfMigration *m)
{
    ff_mutex_lock(&m->control->lock);
    FfStatus s = m->control->status;
    ff_mutex_unlock(&m->control->lock);
    return s;
}

bool ff_migration_pause(FfMigration *m, GError **error)
{
    FfStatus s = status_of(m);

    if (s != FF_STATUS_POSTCOPY_ACTIVE && s != FF_STATUS_POSTCOPY_RECOVER &&
        s != FF_STATUS_POSTCOPY_RECOVER_SETUP) {
        return refuse_recovery(
            error, "migrate-pause is currently only supported during postcopy-active or "
                   "postcopy-recover state");
    }
    ff_control_event(m->control, FF_EV_PAUSE);
    ff_control_dead(m->control, "Postcopy migration is paused by the user");
    if (!m->side->receives) {
        g_cancellable_cancel(m->control->cancel); /* a connect() that hangs */
    }
    if (s != FF_STATUS_POSTCOPY_ACTIVE) {
        ff_conn_shutdown(&m->conn); /* else it is the coordinator's, after a last word */
    }
    return true;
}

/* The coordinator takes them when it comes to it; what nobody took is replaced. */
static void set_target_locked(FfMigration *m, const char *uri, int fd, bool recover_setup)
{
    FfControl *c = m->control;

    if (c->new_fd >= 0) {
        close(c->new_fd);
    }
    g_free(c->new_uri);
    c->new_uri = g_strdup(uri);
    c->new_fd = fd;
    c->recover_setup = recover_setup;
    c->events |= FF_EV_RECOVER;
    c->events &= ~FF_EV_PAUSE;
    if (m->conn.connecting) {
        /* D: an fd on which nobody has spoken yet. */
        ff_channel_shutdown(m->conn.connecting);
    }
    ff_cond_broadcast(&c->changed);
}

/* S: an order is stored only as long as it is certain to be taken in this pause. One that stayed
 * behind would be carried out at the next break, when the guest may run at the destination: the
 * coordinator takes it and leaves postcopy-paused in one step. */
static bool take_order(FfMigration *m, FfOrder order, const char *uri, int fd, bool recover_setup,
                       bool force)
{
    ff_mutex_lock(&m->control->lock);
    bool paused = m->side->obeys & order && m->control->status == FF_STATUS_POSTCOPY_PAUSED;
    if (paused) {
        m->control->want_revoke = order == FF_ORDER_REVOKE;
        m->control->force_revoke = force;
        set_target_locked(m, uri, fd, recover_setup);
    }
    ff_mutex_unlock(&m->control->lock);
    if (!paused && fd >= 0) {
        close(fd);
    }
    return paused;
}

bool ff_migration_resume(FfMigration *m, const char *uri, int fd, bool recover_setup,
                         GError **error)
{
    return take_order(m, FF_ORDER_RESUME, uri, fd, recover_setup, false) ||
           refuse_recovery(error, "Cannot resume if there is no paused migration");
}

bool ff_migration_revoke(FfMigration *m, const char *uri, int fd, bool force, GError **error)
{
    static const char not_paused[] =
        "There is no paused migration from which the guest could be taken back";
    bool obeys = m->side->obeys & FF_ORDER_REVOKE;
    g_autofree char *same =
        obeys && !uri && fd < 0 && !force ? ff_source_peer_uri(&m->source) : NULL;
    const char *why = NULL;

    if (!obeys || status_of(m) != FF_STATUS_POSTCOPY_PAUSED) {
        why = not_paused;
    } else if (g_atomic_int_get(&m->ram.released)) {
        why = "This side has given up memory that the destination has (release-ram): resume the "
              "migration";
    } else if (!uri && fd < 0 && !same && !force) {
        why = "It is not known where the destination listens: name its URI";
    }
    if (why) {
        if (fd >= 0) {
            close(fd);
        }
        return refuse_recovery(error, why);
    }
    return take_order(m, FF_ORDER_REVOKE, uri ? uri : same, fd, false, force) ||
           refuse_recovery(error, not_paused);
}

bool ff_migration_reclaim(FfStateHeader *state, bool force, GError **error)
{
    if (state->role != FF_ROLE_SOURCE || ff_ownership_phase(state) != FF_PHASE_IDLE ||
        ff_ownership_right(state) != FF_RUN_GIVEN) {
        return refuse_recovery(
            error, "There is no paused migration from which the guest could be taken back");
    }
    if (!force) {
        return refuse_recovery(error,
                               "The migration is completed, and the guest is the destination's, "
                               "which is not asked any more: if it has ended there, say \"force\": "
                               "true, and then cont");
    }
    if (!ff_state_is_marked(state, FF_MARK_WHOLE)) {
        return refuse_recovery(error,
                               "The guest's memory is not all here any more (release-ram), or was "
                               "moved by an older farfault: start the guest from its disks");
    }
    ff_ownership_reclaim(state);
    return true;
}

bool ff_migration_recover(FfMigration *m, const char *uri, int fd, GError **error)
{
    FfStatus s = status_of(m);

    if (ff_migration_has_dump(m)) {
        if (fd >= 0) {
            close(fd);
        }
        return refuse_recovery(error,
                               "This guest is recovered from a dump of its source: name it, or "
                               "another one of that source (file:DIRECTORY)");
    }
    if (!(m->side->obeys & FF_ORDER_RECOVER) ||
        (s != FF_STATUS_POSTCOPY_PAUSED && s != FF_STATUS_COMPLETED)) {
        if (fd >= 0) {
            close(fd);
        }
        return refuse_recovery(error, "Migrate recover can only be run when postcopy is paused.");
    }
    if (uri && fd < 0) {
        g_autoptr(FfAddress) address = ff_address_parse(uri, error);
        fd = address ? ff_address_listen(address, error) : -1;
        if (fd < 0) {
            return false;
        }
    }
    if (uri) {
        ff_mutex_lock(&m->control->lock);
        g_free(m->dest.socket_address);
        m->dest.socket_address = ff_address_of_listener(fd);
        ff_mutex_unlock(&m->control->lock);
    }
    ff_mutex_lock(&m->control->lock);
    set_target_locked(m, uri, fd, false);
    ff_mutex_unlock(&m->control->lock);
    return true;
}

bool ff_migration_is_restore(FfMigration *m)
{
    return m->side->receives && m->dest.origin;
}

void ff_migration_hurry(FfMigration *m)
{
    ff_control_event(m->control, FF_EV_HURRY);
}

bool ff_migration_recover_file(FfMigration *m, const char *path, GError **error)
{
    ff_mutex_lock(&m->control->lock);
    bool paused = ff_migration_is_restore(m) && m->control->status == FF_STATUS_POSTCOPY_PAUSED;
    if (paused) {
        set_target_locked(m, path, -1, false);
    }
    ff_mutex_unlock(&m->control->lock);
    return paused ||
           refuse_recovery(error, "Migrate recover can only be run when postcopy is paused.");
}

bool ff_migration_has_dump(FfMigration *m)
{
    return m->side->receives && ff_state_is_marked(m->cfg.state, FF_MARK_DUMP);
}

bool ff_migration_recover_dump(FfMigration *m, const char *path, GError **error)
{
    static const char not_granted[] =
        "This guest has never run here, and its source may have taken it back since its dump was "
        "made: only the source itself can continue it here (migrate with resume)";
    g_autofree char *uri = g_strconcat(FF_DUMP_SCHEME, path, NULL);

    if (!g_path_is_absolute(path)) {
        g_set_error(error, FF_M_ERROR, 0, "'%s' is no absolute path", path);
        return false;
    }
    ff_mutex_lock(&m->control->lock);
    bool paused =
        m->side->receives && !m->dest.origin && m->control->status == FF_STATUS_POSTCOPY_PAUSED;
    /* Never given back, so it does not change any more once it is true. */
    bool granted = m->control->granted;
    if (paused && granted) {
        /* The next one is that of this attempt. */
        g_clear_pointer(&m->control->error, g_free);
        set_target_locked(m, uri, -1, false);
    }
    ff_mutex_unlock(&m->control->lock);
    if (!paused) {
        return refuse_recovery(error, "Migrate recover can only be run when postcopy is paused.");
    }
    return granted || refuse_recovery(error, not_granted);
}

void ff_migration_stop_waiting(FfMigration *m)
{
    ff_control_event(m->control, FF_EV_FINISHED);
    ff_conn_shutdown(&m->conn);
}

void ff_migration_set_auto_recover(FfMigration *m, unsigned seconds)
{
    ff_mutex_lock(&m->control->lock);
    m->control->auto_recover_s = seconds;
    ff_mutex_unlock(&m->control->lock);
}
