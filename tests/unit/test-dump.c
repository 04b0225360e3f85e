/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both halves of a paused migration as files: together they are the guest's memory, byte by byte,
 * nobody but their owner can read them, and farfault dump --check tells whether a page is in
 * neither.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/failpoints.h"
#include "cli/common/commands.h"
#include "content/image/dump-join.h"
#include "content/image/xxh64.h"
#include "contract/state.h"
#include "migration/dump.h"
#include "tests/lib/cutter.h"
#include "tests/lib/dumps.h"
#include "tests/lib/pair.h"

typedef struct {
    Pair p;
    Cutter *c;
    char *dir, *half[2]; /* source's, destination's */
} Test;

static void write_half(Side *s, const char *directory)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfDump) dump = ff_dump_new(s->m, &error);
    uint64_t bytes;

    g_assert_no_error(error);
    ff_dump_write(dump, directory, &bytes, &error);
    g_assert_no_error(error);
}

/* Cut when some pages have arrived. */
static Test begin(FfFrameType type, bool after)
{
    Test t = {.p = pair_new(0)};
    g_autofree char *to = pair_address(t.p.d);

    t.c = cutter_new(to, -1);
    g_atomic_int_set(&t.c->type, type);
    g_atomic_int_set(&t.c->after, after);
    side_start(t.p.s, t.c->uri, -1);
    ff_migration_start_postcopy(t.p.s->m, NULL);
    side_run_until(pair_over(t.p.s) && pair_over(t.p.d));
    g_assert_cmpint(t.p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    t.dir = g_dir_make_tmp("ff-dump-XXXXXX", NULL);
    t.half[0] = g_build_filename(t.dir, "source", NULL);
    t.half[1] = g_build_filename(t.dir, "destination", NULL);
    write_half(t.p.s, t.half[0]);
    write_half(t.p.d, t.half[1]);
    return t;
}

static void end(Test *t)
{
    dump_remove(t->half[0]);
    dump_remove(t->half[1]);
    g_assert_cmpint(g_rmdir(t->dir), ==, 0);
    g_free(t->half[0]);
    g_free(t->half[1]);
    g_free(t->dir);
    cutter_free(t->c);
    pair_free(&t->p);
}

/* What it prints is not for the reader of this test's output. */
static int check_dirs(char *one, char *two)
{
    char *args[] = {(char *)"dump", (char *)"--check", one, two, NULL};
    int out = dup(STDOUT_FILENO), none = open("/dev/null", O_WRONLY | O_CLOEXEC);

    fflush(stdout);
    dup2(none, STDOUT_FILENO);
    int rc = ff_cli_dump(4, args);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    close(out);
    close(none);
    return rc;
}

static int check(Test *t)
{
    return check_dirs(t->half[0], t->half[1]);
}

static char *contents(const char *half, const char *name, gsize *length)
{
    g_autofree char *path = g_build_filename(half, name, NULL);
    char *data;

    g_assert_true(g_file_get_contents(path, &data, length, NULL));
    return data;
}

/* Returns how many pages are the destination's. */
static unsigned compare(Test *t, unsigned block)
{
    g_autofree char *memory = g_strdup_printf("%u.memory", block);
    g_autofree char *pages = g_strdup_printf("%u.pages", block);
    gsize n, m;
    g_autofree char *source = contents(t->half[0], memory, &n);
    g_autofree char *destination = contents(t->half[1], memory, &m);
    g_autofree uint64_t *held = (uint64_t *)(void *)contents(t->half[1], pages, &m);
    unsigned theirs = 0;

    g_assert_cmpuint(n, ==, pair_sizes[block]);
    for (uint64_t p = 0; p < n / PAGE; p++) {
        bool is = GUINT64_FROM_LE(held[p / 64]) >> (p % 64) & 1;
        const char *from = is ? destination : source;
        g_assert_cmpint(memcmp(from + p * PAGE, t->p.s->map[block] + p * PAGE, PAGE), ==, 0);
        theirs += is;
    }
    return theirs;
}

static void check_modes(const char *half)
{
    g_autoptr(GDir) dir = g_dir_open(half, 0, NULL);
    const char *name;
    struct stat st;

    g_assert_cmpint(stat(half, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0700);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(half, name, NULL);
        g_assert_cmpint(stat(file, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    }
}

static bool has(const char *half, const char *name)
{
    g_autofree char *path = g_build_filename(half, name, NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void test_whole(void)
{
    unsigned theirs = 0;

    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    for (unsigned i = 0; i < PAIR_BLOCKS; i++) {
        theirs += compare(&t, i);
    }
    g_assert_cmpuint(theirs, >, 0);
    check_modes(t.half[0]);
    check_modes(t.half[1]);
    g_assert_cmpint(check(&t), ==, 0);
    /* The source has what the guest was at the switch; the destination's guest has continued. */
    gsize n;
    g_autofree char *device = contents(t.half[0], "device-state", &n);
    g_assert_cmpuint(n, ==, DEVICE_BYTES);
    g_assert_cmpint(device[1000], ==, (char)(1000 * 31));
    g_assert_false(has(t.half[1], "device-state"));
    end(&t);
}

/* The destination has loaded it, and never ran. */
static void test_loaded(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_GRANT, false);
    g_assert_true(has(t.half[0], "device-state") && has(t.half[1], "device-state"));
    g_assert_cmpint(check(&t), ==, 0);
    end(&t);
}

static void test_lacking(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    /* Nothing is overwritten. */
    g_autoptr(FfDump) dump = ff_dump_new(t.p.s->m, NULL);
    g_assert_false(ff_dump_write(dump, t.half[0], &bytes, &error));
    g_clear_error(&error);
    g_assert_false(ff_dump_write(dump, "relative", &bytes, &error));
    /* Eight pages that neither has. */
    for (unsigned i = 0; i < 2; i++) {
        dump_change(t.half[i], "0.pages", 0, 0);
        dump_seal(t.half[i]);
    }
    g_assert_cmpint(check(&t), ==, 1);
    /* Twice the same half. */
    g_assert_cmpint(check_dirs(t.half[0], t.half[0]), ==, 1);
    end(&t);
}

/* Whatever is changed of a file, or is missing of it, is found. */
static void test_damaged(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    g_auto(GStrv) names = dump_names(t.half[0]);
    for (char **name = names; *name; name++) {
        g_autofree char *path = g_build_filename(t.half[0], *name, NULL);
        gsize n;
        g_autofree char *data = contents(t.half[0], *name, &n);
        gsize places[] = {0, n - 1, (gsize)(g_test_rand_double() * (double)n)};

        for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
            dump_flip(t.half[0], *name, places[i]);
            g_assert_cmpint(check(&t), ==, 1);
            dump_flip(t.half[0], *name, places[i]);
        }
        dump_cut(t.half[0], *name, 1);
        g_assert_cmpint(check(&t), ==, 1);
        g_assert_true(g_file_set_contents(path, data, (gssize)n, NULL));
    }
    g_assert_cmpint(check(&t), ==, 0);
    /* One of a farfault of before checksums. */
    g_autofree char *about = g_build_filename(t.half[0], "dump", NULL);
    g_assert_true(g_file_set_contents(about, "[dump]\nformat=1\nblocks=2\n", -1, NULL));
    g_assert_cmpint(check(&t), ==, 1);
    end(&t);
}

/* Sums that hold around what cannot be: a word that would be more than a line, two blocks of one
 * name. */
static void test_senseless(void)
{
    static const struct {
        const char *group, *key, *value;
    } rows[] = {
        {"dump", "role", "source\nfarfault: recovered"},
        {"dump", "phase", "loaded\033[2J"},
        {"dump", "run-right", "given\r"},
        {"dump", "run-state", "\001"},
        {"block 0", "id", "pc.ram\n"},
        {"block 1", "id", NULL}, /* that of block 0 */
    };

    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_GRANT, false);
    const char *half = t.half[0];
    g_autofree char *first = dump_said(half, "block 0", "id");
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *was = dump_said(half, rows[i].group, rows[i].key);

        dump_say(half, rows[i].group, rows[i].key, rows[i].value ?: first);
        g_assert_null(ff_dump_files_open(open(half, O_RDONLY | O_CLOEXEC), half, &error));
        g_assert_nonnull(strstr(error->message, "no sense"));
        g_assert_null(strchr(error->message, '\n'));
        dump_say(half, rows[i].group, rows[i].key, was);
    }
    g_assert_cmpint(check(&t), ==, 0);
    end(&t);
}

/* The source is given its guest back, and the migration continues, while its memory is written:
 * what is in the files is of no moment, and no description makes a dump of it. */
static void test_moved_on(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    g_autofree char *late = g_build_filename(t.dir, "late", NULL);

    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FfDump) dump = ff_dump_new(t.p.s->m, NULL);
        FfStateHeader was = {.epoch = t.p.s->state->epoch, .run_right = t.p.s->state->run_right};
        uint64_t bytes;

        t.p.s->state->epoch += i;
        t.p.s->state->run_right = i ? FF_RUN_GIVEN : FF_RUN_MINE;
        g_assert_false(ff_dump_write(dump, late, &bytes, &error));
        g_assert_nonnull(strstr(error->message, "went on"));
        g_assert_false(has(late, "dump"));
        t.p.s->state->epoch = was.epoch;
        t.p.s->state->run_right = was.run_right;
        dump_remove(late);
    }
    end(&t);
}

