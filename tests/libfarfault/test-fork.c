/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ff_fork(): what its child sees equals what a child of fork() sees, or a copy, while eight threads
 * write; and what becomes of it when somebody dies.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"

#define LEN (8u << 20)

/* ---- what children do ------------------------------------------------------------------------ */

typedef enum {
    HASH,
    HASH_LATER,
    EXIT_7,
    GIVE_BACK,
    WAIT_FOR_EVER,
    READ_GLOBAL,
    READ_ONE,
    EXEC
} What;

typedef struct {
    What what;
    char *map;
    size_t len;
} Order;

static int answer_fds[2]; /* from children */
static int go_fds[2];     /* to a child */
static int global = 1;

static int child(void *opaque, const void *arg, size_t len)
{
    Order order;
    uint64_t result = 0;

    if (len != sizeof(order) || opaque != &global) {
        return 99;
    }
    memcpy(&order, arg, sizeof(order));
    switch (order.what) {
    case HASH_LATER:
        if (read(go_fds[0], &result, 1) != 1) {
            return 1;
        }
        /* fall through */
    case HASH:
        result = world_hash(order.map, order.len);
        break;
    case EXIT_7:
        return 7;
    case GIVE_BACK:
        result = (uint64_t)order.map[0] << 8;
        madvise(order.map, 4096, MADV_DONTNEED);
        result |= (uint64_t)order.map[0] | (uint64_t)order.map[4096] << 16;
        break;
    case WAIT_FOR_EVER:
        result = (uint64_t)order.map[0];
        if (write(answer_fds[1], &result, sizeof(result)) != sizeof(result)) {
            return 1;
        }
        for (;;) {
            pause();
        }
    case READ_GLOBAL:
        result = (uint64_t)global;
        break;
    case READ_ONE:
        result = (uint64_t)order.map[order.len - 1];
        break;
    case EXEC:
        execl("/bin/sh", "sh", "-c", "exit 3", NULL);
        return 1;
    }
    return write(answer_fds[1], &result, sizeof(result)) == sizeof(result) ? 0 : 1;
}

static uint64_t answer(void)
{
    uint64_t result;

    g_assert_cmpint(read(answer_fds[0], &result, sizeof(result)), ==, sizeof(result));
    return result;
}

/* A world with a template. NULL: skipped. */
static World *new_world(WorldKind kind)
{
    World *w = world_new(kind, LEN);

    if (w) {
        call(ff_template_start(w->m, child, &global));
        memset(w->map, 5, w->len / 2); /* after it */
    }
    return w;
}

static pid_t fork_now(World *w, What what)
{
    Order order = {what, w->map, w->len};
    pid_t pid = ff_fork(w->m, &order, sizeof(order));

    call(pid);
    return pid;
}

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct {
    WorldKind kind;
    size_t buffer;
} Case;

static void test_oracle(gconstpointer p)
{
    const Case *c = p;
    World *w = new_world(c->kind);
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = c->buffer};
    unsigned rounds = world_rounds(2);

    if (!w) {
        return;
    }
    world_start_writers(w);
    world_wait_writes(w, 1000);
    for (unsigned i = 0; i < rounds; i++) {
        int status;
        __atomic_store_n(&w->discard, i % 2 ? W_DISCARD : W_KEEP, __ATOMIC_RELAXED);
        call(ff_fork_prepare(w->m, &options));
        world_park(w);
        WorldFork forked = world_fork(w);
        uint64_t hash = world_hash(w->map, w->len);
        fork_now(w, HASH);
        world_release(w);
        call(ff_fork_wait(w->m, &status, NULL));
        g_assert_cmpint(status, ==, 0);
        g_assert_cmphex(answer(), ==, hash);
        uint64_t seen = world_forked_hash(forked);
        g_assert_true(w->fd >= 0 || seen == hash);
    }
    world_free(w);
}

static void test_status(void)
{
    World *w = new_world(W_ANON);
    FfSnapshotStats st = {.size = sizeof(st)};
    int status;

    if (!w) {
        return;
    }
    assert_says(ff_fork(w->m, NULL, 0), -EINVAL, "ff_fork_prepare");
    assert_says(ff_template_start(w->m, child, NULL), -EBUSY, "already");
    call(ff_fork_prepare(w->m, NULL));
    pid_t pid = fork_now(w, EXIT_7);
    g_assert_cmpint(pid, >, 0);
    call(ff_fork_wait(w->m, &status, &st));
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    g_assert_cmpuint(st.pages, ==, LEN / 4096);
    call(ff_fork_prepare(w->m, NULL)); /* that is not called, or in another way */
    call(ff_snapshot_cancel(w->m));
    call(ff_fork_prepare(w->m, NULL));
    int fd = world_file();
    call(ff_snapshot_begin(w->m));
    call(ff_snapshot_save_fd(w->m, fd));
    call(ff_snapshot_wait(w->m, NULL));
    close(fd);
    call(ff_fork_prepare(w->m, NULL)); /* and dropped with it */
    world_free(w);
}

