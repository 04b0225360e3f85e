/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A destination whose source is gone continues from the source's dump: paused at random moments,
 * its memory is then that of the source, byte by byte, and no vCPU sees a wrong page. A dump that
 * is cut, damaged, old, or of another migration is refused, and the source can still be resumed. A
 * source that comes back while a dump is read is sent away, and has no way back to its guest; when
 * all is there it learns that. A read that does not come back holds up nobody.
 *
 * FF_ROUNDS: how many random moments (default 4).
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/failpoints.h"
#include "migration/dump.h"
#include "tests/lib/cutter.h"
#include "tests/lib/dumps.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/pair.h"

#define HUGE_PAGES 6u

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
static Test begin_with(Pair p, int64_t budget, FfFrameType type, bool after)
{
    Test t = {.p = p};

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

static Test begin(unsigned n_touchers, int64_t budget, FfFrameType type, bool after)
{
    return begin_with(pair_new(n_touchers), budget, type, after);
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
    for (unsigned b = 0; b < d->blocks->len; b++) {
        const FfRamBlock *block = d->blocks->pdata[b];

        g_assert_cmpint(memcmp(memory[b], d->map[b], block->size), ==, 0);
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    g_assert_cmpuint(info->ram_remaining, ==, 0);
    g_assert_cmpuint(d->state->marks & FF_MARK_DUMP, ==, 0);
}

/* ---- the source is gone ---------------------------------------------------------------------- */

/* The source ends for good, and the destination is recovered. */
static void go_on_alone(Test *t)
{
    char *memory[PAIR_BLOCKS];
    Side *d = t->p.d;
    uint64_t epoch = d->state->epoch;

    for (unsigned b = 0; b < d->blocks->len; b++) {
        memory[b] = g_memdup2(t->p.s->map[b], ((FfRamBlock *)d->blocks->pdata[b])->size);
    }
    side_free(g_steal_pointer(&t->p.s));
    recover(d, t->dump);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    g_assert_cmpuint(d->state->epoch, >, epoch);
    ff_migration_stop_waiting(d->m); /* for a source that will not come */
    side_run_until(d->done);
    check_alone(d, memory);
    for (unsigned b = 0; b < d->blocks->len; b++) {
        g_free(memory[b]);
    }
}

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
        d->ends_touchers = true;
        end(&t);
        return;
    }
    go_on_alone(&t);
    end(&t);
}

/* A MiB of the dump is half a page. */
static void test_huge(void)
{
    HugePages *pool = side_possible() ? hugepages_new(2 * HUGE_PAGES) : NULL;

    if (!pool) {
        return;
    }
    Pair p = {side_new_huge(FF_ROLE_SOURCE, HUGE_PAGES, true),
              side_new_huge(FF_ROLE_DESTINATION, HUGE_PAGES, true)};
    p.s->config.max_postcopy_bandwidth = 1 << 20; /* a page is more than a second */
    side_fill(p.s);
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    Test t = begin_with(p, 0, FF_FRAME_RUNNING, false);
    if (t.p.d->status == FF_STATUS_POSTCOPY_PAUSED) {
        go_on_alone(&t);
    } else {
        g_test_message("every page had come: nothing to recover");
    }
    end(&t);
    hugepages_free(pool);
}

/* ---- dumps that are refused ------------------------------------------------------------------ */

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
    g_assert_nonnull(strstr(error->message, "only the source itself"));
    g_clear_error(&error);
    /* Nor a source. */
    g_assert_false(ff_migration_recover_dump(t.p.s->m, t.dump, &error));
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}

/* ---- a dump that cannot be read any more, and a source that comes back ----------------------- */

#ifdef FF_FAULTS
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

/* ---- a disk that does not answer ------------------------------------------------------------- */

/* Reads that stand until they are released. */
static struct {
    GMutex lock;
    GCond changed;
    int before;          /* lock; so many pass; -1: all, until the dump is asked */
    unsigned most, held; /* lock; so many are to stand; stand, or have stood */
    unsigned later;      /* lock; that came when `most` stood */
    bool released;       /* lock */
    unsigned gone;       /* lock */
} stands;

static int stand(const char *place, const char *name)
{
    g_mutex_lock(&stands.lock);
    if (!strcmp(place, "at") && !strcmp(name, "dump-asked") && stands.before < 0) {
        stands.before = 0;
    }
    if (strcmp(name, "read-dump") != 0 || stands.before < 0 || stands.before-- > 0) {
        /* not yet */
    } else if (stands.held == stands.most) {
        stands.later++;
        stands.before = 0;
    } else {
        stands.held++;
        stands.before = 0;
        g_main_context_wakeup(NULL);
        while (!stands.released) {
            g_cond_wait(&stands.changed, &stands.lock);
        }
        stands.gone++;
        g_cond_broadcast(&stands.changed);
    }
    g_mutex_unlock(&stands.lock);
    return 0;
}

