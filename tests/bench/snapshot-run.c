/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See snapshot-run.h. */
#include "snapshot-run.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor.h"
#include "qmp/json.h"
#include "sample.h"

#define SNAPSHOT_MS 900000
#define REPORTS 4     /* of the guest, from which its speed is taken */
#define MOST_AFTER 60 /* reports that are waited for until it is back */

typedef struct {
    const BenchSnapshotRun *run;
    BenchGuest *guest;
    BenchMonitor monitor;
    GSubprocess *writer; /* dd; NULL: QEMU writes the file itself */
    int64_t start_us;
    double stop_us, resume_us; /* NaN: not yet */
    guint before, completed;   /* points of the guest's track */
} Run;

static void run_clear(Run *r)
{
    bench_monitor_clear(&r->monitor);
    g_clear_pointer(&r->guest, bench_guest_free);
    if (r->writer) {
        g_subprocess_force_exit(r->writer); /* of a run that failed; else it has ended */
        g_subprocess_wait(r->writer, NULL, NULL);
        g_clear_object(&r->writer);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

void bench_snapshot_series_clear(BenchSnapshotSeries *series)
{
    g_clear_pointer(&series->track, g_array_unref);
    g_clear_pointer(&series->info, json_node_unref);
}

/* ---- the guest's work ------------------------------------------------------------------------ */

static bool reports_reached(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= *(guint *)opaque;
}

static bool let_work(BenchGuest *guest, guint more, unsigned seconds, GError **error)
{
    guint target = guest->reports + more;

    return bench_guest_wait(guest, reports_reached, &target, seconds, "the guest's report", error);
}

static const BenchPoint *points(const BenchGuest *guest)
{
    return (const BenchPoint *)guest->track->data;
}

/* The point after the snapshot at whose end the guest had its speed back; 0: none yet. */
static guint back_at(const Run *r, const BenchGuest *guest)
{
    double speed = bench_speed(points(guest), r->before + 1);
    guint n = guest->track->len - r->completed;
    guint at = bench_recovered(points(guest) + r->completed, n, speed);

    return at ? r->completed + at : 0;
}

static bool is_back(const BenchGuest *guest, void *opaque)
{
    const Run *r = opaque;

    return guest->track->len >= r->completed + MOST_AFTER || back_at(r, guest);
}

/* Waits until the guest works as before; what it has not done until then is lost. */
static bool take_lost(Run *r, BenchSnapshotSample *s, GError **error)
{
    if (!bench_guest_wait(r->guest, is_back, r, 4 * MOST_AFTER, "the guest's report", error)) {
        return false;
    }
    guint end = back_at(r, r->guest);
    if (!let_work(r->guest, REPORTS, 60, error)) {
        return false;
    }
    if (end) {
        bench_snapshot_lost(points(r->guest), r->guest->track->len, r->before, end, s);
    }
    return true;
}

/* ---- its start ------------------------------------------------------------------------------- */

static bool prepare(Run *r, GError **error)
{
    JsonObject *args = json_object_new();

    if (!bench_monitor_open(&r->monitor, r->run->qmp, error)) {
        json_object_unref(args);
        return false;
    }
    json_object_set_int_member(args, "max-bandwidth", 0); /* no limit */
    return bench_monitor_command(&r->monitor, "migrate-set-parameters", args, -1, error) &&
           bench_monitor_set_capability(&r->monitor, "events", error) &&
           (r->run->engine->farfault ||
            bench_monitor_set_capability(&r->monitor, "background-snapshot", error));
}

/* What QEMU writes to: its copy alone keeps it open. -1 and ERROR. */
static int open_pipe(Run *r, GError **error)
{
    g_autofree char *of = g_strconcat("of=", r->run->file, NULL);
    const char *dd[] = {"dd",           of,           "bs=1M",       "iflag=fullblock",
                        "oflag=direct", "conv=fsync", "status=none", NULL};
    g_auto(GStrv) argv = bench_throttle_wrap(r->run->throttle, dd);
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_NONE);
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "pipe2: %s",
                    g_strerror(errno));
        return -1;
    }
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20); /* the largest that anybody may have */
    g_subprocess_launcher_take_stdin_fd(launcher, ends[0]);
    r->writer = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv, error);
    if (!r->writer) {
        close(ends[1]);
        return -1;
    }
    return ends[1];
}

