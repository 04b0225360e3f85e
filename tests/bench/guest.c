/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One QEMU of the bench: its process, and its guest's lines on the console as they come.
 *
 * The monitor's socket is there when the file monitor says so; the process gets a death signal,
 * so that a bench that is killed leaves no guest. The bench is the subreaper of what it starts, so
 * it knows the relay that belongs to a QEMU. One thread, the default main context.
 */
#include "guest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool number_after(const char *line, const char *name, double *value)
{
    const char *at = strstr(line, name);

    if (!at) {
        return false;
    }
    *value = g_ascii_strtod(at + strlen(name), NULL);
    return true;
}

/* Takes "BUCKET:COUNT" and a comma off *TEXT. */
static bool next_pair(const char **text, guint64 *bucket, guint64 *count)
{
    char *end;

    if (!g_ascii_isdigit(**text)) {
        return false;
    }
    *bucket = g_ascii_strtoull(*text, &end, 10);
    if (*end != ':') {
        return false;
    }
    *count = g_ascii_strtoull(end + 1, &end, 10);
    *text = *end == ',' ? end + 1 : "";
    return true;
}

static void parse_hist(const char *text, uint64_t *hist)
{
    guint64 bucket, count;

    while (next_pair(&text, &bucket, &count)) {
        if (bucket < BENCH_BUCKETS) {
            hist[bucket] = count;
        }
    }
}

bool bench_parse_report(const char *line, BenchReport *report)
{
    double writes, checks, bad, stall, clock;
    const char *hist = strstr(line, " hist=");

    if (!g_str_has_prefix(line, "FF t=") || !hist || !number_after(line, " writes=", &writes) ||
        !number_after(line, " checks=", &checks) || !number_after(line, " bad=", &bad) ||
        !number_after(line, " stall_ms=", &stall) || !number_after(line, " clock_us=", &clock)) {
        return false;
    }
    *report = (BenchReport){
        .writes = writes, .checks = checks, .bad = bad, .clock_us = clock, .stall_ms = stall};
    parse_hist(hist + strlen(" hist="), report->hist);
    return true;
}

static void parse_buckets(const char *text, Durations *waits)
{
    guint64 bucket, count;

    while (next_pair(&text, &bucket, &count)) {
        if (bucket < DURATIONS_BUCKETS) {
            waits->bucket[bucket] += count;
        }
    }
}

bool bench_parse_waits(const char *line, Durations *waits, bool *whole)
{
    const char prefix[] = "FF waits hist=";
    double n;

    *whole = false;
    if (g_str_has_prefix(line, prefix)) {
        parse_buckets(line + strlen(prefix), waits);
        return true;
    }
    if (!g_str_has_prefix(line, "FF waits n=") || !number_after(line, " n=", &n) ||
        !number_after(line, " sum_us=", &waits->sum_us) ||
        !number_after(line, " worst_us=", &waits->worst_us)) {
        return false;
    }
    waits->n = (uint64_t)n;
    *whole = true;
    return true;
}

bool bench_parse_step(const char *line, BenchStep *step)
{
    double frame, worker;

    if (!g_str_has_prefix(line, "FF longest us=") || !number_after(line, " us=", &step->us) ||
        !number_after(line, " end_us=", &step->end_us) ||
        !number_after(line, " touch_us=", &step->touch_us) ||
        !number_after(line, " frame=", &frame) || !number_after(line, " worker=", &worker)) {
        return false;
    }
    step->frame = (uint64_t)frame;
    step->worker = (unsigned)worker;
    return true;
}

void bench_guest_report(BenchGuest *g, const BenchReport *report, int64_t us)
{
    BenchPoint point = {us, report->writes + report->checks, report->clock_us};

    g->last = *report;
    g_array_append_val(g->track, point);
    g->reports++;
    g->worst_ms = MAX(g->worst_ms, report->stall_ms);
}

static void take_line(BenchGuest *g, const char *line)
{
    BenchReport report;
    BenchStep step;
    bool whole;

    if (bench_parse_report(line, &report)) {
        bench_guest_report(g, &report, g_get_monotonic_time());
    } else if (bench_parse_waits(line, &g->waits, &whole)) {
        g->waits_whole = whole;
    } else if (bench_parse_step(line, &step)) {
        if (g->n_longest < BENCH_LONGEST) {
            g->longest[g->n_longest++] = step;
        }
    } else if (g_str_has_prefix(line, "FF ready")) {
        g->ready = true;
    } else if (g_str_has_prefix(line, "FF verdict ")) {
        g->verdict = g_str_has_prefix(line, "FF verdict ok");
    } else if (g_str_has_prefix(line, "FF bad") || g_str_has_prefix(line, "FF error")) {
        g_printerr("guest: %s\n", line);
    }
}

static void on_line(GObject *object, GAsyncResult *result, gpointer opaque)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *line =
        g_data_input_stream_read_line_finish(G_DATA_INPUT_STREAM(object), result, NULL, &error);
    BenchGuest *g = opaque;

    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        return; /* the guest is being freed: opaque may be gone */
    }
    if (!line) {
        g->ended = true;
        return;
    }
    take_line(g, g_strchomp(line));
    g_data_input_stream_read_line_async(g->lines, G_PRIORITY_DEFAULT, g->cancel, on_line, g);
}

