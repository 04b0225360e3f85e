/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench of restores: farfault's lazy one beside stock QEMU's, in turn, in one run.
 *
 * For each size a Linux guest is saved once while it works; what stock QEMU reads, and a working
 * set, are made of that file. Each round restores it by each engine, with the file out of the page
 * cache and in it, and has the file read by itself. Rounds are interleaved, so that what else the
 * machine does meets all alike. Results: a table on stdout, one JSON line for each restore in
 * DIR/results.jsonl.
 *
 * One thread, the default main context.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "restore-aims.h"
#include "restore-cache.h"
#include "restore-files.h"
#include "stage.h"
#include "throttle.h"

static const BenchRestoreEngine engine_table[] = {
    {"read", .read = true},
    {"farfault", .farfault = true, .set = "ignore"},
    {"farfault-set", .farfault = true, .set = "use"},
    {"qemu-stream", .stream = true, .before = 900},
    {"qemu-mapped", .since = 900},
    {"qemu-multifd", .multifd = true, .since = 900},
    {"qemu-direct", .multifd = true, .direct = true, .since = 901},
};
#define ENGINES G_N_ELEMENTS(engine_table)
#define ENGINE_NAMES "read,farfault,farfault-set,qemu-stream,qemu-mapped,qemu-multifd,qemu-direct"

static const char *const cache_name[] = {[BENCH_CACHE_COLD] = "cold", [BENCH_CACHE_WARM] = "warm"};
#define CACHES G_N_ELEMENTS(cache_name)

static struct {
    gint rounds, hot, core, vcpus, write, rate;
    char *sizes, *engines, *mode, *cache, *machine, *out, *guest, *farfault, *with;
    char **qemu, *read;
    gboolean direct;
} opt = {.rounds = 3, .core = 64, .vcpus = 1, .write = 100};

static const GOptionEntry entries[] = {
    {"rounds", 0, 0, G_OPTION_ARG_INT, &opt.rounds, "Rounds (3)", "N"},
    {"mem", 0, 0, G_OPTION_ARG_STRING, &opt.sizes, "RAM of the guest (256)", "MIB"},
    {"sizes", 0, 0, G_OPTION_ARG_STRING, &opt.sizes, "The same for several guests, tables of each",
     "LIST"},
    {"hot", 0, 0, G_OPTION_ARG_INT, &opt.hot, "Part that it works on (3/4, less of small ones)",
     "MIB"},
    {"core", 0, 0, G_OPTION_ARG_INT, &opt.core, "Of that, with --mode core, mostly this (64)",
     "MIB"},
    {"vcpus", 0, 0, G_OPTION_ARG_INT, &opt.vcpus, "vCPUs (1)", "N"},
    {"write", 0, 0, G_OPTION_ARG_INT, &opt.write, "Steps that write (100)", "PERCENT"},
    {"mode", 0, 0, G_OPTION_ARG_STRING, &opt.mode, "core (the default), random, seq, zipf", "MODE"},
    {"cache", 0, 0, G_OPTION_ARG_STRING, &opt.cache, "cold, warm (both)", "LIST"},
    {"engines", 0, 0, G_OPTION_ARG_STRING, &opt.engines, ENGINE_NAMES, "LIST"},
    {"qemu", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &opt.qemu,
     "QEMU (qemu-system-x86_64); can be given again. The first one's guest is saved", "PATH"},
    {"machine", 0, 0, G_OPTION_ARG_STRING, &opt.machine,
     "Its machine type, which all of them have (pc-i440fx-7.2)", "TYPE"},
    {"disk-rate", 0, 0, G_OPTION_ARG_INT, &opt.rate,
     "A cgroup of this run's own reads from the disk of --out no faster", "MB/s"},
    {"with", 0, 0, G_OPTION_ARG_STRING, &opt.with, "Words for QEMU: \"-vga std\"", "WORDS"},
    {"out", 0, 0, G_OPTION_ARG_FILENAME, &opt.out, "Folder for files, results and logs", "DIR"},
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &opt.guest, "Folder of vmlinuz, initrd.img", "DIR"},
    {"farfault", 0, 0, G_OPTION_ARG_FILENAME, &opt.farfault, "farfault's program", "PATH"},
    {"read", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME, &opt.read, "", ""},
    {"direct", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &opt.direct, "", ""},
    G_OPTION_ENTRY_NULL,
};

/* One row of the tables. */
typedef struct {
    const BenchRestoreEngine *engine;
    const char *qemu; /* path; borrowed */
    char *version;    /* 7.2 */
    char *name;
} Contender;