static FfDumpFiles *open_half(const char *half)
{
    g_autoptr(GError) error = NULL;
    FfDumpFiles *f = ff_dump_files_open(open(half, O_RDONLY | O_CLOEXEC), half, &error);

    g_assert_no_error(error);
    return f;
}

/* Both are opened again; ff_dump_join_check() says something with PART, or (NULL) nothing. */
static void check_join(const Test *t, const char *part)
{
    g_autoptr(FfDumpFiles) s = open_half(t->half[0]), d = open_half(t->half[1]);
    g_autoptr(GError) error = NULL;

    g_assert_true(ff_dump_halves_check(s, d, NULL));
    g_assert_cmpint(ff_dump_join_check(s, d, &error), ==, !part);
    if (part) {
        g_assert_nonnull(strstr(error->message, part));
        g_assert_null(strchr(error->message, '\n'));
    }
}

/* A guest that has never run at the destination can be joined, and no other one. What is no stream
 * of QEMU's leaves nothing. */
static void test_join(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_GRANT, false);
    g_autofree char *joined = g_build_filename(t.dir, "joined", NULL);
    static const struct {
        unsigned half;
        const char *key, *value, *part;
    } rows[] = {
        {1, "phase", "granted", "farfault recover --from"},
        {1, "phase", "done", "farfault recover --from"},
        {1, "phase", "dead", "the guest is at the source"},
        {1, "phase", "loading", "the guest is at the source"},
        {0, "run-right", "mine", "it is at the source"},
    };

    check_join(&t, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *half = t.half[rows[i].half];
        g_autofree char *was = dump_said(half, "dump", rows[i].key);

        dump_say(half, "dump", rows[i].key, rows[i].value);
        check_join(&t, rows[i].part);
        dump_say(half, "dump", rows[i].key, was);
    }
    check_join(&t, NULL);
    {
        g_autoptr(FfDumpFiles) s = open_half(t.half[0]), d = open_half(t.half[1]);
        g_autoptr(GError) error = NULL;
        g_autoptr(FfOutput) o = ff_output_new(joined, &error);
        FfJoined result;

        g_assert_false(ff_dump_join_check(d, s, NULL));
        g_assert_false(ff_dump_join(s, d, o, &result, &error));
        g_assert_nonnull(error);
    }
    g_assert_false(g_file_test(joined, G_FILE_TEST_EXISTS));
    for (unsigned i = 0; i < 2; i++) {
        dump_say(t.half[i], "dump", "device-state-bytes", "0");
    }
    check_join(&t, "neither dump has the device state");
    end(&t);
}

