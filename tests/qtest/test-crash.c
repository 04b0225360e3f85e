/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kill -9 of the engine, at either side, at every phase of a migration that can be held still.
 *
 * Before the grant: at the source the guest continues as if nothing had happened, and can be
 * migrated again; a destination ends. After it: both sides are postcopy-paused, the guest is the
 * destination's, and QEMU at the source refuses to run it; then it is recovered, and every page
 * is compared. The clients keep their connections.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "guest/relay/restart.h"
#include "tests/lib/check.h"
#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/lib/stop.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

typedef enum { ACTIVE, PRE_SWITCHOVER, POSTCOPY, PAUSED } Moment;

typedef struct {
    const char *name;
    Moment moment;
    bool destination; /* whose engine dies */
    bool both;        /* both engines die */
} Row;

static const Row rows[] = {
    {"source/active", ACTIVE, false},
    {"source/pre-switchover", PRE_SWITCHOVER, false},
    {"source/postcopy", POSTCOPY, false},
    {"destination/active", ACTIVE, true},
    {"destination/pre-switchover", PRE_SWITCHOVER, true},
    {"destination/postcopy", POSTCOPY, true},
    {"source/paused", PAUSED, false},
    {"destination/paused", PAUSED, true},
    {"both/postcopy", POSTCOPY, true, .both = true},
};

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming)
{
    return vm_start_pc((VmConfig){.name = name, .memory = RAM, .boot = boot, .incoming = incoming});
}

