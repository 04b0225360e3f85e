/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What programs do wrong, or run short of: each is an error with words, and ends nothing. Cases
 * that set limits are in processes of their own.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"
#include "tests/libfarfault/range.h"

#define LEN ((size_t)4 << 20)
#define USER 65534

/* A region; NULL: the test is skipped. */
static FfMemory *memory(void)
{
    FfMemory *m = NULL;
    int rc = ff_memory_new(0, &m);

    if (rc == -EPERM || rc == -ENOSYS) {
        g_test_skip(ff_last_error());
        return NULL;
    }
    g_assert_cmpint(rc, ==, 0);
    char *map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(map != MAP_FAILED);
    memset(map, 5, LEN);
    g_assert_cmpint(ff_region_add(m, map, LEN, -1, 0), ==, 0);
    return m;
}

/* Waits for a child that must end by itself, with 0. */
static void expect_child(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void limit_memory(uint64_t bytes)
{
    const struct rlimit r = {bytes, bytes};

    g_assert_cmpint(setrlimit(RLIMIT_AS, &r), ==, 0);
}

/* A buffer that is larger than memory: its tables are, too. */
static void test_no_memory(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    g_test_skip("a sanitizer's shadow is larger than such a limit");
    return;
#endif
    FfMemory *possible = memory();

    if (!possible) {
        return;
    }
    ff_memory_free(possible);
    pid_t pid = fork();
    if (pid == 0) {
        FfMemory *m = memory();
        FfSnapshotOptions o = {.size = sizeof(o), .buffer = (size_t)1 << 40};

        limit_memory(1ull << 30);
        int rc = ff_snapshot_prepare(m, &o);
        if (rc != -ENOMEM) {
            g_printerr("%d: %s\n", rc, ff_last_error());
        }
        _exit(rc != -ENOMEM);
    }
    expect_child(pid);
}

/* ---- templates ------------------------------------------------------------------------------- */

static int do_nothing(void *opaque, const void *arg, size_t len)
{
    return 0;
}

/* The only child of this process. */
static pid_t only_child(void)
{
    g_autoptr(GDir) tasks = g_dir_open("/proc/self/task", 0, NULL);
    const char *name;
    pid_t pid = 0;

    while ((name = g_dir_read_name(tasks))) {
        g_autofree char *path = g_strdup_printf("/proc/self/task/%s/children", name);
        g_autofree char *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL) && atoi(text)) {
            g_assert_cmpint(pid, ==, 0);
            pid = atoi(text);
        }
    }
    g_assert_cmpint(pid, >, 0);
    return pid;
}

static void test_dead_template(void)
{
    FfMemory *m = memory();
    int status = -1;

    if (!m) {
        return;
    }
    g_assert_cmpint(ff_template_start(m, do_nothing, NULL), ==, 0);
    g_assert_cmpint(ff_template_start(m, do_nothing, NULL), ==, -EBUSY);
    g_assert_cmpint(kill(only_child(), SIGKILL), ==, 0);
    g_assert_cmpint(ff_fork_prepare(m, NULL), <, 0); /* it is noticed */
    ff_snapshot_cancel(m);
    g_assert_cmpint(ff_template_start(m, do_nothing, NULL), ==, 0);
    g_assert_cmpint(ff_fork_prepare(m, NULL), ==, 0);
    g_assert_cmpint(ff_fork(m, NULL, 0), >, 0);
    g_assert_cmpint(ff_fork_wait(m, &status, NULL), ==, 0);
    g_assert_cmpint(status, ==, 0);
    ff_memory_free(m);
}

