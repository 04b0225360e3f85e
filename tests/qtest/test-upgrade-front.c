/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade --keep-process: who started the guest's first QEMU sees no end of it, and both
 * have one end. That process is this program's child: its exit status is what a service manager
 * would see.
 */
#include "tests/qtest/upgrade-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 60000

static void await(pid_t pid)
{
    struct pollfd pfd = {pidfd_open(pid, 0), POLLIN, 0};

    if (pfd.fd >= 0) {
        g_assert_cmpint(poll(&pfd, 1, WAIT_MS), ==, 1);
        close(pfd.fd);
    }
}

/* FRONT's exit status, as its parent sees it. */
static int status_of(pid_t front)
{
    int status;

    await(front);
    g_assert_cmpint(waitpid(front, &status, 0), ==, front);
    return status;
}

static bool lives(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

/* The QEMU that is not FRONT. */
static pid_t behind(const Guest *g, pid_t front)
{
    g_autoptr(GArray) all = up_qemus(g);
    pid_t found = 0;

    g_assert_cmpuint(all->len, ==, 2);
    for (guint i = 0; i < all->len; i++) {
        pid_t pid = g_array_index(all, pid_t, i);

        found = pid == front ? found : pid;
    }
    g_assert_cmpint(found, >, 0);
    return found;
}

/* Returns the QEMU that has the guest now. */
static pid_t keep(Guest *g, pid_t front, const char *program)
{
    g_autofree char *said = NULL;
    g_autofree char *stays = g_strdup_printf("process %d stays", (int)front);
    int status = up_run(g, (const char *const[]){"--keep-process", "--qemu", program, NULL}, &said);

    g_assert_cmpint(status, ==, 0);
    g_assert_nonnull(strstr(said, stays));
    g_assert_true(lives(front));
    up_runs(g);
    return behind(g, front);
}

static Guest *start(pid_t *front)
{
    Guest *g = up_counting("nobody/*/at/none=kill"); /* so its processes can be found */

    *front = g ? up_only_qemu(g) : 0;
    return g;
}

static void quit(Guest *g)
{
    up_reconnect(g);
    qmp_ok(g->qmp, "quit", NULL);
}

static void test_stays(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    pid_t now = keep(g, front, program);
    up_check_memory(g);
    quit(g);
    int status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    await(now);
}

static void test_again(void)
{
    pid_t front, before = 0;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    for (unsigned i = 0; g && i < 3; i++) {
        pid_t now = keep(g, front, program);

        g_assert_cmpint(now, !=, before);
        if (before) {
            await(before);
        }
        before = now;
    }
    if (g) {
        up_check_memory(g);
        kill(front, SIGTERM);
        int status = status_of(front);
        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        await(before);
    }
}

static void test_terminated(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    pid_t now = keep(g, front, program);
    up_reconnect(g);
    kill(front, SIGTERM);
    qmp_expect(g->qmp, "SHUTDOWN");
    int status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    await(now);
}

/* RELAYS: they are killed before. */
static void killed(bool relays)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    pid_t now = keep(g, front, program);
    g_autoptr(GArray) all = up_processes(g);
    for (guint i = 0; relays && i < all->len; i++) {
        kill(g_array_index(all, pid_t, i), SIGKILL);
        await(g_array_index(all, pid_t, i));
    }
    g_assert_true(!relays || all->len >= 2);
    kill(front, SIGKILL);
    await(now);
    g_assert_true(WIFSIGNALED(status_of(front)));
}

static void test_killed(void)
{
    killed(false);
}

static void test_killed_alone(void)
{
    killed(true);
}

static void test_crashed(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    kill(keep(g, front, program), SIGKILL);
    int status = status_of(front);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* ---- what is connected ----------------------------------------------------------------------- */

/* The name of chardev ID's slave side (g_free). */
static char *pty_of(Guest *g, const char *id)
{
    g_autoptr(JsonObject) answer = qmp_call(g->qmp, "query-chardev", NULL);
    JsonArray *all = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *o = json_array_get_object_element(all, i);
        const char *name = json_object_get_string_member(o, "filename");

        if (!strcmp(json_object_get_string_member(o, "label"), id)) {
            g_assert_true(g_str_has_prefix(name, "pty:"));
            return g_strdup(name + strlen("pty:"));
        }
    }
    g_assert_not_reached();
}

