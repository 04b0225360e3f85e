/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes and connections that do not end, but hang, or end at the worst moment, with real QEMUs:
 * an engine that is stopped, a QEMU that is stopped or killed, a relay that is killed, a connection
 * that breaks while the right to run is handed over, strangers that say nothing. Whatever it is,
 * the other side notices, no guest runs twice, and what can continue continues.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/address.h"
#include "tests/lib/check.h"
#include "tests/lib/cutter.h"
#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

typedef struct {
    BootsectConfig boot;
    Vm *s, *d;
    Qmp *sq, *dq;
    char *uri;
    Cutter *c;          /* NULL: none is between */
    const char *faults; /* of the source; NULL: none */
} Test;

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming,
                 const char *faults)
{
    return vm_start_pc((VmConfig){.name = name,
                                  .memory = RAM,
                                  .boot = boot,
                                  .incoming = incoming,
                                  .faults = faults,
                                  .listens = true});
}

static bool begin(Test *t)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    t->boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    t->s = start("source", &t->boot, NULL, t->faults);
    t->d = start("destination", &t->boot, "defer", NULL);
    t->sq = vm_qmp(t->s);
    t->dq = vm_qmp(t->d);
    vm_wait_serial(t->s, "B");
    move_prepare(t->s, t->d);
    qmp_ok(t->sq, "migrate-set-parameters",
           "{'max-postcopy-bandwidth': 4096, 'x-farfault-peer-timeout': 5}");
    qmp_ok(t->dq, "migrate-set-parameters", "{'x-farfault-peer-timeout': 5}");
    qmp_ok(t->dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    t->uri = move_listen_uri(t->d);
    return true;
}

static void go(Test *t, const char *uri)
{
    qmp_ok(t->sq, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(t->sq, "active");
    qmp_expect_migration(t->dq, "active");
}

static void go_postcopy(Test *t)
{
    go(t, t->uri);
    qmp_ok(t->sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(t->sq, "postcopy-active");
    qmp_expect(t->dq, "RESUME");
}

static void end(Test *t)
{
    g_clear_pointer(&t->c, cutter_free);
    g_clear_pointer(&t->d, vm_end);
    g_clear_pointer(&t->s, vm_end);
    g_free(t->uri);
}

static void check_whole(Test *t)
{
    vm_wait_new_serial(t->d, "B");
    qmp_ok(t->dq, "stop", NULL);
    check_right(check_counters(t->d, &t->boot));
    check_right(check_moved(t->s, t->d, &t->boot, RAM_BYTES));
}

static void check_moved_whole(Test *t)
{
    qmp_ok(t->sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(t->s, t->d);
    check_whole(t);
}

static void check_stayed(Test *t)
{
    g_autofree char *state = qmp_run_state(t->sq);

    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(t->s, "B");
}

/* ---- the grant is lost ----------------------------------------------------------------------- */

static void go_cut(Test *t, FfFrameType type)
{
    t->c = cutter_new(t->uri, -1);
    g_atomic_int_set(&t->c->type, type);
    g_atomic_int_set(&t->c->once, true);
    go(t, t->c->uri);
    qmp_ok(t->sq, "migrate-start-postcopy", NULL);
}

/* The source continues, and the destination learns it. */
static void test_loaded(void)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_cut(&t, FF_FRAME_LOADED);
    qmp_expect_migration(t.sq, "failed");
    vm_wait_exit(t.d);
    check_stayed(&t);
    end(&t);
}

static void test_revoke(void)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_cut(&t, FF_FRAME_GRANT);
    qmp_expect_migration(t.sq, "postcopy-paused");
    qmp_expect_migration(t.dq, "postcopy-paused");
    qmp_ok(t.sq, "x-farfault-revoke", NULL);
    qmp_expect_migration(t.sq, "failed");
    vm_wait_exit(t.d);
    check_stayed(&t);
    end(&t);
}

/* ---- QEMU cannot answer cont ----------------------------------------------------------------- */

static JsonObject *half_of(JsonObject *info)
{
    return json_object_get_object_member(json_object_get_object_member(info, "x-farfault"), "half");
}

static bool somebody_waits(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);

    return json_array_get_length(json_object_get_array_member(half_of(info), "waits"));
}

static void await_paused(Test *t)
{
    qmp_expect_migration(t->sq, "postcopy-paused");
    qmp_expect_migration(t->dq, "postcopy-paused");
}

