/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench: QEMU's own postcopy, its postcopy-preempt, and farfault, each with one QEMU or
 * several, in turn, in one run.
 *
 * Each round starts a pair of QEMUs for each of them, lets the guest (Linux; with --accel the
 * ring-3 guest, by KVM or TCG) come up and work, switches over at once, and takes down what QEMU
 * and the guest say. Rounds are interleaved, so that what else the machine does meets all alike.
 * The guest checks all of its memory after each migration. Results: a table on stdout, one JSON
 * line for each migration in DIR/results.jsonl, also for one that failed. With --tracking only
 * precopy is looked at (tracking.h).
 *
 * One thread, the default main context.
 */
#include "cli/migrate/run.h"
#include "command.h"
#include "qmp/json.h"
#include "sample.h"
#include "sampled.h"
#include "trace.h"
#include "tracking.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *name;
    bool farfault, preempt;
    char *parameter; /* NAME=VALUE; can be NULL */
} Engine;

static const Engine engine_table[] = {
    {"plain", false, false},
    {"preempt", false, true},
    {"farfault", true, false},
    {"farfault-1", true, false, "x-farfault-channels=1"},
    {"farfault-2", true, false, "x-farfault-channels=2"},
    {"farfault-4", true, false, "x-farfault-channels=4"},
    {"farfault-8", true, false, "x-farfault-channels=8"},
    {"zstd-auto", true, false, "x-farfault-compress=auto"},
    {"zstd", true, false, "x-farfault-compress=always"},
};
#define ENGINES G_N_ELEMENTS(engine_table)

/* One row of the table. */
typedef struct {
    const Engine *engine;
    const char *qemu; /* path; borrowed */
    char *version;    /* 7.2 */
    char *name;       /* of the engine; with several QEMUs that and the version */
} Contender;

static void contender_free(gpointer p)
{
    Contender *c = p;

    g_free(c->version);
    g_free(c->name);
    g_free(c);
}

/* Exit status where the guest cannot run here. */
#define SKIPPED 77

static struct {
    gboolean after_pass, worst;
    gint rounds, mem, hot, core, vcpus, write, alike, tracking, bandwidth;
    char *engines, *link, *out, *guest, *farfault, *mode, *accel, *memory;
    char **qemu;
    char *src_prefix, *dst_prefix, *listen, *with, *tls, *tracer;
    Ring3 ring3; /* with .accel */
} opt = {.rounds = 3, .mem = 1024, .vcpus = 1, .write = -1, .bandwidth = 100};

static const GOptionEntry entries[] = {
    {"rounds", 0, 0, G_OPTION_ARG_INT, &opt.rounds, "Rounds (3)", "N"},
    {"mem", 0, 0, G_OPTION_ARG_INT, &opt.mem, "RAM of the guest (1024)", "MIB"},
    {"hot", 0, 0, G_OPTION_ARG_INT, &opt.hot,
     "Part that it works on (3/4, less of small ones; half of it with a load)", "MIB"},
    {"vcpus", 0, 0, G_OPTION_ARG_INT, &opt.vcpus, "vCPUs (1)", "N"},
    {"write", 0, 0, G_OPTION_ARG_INT, &opt.write, "Steps that write (50)", "PERCENT"},
    {"alike", 0, 0, G_OPTION_ARG_INT, &opt.alike,
     "Words of its pages stand there 2^N times; 0 (default) does not compress", "N"},
    {"tracking", 0, 0, G_OPTION_ARG_INT, &opt.tracking,
     "Measure the guest's speed in so many seconds of precopy instead", "S"},
    {"bandwidth", 0, 0, G_OPTION_ARG_INT, &opt.bandwidth, "The precopy's max-bandwidth (100)",
     "MB/s"},
    {"mode", 0, 0, G_OPTION_ARG_STRING, &opt.mode,
     "random, seq, zipf, core; with the guest of scripts/build-guest --load: database, compile",
     "MODE"},
    {"core", 0, 0, G_OPTION_ARG_INT, &opt.core,
     "With --mode core: part that 63 of 64 steps go to, scattered (64)", "MIB"},
    {"after-pass", 0, 0, G_OPTION_ARG_NONE, &opt.after_pass,
     "Switch when the first pass of precopy is through, not at once", NULL},
    {"worst", 0, 0, G_OPTION_ARG_NONE, &opt.worst,
     "The guest's ten longest steps, and what made them, if there is a --tracer", NULL},
    {"engines", 0, 0, G_OPTION_ARG_STRING, &opt.engines, "plain,preempt,farfault", "LIST"},
    {"link", 0, 0, G_OPTION_ARG_STRING, &opt.link, "Name of the link, for the results", "NAME"},
    {"out", 0, 0, G_OPTION_ARG_FILENAME, &opt.out, "Folder for results and logs", "DIR"},
    {"accel", 0, 0, G_OPTION_ARG_STRING, &opt.accel,
     "kvm, tcg: with the ring-3 guest of the tests, which needs no Linux", "NAME"},
    {"memory", 0, 0, G_OPTION_ARG_STRING, &opt.memory,
     "What is known of this machine's memory, for the results: warm, cold, unknown", "WORD"},
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &opt.guest, "Folder of vmlinuz, initrd.img", "DIR"},
    {"tracer", 0, 0, G_OPTION_ARG_STRING, &opt.tracer, "Prints marks: bpftrace", "COMMAND"},
    {"farfault", 0, 0, G_OPTION_ARG_FILENAME, &opt.farfault, "farfault's program", "PATH"},
    {"qemu", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt.qemu,
     "QEMU (qemu-system-x86_64); can be given again", "PATH"},
    {"src-prefix", 0, 0, G_OPTION_ARG_STRING, &opt.src_prefix, "Words before the source", "WORDS"},
    {"dst-prefix", 0, 0, G_OPTION_ARG_STRING, &opt.dst_prefix, "the same", "WORDS"},
    {"with", 0, 0, G_OPTION_ARG_STRING, &opt.with, "Words for both QEMUs: \"-vga std\"", "WORDS"},
    {"tls", 0, 0, G_OPTION_ARG_FILENAME, &opt.tls, "TLS, with the keys.psk of a folder", "DIR"},
    {"listen", 0, 0, G_OPTION_ARG_STRING, &opt.listen, "Where the destination listens", "URI"},
    G_OPTION_ENTRY_NULL,
};