static void test_give_back(void)
{
    World *w = new_world(W_ANON);
    int status;

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, GIVE_BACK);
    memset(w->map, 9, LEN);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    g_assert_cmphex(answer(), ==, 0x50500);
    world_free(w);
}

/* What is not a region is as it was when the template was started. */
static void test_not_registered(void)
{
    int status;

    global = 1;
    World *w = new_world(W_ANON);
    if (!w) {
        return;
    }
    global = 2;
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, READ_GLOBAL);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_cmpuint(answer(), ==, 1);
    world_free(w);
}

static void test_killed_child(void)
{
    World *w = new_world(W_ANON);
    int status;

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    pid_t pid = fork_now(w, WAIT_FOR_EVER);
    g_assert_cmpuint(answer(), ==, 5);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    memset(w->map, 1, LEN); /* whether that is known by now or not */
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    world_free(w);
}

static void test_cancel(void)
{
    World *w = new_world(W_ANON);

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, WAIT_FOR_EVER);
    g_assert_cmpuint(answer(), ==, 5);
    call(ff_snapshot_cancel(w->m));
    assert_says(ff_fork_wait(w->m, NULL, NULL), -ECANCELED, "cancelled");
    memset(w->map, 1, LEN);
    call(ff_fork_prepare(w->m, NULL)); /* the template is as before */
    fork_now(w, WAIT_FOR_EVER);
    g_assert_cmpuint(answer(), ==, 1);
    world_free(w); /* cancels */
}

/* The child sees what it was. */
static void test_plain_discard(gconstpointer p)
{
    World *w = new_world(((const Case *)p)->kind);
    int status;

    if (!w) {
        return;
    }
    uint64_t hash = world_hash(w->map, LEN);
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, HASH_LATER);
    g_assert_cmpint(madvise(w->map, LEN, w->fd < 0 ? MADV_DONTNEED : MADV_REMOVE), ==, 0);
    g_assert_cmpint(write(go_fds[1], "", 1), ==, 1);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    g_assert_cmphex(answer(), ==, hash);
    world_free(w);
}

/* The child may not see what it would have to, as there was no room for it. */
static void test_discard_without_room(void)
{
    FfSnapshotOptions options = {.size = sizeof(options)};
    World *w = new_world(W_ANON);

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, &options));
    fork_now(w, WAIT_FOR_EVER);
    g_assert_cmpuint(answer(), ==, 5);
    g_assert_cmpint(madvise(w->map + LEN - 4096, 4096, MADV_DONTNEED), ==, 0);
    assert_says(ff_fork_wait(w->m, NULL, NULL), -EIO, "1 pages were given back");
    world_free(w);
}

/* The address was used by something else when the template was started. */
static void test_address(void)
{
    World *w = world_new(W_ANON, LEN);

    if (!w) {
        return;
    }
    char *map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(map != MAP_FAILED);
    call(ff_template_start(w->m, child, &global));
    call(ff_region_add(w->m, map, LEN, -1, 0));
    assert_says(ff_fork_prepare(w->m, NULL), -EEXIST, "before ff_template_start()");
    call(ff_region_remove(w->m, map, LEN));
    munmap(map, LEN);
    call(ff_fork_prepare(w->m, NULL));
    int status;
    fork_now(w, READ_ONE);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_cmpuint(answer(), ==, 0);
    world_free(w);
}

static int send_error; /* of the next message to a child that runs; 0: none */

/* In front of libc's. */
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    if (send_error && msg->msg_iov->iov_len == sizeof(Order) + 1) {
        errno = send_error;
        return -1;
    }
    return syscall(SYS_sendmsg, fd, msg, flags);
}

/* The child that was made hears nothing: no child, and no snapshot that is under way. */
static void test_not_told(void)
{
    World *w = new_world(W_ANON);
    Order order = {0};

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    send_error = ENOBUFS;
    assert_says(ff_fork(w->m, &order, sizeof(order)), -ENOBUFS, "cannot be told");
    send_error = 0;
    memset(w->map, 6, LEN);
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, EXIT_7);
    call(ff_fork_wait(w->m, NULL, NULL));
    world_free(w);
}

