/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of live snapshots: farfault's beside QEMU's own background-snapshot, in turn, in one
 * run.
 *
 * Each round starts a QEMU for each engine, lets the Linux guest come up and rewrite its memory,
 * has it saved once while it does, and takes down what QEMU, engine and guest say. Rounds are
 * interleaved, so that what else the machine does meets all engines alike. The guest checks all of
 * its memory afterwards, and farfault looks whether the file is complete. Results: a table on
 * stdout, one JSON line for each snapshot in DIR/results.jsonl.
 *
 * One thread, the default main context.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "snapshot-aims.h"
#include "snapshot-run.h"
#include "stage.h"

static const BenchSnapshotEngine engine_table[] = {
    {"farfault", .farfault = true},
    {"farfault-stream", .farfault = true, .stream = true},
    {"qemu-anon", .stream = true},
    {"qemu-memfd", .stream = true, .memfd = true},
};
#define ENGINES G_N_ELEMENTS(engine_table)
#define ENGINE_NAMES "farfault,farfault-stream,qemu-anon,qemu-memfd"

static struct {
    gboolean aims;
    gint rounds, hot, vcpus, write, rate, buffer;
    char *sizes, *engines, *mode, *out, *guest, *farfault, *with;
    char **qemu;
} opt = {.rounds = 20, .vcpus = 1, .write = 100, .buffer = -1};

static const GOptionEntry entries[] = {
    {"rounds", 0, 0, G_OPTION_ARG_INT, &opt.rounds, "Rounds (20)", "N"},
    {"aims", 0, 0, G_OPTION_ARG_NONE, &opt.aims, "Fails if an aim is missed, or none was judged",
     NULL},
    {"mem", 0, 0, G_OPTION_ARG_STRING, &opt.sizes, "RAM of the guest (1024)", "MIB"},
    {"sizes", 0, 0, G_OPTION_ARG_STRING, &opt.sizes, "The same for several guests, a table each",
     "LIST"},
    {"hot", 0, 0, G_OPTION_ARG_INT, &opt.hot, "Part that it works on (3/4, less of small ones)",
     "MIB"},
    {"vcpus", 0, 0, G_OPTION_ARG_INT, &opt.vcpus, "vCPUs (1)", "N"},
    {"write", 0, 0, G_OPTION_ARG_INT, &opt.write, "Steps that write (100)", "PERCENT"},
    {"mode", 0, 0, G_OPTION_ARG_STRING, &opt.mode, "random, seq, zipf", "MODE"},
    {"buffer", 0, 0, G_OPTION_ARG_INT, &opt.buffer, "Of farfault's saved pages (its default)",
     "MIB"},
    {"disk-rate", 0, 0, G_OPTION_ARG_INT, &opt.rate,
     "What the disk takes, by a cgroup of this run; default: all it can", "MB/s"},
    {"engines", 0, 0, G_OPTION_ARG_STRING, &opt.engines, ENGINE_NAMES, "LIST"},
    {"qemu", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt.qemu,
     "QEMU (qemu-system-x86_64); can be given again", "PATH"},
    {"with", 0, 0, G_OPTION_ARG_STRING, &opt.with, "Words for QEMU: \"-vga std\"", "WORDS"},
    {"out", 0, 0, G_OPTION_ARG_FILENAME, &opt.out, "Folder for files, results and logs", "DIR"},
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &opt.guest, "Folder of vmlinuz, initrd.img", "DIR"},
    {"farfault", 0, 0, G_OPTION_ARG_FILENAME, &opt.farfault, "farfault's program", "PATH"},
    G_OPTION_ENTRY_NULL,
};

/* One row of the table. */
typedef struct {
    const BenchSnapshotEngine *engine;
    const char *qemu; /* path; borrowed */
    char *version;    /* 7.2 */
    char *name;
    GArray *blackouts; /* double; the median of each size so far */
} Contender;

static void contender_free(gpointer p)
{
    Contender *c = p;

    g_array_unref(c->blackouts);
    g_free(c->version);
    g_free(c->name);
    g_free(c);
}

static struct {
    GPtrArray *contenders; /* Contender */
    BenchThrottle *throttle;
    BenchStage stage;
    char *file;
} bench;