static bool has_load(void)
{
    return g_str_equal(opt.mode, "database") || g_str_equal(opt.mode, "compile");
}

static char *rom_name(const char *run_dir)
{
    return g_build_filename(run_dir, "rom", NULL);
}

static GPtrArray *command_line(const Contender *c, bool destination, const char *run_dir,
                               const char *qmp)
{
    g_autoptr(GPtrArray) other = opt.accel ? g_ptr_array_new_with_free_func(g_free) : NULL;
    g_autofree char *rom = rom_name(run_dir);
    g_autofree char *load =
        g_strdup_printf("ff.mib=%d ff.hot=%d ff.core=%d ff.write=%d ff.mode=%s ff.alike=%d",
                        opt.hot, opt.hot, opt.core, opt.write, opt.mode, opt.alike);
    BenchCommand command = {.prefix = destination ? opt.dst_prefix : opt.src_prefix,
                            .farfault = c->engine->farfault ? opt.farfault : NULL,
                            .qemu = c->qemu,
                            .guest = opt.guest,
                            .mem = opt.mem,
                            .vcpus = opt.vcpus,
                            .load = load,
                            .qmp = qmp,
                            .other = other};
    if (other) {
        bench_sampled_add_args(&opt.ring3, rom, qmp, other);
    }
    GPtrArray *argv = bench_command_new(&command);

    bench_command_add_words(argv, opt.with);
    if (opt.tls) {
        bench_command_add(argv, "-object");
        bench_command_add(argv, "tls-creds-psk,id=tls0,dir=%s,endpoint=%s", opt.tls,
                          destination ? "server" : "client");
    }
    if (destination) {
        bench_command_add_words(argv, "-incoming defer");
    }
    g_ptr_array_add(argv, NULL);
    return argv;
}

/* Of what ROLE has said (g_free). */
static char *log_name(const Contender *c, const char *role)
{
    g_autofree char *name = g_strdup_printf("%s-%s.log", c->name, role);

    return g_build_filename(opt.out, g_strdelimit(name, " ", '-'), NULL);
}

static char *monitor_name(const char *run_dir, bool destination)
{
    return g_strdup_printf("%s/%s.qmp", run_dir, destination ? "destination" : "source");
}

/* A QEMU that was killed leaves its monitor's socket. */
static void remove_folder(const char *run_dir)
{
    for (int destination = 0; destination <= 1; destination++) {
        g_autofree char *monitor = monitor_name(run_dir, destination);
        g_autofree char *own = bench_sampled_monitor(monitor);

        unlink(monitor);
        unlink(own);
    }
    g_autofree char *rom = rom_name(run_dir);
    unlink(rom);
    rmdir(run_dir);
}

