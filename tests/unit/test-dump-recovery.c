/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A destination whose source is gone goes on from the source's dump: paused at random moments, its
 * memory is then that of the source, byte by byte, and no vCPU sees a wrong page. A dump that is
 * cut, damaged, old, or of another migration is refused, and the source can still be resumed. A
 * source that comes back while a dump is read is sent away, and has no way back to its guest; when
 * all is there it learns that.
 *
 * FF_ROUNDS: how many random moments (default 6).
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fault/fault.h"
#include "migration/dump.h"
#include "tests/lib/cutter.h"
#include "tests/lib/dumps.h"
#include "tests/lib/pair.h"

typedef struct {
    Pair p;
    Cutter *c;
    char *to; /* where the destination listens */
    char *dir, *dump;
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

/* Paused after BUDGET bytes, or (0) at the first frame of TYPE. Perhaps it was over before: then
 * the destination is not paused, and there is no dump. */
static Test begin(unsigned n_touchers, int64_t budget, FfFrameType type, bool after)
{
    Test t = {.p = pair_new(n_touchers)};

    t.to = pair_address(t.p.d);
    t.c = cutter_new(t.to, budget ? budget : -1);
    if (!budget) {
        g_atomic_int_set(&t.c->type, type);
        g_atomic_int_set(&t.c->after, after);
    }
    side_start(t.p.s, t.c->uri, -1);
    ff_migration_start_postcopy(t.p.s->m, NULL);
    side_run_until(pair_over(t.p.s) && (pair_over(t.p.d) || t.p.d->status == FF_STATUS_COMPLETED));
    t.dir = g_dir_make_tmp("ff-dump-XXXXXX", NULL);
    t.dump = g_build_filename(t.dir, "source", NULL);
    if (t.p.s->status == FF_STATUS_POSTCOPY_PAUSED) {
        write_half(t.p.s, t.dump);
    }
    return t;
}

/* The sides may be gone already. */
static void end(Test *t)
{
    cutter_free(t->c);
    if (t->p.s) {
        side_free(t->p.s);
    }
    if (t->p.d) {
        side_free(t->p.d);
    }
    dump_remove(t->dump);
    g_assert_cmpint(g_rmdir(t->dir), ==, 0);
    g_free(t->dump);
    g_free(t->dir);
    g_free(t->to);
}

static void recover(Side *d, const char *dump)
{
    g_autoptr(GError) error = NULL;
    gsize before = d->history->len;

    ff_migration_recover_dump(d->m, dump, &error);
    g_assert_no_error(error);
    side_run_until(d->history->len > before);
}

static char *error_of(Side *s)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    return g_strdup(info->error_desc);
}

