/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status --watch beside a real migration, at monitors of its own: it ends with it, has
 * seen each state, shows the numbers of query-migrate; as lines in a pipe, as a screen on a
 * terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixinputstream.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define RAM_MIB 64
#define RAM ((uint64_t)RAM_MIB << 20)

static const char *const args[] = {"-machine", "pc", "-smp", "2", NULL};

static Vm *start(const BootsectConfig *boot, const char *incoming)
{
    return vm_start(&(VmConfig){.name = "watched",
                                .launcher = VM_RUN,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming,
                                .listens = true});
}

/* The command, at the second monitors of both; OUT: its stdout (taken), -1: a pipe. */
static GSubprocess *watch(Vm *source, Vm *destination, int out)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(out < 0 ? G_SUBPROCESS_FLAGS_STDOUT_PIPE : 0);
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *a = vm_path(source, "server"), *b = vm_path(destination, "server");
    g_autoptr(GError) error = NULL;

    g_subprocess_launcher_setenv(launcher, "TERM", "xterm", TRUE);
    if (out >= 0) {
        g_subprocess_launcher_take_stdout_fd(launcher, out);
    }
    GSubprocess *child = g_subprocess_launcher_spawn(launcher, &error, farfault, "status",
                                                     "--watch", "--interval", "0.1", a, b, NULL);
    g_assert_no_error(error);
    return child;
}

/* Reads from FD until PART has come, NULL: to the end. */
static void read_until(int fd, GString *text, const char *part)
{
    char buf[4096];
    ssize_t n = 1;

    while (n > 0 && !(part && strstr(text->str, part))) {
        n = read(fd, buf, sizeof(buf));
        if (n < 0 && errno == EINTR) {
            n = 1;
            continue;
        }
        g_string_append_len(text, buf, MAX(n, 0)); /* EIO: the terminal has no other side */
    }
    if (part && !strstr(text->str, part)) {
        test_fail("it ended without \"%s\": %s", part, text->str);
    }
}

/* A migration that the reader of FD sees from before its begin (it has said IDLE) to its end.
 * Returns the destination's URI (g_free). */
static char *migrate(Vm *source, Vm *destination, int fd, GString *text, const char *idle,
                     const char *active)
{
    read_until(fd, text, idle);
    move_prepare(source, destination);
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 16777216}");
    char *uri = move_listen(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(source), "active");
    read_until(fd, text, active);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    read_until(fd, text, NULL);
    move_wait_completed(source, destination);
    return uri;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        test_fail("no \"%s\" in: %s", part, text);
    }
}

/* What farfault status says, of the monitor QMP or (NULL) of all guests. */
static char *status_of(const char *qmp)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    const char *argv[] = {farfault, "status", qmp, NULL};
    g_autoptr(GError) error = NULL;
    char *out = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    return out;
}

/* The source, whose guest is at URI. */
static void check_status(Vm *source, const char *uri)
{
    qmp_wait_postmigrate(vm_qmp(source));
    g_autofree char *monitor = vm_path(source, "server");
    g_autofree char *one = status_of(monitor), *all = status_of(NULL);
    g_autofree char *long_line = g_strdup_printf(
        "\nmigration completed\n  guest        is at the destination (%s), with all its memory; "
        "this QEMU can be ended\n",
        uri);
    g_autofree char *short_line = g_strdup_printf(
        "watched process %d: was given away to %s, and is whole there\n", (int)vm_pid(source), uri);

    has(one,
        "guest watched has moved away, or was saved; it does not run here any more (postmigrate, ");
    has(one, long_line);
    has(one, "\n  downtime     ");
    has(all, short_line);
}

static bool skipped(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return true;
    }
    return false;
}

static void test_lines(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start(&boot, NULL);
    g_autoptr(Vm) destination = start(&boot, "defer");
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *uri = NULL;

    vm_wait_serial(source, "AB");
    g_autoptr(GSubprocess) child = watch(source, destination, -1);
    int fd = g_unix_input_stream_get_fd(G_UNIX_INPUT_STREAM(g_subprocess_get_stdout_pipe(child)));
    uri = migrate(source, destination, fd, text, "none", "source active");
    g_subprocess_wait(child, NULL, NULL);
    g_assert_cmpint(g_subprocess_get_exit_status(child), ==, 0);
    g_test_message("%s", text->str);
    g_assert_null(strchr(text->str, '\033'));
    has(text->str, "source postcopy-active, destination postcopy-active");
    has(text->str, " left, ");

    /* The last line has the last numbers. */
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(destination), "query-migrate", NULL);
    g_autofree char *requests = g_strdup_printf(
        "; requests %" G_GINT64_FORMAT ", ",
        json_object_get_int_member(json_object_get_object_member(info, "x-farfault"), "requests"));
    g_strchomp(text->str);
    const char *last = strrchr(text->str, '\n') + 1;
    has(last, "source completed, destination completed");
    has(last, requests);
    check_status(source, uri);
    move_check_guest(source, destination, &boot, RAM);
}

static void test_terminal(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start(&boot, NULL);
    g_autoptr(Vm) destination = start(&boot, "defer");
    g_autoptr(GString) text = g_string_new(NULL);
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct winsize size = {.ws_row = 30, .ws_col = 64};

    vm_wait_serial(source, "AB");
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(grantpt(fd), ==, 0);
    g_assert_cmpint(unlockpt(fd), ==, 0);
    int other = open(ptsname(fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(other, >=, 0);
    g_assert_cmpint(ioctl(fd, TIOCSWINSZ, &size), ==, 0);
    g_autoptr(GSubprocess) child = watch(source, destination, other);
    g_free(migrate(source, destination, fd, text, "so far", "MIGRATION active"));
    g_subprocess_wait(child, NULL, NULL);
    g_assert_cmpint(g_subprocess_get_exit_status(child), ==, 0);
    close(fd);
    g_test_message("%s", text->str);
    has(text->str, "\033[J");
    has(text->str, "\033[1m");
    has(text->str, "[####");
    has(text->str, "MIGRATION postcopy-active");
    has(text->str, "migration completed");
    has(text->str, "watched: ");
    g_auto(GStrv) lines = g_strsplit(text->str, "\n", -1);
    for (char **l = lines; *l; l++) {
        g_autoptr(GRegex) escape = g_regex_new("\033\\[[0-9]*[A-Za-z]|\r", 0, 0, NULL);
        g_autofree char *bare = g_regex_replace_literal(escape, *l, -1, 0, "", 0, NULL);

        g_assert_cmpint(g_utf8_strlen(bare, -1), <=, size.ws_col);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/watch-guests/lines", test_lines);
    g_test_add_func("/watch-guests/terminal", test_terminal);
    return g_test_run();
}
