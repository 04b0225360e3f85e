/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade by root of a guest whose QEMU is another user's: the new one is that user's as
 * well, and gets no more rights. In a mount namespace of its own, where any user may have a
 * userfaultfd.
 */
#include "tests/qtest/upgrade-rig.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define USER 65534

/* As USER, without anything of root's. */
static bool user_can(bool (*what)(const char *), const char *path)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        bool is = setgroups(0, NULL) == 0 && setresgid(USER, USER, USER) == 0 &&
                  setresuid(USER, USER, USER) == 0;
        _exit(!is || !what(path));
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return status == 0;
}

static bool reads(const char *path)
{
    return access(path, R_OK | X_OK) == 0;
}

static bool opens(const char *path)
{
    return access(path, R_OK | W_OK) == 0;
}

/* /dev/userfaultfd is everybody's. */
static bool open_device(const char *dir)
{
    g_autofree char *node = g_build_filename(dir, "userfaultfd", NULL);
    struct stat st;

    return stat("/dev/userfaultfd", &st) == 0 && unshare(CLONE_NEWNS) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mknod(node, S_IFCHR, st.st_rdev) == 0 && chmod(node, 0666) == 0 &&
           mount(node, "/dev/userfaultfd", NULL, MS_BIND, NULL) == 0 &&
           user_can(opens, "/dev/userfaultfd");
}

/* Lines of /proc/PID/status that name its rights (g_free). */
static char *rights_of(pid_t pid)
{
    static const char *const names[] = {"Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"};
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid), *text = NULL;
    g_autoptr(GString) all = g_string_new(NULL);

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(names); k++) {
            if (g_str_has_prefix(lines[i], names[k])) {
                g_string_append_printf(all, "%s\n", lines[i]);
            }
        }
    }
    return g_string_free(g_steal_pointer(&all), FALSE);
}

static void test_root(void)
{
    const char *why;
    g_autofree char *farfault = vm_build_path("cli/farfault");

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (geteuid() != 0 || !user_can(reads, farfault)) {
        g_test_skip(geteuid() ? "not root" : "nobody but root can run what was built here");
        return;
    }
    g_autoptr(Guest) g = up_new();
    if (!open_device(g->dir)) {
        g_test_skip("no user but root can be given a userfaultfd here");
        return;
    }
    g_assert_cmpint(chown(g->dir, USER, USER), ==, 0);
    g->user = USER;
    up_start_vmgenid(g, NULL);
    g_autofree char *before = rights_of(up_only_qemu(g));
    g_autofree char *program = up_installed();
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        g_autofree char *after = rights_of(up_only_qemu(g));
        g_assert_cmpstr(after, ==, before);
    }
    g_assert_nonnull(strstr(before, "Uid:\t65534\t65534\t65534\t65534\n"));
    g_assert_nonnull(strstr(before, "CapPrm:\t0000000000000000\n"));
    up_check_memory(g);
}

static bool device_opens(void)
{
    g_autofree char *sysctl = NULL;

    g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL);
    return !sysctl || atoi(sysctl) != 0 || user_can(opens, "/dev/userfaultfd");
}

/* What cannot be is said before anything begins, with what helps. */
static void test_no_userfaultfd(void)
{
    static const char part[] = "which may not use userfaultfd, and cannot take over the guest: ";
    const char *why;
    g_autofree char *farfault = vm_build_path("cli/farfault");

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (geteuid() != 0 || !user_can(reads, farfault) || device_opens()) {
        g_test_skip("needs root, a build that all can run, and userfaultfd for root alone");
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_assert_cmpint(chown(g->dir, USER, USER), ==, 0);
    g->user = USER;
    up_start_vmgenid(g, NULL);
    up_fails(g, (const char *const[]){"--check", NULL}, part);
    up_fails(g, NULL, " or set vm.unprivileged_userfaultfd=1");
    up_check_memory(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    /* The other one leaves this process's namespace of mounts. */
    g_test_add_func("/upgrade-user/no-userfaultfd", test_no_userfaultfd);
    g_test_add_func("/upgrade-user/root", test_root);
    return g_test_run();
}