/* The program ignores SIGCHLD: its children are not waited for, the template's are. */
static void test_ignored_sigchld(void)
{
    int status = -1;

    signal(SIGCHLD, SIG_IGN);
    World *w = new_world(W_ANON);
    if (w) {
        call(ff_fork_prepare(w->m, NULL));
        fork_now(w, EXIT_7);
        call(ff_fork_wait(w->m, &status, NULL));
        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        world_free(w);
    }
    signal(SIGCHLD, SIG_DFL);
}

/* A ^C at the terminal is for the program, which may have its own mind about it. */
static void test_signals(void)
{
    g_autofree char *path = NULL, *text = NULL;
    World *w = new_world(W_ANON);
    int status = -1, template;

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    path = g_strdup_printf("/proc/%d/status", fork_now(w, WAIT_FOR_EVER));
    g_assert_cmpuint(answer(), ==, 5);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(sscanf(strstr(text, "PPid:"), "PPid: %d", &template), ==, 1);
    g_assert_cmpint(kill(template, SIGINT), ==, 0);
    g_assert_cmpint(kill(template, SIGTERM), ==, 0);
    call(ff_snapshot_cancel(w->m));
    ff_fork_wait(w->m, NULL, NULL);
    call(ff_fork_prepare(w->m, NULL));
    fork_now(w, EXIT_7);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    world_free(w);
}

/* A child that has become another program, while the parent writes. */
static void test_exec(void)
{
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = 4096};
    World *w = new_world(W_ANON);
    int status;

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, &options));
    fork_now(w, EXEC);
    memset(w->map, 1, LEN);
    call(ff_fork_wait(w->m, &status, NULL));
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    world_free(w);
}

/* What the program unmaps ahead of the moment is no hole in which the child waits for ever. */
static void test_unmapped_before(gconstpointer p)
{
    World *w = new_world(GPOINTER_TO_UINT(p));

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
    g_assert_cmpint(munmap(w->map + LEN / 2, LEN / 2), ==, 0);
    fork_now(w, READ_ONE);
    call(ff_fork_wait(w->m, NULL, NULL));
    g_assert_cmpuint(answer(), ==, 0);
    world_free(w);
}

static FfMemory *to_cancel; /* at the next fork() */

static void cancel_it(void)
{
    if (to_cancel) {
        call(ff_snapshot_cancel(to_cancel));
    }
    to_cancel = NULL;
}

/* While the template is made there is no snapshot to cancel, and the next one is not meant. */
static void test_early_cancel(void)
{
    World *w = world_new(W_ANON, LEN);

    if (!w) {
        return;
    }
    g_assert_cmpint(pthread_atfork(cancel_it, NULL, NULL), ==, 0);
    to_cancel = w->m;
    call(ff_template_start(w->m, child, &global));
    g_assert_null(to_cancel);
    call(ff_snapshot_prepare(w->m, NULL));
    world_free(w);
}

static gpointer cancel_once(gpointer p)
{
    call(ff_snapshot_cancel(p));
    return NULL;
}

/* A cancel at any moment of ff_fork(). */
static void test_cancel_races(void)
{
    World *w = new_world(W_ANON);
    Order order = {EXIT_7, NULL, 0};

    if (!w) {
        return;
    }
    for (unsigned i = 0; i < 20; i++) {
        call(ff_fork_prepare(w->m, NULL));
        GThread *thread = g_thread_new("cancel", cancel_once, w->m);
        pid_t pid = ff_fork(w->m, &order, sizeof(order));
        if (pid < 0) {
            if (pid != -EINVAL && pid != -ECANCELED && pid != -EBUSY) {
                g_error("%d: %s", pid, ff_last_error());
            }
        } else {
            int rc = ff_fork_wait(w->m, NULL, NULL);
            g_assert_true(rc == 0 || rc == -ECANCELED);
        }
        g_thread_join(thread);
        memset(w->map, 1, LEN);
        ff_snapshot_cancel(w->m);
    }
    world_free(w);
}

static gpointer fork_all_the_time(gpointer p)
{
    const World *w = p;

    while (!__atomic_load_n(&w->end, __ATOMIC_RELAXED)) {
        world_forked_hash(world_fork(w));
    }
    return NULL;
}