static void contender_free(gpointer p)
{
    Contender *c = p;

    g_free(c->version);
    g_free(c->name);
    g_free(c);
}

static struct {
    GPtrArray *contenders; /* Contender */
    BenchStage stage;
    BenchSaved saved;
    BenchThrottle *throttle;
    bool caches[CACHES];
} bench;

/* ---- the guest ------------------------------------------------------------------------------- */

/* A guest has 64 MiB for its kernel at least. */
static int hot_of(int mem)
{
    return opt.hot ? opt.hot : MIN(mem / 4 * 3, mem - 96);
}

static char **command_line(const char *qemu, bool farfault, int mem, bool waits)
{
    int hot = hot_of(mem);
    g_autofree char *load =
        g_strdup_printf("ff.mib=%d ff.hot=%d ff.core=%d ff.write=%d ff.mode=%s ff.report=100", hot,
                        hot, opt.core, opt.write, opt.mode);
    BenchCommand command = {.farfault = farfault ? opt.farfault : NULL,
                            .qemu = qemu,
                            .guest = opt.guest,
                            .mem = mem,
                            .vcpus = opt.vcpus,
                            .load = load,
                            .qmp = bench.stage.qmp};
    GPtrArray *argv = bench_command_new(&command);

    bench_command_add_words(argv, "-machine");
    bench_command_add(argv, "%s", opt.machine);
    bench_command_add_words(argv, opt.with);
    bench_command_add_words(argv, waits ? "-incoming defer" : NULL);
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, FALSE);
}

static bool any_engine(bool (*is)(const BenchRestoreEngine *engine))
{
    for (guint i = 0; i < bench.contenders->len; i++) {
        if (is(((const Contender *)bench.contenders->pdata[i])->engine)) {
            return true;
        }
    }
    return false;
}

static bool reads_stream(const BenchRestoreEngine *engine)
{
    return engine->stream;
}

static bool has_set(const BenchRestoreEngine *engine)
{
    return !g_strcmp0(engine->set, "use");
}

static bool make_files(int mem, GError **error)
{
    g_autofree char *prefix = g_strdup_printf("%s/restore-%d", opt.out, (int)getpid());
    g_autofree char *log = g_strdup_printf("%s/saved.log", opt.out);
    g_auto(GStrv) save = command_line(opt.qemu[0], true, mem, false);
    g_auto(GStrv) learn = command_line(opt.qemu[0], true, mem, true);
    BenchSavedConfig config = {
        .farfault = opt.farfault, .save = save, .learn = learn, .qmp = bench.stage.qmp, .log = log};

    bench_saved_name(&bench.saved, prefix, any_engine(reads_stream), any_engine(has_set));
    return bench_saved_make(&bench.saved, &config, error);
}

/* ---- one restore ----------------------------------------------------------------------------- */

/* As bench_cache_read(), by a process of its own, which moves into the slow cgroup. */
static bool read_slowly(const char *path, bool direct, uint64_t *bytes, int64_t *us, GError **error)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", error);
    const char *const own[] = {self, "--read", path, direct ? "--direct" : NULL, NULL};
    g_auto(GStrv) argv = NULL;
    g_autofree char *out = NULL;
    int status;

    if (!self) {
        return false;
    }
    argv = bench_throttle_wrap(bench.throttle, own);
    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, NULL, &status, error) ||
        !g_spawn_check_wait_status(status, error)) {
        return false;
    }
    if (sscanf(out, "%" SCNu64 " %" SCNi64, bytes, us) != 2) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "%s: no figures of it", path);
        return false;
    }
    return true;
}

/* What read_slowly() starts. The exit status. */
static int read_for_parent(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;
    int64_t us;

    if (!bench_cache_read(opt.read, opt.direct, &bytes, &us, &error)) {
        g_printerr("bench: %s\n", error->message);
        return 1;
    }
    printf("%" PRIu64 " %" PRIi64 "\n", bytes, us);
    return 0;
}

/* The file alone. */
static bool measure_read(BenchCache cache, BenchRestoreSample *s, GError **error)
{
    bool cold = cache == BENCH_CACHE_COLD;
    const char *file = bench.saved.mapped;
    uint64_t bytes;
    int64_t us;

    bench_restore_clear(s);
    if (!(cold ? bench_cache_drop : bench_cache_fill)(file, error) ||
        !(bench.throttle ? read_slowly : bench_cache_read)(file, cold, &bytes, &us, error)) {
        return false;
    }
    s->all_ms = (double)us / 1000;
    s->mib_s = (double)bytes / (1 << 20) / ((double)us / 1e6);
    return true;
}

