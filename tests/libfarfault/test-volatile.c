/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volatile ranges: the pins and purges that Android's ashmem promises, page by page; limits,
 * pressure, children. FF_ROUNDS says how long the storms are.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/range.h"

#define PINNERS 3

/* ---- what Android's promises ----------------------------------------------------------------- */

static void test_arguments(void)
{
    FfVolatile *v = plain(4);

    g_assert_cmpint(status(v, 0, 4), ==, 1); /* all of it at first */
    g_assert_cmpint(ff_volatile_pin(v, 1, PS), ==, -EINVAL);
    g_assert_cmpint(ff_volatile_pin(v, 0, PS - 1), ==, -EINVAL);
    g_assert_cmpint(ff_volatile_unpin(v, PS / 2, PS / 2), ==, -EINVAL);
    g_assert_cmpint(pin(v, 0, 5), ==, -EINVAL);
    g_assert_cmpint(unpin(v, 4, 1), ==, -EINVAL);
    g_assert_cmpint(status(v, 5, 0), ==, -EINVAL);
    g_assert_cmpint(ff_volatile_unpin(v, PS, SIZE_MAX - PS + 1), ==, -EINVAL);
    g_assert_cmpint(ff_volatile_pin(v, SIZE_MAX - PS + 1, PS), ==, -EINVAL);
    g_assert_nonnull(strstr(ff_last_error(), "whole pages"));
    g_assert_cmpint(unpin(v, 2, 0), ==, 0); /* to the end */
    g_assert_cmpint(status(v, 0, 2), ==, 1);
    g_assert_cmpint(status(v, 2, 1), ==, 0);
    g_assert_cmpint(status(v, 3, 1), ==, 0);
    g_assert_cmpint(status(v, 1, 2), ==, 0); /* any of them */
    g_assert_cmpint(unpin(v, 2, 2), ==, 0);  /* twice */
    g_assert_cmpint(pin(v, 2, 2), ==, 0);
    g_assert_cmpint(pin(v, 2, 2), ==, 0);
    g_assert_cmpint(status(v, 0, 0), ==, 1);
    ff_volatile_free(v);
    g_assert_cmpint(ff_volatile_new(PS + 1, NULL, NULL, NULL, &v), ==, -EINVAL);
    g_assert_cmpint(ff_volatile_new(0, NULL, NULL, NULL, &v), ==, -EINVAL);
    FfVolatileOptions o = {.size = sizeof(o), .page_size = 3 * PS};
    g_assert_cmpint(ff_volatile_new(12 * PS, NULL, NULL, &o, &v), ==, -EINVAL);
    g_assert_null(v);
    ff_volatile_free(NULL);
}

static void test_purged_once(void)
{
    FfVolatile *v = plain(8);

    fill(v, 0, 8, 7);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 0); /* all are pinned */
    assert_holds(v, 0, 8, 7);
    unpin(v, 4, 4);
    assert_holds(v, 0, 8, 7); /* nothing goes by itself */
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 4 * PS);
    g_assert_cmpuint(bytes_of(v), ==, 4 * PS);
    assert_holds(v, 0, 4, 7);
    assert_holds(v, 4, 4, 0);
    unpin(v, 5, 1); /* after it was purged */
    g_assert_cmpint(pin(v, 2, 2), ==, 0);
    g_assert_cmpint(pin(v, 2, 4), ==, FF_WAS_PURGED); /* half of it was */
    g_assert_cmpint(pin(v, 2, 4), ==, 0);
    g_assert_cmpint(pin(v, 6, 1), ==, FF_WAS_PURGED); /* each page for itself */
    g_assert_cmpint(pin(v, 7, 1), ==, FF_WAS_PURGED);
    g_assert_cmpint(pin(v, 0, 0), ==, 0);
    fill(v, 4, 4, 9);
    unpin(v, 0, 0);
    g_assert_cmpint(pin(v, 0, 0), ==, 0);
    assert_holds(v, 4, 4, 9);
    /* What was written to it unpinned, after it was purged, does not hide that it was. */
    unpin(v, 0, 1);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, PS);
    fill(v, 0, 1, 3);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, PS);
    g_assert_cmpint(pin(v, 0, 1), ==, FF_WAS_PURGED);
    ff_volatile_free(v);
}

