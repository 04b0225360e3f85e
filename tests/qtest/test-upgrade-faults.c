/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade where more than one part fails: relay and engine at once, a QEMU that is killed
 * while both may have the guest, one that hangs, one that writes when it must not. Exactly one QEMU
 * has the guest afterwards, and its memory is right.
 */
#include "tests/qtest/upgrade-rig.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool has_faults(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

static void says(const char *said, const char *part)
{
    if (!strstr(said, part)) {
        g_error("\"%s\" is not in: %s", part, said);
    }
}

/* ---- relay and engine at once ---------------------------------------------------------------- */

/* The old QEMU's die before the guest is given away: it is the old QEMU's again with a new relay.
 */
static void test_old_both_before(void)
{
    static const char *const points[] = {"guarded", "stopping", "stopped", "loaded", "giving"};
    g_autoptr(GString) faults = g_string_new(NULL);

    if (!has_faults()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(points); i++) {
        g_string_append_printf(faults, "%shandover/*/at/%s=both", i ? ";" : "", points[i]);
    }
    g_autoptr(Guest) g = up_counting(faults->str);
    for (unsigned i = 0; g && i < G_N_ELEMENTS(points); i++) {
        g_autofree char *said = NULL, *hint = NULL;
        pid_t old = up_only_qemu(g);

        g_test_message("%s", points[i]);
        g_assert_cmpint(up_run(g, NULL, &said), ==, 1);
        hint = g_strdup_printf("farfault attach %d ", (int)old);
        says(said, hint);
        g_assert_cmpint(up_only_qemu(g), ==, old);
        up_attach(g, old);
        up_runs(g);
        up_check_memory(g);
    }
}

/* And after that: the new one has it, and nothing is left of the old one. */
static void test_old_both_after(void)
{
    g_autofree char *said = NULL;

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/given=both");
    if (g) {
        pid_t old = up_only_qemu(g);

        g_assert_cmpint(up_run(g, NULL, &said), ==, 0);
        g_assert_cmpint(up_only_qemu(g), !=, old);
        up_runs(g);
        up_check_memory(g);
    }
}

/* The relay of PID, or of its engine; 0: it has gone. */
static pid_t parent_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    int parent = 0;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        g_assert_cmpint(sscanf(strrchr(text, ')') + 1, " %*c %d", &parent), ==, 1);
    }
    return parent;
}

/* The guest's processes called NAME, but for EXCEPT. */
static pid_t find_process(const Guest *g, const char *name, pid_t except)
{
    g_autoptr(GArray) pids = up_processes(g);

    for (guint i = 0; i < pids->len; i++) {
        pid_t pid = g_array_index(pids, pid_t, i);
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid), *comm = NULL;

        if (pid != except && g_file_get_contents(path, &comm, NULL, NULL) &&
            g_str_has_prefix(comm, name)) {
            return pid;
        }
    }
    return 0;
}

/* The engine of RELAY. */
static pid_t find_child(const Guest *g, pid_t relay)
{
    g_autoptr(GArray) pids = up_processes(g);

    for (guint i = 0; i < pids->len; i++) {
        pid_t pid = g_array_index(pids, pid_t, i);

        if (parent_of(pid) == relay) {
            return pid;
        }
    }
    return 0;
}

/* What the new QEMU wrote while it was loaded is put back by the engine that comes after both. */
static void test_put_back_by_attach(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_with_vmgenid("handover/*/at/loaded=both");
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree char *before = up_memory(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);

    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_attach(g, old);
    g_autofree char *console = g->console;
    g->console = g_build_filename(g->dir, "stderr", NULL);
    g_free(up_wait_console(g, " pages that the new QEMU had written were put back"));
    up_reconnect(g);
    g_autofree char *after = up_memory(g);
    g_assert_cmpint(memcmp(before, after, RAM_MIB << 20), ==, 0);
}

/* The engine that has put it back dies before it has said so: the guest may have written there
 * since, and the next one does not put it back once more. */
