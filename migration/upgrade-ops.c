/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two sides of an upgrade as a migration (FfSideOps): what migration/upgrade/old-side.c and
 * migration/upgrade/new-side.c are asked by the driver. For the threads see internal.h.
 */
#include "migration/internal.h"

#include "migration/common/ownership.h"

static bool note_upgrade(FfMigration *m, GError **error)
{
    /* Before the coordinator, and before the client that asks for it is told that it has begun: an
     * engine that comes after a crash says that it came to nothing. */
    ff_state_mark(m->cfg.state, FF_MARK_UPGRADE);
    ff_ownership_setup(m->cfg.state);
    return true;
}

static bool lives_on(const FfMigration *m)
{
    return false;
}

static bool speaks_stream(FfMigration *m)
{
    return false;
}

/* ---- the old QEMU ---------------------------------------------------------------------------- */

static bool handover_init(FfMigration *m, GError **error)
{
    m->handover =
        (FfOldSide){.cfg = &m->cfg, .control = m->control, .ram = &m->ram, .stats = &m->stats};
    ff_close_fd(&m->cfg.mem_fd);
    if (m->cfg.upgrade.adopts) {
        m->handover.link = m->handover.heir = m->handover.uffd = -1;
        m->handover.maps = m->handover.inner = -1;
    } else {
        ff_old_side_init(&m->handover);
    }
    return true;
}

/* What the client says is answered from here on. */
static FfStatus handover_begin_adoption(FfMigration *m)
{
    ff_old_side_adopt_begin(&m->handover);
    return FF_STATUS_SETUP;
}

static void handover_coordinate(FfMigration *m)
{
    ff_old_side_coordinate(&m->handover);
}

static void handover_adopt(FfMigration *m)
{
    ff_old_side_adopt(&m->handover);
}

static bool handover_holds_guest_locked(const FfMigration *m)
{
    return m->handover.stopped;
}

static bool handover_cont_locked(FfMigration *m, bool *now)
{
    *now = !m->handover.stopped;
    return *now;
}

/* From GIVEN on the other engine must see to it. */
static bool handover_stop_locked(FfMigration *m)
{
    return !m->control->granted ||
           (m->handover.pact && ff_upgrade_commit_say_stop(m->handover.pact));
}

static bool handover_may_roll_back_locked(const FfMigration *m)
{
    return m->handover.stopped_by_us && !m->control->granted;
}

static bool handover_resumed_locked(FfMigration *m)
{
    static const char why[] = "the guest was resumed by another monitor during the switchover: "
                              "repeat the upgrade";

    if (handover_may_roll_back_locked(m)) {
        m->handover.resumed = true;
        ff_control_set_error_locked(m->control, why);
        m->control->events |= FF_EV_DEAD;
        ff_old_side_wake_locked(&m->handover);
        ff_cond_broadcast(&m->control->changed);
    }
    return m->control->granted;
}

static void handover_cancel_locked(FfMigration *m)
{
    if (!m->control->granted) {
        ff_old_side_wake_locked(&m->handover);
    }
}

static void describe_locked(const FfMigration *m, FfMigrationInfo *info)
{
    info->upgrade = true;
    info->ram_remaining = 0;
}

static void handover_clear(FfMigration *m)
{
    ff_old_side_clear(&m->handover);
}

const FfSideOps ff_old_side_ops = {
    .name = "handover",
    .init = handover_init,
    .listen = note_upgrade,
    .begin_adoption = handover_begin_adoption,
    .coordinate = handover_coordinate,
    .adopt = handover_adopt,
    .holds_guest_locked = handover_holds_guest_locked,
    .cont_locked = handover_cont_locked,
    .stop_locked = handover_stop_locked,
    .resumed_locked = handover_resumed_locked,
    .may_roll_back_locked = handover_may_roll_back_locked,
    .cancel_locked = handover_cancel_locked,
    .lives_on = lives_on,
    .speaks = speaks_stream,
    .describe_locked = describe_locked,
    .clear = handover_clear,
};

/* ---- the new QEMU ---------------------------------------------------------------------------- */

static bool takeover_init(FfMigration *m, GError **error)
{
    m->takeover =
        (FfNewSide){.cfg = &m->cfg, .control = m->control, .ram = &m->ram, .stats = &m->stats};
    ff_close_fd(&m->cfg.mem_fd);
    ff_new_side_init(&m->takeover);
    return true;
}

/* A guest that may run here is QEMU's to stop and to start. */
static FfStatus takeover_begin_adoption(FfMigration *m)
{
    FfPhase phase = ff_ownership_phase(m->cfg.state);

    m->control->granted = phase == FF_PHASE_GRANTED || phase == FF_PHASE_DONE;
    m->control->moves = phase == FF_PHASE_GRANTED; /* that it is here may not have been said */
    return FF_STATUS_SETUP;
}

static void takeover_coordinate(FfMigration *m)
{
    ff_new_side_coordinate(&m->takeover);
}

static void takeover_adopt(FfMigration *m)
{
    ff_new_side_adopt(&m->takeover);
}

static bool takeover_holds_guest_locked(const FfMigration *m)
{
    return !m->control->granted;
}

static bool takeover_cont_locked(FfMigration *m, bool *now)
{
    *now = m->control->granted;
    m->control->client_cont |= !*now;
    return true;
}

static bool takeover_resumed_locked(FfMigration *m)
{
    return !m->control->granted;
}

static bool takeover_may_roll_back_locked(const FfMigration *m)
{
    return false;
}

static void takeover_cancel_locked(FfMigration *m)
{
    ff_new_side_wake_locked(&m->takeover);
}

static void takeover_describe_locked(const FfMigration *m, FfMigrationInfo *info)
{
    describe_locked(m, info);
    info->not_started = g_strdup(m->takeover.not_started);
}

static void takeover_clear(FfMigration *m)
{
    ff_new_side_clear(&m->takeover);
}

const FfSideOps ff_new_side_ops = {
    .name = "takeover",
    .init = takeover_init,
    .listen = note_upgrade,
    .begin_adoption = takeover_begin_adoption,
    .coordinate = takeover_coordinate,
    .adopt = takeover_adopt,
    .holds_guest_locked = takeover_holds_guest_locked,
    .cont_locked = takeover_cont_locked,
    .resumed_locked = takeover_resumed_locked,
    .may_roll_back_locked = takeover_may_roll_back_locked,
    .cancel_locked = takeover_cancel_locked,
    .lives_on = lives_on,
    .speaks = speaks_stream,
    .describe_locked = takeover_describe_locked,
    .clear = takeover_clear,
};