static int open_file(Run *r, GError **error)
{
    int fd = open(r->run->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", r->run->file,
                    g_strerror(errno));
    }
    return fd;
}

/* QEMU 7.2 has no "file:". */
static bool give_file(Run *r, GError **error)
{
    int fd = r->run->throttle ? open_pipe(r, error) : open_file(r, error);
    JsonObject *args;

    if (fd < 0) {
        return false;
    }
    args = json_object_new();
    json_object_set_string_member(args, "fdname", "snapshot");
    bool ok = bench_monitor_command(&r->monitor, "getfd", args, fd, error);
    close(fd);
    return ok;
}

static bool begin(Run *r, GError **error)
{
    const BenchSnapshotEngine *engine = r->run->engine;
    JsonObject *args = json_object_new();

    if (engine->farfault) {
        json_object_set_string_member(args, "file", r->run->file);
        json_object_set_string_member(args, "format", engine->stream ? "stream" : "mapped-ram");
        if (r->run->buffer >= 0) {
            json_object_set_int_member(args, "buffer", r->run->buffer);
        }
    } else {
        json_object_set_string_member(args, "uri", "fd:snapshot");
    }
    r->start_us = g_get_monotonic_time();
    return bench_monitor_command(&r->monitor, engine->farfault ? "x-farfault-snapshot" : "migrate",
                                 args, -1, error);
}

/* ---- its course and end ---------------------------------------------------------------------- */

/* Returns the status that a MIGRATION event says, NULL for other events. */
static const char *note_event(Run *r, JsonObject *event)
{
    const char *name = ff_json_string_or(event, "event", "");

    if (!strcmp(name, "STOP")) {
        r->stop_us = bench_event_us(event);
    } else if (!strcmp(name, "RESUME")) {
        r->resume_us = bench_event_us(event);
    }
    return bench_event_status(event);
}

static bool wait_completed(Run *r, BenchSnapshotSample *s, GError **error)
{
    for (;;) {
        g_autoptr(JsonNode) event = ff_qmp_watch_next(r->monitor.events, SNAPSHOT_MS, NULL, error);
        const char *status;

        if (!event) {
            return false;
        }
        status = note_event(r, json_node_get_object(event));
        if (!g_strcmp0(status, "completed")) {
            s->total_ms = (g_get_monotonic_time() - r->start_us) / 1000.0;
            s->blackout_ms = (r->resume_us - r->stop_us) / 1000;
            r->completed = r->guest->track->len;
            return true;
        }
        if (!g_strcmp0(status, "failed") || !g_strcmp0(status, "cancelled")) {
            bench_monitor_set_failure(&r->monitor, "the snapshot", status, error);
            return false;
        }
    }
}

static void on_process(GObject *object, GAsyncResult *result, gpointer opaque)
{
    g_subprocess_wait_finish(G_SUBPROCESS(object), result, NULL);
    *(bool *)opaque = true;
}