static gboolean set_true(gpointer opaque)
{
    *(bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

bool bench_guest_wait(BenchGuest *g, bool (*done)(const BenchGuest *guest, void *opaque),
                      void *opaque, unsigned seconds, const char *what, GError **error)
{
    bool late = false;
    g_autoptr(GSource) timer = g_timeout_source_new_seconds(seconds);

    g_source_set_callback(timer, set_true, &late, NULL);
    g_source_attach(timer, NULL);
    while (!done(g, opaque) && !g->ended && !late) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_destroy(timer);
    if (done(g, opaque)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s did not come: %s", what,
                g->ended ? "QEMU ended; its log says why" : "the time is up");
    return false;
}

/* ---- processor time -------------------------------------------------------------------------- */

/* Field N of the stat file of a process or thread, counted from 1; after the name, which can hold
 * anything. */
static double stat_field(const char *stat, unsigned n)
{
    const char *at = strrchr(stat, ')');

    for (unsigned i = 2; at && i < n; i++) {
        at = strchr(at + 1, ' ');
    }
    return at ? g_ascii_strtod(at, NULL) : 0;
}

BenchThreads bench_guest_vcpus(const BenchGuest *guest)
{
    const char *pid = g_subprocess_get_identifier(guest->process);
    g_autofree char *tasks = g_strdup_printf("/proc/%s/task", pid);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *name;
    BenchThreads sum = {0};

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *stat_path = g_strdup_printf("%s/%s/stat", tasks, name);
        g_autofree char *sched_path = g_strdup_printf("%s/%s/schedstat", tasks, name);
        g_autofree char *stat = NULL, *sched = NULL;
        if (g_file_get_contents(stat_path, &stat, NULL, NULL) && strstr(stat, "(CPU ") &&
            g_file_get_contents(sched_path, &sched, NULL, NULL)) {
            sum.seconds += g_ascii_strtod(sched, NULL) / 1e9;
            sum.faults += stat_field(stat, 10);
        }
    }
    return sum;
}

/* Of the process PARENT. */
static GArray *children(pid_t parent)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    GArray *found = g_array_new(FALSE, FALSE, sizeof(pid_t));
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("/proc/%s/stat", name);
        g_autofree char *stat = NULL;
        pid_t pid = atoi(name);
        if (pid && g_file_get_contents(path, &stat, NULL, NULL) && stat_field(stat, 4) == parent) {
            g_array_append_val(found, pid);
        }
    }
    return found;
}

/* Seconds, user and system; those of its children that it has waited for as well. */
static double process_cpu(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *stat = NULL;
    double ticks = 0;

    if (g_file_get_contents(path, &stat, NULL, NULL)) {
        for (unsigned field = 14; field <= 17; field++) {
            ticks += stat_field(stat, field);
        }
    }
    return ticks / sysconf(_SC_CLK_TCK);
}

double bench_guest_cpu(const BenchGuest *guest)
{
    const char *qemu = g_subprocess_get_identifier(guest->process);
    double sum = process_cpu(atoi(qemu)) - bench_guest_vcpus(guest).seconds;

    for (guint i = 0; i < guest->relays->len; i++) {
        pid_t relay = g_array_index(guest->relays, pid_t, i);
        g_autoptr(GArray) engines = children(relay);

        sum += process_cpu(relay);
        for (guint e = 0; e < engines->len; e++) {
            sum += process_cpu(g_array_index(engines, pid_t, e));
        }
    }
    return sum;
}

static bool contains(const GArray *pids, pid_t pid)
{
    for (guint i = 0; i < pids->len; i++) {
        if (g_array_index(pids, pid_t, i) == pid) {
            return true;
        }
    }
    return false;
}