/* The guest, which has no use for it, writes C to its second serial port; it is read at FD. */
static void guest_writes(Guest *g, int fd, char c)
{
    g_autofree char *line = g_strdup_printf("o /b 0x2f8 %d", c), *said = qmp_hmp(g->qmp, line);
    struct pollfd pfd = {fd, POLLIN, 0};
    char got;

    g_assert_cmpstr(said, ==, "");
    g_assert_cmpint(poll(&pfd, 1, WAIT_MS), ==, 1);
    g_assert_cmpint(read(fd, &got, 1), ==, 1);
    g_assert_cmpint(got, ==, c);
}

/* C is written at FD, and the guest reads it there. QEMU has no event for that. */
static void guest_reads(Guest *g, int fd, char c)
{
    g_autofree char *wanted = g_strdup_printf("= 0x%02x", c);

    g_assert_cmpint(write(fd, &c, 1), ==, 1);
    for (int64_t until = g_get_monotonic_time() + WAIT_MS * 1000LL;;) {
        g_autofree char *status = qmp_hmp(g->qmp, "i /b 0x2fd");
        const char *at = strstr(status, "= 0x");

        if (at && g_ascii_strtoull(at + 2, NULL, 16) & 1) {
            break;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10000);
    }
    g_autofree char *said = qmp_hmp(g->qmp, "i /b 0x2f8");
    g_assert_nonnull(strstr(said, wanted));
}

/* KEEPS: the process stays. The one who has the terminal open notices nothing, and of what he types
 * neither QEMU takes a part. */
static void pty(bool keeps)
{
    static const char *const more[] = {"-chardev", "pty,id=p", "-device",
                                       "isa-serial,chardev=p,index=1", NULL};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *program = up_installed();
    up_start_vmgenid(g, more);
    pid_t front = up_only_qemu(g);
    g_autofree char *name = pty_of(g, "p");
    int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);

    guest_writes(g, fd, 'A');
    for (unsigned i = 0; i < 2; i++) {
        if (keeps) {
            keep(g, front, program);
        } else {
            up_to(g, program);
        }
        up_reconnect(g);
        g_autofree char *now = pty_of(g, "p");
        g_assert_cmpstr(now, ==, name);
        guest_writes(g, fd, 'B');
        for (char c = 'a'; c < 'f'; c++) {
            guest_reads(g, fd, c);
        }
        guest_writes(g, fd, 'C');
    }
    close(fd);
    if (keeps) {
        quit(g);
        g_assert_cmpint(status_of(front), ==, 0);
    }
}

static void test_pty(void)
{
    pty(false);
}

static void test_pty_kept(void)
{
    pty(true);
}

/* The old engine dies at each point from where the guest is the other QEMU's. */
static void test_engine_dies(gconstpointer data)
{
    const char *point = data;
    g_autofree char *faults = g_strdup_printf("handover/*/at/%s=kill", point);
    g_autofree char *program = up_installed();
    g_autoptr(Guest) g = up_counting(faults);

    if (!g) {
        return;
    }
    pid_t front = up_only_qemu(g);
    pid_t now = keep(g, front, program);
    g_autofree char *mark = g_build_filename(g->dir, "fault-0", NULL);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
    up_check_memory(g);
    kill(front, SIGTERM);
    int status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    await(now);
}

/* The second upgrade behind a front: the new engine dies as soon as it has the guest, the old one
 * sees that, and ends its QEMU, before the front's relay has heard of the new one. */