static void test_messy(void)
{
    static const char *const expected = "uuuppppuuuuupppppppppuppp";
    FfVolatile *v = plain(25);

    pin(v, 0, 4), unpin(v, 4, 9), pin(v, 13, 3), unpin(v, 16, 1), pin(v, 17, 8);
    pin(v, 2, 5), pin(v, 10, 7);
    unpin(v, 0, 3), unpin(v, 9, 3), unpin(v, 21, 1);
    for (size_t i = 0; i < 25; i++) {
        g_assert_cmpint(status(v, i, 1), ==, expected[i] == 'p');
    }
    fill(v, 0, 25, 1);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 9 * PS);
    for (size_t i = 0; i < 25; i++) {
        assert_holds(v, i, 1, expected[i] == 'p');
        g_assert_cmpint(pin(v, i, 1), ==, expected[i] == 'p' ? 0 : FF_WAS_PURGED);
    }
    ff_volatile_free(v);
}

static void test_oldest_first(void)
{
    FfVolatile *v = plain(64);

    fill(v, 0, 64, 1);
    for (size_t i = 0; i < 64; i++) {
        unpin(v, i * 13 % 64, 1);
    }
    pin(v, 26, 1), unpin(v, 26, 1); /* the third: is the youngest now */
    g_assert_cmpint(ff_volatile_purge(v, 3 * PS - 1), ==, 3 * PS);
    for (size_t i = 0; i < 64; i++) {
        bool old = i == 0 || i == 13 || i == 39;
        assert_holds(v, i, 1, !old);
        g_assert_cmpint(pin(v, i, 1), ==, old ? FF_WAS_PURGED : 0);
    }
    ff_volatile_free(v);
}

/* Others that pin and purge at the same time: what is pinned stays as it is. */
typedef struct {
    FfVolatile *v;
    unsigned index;
    bool *end; /* atomic */
} Pinner;

static gpointer pin_and_write(gpointer opaque)
{
    Pinner *p = opaque;
    uint64_t *page = (uint64_t *)ff_volatile_addr(p->v) + p->index * (PS / 8);
    uint64_t n = 0, lost = 0;

    g_assert_cmpint(pin(p->v, p->index, 1), >=, 0);
    for (page[0] = page[511] = 0; !__atomic_load_n(p->end, __ATOMIC_RELAXED);) {
        g_assert_cmpuint(page[0], ==, n);
        g_assert_cmpuint(page[511], ==, n);
        page[0] = page[511] = ++n;
        unpin(p->v, p->index, 1);
        g_thread_yield();
        if (pin(p->v, p->index, 1)) {
            g_assert_cmpuint(page[0], ==, 0);
            page[0] = page[511] = n;
            lost++;
        }
    }
    return GUINT_TO_POINTER(lost > 0);
}

static void test_pins_hold(void)
{
    FfVolatile *v = plain(PINNERS);
    GThread *threads[PINNERS];
    Pinner pinners[PINNERS];
    bool end = false;
    unsigned lost = 0;

    unpin(v, 0, 0);
    for (unsigned i = 0; i < PINNERS; i++) {
        pinners[i] = (Pinner){v, i, &end};
        threads[i] = g_thread_new("pinner", pin_and_write, &pinners[i]);
    }
    FfVolatileStats stats = {.size = sizeof(stats)};
    while (call(ff_volatile_stats(v, &stats)), stats.purged < 100 * world_rounds(2)) {
        call(ff_volatile_purge(v, ALL));
        call(ff_volatile_purge(v, PS));
    }
    __atomic_store_n(&end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < PINNERS; i++) {
        lost += GPOINTER_TO_UINT(g_thread_join(threads[i]));
    }
    g_assert_cmpuint(lost, >, 0);
    ff_volatile_free(v);
}

static void purge_and_pin(FfVolatile *v)
{
    if (ff_volatile_purge(v, ALL) != 2 * PS || pin(v, 2, 1) != FF_WAS_PURGED) {
        _exit(1);
    }
    fill(v, 0, 1, 5);
}

static void test_child(void)
{
    FfVolatile *v = plain(4);

    fill(v, 0, 4, 1);
    unpin(v, 2, 2);
    run_child(purge_and_pin, v);
    assert_holds(v, 0, 1, 5);
    assert_holds(v, 2, 2, 0);
    g_assert_cmpint(status(v, 2, 1), ==, 1);
    g_assert_cmpint(pin(v, 2, 1), ==, 0); /* the child was told */
    g_assert_cmpint(pin(v, 3, 1), ==, FF_WAS_PURGED);
    ff_volatile_free(v);
}