static BenchGuest *start_guest(const Contender *c, bool destination, const char *run_dir,
                               GError **error)
{
    g_autofree char *qmp = monitor_name(run_dir, destination);
    g_autofree char *log = log_name(c, destination ? "destination" : "source");
    g_autoptr(GPtrArray) argv = command_line(c, destination, run_dir, qmp);
    const char *const *words = (const char *const *)argv->pdata;

    return opt.accel
               ? bench_guest_start_by(&bench_sampled_voice, &opt.ring3, words, qmp, log, error)
               : bench_guest_start(words, qmp, log, error);
}

static bool reports_reached(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= *(unsigned *)opaque;
}

/* Lets GUEST print MORE lines. */
static bool let_work(BenchGuest *guest, unsigned more, unsigned seconds, GError **error)
{
    unsigned target = guest->reports + more;

    /* The destination's guest said "ready" at the source. */
    return bench_guest_wait(guest, reports_reached, &target, seconds, "the guest's report", error);
}

typedef struct {
    uint64_t hist[BENCH_BUCKETS]; /* touches from the switch on */
    Durations waits;              /* of them, those of 32 us and longer */
    GArray *track;                /* BenchPoint of both sides; can be NULL */
    guint at_source;              /* of them, the first ones */
    bool stands;                  /* the guest's clock, in the gap */
    int64_t start_us;             /* of the migration */
    BenchStep longest[BENCH_LONGEST];
    BenchCause cause[BENCH_LONGEST]; /* of each of them */
    unsigned n_longest;
    uint64_t lost_marks;
    bool untraced; /* the trace has failed */
} BenchSeries;

static void clear_series(BenchSeries *series)
{
    g_clear_pointer(&series->track, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BenchSeries, clear_series)

static void take_series(const BenchGuest *src, const BenchGuest *dst, const BenchReport *before,
                        BenchSeries *series)
{
    for (unsigned b = 0; b < BENCH_BUCKETS; b++) {
        series->hist[b] = dst->last.hist[b] - MIN(before->hist[b], dst->last.hist[b]);
    }
    series->waits = dst->waits;
    const GArray *at_src = src->samples ? src->samples : src->track,
                 *at_dst = dst->samples ? dst->samples : dst->track;
    series->track = g_array_copy((GArray *)at_src);
    series->at_source = at_src->len;
    series->stands = src->voice->stands;
    g_array_append_vals(series->track, at_dst->data, at_dst->len);
}

typedef struct {
    double speed;
    unsigned since; /* reports before the end of the migration */
} Recovery;

static bool recovered(const BenchGuest *guest, void *opaque)
{
    const Recovery *r = opaque;

    return bench_lost_known((const BenchPoint *)guest->track->data, guest->track->len, r->since,
                            r->speed);
}

/* Waits until DST works as SRC did, or for so long that it is given up; what it has not done until
 * then is lost. .gap_ms is known. */
static bool take_lost(const BenchGuest *src, BenchGuest *dst, BenchSample *s, GError **error)
{
    const BenchPoint *before = (const BenchPoint *)src->track->data;
    unsigned n = src->track->len;
    Recovery r = {.speed = bench_speed(before, n), .since = dst->track->len};

    if (!bench_guest_wait(dst, recovered, &r, 120, "the guest's report", error)) {
        return false;
    }
    bench_take_lost(before, n, (const BenchPoint *)dst->track->data, dst->track->len,
                    dst->voice->stands ? s->gap_ms : 0, s);
    return true;
}

static bool is_sampled(const BenchGuest *guest, void *opaque)
{
    const GArray *samples = guest->samples;

    return !samples || (samples->len && g_array_index(samples, BenchPoint, samples->len - 1).us >=
                                            *(int64_t *)opaque);
}

/* The seconds of processor time are those that the two sides took. */
static void take_numbers(const FfMoveResult *result, double src_cpu, double dst_cpu, BenchSample *s)
{
    JsonObject *src = ff_json_node_object(result->source_info);
    JsonObject *x = ff_json_object(ff_json_node_object(result->destination_info), "x-farfault");

    s->total_ms = ff_json_double(src, "total-time", NAN);
    s->downtime_ms = ff_json_double(src, "downtime", NAN);
    s->gap_ms = result->stopped_us >= 0 ? result->stopped_us / 1000.0 : NAN;
    s->mib = ff_json_double(ff_json_object(src, "ram"), "transferred", NAN) / (1 << 20);
    s->src_cpu = src_cpu / s->mib * 1024;
    s->dst_cpu = dst_cpu / s->mib * 1024;
    s->engine_mean_us = ff_json_double(x, "latency-mean-us", NAN);
    s->engine_p99_us = ff_json_double(x, "latency-p99-us", NAN);
}

static bool migrate(const Engine *engine, BenchGuest *src, BenchGuest *dst, FfMoveResult *result,
                    GError **error)
{
    g_autoptr(FfProgress) progress = ff_progress_new(true);
    g_auto(FfMoveEnds) ends = {0};
    /* Who switches at once wants no precopy, which a small guest's ends before it is asked for the
     * switch where the bench gets no processor. (0 leaves no time for device state.) The list ends
     * where one is not given. */
    char *parameters[4] = {NULL};
    unsigned n = 0;
    if (!opt.after_pass) {
        parameters[n++] = (char *)"downtime-limit=1";
    }
    if (opt.tls) {
        parameters[n++] = (char *)"tls-creds=tls0";
    }
    parameters[n] = engine->parameter;
    FfMoveOptions options = {.source = src->qmp,
                             .destination = dst->qmp,
                             .mode = opt.after_pass ? FF_MOVE_AFTER_PASSES : FF_MOVE_NOW,
                             .after = 1,
                             .listen = opt.listen,
                             .preempt = engine->preempt,
                             .parameters = parameters,
                             .timeout = 120};

    if (!ff_move_prepare(&options, &ends, error) ||
        !ff_move_run(&options, &ends, progress, result, error)) {
        return false;
    }
    if (result->outcome != FF_OUTCOME_COMPLETED) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the migration %s: %s",
                    ff_outcome_name(result->outcome), result->reason);
        return false;
    }
    return true;
}

