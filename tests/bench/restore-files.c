/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See restore-files.h. */
#include "restore-files.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"
#include "qmp/json.h"
#include "sample.h"

#define SNAPSHOT_MS 900000
#define REPORTS 20    /* of the guest that is saved, before that */
#define LEARN_KEY '0' /* no restore that is measured has it */

typedef struct {
    BenchGuest *guest;
    BenchMonitor monitor;
} Scene;

static void scene_clear(Scene *s)
{
    bench_monitor_clear(&s->monitor);
    g_clear_pointer(&s->guest, bench_guest_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Scene, scene_clear)

void bench_saved_name(BenchSaved *saved, const char *prefix, bool stream, bool set)
{
    *saved = (BenchSaved){.mapped = g_strconcat(prefix, ".mapped", NULL),
                          .stream = stream ? g_strconcat(prefix, ".stream", NULL) : NULL,
                          .set = set ? g_strconcat(prefix, ".mapped.ws", NULL) : NULL};
}

static void remove_file(char **path)
{
    if (*path) {
        unlink(*path);
    }
    g_clear_pointer(path, g_free);
}

void bench_saved_clear(BenchSaved *saved)
{
    remove_file(&saved->mapped);
    remove_file(&saved->stream);
    remove_file(&saved->set);
}

/* ---- the snapshot ---------------------------------------------------------------------------- */

static bool has_worked(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= REPORTS;
}

/* REAL: of QEMU's STOP. Until then the guest had its speed. */
static void note_work(const BenchGuest *guest, double real, BenchSaved *saved)
{
    const BenchPoint *point = (const BenchPoint *)guest->track->data;
    int64_t at = (int64_t)real - (g_get_real_time() - g_get_monotonic_time());
    guint n = guest->track->len;

    while (n > 2 && point[n - 1].us > at) {
        n--;
    }
    double since = (double)(at - point[n - 1].us) * bench_speed(point, n);
    saved->at = (BenchPoint){at, point[n - 1].steps + (uint64_t)MAX(0, since)};
}

static bool wait_saved(Scene *s, double *stop, GError **error)
{
    for (;;) {
        g_autoptr(JsonNode) event = ff_qmp_watch_next(s->monitor.events, SNAPSHOT_MS, NULL, error);
        JsonObject *o = ff_json_node_object(event);
        const char *status = event ? bench_event_status(o) : NULL;

        if (!event) {
            return false;
        }
        if (!strcmp(ff_json_string_or(o, "event", ""), "STOP")) {
            *stop = bench_event_us(o);
        }
        if (!g_strcmp0(status, "completed")) {
            return true;
        }
        if (!g_strcmp0(status, "failed") || !g_strcmp0(status, "cancelled")) {
            bench_monitor_set_failure(&s->monitor, "the snapshot", status, error);
            return false;
        }
    }
}

static bool save(BenchSaved *saved, const BenchSavedConfig *c, GError **error)
{
    g_auto(Scene) s = {0};
    JsonObject *args;
    double stop = NAN;

    s.guest = bench_guest_start((const char *const *)c->save, c->qmp, c->log, error);
    if (!s.guest ||
        !bench_guest_wait(s.guest, has_worked, NULL, 600, "the guest's report", error) ||
        !bench_monitor_open(&s.monitor, c->qmp, error) ||
        !bench_monitor_set_capability(&s.monitor, "events", error)) {
        return false;
    }
    bench_guest_note_relays(s.guest);
    saved->report = s.guest->last;
    args = json_object_new();
    json_object_set_string_member(args, "file", saved->mapped);
    if (!bench_monitor_command(&s.monitor, "x-farfault-snapshot", args, -1, error) ||
        !wait_saved(&s, &stop, error)) {
        return false;
    }
    note_work(s.guest, stop, saved);
    return true;
}

/* ---- what is made of it ---------------------------------------------------------------------- */

static bool convert(const BenchSaved *saved, const BenchSavedConfig *c, GError **error)
{
    g_autoptr(GSubprocess) process =
        g_subprocess_new(G_SUBPROCESS_FLAGS_NONE, error, c->farfault, "convert", "--to", "stream",
                         saved->mapped, saved->stream, NULL);

    return process && g_subprocess_wait_check(process, NULL, error);
}

static bool learn(const BenchSaved *saved, const BenchSavedConfig *c, GError **error)
{
    static const BenchRestoreEngine learns = {"learn", .farfault = true, .set = "learn"};
    BenchRestoreRun run = {.engine = &learns,
                           .argv = c->learn,
                           .qmp = c->qmp,
                           .log = c->log,
                           .saved = saved,
                           .key = LEARN_KEY};
    g_auto(BenchRestoreSeries) series = {0};
    BenchRestoreSample sample;

    if (!bench_restore_run(&run, &sample, &series, error)) {
        return false;
    }
    if (sample.bad > 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "the guest that learnt its working set has wrong pages");
        return false;
    }
    return true;
}

bool bench_saved_make(BenchSaved *saved, const BenchSavedConfig *config, GError **error)
{
    return save(saved, config, error) && (!saved->stream || convert(saved, config, error)) &&
           (!saved->set || learn(saved, config, error));
}