/* fork() and ff_fork() at once. */
static void test_both(void)
{
    World *w = new_world(W_ANON);
    unsigned rounds = world_rounds(3);

    if (!w) {
        return;
    }
    world_start_writers(w);
    GThread *thread = g_thread_new("fork", fork_all_the_time, w);
    for (unsigned i = 0; i < rounds; i++) {
        call(ff_fork_prepare(w->m, NULL));
        world_park(w);
        uint64_t hash = world_hash(w->map, w->len);
        fork_now(w, HASH);
        world_release(w);
        call(ff_fork_wait(w->m, NULL, NULL));
        g_assert_cmphex(answer(), ==, hash);
    }
    __atomic_store_n(&w->end, true, __ATOMIC_RELAXED);
    g_thread_join(thread);
    world_free(w);
}

/* Its child ends with a program that is killed. */
static void test_killed_parent(void)
{
    int fds[2];
    pid_t self = getpid(), grandchild;

    g_assert_cmpint(pipe(fds), ==, 0);
    World *possible = world_new(W_ANON, LEN);
    if (!possible) {
        return;
    }
    world_free(possible);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        World *w = getppid() == self ? new_world(W_ANON) : NULL;
        if (w) {
            call(ff_fork_prepare(w->m, NULL));
            grandchild = fork_now(w, WAIT_FOR_EVER);
            if (write(fds[1], &grandchild, sizeof(grandchild)) == sizeof(grandchild)) {
                pause();
            }
        }
        _exit(1);
    }
    g_assert_cmpint(read(fds[0], &grandchild, sizeof(grandchild)), ==, sizeof(grandchild));
    g_assert_cmpuint(answer(), ==, 5);
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, grandchild, 0), .events = POLLIN};
    g_assert_cmpint(pfd.fd, >=, 0);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(poll(&pfd, 1, 60000), ==, 1);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    close(pfd.fd);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        size_t bytes;
    } buffers[] = {{"0", 0}, {"1-page", 1}, {"64M", 64u << 20}};
    static Case cases[W_KINDS][G_N_ELEMENTS(buffers)];

    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(pipe(answer_fds), ==, 0);
    g_assert_cmpint(pipe(go_fds), ==, 0);
    for (unsigned k = 0; k < W_KINDS; k++) {
        for (unsigned b = 0; b < G_N_ELEMENTS(buffers); b++) {
            size_t page = k == W_ANON_HUGE || k == W_HUGETLB ? HUGEPAGE : 4096;
            cases[k][b] = (Case){k, buffers[b].bytes == 1 ? page : buffers[b].bytes};
            g_autofree char *path =
                g_strdup_printf("/libfarfault/fork/%s/%s", world_kinds[k], buffers[b].name);
            g_test_add_data_func(path, &cases[k][b], test_oracle);
        }
        g_autofree char *path =
            g_strdup_printf("/libfarfault/fork/plain-discard/%s", world_kinds[k]);
        g_test_add_data_func(path, &cases[k][2], test_plain_discard);
    }
    g_test_add_func("/libfarfault/fork/status", test_status);
    g_test_add_func("/libfarfault/fork/give-back", test_give_back);
    g_test_add_func("/libfarfault/fork/not-registered", test_not_registered);
    g_test_add_func("/libfarfault/fork/killed-child", test_killed_child);
    g_test_add_func("/libfarfault/fork/cancel", test_cancel);
    g_test_add_func("/libfarfault/fork/discard-without-room", test_discard_without_room);
    g_test_add_func("/libfarfault/fork/address", test_address);
    g_test_add_func("/libfarfault/fork/killed-parent", test_killed_parent);
    g_test_add_func("/libfarfault/fork/not-told", test_not_told);
    g_test_add_func("/libfarfault/fork/ignored-sigchld", test_ignored_sigchld);
    g_test_add_func("/libfarfault/fork/signals", test_signals);
    g_test_add_func("/libfarfault/fork/exec", test_exec);
    g_test_add_data_func("/libfarfault/fork/unmapped-before/anon", GUINT_TO_POINTER(W_ANON),
                         test_unmapped_before);
    g_test_add_data_func("/libfarfault/fork/unmapped-before/anon-2M", GUINT_TO_POINTER(W_ANON_HUGE),
                         test_unmapped_before);
    g_test_add_func("/libfarfault/fork/early-cancel", test_early_cancel);
    g_test_add_func("/libfarfault/fork/cancel-races", test_cancel_races);
    g_test_add_func("/libfarfault/fork/both", test_both);
    return g_test_run();
}