static void begin(Vm *s, Vm *d, Moment moment)
{
    Qmp *sq = vm_qmp(s), *dq = vm_qmp(d);

    move_prepare(s, d);
    if (moment == PRE_SWITCHOVER) {
        qmp_set_capability(sq, "pause-before-switchover", true);
    }
    /* So that postcopy lasts. */
    qmp_ok(sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    qmp_ok(dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(d);
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(sq, "active");
    qmp_expect_migration(dq, "active");
    if (moment == ACTIVE) {
        return;
    }
    qmp_ok(sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(sq, moment >= POSTCOPY ? "postcopy-active" : "pre-switchover");
    if (moment >= POSTCOPY) {
        qmp_expect(dq, "RESUME");
    }
    if (moment == PAUSED) {
        qmp_ok(sq, "migrate-pause", NULL);
        qmp_expect_migration(sq, "postcopy-paused");
        qmp_expect_migration(dq, "postcopy-paused");
    }
}

/* The source's guest is alive and well, and can be migrated. */
static void check_guest_stayed(Vm *s, const BootsectConfig *boot)
{
    g_autofree char *state = qmp_run_state(vm_qmp(s));

    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(s, "B");
    Vm *again = start("again", boot, "defer");
    Qmp *sq = vm_qmp(s), *dq = vm_qmp(again);
    move_prepare(s, again);
    qmp_set_capability(sq, "pause-before-switchover", false);
    qmp_ok(sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(again);
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(sq, "migrate-start-postcopy", NULL);
    qmp_expect(dq, "RESUME");
    move_wait_completed(s, again);
    vm_wait_new_serial(again, "B");
    vm_end(again);
}

/* The guest is the destination's; the source keeps its pages and never runs it. */
static void check_paused(Vm *s, Vm *d)
{
    g_autofree char *ss = qmp_migrate_status(vm_qmp(s)), *ds = qmp_migrate_status(vm_qmp(d));
    g_autofree char *error = qmp_error(vm_qmp(s), "cont", NULL);

    g_assert_cmpstr(ss, ==, "postcopy-paused");
    g_assert_cmpstr(ds, ==, "postcopy-paused");
    g_assert_cmpstr(error, ==, "Migration is not finalized yet");
    g_assert_false(qmp_has_event(vm_qmp(s), "RESUME"));
}

static void recover(Vm *s, Vm *d, const BootsectConfig *boot)
{
    g_autofree char *path = vm_path(d, "recover.sock");

    qmp_ok(vm_qmp(d), "migrate-recover", "{'uri': 'unix:%s'}", path);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': 'unix:%s', 'resume': true}", path);
    qmp_expect_migration(vm_qmp(s), "postcopy-active");
    qmp_expect_migration(vm_qmp(d), "postcopy-active");
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(s, d);
    vm_wait_new_serial(d, "B");
    qmp_ok(vm_qmp(d), "stop", NULL);
    check_right(check_counters(d, boot));
    check_right(check_moved(s, d, boot, RAM_BYTES));
    qmp_wait_postmigrate(vm_qmp(s));
}

/* No write protection is left on the memory of QEMU: "uw" among the flags of a mapping. */
static void assert_untracked(Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", vm_pid(vm)), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_false(g_regex_match_simple("^VmFlags:.* uw", text, G_REGEX_MULTILINE, 0));
}

static void test_kill(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s = start("source", &boot, NULL), *d = start("destination", &boot, "defer");
    vm_wait_serial(s, "B");
    begin(s, d, row->moment);
    pid_t other = row->both ? vm_engine(s) : 0;
    kill(vm_engine(row->destination ? d : s), SIGKILL);
    if (other) {
        kill(other, SIGKILL);
    }
    if (row->moment >= POSTCOPY) {
        vm_wait_stderr(row->destination ? d : s, "was killed by signal 9 (Killed)");
        if (row->moment == POSTCOPY || !row->destination) {
            qmp_expect_migration(vm_qmp(s), "postcopy-paused");
        }
        if (row->moment == POSTCOPY || row->destination) {
            qmp_expect_migration(vm_qmp(d), "postcopy-paused");
        }
        check_paused(s, d);
        recover(s, d, &boot);
    } else {
        /* An orderly rejection at the destination is exit 1; after a crash there it is killed. */
        int status = vm_wait_exit(d);
        g_assert_true(status == (row->destination ? -SIGKILL : 1));
        qmp_expect_migration(vm_qmp(s), "failed");
        assert_untracked(s);
        check_guest_stayed(s, &boot);
    }
    vm_end(d);
    vm_end(s);
}

/* The destination's engine dies so often that the relay would start no other one for a second. The
 * first one moves pages; then each dies when it has answered a client ("answering"), or while it
 * takes the guest over ("adopting"). */
typedef struct {
    const char *name, *faults;
} Again;

static const Again again[] = {
    {"answering", NULL},
    {"adopting", "destination/postcopy-*/call/map-state=hold"},
};

#define DEATHS (FF_RESTART_AT_ONCE + 1)

/* The engine that comes after OLD is there. */
static pid_t next_engine(Vm *d, const Again *a, pid_t old)
{
    g_autofree char *killed = g_strdup_printf("(process %d) was killed by signal 9", (int)old);

    vm_wait_stderr(d, killed);
    if (a->faults) {
        hold_wait(d);
    } else {
        g_autofree char *status = qmp_migrate_status(vm_qmp(d));
        g_assert_cmpstr(status, ==, "postcopy-paused");
    }
    pid_t engine = vm_engine(d);
    g_assert_cmpint(engine, !=, old);
    return engine;
}

/* A thread that comes to a point with "hold" continues, until this is closed. */
static int open_gate(Vm *vm, const char *name)
{
    g_autofree char *path = vm_path(vm, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

/* The last one is missed by a client that recovers: for it the next one is started at once. */
static void test_again(gconstpointer data)
{
    const Again *a = data;
    const char *why;

    if (!(a->faults ? vm_faults_available : vm_farfault_available)(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s = start("source", &boot, NULL);
    Vm *d = vm_start_pc((VmConfig){.name = "destination",
                                   .memory = RAM,
                                   .boot = &boot,
                                   .incoming = "defer",
                                   .faults = a->faults});
    hold_make(d);
    vm_wait_serial(s, "B");
    begin(s, d, POSTCOPY);
    pid_t engine = vm_engine(d);
    for (unsigned i = 1; i < DEATHS; i++) {
        kill(engine, SIGKILL);
        engine = next_engine(d, a, engine);
    }
    kill(engine, SIGKILL);
    g_autofree char *killed = g_strdup_printf("(process %d) was killed by signal 9", (int)engine);
    vm_wait_stderr(d, killed);
    int held = open_gate(d, "held"), hold = open_gate(d, "hold");
    qmp_expect_migration(vm_qmp(s), "postcopy-paused");
    recover(s, d, &boot);
    close(held);
    close(hold);
    vm_end(d);
    vm_end(s);
}

/* QEMU's main loop stands, and does not accept the engines that come to its private monitor: after
 * some deaths its listen queue is full of those that are dead. The next one answers all the same,
 * and is not taken for one that hangs. */
static void test_full(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s = start("source", &boot, NULL), *d = start("destination", &boot, "defer");
    vm_wait_serial(s, "B");
    begin(s, d, POSTCOPY);
    stop_process(vm_pid(d));
    for (unsigned i = 0; i < FF_RESTART_AT_ONCE; i++) {
        pid_t engine = vm_engine(d);

        kill(engine, SIGKILL);
        next_engine(d, &again[0], engine);
    }
    kill(vm_pid(d), SIGCONT);
    qmp_expect_migration(vm_qmp(s), "postcopy-paused");
    recover(s, d, &boot);
    vm_end(d);
    vm_end(s);
}

/* -incoming URI: the engine dies before anybody has come. The next one listens again. */
static void test_listening(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s = start("source", &boot, NULL), *d = start("destination", &boot, "tcp:127.0.0.1:0");
    vm_wait_serial(s, "B");
    move_prepare(s, d);
    kill(vm_engine(d), SIGKILL);
    /* Answered, with an error or not, when the relay knows of the death. */
    json_object_unref(qmp_call(vm_qmp(d), "query-migrate", NULL));
    g_autofree char *uri = move_listen_uri(d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    move_wait_completed(s, d);
    vm_wait_new_serial(d, "B");
    vm_end(d);
    vm_end(s);
}

/* The next engine lacks memory for a moment. It tries again, and at once when it is told to
 * recover; what it was told is done. */
typedef struct {
    const char *name;
    bool destination;
    const char *faults;
} Failing;

static const Failing failing[] = {
    {"source", false, "source/postcopy-*/call/map-ram=ENOMEM"},
    {"destination", true, "destination/postcopy-*/call/uffd-register=ENOMEM"},
    {"destination/bitmap", true, "destination/postcopy-*/call/map-state=ENOMEM"},
};

/* The guest runs at *S. One of them has FAULTS. */
static void start_both(Vm **s, Vm **d, const BootsectConfig *boot, bool destination,
                       const char *faults)
{
    Vm **vms[2] = {s, d};

    for (unsigned i = 0; i < 2; i++) {
        *vms[i] = vm_start_pc((VmConfig){.name = i ? "destination" : "source",
                                         .memory = RAM,
                                         .boot = boot,
                                         .incoming = i ? "defer" : NULL,
                                         .faults = i == destination ? faults : NULL});
    }
    vm_wait_serial(*s, "B");
}

static void test_adopt_fails(gconstpointer data)
{
    const Failing *row = data;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s, *d;
    start_both(&s, &d, &boot, row->destination, row->faults);
    begin(s, d, POSTCOPY);
    kill(vm_engine(row->destination ? d : s), SIGKILL);
    qmp_expect_migration(vm_qmp(s), "postcopy-paused");
    qmp_expect_migration(vm_qmp(d), "postcopy-paused");
    vm_wait_stderr(row->destination ? d : s, "cannot be replaced");
    g_assert_true(vm_fault_happened(row->destination ? d : s, 0));
    recover(s, d, &boot);
    vm_end(d);
    vm_end(s);
}

/* One engine after the other lacks one of the things that it needs. Those that cannot even begin to
 * adopt end as if they had crashed: so there is a next one, with nobody asking for it. */
typedef struct {
    const char *name;
    bool destination;
    Moment moment;
    unsigned ends; /* engines that end by themselves */
    const char *faults;
} Lacking;

#define LACK_ANY "next/none/call/engine-state=ENOMEM;next/none/call/engine-monitor=EIO;"

static const Lacking lacking[] = {
    /* The guest stands, and is to run here again. */
    {"source/everything", false, ACTIVE, 4,
     LACK_ANY "source/adopting/call/urgent-wake=ENOMEM;source/*/call/resume-again=EIO;"
              "source/*/at/stopped=kill"},
    /* It was given away. */
    {"source/everything/given", false, POSTCOPY, 3,
     LACK_ANY "source/adopting/call/urgent-wake=ENOMEM;source/postcopy-*/call/map-ram=ENOMEM"},
    /* It was granted, and does not run yet. */
    {"destination/everything", true, POSTCOPY, 3,
     LACK_ANY "destination/*/call/uffd-held=ENOMEM;destination/postcopy-*/call/map-state=ENOMEM;"
              "destination/postcopy-*/call/uffd-register=ENOMEM;destination/*/call/"
              "resume-again=EIO;destination/*/at/granted=kill"},
};

static void check_lacking(Vm *vm, const Lacking *row)
{
    g_auto(GStrv) faults = g_strsplit(row->faults, ";", -1);
    g_autofree char *text = vm_stderr(vm);
    g_auto(GStrv) ends = g_strsplit(text, ") ended with status 1", -1);

    for (unsigned i = 0; faults[i]; i++) {
        g_assert_true(vm_fault_happened(vm, i));
    }
    g_assert_cmpuint(g_strv_length(ends) - 1, ==, row->ends);
}

static void test_lacking(gconstpointer data)
{
    const Lacking *row = data;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Vm *s, *d;
    start_both(&s, &d, &boot, row->destination, row->faults);
    begin(s, d, row->moment);
    if (row->moment == ACTIVE) {
        json_object_unref(qmp_call(vm_qmp(s), "migrate-start-postcopy", NULL));
        qmp_expect_migration(vm_qmp(s), "failed");
        g_assert_cmpint(vm_wait_exit(d), ==, 1);
        check_lacking(s, row);
        check_guest_stayed(s, &boot);
    } else {
        if (!row->destination) {
            kill(vm_engine(s), SIGKILL);
        }
        qmp_expect_migration(vm_qmp(s), "postcopy-paused");
        qmp_expect_migration(vm_qmp(d), "postcopy-paused");
        recover(s, d, &boot);
        check_lacking(row->destination ? d : s, row);
    }
    vm_end(d);
    vm_end(s);
}

/* The destination ends when it has loaded, and the source's first engine cannot reach its QEMU,
 * whose guest stands: another one can. */
static void test_unheard(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    g_autoptr(Vm) s = vm_start_pc((VmConfig){
        .name = "source", .memory = RAM, .boot = &boot, .faults = "source/*/call/resume=EIO"});
    g_autoptr(Vm) d = vm_start_pc((VmConfig){.name = "destination",
                                             .memory = RAM,
                                             .boot = &boot,
                                             .incoming = "defer",
                                             .faults = "destination/active/at/shut=kill"});
    vm_wait_serial(s, "B");
    begin(s, d, ACTIVE);
    json_object_unref(qmp_call(vm_qmp(s), "migrate-start-postcopy", NULL));
    qmp_expect_migration(vm_qmp(s), "failed");
    g_assert_cmpint(vm_wait_exit(d), !=, 0);
    g_assert_true(vm_fault_happened(s, 0));
    vm_wait_stderr(s, ") ended with status 1");
    check_guest_stayed(s, &boot);
}

/* The destination's engine dies while it gives an incoming migration to QEMU: then the next one
 * listens, or QEMU has it, and knows it. */
typedef struct {
    const char *name, *moment;
    bool many;  /* QEMU listens itself, behind the engine */
    bool fails; /* what the source had begun; the next attempt does not */
} Giving;

static const Giving giving[] = {
    {"one/before", "giving-incoming"},
    {"one/named", "incoming-named", .fails = true},
    {"one/after", "incoming-given"},
    {"many/before", "giving-incoming", .many = true},
    {"many/after", "incoming-given", .many = true},
};

static void give(Vm *s, Vm *d, const Giving *g, const char *uri)
{
    Qmp *sq = vm_qmp(s);

    qmp_ok(sq, "stop", NULL);
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    if (g->fails) {
        qmp_expect_migration(sq, "failed");
        move_await_cleanup(s);
        qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    }
}

static void test_giving(gconstpointer opaque)
{
    const Giving *g = opaque;
    g_autofree char *path = g_strdup_printf("/tmp/ff-crash-%d", getpid());
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    g_autofree char *faults = g_strdup_printf("*/*/at/%s=kill", g->moment);
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) s = vm_start_pc((VmConfig){.name = "source", .memory = RAM, .boot = &boot});
    g_autoptr(Vm) d = vm_start_pc((VmConfig){
        .name = "destination", .memory = RAM, .boot = &boot, .incoming = uri, .faults = faults});
    vm_wait_serial(s, "B");
    for (unsigned i = 0; i < 2; i++) {
        Qmp *q = vm_qmp(i ? d : s);

        qmp_set_capability(q, "events", true);
        qmp_set_capability(q, "multifd", g->many);
    }
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-bandwidth': 0}");
    give(s, d, g, uri);
    move_wait_completed(s, d);
    g_assert_true(vm_fault_happened(d, 0));
    qmp_ok(vm_qmp(d), "cont", NULL);
    vm_wait_new_serial(d, "B");
    unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/crash/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_kill);
    }
    g_test_add_func("/crash/listening", test_listening);
    for (unsigned i = 0; i < G_N_ELEMENTS(again); i++) {
        g_autofree char *path = g_strconcat("/crash/again/", again[i].name, NULL);
        g_test_add_data_func(path, &again[i], test_again);
    }
    g_test_add_func("/crash/full", test_full);
    for (unsigned i = 0; i < G_N_ELEMENTS(failing); i++) {
        g_autofree char *path = g_strconcat("/crash/adopt-fails/", failing[i].name, NULL);
        g_test_add_data_func(path, &failing[i], test_adopt_fails);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(lacking); i++) {
        g_autofree char *path = g_strconcat("/crash/adopt-fails/", lacking[i].name, NULL);
        g_test_add_data_func(path, &lacking[i], test_lacking);
    }
    g_test_add_func("/crash/unheard", test_unheard);
    for (unsigned i = 0; i < G_N_ELEMENTS(giving); i++) {
        g_autofree char *path = g_strconcat("/crash/giving/", giving[i].name, NULL);
        g_test_add_data_func(path, &giving[i], test_giving);
    }
    return g_test_run();
}