static void test_next_dies(gconstpointer data)
{
    g_autofree char *faults = g_strdup_printf("takeover/*/at/%s=kill", (const char *)data);
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed(), *said = NULL;

    if (!g) {
        return;
    }
    pid_t first = keep(g, front, program);
    up_set_faults(g, faults);
    int status = up_run(g, (const char *const[]){"--qemu", program, NULL}, &said);
    g_assert_cmpint(status, ==, 0);
    await(first);
    up_runs(g);
    g_assert_true(lives(front));
    g_assert_cmpint(behind(g, front), !=, first);
    up_check_memory(g);
    quit(g);
    g_assert_cmpint(status_of(front), ==, 0);
}

/* The new engine dies as soon as it has the guest, and the old one sees that: who is connected, as
 * libvirt is, sees no end for that, which would be the guest's. */
static void test_clients_stay(gconstpointer data)
{
    g_autofree char *faults = g_strdup_printf("takeover/*/at/%s=kill", (const char *)data);
    g_autofree char *program = up_installed(), *said = NULL;
    g_autoptr(Guest) g = up_counting_two_monitors(faults);

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g);
    int status = up_run(g, (const char *const[]){"--keep-process", "--qemu", program, NULL}, &said);
    g_assert_cmpint(status, ==, 0);
    g_autofree char *mark = g_build_filename(g->dir, "fault-0", NULL);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
    up_runs(g);
    qmp_ok(second, "query-status", NULL);
    g_autofree char *state = qmp_run_state(second);
    g_assert_cmpstr(state, ==, "running");
    qmp_ok(second, "quit", NULL);
    status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static bool is_relay(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid), *comm = NULL;

    return g_file_get_contents(path, &comm, NULL, NULL) && g_str_has_prefix(comm, "farfault-relay");
}

static pid_t only_relay(const Guest *g)
{
    g_autoptr(GArray) all = up_processes(g);
    pid_t found = 0;

    for (guint i = 0; i < all->len; i++) {
        pid_t pid = g_array_index(all, pid_t, i);

        if (is_relay(pid)) {
            g_assert_cmpint(found, ==, 0);
            found = pid;
        }
    }
    g_assert_cmpint(found, >, 0);
    return found;
}

static void kill_and_await(pid_t pid)
{
    kill(pid, SIGKILL);
    await(pid);
}

/* ---- clients that come later ----------------------------------------------------------------- */

/* Reads up to the answer with this ID, and nothing that is none but events (g_free). RUNS (can be
 * NULL): S for each STOP that comes, R for each RESUME. */
static char *answer_to(Qmp *q, unsigned id, GString *runs)
{
    g_autofree char *part = g_strdup_printf("\"id\": %u}", id);
    int64_t deadline = test_deadline(TEST_TIMEOUT);

    for (;;) {
        g_autofree char *line = stream_read_line(qmp_stream(q), part, deadline);

        if (!line) {
            test_fail("the monitor was closed in place of an answer (%s)", part);
        }
        if (strstr(line, "\"return\"")) {
            g_assert_true(g_str_has_suffix(line, part));
            return g_steal_pointer(&line);
        }
        g_assert_nonnull(strstr(line, "\"event\"")); /* no greeting, and no error */
        bool stop = strstr(line, "\"STOP\""), resume = strstr(line, "\"RESUME\"");
        if (runs && (stop || resume)) {
            g_string_append_c(runs, stop ? 'S' : 'R');
        }
    }
}

static void say(Qmp *q, const char *text)
{
    stream_send(qmp_stream(q), text, strlen(text), NULL, 0);
}

/* It speaks to the QEMU that has the guest, whose end is that of all. */
static void ends_it(Guest *g, Qmp *q, pid_t front)
{
    g_autoptr(JsonObject) lent = qmp_return(q, "x-farfault-lend", NULL);

    g_assert_cmpint(json_object_get_int_member(lent, "pid"), ==, behind(g, front));
    up_runs(g);
    qmp_ok(q, "quit", NULL);
    int status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The host is busy: the relay that is asked for the clients has no turn for longer than a client
 * could be waited for. */
static void test_relay_stands(void)
{
    g_autoptr(Guest) g = up_counting_two_monitors("relay/*/at/clients-asked=stop:2000");
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g);
    keep(g, front, program);
    ends_it(g, second, front);
}