/* Both sides' next connection, through a cutter at C->uri if there is one. */
static void connect_again(Test *t, const char *name, FfFrameType type)
{
    g_autofree char *path = vm_path(t->d, name);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);

    qmp_ok(t->dq, "migrate-recover", "{'uri': '%s'}", uri);
    g_clear_pointer(&t->c, cutter_free);
    if (type) {
        t->c = cutter_new(uri, -1);
        g_atomic_int_set(&t->c->type, type);
        g_atomic_int_set(&t->c->after, true);
        g_atomic_int_set(&t->c->once, true);
    }
    qmp_ok(t->sq, "migrate", "{'uri': '%s', 'resume': true}", type ? t->c->uri : uri);
}

/* QEMU's main loop waits for a page when the grant comes, and the connection breaks after it: cont
 * is answered when the page is there, the page comes when there is a connection. So no thread
 * that makes connections may wait for the answer; nor may a new engine. */
static void test_cont_waits(gconstpointer engine_dies)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_cut(&t, FF_FRAME_GRANT);
    await_paused(&t);
    g_autofree char *monitor = g_strdup_printf("unix:%s/human", vm_dir(t.d));
    g_autoptr(FfAddress) address = ff_address_parse(monitor, NULL);
    g_autofree char *read_page = g_strdup_printf("xp /1wx 0x%x\n", (unsigned)t.boot.end - 4096);
    g_autoptr(Stream) human = stream_new(ff_address_connect(address, NULL, NULL), "human");
    stream_send(human, read_page, strlen(read_page), NULL, 0);
    while (!somebody_waits(t.dq)) {
        /* until QEMU has come to it */
    }
    connect_again(&t, "granted.sock", FF_FRAME_GRANT);
    await_paused(&t);
    if (engine_dies) {
        kill(vm_engine(t.d), SIGKILL);
        vm_wait_stderr(t.d, "ended unexpectedly"); /* the next command goes to its successor */
    }
    connect_again(&t, "again.sock", 0);
    qmp_expect(t.dq, "RESUME");
    check_moved_whole(&t);
    end(&t);
}

/* ---- by themselves --------------------------------------------------------------------------- */

/* Both engines die, and nobody types anything. */
static void test_auto_recover(void)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    qmp_ok(t.sq, "migrate-set-parameters", "{'x-farfault-auto-recover': 60}");
    qmp_ok(t.dq, "migrate-set-parameters", "{'x-farfault-auto-recover': 60}");
    go_postcopy(&t);
    kill(vm_engine(t.d), SIGKILL);
    qmp_expect_migration(t.sq, "postcopy-recover");
    qmp_expect_migration(t.sq, "postcopy-active");
    kill(vm_engine(t.s), SIGKILL);
    qmp_expect_migration(t.sq, "postcopy-recover");
    qmp_expect_migration(t.sq, "postcopy-active");
    check_moved_whole(&t);
    end(&t);
}

/* ---- an engine is stopped -------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool destination, postcopy;
} StopRow;

static const StopRow engine_rows[] = {
    {"source/postcopy", false, true},
    {"destination/postcopy", true, true},
    {"destination/active", true, false},
};

static void test_engine_stopped(gconstpointer data)
{
    const StopRow *row = data;
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    if (row->postcopy) {
        go_postcopy(&t);
    } else {
        go(&t, t.uri);
    }
    pid_t engine = vm_engine(row->destination ? t.d : t.s);
    kill(engine, SIGSTOP);
    qmp_expect_migration(row->destination ? t.sq : t.dq,
                         row->postcopy ? "postcopy-paused" : "failed");
    kill(engine, SIGCONT);
    if (row->postcopy) {
        qmp_expect_migration(row->destination ? t.dq : t.sq, "postcopy-paused");
        qmp_ok(t.sq, "migrate", "{'uri': '%s', 'resume': true}", t.uri);
        qmp_expect_migration(t.sq, "postcopy-active");
        check_moved_whole(&t);
    } else {
        vm_wait_exit(t.d);
        check_stayed(&t);
    }
    end(&t);
}

typedef struct {
    Qmp *q;
    GThread *thread;
    int64_t answered;
} Question;

static gpointer ask(gpointer opaque)
{
    Question *question = opaque;

    g_free(qmp_run_state(question->q));
    question->answered = g_get_monotonic_time();
    return NULL;
}

static Qmp *another_monitor(Vm *vm)
{
    g_autofree char *uri = g_strdup_printf("unix:%s/server", vm_dir(vm));
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);

    return qmp_new(ff_address_connect(address, NULL, NULL), "another monitor", false);
}

#define HUNG (30 * G_TIME_SPAN_SECOND) /* guest/relay/ping.c */

