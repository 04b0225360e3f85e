/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who was started by a process, and by those: all are killed, and nobody else. All of them have the
 * write end of a pipe, so the test sees when the last is gone.
 */
#include "pager/holder/descendants.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/forktold.h"

typedef struct {
    pid_t pid;
    int pidfd;
    int all; /* read end of what each of them has */
    int go;  /* write end; the process reads from it */
} Root;

/* What the process does, in its own. IN: a byte comes; OUT: what all of them have. */
typedef void Does(int in, int out);

static void need(bool ok)
{
    if (!ok) {
        _exit(1);
    }
}

static void wait_go(int in)
{
    char byte;

    need(read(in, &byte, 1) == 1);
}

static void say(int out)
{
    need(write(out, "s", 1) == 1);
}

/* For a minute, should the test fail to end it. */
static void stay(void)
{
    alarm(60);
    for (;;) {
        pause();
    }
}

static void exec_sleep(void)
{
    execl("/bin/sleep", "sleep", "60", NULL);
    _exit(1);
}

static Root start(Does *does)
{
    int all[2], go[2];

    g_assert_cmpint(pipe2(all, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(all[0]);
        close(go[1]);
        fcntl(all[1], F_SETFD, 0);
        does(go[0], all[1]);
        stay();
    }
    close(all[1]);
    close(go[0]);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    g_assert_cmpint(pidfd, >=, 0);
    return (Root){pid, pidfd, all[0], go[1]};
}

static void go_on(const Root *r)
{
    g_assert_cmpint(write(r->go, "g", 1), ==, 1);
}

static void wait_said(const Root *r)
{
    char byte;

    g_assert_cmpint(read(r->all, &byte, 1), ==, 1);
}

/* What is left to read was said before. */
static void assert_all_gone(const Root *r)
{
    char bytes[4096];
    struct pollfd pfd = {.fd = r->all, .events = POLLIN};

    while (poll(&pfd, 1, 0) == 1 && pfd.revents & POLLIN) {
        g_assert_cmpint(read(r->all, bytes, sizeof(bytes)), >, 0);
    }
    g_assert_cmpint(pfd.revents, ==, POLLHUP);
}

static void end(Root *r)
{
    kill(r->pid, SIGKILL);
    g_assert_cmpint(waitpid(r->pid, NULL, 0), ==, r->pid);
    close(r->pidfd);
    close(r->all);
    close(r->go);
}

/* ---- what they do ---------------------------------------------------------------------------- */

static void spawns(int in, int out)
{
    char *const argv[] = {(char *)"sleep", (char *)"60", NULL};
    pid_t pid;

    wait_go(in);
    need(posix_spawn(&pid, "/bin/sleep", NULL, NULL, argv, NULL) == 0);
    say(out);
}

static void has_grandchild(int in, int out)
{
    wait_go(in);
    if (fork() == 0) {
        if (fork() == 0) {
            say(out);
            exec_sleep();
        }
        stay();
    }
}

static void leaves_daemon(int in, int out)
{
    wait_go(in);
    pid_t between = fork();
    if (between == 0) {
        setsid();
        if (fork() == 0) {
            exec_sleep();
        }
        _exit(0);
    }
    need(waitpid(between, NULL, 0) == between);
    say(out);
}

/* And ends itself. */
static void leaves_all(int in, int out)
{
    leaves_daemon(in, out);
    _exit(0);
}

static void *thread_forks(void *fds)
{
    const int *fd = fds;

    leaves_daemon(fd[0], fd[1]);
    leaves_daemon(fd[0], fd[1]);
    stay();
    return NULL;
}

/* Its first thread ends between two forks. */
static void leader_ends(int in, int out)
{
    static int fds[2];
    pthread_t thread;

    fds[0] = in;
    fds[1] = out;
    need(pthread_create(&thread, NULL, thread_forks, fds) == 0);
    pthread_exit(NULL);
}

/* As fast as it can: children that stay, and some that leave one and end. */
static void storms(int in, int out)
{
    signal(SIGCHLD, SIG_IGN);
    wait_go(in);
    say(out);
    for (unsigned i = 0; i < 3000; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (i % 3 && fork()) {
                _exit(0);
            }
            if (i % 5) {
                _exit(0);
            }
            stay();
        }
    }
}

/* One after the other: each forks the next one, and ends. There are many besides, so that to look
 * at all takes a while. */