/* NULL and no ERROR: nobody wants it, or there are no marks. */
static BenchTrace *start_trace(const Contender *c, GError **error)
{
    g_autofree char *log = log_name(c, "trace");

    return opt.worst && opt.tracer && c->engine->farfault
               ? bench_trace_start(opt.tracer, log, error)
               : NULL;
}

/* TRACE can be NULL. One that has failed takes the reasons with it, and not what was measured. */
static void take_longest(const BenchGuest *dst, BenchTrace *trace, BenchSeries *series)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BenchMarks) marks = trace ? bench_trace_end(trace, &error) : NULL;

    if (error) {
        g_printerr("bench: %s\n", error->message);
        series->untraced = true;
    }
    series->n_longest = dst->n_longest;
    series->lost_marks = marks ? bench_marks_lost(marks) : 0;
    memcpy(series->longest, dst->longest, sizeof(series->longest));
    bench_explain(marks, series->longest, series->n_longest, (const BenchPoint *)dst->track->data,
                  dst->track->len, series->cause);
}

/* One migration, from two fresh QEMUs to the guest's verdict. */
static bool measure(const Contender *c, const char *run_dir, BenchSample *sample,
                    BenchSeries *series, JsonNode **raw, GError **error)
{
    g_autoptr(BenchGuest) src = start_guest(c, false, run_dir, error);
    g_autoptr(BenchGuest) dst = NULL;
    g_autoptr(BenchTrace) trace = NULL;
    g_auto(FfMoveResult) result = {0};
    g_autoptr(GError) refusal = NULL;
    BenchReport before;
    double src_cpu, dst_cpu;
    int64_t sampled_us;

    if (!src || !let_work(src, 3, 120, error)) {
        return false;
    }
    bench_guest_note_relays(src);
    dst = start_guest(c, true, run_dir, error);
    if (!dst) {
        return false;
    }
    bench_guest_follow(dst, src);
    bench_guest_note_relays(dst);
    trace = start_trace(c, &refusal);
    if (refusal) {
        g_propagate_error(error, g_steal_pointer(&refusal));
        return false;
    }
    /* A line just before the start keeps the window that is compared short. What is told of waits
     * so far is not looked at. */
    if (!let_work(src, 1, 60, error) || !bench_guest_take_waits(src, error)) {
        return false;
    }
    before = src->last;
    src_cpu = bench_guest_cpu(src);
    dst_cpu = bench_guest_cpu(dst);
    series->start_us = g_get_monotonic_time();
    if (!migrate(c->engine, src, dst, &result, error) || !bench_guest_end_waits(dst, error)) {
        return false;
    }
    sampled_us = g_get_monotonic_time() + BENCH_SOON_US;
    bench_guest_note_relays(dst); /* at its start its relay may not have been a child of ours yet */
    take_numbers(&result, bench_guest_cpu(src) - src_cpu, bench_guest_cpu(dst) - dst_cpu, sample);
    if (!take_lost(src, dst, sample, error) ||
        !bench_guest_wait(dst, is_sampled, &sampled_us, 60, "its samples", error) ||
        !bench_guest_take_waits(dst, error)) {
        return false;
    }
    take_longest(dst, trace, series);
    bench_waits(&dst->waits, sample);
    sample->stall_ms = dst->n_longest ? dst->longest[0].us / 1000 : dst->worst_ms;
    take_series(src, dst, &before, series);
    if (dst->samples) {
        sample->lost_soon_ms = bench_lost_soon((const BenchPoint *)series->track->data,
                                               series->track->len, series->start_us, sampled_us);
    }
    if (!bench_guest_judge(dst, error) || !let_work(dst, 1, 60, error)) {
        return false;
    }
    /* Linux finds wrong pages itself; the ring-3 guest is looked at from outside, too. */
    sample->bad =
        opt.accel && !dst->verdict ? MAX(1, (double)dst->last.bad) : (double)dst->last.bad;
    *raw = result.destination_info ? json_node_copy(result.destination_info) : NULL;
    return true;
}

