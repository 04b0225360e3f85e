/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that are suspended to RAM (S3), put there by their ACPI register: live snapshots, moves,
 * upgrades and restores, good ones and others. The guest is suspended afterwards, wherever it is,
 * and system_wakeup wakes it; or it is refused while nothing has happened to it. From 9.0 on QEMU
 * aborts when such a guest is continued after a migration that has completed, and does not tell of
 * a guest that it has stopped that it was suspended; before, it wakes the guest by migrating.
 *
 * One thread.
 */
#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/qtest/snapshot-rig.h"
#include "tests/qtest/upgrade-rig.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static void expect_state(Qmp *q, const char *expected)
{
    g_autofree char *state = qmp_run_state(q);

    g_assert_cmpstr(state, ==, expected);
}

/* SLP_TYP 1 and SLP_EN, as SeaBIOS has set it up (pc and q35). */
static void suspend(Qmp *q)
{
    g_free(qmp_hmp(q, "o/h 0x604 0x2400"));
    qmp_expect(q, "SUSPEND");
    expect_state(q, "suspended");
}

static void wake(Qmp *q)
{
    expect_state(q, "suspended");
    qmp_ok(q, "system_wakeup", NULL);
    qmp_expect(q, "WAKEUP");
    expect_state(q, "running");
}

static void check_same(const char *one, const char *other)
{
    g_autofree char *a = NULL, *b = NULL;
    gsize n, m;

    g_assert_true(g_file_get_contents(one, &a, &n, NULL));
    g_assert_true(g_file_get_contents(other, &b, &m, NULL));
    g_assert_true(n == m && memcmp(a, b, n) == 0);
}

/* ---- live snapshots -------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned qemu;
    const char *more;   /* arguments of the snapshot */
    const char *faults; /* held at; NULL */
    const char *cancel; /* "cancel": when it is held */
    bool stopped;       /* by the client, before */
    bool cont;          /* said by the client when it is held */
    bool stop;
} Snapshot;

static const Snapshot snapshots[] = {
    {"10/mapped", 10},
    {"10/stream", 10, ", 'format': 'stream'"},
    {"10/stopped", 10, .stopped = true},
    {"10/stopped/stream", 10, ", 'format': 'stream'", .stopped = true},
    {"11/mapped", 11},
    {"11/stream", 11, ", 'format': 'stream'"},
    {"11/stopped", 11, .stopped = true},
    {"10/cont", 10, .faults = "snapshot/*/at/stopped=hold", .stopped = true, .cont = true},
    {"10/stop", 10, .faults = "snapshot/*/at/stopped=hold", .stop = true},
    {"10/cancel/offered", 10, .faults = "snapshot/*/at/offered=hold", .cancel = "cancel"},
    {"10/cancel/stopped", 10, .faults = "snapshot/*/at/stopped=hold", .cancel = "cancel"},
    {"10/cancel/saved", 10, .faults = "snapshot/*/at/saved=hold", .cancel = "cancel"},
    {"11/cancel/saved", 11, .faults = "snapshot/*/at/saved=hold", .cancel = "cancel"},
    {"10/cancel/running", 10, .faults = "snapshot/*/at/running=hold", .cancel = "cancel"},
    {"10/killed/offered", 10, .faults = "snapshot/*/at/offered=kill"},
    {"10/killed/stopped", 10, .faults = "snapshot/*/at/stopped=kill"},
    {"10/killed/saved", 10, .faults = "snapshot/*/at/saved=kill"},
    {"11/killed/saved", 11, .faults = "snapshot/*/at/saved=kill"},
    {"10/killed/running", 10, .faults = "snapshot/*/at/running=kill"},
};