/* The kernel sends root's process no signal when a parent that is another user's by then ends. */
static void test_privileges_dropped(void)
{
    FfMemory *possible = geteuid() == 0 ? memory() : NULL;
    pid_t template = 0;
    int fds[2];

    if (!possible) {
        g_test_skip("needs root");
        return;
    }
    ff_memory_free(possible);
    g_assert_cmpint(pipe(fds), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        FfMemory *m = memory();
        bool ok = ff_template_start(m, do_nothing, NULL) == 0;
        pid_t its = only_child();

        ok =
            ok && syscall(SYS_setresgid, USER, USER, USER) == 0 && setresuid(USER, USER, USER) == 0;
        ok = ok && write(fds[1], &its, sizeof(its)) == sizeof(its);
        _exit(!ok);
    }
    close(fds[1]);
    g_assert_cmpint(read(fds[0], &template, sizeof(template)), ==, sizeof(template));
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, template, 0), .events = POLLIN};
    expect_child(pid);
    /* No pidfd: it has ended. */
    bool ended = pfd.fd < 0 || poll(&pfd, 1, 10000) == 1;
    if (!ended) {
        kill(template, SIGKILL);
    }
    g_assert_true(ended);
    close(fds[0]);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static void test_watch(void)
{
    FfVolatile *v = plain(4);
    int fds[2];

    g_assert_cmpint(ff_volatile_watch(v, 9999, POLLIN), ==, -EBADF);
    g_assert_nonnull(strstr(ff_last_error(), "ff_volatile_watch: 9999: "));
    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(ff_volatile_watch(v, fds[0], POLLIN), ==, 0);
    ff_volatile_free(v);
    close(fds[0]);
    close(fds[1]);
}

static int says_one(void *opaque, size_t page, void *buf)
{
    return page == 1 ? 1 : 0;
}

/* What it has left in the buffer is not shown. */
static void test_positive(void)
{
    FfVolatile *v = NULL;
    int rc = ff_volatile_new(4 * PS, says_one, NULL, NULL, &v);

    if (rc < 0) {
        g_test_skip(ff_last_error());
        return;
    }
    const char *p = ff_volatile_addr(v);
    g_assert_cmpint(p[0], ==, 0);
    g_assert_true(world_is_bus(p + PS));
    ff_volatile_free(v);
}

static int load_zeros(void *opaque, uint64_t block, void *buf)
{
    memset(buf, 0, 65536);
    return 0;
}

static int one_too_many(void *opaque, uint64_t block, const void *buf)
{
    return 1;
}

/* Nor is what was not stored taken for stored. */
static void test_positive_store(void)
{
    const FfArrayFile file = {.size = sizeof(file), .load = load_zeros, .store = one_too_many};
    FfArray *a = NULL;
    void *at;
    int rc = ff_array_new(LEN, &file, NULL, NULL, &a);

    if (rc == -EPERM) {
        g_test_skip(ff_last_error());
        return;
    }
    g_assert_cmpint(rc, ==, 0);
    g_assert_cmpint(ff_array_map(a, 0, 0, &at), ==, 0);
    *(char *)at = 1;
    g_assert_cmpint(ff_array_commit(a), ==, -EIO);
    ff_array_free(a);
}

static void test_spill(void)
{
    const FfArrayFile file = {.size = sizeof(file), .load = load_zeros};
    FfArrayOptions o = {.size = sizeof(o), .limit = 1 << 20, .spill = "/nowhere/at-all"};
    FfArray *a = NULL;
    int rc = ff_array_new(LEN, &file, NULL, &o, &a);

    if (rc == -EPERM) {
        g_test_skip(ff_last_error());
        return;
    }
    g_assert_cmpint(rc, ==, -ENOENT);
    g_assert_nonnull(strstr(ff_last_error(), "spill: /nowhere/at-all: No such file"));
    g_assert_null(a);
    o.spill = g_get_tmp_dir();
    g_assert_cmpint(ff_array_new(LEN, &file, NULL, &o, &a), ==, 0);
    ff_array_free(a);
}