/* ---- one snapshot ---------------------------------------------------------------------------- */

/* A guest has 64 MiB for its kernel at least. */
static int hot_of(int mem)
{
    return opt.hot ? opt.hot : MIN(mem / 4 * 3, mem - 96);
}

static char **command_line(const Contender *c, int mem, const char *qmp)
{
    int hot = hot_of(mem);
    g_autofree char *load = g_strdup_printf("ff.mib=%d ff.hot=%d ff.write=%d ff.mode=%s ff.store=1",
                                            hot, hot, opt.write, opt.mode);
    BenchCommand command = {.farfault = c->engine->farfault ? opt.farfault : NULL,
                            .qemu = c->qemu,
                            .guest = opt.guest,
                            .mem = mem,
                            .vcpus = opt.vcpus,
                            .load = load,
                            .qmp = qmp};
    GPtrArray *argv = bench_command_new(&command);

    if (c->engine->memfd) {
        bench_command_add_words(argv, "-machine memory-backend=ram -object");
        bench_command_add(argv, "memory-backend-memfd,id=ram,size=%dM,share=on", mem);
    }
    bench_command_add_words(argv, opt.with);
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, FALSE);
}

static bool measure(const Contender *c, int mem, BenchSnapshotSample *sample,
                    BenchSnapshotSeries *series, GError **error)
{
    g_autofree char *log = g_strdup_printf("%s/%s.log", opt.out, c->engine->name);
    g_auto(GStrv) argv = command_line(c, mem, bench.stage.qmp);
    BenchSnapshotRun run = {.engine = c->engine,
                            .argv = argv,
                            .qmp = bench.stage.qmp,
                            .log = log,
                            .file = bench.file,
                            .farfault = opt.farfault,
                            .throttle = bench.throttle,
                            .buffer = opt.buffer < 0 ? -1 : (gint64)opt.buffer << 20};
    bool ok = bench_snapshot_run(&run, sample, series, error);

    unlink(bench.stage.qmp);
    return ok;
}

/* ---- results --------------------------------------------------------------------------------- */

static void add_setting(JsonObject *o, const Contender *c, int mem, gint round)
{
    json_object_set_string_member(o, "bench", "snapshot");
    json_object_set_string_member(o, "engine", c->engine->name);
    json_object_set_string_member(o, "qemu", c->version);
    json_object_set_int_member(o, "round", round);
    json_object_set_int_member(o, "mem-mib", mem);
    json_object_set_int_member(o, "hot-mib", hot_of(mem));
    json_object_set_int_member(o, "vcpus", opt.vcpus);
    json_object_set_int_member(o, "write-percent", opt.write);
    json_object_set_string_member(o, "mode", opt.mode);
    json_object_set_int_member(o, "disk-rate", opt.rate);
    if (opt.buffer >= 0) {
        json_object_set_int_member(o, "buffer-mib", opt.buffer);
    }
    json_object_set_string_member(o, "with", opt.with ? opt.with : "");
}

/* The guest's writes by duration, and its work over time from the command on. */
static void add_series(JsonObject *o, const BenchSnapshotSeries *series)
{
    JsonArray *hist = json_array_new(), *track = json_array_new();

    for (unsigned b = 0; b < BENCH_BUCKETS; b++) {
        json_array_add_int_element(hist, series->hist[b]);
    }
    for (guint i = 0; i < series->track->len; i++) {
        const BenchPoint *p = &g_array_index(series->track, BenchPoint, i);
        JsonArray *pair = json_array_new();
        json_array_add_double_element(pair, (p->us - series->start_us) / 1000.0);
        json_array_add_int_element(pair, p->steps);
        json_array_add_array_element(track, pair);
    }
    json_object_set_array_member(o, "writes", hist);
    json_object_set_array_member(o, "track", track);
    json_object_set_member(o, "query-migrate", json_node_copy(series->info));
}