/* [[us, how many], ...] */
static JsonArray *json_of_waits(const Durations *waits)
{
    JsonArray *list = json_array_new();

    for (unsigned b = 0; b < DURATIONS_BUCKETS; b++) {
        if (waits->bucket[b]) {
            JsonArray *pair = json_array_new();
            json_array_add_double_element(pair, durations_middle(b));
            json_array_add_int_element(pair, waits->bucket[b]);
            json_array_add_array_element(list, pair);
        }
    }
    return list;
}

/* Those of which nothing is known have no "why". */
static JsonArray *json_of_longest(const BenchSeries *series)
{
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < series->n_longest; i++) {
        const BenchStep *step = &series->longest[i];
        const BenchCause *cause = &series->cause[i];
        JsonObject *o = json_object_new();

        json_object_set_double_member(o, "ms", step->us / 1000);
        json_object_set_double_member(o, "at-ms",
                                      (cause->start_host - (double)series->start_us) / 1000);
        json_object_set_double_member(o, "touch-ms", step->touch_us / 1000);
        if (cause->why != BENCH_WHY_UNKNOWN) {
            json_object_set_int_member(o, "pages", cause->pages);
            json_object_set_double_member(o, "waited-ms", cause->waited_us / 1000);
            json_object_set_string_member(o, "why", bench_why[cause->why]);
        }
        json_array_add_object_element(list, o);
    }
    return list;
}

/* What the plots are made of: touches by duration, and the guest's work over time. */
static void add_series(JsonObject *o, const BenchSeries *series)
{
    JsonArray *hist = json_array_new(), *track = json_array_new();

    for (unsigned b = 0; b < BENCH_BUCKETS; b++) {
        json_array_add_int_element(hist, series->hist[b]);
    }
    json_object_set_array_member(o, "waits-us", json_of_waits(&series->waits));
    json_object_set_array_member(o, "longest", json_of_longest(series));
    for (guint i = 0; series->track && i < series->track->len; i++) {
        const BenchPoint *p = &g_array_index(series->track, BenchPoint, i);
        JsonArray *pair = json_array_new();
        json_array_add_double_element(pair, (p->us - series->start_us) / 1000.0);
        json_array_add_int_element(pair, p->steps);
        if (series->stands) {
            json_array_add_double_element(pair, p->own_us / 1000);
        }
        json_array_add_array_element(track, pair);
    }
    json_object_set_array_member(o, "touches", hist);
    json_object_set_array_member(o, "track", track);
    json_object_set_int_member(o, "track-at-source", series->at_source);
}

/* What it was, without what it came to. */
static JsonObject *describe(const Contender *c, gint round)
{
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, "engine", c->engine->name);
    json_object_set_string_member(o, "qemu", c->version);
    json_object_set_string_member(o, "accel", opt.accel ? opt.accel : "tcg");
    json_object_set_string_member(o, "guest", opt.accel ? "ring-3" : "linux");
    json_object_set_string_member(o, "memory", opt.memory);
    json_object_set_string_member(o, "link", opt.link);
    json_object_set_int_member(o, "round", round);
    json_object_set_int_member(o, "mem-mib", opt.mem);
    json_object_set_int_member(o, "hot-mib", opt.hot);
    json_object_set_int_member(o, "core-mib", opt.core);
    json_object_set_boolean_member(o, "after-pass", opt.after_pass);
    json_object_set_int_member(o, "vcpus", opt.vcpus);
    json_object_set_int_member(o, "write-percent", opt.write);
    json_object_set_int_member(o, "alike", opt.alike);
    json_object_set_string_member(o, "mode", opt.mode);
    json_object_set_boolean_member(o, "tls", opt.tls != NULL);
    json_object_set_string_member(o, "with", opt.with ? opt.with : "");
    return o;
}