/* The kernel's error is not taken for the library's own of the same number. */
static void test_file_size(void)
{
    g_autofree char *dir = g_dir_make_tmp("misuse-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    pid_t pid = fork();

    if (pid == 0) {
        const struct rlimit r = {1 << 20, 1 << 20};
        FfArray *a = NULL;

        setrlimit(RLIMIT_FSIZE, &r);
        int rc = ff_array_open(path, LEN, NULL, &a);
        bool ok =
            rc == -EFBIG && strstr(ff_last_error(), "File too large") && access(path, F_OK) < 0;
        _exit(rc == -EPERM || ok ? 0 : 1);
    }
    expect_child(pid);
    g_assert_false(g_file_test(log, G_FILE_TEST_EXISTS));
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* What a child of test_no_signal() does: files are made before, and LIMIT ends them. */
static int be_limited(const char *path)
{
    const struct rlimit limit = {1 << 20, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    const FfArrayFile file = {.size = sizeof(file), .load = load_zeros};
    const FfArrayOptions large = {.size = sizeof(large), .block_size = 2 << 20};
    g_autofree char *chunks = g_strconcat(path, ".chunks", NULL);
    g_autofree char *saved = g_strconcat(path, ".saved", NULL);
    FfMemory *m = memory();
    FfArray *a, *folder, *other;
    FfVolatile *v;
    char *at, *there;
    sigset_t xfsz, pending;
    int fd = world_file();

    call(ff_array_open(path, LEN, NULL, &a));
    call(ff_array_map(a, 0, 0, (void **)(void *)&at));
    call(ff_array_open_chunks(chunks, LEN, &large, &folder));
    call(ff_array_map(folder, 0, 0, (void **)(void *)&there));
    memset(at, 1, LEN);
    memset(there, 1, LEN);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_says(ff_array_commit(a), -EFBIG, "File too large");
    assert_says(ff_array_commit(folder), -EFBIG, "File too large");
    assert_says(ff_array_new(LEN, &file, NULL, NULL, &other), -EFBIG, "File too large");
    assert_says(ff_volatile_new(LEN, NULL, NULL, NULL, &v), -EFBIG, "File too large");
    call(ff_snapshot_begin(m));
    assert_says(ff_snapshot_save_fd(m, fd), -EFBIG, "File too large");
    assert_says(ff_snapshot_save_path(m, saved), -EFBIG, "File too large");
    g_assert_false(g_file_test(saved, G_FILE_TEST_EXISTS));
    /* One that the program has blocked, and is there, stays. */
    sigemptyset(&xfsz);
    sigaddset(&xfsz, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &xfsz, NULL);
    raise(SIGXFSZ);
    assert_says(ff_snapshot_save_fd(m, fd), -EFBIG, "File too large");
    sigpending(&pending);
    g_assert_true(sigismember(&pending, SIGXFSZ));
    setrlimit(RLIMIT_FSIZE, &none);
    call(ff_array_commit(a));
    call(ff_array_commit(folder));
    call(ff_snapshot_save_fd(m, fd));
    call(ff_snapshot_wait(m, NULL));
    ff_array_free(a);
    ff_array_free(folder);
    ff_memory_free(m);
    return 0;
}

/* By default SIGXFSZ ends a program. */
static void test_no_signal(void)
{
    FfMemory *possible = memory();
    g_autofree char *dir = possible ? g_dir_make_tmp("misuse-XXXXXX", NULL) : NULL;
    g_autofree char *path = possible ? g_build_filename(dir, "array", NULL) : NULL;
    g_autofree char *command = g_strdup_printf("rm -r '%s'", dir);

    if (!possible) {
        return;
    }
    ff_memory_free(possible);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(be_limited(path));
    }
    expect_child(pid);
    g_assert_cmpint(system(command), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/misuse/no-memory", test_no_memory);
    g_test_add_func("/libfarfault/misuse/dead-template", test_dead_template);
    g_test_add_func("/libfarfault/misuse/privileges-dropped", test_privileges_dropped);
    g_test_add_func("/libfarfault/misuse/watch", test_watch);
    g_test_add_func("/libfarfault/misuse/positive", test_positive);
    g_test_add_func("/libfarfault/misuse/positive-store", test_positive_store);
    g_test_add_func("/libfarfault/misuse/spill", test_spill);
    g_test_add_func("/libfarfault/misuse/file-size", test_file_size);
    g_test_add_func("/libfarfault/misuse/no-signal", test_no_signal);
    return g_test_run();
}