/* Both engines stand in postcopy, and nobody lets them continue: after 30 s each relay kills its
 * own. What was asked meanwhile, at two monitors of each QEMU, is answered then, by the next
 * engine. */
static void test_engine_hangs(void)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_postcopy(&t);
    Vm *vms[] = {t.s, t.d};
    pid_t engine[] = {vm_engine(t.s), vm_engine(t.d)};
    g_autoptr(Qmp) s = another_monitor(t.s), d = another_monitor(t.d);
    Question questions[] = {{t.sq}, {s}, {t.dq}, {d}};
    int64_t stopped = g_get_monotonic_time();

    kill(engine[0], SIGSTOP);
    kill(engine[1], SIGSTOP);
    for (unsigned i = 0; i < G_N_ELEMENTS(questions); i++) {
        questions[i].thread = g_thread_new("question", ask, &questions[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_thread_join(questions[i].thread);
        /* A look may have been under way, and its answer late. */
        g_assert_cmpint(questions[i].answered - stopped, >=, HUNG / 2);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(vms); i++) {
        vm_wait_stderr(vms[i], "it has not answered for 30 s, and is killed");
        g_assert_cmpint(vm_engine(vms[i]), !=, engine[i]);
        qmp_expect_migration(vm_qmp(vms[i]), "postcopy-paused");
    }
    qmp_ok(t.sq, "migrate", "{'uri': '%s', 'resume': true}", t.uri);
    qmp_expect_migration(t.sq, "postcopy-active");
    check_moved_whole(&t);
    end(&t);
}

/* ---- a QEMU is stopped or killed ------------------------------------------------------------- */

static void test_qemu_killed(gconstpointer at_source)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_postcopy(&t);
    vm_kill(at_source ? t.s : t.d);
    qmp_expect_migration(at_source ? t.dq : t.sq, "postcopy-paused");
    if (!at_source) {
        g_autofree char *error = qmp_error(t.sq, "cont", NULL);
        g_assert_cmpstr(error, ==, "Migration is not finalized yet");
    } else {
        vm_kill(t.d); /* it waits for pages that nobody has any more */
    }
    end(&t);
}

/* Every page has arrived, and the source's QEMU hangs when it is to end its migration: its engine
 * lives, and the destination needs neither. */
static void test_hangs_at_end(void)
{
    Test t = {.faults = "source/*/at/done=hold"};
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!begin(&t)) {
        return;
    }
    hold_make(t.s);
    go_postcopy(&t);
    qmp_ok(t.sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    hold_wait(t.s);
    kill(vm_pid(t.s), SIGSTOP);
    hold_let_go(t.s);
    qmp_expect_migration(t.dq, "completed");
    kill(vm_pid(t.s), SIGCONT);
    qmp_expect_migration(t.sq, "completed");
    check_whole(&t);
    end(&t);
}

static int64_t missing(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);

    return json_object_get_int_member(half_of(info), "bytes-missing");
}

/* The destination's QEMU hangs after the grant: its pages come, and the migration ends when it
 * continues. */
static void test_hangs_granted(void)
{
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    go_postcopy(&t);
    kill(vm_pid(t.d), SIGSTOP);
    qmp_ok(t.sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    while (missing(t.dq)) {
        /* until every page has come */
    }
    /* An engine that would end it without QEMU has time to. */
    for (unsigned i = 0; i < 200; i++) {
        g_autofree char *here = qmp_migrate_status(t.sq), *there = qmp_migrate_status(t.dq);
        g_assert_cmpstr(here, ==, "postcopy-active");
        g_assert_cmpstr(there, ==, "postcopy-active");
    }
    kill(vm_pid(t.d), SIGCONT);
    move_wait_completed(t.s, t.d);
    check_whole(&t);
    end(&t);
}

/* ---- a relay is killed ----------------------------------------------------------------------- */

static const StopRow relay_rows[] = {
    {"source/active", false, false},
    {"source/postcopy", false, true},
    {"destination/postcopy", true, true},
};

static pid_t relay_of(Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)vm_engine(vm));
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return (pid_t)g_ascii_strtoll(strstr(text, "PPid:") + strlen("PPid:"), NULL, 10);
}

/* Nobody can ask that QEMU anything any more. Its guest does not start by itself, and one that
 * waits for pages is not shown zeros: it would stop with a letter of its own. */