/* Takes O. */
static void write_line(FILE *out, JsonObject *o)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(root, o);
    g_autofree char *text = json_to_string(root, FALSE);
    fprintf(out, "%s\n", text);
    fflush(out);
}

static void write_json(FILE *out, const Contender *c, gint round, const BenchSample *s,
                       const BenchSeries *series, JsonNode *raw)
{
    JsonObject *o = describe(c, round);

    bench_figures_to_json(o, bench_column, BENCH_SAMPLE_FIELDS, (const double *)s);
    add_series(o, series);
    if (raw) {
        json_object_set_member(o, "destination", raw);
    }
    write_line(out, o);
}

/* A round that came to nothing is part of the results: a side that loses the long ones is not
 * faster. */
static void write_failed(FILE *out, const Contender *c, gint round, const char *why)
{
    JsonObject *o = describe(c, round);

    json_object_set_string_member(o, "failed", why);
    write_line(out, o);
}

static void print_setting(void)
{
    g_autofree char *accel = opt.accel ? g_ascii_strup(opt.accel, -1) : NULL;

    printf(
        "link %s, %d MiB guest%s%s, %d MiB in use, %d vCPU%s, %s, %d %% writes, memory %s%s%s%s\n",
        opt.link, opt.mem, accel ? " in ring 3 by " : "", accel ? accel : "", opt.hot, opt.vcpus,
        opt.vcpus == 1 ? "" : "s", opt.mode, opt.write, opt.memory,
        opt.alike ? ", compressible" : "", opt.after_pass ? ", switch after a pass" : "",
        opt.worst && opt.tracer ? ", farfault traced" : "");
}

static void print_head(void)
{
    print_setting();
    bench_print_row(stdout, "", NULL);
    fflush(stdout);
}

static void print_one(const Contender *c, const BenchSample *s, const BenchSeries *series)
{
    bench_print_row(stdout, c->name, s);
    if (opt.worst) {
        bench_print_causes(stdout, c->name, series->longest, series->cause, series->n_longest,
                           series->start_us);
    }
    if (series->lost_marks) {
        printf("  %" G_GUINT64_FORMAT " marks are missing: more came than could be read\n",
               series->lost_marks);
    }
    fflush(stdout);
}

/* Of each row: its rounds, column by column, then the waits of all its rounds together. */
static void print_end(const GPtrArray *contenders, const BenchSample *sample, const unsigned *taken,
                      const Durations *waits)
{
    g_autofree const char **name = g_new0(const char *, contenders->len);

    for (guint i = 0; i < contenders->len; i++) {
        name[i] = ((const Contender *)contenders->pdata[i])->name;
    }
    bench_print_ranks(stdout, bench_column, BENCH_SAMPLE_FIELDS, (const double *)sample, opt.rounds,
                      contenders->len, name, taken);
    printf("waits of all %d\n", opt.rounds);
    for (guint i = 0; i < contenders->len; i++) {
        g_autofree char *text = bench_name(name[i], taken[i], (unsigned)opt.rounds);
        BenchSample all;

        bench_sample_clear(&all);
        if (taken[i]) {
            bench_waits(&waits[i], &all);
        }
        bench_print_row(stdout, text, &all);
    }
}

/* QEMU 7.2 under TCG loses pages by itself: of its own engines it is said, and no failure. */
static bool is_whole(const Contender *c, gint round, const BenchSample *s)
{
    if (s->bad > 0) {
        g_printerr("bench: %s, round %d: the guest found %.0f wrong pages\n", c->name, round + 1,
                   s->bad);
    }
    return !(c->engine->farfault && s->bad > 0);
}

