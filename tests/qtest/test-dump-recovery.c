/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Migrations of real guests that lose their connection at random moments after the switch, and
 * whose source's QEMU is then killed: the destination continues from the source's dump. The guest
 * counts, and no counter of it is ever wrong; one that was stopped is equal to the dump, byte for
 * byte. The destination's engine is killed at each step; a source that comes back is sent away and
 * learns its end; a dump that cannot be read is tried again.
 *
 * FF_ROUNDS: how many random moments (default 3); with it engines die at more steps as well, and at
 * each moment copies of the dump are tried first that are cut, damaged or from before the grant.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/cutter.h"
#include "tests/lib/dumps.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)
#define BUSY (32u << 20)

typedef enum { RUNS, RELEASES, STANDS, KINDS } Kind; /* with release-ram; the guest is stopped */

typedef struct {
    Vm *s, *d; /* s NULL: it is gone */
    Qmp *sq, *dq;
    Cutter *c;
    char *uri;  /* where the destination listens */
    char *dump; /* of the source */
    BootsectConfig boot;
} Test;

static bool possible(bool faults)
{
    const char *why;

    if (!(faults ? vm_faults_available(&why) : vm_farfault_available(&why))) {
        g_test_skip(why);
        return false;
    }
    return true;
}

/* Of an event MIGRATION: that attempt is over. */
static bool is_over(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "postcopy-paused") || !strcmp(status, "completed");
}

static bool ends_paused(Qmp *q)
{
    g_autoptr(JsonObject) event = qmp_wait_event(q, "MIGRATION", is_over, NULL, 120);
    JsonObject *data = json_object_get_object_member(event, "data");

    return !strcmp(json_object_get_string_member(data, "status"), "postcopy-paused");
}

static void end(Test *t)
{
    if (t->s) {
        vm_end(t->s);
    }
    if (t->dump) {
        dump_remove(t->dump);
    }
    vm_end(t->d);
    cutter_free(t->c);
    g_free(t->dump);
    g_free(t->uri);
}

static int64_t missing(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    return json_object_get_int_member(json_object_get_object_member(own, "half"), "bytes-missing");
}

/* FALSE: on a busy machine the guest may have had all of its memory before the cut, or so much of
 * it that a dump would be read at once. */