static bool measure(const Contender *c, int mem, BenchCache cache, gint round,
                    BenchRestoreSample *s, BenchRestoreSeries *series, GError **error)
{
    g_autofree char *log = g_strdup_printf("%s/%s.log", opt.out, c->engine->name);
    g_auto(GStrv) command = command_line(c->qemu, c->engine->farfault, mem, true);
    g_auto(GStrv) argv = bench_throttle_wrap(bench.throttle, (const char *const *)command);
    BenchRestoreRun run = {.engine = c->engine,
                           .argv = argv,
                           .qmp = bench.stage.qmp,
                           .log = log,
                           .saved = &bench.saved,
                           .cache = cache,
                           .key = (char)('1' + round % 9)};
    uint64_t bytes;

    if (c->engine->read) {
        return measure_read(cache, s, error);
    }
    bool ok = bench_restore_run(&run, s, series, error) &&
              bench_cache_data(bench_restore_file(c->engine, &bench.saved), &bytes, error);
    unlink(bench.stage.qmp);
    if (ok) {
        s->mib_s = (double)bytes / (1 << 20) / (s->all_ms / 1000);
    }
    return ok;
}

/* ---- results --------------------------------------------------------------------------------- */

static double load_now(void)
{
    double load = NAN;

    return getloadavg(&load, 1) == 1 ? load : NAN;
}

static void add_setting(JsonObject *o, const Contender *c, int mem, BenchCache cache, gint round)
{
    json_object_set_string_member(o, "bench", "restore");
    json_object_set_string_member(o, "engine", c->engine->name);
    json_object_set_string_member(o, "qemu", c->version);
    json_object_set_string_member(o, "cache", cache_name[cache]);
    json_object_set_int_member(o, "round", round);
    json_object_set_int_member(o, "mem-mib", mem);
    json_object_set_int_member(o, "hot-mib", hot_of(mem));
    json_object_set_int_member(o, "core-mib", opt.core);
    json_object_set_int_member(o, "vcpus", opt.vcpus);
    json_object_set_int_member(o, "write-percent", opt.write);
    json_object_set_string_member(o, "mode", opt.mode);
    json_object_set_string_member(o, "machine", opt.machine);
    json_object_set_string_member(o, "with", opt.with ? opt.with : "");
    json_object_set_int_member(o, "disk-rate", opt.rate);
    json_object_set_double_member(o, "load", load_now());
}

/* The guest's work over time from the command on. */
static void add_series(JsonObject *o, const BenchRestoreSeries *series)
{
    JsonArray *track = json_array_new();

    for (guint i = 0; i < series->track->len; i++) {
        const BenchPoint *p = &g_array_index(series->track, BenchPoint, i);
        JsonArray *pair = json_array_new();

        json_array_add_double_element(pair, (double)(p->us - series->start_us) / 1000);
        json_array_add_int_element(pair, (gint64)p->steps);
        json_array_add_array_element(track, pair);
    }
    json_object_set_array_member(o, "track", track);
    json_object_set_member(o, "query-migrate", json_node_copy(series->info));
}

static void write_json(const Contender *c, int mem, BenchCache cache, gint round,
                       const BenchRestoreSample *s, const BenchRestoreSeries *series)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;
    JsonObject *o = json_object_new();

    json_node_take_object(root, o);
    add_setting(o, c, mem, cache, round);
    bench_figures_to_json(o, bench_restore_column, BENCH_RESTORE_FIELDS, (const double *)s);
    if (series->track) {
        add_series(o, series);
    }
    text = json_to_string(root, FALSE);
    fprintf(bench.stage.json, "%s\n", text);
    fflush(bench.stage.json);
}

static bool print_head(int mem, GError **error)
{
    uint64_t bytes, set = 0;

    if (!bench_cache_data(bench.saved.mapped, &bytes, error) ||
        (bench.saved.set && !bench_cache_data(bench.saved.set, &set, error))) {
        return false;
    }
    printf("%d MiB guest, %d MiB in use, %d vCPU%s, %s", mem, hot_of(mem), opt.vcpus,
           opt.vcpus == 1 ? "" : "s", opt.mode);
    if (!strcmp(opt.mode, "core")) {
        printf(" of %d MiB", opt.core);
    }
    printf(", %d %% writes; file %.0f MiB, working set %.0f MiB; load %.1f\n", opt.write,
           (double)bytes / (1 << 20), (double)set / (1 << 20), load_now());
    return true;
}