static void chains(int in, int out)
{
    signal(SIGCHLD, SIG_IGN);
    wait_go(in);
    for (unsigned i = 0; i < 400; i++) {
        if (fork() == 0) {
            stay();
        }
    }
    if (fork() == 0) {
        say(out);
        for (unsigned i = 0; i < 100000; i++) { /* seconds, should the test fail to end it */
            if (fork()) {
                _exit(0);
            }
        }
        _exit(0);
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    Does *does;
    unsigned said;
    bool needs_told;
    bool before; /* it has started them when it is looked at first */
    bool untold; /* the kernel says nothing */
} Case;

static const Case cases[] = {
    {"nobody", NULL, 0, false, false, false},
    {"spawned", spawns, 1, false, false, false},
    {"grandchild", has_grandchild, 1, false, false, false},
    {"daemon", leaves_daemon, 1, true, false, false},
    {"left", leaves_all, 1, true, false, false},
    {"thread", leader_ends, 2, true, false, false},
    {"storm", storms, 1, true, false, false},
    {"chain", chains, 1, true, false, false},
    {"chain/again", chains, 1, true, false, false},
    {"before/spawned", spawns, 1, false, true, false},
    {"before/grandchild", has_grandchild, 1, false, true, false},
    {"untold/spawned", spawns, 1, false, false, true},
    {"untold/grandchild", has_grandchild, 1, false, false, true},
};

static void nothing(int in, int out)
{
}

static void run(const Case *c)
{
    Root stranger = start(nothing), root = start(c->does ? c->does : nothing);
    struct pollfd end_of_stranger = {.fd = stranger.pidfd, .events = POLLIN};
    g_autoptr(FfDescendantsLog) log = NULL;
    g_autoptr(FfDescendants) o = NULL;

    for (unsigned i = 0; c->before && i < c->said; i++) {
        go_on(&root);
        wait_said(&root);
    }
    log = ff_descendants_log_new();
    o = ff_descendants_new(log);
    g_assert_true(!c->untold || ff_descendants_log_fd(log) < 0);
    ff_descendants_add(o, root.pidfd);
    for (unsigned i = 0; !c->before && i < c->said; i++) {
        go_on(&root);
        wait_said(&root);
    }
    if (c->untold) {
        ff_descendants_look(o);
    }
    ff_descendants_kill(o);
    assert_all_gone(&root);
    g_assert_cmpint(poll(&end_of_stranger, 1, 0), ==, 0);
    end(&root);
    end(&stranger);
}

/* A child that had ended before anybody heard of it, and its pid is another one's by now: of a
 * stranger, who is not killed. */
static void leaves_nobody(int in, int out)
{
    wait_go(in);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    need(waitpid(pid, NULL, 0) == pid && write(out, &pid, sizeof(pid)) == sizeof(pid));
}

/* A process with this pid, which pauses; 0 and errno: it cannot be had. */
static pid_t start_as(pid_t pid, bool spawns)
{
    pid_t tids[1] = {pid};
    struct clone_args args = {
        .exit_signal = SIGCHLD, .set_tid = (uintptr_t)tids, .set_tid_size = 1};
    pid_t got = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

    if (got == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (spawns && fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        }
        stay();
    }
    return MAX(got, 0);
}

static void test_reused(void)
{
    g_autoptr(FfDescendantsLog) log = ff_descendants_log_new();
    g_autoptr(FfDescendants) o = ff_descendants_new(log);
    Root root = start(leaves_nobody);
    pid_t child;

    ff_descendants_add(o, root.pidfd);
    g_usleep(20 * 1000); /* an age is known to 10 ms */
    go_on(&root);
    g_assert_cmpint(read(root.all, &child, sizeof(child)), ==, sizeof(child));
    g_usleep(50 * 1000);
    pid_t stranger = start_as(child, false);
    if (stranger) {
        struct pollfd end_of_it = {.fd = (int)syscall(SYS_pidfd_open, stranger, 0),
                                   .events = POLLIN};
        ff_descendants_look(o);
        ff_descendants_kill(o);
        g_assert_cmpint(poll(&end_of_it, 1, 0), ==, 0);
        close(end_of_it.fd);
        kill(stranger, SIGKILL);
        g_assert_cmpint(waitpid(stranger, NULL, 0), ==, stranger);
    } else {
        g_test_skip("no process can have a pid that is given");
    }
    end(&root);
}

/* CRIU tries once more, with the same pids. Nobody tells of forks: the first process is not known
 * to have ended. */
static void run_again(const Case *c)
{
    g_autoptr(FfDescendantsLog) log = ff_descendants_log_new();
    g_autoptr(FfDescendants) o = ff_descendants_new(log);
    Root first = start(nothing);
    pid_t pid = first.pid;

    ff_descendants_add(o, first.pidfd);
    end(&first);
    pid_t again = start_as(pid, true);
    if (!again) {
        _exit(77);
    }
    int pidfd = (int)syscall(SYS_pidfd_open, again, 0);
    ff_descendants_add(o, pidfd);
    struct pollfd end_of_it = {.fd = pidfd, .events = POLLIN};
    ff_descendants_kill(o);
    g_assert_cmpint(poll(&end_of_it, 1, 0), ==, 1);
    close(pidfd);
    g_assert_cmpint(waitpid(again, NULL, 0), ==, again);
}

/* Nobody is known by a number of another pid namespace, and nobody is killed. */
static void run_lost(const Case *c)
{
    g_autoptr(FfDescendantsLog) log = ff_descendants_log_new();
    g_autoptr(FfDescendants) o = ff_descendants_new(log);
    Root root = start(nothing);
    struct pollfd end_of_root = {.fd = root.pidfd, .events = POLLIN};

    g_assert_cmpint(ff_descendants_log_fd(log), ==, -1);
    ff_descendants_add(o, root.pidfd);
    ff_descendants_kill(o);
    g_assert_cmpint(poll(&end_of_root, 1, 0), ==, 0);
    end(&root);
}

static void in_another(int namespaces, void (*runs)(const Case *), const Case *c)
{
    pid_t pid = fork(); /* the other cases stay here */

    if (pid == 0) {
        if (unshare(namespaces) < 0) {
            _exit(77);
        }
        int status = 0;
        pid_t inner = fork(); /* the first one of the namespace, if that is of pids */
        if (inner == 0) {
            runs(c);
            _exit(0);
        }
        need(waitpid(inner, &status, 0) == inner);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        g_test_skip("no namespace can be made, or no process can have a pid that is given");
        return;
    }
    g_assert_cmpint(status, ==, 0);
}

static void test_lost(void)
{
    in_another(CLONE_NEWPID, run_lost, NULL);
}

static void test_again(void)
{
    in_another(CLONE_NEWNET, run_again, NULL);
}

static void test_case(gconstpointer of)
{
    const Case *c = of;

    if (c->needs_told && !forks_are_told()) {
        g_test_skip("here the kernel tells nobody of forks");
        return;
    }
    if (!c->untold) {
        run(c);
        return;
    }
    in_another(CLONE_NEWNET, run, c);
}

/* Who knew them is killed, and the next one knows them: HEARD: also what they have left meanwhile;
 * else nobody had heard of that. */
static void test_next(gconstpointer heard)
{
    if (!forks_are_told()) {
        g_test_skip("here the kernel tells nobody of forks");
        return;
    }
    g_autoptr(FfDescendantsLog) log = ff_descendants_log_new();
    Root root = start(leaves_all);
    int said[2], status;
    char byte;

    g_assert_cmpint(pipe(said), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        FfDescendants *first = ff_descendants_new(log);
        ff_descendants_add(first, root.pidfd);
        say(said[1]);
        struct pollfd end_of_root = {.fd = root.pidfd, .events = POLLIN};
        need(poll(&end_of_root, 1, -1) == 1);
        if (heard) {
            ff_descendants_hear(first);
        }
        raise(SIGKILL);
    }
    g_assert_cmpint(read(said[0], &byte, 1), ==, 1);
    go_on(&root);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status));
    g_autoptr(FfDescendants) o = ff_descendants_new(log);
    ff_descendants_kill(o);
    assert_all_gone(&root);
    close(said[0]);
    close(said[1]);
    end(&root);
}

/* It ends by itself, and nobody waits for it. */
static void test_ends(void)
{
    g_autoptr(FfDescendantsLog) log = ff_descendants_log_new();
    g_autoptr(FfDescendants) o = ff_descendants_new(log);
    Root root = start(nothing);

    ff_descendants_add(o, root.pidfd);
    end(&root);
    ff_descendants_look(o);
    ff_descendants_kill(o);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strconcat("/offspring/", cases[i].name, NULL);
        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/offspring/ends", test_ends);
    g_test_add_data_func("/offspring/next/heard", "", test_next);
    g_test_add_data_func("/offspring/next/unheard", NULL, test_next);
    g_test_add_func("/offspring/lost", test_lost);
    g_test_add_func("/offspring/pid/stranger", test_reused);
    g_test_add_func("/offspring/pid/again", test_again);
    return g_test_run();
}