static bool run_all(const GPtrArray *contenders, FILE *json, const char *run_dir)
{
    guint n = contenders->len;
    g_autofree BenchSample *sample = g_new0(BenchSample, (gsize)n * opt.rounds);
    g_autofree unsigned *taken = g_new0(unsigned, n);
    g_autofree Durations *waits = g_new0(Durations, n);
    bool all = true;

    print_head();
    for (gint i = 0; i < opt.rounds * (gint)n; i++) {
        guint at = i % n;
        gint round = i / (gint)n;
        const Contender *c = contenders->pdata[at];
        BenchSample *s = &sample[at * opt.rounds + taken[at]];
        g_autoptr(GError) error = NULL;
        g_auto(BenchSeries) series = {0};
        JsonNode *raw = NULL;

        if (!measure(c, run_dir, s, &series, &raw, &error)) {
            g_printerr("bench: %s, round %d: %s\n", c->name, round + 1, error->message);
            write_failed(json, c, round, error->message);
            all = false;
            continue;
        }
        write_json(json, c, round, s, &series, raw);
        print_one(c, s, &series);
        all = is_whole(c, round, s) && !series.untraced && all;
        durations_merge(&waits[at], &series.waits);
        taken[at]++;
    }
    print_end(contenders, sample, taken, waits);
    return all;
}

/* The same guest and link, with QEMU's dirty logging and farfault's tracking. */
static bool track_one(const Contender *c, const char *run_dir, BenchTracking *result,
                      GError **error)
{
    g_autoptr(BenchGuest) src = start_guest(c, false, run_dir, error);
    g_autoptr(BenchGuest) dst = NULL;

    if (!src || !let_work(src, 2, 120, error)) {
        return false;
    }
    dst = start_guest(c, true, run_dir, error);
    return dst && bench_track(src, dst, opt.listen, opt.bandwidth * 1000000ull, opt.tracking,
                              result, error);
}

static void print_ranks(const GPtrArray *contenders, const BenchTracking *result,
                        const unsigned *taken)
{
    static const struct {
        const char *name;
        double rank;
    } lines[] = {{"min", 0}, {"median", 0.5}, {"max", 1}};

    for (guint i = 0; i < contenders->len; i++) {
        printf("%s, %u rounds\n", ((const Contender *)contenders->pdata[i])->name, taken[i]);
        for (unsigned l = 0; l < G_N_ELEMENTS(lines); l++) {
            BenchTracking r = bench_rank_tracking(&result[i * opt.rounds], taken[i], lines[l].rank);
            bench_print_tracking(stdout, lines[l].name, &r);
        }
    }
}

static bool track_all(const GPtrArray *contenders, const char *run_dir)
{
    guint n = contenders->len;
    g_autofree BenchTracking *result = g_new0(BenchTracking, (gsize)n * opt.rounds);
    g_autofree unsigned *taken = g_new0(unsigned, n);
    bool all = true;

    printf("precopy at %d MB/s, %d s; ", opt.bandwidth, opt.tracking);
    print_setting();
    bench_print_tracking(stdout, "", NULL);
    for (gint i = 0; i < opt.rounds * (gint)n; i++) {
        guint at = i % n;
        const Contender *c = contenders->pdata[at];
        BenchTracking *r = &result[at * opt.rounds + taken[at]];
        g_autoptr(GError) error = NULL;

        if (!track_one(c, run_dir, r, &error)) {
            g_printerr("bench: %s: %s\n", c->name, error->message);
            all = false;
            continue;
        }
        bench_print_tracking(stdout, c->name, r);
        fflush(stdout);
        taken[at]++;
    }
    print_ranks(contenders, result, taken);
    return all;
}

static const Engine *engine_named(const char *name)
{
    for (unsigned e = 0; e < ENGINES; e++) {
        if (!strcmp(engine_table[e].name, name)) {
            return &engine_table[e];
        }
    }
    return NULL;
}

/* Each engine with each QEMU: Contender. NULL and ERROR: there is no such engine, or no such QEMU.
 */
static GPtrArray *choose(GError **error)
{
    g_autoptr(GPtrArray) contenders = g_ptr_array_new_with_free_func(contender_free);
    g_auto(GStrv) name = g_strsplit(opt.engines, ",", -1);

    for (char **q = opt.qemu; *q; q++) {
        g_autofree char *version = bench_command_version(*q, error);
        if (!version) {
            return NULL;
        }
        for (char **p = name; *p; p++) {
            const Engine *engine = engine_named(*p);
            if (!engine) {
                g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                            "--engines %s: known are plain, preempt, farfault, "
                            "farfault-1, -2, -4, -8, zstd-auto, zstd",
                            opt.engines);
                return NULL;
            }
            Contender *c = g_new0(Contender, 1);
            *c = (Contender){.engine = engine, .qemu = *q, .version = g_strdup(version)};
            c->name = opt.qemu[1] ? g_strdup_printf("%s %s", *p, version) : g_strdup(*p);
            g_ptr_array_add(contenders, c);
        }
    }
    return g_steal_pointer(&contenders);
}