/* Until PROCESS ends; the guest's lines are read meanwhile. */
static bool wait_process(GSubprocess *process, const char *name, GError **error)
{
    bool ended = false;

    g_subprocess_wait_async(process, NULL, on_process, &ended);
    while (!ended) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (g_subprocess_get_successful(process)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s failed", name);
    return false;
}

/* farfault says "completed" when it is there; QEMU when the page cache has it. */
static bool wait_disk(Run *r, BenchSnapshotSample *s, GError **error)
{
    const char *sync[] = {"sync", "-d", r->run->file, NULL};
    g_autoptr(GSubprocess) process = NULL;

    if (r->run->engine->farfault) {
        s->disk_ms = s->total_ms;
        return true;
    }
    process = r->writer ? g_object_ref(r->writer)
                        : g_subprocess_newv(sync, G_SUBPROCESS_FLAGS_NONE, error);
    if (!process || !wait_process(process, r->writer ? "dd" : "sync", error)) {
        return false;
    }
    s->disk_ms = (g_get_monotonic_time() - r->start_us) / 1000.0;
    return true;
}

static void take_info(JsonNode *node, BenchSnapshotSample *s)
{
    JsonObject *info = ff_json_node_object(node);
    JsonObject *own = ff_json_object(info, "x-farfault");
    BenchLatency latency = bench_latency(ff_json_array(own, "latency-us"));

    s->downtime_ms = ff_json_double(info, "downtime", NAN);
    s->faults = ff_json_double(own, "requests", NAN);
    s->fault_p50_us = latency.p50_us;
    s->fault_p99_us = s->faults > 0 ? ff_json_double(own, "latency-p99-us", NAN) : NAN;
    s->fault_worst_us = latency.worst_us;
    s->waits = ff_json_double(ff_json_object(own, "snapshot"), "waits", NAN);
}

static void take_waits(const Durations *waits, BenchSnapshotSample *s)
{
    s->guest_waits = (double)waits->n;
    s->guest_p99_us = bench_wait_rank(waits, 0.99);
    s->guest_worst_us = waits->n ? waits->worst_us : NAN;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bool take(Run *r, BenchSnapshotSample *s, BenchSnapshotSeries *series, GError **error)
{
    BenchReport before;

    /* A line just before the start keeps the window that is compared short. */
    if (!prepare(r, error) || (!r->run->engine->farfault && !give_file(r, error)) ||
        !let_work(r->guest, 1, 60, error) || !bench_guest_take_waits(r->guest, error)) {
        return false;
    }
    before = r->guest->last;
    r->guest->worst_ms = 0;
    r->before = r->guest->track->len - 1;
    if (!begin(r, error) || !wait_completed(r, s, error) ||
        !bench_guest_end_waits(r->guest, error)) {
        return false;
    }
    series->start_us = r->start_us;
    series->info = bench_monitor_query(&r->monitor, error);
    if (!series->info || !wait_disk(r, s, error) || !take_lost(r, s, error) ||
        !bench_guest_take_waits(r->guest, error)) {
        return false;
    }
    take_info(series->info, s);
    take_waits(&r->guest->waits, s);
    s->stalls = bench_stalls(&before, &r->guest->last);
    s->stall_ms = r->guest->worst_ms;
    for (unsigned b = 0; b < BENCH_BUCKETS; b++) {
        series->hist[b] = r->guest->last.hist[b] - MIN(before.hist[b], r->guest->last.hist[b]);
    }
    series->track = g_array_copy(r->guest->track);
    return true;
}

static bool check_guest(Run *r, BenchSnapshotSample *s, GError **error)
{
    if (!bench_guest_judge(r->guest, error) || !let_work(r->guest, 1, 60, error)) {
        return false;
    }
    s->bad = r->guest->last.bad;
    return true;
}

/* Allocated bytes, and whether farfault finds all in it that QEMU needs. */
static bool check_file(const BenchSnapshotRun *run, BenchSnapshotSample *s, GError **error)
{
    g_autoptr(GSubprocess) info = NULL;
    g_autofree char *said = NULL;
    struct stat st;

    if (stat(run->file, &st) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", run->file,
                    g_strerror(errno));
        return false;
    }
    s->file_mib = st.st_blocks * 512.0 / (1 << 20);
    info = g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE, error,
                            run->farfault, "info", run->file, NULL);
    if (!info || !g_subprocess_communicate_utf8(info, NULL, NULL, &said, NULL, error)) {
        return false;
    }
    if (!g_subprocess_get_successful(info)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the file is not complete: %s", said);
        return false;
    }
    return true;
}

static bool with_guest(const BenchSnapshotRun *run, BenchSnapshotSample *s,
                       BenchSnapshotSeries *series, GError **error)
{
    g_auto(GStrv) argv = bench_throttle_wrap(run->throttle, (const char *const *)run->argv);
    g_auto(Run) r = {.run = run, .stop_us = NAN, .resume_us = NAN};

    r.guest = bench_guest_start((const char *const *)argv, run->qmp, run->log, error);
    if (!r.guest || !let_work(r.guest, REPORTS, 180, error)) {
        return false;
    }
    bench_guest_note_relays(r.guest);
    return take(&r, s, series, error) && check_guest(&r, s, error);
}

bool bench_snapshot_run(const BenchSnapshotRun *run, BenchSnapshotSample *sample,
                        BenchSnapshotSeries *series, GError **error)
{
    bench_snapshot_clear(sample);
    unlink(run->file); /* of a run that was killed */
    bool ok = with_guest(run, sample, series, error) && check_file(run, sample, error);
    unlink(run->file);
    return ok;
}