static void test_relay_killed(gconstpointer data)
{
    const StopRow *row = data;
    Test t = {0};

    if (!begin(&t)) {
        return;
    }
    if (row->postcopy) {
        go_postcopy(&t);
    } else {
        go(&t, t.uri);
    }
    kill(relay_of(row->destination ? t.d : t.s), SIGKILL);
    if (!row->postcopy) {
        vm_wait_exit(t.d);
        vm_wait_new_serial(t.s, "B");
    } else if (row->destination) {
        qmp_expect_migration(t.sq, "postcopy-paused");
        g_autofree char *error = qmp_error(t.sq, "cont", NULL);
        g_assert_cmpstr(error, ==, "Migration is not finalized yet");
        vm_kill(t.d);
    } else {
        qmp_expect_migration(t.dq, "postcopy-paused");
        vm_kill(t.d);
    }
    if (!row->destination) {
        vm_kill(t.s);
    }
    end(&t);
}

/* ---- strangers ------------------------------------------------------------------------------- */

#define STRANGERS 8

/* A destination whose QEMU did not answer when somebody came takes the next one. */
static void test_incoming_stopped(void)
{
    Test t = {0};
    g_autoptr(GError) error = NULL;

    if (!begin(&t))
        return;
    FfAddress *at = ff_address_parse(t.uri, &error);
    g_assert_no_error(error);
    kill(vm_pid(t.d), SIGSTOP);
    int first = ff_address_connect(at, NULL, &error);
    g_assert_no_error(error);
    vm_wait_stderr(t.d, "a source has connected, and waits");
    kill(vm_pid(t.d), SIGCONT);
    close(first);
    ff_address_free(at);
    qmp_ok(t.sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(t.sq, "migrate", "{'uri': '%s'}", t.uri);
    qmp_ok(t.sq, "migrate-start-postcopy", NULL);
    move_wait_completed(t.s, t.d);
    vm_wait_new_serial(t.d, "B");
    end(&t);
}

/* Silent connections at the destination's port keep nobody waiting: the source gets in before one
 * of them is sent away. */
static void test_strangers(void)
{
    int fd[STRANGERS];
    Test t = {0};
    char c;

    if (!begin(&t)) {
        return;
    }
    g_autoptr(FfAddress) address = ff_address_parse(t.uri, NULL);
    for (unsigned i = 0; i < STRANGERS; i++) {
        fd[i] = ff_address_connect(address, NULL, NULL);
        g_assert_cmpint(fd[i], >=, 0);
    }
    go_postcopy(&t);
    for (unsigned i = 0; i < STRANGERS; i++) {
        g_assert_cmpint(recv(fd[i], &c, 1, MSG_DONTWAIT), <, 0);
        g_assert_cmpint(errno, ==, EAGAIN);
        close(fd[i]);
    }
    check_moved_whole(&t);
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stalls/loaded", test_loaded);
    g_test_add_func("/stalls/revoke", test_revoke);
    g_test_add_data_func("/stalls/cont-waits/connection", NULL, test_cont_waits);
    g_test_add_data_func("/stalls/cont-waits/engine", "dies", test_cont_waits);
    g_test_add_func("/stalls/auto-recover", test_auto_recover);
    for (unsigned i = 0; i < G_N_ELEMENTS(engine_rows); i++) {
        g_autofree char *path = g_strconcat("/stalls/engine-stopped/", engine_rows[i].name, NULL);
        g_test_add_data_func(path, &engine_rows[i], test_engine_stopped);
    }
    g_test_add_func("/stalls/engine-hangs", test_engine_hangs);
    for (unsigned i = 0; i < G_N_ELEMENTS(relay_rows); i++) {
        g_autofree char *path = g_strconcat("/stalls/relay-killed/", relay_rows[i].name, NULL);
        g_test_add_data_func(path, &relay_rows[i], test_relay_killed);
    }
    g_test_add_func("/stalls/hangs-at-end", test_hangs_at_end);
    g_test_add_func("/stalls/hangs-granted", test_hangs_granted);
    g_test_add_func("/stalls/incoming-stopped", test_incoming_stopped);
    g_test_add_func("/stalls/strangers", test_strangers);
    g_test_add_data_func("/stalls/qemu-killed/source", "source", test_qemu_killed);
    g_test_add_data_func("/stalls/qemu-killed/destination", NULL, test_qemu_killed);
    return g_test_run();
}