static void print_ranks(BenchCache cache, const BenchRestoreSample *sample, const unsigned *taken)
{
    guint n = bench.contenders->len;
    g_autofree const char **name = g_new0(const char *, n);

    for (guint i = 0; i < n; i++) {
        name[i] = ((const Contender *)bench.contenders->pdata[i])->name;
    }
    bench_print_figures(stdout, cache_name[cache], bench_restore_column, BENCH_RESTORE_FIELDS,
                        NULL);
    bench_print_ranks(stdout, bench_restore_column, BENCH_RESTORE_FIELDS, (const double *)sample,
                      (unsigned)opt.rounds, n, name, taken);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* What the rounds of one cache came to; of each contender opt.rounds samples. */
typedef struct {
    BenchRestoreSample *sample;
    unsigned *taken;
} Table;

/* Of engine NAME with QEMU (NULL: any). */
static BenchRestoreSamples samples_of(const Table *t, const char *name, const char *qemu)
{
    for (guint i = 0; i < bench.contenders->len; i++) {
        const Contender *c = bench.contenders->pdata[i];

        if (!strcmp(c->engine->name, name) && (!qemu || !strcmp(c->version, qemu))) {
            return (BenchRestoreSamples){&t->sample[i * (guint)opt.rounds], t->taken[i]};
        }
    }
    return (BenchRestoreSamples){0};
}

/* Once for each QEMU. */
static void print_aims(const Table *t, BenchCache cache)
{
    for (guint i = 0; i < bench.contenders->len; i++) {
        const Contender *c = bench.contenders->pdata[i];
        g_autofree char *name = g_strdup_printf("farfault %s", c->version);
        BenchRestoreSamples lazy = samples_of(t, "farfault", c->version);
        BenchRestoreSamples set = samples_of(t, "farfault-set", c->version);
        const BenchRestoreAims aims = {.name = name,
                                       .cold = cache == BENCH_CACHE_COLD,
                                       .read = samples_of(t, "read", NULL),
                                       .lazy = lazy,
                                       .set = set};

        /* By the row without a working set, or, where there is none, by the one with. */
        if (c->engine->farfault && (!has_set(c->engine) || !lazy.sample)) {
            bench_restore_aims(stdout, &aims);
        }
    }
}

static void table_clear(Table *t)
{
    g_free(t->sample);
    g_free(t->taken);
}

/* FALSE: it failed, or the guest is damaged. */
static bool take(Table *t, guint i, int mem, BenchCache cache, gint round)
{
    const Contender *c = bench.contenders->pdata[i];
    BenchRestoreSample *s = &t->sample[i * (guint)opt.rounds + t->taken[i]];
    g_auto(BenchRestoreSeries) series = {0};
    g_autoptr(GError) error = NULL;

    if (!measure(c, mem, cache, round, s, &series, &error)) {
        g_printerr("%s, %s, round %d: %s\n", c->name, cache_name[cache], round + 1, error->message);
        return false;
    }
    t->taken[i]++;
    write_json(c, mem, cache, round, s, &series);
    return !(s->bad > 0);
}

static bool run_rounds(int mem, Table *table)
{
    bool all = true;

    for (gint round = 0; round < opt.rounds; round++) {
        for (unsigned cache = 0; cache < CACHES; cache++) {
            for (guint i = 0; bench.caches[cache] && i < bench.contenders->len; i++) {
                all = take(&table[cache], i, mem, cache, round) && all;
            }
        }
    }
    return all;
}

static bool run_size(int mem)
{
    guint n = bench.contenders->len;
    g_autoptr(GError) error = NULL;
    Table table[CACHES];
    bool all;

    if (!make_files(mem, &error) || !print_head(mem, &error)) {
        g_printerr("%d MiB: no guest was saved: %s\n", mem, error->message);
        bench_saved_clear(&bench.saved);
        return false;
    }
    for (unsigned c = 0; c < CACHES; c++) {
        table[c] = (Table){.sample = g_new0(BenchRestoreSample, (gsize)n * (gsize)opt.rounds),
                           .taken = g_new0(unsigned, n)};
    }
    all = run_rounds(mem, table);
    for (unsigned c = 0; c < CACHES; c++) {
        if (bench.caches[c]) {
            print_ranks(c, table[c].sample, table[c].taken);
            print_aims(&table[c], c);
        }
        table_clear(&table[c]);
    }
    bench_saved_clear(&bench.saved);
    return all;
}

static bool run_all(void)
{
    g_auto(GStrv) size = g_strsplit(opt.sizes, ",", -1);
    bool all = true;

    for (char **s = size; *s; s++) {
        all = run_size(atoi(*s)) && all;
    }
    return all;
}

/* ---- what is asked for ----------------------------------------------------------------------- */

static const BenchRestoreEngine *engine_named(const char *name)
{
    for (unsigned e = 0; e < ENGINES; e++) {
        if (!strcmp(engine_table[e].name, name)) {
            return &engine_table[e];
        }
    }
    return NULL;
}

static bool knows(const BenchRestoreEngine *engine, const char *version)
{
    const char *dot = strchr(version, '.');
    int number = atoi(version) * 100 + (dot ? atoi(dot + 1) : 0);

    return number >= (int)engine->since && (!engine->before || number < (int)engine->before);
}

static void add_contender(const BenchRestoreEngine *engine, const char *qemu, const char *version)
{
    Contender *c = g_new0(Contender, 1);

    c->engine = engine;
    c->qemu = qemu;
    c->name =
        engine->read ? g_strdup(engine->name) : g_strdup_printf("%s %s", engine->name, version);
    c->version = g_strdup(version);
    g_ptr_array_add(bench.contenders, c);
}

/* Each engine with each QEMU that has it. */
static bool choose_engines(GError **error)
{
    g_auto(GStrv) name = g_strsplit(opt.engines, ",", -1);

    for (char **q = opt.qemu; *q; q++) {
        g_autofree char *version = bench_command_version(*q, error);

        for (char **p = name; version && *p; p++) {
            const BenchRestoreEngine *engine = engine_named(*p);

            if (!engine) {
                g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                            "--engines %s: known are " ENGINE_NAMES, opt.engines);
                return false;
            }
            if (engine->read ? q == opt.qemu : knows(engine, version)) {
                add_contender(engine, *q, version);
            }
        }
        if (!version) {
            return false;
        }
    }
    return true;
}