/* A child that is killed while it has claimed what it purges. */
static void test_child_killed(void)
{
    FfVolatile *v = plain(1024);

    for (unsigned round = 0; round < world_rounds(6); round++) {
        int fds[2];
        char c;
        unpin(v, 0, 0);
        g_assert_cmpint(pipe(fds), ==, 0);
        pid_t parent = getpid(), pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (getppid() == parent) {
                fill(v, 0, 1024, 1);
                ff_volatile_purge(v, ALL);
                if (write(fds[1], "", 1) != 1) {
                    _exit(1);
                }
            }
            _exit(1);
        }
        close(fds[1]);
        for (unsigned i = 0; i < 3; i++) {
            g_assert_cmpint(read(fds[0], &c, 1), ==, 1);
        }
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        int64_t begin = g_get_monotonic_time();
        g_assert_cmpint(pin(v, 0, 0), ==, FF_WAS_PURGED); /* it may be a zombie still */
        /* It may have had 512 pages claimed, and a second is waited for the first one. */
        g_assert_cmpint(g_get_monotonic_time() - begin, <, 10 * G_USEC_PER_SEC);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        close(fds[0]);
        g_assert_cmpint(status(v, 0, 0), ==, 1);
    }
    ff_volatile_free(v);
}

/* A process that punches a hole is killed; or writes a byte there (not -1), and takes its time. */
static bool kill_purger;
static int tell_begun = -1;
static bool *has_punched; /* shared, atomic */

#define SLOW_MS 2500 /* after a second it is looked whether he has died */

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (kill_purger) {
        raise(SIGKILL);
    }
    if (tell_begun >= 0) {
        g_assert_cmpint(write(tell_begun, "b", 1), ==, 1);
        poll(NULL, 0, SLOW_MS);
    }
    int rc = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    if (tell_begun >= 0) {
        __atomic_store_n(has_punched, true, __ATOMIC_RELEASE);
    }
    return rc;
}