static void write_json(const Contender *c, int mem, gint round, const BenchSnapshotSample *s,
                       const BenchSnapshotSeries *series)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;
    JsonObject *o = json_object_new();

    json_node_take_object(root, o);
    add_setting(o, c, mem, round);
    bench_figures_to_json(o, bench_snapshot_column, BENCH_SNAPSHOT_FIELDS, (const double *)s);
    add_series(o, series);
    text = json_to_string(root, FALSE);
    fprintf(bench.stage.json, "%s\n", text);
    fflush(bench.stage.json);
}

static void print_row(const char *name, const double *row)
{
    bench_print_figures(stdout, name, bench_snapshot_column, BENCH_SNAPSHOT_FIELDS, row);
    fflush(stdout);
}

static void print_head(int mem)
{
    printf("%d MiB guest, %d MiB in use, %d vCPU%s, %s, %d %% writes", mem, hot_of(mem), opt.vcpus,
           opt.vcpus == 1 ? "" : "s", opt.mode, opt.write);
    if (opt.rate) {
        printf(", disk at %d MB/s", opt.rate);
    }
    if (opt.buffer >= 0) {
        printf(", buffer %d MiB", opt.buffer);
    }
    printf("\n");
    print_row("", NULL);
}

static void print_ranks(const BenchSnapshotSample *sample, const unsigned *taken)
{
    g_autofree const char **name = g_new0(const char *, bench.contenders->len);

    for (guint i = 0; i < bench.contenders->len; i++) {
        name[i] = ((const Contender *)bench.contenders->pdata[i])->name;
    }
    bench_print_ranks(stdout, bench_snapshot_column, BENCH_SNAPSHOT_FIELDS, (const double *)sample,
                      opt.rounds, bench.contenders->len, name, taken);
}

/* Those of ENGINE with QEMU. */
static BenchSnapshotSamples samples_of(const BenchSnapshotSample *sample, const unsigned *taken,
                                       const char *engine, const char *qemu)
{
    for (guint i = 0; i < bench.contenders->len; i++) {
        const Contender *c = bench.contenders->pdata[i];

        if (!strcmp(c->engine->name, engine) && !strcmp(c->qemu, qemu)) {
            return (BenchSnapshotSamples){&sample[(gsize)i * opt.rounds], taken[i]};
        }
    }
    return (BenchSnapshotSamples){0};
}

static BenchVerdict verdict;

static void print_aims(const BenchSnapshotSample *sample, const unsigned *taken)
{
    for (guint i = 0; i < bench.contenders->len; i++) {
        const Contender *c = bench.contenders->pdata[i];
        const BenchSnapshotAims aims = {
            .name = c->name,
            .slow = opt.rate > 0,
            .ours = {&sample[(gsize)i * opt.rounds], taken[i]},
            .anon = samples_of(sample, taken, "qemu-anon", c->qemu),
            .memfd = samples_of(sample, taken, "qemu-memfd", c->qemu),
        };

        if (c->engine->farfault) {
            double blackout = bench_snapshot_blackout(&aims.ours);

            bench_snapshot_aims(stdout, &aims, &verdict);
            g_array_append_val(c->blackouts, blackout);
        }
    }
}

/* All rounds with guests of MEM MiB. */
static bool run_size(int mem)
{
    guint n = bench.contenders->len;
    g_autofree BenchSnapshotSample *sample = g_new0(BenchSnapshotSample, (gsize)n * opt.rounds);
    g_autofree unsigned *taken = g_new0(unsigned, n);
    bool all = true;

    print_head(mem);
    for (gint i = 0; i < opt.rounds * (gint)n; i++) {
        const Contender *c = bench.contenders->pdata[i % n];
        BenchSnapshotSample *s = &sample[i % n * opt.rounds + taken[i % n]];
        g_autoptr(GError) error = NULL;
        g_auto(BenchSnapshotSeries) series = {0};

        if (!measure(c, mem, s, &series, &error)) {
            g_printerr("bench: %s, round %d: %s\n", c->name, i / (gint)n + 1, error->message);
            all = false;
            continue;
        }
        write_json(c, mem, i / (gint)n, s, &series);
        print_row(c->name, (const double *)s);
        all = all && s->bad == 0;
        taken[i % n]++;
    }
    print_ranks(sample, taken);
    print_aims(sample, taken);
    return all;
}

