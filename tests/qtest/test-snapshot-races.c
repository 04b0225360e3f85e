/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What others do at a live snapshot's most delicate moments: somebody resumes or resets the guest
 * between stop and its device state, QEMU itself writes to guest memory there, the client stops it
 * or cancels at the last moment. The engine is held at the moment that a case is about.
 */
#include "tests/lib/stop.h"
#include "tests/qtest/snapshot-rig.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of the guest's memory, beyond what it counts in. */
#define UNUSED (50ull << 20)

/* The snapshot fails, WHY; the guest is unharmed, and the next one is good. */
static void expect_failure(Snap *t, const char *why)
{
    qmp_expect_migration(vm_qmp(t->vm), "failed");
    snap_expect_error(t, why);
    snap_expect_no_file(t);
    snap_expect_settings(t);
}

/* ---- between stop and the devices ------------------------------------------------------------ */

typedef struct {
    const char *name, *faults;
} Case;

/* The human monitor is QEMU's own. The engine hears of a RESUME in two ways, of which the first one
 * alone may come too late. */
static const Case resumed[] = {
    {"resumed", "snapshot/*/at/armed=hold"},
    {"resumed-unheard", "snapshot/*/at/armed=hold;snapshot/*/step/hear-resume=skip"},
};

static void test_resumed(gconstpointer data)
{
    const Case *c = data;
    Snap t = {.listens = true};

    if (!snap_begin(&t, c->faults, NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_autofree char *state = vm_human_state(t.vm, true);
    g_assert_cmpstr(state, ==, "running");
    qmp_expect(vm_qmp(t.vm), "RESUME");
    snap_let_go(&t);
    expect_failure(&t, "resumed by another monitor while its devices were saved");
    snap_end(&t);
}

static void test_reset(void)
{
    Snap t = {.listens = true};

    if (!snap_begin(&t, "snapshot/*/at/armed=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_free(vm_human(t.vm, "system_reset"));
    qmp_expect(vm_qmp(t.vm), "RESET");
    snap_let_go(&t);
    expect_failure(&t, "the guest was reset while its devices were saved");
    vm_wait_serial(t.vm, "AB"); /* from the beginning, perhaps before this */
    g_free(t.path);
    vm_end(t.vm);
}

/* A guest that is a hypervisor, or becomes one while its memory is protected: under KVM its own
 * guests write past all page tables. */
static void test_nested(gconstpointer later)
{
    static const char *const args[] = {"-m", G_STRINGIFY(SNAP_RAM_MIB) "M", "-cpu", "max", NULL};
    Snap t = {.args = args};

    if (!snap_begin(&t,
                    later ? "snapshot/*/step/nested-kvm=skip;snapshot/*/at/active=hold"
                          : "snapshot/*/step/nested-kvm=skip",
                    NULL)) {
        return;
    }
    if (!later) {
        vm_set_svme(t.vm, true);
    }
    snap_ask(&t);
    if (later) {
        snap_wait_held(&t);
        vm_set_svme(t.vm, true);
        snap_let_go(&t);
    }
    expect_failure(&t, "the guest uses nested virtualisation (svm)");
    snap_end(&t);
}

/* As for a device that somebody writes to. There is no room for what it overwrites, and QEMU's main
 * loop waits for its write: without an end, if only the writer of the file could end that. */
static void test_written(gconstpointer buffer)
{
    g_autofree char *more = g_strdup_printf(", 'buffer': %s", (const char *)buffer);
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/armed=hold", NULL)) {
        return;
    }
    snap_ask_with(&t, more);
    snap_wait_held(&t);
    qtest_send_writeq(vm_qtest(t.vm), UNUSED, 1);
    qtest_send_writeq(vm_qtest(t.vm), UNUSED + 4096, 2);
    snap_let_go(&t);
    qtest_take_answer(vm_qtest(t.vm));
    qtest_take_answer(vm_qtest(t.vm));
    expect_failure(&t, "QEMU wrote to");
    g_assert_cmpuint(qtest_readq(vm_qtest(t.vm), UNUSED), ==, 1);
    g_assert_cmpuint(qtest_readq(vm_qtest(t.vm), UNUSED + 4096), ==, 2);
    snap_end(&t);
}

/* ---- the same with QEMU 10 ------------------------------------------------------------------- */

typedef struct {
    Snap *t;
    const char *line; /* for the human monitor */
    char *state;
} Human;

static gpointer say_human(gpointer p)
{
    Human *h = p;

    h->state = vm_human(h->t->vm, h->line);
    return NULL;
}

static const char *const is_over[] = {"completed", "failed", NULL};

static bool has_ended(JsonObject *data, const void *opaque)
{
    return g_strv_contains(is_over, json_object_get_string_member(data, "status"));
}

/* QEMU 10 holds its big lock while it waits with its devices: its monitors wait, too. What they are
 * told comes between that and the devices, and fails the snapshot, or after them, and is harmless;
 * which of the two is QEMU's affair. Then the file is whole, or there is none. */
static void test_newer(gconstpointer line)
{
    g_autofree char *newer = vm_newer_qemu();
    Snap t = {.listens = true, .qemu = newer};

    if (!newer || !snap_begin(&t, "snapshot/*/at/armed=hold", NULL)) {
        return;
    }
    Human h = {.t = &t, .line = line};
    snap_ask(&t);
    snap_wait_held(&t);
    GThread *human = g_thread_new("human", say_human, &h);
    snap_let_go(&t);
    g_autoptr(JsonObject) end =
        qmp_wait_event(vm_qmp(t.vm), "MIGRATION", has_ended, NULL, TEST_TIMEOUT);
    g_thread_join(human);
    g_test_message(
        "%s: %s", h.line,
        json_object_get_string_member(json_object_get_object_member(end, "data"), "status"));
    g_free(h.state);
    g_autofree char *status = qmp_migrate_status(vm_qmp(t.vm));
    if (!strcmp(status, "failed")) {
        snap_expect_error(&t, "while its devices were saved: repeat the snapshot");
        snap_expect_no_file(&t);
    } else {
        g_autofree uint8_t *whole = snap_read(t.path, SNAP_RAM_MIB << 20);
        g_assert_nonnull(whole);
    }
    snap_expect_settings(&t);
    vm_wait_new_serial(t.vm, "B");
    g_free(t.path);
    vm_end(t.vm);
}

/* QEMU does not wait with its devices for the memory. Its socket is not full, so it continues while
 * the engine is held, at least until nobody reads what it writes. That is seen in two ways. */
static const Case early_devices[] = {
    {"written", "snapshot/*/at/armed=hold;snapshot/*/step/fill=skip"},
    {"active", "snapshot/*/at/armed=hold;snapshot/*/step/fill=skip;"
               "snapshot/*/step/look-whether-written=skip"},
};

static void test_early_devices(gconstpointer data)
{
    const Case *c = data;
    Snap t = {.listens = true};

    if (!snap_begin(&t, c->faults, NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_autofree char *state = NULL;
    do { /* each is a question to QEMU */
        g_free(state);
        state = vm_human_state(t.vm, false);
    } while (!strstr(state, "migrate"));
    snap_let_go(&t);
    expect_failure(&t, "QEMU did not wait with its devices");
    snap_end(&t);
}

/* A device that cannot be saved, plugged at a human monitor when QEMU has been asked what stands in
 * the way: QEMU refuses its part, and the guest runs on. */
static void test_unmigratable(gconstpointer newer)
{
    g_autofree char *qemu = newer ? vm_newer_qemu() : NULL;
    Snap t = {.listens = true, .qemu = qemu};

    if ((newer && !qemu) || !snap_begin(&t, "snapshot/*/at/prepared=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_autofree char *said = vm_human(t.vm, "device_add nvme,serial=x,id=n0");
    g_test_message("%s", said);
    snap_let_go(&t);
    expect_failure(&t, "State blocked by non-migratable device");
    snap_end(&t);
}

/* ---- the run state --------------------------------------------------------------------------- */

/* What counts is what the guest was at the stop. */
static void test_paused_before(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/prepared=hold", NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(q, "stop", NULL);
    snap_let_go(&t);
    qmp_expect_migration(q, "completed");
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "postmigrate");
    g_assert_false(qmp_has_event(q, "RESUME"));
    g_assert_cmpint(unlink(t.path), ==, 0);
    /* And the other way round. */
    qmp_ok(q, "cont", NULL);
    qmp_ok(q, "stop", NULL);
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(q, "cont", NULL);
    snap_let_go(&t);
    qmp_expect_migration(q, "completed");
    snap_end(&t);
}

/* Until it stands, whatever lets it continue before that. */
static void expect_standing(Snap *t)
{
    g_autofree char *state = qmp_run_state(vm_qmp(t->vm));

    g_assert_cmpstr(state, !=, "running");
    qmp_ok(vm_qmp(t->vm), "cont", NULL);
}

static gpointer say_stop(gpointer t)
{
    qmp_ok(vm_qmp(((Snap *)t)->vm), "stop", NULL);
    return NULL;
}

/* The client's stop is under way, and the relay late with what the engine says, when the engine
 * stops the guest by itself. What is answered with success is so afterwards. */
static void test_stop_under_way(void)
{
    Snap t = {0};

    if (!snap_begin(&t,
                    "snapshot/*/at/stopping=hold;snapshot/*/at/client-word=hold;"
                    "snapshot/*/at/armed=hold",
                    NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    snap_ask(&t);
    snap_wait_held(&t);
    GThread *client = g_thread_new("client", say_stop, &t);
    snap_wait_held(&t);
    pid_t relay = vm_relay(t.vm);
    stop_process(relay);
    snap_let_both_go(&t);
    g_assert_cmpint(kill(relay, SIGCONT), ==, 0); /* which the engine waits for */
    snap_wait_held(&t);
    g_thread_join(client);
    snap_let_go(&t);
    qmp_expect_migration(q, "completed");
    expect_standing(&t);
    snap_end(&t);
}

/* The client changes its mind while the guest is being let run on. */
static void test_stop_at_the_end(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/releasing=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    GThread *client = g_thread_new("client", say_stop, &t);
    snap_let_go(&t); /* perhaps first: then it is QEMU's */
    g_thread_join(client);
    g_autofree char *state = qmp_run_state(vm_qmp(t.vm));
    g_assert_cmpstr(state, !=, "running");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    expect_standing(&t);
    snap_end(&t);
}

/* QEMU has obeyed the client's stop, right after the release, when the engine dies. */
static void test_stop_behind(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/running=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "stop", NULL);
    g_assert_cmpint(kill(vm_engine(t.vm), SIGKILL), ==, 0);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    expect_standing(&t);
    snap_end(&t);
}

/* A client continues a guest that stood, in the moment of the snapshot, and hears that it is done;
 * then the engine dies. */
typedef struct {
    const char *where;
    const char *dies; /* later; NULL: there */
} ContBehind;

static const ContBehind conts[] = {
    {"offered"}, {"offered", "stopped"}, {"stopped"}, {"stopped", "releasing"}, {"releasing"}};

static void test_cont_behind(const void *data)
{
    const ContBehind *row = data;
    g_autofree char *faults = g_strdup_printf("snapshot/*/at/%s=hold%s%s%s", row->where,
                                              row->dies ? ";snapshot/*/at/" : "",
                                              row->dies ? row->dies : "", row->dies ? "=kill" : "");
    Snap t = {0};

    if (!snap_begin(&t, faults, NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    qmp_ok(q, "stop", NULL);
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(q, "cont", NULL);
    if (row->dies) {
        snap_let_go(&t);
    } else {
        g_assert_cmpint(kill(vm_engine(t.vm), SIGKILL), ==, 0);
    }
    qmp_expect_migration(q, "failed");
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "running");
    snap_end(&t);
}

/* What the client does when the guest runs again is of no concern to the snapshot, which
 * looks whether somebody resumed it before. */
static void test_stop_and_cont(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/running=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "stop", NULL);
    qmp_ok(vm_qmp(t.vm), "cont", NULL);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

/* The engine dies before it knows what the guest is: what that was at an older snapshot is nothing
 * to go by. */
static void test_stopped_since(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/offered#2=kill", NULL)) {
        return;
    }
    Qmp *q = vm_qmp(t.vm);
    snap_ask(&t);
    qmp_expect_migration(q, "completed");
    g_assert_cmpint(unlink(t.path), ==, 0);
    qmp_ok(q, "stop", NULL);
    snap_ask(&t);
    qmp_expect_migration(q, "failed");
    expect_standing(&t);
    snap_end(&t);
}

/* QEMU does not let the guest continue at once. */
static void test_not_resumed(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/call/resume=EIO", NULL)) {
        return;
    }
    snap_ask(&t);
    expect_failure(&t, "Input/output error");
    snap_end(&t);
}

/* Nor when that was not the end of the time for which it stands. */
static void test_not_rolled_back(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/armed=hold;snapshot/*/call/resume=EIO", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "cancelled");
    snap_expect_no_file(&t);
    snap_expect_settings(&t);
    snap_end(&t);
}

/* This engine cannot reach QEMU any more: the next one lets the guest run. */
static void test_not_heard(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/armed=hold;snapshot/*/call/unheard=EIO", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    vm_wait_stderr(t.vm, ") ended with status 1");
    vm_wait_new_serial(t.vm, "B");
    snap_expect_no_file(&t);
    snap_expect_settings(&t);
    snap_end(&t);
}

/* ---- the last moments ------------------------------------------------------------------------ */

typedef struct {
    const char *name, *faults, *end;
} Last;

/* A cancel comes in time or too late: then the file is there, and nothing else is said. */
static const Last cancels[] = {
    {"written", "snapshot/*/at/written=hold", "cancelled"},
    {"committing", "snapshot/*/at/committing=hold", "completed"},
    {"named", "snapshot/*/at/named=hold", "completed"},
};

static void test_cancel(gconstpointer data)
{
    const Last *c = data;
    Snap t = {0};

    if (!snap_begin(&t, c->faults, NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), c->end);
    g_autofree char *status = qmp_migrate_status(vm_qmp(t.vm));
    g_assert_cmpstr(status, ==, c->end);
    if (!strcmp(c->end, "completed")) {
        g_autofree uint8_t *whole = snap_read(t.path, SNAP_RAM_MIB << 20);
        g_assert_nonnull(whole);
    } else {
        snap_expect_no_file(&t);
    }
    snap_expect_settings(&t);
    snap_end(&t);
}

/* What is not on the disk is not there: neither content nor name. */
static const Last syncs[] = {
    {"sync", "snapshot/*/call/output-sync=EIO", "Input/output error"},
    {"folder", "snapshot/*/call/output-folder=EIO", "Input/output error"},
};

static void test_sync(gconstpointer data)
{
    const Last *c = data;
    Snap t = {0};

    if (!snap_begin(&t, c->faults, NULL)) {
        return;
    }
    snap_ask(&t);
    expect_failure(&t, c->end);
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_end(&t);
}

/* A client's own file was all written when it cancelled. What stood there before is no older
 * snapshot that seems whole either. */
static void test_given_file(void)
{
    g_autofree char *old = g_malloc0(2 << 20);
    g_autofree char *now = NULL;
    Snap t = {0};
    gsize n;

    if (!snap_begin(&t, "snapshot/*/at/written=hold", NULL)) {
        return;
    }
    memset(old, 'o', 2 << 20);
    g_assert_true(g_file_set_contents(t.path, old, 2 << 20, NULL));
    int fd = open(t.path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    qmp_getfd(vm_qmp(t.vm), "snap", fd);
    qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'fdname': 'snap', 'offset': 8192}");
    snap_wait_held(&t);
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "cancelled");
    g_assert_true(g_file_get_contents(t.path, &now, &n, NULL));
    g_assert_cmpuint(n, ==, 8192);
    g_assert_cmpint(memcmp(now, old, n), ==, 0);
    close(fd);
    snap_end(&t);
}

/* Whose file it is may have other uses for it: what an engine leaves that is killed is no O_DIRECT
 * there. */
static void test_given_killed(void)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/writer-lent#8=kill", NULL)) {
        return;
    }
    int fd = open(t.path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    qmp_getfd(vm_qmp(t.vm), "snap", fd);
    qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'fdname': 'snap'}");
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    g_assert_cmpint(fcntl(fd, F_GETFL) & O_DIRECT, ==, 0);
    close(fd);
    snap_end(&t);
}

/* One that is for that is written so, and left as it was. */
static void test_given_direct(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    int fd = open(t.path, O_RDWR | O_DIRECT | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        g_test_skip("no direct I/O where temporary files are");
    } else {
        qmp_getfd(vm_qmp(t.vm), "snap", fd);
        qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'fdname': 'snap'}");
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(t.vm), "query-migrate", NULL);
        JsonObject *own = json_object_get_object_member(info, "x-farfault");
        JsonObject *snapshot = json_object_get_object_member(own, "snapshot");
        g_assert_cmpstr(json_object_get_string_member(snapshot, "way"), ==, "direct");
        g_assert_cmpint(fcntl(fd, F_GETFL) & O_DIRECT, ==, O_DIRECT);
        g_autofree uint8_t *whole = snap_read(t.path, SNAP_RAM_MIB << 20);
        g_assert_nonnull(whole);
        close(fd);
    }
    snap_end(&t);
}

/* A file system that does not say what room it has. */
static void test_given_memory(void)
{
    Snap t = {0};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    int fd = memfd_create("snap", MFD_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    qmp_getfd(vm_qmp(t.vm), "snap", fd);
    qmp_ok(vm_qmp(t.vm), "x-farfault-snapshot", "{'fdname': 'snap'}");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autofree uint8_t *whole = snap_read(path, SNAP_RAM_MIB << 20);
    g_assert_nonnull(whole);
    close(fd);
    snap_end(&t);
}

/* ---- the end of one that fails --------------------------------------------------------------- */

typedef struct {
    const char *name, *faults, *end;
} Early;

/* There is no room for what the guest overwrites, so it waits for the disk; which does not answer
 * (the client cancels), or is full, and then it takes long to lift what is protected. */
static const Early early[] = {
    {"disk-hangs", "snapshot/*/at/writer-lent=hold", "cancelled"},
    {"lifting", "snapshot/*/call/writer-write=ENOSPC;snapshot/*/at/capture-lifting=hold", "failed"},
};

/* The guest does not wait for any of that: it comes round, through all of its memory. */
static void test_early_end(gconstpointer data)
{
    const Early *c = data;
    Snap t = {0};

    if (!snap_begin(&t, c->faults, NULL)) {
        return;
    }
    snap_ask_with(&t, ", 'buffer': 0");
    qmp_expect(vm_qmp(t.vm), "RESUME");
    snap_wait_held(&t);
    if (!strcmp(c->end, "cancelled")) {
        qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    }
    for (unsigned round = 0; round < 3; round++) {
        vm_wait_new_serial(t.vm, "B");
    }
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), c->end);
    snap_expect_no_file(&t);
    snap_end(&t);
}

/* ---- after a death --------------------------------------------------------------------------- */

static const char *const deaths[] = {"protected", "armed", "running", "written"};

/* The engine dies; a client that asks as soon as that is told is not refused. */
static void test_at_once(gconstpointer step)
{
    g_autofree char *faults = g_strdup_printf("snapshot/*/at/%s=kill", (const char *)step);
    Snap t = {0};

    if (!snap_begin(&t, faults, NULL)) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_expect_settings(&t);
    snap_end(&t);
}

/* The engine dies when it has heard that a processor of the guest waits, and nobody wakes that one:
 * the next engine is told of it. Not while QEMU stops the guest, which waits for its processors. */
static void test_not_woken(void)
{
    Snap t = {0};

    if (!snap_begin(
            &t, "snapshot/*/at/protected=hold;snapshot/*/at/faults-read=kill;*/*/step/lift=skip",
            NULL)) {
        return;
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_ask(&t);
    snap_wait_held(&t);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    vm_wait_new_serial(t.vm, "B");
    snap_end(&t);
}

/* FALSE: it must be repeated. */
static bool is_taken(Snap *t)
{
    g_autoptr(JsonObject) answer =
        qmp_call(vm_qmp(t->vm), "x-farfault-snapshot", "{'file': '%s'}", t->path);

    if (json_object_has_member(answer, "return")) {
        return true;
    }
    JsonObject *error = json_object_get_object_member(answer, "error");
    const char *desc = json_object_get_string_member(error, "desc");
    if (!strstr(desc, "it has been restarted, repeat the command")) {
        test_fail("refused: %s", desc);
    }
    return false;
}

/* Nor is a client that has not been told yet. */
static void test_at_the_death(gconstpointer step)
{
    g_autofree char *faults = g_strdup_printf("snapshot/*/at/%s=hold", (const char *)step);
    Snap t = {0};

    if (!snap_begin(&t, faults, NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_assert_cmpint(kill(vm_engine(t.vm), SIGKILL), ==, 0);
    if (!is_taken(&t)) { /* the dead engine had it already */
        g_assert_true(is_taken(&t));
    }
    snap_wait_held(&t);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    snap_expect_settings(&t);
    snap_end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(resumed); i++) {
        g_autofree char *path = g_strconcat("/snapshot/races/", resumed[i].name, NULL);

        g_test_add_data_func(path, &resumed[i], test_resumed);
    }
    g_test_add_func("/snapshot/races/reset", test_reset);
    g_test_add_data_func("/snapshot/races/nested/from-the-beginning", NULL, test_nested);
    g_test_add_data_func("/snapshot/races/nested/later", "later", test_nested);
    g_test_add_data_func("/snapshot/races/10/resumed", "cont", test_newer);
    g_test_add_data_func("/snapshot/races/10/reset", "system_reset", test_newer);
    g_test_add_data_func("/snapshot/races/written/no-room", "0", test_written);
    g_test_add_data_func("/snapshot/races/written/room", "67108864", test_written);
    for (unsigned i = 0; i < G_N_ELEMENTS(early_devices); i++) {
        g_autofree char *path =
            g_strconcat("/snapshot/races/early-devices/", early_devices[i].name, NULL);

        g_test_add_data_func(path, &early_devices[i], test_early_devices);
    }
    g_test_add_data_func("/snapshot/races/unmigratable", NULL, test_unmigratable);
    g_test_add_data_func("/snapshot/races/10/unmigratable", "newer", test_unmigratable);
    g_test_add_func("/snapshot/races/paused-before", test_paused_before);
    g_test_add_func("/snapshot/races/stop/under-way", test_stop_under_way);
    g_test_add_func("/snapshot/races/stop/at-the-end", test_stop_at_the_end);
    g_test_add_func("/snapshot/races/stop/behind", test_stop_behind);
    for (unsigned i = 0; i < G_N_ELEMENTS(conts); i++) {
        g_autofree char *path =
            g_strdup_printf("/snapshot/races/cont/%s%s%s", conts[i].where, conts[i].dies ? "/" : "",
                            conts[i].dies ? conts[i].dies : "");

        g_test_add_data_func(path, &conts[i], test_cont_behind);
    }
    g_test_add_func("/snapshot/races/stop/and-cont", test_stop_and_cont);
    g_test_add_func("/snapshot/races/stopped-since", test_stopped_since);
    g_test_add_func("/snapshot/races/not-resumed", test_not_resumed);
    g_test_add_func("/snapshot/races/not-rolled-back", test_not_rolled_back);
    g_test_add_func("/snapshot/races/not-heard", test_not_heard);
    for (unsigned i = 0; i < G_N_ELEMENTS(cancels); i++) {
        g_autofree char *path = g_strconcat("/snapshot/races/cancel/", cancels[i].name, NULL);

        g_test_add_data_func(path, &cancels[i], test_cancel);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(syncs); i++) {
        g_autofree char *path = g_strconcat("/snapshot/races/disk/", syncs[i].name, NULL);

        g_test_add_data_func(path, &syncs[i], test_sync);
    }
    g_test_add_func("/snapshot/races/given-file", test_given_file);
    g_test_add_func("/snapshot/races/given-killed", test_given_killed);
    g_test_add_func("/snapshot/races/given-direct", test_given_direct);
    g_test_add_func("/snapshot/races/given-memory", test_given_memory);
    for (unsigned i = 0; i < G_N_ELEMENTS(early); i++) {
        g_autofree char *path = g_strconcat("/snapshot/races/early/", early[i].name, NULL);

        g_test_add_data_func(path, &early[i], test_early_end);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/snapshot/races/at-once/", deaths[i], NULL);

        g_test_add_data_func(path, deaths[i], test_at_once);
    }
    g_test_add_func("/snapshot/races/not-woken", test_not_woken);
    g_test_add_data_func("/snapshot/races/at-the-death/armed", "armed", test_at_the_death);
    g_test_add_data_func("/snapshot/races/at-the-death/running", "running", test_at_the_death);
    return g_test_run();
}
