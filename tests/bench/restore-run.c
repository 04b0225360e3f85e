/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See restore-run.h. */
#include "restore-run.h"

#include <math.h>
#include <string.h>

#include "monitor.h"
#include "qmp/json.h"
#include "restore-cache.h"
#include "sample.h"

#define RESTORE_MS 900000
#define WAIT_S 600 /* for the guest's lines: it may have to read its memory from a slow disk */
#define STEADY 10  /* reports from which its speed is taken */

typedef struct {
    const BenchRestoreRun *run;
    BenchGuest *guest;
    BenchMonitor monitor;
    int64_t start_us;         /* of the command, monotonic */
    double start_real;        /* the same, as events have it */
    double resume_us, all_us; /* of the events; NaN: not yet */
    int64_t until_us;         /* monotonic: what is looked at ends with the first report after it */
} Run;

static void run_clear(Run *r)
{
    bench_monitor_clear(&r->monitor);
    g_clear_pointer(&r->guest, bench_guest_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

void bench_restore_series_clear(BenchRestoreSeries *series)
{
    g_clear_pointer(&series->track, g_array_unref);
    g_clear_pointer(&series->info, json_node_unref);
}

const char *bench_restore_file(const BenchRestoreEngine *engine, const BenchSaved *saved)
{
    return engine->stream ? saved->stream : saved->mapped;
}

static bool uses_set(const BenchRestoreEngine *engine)
{
    return !g_strcmp0(engine->set, "use");
}

/* ---- its start ------------------------------------------------------------------------------- */

static bool set_direct(Run *r, GError **error)
{
    JsonObject *args = json_object_new();

    json_object_set_boolean_member(args, "direct-io", TRUE);
    return bench_monitor_command(&r->monitor, "migrate-set-parameters", args, -1, error);
}

static bool prepare(Run *r, GError **error)
{
    const BenchRestoreEngine *e = r->run->engine;
    BenchMonitor *m = &r->monitor;

    return bench_monitor_open(m, r->run->qmp, error) &&
           bench_monitor_set_capability(m, "events", error) &&
           (e->farfault || e->stream || bench_monitor_set_capability(m, "mapped-ram", error)) &&
           (!e->multifd || bench_monitor_set_capability(m, "multifd", error)) &&
           (!e->direct || set_direct(r, error));
}

static bool settle_cache(const BenchRestoreRun *run, GError **error)
{
    const char *file[] = {bench_restore_file(run->engine, run->saved),
                          uses_set(run->engine) ? run->saved->set : NULL};
    bool ok = true;

    for (unsigned i = 0; ok && i < G_N_ELEMENTS(file) && file[i]; i++) {
        ok = run->cache == BENCH_CACHE_COLD   ? bench_cache_drop(file[i], error)
             : run->cache == BENCH_CACHE_WARM ? bench_cache_fill(file[i], error)
                                              : true;
    }
    return ok;
}

static JsonObject *arguments(const BenchRestoreRun *run)
{
    const char *file = bench_restore_file(run->engine, run->saved);
    JsonObject *args = json_object_new();

    if (run->engine->farfault) {
        json_object_set_string_member(args, "file", file);
        json_object_set_string_member(args, "working-set", run->engine->set);
    } else {
        g_autofree char *quoted = g_shell_quote(file);
        g_autofree char *uri = run->engine->stream ? g_strdup_printf("exec:cat %s", quoted)
                                                   : g_strdup_printf("file:%s", file);
        json_object_set_string_member(args, "uri", uri);
    }
    return args;
}

static bool begin(Run *r, GError **error)
{
    JsonObject *args = arguments(r->run);

    r->start_real = (double)g_get_real_time();
    r->start_us = g_get_monotonic_time();
    return bench_monitor_command(
        &r->monitor, r->run->engine->farfault ? "x-farfault-restore" : "migrate-incoming", args, -1,
        error);
}

/* ---- until all is in ------------------------------------------------------------------------- */

static bool note_event(Run *r, JsonObject *event, GError **error)
{
    const char *status = bench_event_status(event);

    if (!g_strcmp0(status, "completed")) {
        r->all_us = bench_event_us(event);
    } else if (!g_strcmp0(status, "failed") || !g_strcmp0(status, "postcopy-paused")) {
        bench_monitor_set_failure(&r->monitor, "the restore", status, error);
        return false;
    }
    if (strcmp(ff_json_string_or(event, "event", ""), "RESUME") == 0 && isnan(r->resume_us)) {
        r->resume_us = bench_event_us(event);
        return bench_guest_key(r->guest, r->run->key, error);
    }
    return true;
}

static bool wait_all(Run *r, BenchRestoreSample *s, GError **error)
{
    while (isnan(r->resume_us) || isnan(r->all_us)) {
        g_autoptr(JsonNode) event = ff_qmp_watch_next(r->monitor.events, RESTORE_MS, NULL, error);

        if (!event || !note_event(r, json_node_get_object(event), error)) {
            return false;
        }
    }
    s->run_ms = (r->resume_us - r->start_real) / 1000;
    s->all_ms = (r->all_us - r->start_real) / 1000;
    r->until_us = r->start_us + MAX(BENCH_RESTORE_WORK_US, (int64_t)(r->all_us - r->start_real));
    return true;
}

/* ---- the guest's work ------------------------------------------------------------------------ */

/* Reports that came after Run.until_us. */
static guint reports_after(const Run *r)
{
    const GArray *track = r->guest->track;
    guint n = 0;

    while (n < track->len &&
           g_array_index(track, BenchPoint, track->len - 1 - n).us > r->until_us) {
        n++;
    }
    return n;
}

static bool has_looked(const BenchGuest *guest, void *opaque)
{
    return reports_after(opaque) > 0;
}

static bool is_steady(const BenchGuest *guest, void *opaque)
{
    return reports_after(opaque) > STEADY;
}

static bool verdict_given(const BenchGuest *guest, void *opaque)
{
    return guest->verdict >= 0;
}

static bool wait_guest(Run *r, bool (*done)(const BenchGuest *, void *), const char *what,
                       GError **error)
{
    return bench_guest_wait(r->guest, done, r, WAIT_S, what, error);
}

static bool take_work(Run *r, BenchRestoreSample *s, BenchRestoreSeries *series, GError **error)
{
    BenchPoint first = {r->start_us + (int64_t)(r->resume_us - r->start_real),
                        r->run->saved->at.steps};

    if (!wait_guest(r, has_looked, "the guest's report", error)) {
        return false;
    }
    s->stall_ms = r->guest->worst_ms;
    s->stalls = bench_stalls(&r->run->saved->report, &r->guest->last);
    if (!wait_guest(r, is_steady, "the guest's report", error)) {
        return false;
    }
    series->track = g_array_copy(r->guest->track);
    bench_points_made((BenchPoint *)series->track->data, series->track->len);
    g_array_prepend_val(series->track, first);
    bench_restore_work((const BenchPoint *)series->track->data, series->track->len,
                       series->track->len - reports_after(r), r->start_us, s);
    return true;
}

static bool check_guest(Run *r, BenchRestoreSample *s, GError **error)
{
    if (!bench_guest_key(r->guest, 'v', error) ||
        !wait_guest(r, verdict_given, "the guest's verdict", error)) {
        return false;
    }
    s->bad = r->guest->verdict ? 0 : MAX(1, (double)r->guest->last.bad);
    return true;
}

static void take_info(JsonNode *node, BenchRestoreSample *s)
{
    JsonObject *own = ff_json_object(ff_json_node_object(node), "x-farfault");
    JsonObject *restore = ff_json_object(own, "restore");
    BenchLatency latency = bench_latency(ff_json_array(own, "latency-us"));

    s->faults = ff_json_double(own, "requests", NAN);
    s->fault_p50_us = latency.p50_us;
    s->fault_p99_us = latency.p99_us;
    s->fault_worst_us = latency.worst_us;
    s->set = 100 * ff_json_double(restore, "working-set-used", NAN) /
             ff_json_double(restore, "working-set", NAN);
}

/* ---- all of it ------------------------------------------------------------------------------- */

bool bench_restore_run(const BenchRestoreRun *run, BenchRestoreSample *s,
                       BenchRestoreSeries *series, GError **error)
{
    g_auto(Run) r = {.run = run, .resume_us = NAN, .all_us = NAN};

    bench_restore_clear(s);
    r.guest = bench_guest_start((const char *const *)run->argv, run->qmp, run->log, error);
    if (!r.guest || !prepare(&r, error)) {
        return false;
    }
    bench_guest_note_relays(r.guest);
    r.guest->ready = true; /* said so before it was saved */
    if (!settle_cache(run, error) || !begin(&r, error) || !wait_all(&r, s, error)) {
        return false;
    }
    series->start_us = r.start_us;
    series->info = bench_monitor_query(&r.monitor, error);
    if (!series->info) {
        return false;
    }
    take_info(series->info, s);
    return take_work(&r, s, series, error) && check_guest(&r, s, error);
}