static bool choose_caches(GError **error)
{
    g_auto(GStrv) name = g_strsplit(opt.cache, ",", -1);

    for (char **p = name; *p; p++) {
        unsigned c = BENCH_CACHE_COLD;

        while (c < CACHES && strcmp(cache_name[c], *p) != 0) {
            c++;
        }
        if (c == CACHES) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                        "--cache %s: known are cold,warm", opt.cache);
            return false;
        }
        bench.caches[c] = true;
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
    char *out;

    set_default(&opt.sizes, "256");
    set_default(&opt.engines, ENGINE_NAMES);
    set_default(&opt.mode, "core");
    set_default(&opt.cache, "cold,warm");
    set_default(&opt.machine, "pc-i440fx-7.2");
    set_default(&opt.out, ".");
    opt.qemu = opt.qemu ? opt.qemu : g_strdupv((char **)qemu);
    out = g_canonicalize_filename(opt.out, NULL); /* the engine has another working directory */
    g_free(opt.out);
    opt.out = out;
    if (opt.rounds < 1 || opt.vcpus < 1 || opt.rate < 0 || opt.hot < 0 || opt.core < 0 ||
        !sizes_are_good()) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "numbers out of range: rounds and vcpus from 1, mem from 128, hot below mem");
        return false;
    }
    if (!opt.guest || !opt.farfault) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "give --guest and --farfault, or start it by scripts/bench --restore");
        return false;
    }
    return choose_caches(error) && choose_engines(error);
}

/* Of a bench that is ended by a signal. */
static void tidy(void)
{
    bench_saved_clear(&bench.saved);
    g_clear_pointer(&bench.throttle, bench_throttle_free);
}

/* Where results and throttle come from. 0, or the exit status. */
static int open_all(void)
{
    int status = bench_throttle_open(&bench.throttle, opt.out, BENCH_THROTTLE_READS, opt.rate);

    return status ? status : !bench_stage_open(&bench.stage, opt.out, tidy);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- compare restores");
    g_autoptr(GError) error = NULL;
    int status;

    bench.contenders = g_ptr_array_new_with_free_func(contender_free);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || (!opt.read && !settle(&error))) {
        g_printerr("bench: %s\n", error->message);
        return 2;
    }
    if (opt.read) {
        return read_for_parent();
    }
    status = open_all();
    if (status == 0) {
        status = run_all() ? 0 : 1;
    }
    bench_stage_close(&bench.stage);
    g_clear_pointer(&bench.throttle, bench_throttle_free);
    g_ptr_array_unref(bench.contenders);
    return status;
}