/* The same of the relay behind a front, whose QEMU ends when its clients have gone on. */
static void test_behind_stands(void)
{
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g);
    up_set_faults(g, "relay/*/at/clients-asked=stop:2000");
    pid_t first = keep(g, front, program);
    g_autofree char *said = NULL;
    int status = up_run(g, (const char *const[]){"--qemu", program, NULL}, &said);
    g_assert_cmpint(status, ==, 0);
    await(first);
    ends_it(g, second, front);
}

/* It has sent half a command. */
static void test_half(void)
{
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g);
    say(second, "{\"execute\": \"x-farfault-le");
    pid_t now = keep(g, front, program);
    say(second, "nd\", \"id\": 7}\n");
    g_autofree char *answer = answer_to(second, 7, NULL);
    g_autofree char *pid = g_strdup_printf("\"pid\": %d,", (int)now);
    g_assert_nonnull(strstr(answer, pid));
    ends_it(g, second, front);
}

/* It does not read the answers. */
static void ask_much(Qmp *q, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *line =
            g_strdup_printf("{\"execute\": \"query-qmp-schema\", \"id\": %u}\n", i);

        say(q, line);
    }
}

/* Its commands are under way when the guest goes, and for as long as it does not read the answers:
 * they are more than sockets and relay keep. Meanwhile somebody stops the guest. */
static void test_late(void)
{
    enum { N = 30 };
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    g_autoptr(GString) runs = g_string_new(NULL);
    pid_t front = up_only_qemu(g);
    ask_much(second, N);
    pid_t now = keep(g, front, program);
    up_reconnect(g);
    qmp_ok(g->qmp, "stop", NULL);
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    say(second, "{\"execute\": \"x-farfault-lend\", \"id\": 99}\n");
    for (unsigned i = 0; i < N; i++) {
        g_free(answer_to(second, i, runs));
    }
    g_autofree char *answer = answer_to(second, 99, runs);
    g_assert_cmpstr(runs->str, ==, "SRSR"); /* of the upgrade, and of what it did not see */
    g_autofree char *pid = g_strdup_printf("\"pid\": %d,", (int)now);
    g_assert_nonnull(strstr(answer, pid));
    ends_it(g, second, front);
}

/* The same of the QEMU behind a front, which ends: it is waited for. */
static void test_late_behind(void)
{
    enum { N = 30 };
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);
    g_autofree char *program = up_installed(), *said = NULL;

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g), first = keep(g, front, program);
    ask_much(second, N);
    up_set_faults(g, "takeover/*/at/lifted=hold");
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, program);
    up_wait_held(g); /* its relay has asked for the clients */
    up_let_go(g);
    for (unsigned i = 0; i < N; i++) {
        g_free(answer_to(second, i, NULL));
    }
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    await(first);
    ends_it(g, second, front);
}

/* The new relay dies while such a client is awaited: it is disconnected, and nothing else is lost.
 */
static void test_late_relay_dies(void)
{
    enum { N = 30 };
    g_autoptr(Guest) g = up_counting_two_monitors("nobody/*/at/none=kill");
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t front = up_only_qemu(g), own = only_relay(g);
    ask_much(second, N);
    pid_t now = keep(g, front, program);
    g_autoptr(GArray) all = up_processes(g);
    for (guint i = 0; i < all->len; i++) {
        pid_t pid = g_array_index(all, pid_t, i);

        if (pid != own && is_relay(pid)) {
            kill_and_await(pid);
        }
    }
    g_assert_true(stream_wait_eof(qmp_stream(second), test_deadline(TEST_TIMEOUT)));
    g_assert_true(lives(front));
    up_attach(g, now);
    up_runs(g);
    up_check_memory(g);
    quit(g);
    status_of(front);
}