/* The checksum is XXH64: its own vectors, and zstd's, which has the lower half of it at the end of
 * a frame. */
static void test_sum(void)
{
    static const char text[] = "Nobody inspects the spammish repetition";
    static uint8_t data[4000], frame[8000];
    ZSTD_CCtx *z = ZSTD_createCCtx();

    g_assert_cmphex(ff_xxh64("", 0, 0), ==, 0xef46db3751d8e999ull);
    g_assert_cmphex(ff_xxh64("a", 1, 0), ==, 0xd24ec4f1a98c6e5bull);
    g_assert_cmphex(ff_xxh64("abc", 3, 0), ==, 0x44bc2cf5ad770999ull);
    g_assert_cmphex(ff_xxh64(text, strlen(text), 0), ==, 0xfbcea83c8a378bf1ull);
    ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)g_test_rand_int();
    }
    for (size_t n = 0; n <= sizeof(data); n += n < 200 ? 1 : 97) {
        size_t len = ZSTD_compress2(z, frame, sizeof(frame), data, n);
        uint32_t low;

        g_assert_false(ZSTD_isError(len));
        memcpy(&low, frame + len - sizeof(low), sizeof(low));
        g_assert_cmphex(GUINT32_FROM_LE(low), ==, ff_xxh64(data, n, 0) & UINT32_MAX);
    }
    ZSTD_freeCCtx(z);
}