void bench_guest_note_relays(BenchGuest *g)
{
    g_autoptr(GArray) after = children(getpid());
    pid_t qemu = atoi(g_subprocess_get_identifier(g->process));

    for (guint i = 0; i < after->len; i++) {
        pid_t pid = g_array_index(after, pid_t, i);
        if (pid != qemu && !contains(g->others, pid) && !contains(g->relays, pid)) {
            g_array_append_val(g->relays, pid);
        }
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

static void die_with_parent(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void on_file(GFileMonitor *monitor, GFile *file, GFile *other, GFileMonitorEvent event,
                    gpointer opaque)
{
    /* Nothing to do: the wait looks again because the loop has turned. */
}

static bool monitor_is_there(const BenchGuest *g, void *opaque)
{
    return g_file_test(g->qmp, G_FILE_TEST_EXISTS);
}

static bool wait_monitor(BenchGuest *g, GFileMonitor *watch, GError **error)
{
    g_signal_connect(watch, "changed", G_CALLBACK(on_file), NULL);
    return bench_guest_wait(g, monitor_is_there, NULL, 20, "QEMU's monitor", error);
}

BenchGuest *bench_guest_start_by(const BenchVoice *voice, const void *config,
                                 const char *const *argv, const char *qmp, const char *log,
                                 GError **error)
{
    g_autoptr(BenchGuest) g = g_new0(BenchGuest, 1);
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_autoptr(GFile) file = g_file_new_for_path(qmp);
    g_autoptr(GFileMonitor) watch = NULL;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    g->others = children(getpid());
    g->relays = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g->voice = voice;
    g->qmp = g_strdup(qmp);
    g->cancel = g_cancellable_new();
    g->track = g_array_new(FALSE, FALSE, sizeof(BenchPoint));
    g->verdict = -1;
    g_file_delete(file, NULL, NULL);
    if (!g_file_set_contents(log, "", 0, error)) {
        return NULL;
    }
    watch = g_file_monitor_file(file, G_FILE_MONITOR_NONE, NULL, error);
    if (!watch) {
        return NULL;
    }
    g_subprocess_launcher_set_stderr_file_path(launcher, log);
    g_subprocess_launcher_set_child_setup(launcher, die_with_parent, NULL, NULL);
    g->process = g_subprocess_launcher_spawnv(launcher, argv, error);
    if (!g->process) {
        return NULL;
    }
    /* A guest without a console says nothing here, and its QEMU's end is heard. */
    g->lines = g_data_input_stream_new(g_subprocess_get_stdout_pipe(g->process));
    g_data_input_stream_set_newline_type(g->lines, G_DATA_STREAM_NEWLINE_TYPE_ANY);
    g_data_input_stream_read_line_async(g->lines, G_PRIORITY_DEFAULT, g->cancel, on_line, g);
    if (!wait_monitor(g, watch, error) || (voice->open && !voice->open(g, config, error))) {
        return NULL;
    }
    return g_steal_pointer(&g);
}

void bench_guest_follow(BenchGuest *dst, BenchGuest *src)
{
    dst->before = src;
    dst->ready = true;
}

void bench_guest_free(BenchGuest *g)
{
    if (!g) {
        return;
    }
    if (g->process) {
        g_subprocess_force_exit(g->process);
        g_subprocess_wait(g->process, NULL, NULL);
    }
    if (g->voice->close) {
        g->voice->close(g);
    }
    for (guint i = 0; i < g->relays->len; i++) {
        waitpid(g_array_index(g->relays, pid_t, i), NULL, 0); /* they end with their QEMU */
    }
    g_cancellable_cancel(g->cancel);
    /* Lets the cancelled read deliver its end before what it points to goes. */
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_clear_object(&g->lines);
    g_clear_object(&g->process);
    g_clear_object(&g->cancel);
    g_clear_pointer(&g->track, g_array_unref);
    g_clear_pointer(&g->samples, g_array_unref);
    g_clear_pointer(&g->relays, g_array_unref);
    g_clear_pointer(&g->others, g_array_unref);
    g_free(g->qmp);
    g_free(g);
}

void bench_guest_end_all(void)
{
    do {
        /* A relay's engine comes to this process when the relay has ended. */
        g_autoptr(GArray) left = children(getpid());
        for (guint i = 0; i < left->len; i++) {
            kill(g_array_index(left, pid_t, i), SIGKILL);
        }
    } while (waitpid(-1, NULL, 0) > 0);
}

bool bench_guest_key(BenchGuest *g, char key, GError **error)
{
    GOutputStream *console = g_subprocess_get_stdin_pipe(g->process);

    return g_output_stream_write_all(console, &key, 1, NULL, NULL, error) &&
           g_output_stream_flush(console, NULL, error);
}

/* ---- the console's voice --------------------------------------------------------------------- */

static bool ask_end_of_waits(BenchGuest *g, GError **error)
{
    return bench_guest_key(g, 'f', error);
}

static bool ask_waits(BenchGuest *g, GError **error)
{
    return bench_guest_key(g, 'w', error);
}

static bool ask_verdict(BenchGuest *g, GError **error)
{
    return bench_guest_key(g, 'v', error);
}

static const BenchVoice console_voice = {
    .end_waits = ask_end_of_waits, .take_waits = ask_waits, .judge = ask_verdict, .stands = true};

BenchGuest *bench_guest_start(const char *const *argv, const char *qmp, const char *log,
                              GError **error)
{
    return bench_guest_start_by(&console_voice, NULL, argv, qmp, log, error);
}

/* ---- what is asked of each ------------------------------------------------------------------- */

static bool waits_are_whole(const BenchGuest *g, void *opaque)
{
    return g->waits_whole;
}

static bool verdict_given(const BenchGuest *g, void *opaque)
{
    return g->verdict >= 0;
}

bool bench_guest_end_waits(BenchGuest *g, GError **error)
{
    return g->voice->end_waits(g, error);
}

bool bench_guest_take_waits(BenchGuest *g, GError **error)
{
    g->waits = (Durations){0};
    g->n_longest = 0;
    g->waits_whole = false;
    return g->voice->take_waits(g, error) &&
           bench_guest_wait(g, waits_are_whole, NULL, 60, "the guest's waits", error);
}

bool bench_guest_judge(BenchGuest *g, GError **error)
{
    return g->voice->judge(g, error) &&
           bench_guest_wait(g, verdict_given, NULL, 180, "the guest's verdict", error);
}