static bool is_cut(Test *t, int64_t budget, Kind kind, const char *faults)
{
    *t = (Test){.boot = bootsect_config(RAM_BYTES, BUSY, 1)};
    t->s = vm_start_pc((VmConfig){.name = "source", .memory = RAM, .boot = &t->boot});
    t->d = vm_start_pc((VmConfig){.name = "destination",
                                  .memory = RAM,
                                  .boot = &t->boot,
                                  .incoming = "defer",
                                  .listens = true,
                                  .faults = faults});
    t->sq = vm_qmp(t->s);
    t->dq = vm_qmp(t->d);
    vm_wait_serial(t->s, "B");
    if (kind == STANDS) {
        qmp_ok(t->sq, "stop", NULL);
    }
    move_prepare(t->s, t->d);
    if (kind == RELEASES) {
        qmp_set_capability(t->sq, "release-ram", true);
    }
    qmp_ok(t->dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    t->uri = move_listen_uri(t->d);
    t->c = cutter_new(t->uri, -1);
    qmp_ok(t->sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    qmp_ok(t->sq, "migrate", "{'uri': '%s'}", t->c->uri);
    qmp_expect_migration(t->sq, "active");
    qmp_ok(t->sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(t->sq, "postcopy-active");
    qmp_expect_migration(t->dq, "postcopy-active");
    if (kind != STANDS) {
        qmp_expect(t->dq, "RESUME");
    }
    if (budget) {
        g_mutex_lock(&t->c->lock);
        t->c->budget = t->c->left = budget;
        g_mutex_unlock(&t->c->lock);
        qmp_ok(t->sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    } else {
        cutter_cut(t->c);
    }
    if (!ends_paused(t->sq) || !ends_paused(t->dq)) {
        return false;
    }
    return budget || missing(t->dq) > BUSY / 4;
}

/* Paused on both sides, with BUDGET bytes of the migration passed; dumped. */
static void begin(Test *t, int64_t budget, Kind kind, const char *faults)
{
    for (unsigned tries = 0; !is_cut(t, budget, kind, faults); tries++) {
        g_assert_cmpuint(tries, <, 20);
        vm_kill(t->s);
        vm_kill(t->d); /* a thread that waits for a missing page hears no SIGTERM */
        end(t);
    }
    t->dump = vm_path(t->d, "dump");
    qmp_ok(t->sq, "x-farfault-dump", "{'directory': '%s'}", t->dump);
}

static void lose_source(Test *t)
{
    vm_kill(t->s);
    vm_end(g_steal_pointer(&t->s));
    t->sq = NULL;
}

static void recover(Test *t, const char *dump)
{
    qmp_ok(t->dq, "migrate-recover", "{'uri': 'file:%s'}", dump);
}

static char *error_of(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);

    return g_strdup(json_object_get_string_member_with_default(info, "error-desc", ""));
}

/* It runs on, and none of its counters is wrong. */
static void check_runs(Test *t)
{
    vm_wait_new_serial(t->d, "B");
    qmp_ok(t->dq, "stop", NULL);
    check_right(check_counters(t->d, &t->boot));
    qmp_ok(t->dq, "cont", NULL);
    vm_wait_new_serial(t->d, "B");
}

/* All memory of a guest that has not run since the switch is that of the source then. What is below
 * 1 MiB the firmware changes as soon as devices are there. */
static void check_same(Test *t)
{
    g_autofree char *saved = vm_path(t->d, "memory");
    g_autofree char *dumped = g_build_filename(t->dump, "0.memory", NULL);
    g_autofree char *a = NULL, *b = NULL;
    gsize n, m;

    qmp_ok(t->dq, "pmemsave", "{'val': 0, 'size': %llu, 'filename': '%s'}", RAM_BYTES, saved);
    g_assert_true(g_file_get_contents(saved, &a, &n, NULL));
    g_assert_true(g_file_get_contents(dumped, &b, &m, NULL));
    g_assert_cmpuint(n, ==, RAM_BYTES);
    g_assert_cmpuint(m, ==, RAM_BYTES);
    g_assert_cmpint(memcmp(a + (1 << 20), b + (1 << 20), n - (1 << 20)), ==, 0);
    g_assert_cmpint(unlink(saved), ==, 0);
}

/* ---- the source is gone ---------------------------------------------------------------------- */

/* A bit of it is another one, or its end is missing, anywhere. */
static void spoil(const char *dump)
{
    g_auto(GStrv) names = dump_names(dump);
    const char *name;
    gsize size;

    do {
        name = names[g_test_rand_int_range(0, (gint32)g_strv_length(names))];
        size = dump_cut(dump, name, 0);
    } while (!size);
    gint32 some = g_test_rand_int_range(0, (gint32)size);
    if (g_test_rand_bit()) {
        dump_flip(dump, name, (gsize)some);
    } else {
        dump_cut(dump, name, (gsize)some + 1);
    }
    g_test_message("%s spoiled at %d of %zu", name, some, size);
}

/* TRUE: refused, and all is as it was. FALSE: what is wrong in it is none of what is missing, and
 * the guest is here. */
static bool is_refused(Test *t, const char *dump)
{
    recover(t, dump);
    qmp_expect_migration(t->dq, "postcopy-recover");
    bool paused = ends_paused(t->dq);
    g_autofree char *why = error_of(t->dq);

    g_test_message("%s", *why ? why : "used");
    return paused;
}

/* TRUE: the guest is here. */
static bool try_spoiled(Test *t)
{
    g_autofree char *bad = vm_path(t->d, "bad");
    bool came = false;

    dump_copy(t->dump, bad);
    dump_say(bad, "dump", "run-right", "mine");
    g_assert_true(is_refused(t, bad));
    g_autofree char *why = error_of(t->dq);
    g_assert_nonnull(strstr(why, "before the source gave the guest away"));
    dump_remove(bad);
    for (unsigned i = 0; i < 3 && !came; i++) {
        dump_copy(t->dump, bad);
        spoil(bad);
        came = !is_refused(t, bad);
        dump_remove(bad);
    }
    return came;
}

static void test_progress(gconstpointer data)
{
    unsigned row = GPOINTER_TO_UINT(data);
    Kind kind = (Kind)(row % KINDS);
    Test t;

    if (!possible(false)) {
        return;
    }
    for (unsigned i = 0; i < row; i++) {
        g_test_rand_int(); /* each row begins with the same seed */
    }
    begin(&t, g_test_rand_int_range(1, BUSY / 8 * 7), kind, NULL);
    int64_t left = missing(t.dq);
    g_assert_cmpint(left, >, 0);
    g_test_message("%" G_GINT64_FORMAT " KiB are missing", left >> 10);
    lose_source(&t);
    if (!g_getenv("FF_ROUNDS") || !try_spoiled(&t)) {
        recover(&t, t.dump);
        qmp_expect_migration(t.dq, "postcopy-recover");
        qmp_expect_migration(t.dq, "postcopy-active");
        qmp_expect_migration(t.dq, "completed");
    }
    if (kind == STANDS) {
        check_same(&t);
        qmp_ok(t.dq, "cont", NULL);
    }
    check_runs(&t);
    end(&t);
}

/* By the command, which waits for the end; one that cannot be read is said at once. */
static int run_recover(Test *t, const char *dump, char **says)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *socket = vm_path(t->d, "server");
    char *argv[] = {
        farfault, (char *)"recover", (char *)"--quiet", (char *)"--from", (char *)dump, socket,
        NULL};
    int status;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL, says,
                               &status, NULL));
    return WEXITSTATUS(status);
}

