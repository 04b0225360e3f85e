/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the relay and the engine of a real guest have left of rights, as root and as the user that
 * -runas names: capabilities, filter of system calls, core dumps; and that nobody else can reach
 * the socket of a migration, or read a file that farfault makes.
 */
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)

/* The capabilities that base/sandbox.c keeps: DAC_OVERRIDE, DAC_READ_SEARCH, KILL,
 * NET_BIND_SERVICE, SYS_PTRACE, SYS_NICE, LEASE. */
#define KEPT (1ull << 1 | 1ull << 2 | 1ull << 5 | 1ull << 10 | 1ull << 19 | 1ull << 23 | 1ull << 28)

static Vm *start(const char *name, const char *user, const BootsectConfig *boot,
                 const char *incoming)
{
    g_autofree char *word = NULL;
    const char *option = user ? vm_runas(user, &word) : NULL;
    const char *args[] = {"-machine", "pc", option, word, NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = RAM,
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

/* The member NAME of /proc/PID/status (g_free). */
static char *status_of(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", pid), *text = NULL;
    g_autofree char *key = g_strdup_printf("\n%s:\t", name);

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = strstr(text, key);
    g_assert_nonnull(at);
    at += strlen(key);
    return g_strndup(at, strcspn(at, "\n\t"));
}

static void expect(pid_t pid, const char *name, const char *value)
{
    g_autofree char *is = status_of(pid, name);

    g_assert_cmpstr(is, ==, value);
}

static void check_process(pid_t pid)
{
    g_autofree char *caps = status_of(pid, "CapPrm"), *bound = status_of(pid, "CapBnd");
    g_autofree char *uid = status_of(pid, "Uid");
    g_autofree char *path = g_strdup_printf("/proc/%d/limits", pid), *limits = NULL;

    expect(pid, "NoNewPrivs", "1");
    expect(pid, "CapInh", "0000000000000000");
    g_assert_cmpuint(g_ascii_strtoull(caps, NULL, 16) & ~KEPT, ==, 0);
    if (!strcmp(uid, "0")) {
        g_assert_cmpuint(g_ascii_strtoull(bound, NULL, 16) & ~KEPT, ==, 0);
    } else {
        expect(pid, "CapEff", "0000000000000000");
    }
    g_assert_true(g_file_get_contents(path, &limits, NULL, NULL));
    g_assert_nonnull(strstr(limits, "Max core file size        0                    0"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    expect(pid, "Seccomp", "2");
#endif
}

/* PID has a way into all of QEMU's memory. */
static bool sees_qemu(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        if (target && g_str_has_prefix(target, "/proc/") && g_str_has_suffix(target, "/mem")) {
            return true;
        }
    }
    return false;
}

/* The relay is the engine's parent. It talks to no peer, and lends each engine what it has; the
 * engine has given it up before it talked to one. */
static void check_both(Vm *vm)
{
    pid_t engine = vm_engine(vm);
    g_autofree char *relay = status_of(engine, "PPid");

    g_assert_true(sees_qemu(atoi(relay)));
    g_assert_false(sees_qemu(engine));

    check_process(engine);
    check_process(atoi(relay));
}

/* Relay and engine are run from the build folder, by the user. */
static bool is_reachable(const char *path)
{
    g_autofree char *at = g_strdup(path);
    struct stat st;

    while (stat(at, &st) == 0 && st.st_mode & S_IXOTH) {
        if (!strcmp(at, "/")) {
            return true;
        }
        char *up = g_path_get_dirname(at);
        g_free(at);
        at = up;
    }
    return false;
}

static bool possible(const char *user)
{
    const char *why = !user            ? NULL
                      : geteuid() != 0 ? "-runas needs root"
                      : !is_reachable(g_getenv("FF_BUILD"))
                          ? "other users cannot reach the build folder"
                          : NULL;

    if (why || !vm_farfault_available(&why)) {
        g_test_skip(why);
    }
    return !why;
}

/* The folder and the disk of VM become USER's, as QEMU opens its disk again. */
static void hand_over(Vm *vm, const char *user)
{
    struct passwd *pw = getpwnam(user);
    g_autofree char *disk = vm_path(vm, "disk");

    g_assert_nonnull(pw);
    g_assert_cmpint(chown(vm_dir(vm), pw->pw_uid, pw->pw_gid), ==, 0);
    g_assert_cmpint(chown(disk, pw->pw_uid, pw->pw_gid), ==, 0);
}

static void test_rights(gconstpointer user)
{
    struct stat st;

    if (!possible(user)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    Vm *s = start("source", user, &boot, NULL), *d = start("destination", user, &boot, "defer");
    vm_wait_serial(s, "B");
    if (user) {
        hand_over(s, user);
        hand_over(d, user);
    }
    move_prepare(s, d);
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    g_autofree char *path = vm_path(d, "migration");
    qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': 'unix:%s'}", path);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': 'unix:%s'}", path);
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(d), "RESUME");
    check_both(s);
    check_both(d);
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(s, d);
    qmp_ok(vm_qmp(d), "stop", NULL);
    g_autofree char *wrong = check_counters(d, &boot);
    g_assert_cmpstr(wrong, ==, NULL);
    vm_end(d);
    vm_end(s);
}

/* A source QEMU that cannot write its device state, since it cannot open its disk again: it says
 * "failed", and nothing more. The guest continues here. */
static void test_state_not_written(void)
{
    if (!possible("nobody")) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    Vm *s = start("source", "nobody", &boot, NULL);
    Vm *d = start("destination", "nobody", &boot, "defer");
    vm_wait_serial(s, "B");
    move_prepare(s, d);
    qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(s), "failed");
    /* It was loading: it ends by itself, or is ended. */
    int status = vm_wait_exit(d);
    g_assert_true(status == 1 || status == -SIGKILL);
    g_autofree char *state = qmp_run_state(vm_qmp(s));
    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(s, "B");
    vm_end(d);
    vm_end(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/rights/caller", NULL, test_rights);
    g_test_add_data_func("/rights/runas", "nobody", test_rights);
    g_test_add_func("/rights/runas/state-not-written", test_state_not_written);
    return g_test_run();
}