/* It is the only one there was, and has all of its memory. */
static void check_alone(Side *d, char *const memory[])
{
    g_assert_cmpint(d->status, ==, FF_STATUS_COMPLETED);
    g_assert_true(g_atomic_int_get(&d->runs));
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    for (unsigned b = 0; b < PAIR_BLOCKS; b++) {
        g_assert_cmpint(memcmp(memory[b], d->map[b], pair_sizes[b]), ==, 0);
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    g_assert_cmpuint(info->ram_remaining, ==, 0);
    g_assert_cmpuint(d->state->marks & FF_MARK_DUMP, ==, 0);
}

/* ---- the source is gone ------------------------------------------------------------------------
 */

static void test_progress(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    for (unsigned i = 0; i < GPOINTER_TO_UINT(data); i++) {
        g_test_rand_int(); /* each row begins with the same seed */
    }
    Test t = begin(2, 310000 + g_test_rand_int_range(0, 7 << 20), 0, false);
    Side *d = t.p.d;
    if (t.p.s->status != FF_STATUS_POSTCOPY_PAUSED || d->status != FF_STATUS_POSTCOPY_PAUSED ||
        d->state->phase != FF_PHASE_GRANTED) {
        g_test_message("%s, %s: nothing to recover", t.p.s->history->str, d->history->str);
        d->n_touchers = d->state->phase == FF_PHASE_LOADED ? 0 : d->n_touchers;
        end(&t);
        return;
    }
    char *memory[PAIR_BLOCKS];
    uint64_t epoch = d->state->epoch;
    for (unsigned b = 0; b < PAIR_BLOCKS; b++) {
        memory[b] = g_memdup2(t.p.s->map[b], pair_sizes[b]);
    }
    side_free(g_steal_pointer(&t.p.s)); /* for good */
    recover(d, t.dump);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    g_assert_cmpuint(d->state->epoch, >, epoch);
    ff_migration_stop_waiting(d->m); /* for a source that will not come */
    side_run_until(d->done);
    check_alone(d, memory);
    for (unsigned b = 0; b < PAIR_BLOCKS; b++) {
        g_free(memory[b]);
    }
    end(&t);
}

/* ---- dumps that are refused --------------------------------------------------------------------
 */

typedef struct {
    const char *name, *says;
    void (*change)(const char *dump);
} Bad;

static void flip_memory(const char *dump)
{
    dump_flip(dump, "0.memory", (5 << 20) + 12345);
}

/* As a copy that was not finished: as long as it must be, and its end is zeros. */
static void lose_memory(const char *dump)
{
    g_autofree char *path = g_build_filename(dump, "0.memory", NULL);

    g_assert_cmpint(truncate(path, 5 << 20), ==, 0);
    g_assert_cmpint(truncate(path, (off_t)pair_sizes[0]), ==, 0);
}

static void cut_memory(const char *dump)
{
    dump_cut(dump, "1.memory", 1);
}

static void cut_pages(const char *dump)
{
    dump_cut(dump, "0.pages", 8);
}

static void flip_sums(const char *dump)
{
    dump_flip(dump, "0.sums", 3);
}

static void unfinished(const char *dump)
{
    g_autofree char *path = g_build_filename(dump, "dump", NULL);

    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void flip_about(const char *dump)
{
    dump_flip(dump, "dump", 40);
}

static void old_format(const char *dump)
{
    g_autofree char *path = g_build_filename(dump, "dump", NULL);

    g_assert_true(g_file_set_contents(path, "[dump]\nformat=1\nrole=source\nblocks=2\n", -1, NULL));
}

static void newer_format(const char *dump)
{
    dump_say(dump, "dump", "format", "3");
}

static void foreign(const char *dump)
{
    dump_say(dump, "dump", "session", "00112233445566778899aabbccddeeff");
}

static void before_grant(const char *dump)
{
    dump_say(dump, "dump", "run-right", "mine");
}

static void other_half(const char *dump)
{
    dump_say(dump, "dump", "role", "destination");
}

static void other_address(const char *dump)
{
    dump_say(dump, "block 1", "address", "4096");
}

static void other_name(const char *dump)
{
    dump_say(dump, "block 1", "id", "dimm0");
}

static void fewer_blocks(const char *dump)
{
    dump_say(dump, "dump", "blocks", "1");
}

/* Of a source that has given up memory: the last pages are in neither. */
static void lacks_pages(const char *dump)
{
    dump_change(dump, "0.pages", pair_sizes[0] / PAGE / 8 - 1, 0);
    dump_seal(dump);
}

static const Bad bad[] = {
    {"flipped", "0.memory: damaged: the checksum of the MiB at byte 5242880", flip_memory},
    {"lost", "0.memory: damaged", lose_memory},
    {"cut", "1.memory: it was cut or damaged", cut_memory},
    {"pages-cut", "0.pages: it was cut or damaged", cut_pages},
    {"sums-flipped", "0.sums: damaged", flip_sums},
    {"unfinished", "did not come to its end", unfinished},
    {"description-flipped", "its checksum does not match", flip_about},
    {"old", "of format 1, which has no checksums", old_format},
    {"newer", "of format 3", newer_format},
    {"foreign", "of another migration", foreign},
    {"before-grant", "before the source gave the guest away", before_grant},
    {"destination's", "it is the destination's half", other_half},
    {"address", "its memory 'ram1' is another one", other_address},
    {"name", "it has no memory 'ram1'", other_name},
    {"blocks", "it has 1 blocks of memory, this guest has 2", fewer_blocks},
    {"lacking", "8 pages are neither here nor in it", lacks_pages},
};

static void try_bad(Test *t, const Bad *b)
{
    g_autofree char *copy = g_build_filename(t->dir, "bad", NULL);
    Side *d = t->p.d;
    uint64_t epoch = d->state->epoch;
    g_autoptr(FfMigrationInfo) before = ff_migration_info(d->m);

    dump_copy(t->dump, copy);
    b->change(copy);
    recover(d, copy);
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
    g_autofree char *error = error_of(d);
    g_autoptr(FfMigrationInfo) after = ff_migration_info(d->m);
    g_test_message("%s: %s", b->name, error);
    g_assert_nonnull(strstr(error, b->says));
    g_assert_null(strchr(error, '\n'));
    g_assert_cmpuint(after->ram_remaining, ==, before->ram_remaining);
    g_assert_cmpuint(d->state->marks & FF_MARK_DUMP, ==, 0);
    g_assert_cmpuint(d->state->epoch, ==, epoch);
    dump_remove(copy);
}

/* Nothing has changed by any of them. */
static void test_refused(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Test t = begin(2, 0, FF_FRAME_RUNNING, false);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        try_bad(&t, &bad[i]);
    }
    recover(t.p.d, "/nowhere/at/all");
    side_run_until(t.p.d->status == FF_STATUS_POSTCOPY_PAUSED);
    g_autofree char *nowhere = error_of(t.p.d);
    g_assert_nonnull(strstr(nowhere, "/nowhere/at/all: No such file or directory (errno 2)"));
    g_assert_false(ff_migration_recover_dump(t.p.d->m, "relative", &error));
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}

/* It was never granted the guest: its source may have taken it back since the dump was made. */
static void test_loaded(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Test t = begin(0, 0, FF_FRAME_GRANT, false);
    g_assert_cmpint(t.p.d->state->phase, ==, FF_PHASE_LOADED);
    g_assert_false(ff_migration_recover_dump(t.p.d->m, t.dump, &error));
    g_assert_nonnull(strstr(error->message, "farfault join"));
    g_clear_error(&error);
    /* Nor a source. */
    g_assert_false(ff_migration_recover_dump(t.p.s->m, t.dump, &error));
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}

/* ---- a dump that cannot be read any more, and a source that comes back -------------------------
 */

static gint reads;  /* atomic: so many more succeed */
static gint errors; /* atomic */

static int fail_reads(const char *place, const char *name)
{
    if (strcmp(name, "read-dump") != 0 || g_atomic_int_add(&reads, -1) > 0) {
        return 0;
    }
    g_atomic_int_inc(&errors);
    return EIO;
}

#ifdef FF_FAULTS
static void test_returns(void)
{
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Test t = begin(0, 0, FF_FRAME_RUNNING, false); /* no faults: the fill alone reads */
    Side *s = t.p.s, *d = t.p.d;
    /* The description, the lists, and each MiB once: then the disk fails. */
    g_atomic_int_set(&reads, 1 + 4 + 6 + 2 + 1);
    ff_fault_hook(fail_reads);
    recover(d, t.dump);
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
    g_autofree char *failed = error_of(d);
    g_test_message("%s", failed);
    g_assert_nonnull(strstr(failed, t.dump));
    g_assert_nonnull(strstr(failed, "errno 5"));
    g_assert_cmpuint(d->state->marks & FF_MARK_DUMP, ==, FF_MARK_DUMP);
    /* Not resumed: it keeps its memory, and is not told that it may let go. */
    pair_resume_at(&t.p, t.to);
    side_run_until(pair_over(s));
    g_assert_cmpint(s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_autofree char *away = error_of(s);
    g_assert_nonnull(strstr(away, "recovered from a dump"));
    /* Not revoked. */
    g_assert_true(ff_migration_revoke(s->m, t.to, -1, false, &error));
    g_assert_no_error(error);
    side_run_until(strstr(s->history->str, "postcopy-recover postcopy-paused postcopy-recover "
                                           "postcopy-paused"));
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_GIVEN);
    /* Nor called for. */
    g_assert_false(ff_migration_recover(d->m, "tcp:127.0.0.1:0", -1, &error));
    g_assert_nonnull(strstr(error->message, "file:DIRECTORY"));
    g_clear_error(&error);
    /* What is still wrong leaves it paused; another copy does as well. */
    recover(d, "/nowhere");
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
    ff_fault_hook(NULL);
    g_autofree char *copy = g_build_filename(t.dir, "copy", NULL);
    dump_copy(t.dump, copy);
    recover(d, copy);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    dump_remove(copy);
    /* Now it hears that there is nothing for it to do. */
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    g_assert_cmpint(g_atomic_int_get(&errors), >, 0);
    end(&t);
}
#endif

int main(int argc, char **argv)
{
    const char *rounds = g_getenv("FF_ROUNDS");

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < (rounds ? atoi(rounds) : 6); i++) {
        g_autofree char *path = g_strdup_printf("/dump-recovery/progress/%d", i);
        g_test_add_data_func(path, GINT_TO_POINTER(i), test_progress);
    }
    g_test_add_func("/dump-recovery/refused", test_refused);
    g_test_add_func("/dump-recovery/loaded", test_loaded);
#ifdef FF_FAULTS
    g_test_add_func("/dump-recovery/returns", test_returns);
#endif
    return g_test_run();
}