/* A child with that number (0: any), in namespaces that are new. -1 and errno. */
static pid_t fork_as(pid_t pid, uint64_t namespaces)
{
    struct clone_args args = {.flags = namespaces,
                              .exit_signal = SIGCHLD,
                              .set_tid = pid ? (uintptr_t)&pid : 0,
                              .set_tid_size = pid ? 1 : 0};
    pid_t rc = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

    if (rc == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return rc;
}

/* It has died, and somebody else has its number. */
static void test_number_again(void)
{
    FfVolatile *v = plain(4);

    unpin(v, 0, 0);
    pid_t pid = fork();
    if (pid == 0) {
        kill_purger = true;
        fill(v, 0, 4, 1);
        ff_volatile_purge(v, ALL);
        _exit(1);
    }
    int64_t begin = g_get_monotonic_time();
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    poll(NULL, 0, 20); /* a start is known to a tick of 10 ms */
    pid_t again = fork_as(pid, 0);
    if (again == 0) {
        for (;;) {
            pause();
        }
    }
    if (again < 0) {
        g_test_skip("this needs the right to choose a process's number");
    } else {
        g_assert_cmpint(again, ==, pid);
        alarm(20); /* in place of for ever */
        g_assert_cmpint(pin(v, 0, 0), ==, FF_WAS_PURGED);
        alarm(0);
        g_assert_cmpint(g_get_monotonic_time() - begin, <, 10 * G_USEC_PER_SEC);
        kill(again, SIGKILL);
        g_assert_cmpint(waitpid(again, NULL, 0), ==, again);
    }
    ff_volatile_free(v);
}

/* It lives, but something about it is not what it was, or not the same everywhere. */

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define NO_RIGHT 77

static void purge_slowly(FfVolatile *v, int to)
{
    tell_begun = to;
    fill(v, 0, 4, 1);
    ff_volatile_purge(v, ALL);
    _exit(0);
}

/* What is pinned is not in the middle of a purge. FALSE: there is none (NO_RIGHT). */
static bool pin_during_purge(FfVolatile *v, int from)
{
    char byte;

    g_assert_cmpint(read(from, &byte, 1), ==, 1);
    if (byte != 'b') {
        return false;
    }
    g_assert_cmpint(pin(v, 0, 0), ==, FF_WAS_PURGED);
    g_assert_true(__atomic_load_n(has_punched, __ATOMIC_ACQUIRE));
    return true;
}

static void assert_ended(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* The number of the one that made the range, and another start: what CRIU restores. */
static int in_another_life(const int *begun)
{
    int made[2], gone[2];
    char byte;

    g_assert_cmpint(pipe(made) + pipe(gone), ==, 0);
    pid_t maker = fork();
    if (maker == 0) {
        FfVolatile *v = plain(4);
        pid_t old = getpid(), other;
        unpin(v, 0, 0);
        if (fork() > 0) {
            _exit(0);
        }
        g_assert_cmpint(read(gone[0], &byte, 1), ==, 1);
        poll(NULL, 0, 20); /* a start is known to a tick of 10 ms */
        other = fork_as(old, 0);
        if (other == 0) {
            purge_slowly(v, begun[1]);
        }
        if (other > 0) {
            pin_during_purge(v, begun[0]);
            assert_ended(other);
        }
        g_assert_cmpint(write(made[1], other < 0 ? "n" : "y", 1), ==, 1);
        _exit(0);
    }
    assert_ended(maker);
    g_assert_cmpint(write(gone[1], "g", 1), ==, 1);
    close(made[1]);
    int n = (int)read(made[0], &byte, 1);
    g_assert_cmpint(n, ==, 1); /* else it has failed */
    close(made[0]);
    close(gone[0]);
    close(gone[1]);
    return byte == 'n' ? NO_RIGHT : 0;
}

/* The process that purges has other numbers: one that nobody has here. */
static int in_other_pids(const int *begun)
{
    FfVolatile *v = plain(4);
    pid_t nobody = fork();

    if (nobody == 0) {
        _exit(0);
    }
    assert_ended(nobody);
    unpin(v, 0, 0);
    pid_t pid = fork_as(0, CLONE_NEWPID);
    if (pid == 0) {
        pid_t purger = fork_as(nobody, 0);
        if (purger == 0) {
            purge_slowly(v, begun[1]);
        }
        assert_ended(purger);
        _exit(0);
    }
    if (pid > 0) {
        pin_during_purge(v, begun[0]);
        assert_ended(pid);
    }
    ff_volatile_free(v);
    return pid < 0 ? NO_RIGHT : 0;
}

/* The one that waits has. */
static int seen_from_other_pids(const int *begun)
{
    FfVolatile *v = plain(4);

    unpin(v, 0, 0);
    pid_t waiter = fork_as(0, CLONE_NEWPID);
    if (waiter == 0) {
        pin_during_purge(v, begun[0]);
        _exit(0);
    }
    if (waiter > 0) {
        pid_t purger = fork();
        if (purger == 0) {
            purge_slowly(v, begun[1]);
        }
        assert_ended(waiter);
        assert_ended(purger);
    }
    ff_volatile_free(v);
    return waiter < 0 ? NO_RIGHT : 0;
}

/* The process that purges has another time. */
static int in_another_time(const int *begun)
{
    static const char offset[] = "boottime 100000 0";
    FfVolatile *v = plain(4);

    unpin(v, 0, 0);
    pid_t pid = fork(); /* as its children are all there */
    if (pid == 0) {
        int fd = unshare(CLONE_NEWTIME) < 0
                     ? -1
                     : open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, offset, strlen(offset)) < 0) {
            _exit(write(begun[1], "n", 1) == 1 ? 0 : 1);
        }
        pid_t purger = fork();
        if (purger == 0) {
            purge_slowly(v, begun[1]);
        }
        assert_ended(purger);
        _exit(0);
    }
    bool could = pin_during_purge(v, begun[0]);
    assert_ended(pid);
    ff_volatile_free(v);
    return could ? 0 : NO_RIGHT;
}

typedef int (*Purger)(const int *begun);

static const Purger another_life = in_another_life, other_pids = in_other_pids,
                    from_other_pids = seen_from_other_pids, another_time = in_another_time;

