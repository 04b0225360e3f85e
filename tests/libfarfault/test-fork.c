/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ff_fork(): what its child sees equals what a child of fork() sees, or a copy, while eight threads
 * write; and what becomes of it when somebody dies.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"

#define LEN (8u << 20)

/* ---- what children do --------------------------------------------------------------------------
 */

typedef enum { HASH, EXIT_7, GIVE_BACK, WAIT_FOR_EVER, READ_GLOBAL, READ_ONE } What;

typedef struct {
    What what;
    char *map;
    size_t len;
} Order;

static int answer_fds[2]; /* from children */
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

/* ---- cases -------------------------------------------------------------------------------------
 */

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
        __atomic_store_n(&w->discard, i % 2, __ATOMIC_RELAXED);
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

/* The child may not see what it would have to. */
static void test_plain_discard(void)
{
    World *w = new_world(W_ANON);

    if (!w) {
        return;
    }
    call(ff_fork_prepare(w->m, NULL));
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
    for (unsigned k = 0; k < W_KINDS; k++) {
        for (unsigned b = 0; b < G_N_ELEMENTS(buffers); b++) {
            size_t page = k == W_ANON_HUGE || k == W_HUGETLB ? HUGEPAGE : 4096;
            cases[k][b] = (Case){k, buffers[b].bytes == 1 ? page : buffers[b].bytes};
            g_autofree char *path =
                g_strdup_printf("/libfarfault/fork/%s/%s", world_kinds[k], buffers[b].name);
            g_test_add_data_func(path, &cases[k][b], test_oracle);
        }
    }
    g_test_add_func("/libfarfault/fork/status", test_status);
    g_test_add_func("/libfarfault/fork/give-back", test_give_back);
    g_test_add_func("/libfarfault/fork/not-registered", test_not_registered);
    g_test_add_func("/libfarfault/fork/killed-child", test_killed_child);
    g_test_add_func("/libfarfault/fork/cancel", test_cancel);
    g_test_add_func("/libfarfault/fork/plain-discard", test_plain_discard);
    g_test_add_func("/libfarfault/fork/address", test_address);
    g_test_add_func("/libfarfault/fork/killed-parent", test_killed_parent);
    return g_test_run();
}