static void test_command(void)
{
    g_autofree char *says = NULL, *bad = NULL, *nothing = NULL, *twice = NULL;
    Test t;

    if (!possible(false)) {
        return;
    }
    begin(&t, 0, RUNS, NULL);
    lose_source(&t);
    bad = vm_path(t.d, "bad");
    dump_copy(t.dump, bad);
    dump_flip(bad, "0.memory", (2 << 20) + 1);
    g_assert_cmpint(run_recover(&t, bad, &says), ==, 1);
    g_assert_nonnull(strstr(says, "0.memory: damaged"));
    dump_remove(bad);
    g_autofree char *relative = qmp_error(t.dq, "migrate-recover", "{'uri': 'file:dump'}");
    g_assert_cmpstr(relative, ==, "'dump' is no absolute path");
    g_assert_cmpint(run_recover(&t, t.dump, &nothing), ==, 0);
    g_assert_nonnull(strstr(nothing, "recovered"));
    g_assert_cmpint(run_recover(&t, t.dump, &twice), ==, 1);
    g_assert_nonnull(strstr(twice, "can only be run when postcopy is paused"));
    check_runs(&t);
    /* A client that still waits for the source does not keep the guest here. */
    g_autoptr(JsonObject) next = qmp_call(t.dq, "migrate", "{'uri': 'unix:%s/nobody'}", t.dump);
    JsonObject *error = next && json_object_has_member(next, "error")
                            ? json_object_get_object_member(next, "error")
                            : NULL;
    g_assert_nonnull(next);
    const char *why = error ? json_object_get_string_member(error, "desc") : "";
    g_assert_true(!strstr(why, "incoming") && !strstr(why, "in progress"));
    end(&t);
}

/* ---- the engine dies ------------------------------------------------------------------------- */

typedef struct {
    const char *point;
    bool asked;  /* before the dump has taken the source's place: the client asks once more */
    bool seldom; /* with FF_ROUNDS alone */
} Death;

static const Death deaths[] = {
    {"postcopy-recover/call/read-dump#9", true}, /* while it is verified */
    {"*/at/dump-verified", true, true},
    {"*/at/dump-held", true, true},
    {"*/at/dump-epoch", true},
    {"*/at/dump-marked", false},
    {"*/at/dump-asked", false},
    {"postcopy-active/call/read-dump#7", false},
    {"*/at/all", false, true},
    {"*/at/done", false},
};