static void test_purger_lives(gconstpointer how)
{
    const Purger *purger = how;
    int begun[2];

    g_assert_cmpint(pipe(begun), ==, 0);
    has_punched = mmap(NULL, PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if ((*purger)(begun) == NO_RIGHT) {
        g_test_skip("this needs the rights of root");
    }
    munmap(has_punched, PS);
    close(begun[0]);
    close(begun[1]);
}

/* ---- limits, pressure ------------------------------------------------------------------------ */

/* Looked at when something is unpinned. */
static void test_limit(void)
{
    FfVolatile *v = plain(1024);

    call(ff_volatile_set_limit(v, 64 * PS));
    for (size_t i = 0; i < 1024; i++) {
        fill(v, i, 1, 1);
        unpin(v, i, 1);
        g_assert_cmpuint(i < 80 ? 0 : bytes_of(v), <=, 72 * PS);
    }
    ff_volatile_free(v);
}

static void wait_pressure(FfVolatile *v, uint64_t n)
{
    FfVolatileStats stats = {.size = sizeof(stats)};

    do {
        g_usleep(1000); /* it has no event */
        call(ff_volatile_stats(v, &stats));
    } while (stats.purged < n);
    g_assert_cmpuint(stats.pressure, >, 0);
}

static void test_watch(void)
{
    FfVolatile *v = plain(64);
    uint64_t one = 1;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    fill(v, 0, 64, 1);
    unpin(v, 0, 32);
    call(ff_volatile_watch(v, fd, POLLIN));
    g_assert_cmpint(ff_volatile_watch(v, fd, POLLIN), ==, -EBUSY);
    g_assert_cmpuint(bytes_of(v), ==, 64 * PS);
    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
    wait_pressure(v, 16); /* half of 32 */
    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
    wait_pressure(v, 24);
    g_assert_cmpuint(bytes_of(v), ==, 40 * PS);
    ff_volatile_free(v);
    close(fd);
}

/* The kernel's own events of a control group, by the same file system as memory.events. */
static void test_watch_cgroup(void)
{
    const char *roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    g_autofree char *dir = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(roots) && !dir; i++) {
        g_autofree char *v2 = g_build_filename(roots[i], "cgroup.controllers", NULL);
        if (g_file_test(v2, G_FILE_TEST_EXISTS)) {
            dir = g_strdup_printf("%s/farfault-test-%d", roots[i], getpid());
        }
    }
    if (!dir || mkdir(dir, 0755) < 0) {
        g_test_skip("no control group (version 2) can be made here");
        return;
    }
    g_autofree char *events = g_build_filename(dir, "cgroup.events", NULL);
    g_autofree char *procs = g_build_filename(dir, "cgroup.procs", NULL);
    FfVolatile *v = plain(64);
    int fds[2], fd = open(events, O_RDONLY | O_CLOEXEC), st;
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(read(fd, fds, sizeof(fds)), >, 0); /* from now on */
    fill(v, 0, 64, 1);
    unpin(v, 0, 32);
    call(ff_volatile_watch(v, fd, POLLPRI));
    g_assert_cmpint(pipe(fds), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[1]);
        _exit(read(fds[0], &st, 1) < 0);
    }
    g_autofree char *text = g_strdup_printf("%d", pid);
    int to = open(procs, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(write(to, text, strlen(text)), ==, (ssize_t)strlen(text));
    close(to);
    wait_pressure(v, 16);
    close(fds[1]);
    close(fds[0]);
    g_assert_cmpint(waitpid(pid, &st, 0), ==, pid);
    wait_pressure(v, 24); /* it is empty again */
    ff_volatile_free(v);
    close(fd);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

static void test_watch_system(void)
{
    FfVolatile *v = plain(4);
    int rc = ff_volatile_watch(v, -1, 0);

    if (rc == -EPERM || rc == -ENOTSUP || rc == -EACCES) {
        g_test_skip(ff_last_error());
    } else {
        call(rc);
    }
    ff_volatile_free(v);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/volatile/arguments", test_arguments);
    g_test_add_func("/libfarfault/volatile/purged-once", test_purged_once);
    g_test_add_func("/libfarfault/volatile/messy", test_messy);
    g_test_add_func("/libfarfault/volatile/oldest-first", test_oldest_first);
    g_test_add_func("/libfarfault/volatile/pins-hold", test_pins_hold);
    g_test_add_func("/libfarfault/volatile/child", test_child);
    g_test_add_func("/libfarfault/volatile/child-killed", test_child_killed);
    g_test_add_func("/libfarfault/volatile/number-again", test_number_again);
    g_test_add_data_func("/libfarfault/volatile/purger-restored", &another_life, test_purger_lives);
    g_test_add_data_func("/libfarfault/volatile/purger-other-pids", &other_pids, test_purger_lives);
    g_test_add_data_func("/libfarfault/volatile/purger-seen-from-other-pids", &from_other_pids,
                         test_purger_lives);
    g_test_add_data_func("/libfarfault/volatile/purger-other-time", &another_time,
                         test_purger_lives);
    g_test_add_func("/libfarfault/volatile/limit", test_limit);
    g_test_add_func("/libfarfault/volatile/watch", test_watch);
    g_test_add_func("/libfarfault/volatile/watch-cgroup", test_watch_cgroup);
    g_test_add_func("/libfarfault/volatile/watch-system", test_watch_system);
    return g_test_run();
}
