/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes the totals of contract/totals.h, which `farfault metrics` reads: what was there before the
 * use under way, and what that has counted so far. An engine that adopts a migration adds to what
 * the one before it has written last, so nothing is lost but what that one did since then.
 *
 * Threads: main loop's. The threads of a migration have no part in it: their counters are read as
 * query-migrate reads them.
 */
#include <string.h>

#include "qapi/driver-private.h"

G_STATIC_ASSERT(FF_TOTALS_BUCKETS == FF_LATENCY_BUCKETS);

static const FfStatus end_status[FF_ENDS] = {FF_STATUS_COMPLETED, FF_STATUS_FAILED,
                                             FF_STATUS_CANCELLED};

static const FfTotals *stored_totals(const FfDriver *d)
{
    const FfStateTotals *t = &d->config.state->totals;

    return &t->copy[t->turns & 1];
}

static void store_totals(FfDriver *d, const FfTotals *totals)
{
    FfStateTotals *t = &d->config.state->totals;
    uint32_t next = t->turns + 1;

    t->copy[next & 1] = *totals;
    /* A thread that sees this sees the whole copy: a reader, or the next engine. SEQ_CST, with the
     * next turn's stores after it: a reader of the copy that they replace sees this one. */
    __atomic_exchange_n(&t->turns, next, __ATOMIC_SEQ_CST);
}

static void add_use(FfUseTotals *use, const FfMigrationInfo *info)
{
    uint64_t count = 0;

    use->bytes += info->bytes_wire;
    use->pages_bulk += info->pages_bulk;
    use->pages_urgent += info->pages_urgent;
    use->pages_zero += info->pages_zero;
    for (unsigned i = 0; i < FF_LATENCY_BUCKETS; i++) {
        use->latency[i] += info->latency[i];
        count += info->latency[i];
    }
    use->latency_sum_us += (uint64_t)(info->latency_mean_us * (double)count + 0.5);
}

static void set_status(FfTotals *t, FfStatus status)
{
    g_strlcpy(t->status, ff_status_name(status), sizeof(t->status));
}

/* What is under way, of T; FF_USES: nothing. */
static FfUse use_of(const FfTotals *t)
{
    return t->running && t->running <= FF_USES ? t->running - 1 : FF_USES;
}

static FfTotals with_info(const FfDriver *d, const FfMigrationInfo *info)
{
    FfTotals t = d->totals;

    set_status(&t, info->status);
    t.ram_total = info->ram_total;
    t.ram_remaining = info->ram_remaining;
    add_use(&t.use[use_of(&t)], info);
    return t;
}

void ff_totals_begin(FfDriver *d, FfUse use)
{
    d->totals = *stored_totals(d);
    d->totals.running = use + 1;
    d->totals.ram_total = d->totals.ram_remaining = 0;
    set_status(&d->totals, FF_STATUS_SETUP);
    d->counting = true;
    store_totals(d, &d->totals);
    ff_carried_set(&d->config.state->totals, FF_CARRIED_NONE); /* it is the engine's */
}

void ff_totals_adopt(FfDriver *d)
{
    const FfStateHeader *state = d->config.state;
    FfUse use = use_of(stored_totals(d));

    if (use == FF_USES) {
        /* By a farfault that wrote none. */
        use = ff_state_is_marked(state, FF_MARK_FILE) ? FF_USE_RESTORE
              : state->role == FF_ROLE_DESTINATION    ? FF_USE_INCOMING
                                                      : FF_USE_OUTGOING;
    }
    d->totals = *stored_totals(d);
    d->totals.running = use + 1;
    d->counting = true;
}

void ff_totals_status(FfDriver *d, FfStatus status)
{
    FfTotals now = *stored_totals(d);
    FfUse use = use_of(&now);

    if (!d->counting || use == FF_USES) {
        return;
    }
    if (status == FF_STATUS_POSTCOPY_PAUSED && strcmp(now.status, ff_status_name(status)) != 0) {
        d->totals.use[use].pauses++;
        now.use[use].pauses++;
    }
    set_status(&now, status);
    store_totals(d, &now);
}

void ff_totals_look(FfDriver *d)
{
    if (!d->counting || !d->migration) {
        return;
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->migration);
    FfTotals now = with_info(d, info);

    store_totals(d, &now);
}

static void end_operation(FfDriver *d, FfTotals *t)
{
    t->running = 0;
    t->status[0] = 0;
    t->ram_total = t->ram_remaining = 0;
    d->counting = false;
    store_totals(d, t);
}

void ff_totals_end(FfDriver *d, const FfMigrationInfo *info)
{
    FfTotals now;
    FfUse use = use_of(&d->totals);

    if (!d->counting) {
        return;
    }
    now = with_info(d, info);
    now.use[use].stopped_ms += MAX(info->downtime, 0);
    now.use[use].ended[info->status == FF_STATUS_COMPLETED   ? FF_END_COMPLETED
                       : info->status == FF_STATUS_CANCELLED ? FF_END_CANCELLED
                                                             : FF_END_FAILED]++;
    end_operation(d, &now);
}

/* What it has counted stays: a counter that falls is taken for one that has begun again from 0. */
void ff_totals_drop(FfDriver *d)
{
    FfTotals now = *stored_totals(d);

    if (d->counting) {
        end_operation(d, &now);
    }
}

void ff_totals_settle(FfDriver *d)
{
    FfTotals now = *stored_totals(d);
    FfUse use = use_of(&now);

    if (!now.running) {
        return;
    }
    g_autofree char *status = ff_driver_stored_status(d);
    for (unsigned e = 0; use != FF_USES && e < FF_ENDS; e++) {
        now.use[use].ended[e] += !strcmp(status, ff_status_name(end_status[e]));
    }
    end_operation(d, &now);
}