/* Relay and engine of the first QEMU die when the guest is the new one's: the next ones make it a
 * front, though the monitors' sockets are the other relay's. */
static void test_relay_dies(gconstpointer data)
{
    g_autofree char *faults = g_strdup_printf("handover/*/at/%s=both", (const char *)data);
    g_autofree char *program = up_installed(), *said = NULL;
    g_autoptr(Guest) g = up_counting(faults);

    if (!g) {
        return;
    }
    pid_t front = up_only_qemu(g);
    up_run(g, (const char *const[]){"--keep-process", "--qemu", program, NULL}, &said);
    up_runs(g);
    pid_t now = behind(g, front);
    g_assert_true(lives(front));
    up_attach(g, front);
    up_check_memory(g);
    quit(g);
    int status = status_of(front);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    await(now);
}

/* Relay and engine of the new QEMU die when the guest is its own. Nobody is left who would let it
 * write to a guarded page: the guest runs on because nobody has its userfaultfd, its old QEMU
 * neither. */
static void test_taken_alone(gconstpointer data)
{
    const char *const *faults = data;
    g_autofree char *program = up_installed(), *said = NULL;
    g_autofree char *all = g_strjoin(";", faults[1], faults[2], NULL);
    g_autoptr(Guest) g = up_counting(all);

    if (!g) {
        return;
    }
    pid_t front = up_only_qemu(g);
    up_run(g, (const char *const[]){"--keep-process", "--qemu", program, NULL}, &said);
    pid_t now = behind(g, front);
    up_attach_if_needed(g, now);
    for (unsigned i = 0; faults[1 + i]; i++) {
        g_autofree char *name = g_strdup_printf("fault-%u", i);
        g_autofree char *mark = g_build_filename(g->dir, name, NULL);

        g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
    }
    up_runs(g);
    up_check_memory(g);
    quit(g);
    status_of(front); /* SIGKILL, as in test_attached_behind() */
    await(now);
}

/* The first QEMU has got another relay by farfault attach, before it became a front. */
static void test_attached(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    up_disconnect(g);
    kill_and_await(only_relay(g));
    up_attach(g, front);
    kill(keep(g, front, program), SIGKILL);
    int status = status_of(front);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The front has no relay any more, and the QEMU behind it gets another: that one ends the front. */
static void test_attached_behind(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    pid_t own = only_relay(g), now = keep(g, front, program);
    kill_and_await(own);
    up_disconnect(g);
    kill_and_await(only_relay(g));
    up_attach(g, now);
    quit(g);
    /* This relay does not hear the guest's QEMU say that it ends. */
    int status = status_of(front);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    await(now);
}

/* libvirt says once what becomes of a guest that is reset (<on_reboot>). */
static void test_action(void)
{
    pid_t first;
    g_autoptr(Guest) g = start(&first);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    up_reconnect(g);
    qmp_ok(g->qmp, "set-action", "{'reboot': 'shutdown', 'watchdog': 'pause'}");
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
    }
    up_reconnect(g);
    qmp_ok(g->qmp, "system_reset", NULL);
    qmp_expect(g->qmp, "SHUTDOWN");
    up_await_qemus(g, 0);
}

/* Another relay takes the place of the front's while the new QEMU is being started: that one has
 * heard of the door of the relay before. */
