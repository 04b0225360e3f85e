/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault trace: --list is what the notes in the engine say; beside a real migration the marks
 * come in their order; each thing that can be missing is one line; and nothing is left in tracefs,
 * also of a trace that was killed, once another one has begun.
 *
 * Tracefs is mounted in a mount namespace of the command's own, where it is not: what is in it is
 * the whole kernel's. So other people's uprobes are never looked at, only those of the group of a
 * command that was started here.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "trace/mark.h"
#include "trace/notes.h"
#include "trace/tracefs.h"

#define RAM_MIB 64
#define RAM ((uint64_t)RAM_MIB << 20)
#define TRACEFS "/sys/kernel/tracing"
#define OLD "/sys/kernel/debug" /* has it as well */

#define RENUMBERED_IN_VAIN 77 /* an exit status */

typedef enum { MOUNTED, NOT_MOUNTED, WITHOUT_UPROBES } Fs;

static const char *const marks[] = {"status",         "phase",        "pass",
                                    "resumed",        "wait_begins",  "page_asked",
                                    "pages_answered", "bulk_claimed", "wait_ends"};

static bool own_namespace(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* In the child: tracefs as OPAQUE (Fs) wants it, with an empty folder in place of other things. It
 * dies with the test. */
static void set_up(gpointer opaque)
{
    Fs fs = GPOINTER_TO_INT(opaque);

    bool fine = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && own_namespace() &&
                mount("none", TRACEFS, fs == MOUNTED ? "tracefs" : "tmpfs", 0, NULL) == 0;
    if (fine && fs != MOUNTED && access(OLD, F_OK) == 0) {
        fine = mount("none", OLD, "tmpfs", 0, NULL) == 0;
    }
    if (fine && fs == WITHOUT_UPROBES) {
        fine = g_mkdir(TRACEFS "/instances", 0700) == 0;
    }
    if (!fine) {
        _exit(98);
    }
}

/* Why tracing is not allowed here; NULL: it is. Asked of a child, as it changes its namespace. */
static const char *refusal(void)
{
    if (geteuid() != 0) {
        return "tracing takes root";
    }
    pid_t child = fork();
    if (child == 0) {
        if (!own_namespace() || mount("none", TRACEFS, "tracefs", 0, NULL) < 0) {
            _exit(1);
        }
        _exit(access(TRACEFS "/uprobe_events", W_OK) ? 2 : 0);
    }
    int status;
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    return status == 0                ? NULL
           : WEXITSTATUS(status) == 1 ? "tracefs cannot be mounted here"
                                      : "this kernel has no uprobes";
}

static bool skipped(void)
{
    const char *why = refusal();

    if (why || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return true;
    }
    return false;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* OUT: its stdout (taken), -1: a pipe. */
static GSubprocess *start_to(const char *guest, int out)
{
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(
        (out < 0 ? G_SUBPROCESS_FLAGS_STDOUT_PIPE : 0) | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;

    if (out >= 0) {
        g_subprocess_launcher_take_stdout_fd(launcher, out);
    }
    g_subprocess_launcher_set_child_setup(launcher, set_up, GINT_TO_POINTER(MOUNTED), NULL);
    GSubprocess *child =
        g_subprocess_launcher_spawn(launcher, &error, farfault, "trace", guest, NULL);
    g_assert_no_error(error);
    return child;
}

static GSubprocess *start(const char *guest)
{
    return start_to(guest, -1);
}

/* Waits until it says that it traces. */
static void wait_ready(GSubprocess *child)
{
    g_autoptr(GDataInputStream) said = g_data_input_stream_new(g_subprocess_get_stderr_pipe(child));
    g_autoptr(GError) error = NULL;

    g_filter_input_stream_set_close_base_stream(G_FILTER_INPUT_STREAM(said), FALSE);
    g_autofree char *line = g_data_input_stream_read_line(said, NULL, NULL, &error);
    g_assert_no_error(error);
    if (!line || !g_str_has_prefix(line, "farfault: tracing ")) {
        g_error("farfault trace says: %s", line ? line : "nothing");
    }
}

static void has_ended(GSubprocess *child, int expected)
{
    g_subprocess_wait(child, NULL, NULL);
    g_assert_true(g_subprocess_get_if_exited(child));
    g_assert_cmpint(g_subprocess_get_exit_status(child), ==, expected);
}

/* What tracefs has of process PID: its uprobes, then its instance. */
static void left_of(const char *pid, bool *uprobes, bool *instance)
{
    int fds[2];
    char byte[2] = {0, 0};

    g_assert_cmpint(pipe(fds), ==, 0);
    pid_t child = fork();
    if (child == 0) {
        g_autofree char *text = NULL;
        g_autofree char *group = g_strdup_printf(":farfault_%s/", pid);
        g_autofree char *path = g_strdup_printf(TRACEFS "/instances/farfault-%s", pid);

        set_up(GINT_TO_POINTER(MOUNTED));
        if (!g_file_get_contents(TRACEFS "/uprobe_events", &text, NULL, NULL)) {
            _exit(1);
        }
        byte[0] = strstr(text, group) != NULL;
        byte[1] = access(path, F_OK) == 0;
        _exit(write(fds[1], byte, 2) != 2);
    }
    int status;
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(read(fds[0], byte, 2), ==, 2);
    *uprobes = byte[0];
    *instance = byte[1];
    close(fds[0]);
    close(fds[1]);
}

static void check_left(const char *pid, bool expected)
{
    bool uprobes, instance;

    left_of(pid, &uprobes, &instance);
    g_assert_cmpint(uprobes, ==, expected);
    g_assert_cmpint(instance, ==, expected);
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* Output of FARFAULT with ARGUMENT, which ends by itself; *STATUS: its exit status. */
static void run(const char *farfault, const char *argument, GSpawnChildSetupFunc setup, Fs fs,
                char **out, char **err, int *status)
{
    const char *argv[] = {farfault, "trace", argument, NULL};
    g_autoptr(GError) error = NULL;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, setup, GINT_TO_POINTER(fs), out, err,
                 status, &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(*status));
    *status = WEXITSTATUS(*status);
}

static void test_list(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *engine = vm_build_path("engine/farfault-engine");
    g_autofree char *readelf = g_find_program_in_path("readelf");
    g_autofree char *out = NULL, *err = NULL, *notes = NULL;
    const char *argv[] = {readelf, "-n", engine, NULL};
    g_autoptr(GError) error = NULL;
    int status;

    run(farfault, "--list", NULL, MOUNTED, &out, &err, &status);
    g_assert_cmpstr(err, ==, "");
    g_assert_cmpint(status, ==, 0);
    if (!readelf) {
        g_test_skip("there is no readelf: install binutils");
        return;
    }
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &notes, NULL,
                 NULL, &error);
    g_assert_no_error(error);
    g_auto(GStrv) lines = g_strsplit(out, "\n", -1);
    for (unsigned i = 0; i < G_N_ELEMENTS(marks); i++) {
        g_autofree char *name = g_strdup_printf("Name: %s\n", marks[i]);
        g_autofree char *begin = g_strdup_printf("%s ", marks[i]);

        g_assert_nonnull(strstr(notes, name));
        g_assert_true(lines[i] && g_str_has_prefix(lines[i], begin));
    }
    g_assert_cmpstr(lines[G_N_ELEMENTS(marks)], ==, "");
}

/* The places of PARTS in TEXT, one after another. */
static void in_order(const char *text, const char *const *parts)
{
    const char *at = text;

    for (unsigned i = 0; parts[i]; i++) {
        const char *found = strstr(at, parts[i]);
        if (!found) {
            test_fail("\"%s\" is not there, or not after \"%s\": %s", parts[i],
                      i ? parts[i - 1] : "", text);
        }
        at = found;
    }
}

/* Lines of TEXT, in order of time, with blanks made one. */
static char *tidy(const char *text)
{
    g_autoptr(GRegex) blanks = g_regex_new(" +", 0, 0, NULL);
    double last = 0;

    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line && **line; line++) {
        double time = g_ascii_strtod(*line, NULL);
        if (time < last) {
            test_fail("time goes back: %s", *line);
        }
        last = time;
    }
    return g_regex_replace_literal(blanks, text, -1, 0, " ", 0, NULL);
}

static Vm *start_vm(const BootsectConfig *boot, const char *incoming)
{
    static const char *const args[] = {"-machine", "pc", "-smp", "2", NULL};

    return vm_start(&(VmConfig){.name = "traced",
                                .launcher = VM_RUN,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

static void test_migration(void)
{
    static const char *const source_marks[] = {
        "traced source status before=none now=setup",
        "traced source phase phase=SETUP right=",
        "traced source pass pass=1",
        "traced source phase phase=GRANTED right=GIVEN",
        "traced source pages_answered requests=",
        "traced source status before=postcopy-active now=completed",
        NULL,
    };
    static const char *const destination_marks[] = {
        "traced destination status before=none now=setup",
        "traced destination phase phase=LOADED",
        "traced destination phase phase=GRANTED right=MINE",
        "traced destination status before=postcopy-active now=completed",
        NULL,
    };
    static const char *const claims[] = {
        "traced source phase phase=GRANTED right=GIVEN",
        "traced source bulk_claimed block=0 page=",
        "traced source status before=postcopy-active now=completed",
        NULL,
    };
    static const char *const waits[] = {
        "traced destination wait_begins block=",
        "traced destination page_asked block=",
        "traced source pages_answered requests=",
        "traced destination wait_ends block=",
        NULL,
    };
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start_vm(&boot, NULL);
    g_autoptr(Vm) destination = start_vm(&boot, "defer");
    vm_wait_serial(source, "AB");
    g_autoptr(GSubprocess) child = start("traced");
    wait_ready(child);
    g_autofree char *pid = g_strdup(g_subprocess_get_identifier(child));

    /* Slow enough for the guest to wait for a page. */
    move_prepare(source, destination);
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 16777216}");
    g_autofree char *uri = move_listen(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(source), "active");
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    g_autofree char *out = NULL;
    g_autoptr(GError) error = NULL;
    g_subprocess_communicate_utf8(child, NULL, NULL, &out, NULL, &error);
    g_assert_no_error(error);
    has_ended(child, 0);
    g_autofree char *text = tidy(out);
    g_test_message("%s", text);
    in_order(text, source_marks);
    in_order(text, destination_marks);
    in_order(text, waits);
    in_order(text, claims);
    g_assert_nonnull(strstr(text, "traced destination resumed running=1\n"));
    check_left(pid, false);
    move_wait_completed(source, destination);
}

/* A trace of GUEST that was sent SIGNAL; nothing is left of it. KILLED: the process of one that
 * lives beside it, or (GONE) was killed before. */
static void end_by(int signal, const char *guest, const char *killed, bool gone)
{
    g_autoptr(GSubprocess) child = start(guest);
    g_autofree char *own = g_strdup(g_subprocess_get_identifier(child));

    wait_ready(child);
    check_left(own, true);
    check_left(killed, !gone);
    g_subprocess_send_signal(child, signal);
    has_ended(child, 0);
    check_left(own, false);
}

static void test_signals(void)
{
    if (skipped()) {
        return;
    }
    /* One guest: all of a host can have many engines, each of which takes its time. */
    g_autoptr(Vm) vm =
        vm_start_pc((VmConfig){.name = "signalled", .memory = "64M", .paused = true});
    g_autoptr(GSubprocess) killed = start("signalled");
    wait_ready(killed);
    g_autofree char *pid = g_strdup(g_subprocess_get_identifier(killed));

    end_by(SIGINT, "signalled", pid, false);
    end_by(SIGTERM, "signalled", pid, false);
    g_subprocess_force_exit(killed);
    g_subprocess_wait(killed, NULL, NULL);
    check_left(pid, true);
    end_by(SIGHUP, "signalled", pid, true);
}

/* Nobody reads what it writes, and the guest's migration is over: a signal ends it all the same. */
static void test_unread(void)
{
    char zeros[4096] = {0};
    int fds[2];

    if (skipped()) {
        return;
    }
    g_autoptr(Vm) vm = vm_start_pc((VmConfig){.name = "unread", .memory = "64M"});
    g_assert_cmpint(pipe2(fds, O_CLOEXEC | O_NONBLOCK), ==, 0);
    while (write(fds[1], zeros, sizeof(zeros)) > 0) {
    }
    g_assert_cmpint(fcntl(fds[1], F_SETFL, 0), ==, 0);
    g_autoptr(GSubprocess) child = start_to("unread", fds[1]);
    g_autofree char *pid = g_strdup(g_subprocess_get_identifier(child));

    wait_ready(child);
    qmp_ok(vm_qmp(vm), "migrate-set-capabilities",
           "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}, "
           "{'capability': 'events', 'state': true}]}");
    qmp_ok(vm_qmp(vm), "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    qmp_expect_migration(vm_qmp(vm), "failed");
    g_subprocess_send_signal(child, SIGINT);
    has_ended(child, 0);
    check_left(pid, false);
    close(fds[0]);
}

/* Follows the mark "brief" of this program. NULL: *WHY is an exit status. */
static FfTracer *trace_brief(int *lines, int *why)
{
    g_autoptr(GError) error = NULL;
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    g_autoptr(GPtrArray) notes = ff_notes_read(program, "farfault", &error);
    FfTracer *tracer = ff_tracer_new(&error);
    const FfNote *note = NULL;

    for (guint i = 0; notes && i < notes->len; i++) {
        const FfNote *one = notes->pdata[i];
        note = strcmp(one->name, "brief") ? note : one;
    }
    *why = 1;
    if (!note || !tracer || !ff_tracer_add(tracer, "brief", "/proc/self/exe", note, "", &error)) {
        return NULL;
    }
    *why = 2;
    *lines = ff_tracer_start(tracer, &error);
    return *lines < 0 ? NULL : tracer;
}

static __attribute__((noinline)) void pass_brief(void)
{
    FF_MARK1(brief, 1);
}

/* In a child: its mark is passed by a process of its own, which is gone from /proc when the line is
 * looked at. The exit status tells where it failed. */
static int follow_brief(void)
{
    g_autoptr(GError) error = NULL;
    int lines, why, go[2];
    char line[4096];
    FfTracer *tracer = trace_brief(&lines, &why);

    if (!tracer || pipe(go) < 0) {
        return why;
    }
    pid_t brief = fork();
    if (brief == 0) {
        close(go[1]);
        pass_brief();
        _exit(read(go[0], line, 1) != 0);
    }
    struct pollfd ready = {lines, POLLIN, 0};
    ssize_t n = poll(&ready, 1, -1) == 1 ? read(lines, line, sizeof(line) - 1) : -1;
    bool living = ff_tracer_process(tracer, brief, 0) == brief;
    close(go[1]);
    bool gone = waitpid(brief, NULL, 0) == brief && ff_tracer_process(tracer, brief, 0) == brief;
    bool stranger = ff_tracer_process(tracer, INT_MAX, 0) != 0;
    bool left = !ff_tracer_end(tracer, &error);
    return n <= 0 ? 3 : !living ? 4 : !gone ? 5 : stranger ? 6 : left ? 7 : 0;
}

static void *passing_thread(void *tid)
{
    *(pid_t *)tid = gettid();
    pass_brief();
    return NULL;
}

/* A process of which a thread passes the mark. Its number; *TID: the thread's. Both have ended. */
static pid_t passed_by_thread(pid_t *tid)
{
    pid_t *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = shared == MAP_FAILED ? -1 : fork();

    if (child == 0) {
        pthread_t thread;
        _exit(pthread_create(&thread, NULL, passing_thread, shared) || pthread_join(thread, NULL));
    }
    int status = 1;
    bool good = child > 0 && waitpid(child, &status, 0) == child && status == 0;
    *tid = good ? *shared : -1;
    return good ? child : -1;
}

/* A child with the number PID, that passes the mark and does not end; 0: another process has got
 * it. */
static pid_t spawn_numbered(pid_t pid)
{
    for (int i = 0; i < 100; i++) {
        g_autofree char *last = g_strdup_printf("%d", pid - 1);
        int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
        bool put = fd >= 0 && write(fd, last, strlen(last)) > 0;
        pid_t child = put ? fork() : -1;

        if (fd >= 0) {
            close(fd);
        }
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getpid() == pid) {
                pass_brief();
            }
            pause();
        }
        if (child == pid || child < 0) {
            return child;
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return 0;
}

/* In a child: a thread's number, of which the kernel has noted a process, becomes that of another.
 */
static int follow_renumbered(void)
{
    g_autoptr(GError) error = NULL;
    int lines, why;
    pid_t tid;
    FfTracer *tracer = trace_brief(&lines, &why);

    if (!tracer) {
        return why;
    }
    pid_t older = passed_by_thread(&tid);
    bool noted = older > 0 && ff_tracer_process(tracer, tid, older) == older;
    pid_t child = noted ? spawn_numbered(tid) : -1;
    bool right = child == tid && ff_tracer_process(tracer, tid, older) == tid;
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    bool left = !ff_tracer_end(tracer, &error);
    return !noted ? 3 : child <= 0 ? RENUMBERED_IN_VAIN : !right ? 4 : left ? 5 : 0;
}

/* What FUNCTION returns in a child with tracefs. */
static int in_child(int (*function)(void))
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        set_up(GINT_TO_POINTER(MOUNTED));
        _exit(function());
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* A thread that ends behind its mark: whose it was is known all the same. */
static void test_ended(void)
{
    if (!skipped()) {
        g_assert_cmpint(in_child(follow_brief), ==, 0);
    }
}

/* Numbers of threads come again (seen: the mark of an engine that a trace did not show). */
static void test_renumbered(void)
{
    if (skipped()) {
        return;
    }
    int why = in_child(follow_renumbered);
    if (why == RENUMBERED_IN_VAIN) {
        g_test_skip("processes begin too fast here to choose the number of one");
    } else {
        g_assert_cmpint(why, ==, 0);
    }
}

static void check_line(const char *err, const char *says)
{
    const char *end = strchr(err, '\n');

    if (!end || end[1] || !g_str_has_prefix(err, "farfault: ") || !strstr(err, says)) {
        g_error("not one line with \"%s\": %s", says, err);
    }
}

static void test_missing(void)
{
    static const struct {
        Fs fs;
        const char *says;
    } rows[] = {
        {NOT_MOUNTED, "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing"},
        {WITHOUT_UPROBES, "this kernel has no uprobes"},
    };
    g_autofree char *farfault = vm_build_path("cli/farfault");

    if (skipped()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *out = NULL, *err = NULL;
        int status;

        run(farfault, NULL, set_up, rows[i].fs, &out, &err, &status);
        check_line(err, rows[i].says);
        g_assert_cmpint(status, ==, 1);
        g_assert_cmpstr(out, ==, "");
    }
}

static void copy(const char *from, const char *to)
{
    g_autoptr(GFile) a = g_file_new_for_path(from), b = g_file_new_for_path(to);
    g_autoptr(GError) error = NULL;

    g_file_copy(a, b, G_FILE_COPY_NONE, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
}

/* An engine whose notes were stripped. */
static void test_stripped(void)
{
    g_autofree char *objcopy = g_find_program_in_path("objcopy");
    g_autofree char *dir = g_dir_make_tmp("trace-XXXXXX", NULL);
    g_autofree char *farfault = g_build_filename(dir, "farfault", NULL);
    g_autofree char *engine = g_build_filename(dir, "farfault-engine", NULL);
    g_autofree char *own = vm_build_path("cli/farfault");
    g_autofree char *whole = vm_build_path("engine/farfault-engine");
    const char *argv[] = {objcopy, "--remove-section=.note.stapsdt", whole, engine, NULL};
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    if (objcopy) {
        copy(own, farfault);
        g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, NULL, &status,
                     &error);
        g_assert_no_error(error);
        g_assert_cmpint(status, ==, 0);
        run(farfault, "--list", NULL, MOUNTED, &out, &err, &status);
        check_line(err, "has no marks");
        g_assert_cmpint(status, ==, 1);
        g_assert_cmpint(g_unlink(farfault) | g_unlink(engine), ==, 0);
    } else {
        g_test_skip("there is no objcopy: install binutils");
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/trace/list", test_list);
    g_test_add_func("/trace/stripped", test_stripped);
    g_test_add_func("/trace/missing", test_missing);
    g_test_add_func("/trace/ended", test_ended);
    g_test_add_func("/trace/renumbered", test_renumbered);
    g_test_add_func("/trace/signals", test_signals);
    g_test_add_func("/trace/unread", test_unread);
    g_test_add_func("/trace/migration", test_migration);
    return g_test_run();
}