static void set_default(char **option, const char *value)
{
    *option = *option ? *option : g_strdup(value);
}

/* What makes no sense with the ring-3 guest. */
static bool check_accel(GError **error)
{
    const struct {
        const char *name;
        bool given;
    } linux_only[] = {{"mode", opt.mode && !g_str_equal(opt.mode, "random")},
                      {"core", opt.core != 0},
                      {"write", opt.write >= 0},
                      {"alike", opt.alike != 0},
                      {"tracking", opt.tracking != 0},
                      {"worst", opt.worst}};

    for (unsigned i = 0; opt.accel && i < G_N_ELEMENTS(linux_only); i++) {
        if (linux_only[i].given) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                        "--%s is for the Linux guest, not for --accel", linux_only[i].name);
            return false;
        }
    }
    if (opt.accel && !g_str_equal(opt.accel, "kvm") && !g_str_equal(opt.accel, "tcg")) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--accel %s: known are kvm, tcg", opt.accel);
        return false;
    }
    return true;
}

static bool settle_ring3(GError **error)
{
    bool kvm = g_str_equal(opt.accel, "kvm");

    opt.ring3 = (Ring3){.accel = kvm ? RING3_KVM : RING3_TCG,
                        .busy_mib = (unsigned)opt.hot,
                        .n_cpus = (unsigned)opt.vcpus};
    opt.write = 100;
    if (opt.vcpus > RING3_MAX_CPUS || opt.hot > BENCH_SAMPLED_MIB ||
        ring3_end(&opt.ring3) > (uint64_t)opt.mem << 20) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "numbers out of range: with --accel at most %d vcpus, and hot at most %d",
                    RING3_MAX_CPUS, BENCH_SAMPLED_MIB);
        return false;
    }
    return true;
}

static bool settle(GError **error)
{
    if (!check_accel(error)) {
        return false;
    }
    static const char *const qemu[] = {"qemu-system-x86_64", NULL};

    set_default(&opt.engines, "plain,preempt,farfault");
    set_default(&opt.link, "loopback");
    set_default(&opt.mode, "random");
    set_default(&opt.out, ".");
    set_default(&opt.memory, "unknown");
    opt.core = opt.core ? opt.core : 64;
    opt.qemu = opt.qemu ? opt.qemu : g_strdupv((char **)qemu);
    if (!opt.hot && has_load()) {
        opt.hot = opt.mem / 2;
    }
    /* A guest has 96 MiB for its kernel at least. */
    opt.hot = opt.hot ? opt.hot : MIN(opt.mem / 4 * 3, opt.mem - 96);
    if (opt.rounds < 1 || opt.vcpus < 1 || opt.mem < 128 || opt.hot < 1 || opt.hot >= opt.mem) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "numbers out of range: rounds and vcpus from 1, mem from 128, hot below mem");
        return false;
    }
    if (opt.accel && !settle_ring3(error)) {
        return false;
    }
    opt.write = opt.write < 0 ? 50 : opt.write;
    if ((!opt.guest && !opt.accel) || (strstr(opt.engines, "farfault") && !opt.farfault)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "give --guest and --farfault, or start it by scripts/bench");
        return false;
    }
    return true;
}

/* FALSE: said on stderr. */
static bool can_run(void)
{
    const char *why;

    for (char **q = opt.qemu; opt.accel && *q; q++) {
        if (!ring3_available(opt.ring3.accel, *q, &why)) {
            g_printerr("bench: --accel %s: %s\n", opt.accel, why);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- compare postcopy engines");
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) contenders = NULL;
    g_autofree char *results = NULL, *run_dir = NULL;
    FILE *json;
    bool good;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || !settle(&error) ||
        !(contenders = choose(&error))) {
        g_printerr("bench: %s\n", error->message);
        return 2;
    }
    if (!can_run()) {
        return SKIPPED;
    }
    results = g_build_filename(opt.out, "results.jsonl", NULL);
    json = fopen(results, "ae");
    run_dir = g_dir_make_tmp("farfault-bench-XXXXXX", &error);
    if (!json || !run_dir) {
        g_printerr("bench: cannot write to %s\n", json ? error->message : results);
        return 1;
    }
    good = opt.tracking ? track_all(contenders, run_dir) : run_all(contenders, json, run_dir);
    fclose(json);
    remove_folder(run_dir);
    return good ? 0 : 1;
}