static void test_replaced(void)
{
    pid_t front;
    g_autoptr(Guest) g = start(&front);

    if (!g) {
        return;
    }
    g_autofree char *slow = up_slow_program(g), *program = up_installed(), *said = NULL;
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *number = g_strdup_printf("%d", (int)front);
    const char *argv[] = {farfault, "attach", "--replace", number, NULL};
    int status;
    g_autoptr(Command) c = up_begin_with(g, slow, "--keep-process");
    up_slow_program_waits(g);
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                               NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    up_slow_program_goes_on(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    up_runs(g);
    pid_t first = behind(g, front);
    keep(g, front, program);
    await(first);
    up_check_memory(g);
    quit(g);
    g_assert_cmpint(status_of(front), ==, 0);
}

/* Whoever has VNC's socket finds the QEMU that has the guest there. */
static void test_vnc_path(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *program = up_installed();
    g_autofree char *path = g_build_filename(g->dir, "vnc", NULL);
    g_autofree char *vnc = g_strdup_printf("unix:%s", path);
    const char *const more[] = {"-vga", "std", "-vnc", vnc, "-monitor", "none", NULL};
    up_start_vmgenid(g, more);
    pid_t front = up_only_qemu(g);
    for (unsigned i = 0; i < 2; i++) {
        keep(g, front, program);
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    }
    quit(g);
    g_assert_cmpint(status_of(front), ==, 0);
}

int main(int argc, char **argv)
{
    static const char *const points[] = {"running",  "inner-told", "inner-over", "lifted",
                                         "all-left", "done",       "front"};

    static const char *const taken[] = {"taken", "granted", "resumed", "running"};
    static const char *const alone[][4] = {
        {"taken", "takeover/*/at/taken=both"},
        {"granted", "takeover/*/at/granted=both"},
        {"resumed", "takeover/*/at/resumed=both"},
        {"running", "takeover/*/at/running=both"},
        {"forgetting", "takeover/*/at/granted=both", "handover/*/at/forgetting-pact=kill"},
    };
    static const char *const relays[] = {"given", "running", "inner-over", "all-left"};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade-front/stays", test_stays);
    g_test_add_func("/upgrade-front/again", test_again);
    g_test_add_func("/upgrade-front/terminated", test_terminated);
    g_test_add_func("/upgrade-front/killed/relays-live", test_killed);
    g_test_add_func("/upgrade-front/killed/alone", test_killed_alone);
    g_test_add_func("/upgrade-front/crashed", test_crashed);
    g_test_add_func("/upgrade-front/attached/before", test_attached);
    g_test_add_func("/upgrade-front/attached/behind", test_attached_behind);
    for (unsigned i = 0; i < G_N_ELEMENTS(relays); i++) {
        g_autofree char *path = g_strconcat("/upgrade-front/relay-dies/", relays[i], NULL);

        g_test_add_data_func(path, relays[i], test_relay_dies);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(alone); i++) {
        g_autofree char *path = g_strconcat("/upgrade-front/taken-alone/", alone[i][0], NULL);

        g_test_add_data_func(path, alone[i], test_taken_alone);
    }
    g_test_add_func("/upgrade-front/action", test_action);
    g_test_add_func("/upgrade-front/replaced", test_replaced);
    g_test_add_func("/upgrade-front/vnc-path", test_vnc_path);
    g_test_add_func("/upgrade-front/pty/goes", test_pty);
    g_test_add_func("/upgrade-front/pty/kept", test_pty_kept);
    for (unsigned i = 0; i < G_N_ELEMENTS(points); i++) {
        g_autofree char *path = g_strconcat("/upgrade-front/engine-dies/", points[i], NULL);

        g_test_add_data_func(path, points[i], test_engine_dies);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(taken); i++) {
        g_autofree char *path = g_strconcat("/upgrade-front/next-dies/", taken[i], NULL);

        g_test_add_data_func(path, taken[i], test_next_dies);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(taken); i++) {
        g_autofree char *path = g_strconcat("/upgrade-front/clients-stay/", taken[i], NULL);

        g_test_add_data_func(path, taken[i], test_clients_stay);
    }
    g_test_add_func("/upgrade-front/clients-stay/relay-stands", test_relay_stands);
    g_test_add_func("/upgrade-front/clients-stay/behind-stands", test_behind_stands);
    g_test_add_func("/upgrade-front/clients-stay/half", test_half);
    g_test_add_func("/upgrade-front/clients-stay/late", test_late);
    g_test_add_func("/upgrade-front/clients-stay/late-behind", test_late_behind);
    g_test_add_func("/upgrade-front/clients-stay/late-relay-dies", test_late_relay_dies);
    return g_test_run();
}