/* The guest of FILE is what it was: in QEMU's own restore. */
static void check_restored(const char *qemu, const Snap *t, bool stopped)
{
    g_autofree char *uri = g_strdup_printf("file:%s", t->path);
    Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                  .qemu = qemu,
                                  .memory = G_STRINGIFY(SNAP_RAM_MIB) "M",
                                  .args = (const char *const[]){"-smp", "2", NULL},
                                  .boot = &t->boot,
                                  .incoming = "defer"});
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "events", true);
    qmp_set_capability(q, "mapped-ram", true);
    qmp_ok(q, "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect_migration(q, "completed");
    if (stopped) {
        expect_state(q, "paused");
        qmp_ok(q, "cont", NULL);
    }
    wake(q);
    vm_end(vm);
}

static void end(Snap *t)
{
    g_free(t->path);
    vm_end(t->vm);
}

/* It is answered when the guest has been let go, and stopped. */
static gpointer say_stop(gpointer q)
{
    qmp_ok(q, "stop", NULL);
    return NULL;
}

static void say(const Snapshot *s, Snap *t)
{
    Qmp *q = vm_qmp(t->vm);
    GThread *thread = NULL;

    snap_wait_held(t);
    if (s->cont) {
        qmp_ok(q, "cont", NULL);
    }
    if (s->stop) {
        thread = g_thread_new("stop", say_stop, q);
    }
    if (s->cancel) {
        qmp_ok(q, "migrate_cancel", NULL);
    }
    snap_let_go(t);
    if (thread) {
        g_thread_join(thread);
    }
}

/* Whoever is asked: QEMU's own part of it has failed. */
static void expect_completed(Snap *t)
{
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *status = qmp_migrate_status(vm_qmp(t->vm));

        g_assert_cmpstr(status, ==, "completed");
        pid_t engine = vm_find_engine(t->vm);
        if (engine) {
            kill(engine, SIGKILL);
        }
    }
}

