/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the new QEMU of an upgrade lives: it takes over limits, priority, scheduling policy and
 * processors of the running one; one whose end would be taken for the guest's stays.
 */
#include "cli/upgrade/place.h"
#include "guest/launch/scheduling.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_who_waits(void)
{
    static const struct {
        const char *cgroup, *status, *parent;
        bool may_leave;
    } cases[] = {
        {"0::/user.slice/user-1000.slice/session-3.scope\n", "\nNSpid:\t700\n", "bash", true},
        {"0::/user.slice/user-1000.slice/session-3.scope\n", "\nNSpid:\t700\n", "systemd", true},
        {"0::/system.slice/ssh.service\n", "\nNSpid:\t700\n", "bash", true},
        {"0::/system.slice/guest.service\n", "\nNSpid:\t700\n", "systemd", false},
        {"12:cpu,cpuacct:/\n1:name=systemd:/system.slice/vm@1.service\n", "\nNSpid:\t7\n",
         "systemd", false},
        {"0::/\n", "\nNSpid:\t700\t1\n", "containerd-shim", false},
        {"0::/\n", "\nNSpid:\t700\t11\n", "tini", true},
        {"", "", "", true},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_cmpint(
            ff_upgrade_may_leave_text(cases[i].cgroup, cases[i].status, cases[i].parent), ==,
            cases[i].may_leave);
    }
    (void)ff_upgrade_may_leave(getpid()); /* whatever it says, it reads what there is */
}

static void test_outlives(void)
{
    static const struct {
        const char *theirs, *ours, *refusal;
    } cases[] = {
        {"0::/machine.slice/vm1.scope\n", "0::/machine.slice/vm1.scope\n", NULL},
        {"0::/system.slice/guests.service\n", "0::/system.slice/guests.service\n", NULL},
        {"0::/machine.slice/vm1.scope\n", "0::/user.slice/user-1000.slice/session-3.scope\n", NULL},
        {"0::/machine.slice/vm1.scope\n", "0::/system.slice/upgrade.service\n",
         "would end with upgrade.service"},
        {"1:name=systemd:/vm1.scope\n", "1:name=systemd:/system.slice/cron.service\n",
         "would end with cron.service"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        bool ok = ff_upgrade_outlives_text(cases[i].theirs, cases[i].ours, &error);

        g_assert_cmpint(ok, ==, !cases[i].refusal);
        if (!ok) {
            g_assert_nonnull(strstr(error->message, cases[i].refusal));
        }
    }
    g_autoptr(GError) error = NULL;
    g_assert_true(ff_upgrade_outlives(getpid(), getpid(), &error));
}

/* A process that waits, with another place than this one. An ordinary user may have these
 * policies. */
static pid_t start_other(int cpu, int policy)
{
    int ready[2];
    char byte;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        const struct rlimit limit = {100, 100};
        const struct sched_param none = {0};
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        bool ok =
            sched_setaffinity(0, sizeof(set), &set) == 0 && setpriority(PRIO_PROCESS, 0, 15) == 0 &&
            sched_setscheduler(0, policy, &none) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0;
        if (write(ready[1], "", ok) == 1) {
            pause();
        }
        _exit(1);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static int a_processor(void)
{
    cpu_set_t set;
    int cpu = 0;

    g_assert_cmpint(sched_getaffinity(0, sizeof(set), &set), ==, 0);
    while (!CPU_ISSET(cpu, &set)) {
        cpu++;
    }
    return cpu;
}

static void test_takes_place(void)
{
    int cpu = a_processor(), status;
    pid_t other = start_other(cpu, SCHED_BATCH), pid = fork();

    if (pid == 0) {
        struct rlimit limit;
        cpu_set_t set;

        ff_scheduling_take(other);
        _exit(getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur != 100 ? 1
              : getpriority(PRIO_PROCESS, 0) != 15                      ? 2
              : sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) != 1 ||
                      !CPU_ISSET(cpu, &set)
                  ? 3
              : sched_getscheduler(0) != SCHED_BATCH ? 4
                                                     : 0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

/* libvirt gives each vCPU its own (vcpusched). */
static void test_takes_thread(void)
{
    int cpu = a_processor();
    pid_t theirs = start_other(cpu, SCHED_IDLE), ours = start_other(cpu, SCHED_BATCH);

    ff_scheduling_take_thread(theirs, theirs, ours);
    int policy = sched_getscheduler(ours);
    kill(theirs, SIGKILL);
    kill(ours, SIGKILL);
    waitpid(theirs, NULL, 0);
    waitpid(ours, NULL, 0);
    g_assert_cmpint(policy, ==, SCHED_IDLE);
}

/* What this kernel does not give is said, and no failure: a user without rights gets no real time.
 */
static void test_refused_policy(void)
{
    const struct sched_param first = {.sched_priority = 1};
    const struct rlimit none = {0, 0};
    int out[2], status;
    char text[512] = "";

    pid_t other = start_other(a_processor(), SCHED_BATCH);
    if (geteuid() != 0 || sched_setscheduler(other, SCHED_FIFO, &first) < 0) {
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
        g_test_skip("this user may have no real-time process");
        return;
    }
    g_assert_cmpint(pipe(out), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDERR_FILENO);
        _exit(setrlimit(RLIMIT_RTPRIO, &none) < 0 || setuid(65534) < 0           ? 1
              : (ff_scheduling_take(other), sched_getscheduler(0) == SCHED_FIFO) ? 2
                                                                                 : 0);
    }
    close(out[1]);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(read(out[0], text, sizeof(text) - 1), >, 0);
    close(out[0]);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    g_assert_nonnull(strstr(text, "scheduling policy"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade-place/outlives", test_outlives);
    g_test_add_func("/upgrade-place/who-waits", test_who_waits);
    g_test_add_func("/upgrade-place/takes-place", test_takes_place);
    g_test_add_func("/upgrade-place/takes-thread", test_takes_thread);
    g_test_add_func("/upgrade-place/refused-policy", test_refused_policy);
    return g_test_run();
}