static bool run_all(void)
{
    g_auto(GStrv) size = g_strsplit(opt.sizes, ",", -1);
    bool all = true;

    for (char **s = size; *s; s++) {
        all = run_size(atoi(*s)) && all;
    }
    for (guint i = 0; i < bench.contenders->len; i++) {
        const Contender *c = bench.contenders->pdata[i];
        bench_snapshot_flat(stdout, c->name, (const double *)(const void *)c->blackouts->data,
                            c->blackouts->len, &verdict);
    }
    if (opt.aims) {
        fflush(stderr);
        all = bench_snapshot_tell(stdout, &verdict) && all;
    }
    return all;
}

/* ---- what is asked for ----------------------------------------------------------------------- */

static const BenchSnapshotEngine *engine_named(const char *name)
{
    for (unsigned e = 0; e < ENGINES; e++) {
        if (!strcmp(engine_table[e].name, name)) {
            return &engine_table[e];
        }
    }
    return NULL;
}

static bool choose(GError **error)
{
    g_auto(GStrv) name = g_strsplit(opt.engines, ",", -1);

    for (char **q = opt.qemu; *q; q++) {
        g_autofree char *version = bench_command_version(*q, error);
        if (!version) {
            return false;
        }
        for (char **p = name; *p; p++) {
            Contender *c = g_new0(Contender, 1);
            c->blackouts = g_array_new(FALSE, FALSE, sizeof(double));
            g_ptr_array_add(bench.contenders, c);
            c->engine = engine_named(*p);
            if (!c->engine) {
                g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                            "--engines %s: known are " ENGINE_NAMES, opt.engines);
                return false;
            }
            c->qemu = *q;
            c->name = g_strdup_printf("%s %s", *p, version);
            c->version = g_strdup(version);
        }
    }
    return true;
}

static void set_default(char **option, const char *value)
{
    *option = *option ? *option : g_strdup(value);
}

static bool sizes_are_good(void)
{
    g_auto(GStrv) size = g_strsplit(opt.sizes, ",", -1);

    for (char **s = size; *s; s++) {
        if (atoi(*s) < 128 || hot_of(atoi(*s)) >= atoi(*s)) {
            return false;
        }
    }
    return true;
}

static bool settle(GError **error)
{
    static const char *const qemu[] = {"qemu-system-x86_64", NULL};

    set_default(&opt.sizes, "1024");
    set_default(&opt.engines, ENGINE_NAMES);
    set_default(&opt.mode, "random");
    set_default(&opt.out, ".");
    opt.qemu = opt.qemu ? opt.qemu : g_strdupv((char **)qemu);
    if (opt.rounds < 1 || opt.vcpus < 1 || opt.rate < 0 || opt.hot < 0 || !sizes_are_good()) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "numbers out of range: rounds and vcpus from 1, mem from 128, hot below mem");
        return false;
    }
    if (!opt.guest || !opt.farfault) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "give --guest and --farfault, or start it by scripts/bench --snapshot");
        return false;
    }
    return choose(error);
}

static void tidy(void)
{
    unlink(bench.file);
    g_clear_pointer(&bench.throttle, bench_throttle_free);
}

static void close_all(void)
{
    bench_stage_close(&bench.stage);
    g_clear_pointer(&bench.throttle, bench_throttle_free);
    g_ptr_array_unref(bench.contenders);
    g_free(bench.file);
}

/* Where results and throttle come from. 0, or the exit status. */
static int open_all(void)
{
    int status = bench_throttle_open(&bench.throttle, opt.out, BENCH_THROTTLE_WRITES, opt.rate);

    if (status) {
        return status;
    }
    bench.file = g_strdup_printf("%s/snapshot-%d", opt.out, (int)getpid());
    return !bench_stage_open(&bench.stage, opt.out, tidy);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- compare live snapshots");
    g_autoptr(GError) error = NULL;

    bench.contenders = g_ptr_array_new_with_free_func(contender_free);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || !settle(&error)) {
        g_printerr("bench: %s\n", error->message);
        return 2;
    }
    int status = open_all();
    if (status == 0) {
        status = run_all() ? 0 : 1;
    }
    close_all();
    return status;
}