static void test_killed(gconstpointer data)
{
    const Death *death = data;
    g_autofree char *faults = g_strdup_printf("destination/%s=kill", death->point);
    Test t;

    if (!possible(true)) {
        return;
    }
    begin(&t, 0, RUNS, faults);
    lose_source(&t);
    recover(&t, t.dump);
    if (death->asked) {
        qmp_expect_migration(t.dq, "postcopy-recover");
        qmp_expect_migration(t.dq, "postcopy-paused");
        g_assert_false(vm_relay_holds(t.d, t.dump)); /* nothing has begun */
        recover(&t, t.dump);
    }
    qmp_expect_migration(t.dq, "completed");
    g_assert_true(vm_fault_happened(t.d, 0));
    check_runs(&t);
    end(&t);
}

/* ---- a source that comes back, a dump that cannot be read ------------------------------------ */

static void test_returns(void)
{
    Test t;

    if (!possible(true)) {
        return;
    }
    /* It stands: nobody's fault is answered by the read that fails, which would be tried once more
     * for the page alone. */
    begin(&t, 0, STANDS, "destination/postcopy-active/call/read-dump#5=EIO");
    recover(&t, t.dump);
    qmp_expect_migration(t.dq, "postcopy-recover");
    qmp_expect_migration(t.dq, "postcopy-active");
    qmp_expect_migration(t.dq, "postcopy-paused");
    g_autofree char *failed = error_of(t.dq);
    g_assert_nonnull(strstr(failed, t.dump));
    g_assert_nonnull(strstr(failed, "Input/output error (errno 5)"));
    /* It is sent away, and cannot have its guest back. */
    qmp_ok(t.sq, "migrate", "{'uri': '%s', 'resume': true}", t.uri);
    qmp_expect_migration(t.sq, "postcopy-paused");
    g_autofree char *away = error_of(t.sq);
    g_assert_nonnull(strstr(away, "recovered from a dump"));
    qmp_ok(t.sq, "x-farfault-revoke", "{'uri': '%s'}", t.uri);
    qmp_expect_migration(t.sq, "postcopy-paused");
    g_autofree char *state = qmp_run_state(t.sq);
    g_assert_cmpstr(state, !=, "running");
    g_autofree char *elsewhere = qmp_error(t.dq, "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}");
    g_assert_nonnull(strstr(elsewhere, "file:DIRECTORY"));
    recover(&t, t.dump);
    qmp_expect_migration(t.dq, "completed");
    /* Now it is told that it may let go. */
    qmp_ok(t.sq, "migrate", "{'uri': '%s', 'resume': true}", t.uri);
    qmp_expect_migration(t.sq, "completed");
    qmp_wait_postmigrate(t.sq);
    qmp_ok(t.dq, "cont", NULL);
    vm_wait_new_serial(t.d, "B");
    qmp_ok(t.dq, "stop", NULL);
    check_right(check_counters(t.d, &t.boot));
    check_right(check_moved(t.s, t.d, &t.boot, RAM_BYTES));
    end(&t);
}

int main(int argc, char **argv)
{
    const char *rounds = g_getenv("FF_ROUNDS");

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < (rounds ? atoi(rounds) : KINDS); i++) {
        g_autofree char *path = g_strdup_printf("/dump-recovery/progress/%d", i);
        g_test_add_data_func(path, GINT_TO_POINTER(i), test_progress);
    }
    g_test_add_func("/dump-recovery/command", test_command);
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        if (deaths[i].seldom && !rounds) {
            continue;
        }
        g_autofree char *name = g_strdelimit(g_strdup(deaths[i].point), "/", '.');
        g_autofree char *path = g_strconcat("/dump-recovery/killed/", name, NULL);
        g_test_add_data_func(path, &deaths[i], test_killed);
    }
    g_test_add_func("/dump-recovery/returns", test_returns);
    return g_test_run();
}