static void test_put_back_once(void)
{
    static const char text[] = " pages that the new QEMU had written were put back";
    g_autofree char *said = NULL;

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_with_vmgenid("takeover/*/at/loaded=kill;"
                                         "handover/*/at/restarted=kill");
    g_autofree char *log = g_build_filename(g->dir, "stderr", NULL);
    pid_t old = up_only_qemu(g);

    qmp_set_capability(g->qmp, "events", true);
    g_autoptr(Qmp) other = up_by_hand(g);
    qmp_expect_migration(g->qmp, "failed");
    g_assert_cmpint(up_only_qemu(g), ==, old);
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    char *first = strstr(said, text);
    g_assert_nonnull(first);
    g_assert_null(strstr(first + 1, text));
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* What the new QEMU has written cannot be put back, by the engine that was told so or is asked to
 * cancel, nor by the next one: the guest stands, and that is said. It continues when it can be. */
static void test_put_back_fails(gconstpointer cancels)
{
    static const char fails[] = "handover/device/call/put-page=ENOMEM;"
                                "handover/setup/call/put-page=ENOMEM";
    g_autofree char *faults =
        g_strdup_printf("takeover/*/at/loaded=%s;%s", cancels ? "hold" : "kill", fails);

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_with_vmgenid(faults);
    pid_t old = up_only_qemu(g);

    if (cancels) {
        up_can_hold(g);
    }
    qmp_set_capability(g->qmp, "events", true);
    json_object_unref(qmp_return(g->qmp, "x-farfault-lend", NULL)); /* there is an engine */
    pid_t relay = parent_of(find_process(g, "farfault-engine", 0));
    g_autoptr(Qmp) other = up_by_hand(g);
    if (cancels) {
        up_wait_held(g);
        qmp_ok(g->qmp, "migrate_cancel", NULL);
    }
    for (unsigned i = 0; i < 2; i++) {
        qmp_expect_migration(g->qmp, "postcopy-paused");
        g_autoptr(JsonObject) info = qmp_return(g->qmp, "query-migrate", NULL);
        says(json_object_get_string_member(info, "error-desc"), "could not be put back");
        g_assert_cmpint(up_only_qemu(g), ==, old);
        g_autofree char *state = qmp_run_state(g->qmp);
        g_assert_cmpstr(state, !=, "running");
        pid_t engine = find_child(g, relay);
        g_assert_cmpint(engine, >, 1);
        kill(engine, SIGKILL);
    }
    qmp_expect_migration(g->qmp, "failed");
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* The new QEMU's die after the guest has become its own: it is there again with a new relay, and
 * can be upgraded once more. */
static void test_new_both_after(void)
{
    static const char *const points[] = {"taken", "granted", "resumed"};
    g_autofree char *program = up_installed();

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    for (unsigned i = 0; g && i < G_N_ELEMENTS(points); i++) {
        g_autofree char *said = NULL, *hint = NULL;
        g_autofree char *fault = g_strdup_printf("takeover/*/at/%s=both", points[i]);
        pid_t old = up_only_qemu(g);

        g_test_message("%s", points[i]);
        up_set_faults(g, fault);
        g_assert_cmpint(up_run(g, NULL, &said), ==, 1);
        pid_t now = up_only_qemu(g);
        g_assert_cmpint(now, !=, old);
        hint = g_strdup_printf("in the new QEMU, whose relay has ended: farfault attach %d ", now);
        says(said, hint);
        up_attach(g, now);
        up_runs(g);
        up_check_memory(g);
        up_to(g, program);
    }
}

/* ---- a QEMU ---------------------------------------------------------------------------------- */

/* The old QEMU is killed while the guest is nobody's yet: it becomes the new one's, whose monitor
 * is where it was. */
static void test_old_qemu(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/given=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    up_wait_held(g);
    up_disconnect(g);
    kill(old, SIGKILL);
    g_assert_cmpint(up_only_qemu(g), !=, old);
    up_runs(g);
    g_assert_true(g_file_test(g->monitor, G_FILE_TEST_EXISTS));
    up_check_memory(g);
}

/* Nobody is left who would end the old QEMU, and the command neither: the new one's relay does. */
static void test_old_outlives(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/given=both;takeover/*/at/taken=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Command) command = up_begin(g, NULL);
    up_wait_held(g);
    up_kill(command);
    up_let_go(g);
    g_assert_cmpint(up_only_qemu(g), !=, old);
    up_runs(g);
    up_reconnect(g);
    up_check_memory(g);
}

/* An engine that stands still for longer than anybody waits: before the guest is its own it
 * continues in the old QEMU, after that in the new one. */
static void test_hangs(void)
{
    static const struct {
        const char *fault;
        bool moves;
    } cases[] = {
        {"takeover/*/at/agreed=stop:90000", false}, {"takeover/*/at/shut=stop:90000", false},
        {"takeover/*/at/loaded=stop:90000", false}, {"takeover/*/at/grant=stop:90000", false},
        {"takeover/*/at/taken=stop:8000", true},
    };

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    for (unsigned i = 0; g && i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *said = NULL;
        pid_t old = up_only_qemu(g);

        g_test_message("%s", cases[i].fault);
        up_reconnect(g);
        qmp_ok(g->qmp, "migrate-set-parameters", "{'x-farfault-peer-timeout': 5}");
        up_set_faults(g, cases[i].fault);
        g_assert_cmpint(up_run(g, NULL, &said), ==, !cases[i].moves);
        g_assert_cmpint(up_only_qemu(g) != old, ==, cases[i].moves);
        if (!cases[i].moves) {
            says(said, "says nothing for too long");
        }
        up_runs(g);
        up_check_memory(g);
    }
}

/* A new QEMU that writes to guest memory while the guest runs in the old one: the write does not
 * happen. fw_cfg answers a request in guest memory, here at 32 MiB; the number is in the order of
 * bytes in which the device reads it. */
static void test_writes_too_early(void)
{
    static const char write_there[] = "{\"execute\": \"human-monitor-command\", \"arguments\": "
                                      "{\"command-line\": \"o /w 0x518 2\"}}\n";

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/active=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    up_wait_held(g);
    stream_send(qmp_stream(other), write_there, strlen(write_there), NULL, 0);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_let_go(g);
    qmp_expect_migration(g->qmp, "failed");
    g_autoptr(JsonObject) info = qmp_return(g->qmp, "query-migrate", NULL);
    says(json_object_get_string_member(info, "error-desc"), "while the guest still runs");
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* A snapshot by another client, after the two QEMUs were compared, or between the command's
 * comparison and the old engine's first look: the new one has the older image open. */
static void test_disks_change(gconstpointer point)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting(point);
    if (!g) {
        return;
    }
    g_autofree char *overlay = g_build_filename(g->dir, "overlay", NULL);
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    up_wait_held(g);
    qmp_ok(g->qmp, "blockdev-snapshot-sync",
           "{'device': 'disk0', 'snapshot-file': '%s', 'format': 'qcow2'}", overlay);
    up_let_go(g);
    qmp_expect_migration(g->qmp, "failed");
    g_autoptr(JsonObject) info = qmp_return(g->qmp, "query-migrate", NULL);
    says(json_object_get_string_member(info, "error-desc"), "disks or devices have been changed");
    says(json_object_get_string_member(info, "error-desc"), overlay);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* ---- what clients say meanwhile -------------------------------------------------------------- */

/* The guest was given away; it was started in the new QEMU. */
static const char *const given[] = {"handover/*/at/given=hold", "takeover/*/at/running=hold"};

/* An upgrade from *OLD that has come to POINT, and the new QEMU's monitor. NULL, and the test is
 * skipped. */
static Guest *held_at(const char *point, pid_t *old, Qmp **other)
{
    Guest *g = up_counting(point);

    if (g) {
        g_test_message("%s", point);
        up_can_hold(g);
        *old = up_only_qemu(g);
        *other = up_by_hand(g);
        up_wait_held(g);
    }
    return g;
}

/* A client of the old QEMU says stop after the guest was given away: it stands in the new one; or
 * after it was started there: it is told that this comes too late. */
static void test_stop_after_giving(void)
{
    if (!has_faults()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(given); i++) {
        pid_t old;
        g_autoptr(Qmp) other = NULL;
        g_autoptr(Guest) g = held_at(given[i], &old, &other);
        if (!g) {
            return;
        }
        bool late = i == 1;
        if (late) {
            g_autofree char *why = qmp_error(g->qmp, "stop", NULL);
            says(why, "The guest is in its new QEMU by now");
        } else {
            qmp_ok(g->qmp, "stop", NULL);
        }
        up_let_go(g);
        up_disconnect(g);
        g_assert_cmpint(up_only_qemu(g), !=, old);
        g_autofree char *state = qmp_run_state(other);
        g_assert_cmpstr(state, ==, late ? "running" : "paused");
        if (!late) {
            qmp_ok(other, "cont", NULL);
        }
        up_runs(g);
        up_check_memory(g);
    }
}

/* That one's end would not be the guest's: a client is not told so. */
static void test_quit_after_giving(void)
{
    if (!has_faults()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(given); i++) {
        pid_t old;
        g_autoptr(Qmp) other = NULL;
        g_autoptr(Guest) g = held_at(given[i], &old, &other);
        if (!g) {
            return;
        }
        g_autofree char *why = qmp_error(g->qmp, "quit", NULL);
        says(why, "connect again");
        g_autofree char *human =
            qmp_error(g->qmp, "human-monitor-command", "{'command-line': ' q'}");
        says(human, "connect again");
        static const char *const others[] = {"cont", "system_reset", "system_wakeup"};
        for (unsigned k = 0; k < G_N_ELEMENTS(others); k++) {
            g_autofree char *refused = qmp_error(g->qmp, others[k], NULL);
            says(refused, "connect again");
        }
        up_let_go(g);
        up_disconnect(g);
        g_assert_cmpint(up_only_qemu(g), !=, old);
        up_runs(g);
        up_check_memory(g);
        qmp_ok(other, "quit", NULL);
        up_await_qemus(g, 0);
    }
}

/* Relay and engine of the old QEMU die when the journal says that the guest is being stopped, and
 * it is not yet: a client that says stop to the next engine is not told that it stands while it
 * runs. */
static void test_stop_while_taken_back(void)
{
    static const char stop[] = "{\"execute\": \"stop\"}\n";

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/stopping=both;handover/*/at/ending-heir=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_attach(g, old);
    up_wait_held(g);
    up_reconnect(g);
    stream_send(qmp_stream(g->qmp), stop, strlen(stop), NULL, 0);
    up_runs(g);
    /* Were it answered before, it would be by now. */
    g_assert_false(test_wait_readable(stream_fd(qmp_stream(g->qmp)), 0));
    up_let_go(g);
    bool answered = false;
    while (!answered) { /* there are events as well */
        g_autofree char *line =
            stream_read_line(qmp_stream(g->qmp), "stop", test_deadline(TEST_TIMEOUT));
        g_assert_nonnull(line);
        answered = strstr(line, "\"return\"");
    }
    g_autofree char *state = qmp_run_state(g->qmp);
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* An engine that finds a guest that runs: what clients say of that is QEMU's. */
static void test_adopted_runs(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("takeover/*/at/running=kill;takeover/*/at/done=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    up_wait_held(g);
    qmp_ok(other, "stop", NULL);
    g_autofree char *stands = qmp_run_state(other);
    g_assert_cmpstr(stands, ==, "paused");
    qmp_ok(other, "cont", NULL);
    g_autofree char *runs = qmp_run_state(other);
    g_assert_cmpstr(runs, ==, "running");
    up_let_go(g);
    up_disconnect(g);
    g_assert_cmpint(up_only_qemu(g), !=, old);
    up_runs(g);
    up_check_memory(g);
}

/* ---- what the command says ------------------------------------------------------------------- */

/* An upgrade of the guest that QEMU OLD runs, held somewhere, while somebody else has its image
 * (until that is closed). */
typedef struct {
    Guest *g;
    pid_t old;
    Command *c;
    int image;
} Taken;

/* FALSE: the test is skipped. */
static bool take_image(Taken *t, const char *point)
{
    /* QEMU's own kind of lock */
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};

    t->g = has_faults() ? up_counting(point) : NULL;
    if (!t->g) {
        return false;
    }
    g_autofree char *path = g_build_filename(t->g->dir, "disk", NULL);
    t->image = open(path, O_RDWR | O_CLOEXEC);
    t->old = up_only_qemu(t->g);
    up_can_hold(t->g);
    t->c = up_begin(t->g, NULL);
    up_wait_held(t->g);
    g_assert_cmpint(fcntl(t->image, F_OFD_SETLK, &all), ==, 0);
    return true;
}

/* The guest, which stands, can be started; ends it. */
static void give_image_back(Taken *t)
{
    close(t->image);
    up_reconnect(t->g);
    qmp_ok(t->g->qmp, "cont", NULL);
    up_disconnect(t->g);
    up_runs(t->g);
    up_check_memory(t->g);
    up_command_free(t->c);
    up_end(t->g);
}

/* Somebody else has the image when the new QEMU is to start the guest. */
static void test_not_started(void)
{
    g_autofree char *said = NULL;
    Taken t;

    if (!take_image(&t, "handover/*/at/given=hold")) {
        return;
    }
    up_let_go(t.g);
    g_assert_cmpint(up_finish(t.c, &said), ==, 3);
    says(said, "it could not be started (");
    g_assert_cmpint(up_only_qemu(t.g), !=, t.old);
    give_image_back(&t);
}

/* The new QEMU ends before it has the guest, and somebody else has the image by then: the guest
 * stands, in its old QEMU, and that is said. */
static void test_stands_in_old(void)
{
    g_autofree char *said = NULL;
    Taken t;

    if (!take_image(&t, "takeover/*/at/loaded=hold")) {
        return;
    }
    g_autoptr(GArray) qemus = up_qemus(t.g);
    for (guint i = 0; i < qemus->len; i++) {
        pid_t pid = g_array_index(qemus, pid_t, i);

        if (pid != t.old) {
            kill(pid, SIGKILL);
        }
    }
    g_assert_cmpint(up_finish(t.c, &said), ==, 1);
    says(said, "the guest stands in its old QEMU, which could not start it again");
    g_assert_cmpint(up_only_qemu(t.g), ==, t.old);
    give_image_back(&t);
}

/* The end of a migration before it, which the command hears as well, is not that of this one: the
 * old QEMU has the guest, and is not ended. */
static void test_earlier_end(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors("handover/*/at/stopped=both");
    if (!g) {
        return;
    }
    g_autofree char *program = up_slow_program(g), *said = NULL;
    g_autofree char *file = g_build_filename(g->dir, "snapshot", NULL);
    g_autofree char *hint = NULL;
    pid_t old = up_only_qemu(g);

    qmp_set_capability(g->qmp, "events", true);
    g_autoptr(Qmp) second = up_second_monitor(g);
    g_autoptr(Command) c = up_begin(g, program);
    up_slow_program_waits(g);
    qmp_ok(second, "x-farfault-snapshot", "{'file': '%s'}", file);
    qmp_expect_migration(second, "completed");
    up_slow_program_goes_on(g);
    g_assert_cmpint(up_finish(c, &said), ==, 1);
    hint = g_strdup_printf("farfault attach %d ", (int)old);
    says(said, hint);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_attach(g, old);
    up_runs(g);
    up_check_memory(g);
}

/* ---- a relay that is stopped ----------------------------------------------------------------- */

/* Relay and engine of the old QEMU are dead, and the new one's relay, which has the sockets of the
 * monitors, is stopped: the old QEMU gets a new relay all the same, and has the guest. */
static void test_stopped_relay(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("handover/*/at/loaded=hold");
    if (!g) {
        return;
    }
    up_can_hold(g);
    pid_t old = up_only_qemu(g);
    json_object_unref(qmp_return(g->qmp, "x-farfault-lend", NULL)); /* there is an engine */
    pid_t engine = find_process(g, "farfault-engine", 0), relay = parent_of(engine);
    g_autoptr(Qmp) other = up_by_hand(g);
    up_wait_held(g);
    pid_t theirs = find_process(g, "farfault-relay", relay);
    kill(theirs, SIGSTOP);
    kill(relay, SIGKILL);
    kill(engine, SIGKILL);
    up_attach(g, old);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_runs(g);
    kill(theirs, SIGCONT);
    up_check_memory(g);
}

/* A new QEMU that lost its relay before it was offered a guest: it never gets one, and is ended. */
static void test_attach_to_left_alone(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("nobody/*/at/nowhere=kill");
    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    pid_t relay = find_process(g, "farfault-relay", 0);
    g_autoptr(Qmp) other = up_start_borrowing(g);
    pid_t theirs = find_process(g, "farfault-relay", relay);
    g_autoptr(GArray) qemus = up_qemus(g);

    g_assert_cmpuint(qemus->len, ==, 2);
    kill(theirs, SIGKILL);
    up_attach(g, g_array_index(qemus, pid_t, g_array_index(qemus, pid_t, 0) == old));
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_runs(g);
    up_check_memory(g);
}

/* ---- at random ------------------------------------------------------------------------------- */

static void kill_one(const Guest *g)
{
    g_autoptr(GArray) pids = up_processes(g);
    g_autofree char *comm = NULL;

    if (!pids->len) {
        return;
    }
    pid_t pid = g_array_index(pids, pid_t, g_test_rand_int_range(0, pids->len));
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid);

    g_file_get_contents(path, &comm, NULL, NULL);
    g_test_message("%d: %s", pid, comm ? g_strchomp(comm) : "-");
    kill(pid, SIGKILL);
}

/* Any one process but a QEMU is killed, at any moment. What is left is one QEMU, with the guest;
 * its relay may have been the one. FF_ROUNDS. */
static void test_random(void)
{
    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("nobody/*/at/nowhere=kill");
    for (unsigned i = 0; g && i < up_rounds(3); i++) {
        pid_t old = up_only_qemu(g);
        g_autofree char *said = NULL;

        up_disconnect(g);
        g_autoptr(Command) c = up_begin(g, NULL);
        /* Any moment will do. */
        g_usleep(g_test_rand_int_range(0, 700) * 1000);
        kill_one(g);
        up_finish(c, &said);
        pid_t now = up_only_qemu(g);
        g_test_message("%u: %s", i, now == old ? "stays" : "moved");
        up_attach_if_needed(g, now);
        up_runs(g);
        up_check_memory(g);
    }
}

/* The new QEMU refuses when the old one waits for its offer: at once, and both give its reason. */
static void test_refused(void)
{
    g_autofree char *said = NULL;

    if (!has_faults()) {
        return;
    }
    g_autoptr(Guest) g = up_counting("*/*/call/take-uffd=EIO");
    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    int64_t begun = g_get_monotonic_time();
    g_assert_cmpint(up_run(g, NULL, &said), ==, 1);
    g_assert_cmpint(g_get_monotonic_time() - begun, <, 20 * G_USEC_PER_SEC); /* not 30 */
    says(said, "the guest continues in its old QEMU: Input/output error");
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_reconnect(g);
    g_autoptr(JsonObject) info = qmp_return(g->qmp, "query-migrate", NULL);
    g_assert_cmpstr(json_object_get_string_member(info, "error-desc"), ==,
                    "the new QEMU: Input/output error");
    up_runs(g);
    up_check_memory(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade-faults/both/old-before", test_old_both_before);
    g_test_add_func("/upgrade-faults/both/old-after", test_old_both_after);
    g_test_add_func("/upgrade-faults/both/put-back", test_put_back_by_attach);
    g_test_add_func("/upgrade-faults/put-back-once", test_put_back_once);
    g_test_add_data_func("/upgrade-faults/put-back-fails/killed", NULL, test_put_back_fails);
    g_test_add_data_func("/upgrade-faults/put-back-fails/cancelled", GUINT_TO_POINTER(1),
                         test_put_back_fails);
    g_test_add_func("/upgrade-faults/both/new-after", test_new_both_after);
    g_test_add_func("/upgrade-faults/old-qemu", test_old_qemu);
    g_test_add_func("/upgrade-faults/old-outlives", test_old_outlives);
    g_test_add_func("/upgrade-faults/hangs", test_hangs);
    g_test_add_func("/upgrade-faults/writes-too-early", test_writes_too_early);
    g_test_add_data_func("/upgrade-faults/disks-change", "handover/*/at/active=hold",
                         test_disks_change);
    g_test_add_data_func("/upgrade-faults/disks-change/early", "handover/*/at/setup=hold",
                         test_disks_change);
    g_test_add_func("/upgrade-faults/stop-after-giving", test_stop_after_giving);
    g_test_add_func("/upgrade-faults/quit-after-giving", test_quit_after_giving);
    g_test_add_func("/upgrade-faults/stop-while-taken-back", test_stop_while_taken_back);
    g_test_add_func("/upgrade-faults/adopted-runs", test_adopted_runs);
    g_test_add_func("/upgrade-faults/not-started", test_not_started);
    g_test_add_func("/upgrade-faults/stands-in-old", test_stands_in_old);
    g_test_add_func("/upgrade-faults/earlier-end", test_earlier_end);
    g_test_add_func("/upgrade-faults/stopped-relay", test_stopped_relay);
    g_test_add_func("/upgrade-faults/attach-to-left-alone", test_attach_to_left_alone);
    g_test_add_func("/upgrade-faults/refused", test_refused);
    g_test_add_func("/upgrade-faults/random", test_random);
    return g_test_run();
}