static void test_snapshot(gconstpointer data)
{
    const Snapshot *s = data;
    g_autofree char *qemu = vm_qemu(s->qemu);
    Snap t = {.qemu = qemu};

    if (!qemu || !snap_begin(&t, s->faults, NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    bool killed = s->faults && strstr(s->faults, "kill");
    g_autofree char *before = vm_path(t.vm, "before"), *after = vm_path(t.vm, "after");
    suspend(q);
    snap_save_memory(t.vm, SNAP_RAM_MIB << 20, before);
    if (s->stopped) {
        qmp_ok(q, "stop", NULL);
    }
    snap_ask_with(&t, s->more ? s->more : "");
    if (s->faults && !killed) {
        say(s, &t);
    }
    qmp_expect_migration(q, killed ? "failed" : s->cancel ? "cancelled" : "completed");
    bool stands = (s->stopped && !s->cont) || s->stop;
    expect_state(q, stands ? "paused" : "suspended");
    if (!killed && !s->cancel) {
        g_assert_true(snap_is_equal(before, t.path, SNAP_RAM_MIB << 20));
        expect_completed(&t);
        if (!s->more) {
            check_restored(qemu, &t, s->stopped);
        }
    } else {
        snap_expect_no_file(&t);
    }
    if (stands) {
        /* And once more, of a guest of which QEMU says no more than that. */
        g_assert_true(unlink(t.path) == 0);
        snap_ask(&t);
        if (s->faults) {
            snap_wait_held(&t);
            snap_let_go(&t);
        }
        qmp_expect_migration(q, "completed");
        expect_state(q, "paused");
        qmp_ok(q, "cont", NULL);
    }
    expect_state(q, "suspended");
    snap_save_memory(t.vm, SNAP_RAM_MIB << 20, after);
    check_same(before, after);
    snap_expect_settings(&t);
    wake(q);
    end(&t);
}

/* It is suspended after the look that has decided how QEMU is to end its part. */
static void test_meanwhile(gconstpointer stopped)
{
    g_autofree char *qemu = vm_qemu(10);
    Snap t = {.qemu = qemu};

    if (!qemu || !snap_begin(&t, "snapshot/*/at/prepared=hold", NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    snap_ask(&t);
    snap_wait_held(&t);
    suspend(q);
    if (stopped) {
        qmp_ok(q, "stop", NULL);
    }
    snap_let_go(&t);
    qmp_expect_migration(q, "failed");
    snap_expect_error(&t, "was suspended (to RAM) right before its devices were saved: repeat");
    snap_expect_no_file(&t);
    expect_state(q, stopped ? "paused" : "suspended");
    snap_ask(&t);
    snap_wait_held(&t);
    snap_let_go(&t);
    qmp_expect_migration(q, "completed");
    if (stopped) {
        qmp_ok(q, "cont", NULL);
    }
    wake(q);
    end(&t);
}

/* QEMU before 9.0 would wake it. */
static void test_older(void)
{
    Snap t = {0};

    if (!vm_is_tests_qemu("7.")) {
        g_test_skip("for a QEMU before 9.0");
        return;
    }
    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    suspend(q);
    snap_ask(&t);
    qmp_expect_migration(q, "failed");
    snap_expect_error(&t, "wake it first (system_wakeup)");
    wake(q);
    end(&t);
}

/* ---- lazy restores --------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned to; /* as in Way */
    bool stopped;
} Restored;

static const Restored restored[] = {
    {"10", 10}, {"10/stopped", 10, true}, {"7.2", 7}, {"7.2/stopped", 7, true}};

static void test_restored(gconstpointer data)
{
    static const char *const args[] = {"-machine", "pc-i440fx-7.2", "-m",
                                       G_STRINGIFY(SNAP_RAM_MIB) "M", NULL};
    const Restored *r = data;
    g_autofree char *from = vm_qemu(10);
    g_autofree char *to = r->to == 7 ? up_installed() : vm_qemu(r->to);
    Snap t = {.qemu = from, .args = args};

    if (r->to == 7 && !vm_is_qemu(to, "7.")) {
        g_test_skip("the installed QEMU is not 7.2");
        return;
    }
    if (!from || !to || !snap_begin(&t, NULL, NULL)) {
        return;
    }
    suspend(vm_qmp(t.vm));
    if (r->stopped) {
        qmp_ok(vm_qmp(t.vm), "stop", NULL);
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    Vm *vm = vm_start(
        &(VmConfig){.name = "restored",
                    .launcher = VM_RUN,
                    .qemu = to,
                    .args = (const char *const[]){"-smp", "2", "-machine", "pc-i440fx-7.2", "-m",
                                                  G_STRINGIFY(SNAP_RAM_MIB) "M", NULL},
                    .boot = &t.boot,
                    .incoming = "defer"});
    Qmp *q = vm_qmp(vm);
    qmp_set_capability(q, "events", true);
    qmp_ok(q, "x-farfault-restore", "{'file': '%s'}", t.path);
    if (r->to == 7) {
        g_assert_cmpint(vm_wait_exit(vm), ==, 1);
        g_autofree char *said = vm_stderr(vm);
        if (!strstr(said, "wake it first (system_wakeup)")) {
            test_fail("not refused in these words: %s", said);
        }
    } else {
        qmp_expect_migration(q, "completed");
        if (r->stopped) {
            expect_state(q, "paused");
            qmp_ok(q, "cont", NULL);
        }
        wake(q);
    }
    vm_end(vm);
    end(&t);
}

/* ---- moves ----------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned from, to; /* versions; 7: the installed one */
    bool precopy, stopped;
    bool stands;        /* the destination has -S */
    const char *faults; /* of the source's engine */
    const char *why;    /* it fails; NULL: it does not */
} Way;

static const Way ways[] = {
    {"10/postcopy", 10, 10},
    {"10/precopy", 10, 10, .precopy = true},
    {"10/precopy/stands", 10, 10, .precopy = true, .stands = true},
    {"10/stopped", 10, 10, .stopped = true},
    {"10/11", 10, 11},
    {"11/postcopy", 11, 11},
    {"10/killed/stopped", 10, 10, .faults = "source/*/at/stopped=kill", .why = ""},
    {"10/killed/loaded", 10, 10, .faults = "source/*/at/loaded=kill", .why = ""},
    {"10/cancel", 10, 10, .faults = "source/*/at/loaded=hold", .why = ""},
    {"11/cancel", 11, 11, .faults = "source/*/at/loaded=hold", .why = ""},
    {"10/7.2", 10, 7, .why = "wake it first (system_wakeup)"},
    {"10/7.2/stopped", 10, 7, .stopped = true, .why = "wake it first (system_wakeup)"},
};

static Vm *start_end(const Way *w, const char *qemu, const BootsectConfig *boot, bool source)
{
    return vm_start(&(VmConfig){.name = source ? "source" : "destination",
                                .launcher = VM_RUN,
                                .qemu = qemu,
                                .memory = "32M",
                                .args = (const char *const[]){"-machine", "pc-i440fx-7.2", NULL},
                                .boot = boot,
                                .incoming = source ? NULL : "defer",
                                .paused = !source && w->stands,
                                .faults = source ? w->faults : NULL});
}

/* What QEMU would abort with is refused, whoever says it; what is left of the guest can start
 * afresh. */
static void check_source(const Way *w, Vm *source)
{
    Qmp *q = vm_qmp(source);

    qmp_wait_postmigrate(q);
    g_free(qmp_error(q, "cont", NULL));
    g_autofree char *refused = qmp_error(q, "x-farfault-revoke", "{'force': true}");
    g_assert_nonnull(strstr(refused, "The guest is suspended, and QEMU aborts"));
    g_free(qmp_error(q, "cont", NULL));
    expect_state(q, "postmigrate");
    qmp_ok(q, "system_reset", NULL);
    qmp_expect(q, "RESET");
    qmp_ok(q, "x-farfault-revoke", "{'force': true}");
    qmp_ok(q, "cont", NULL);
    expect_state(q, "running");
}

static void check_arrived(const Way *w, Vm *source, Vm *destination)
{
    move_wait_completed(source, destination);
    if (w->stands || w->stopped) {
        expect_state(vm_qmp(destination), "paused");
        if (w->stands) { /* it is the client's to start, where it can be started */
            qmp_wait_postmigrate(vm_qmp(source));
            g_free(qmp_error(vm_qmp(source), "cont", NULL));
        }
        qmp_ok(vm_qmp(destination), "cont", NULL);
    }
    wake(vm_qmp(destination));
    vm_kill(destination);
    check_source(w, source);
}

static void check_stayed(const Way *w, Vm *source, Vm *destination)
{
    Qmp *q = vm_qmp(source);
    bool cancels = w->faults && strstr(w->faults, "hold");

    if (cancels) {
        hold_wait(source);
        qmp_ok(q, "migrate_cancel", NULL);
        hold_let_go(source);
    }
    qmp_expect_migration(q, cancels ? "cancelled" : "failed");
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);
    g_autofree char *text =
        g_strdup(json_object_get_string_member_with_default(info, "error-desc", ""));
    if (!strstr(text, w->why)) {
        test_fail("error-desc is not about \"%s\": %s", w->why, text);
    }
    if (w->stopped) {
        expect_state(q, "paused");
        qmp_ok(q, "cont", NULL);
    }
    wake(q);
    vm_kill(destination);
}

static void test_way(gconstpointer data)
{
    const Way *w = data;
    g_autofree char *from = vm_qemu(w->from);
    g_autofree char *to = w->to == 7 ? g_strdup("qemu-system-x86_64") : vm_qemu(w->to);
    BootsectConfig boot = bootsect_config(32 << 20, 16 << 20, 1);
    const char *why;

    if (!from || !to) {
        return;
    }
    if (!(w->faults ? vm_faults_available : vm_farfault_available)(&why)) {
        g_test_skip(why);
        return;
    }
    if (w->to == 7 && !vm_is_qemu(to, "7.")) {
        g_test_skip("the installed QEMU is not 7.2");
        return;
    }
    g_autoptr(Vm) source = start_end(w, from, &boot, true);
    g_autoptr(Vm) destination = start_end(w, to, &boot, false);
    Vm *both[] = {source, destination};

    hold_make(source);
    vm_wait_ready(source);
    move_prepare(source, destination);
    for (unsigned i = 0; w->precopy && i < G_N_ELEMENTS(both); i++) {
        qmp_set_capability(vm_qmp(both[i]), "postcopy-ram", false);
        qmp_ok(vm_qmp(both[i]), "migrate-set-parameters",
               "{'x-farfault-policy': 'always', 'max-bandwidth': 1000000000}");
    }
    g_autofree char *uri = move_listen(destination);
    suspend(vm_qmp(source));
    if (w->stopped) {
        qmp_ok(vm_qmp(source), "stop", NULL);
    }
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    if (!w->precopy) {
        qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    }
    (w->why ? check_stayed : check_arrived)(w, source, destination);
}

/* ---- upgrades -------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned from, to; /* as in Way */
    const char *faults;
    const char *why;
    bool stopped;
} Change;

static const Change changes[] = {
    {"10/10", 10, 10},
    {"10/11", 10, 11},
    {"10/stopped", 10, 10, .stopped = true},
    {"10/fails", 10, 10, "handover/*/at/loaded=kill", ""},
    {"10/fails/new", 10, 10, "takeover/*/at/loaded=kill", ""},
    {"11/fails", 11, 11, "handover/*/at/stopped=kill", ""},
    {"10/7.2", 10, 7, NULL, "wake it first (system_wakeup)"},
    {"10/7.2/stopped", 10, 7, NULL, "wake it first (system_wakeup)", .stopped = true},
};

static char *version_of(unsigned number)
{
    return number == 7 ? up_installed() : vm_qemu(number);
}

static void test_change(gconstpointer data)
{
    const Change *c = data;
    g_autofree char *from = version_of(c->from), *to = version_of(c->to), *said = NULL;
    const char *why;

    if (!from || !to) {
        return;
    }
    if (c->faults && !vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!vm_is_qemu(c->to == 7 ? to : from, c->to == 7 ? "7." : "1")) {
        g_test_skip("the installed QEMU is not 7.2");
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    if (!g) {
        return;
    }
    /* Of the engine of the QEMU that is then the old one; of the new one. */
    if (c->faults && g_str_has_prefix(c->faults, "handover")) {
        up_set_faults(g, c->faults);
    }
    up_to(g, from);
    if (c->faults && g_str_has_prefix(c->faults, "takeover")) {
        up_set_faults(g, c->faults);
    }
    up_reconnect(g);
    suspend(g->qmp);
    if (c->stopped) {
        qmp_ok(g->qmp, "stop", NULL);
    }
    pid_t before = up_only_qemu(g);
    g_assert_cmpint(up_run(g, (const char *const[]){"--qemu", to, NULL}, &said), ==,
                    c->why ? 1 : 0);
    if (c->why && !strstr(said, c->why)) {
        test_fail("\"%s\" is not in: %s", c->why, said);
    }
    g_assert_true((up_only_qemu(g) == before) == !!c->why);
    up_reconnect(g);
    if (c->stopped) {
        expect_state(g->qmp, "paused");
        qmp_ok(g->qmp, "cont", NULL);
    }
    wake(g->qmp);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(snapshots); i++) {
        g_autofree char *path = g_strdup_printf("/suspended/snapshot/%s", snapshots[i].name);
        g_test_add_data_func(path, &snapshots[i], test_snapshot);
    }
    g_test_add_data_func("/suspended/snapshot/meanwhile/suspended", NULL, test_meanwhile);
    g_test_add_data_func("/suspended/snapshot/meanwhile/stopped", "stopped", test_meanwhile);
    g_test_add_func("/suspended/snapshot/7.2", test_older);
    for (unsigned i = 0; i < G_N_ELEMENTS(restored); i++) {
        g_autofree char *path = g_strdup_printf("/suspended/restore/%s", restored[i].name);
        g_test_add_data_func(path, &restored[i], test_restored);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *path = g_strdup_printf("/suspended/move/%s", ways[i].name);
        g_test_add_data_func(path, &ways[i], test_way);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree char *path = g_strdup_printf("/suspended/upgrade/%s", changes[i].name);
        g_test_add_data_func(path, &changes[i], test_change);
    }
    return g_test_run();
}