static void stand_from(int before, unsigned most)
{
    g_mutex_lock(&stands.lock);
    stands.before = before;
    stands.most = most;
    stands.held = stands.later = stands.gone = 0;
    stands.released = false;
    g_mutex_unlock(&stands.lock);
    ff_fault_hook(stand);
}

static bool all_stand(void)
{
    g_mutex_lock(&stands.lock);
    bool all = stands.held == stands.most;
    g_mutex_unlock(&stands.lock);
    return all;
}

static void release_standing(void)
{
    g_mutex_lock(&stands.lock);
    stands.released = true;
    g_cond_broadcast(&stands.changed);
    while (stands.gone < stands.held) {
        g_cond_wait(&stands.changed, &stands.lock);
    }
    g_mutex_unlock(&stands.lock);
}

static void pause_dest(Side *d)
{
    g_autoptr(GError) error = NULL;

    ff_migration_pause(d->m, &error);
    g_assert_no_error(error);
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
}

/* The threads of the fill stand in reads that do not come back: another copy of the dump brings
 * everything all the same. What the reads bring in the end is placed nowhere. */
static void test_hung(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(0, 0, FF_FRAME_RUNNING, false);
    Side *d = t.p.d;
    stand_from(-1, 2);
    recover(d, t.dump);
    side_run_until(all_stand());
    pause_dest(d);
    g_autofree char *copy = g_build_filename(t.dir, "copy", NULL);
    dump_copy(t.dump, copy);
    recover(d, copy);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    release_standing();
    ff_fault_hook(NULL);
    dump_remove(copy);
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}

/* The same while the dump is verified: nothing has changed, and the source continues. */
static void test_hung_verifying(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(0, 0, FF_FRAME_RUNNING, false);
    Side *d = t.p.d;
    stand_from(1 + 4, 1); /* the description, the lists */
    recover(d, t.dump);
    side_run_until(all_stand());
    pause_dest(d);
    g_autofree char *error = error_of(d);
    g_assert_nonnull(strstr(error, "paused"));
    g_assert_cmpuint(d->state->marks & FF_MARK_DUMP, ==, 0);
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    release_standing();
    ff_fault_hook(NULL);
    end(&t);
}

/* The client's pause gives the disk its peace: what is being read is the last. */
static void test_paused(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(0, 0, FF_FRAME_RUNNING, false);
    Side *d = t.p.d;
    stand_from(-1, 2);
    recover(d, t.dump);
    side_run_until(all_stand());
    pause_dest(d);
    release_standing();
    /* Time for the fill to continue, if it did: the coordinator's, there and back. */
    recover(d, "/nowhere");
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
    g_mutex_lock(&stands.lock);
    g_assert_cmpuint(stands.later, ==, 0);
    g_mutex_unlock(&stands.lock);
    ff_fault_hook(NULL);
    recover(d, t.dump);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}

static const char *damages; /* a dump, once */

static int damage(const char *place, const char *name)
{
    if (damages && !strcmp(place, "at") && !strcmp(name, "dump-marked")) {
        flip_memory(g_steal_pointer(&damages));
    }
    return 0;
}

/* It was whole when it was verified: what has changed since is not placed. */
static void test_damaged_later(void)
{
    if (!side_possible()) {
        return;
    }
    Test t = begin(2, 0, FF_FRAME_RUNNING, false);
    Side *d = t.p.d;
    damages = t.dump;
    ff_fault_hook(damage);
    recover(d, t.dump);
    side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
    ff_fault_hook(NULL);
    g_autofree char *error = error_of(d);
    g_assert_nonnull(strstr(error, "damaged: the checksum of the MiB at byte 5242880"));
    flip_memory(t.dump);
    recover(d, t.dump);
    side_run_until(d->status == FF_STATUS_COMPLETED);
    pair_resume_at(&t.p, t.to);
    pair_run_to_end(&t.p);
    end(&t);
}
#endif

int main(int argc, char **argv)
{
    const char *rounds = g_getenv("FF_ROUNDS");

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < (rounds ? atoi(rounds) : 4); i++) {
        g_autofree char *path = g_strdup_printf("/dump-recovery/progress/%d", i);
        g_test_add_data_func(path, GINT_TO_POINTER(i), test_progress);
    }
    g_test_add_func("/dump-recovery/huge", test_huge);
    g_test_add_func("/dump-recovery/refused", test_refused);
    g_test_add_func("/dump-recovery/loaded", test_loaded);
#ifdef FF_FAULTS
    g_test_add_func("/dump-recovery/returns", test_returns);
    g_test_add_func("/dump-recovery/damaged-later", test_damaged_later);
    g_test_add_func("/dump-recovery/hung", test_hung);
    g_test_add_func("/dump-recovery/hung-verifying", test_hung_verifying);
    g_test_add_func("/dump-recovery/paused", test_paused);
#endif
    return g_test_run();
}