#ifdef FF_FAULTS
static int fail_parent(const char *place, const char *name)
{
    return strcmp(name, "dump-parent") ? 0 : EIO;
}

/* What has no name after a crash is no dump. */
static void test_unnamed(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    g_autofree char *late = g_build_filename(t.dir, "late", NULL);
    g_autoptr(FfDump) dump = ff_dump_new(t.p.s->m, NULL);
    ff_fault_hook(fail_parent);
    g_assert_false(ff_dump_write(dump, late, &bytes, &error));
    ff_fault_hook(NULL);
    g_assert_nonnull(strstr(error->message, "Input/output error"));
    g_assert_false(g_file_test(late, G_FILE_TEST_EXISTS));
    end(&t);
}
#endif

/* There is no room for memory: nothing of it stays, nor the folder if it was made for it, and the
 * same name can be used when there is. */
static void test_full(void)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_RUNNING, false);
    g_autofree char *new = g_build_filename(t.dir, "new", NULL);
    g_autofree char *known = g_build_filename(t.dir, "known", NULL);
    g_autofree char *mine = g_build_filename(known, "mine", NULL);
    struct rlimit had, limit;

    g_assert_cmpint(g_mkdir(known, 0700), ==, 0);
    g_assert_true(g_file_set_contents(mine, "x", 1, NULL));
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &had), ==, 0);
    limit = (struct rlimit){64 << 10, had.rlim_max};
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(FfDump) dump = ff_dump_new(t.p.s->m, NULL);

        g_assert_false(ff_dump_write(dump, i ? known : new, &bytes, &error));
        g_assert_nonnull(strstr(error->message, "0.memory: File too large"));
        g_clear_error(&error);
    }
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &had), ==, 0);
    signal(SIGXFSZ, before);
    g_assert_false(g_file_test(new, G_FILE_TEST_EXISTS));
    g_assert_true(has(known, "mine"));
    g_assert_false(has(known, "0.memory"));
    write_half(t.p.s, new);
    g_assert_true(has(new, "dump"));
    dump_remove(new);
    g_assert_cmpint(g_unlink(mine), ==, 0);
    g_assert_cmpint(g_rmdir(known), ==, 0);
    end(&t);
}

/* Not while it continues. */
static void test_active(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(0);
    g_assert_null(ff_dump_new(p.d->m, &error));
    g_assert_nonnull(strstr(error->message, "migrate-pause"));
    pair_free(&p);
}

/* What farfault status shows. */
static void test_half(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(FF_FRAME_GRANT, false);
    g_autoptr(FfMigrationInfo) s = ff_migration_info(t.p.s->m), d = ff_migration_info(t.p.d->m);
    g_assert_cmpint(s->split->phase, ==, FF_PHASE_GRANTED);
    g_assert_cmpint(d->split->phase, ==, FF_PHASE_LOADED);
    g_assert_false(d->split->may_run);
    g_assert_cmpstr(s->split->peer_uri, ==, t.c->uri);
    g_assert_cmpuint(d->split->pages_destination, <=, s->split->pages_destination);
    g_assert_cmpuint(s->split->pages_total, ==, (pair_sizes[0] + pair_sizes[1]) / PAGE);
    g_assert_cmpint(s->split->broken_ms, >=, 0);
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dump/whole", test_whole);
    g_test_add_func("/dump/loaded", test_loaded);
    g_test_add_func("/dump/lacking", test_lacking);
    g_test_add_func("/dump/damaged", test_damaged);
    g_test_add_func("/dump/senseless", test_senseless);
    g_test_add_func("/dump/moved-on", test_moved_on);
    g_test_add_func("/dump/join", test_join);
    g_test_add_func("/dump/sum", test_sum);
    g_test_add_func("/dump/full", test_full);
    g_test_add_func("/dump/active", test_active);
    g_test_add_func("/dump/half", test_half);
#ifdef FF_FAULTS
    g_test_add_func("/dump/unnamed", test_unnamed);
#endif
    return g_test_run();
}
