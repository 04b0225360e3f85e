/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program may do to libfarfault in the middle of a snapshot, and what a machine does: memory
 * that is moved, unmapped and protected by others, cancels at bad moments, a disk that is full or
 * stuck, threads that cannot be made, signals. The program continues, and a snapshot that says that
 * it is whole is.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/slowfile.h"
#include "tests/libfarfault/held.h"

#define LEN HELD_LEN
#define LATE HELD_LATE

/* ---- in a process of its own ----------------------------------------------------------------- */

/* FN says 0, or the line that is wrong. */
static void run_in_child(int (*fn)(void))
{
    int status;
    pid_t self = getpid(), pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int line = getppid() == self ? fn() : 0;
        if (line) {
            g_printerr("line %d: %s\n", line, ff_last_error());
        }
        _exit(line != 0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* ---- memory that is not where it was --------------------------------------------------------- */

/* A part of a page of 2 MiB is moved away: such a page has no place. */
static void test_split_page(void)
{
    Held h;

    if (!held_new(&h, W_ANON_HUGE, NULL)) {
        return;
    }
    char *at = h.w->map + LATE + HUGEPAGE / 2;
    char *room = mmap(NULL, HUGEPAGE / 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *moved = mremap(at, HUGEPAGE / 2, HUGEPAGE / 2, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    g_assert_true(moved == room);
    memset(mmap(at, HUGEPAGE / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                -1, 0),
           1, HUGEPAGE / 2);
    held_go(&h);
    memset(moved, 2, HUGEPAGE / 2); /* is let go */
    memset(h.w->map + LATE, 3, HUGEPAGE / 2);
    g_assert_cmpint(ff_snapshot_wait(h.w->m, NULL), <, 0);
    memset(moved, 4, HUGEPAGE / 2);
    munmap(room, HUGEPAGE / 2);
    held_free(&h);
}

/* The calls that write to memory before they let go of it, where it cannot be written. */
static void test_gone(gconstpointer p)
{
    Held h;

    if (!held_new(&h, GPOINTER_TO_UINT(p), NULL)) {
        return;
    }
    char *at = h.w->map + LATE;
    g_assert_cmpint(mprotect(at, LEN - LATE, PROT_READ), ==, 0);
    assert_says(ff_region_discard(h.w->m, at, LEN - LATE), -EACCES, "mprotect");
    g_assert_cmpint(mprotect(at, LEN - LATE, PROT_READ | PROT_WRITE), ==, 0);
    char *moved = mremap(at, LEN - LATE, LEN - LATE, MREMAP_MAYMOVE | MREMAP_FIXED,
                         mmap(NULL, LEN - LATE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    g_assert_true(moved != MAP_FAILED);
    assert_says(ff_region_discard(h.w->m, at, LEN - LATE), -ENOMEM, "not mapped");
    call(ff_region_remove(h.w->m, at, LEN - LATE));
    assert_says(ff_region_discard(h.w->m, at, LEN - LATE), -EINVAL, "region");
    held_assert_saved(&h);
    munmap(moved, LEN - LATE);
    held_free(&h);
}

/* What a region was is something else when the next snapshot is prepared. */
static void test_replaced(void)
{
    World *w = world_new(W_MEMFD, LEN);

    if (!w) {
        return;
    }
    g_assert_true(mmap(w->map, LEN / 2, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w->map);
    assert_says(ff_snapshot_prepare(w->m, NULL), -EINVAL, "no shared mapping of that file");
    call(ff_region_remove(w->m, w->map, LEN / 2));
    call(ff_snapshot_prepare(w->m, NULL));
    call(ff_snapshot_cancel(w->m));
    munmap(w->map + LEN / 2, LEN / 2);
    assert_says(ff_snapshot_prepare(w->m, NULL), -ENOMEM, "nothing is mapped");
    world_free(w);
}

/* Between the preparation and the moment: what is unmapped is zeros; but not something new. */
static void test_mapped_anew(void)
{
    World *w = world_new(W_ANON, LEN);

    if (!w) {
        return;
    }
    call(ff_snapshot_prepare(w->m, NULL));
    memset(mmap(w->map + LATE, 8192, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
           1, 8192);
    assert_says(ff_snapshot_begin(w->m), -EINVAL, "mapped again");
    call(ff_snapshot_prepare(w->m, NULL)); /* has it */
    call(ff_region_remove(w->m, w->map + LATE, 8192));
    g_assert_true(mmap(w->map + LATE, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                       0) != MAP_FAILED);
    call(ff_snapshot_begin(w->m)); /* it is no region any more */
    world_free(w);
}

/* The file of a region becomes shorter while it is saved, or before. */
static int shorten_when(bool early)
{
    World *w = world_new(W_MEMFD, 64u << 20);
    FfSnapshotOptions options = {
        .size = sizeof(options), .buffer = 1u << 20, .bandwidth = 1u << 20};
    FfSnapshotStats st = {.size = sizeof(st)};
    int fd = world_file();

    if (!w) {
        return 0;
    }
    memset(w->map, 1, w->len);
    call(ff_snapshot_prepare(w->m, &options));
    call(ff_snapshot_begin(w->m));
    if (early && ftruncate(w->fd, 0) < 0) {
        return __LINE__;
    }
    call(ff_snapshot_save_fd(w->m, fd));
    while (!early && !st.bytes) {
        call(ff_snapshot_stats(w->m, &st));
        g_thread_yield();
    }
    if (ftruncate(w->fd, 0) < 0) {
        return __LINE__;
    }
    return ff_snapshot_wait(w->m, NULL) < 0 ? 0 : __LINE__;
}

static int shorten(void)
{
    int line = shorten_when(false);

    return line ? line : shorten_when(true);
}

static void test_shorten(void)
{
    run_in_child(shorten);
}

/* ---- cancels --------------------------------------------------------------------------------- */

/* Somebody writes, and waits for a saver that is stuck: a cancel is what lets go. */
static gpointer write_late(gpointer p)
{
    Held *h = p;

    memset(h->w->map + LATE, 9, LEN - LATE);
    return NULL;
}

static void test_stuck(gconstpointer p)
{
    FfSnapshotOptions options = {.size = sizeof(options)};
    FfSnapshotStats st = {.size = sizeof(st)};
    Held h;

    if (!held_new(&h, GPOINTER_TO_UINT(p), &options)) {
        return;
    }
    GThread *thread = g_thread_new("writer", write_late, &h);
    do {
        call(ff_snapshot_stats(h.w->m, &st));
        g_thread_yield();
    } while (!st.waited);
    call(ff_snapshot_cancel(h.w->m));
    g_thread_join(thread);
    held_go(&h);
    assert_says(ff_snapshot_wait(h.w->m, NULL), -ECANCELED, "cancelled");
    held_free(&h);
}

/* ---- what is written without a fault --------------------------------------------------------- */

/* A buffer that is registered with io_uring: refused, whenever that was. */
static void test_registered(gconstpointer p)
{
    World *w = world_new(GPOINTER_TO_UINT(p), LEN);
    struct io_uring ring;

    if (!w) {
        return;
    }
    if (io_uring_queue_init(4, &ring, 0) < 0) {
        g_test_skip("no io_uring here");
        world_free(w);
        return;
    }
    char *outside = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec bufs[2] = {{outside, 8192}, {w->map + LATE + 512, 1024}};
    g_assert_cmpint(io_uring_register_buffers(&ring, bufs, 2), ==, 0);
    assert_says(ff_snapshot_prepare(w->m, NULL), -EBUSY, "is registered with io_uring");
    g_assert_cmpint(io_uring_unregister_buffers(&ring), ==, 0);
    call(ff_snapshot_prepare(w->m, NULL));
    g_assert_cmpint(io_uring_register_buffers(&ring, bufs, 2), ==, 0);
    assert_says(ff_snapshot_begin(w->m), -EBUSY, "is registered with io_uring");
    g_assert_cmpint(io_uring_unregister_buffers(&ring), ==, 0);
    g_assert_cmpint(io_uring_register_buffers(&ring, bufs, 1), ==, 0); /* not in a region */
    call(ff_snapshot_begin(w->m));
    io_uring_queue_exit(&ring);
    munmap(outside, 8192);
    world_free(w);
}

typedef struct {
    int fd;
    char *to;
    ssize_t n;
} Read;

static gpointer read_held(gpointer p)
{
    Read *r = p;

    r->n = pread(r->fd, r->to, 512, SLOWFILE_HELD);
    return NULL;
}

/* A direct read is in flight at the moment, and completes after it: of its own bytes the snapshot
 * has what was there or what was read; all others are of the moment. */
static void test_in_flight(gconstpointer p)
{
    g_autofree char *dir = g_dir_make_tmp("libfarfault-XXXXXX", NULL);
    const char *why;
    SlowFile *slow = slowfile_new(dir, &why);
    World *w = slow ? world_new(GPOINTER_TO_UINT(p), LEN) : NULL;

    if (!w) {
        if (slow) {
            slowfile_free(slow);
        } else {
            g_test_skip(why);
        }
        rmdir(dir);
        return;
    }
    Read r = {open(slowfile_path(slow), O_RDONLY | O_DIRECT | O_CLOEXEC), w->map + LATE + 1024, 0};
    WorldPages pages;
    world_pages_init(&pages, w);
    held_fill(w, 0);
    g_autofree char *then = g_memdup2(w->map, LEN);
    GThread *thread = g_thread_new("reader", read_held, &r);
    slowfile_wait_held(slow);
    call(ff_snapshot_prepare(w->m, NULL));
    call(ff_snapshot_begin(w->m));
    slowfile_release(slow);
    g_thread_join(thread);
    g_assert_cmpint(r.n, ==, 512);
    g_assert_cmpint(pread(r.fd, r.to + 4096, 512, 0), ==, 512); /* that is after it */
    call(ff_snapshot_save_pages(w->m, world_page, &pages));
    call(ff_snapshot_wait(w->m, NULL));
    for (size_t i = 0; i < 512; i++) {
        char now = pages.copy[LATE + 1024 + i];
        g_assert_true(now == then[LATE + 1024 + i] || now == SLOWFILE_BYTE);
    }
    memcpy(pages.copy + LATE + 1024, then + LATE + 1024, 512);
    g_assert_cmpint(memcmp(pages.copy, then, LEN), ==, 0);
    world_pages_clear(&pages);
    close(r.fd);
    world_free(w);
    slowfile_free(slow);
    rmdir(dir);
}

/* ---- the machine ----------------------------------------------------------------------------- */

/* No thread can be made any more. */
static int without_threads(void)
{
    World *w = world_new(W_ANON, LEN);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {G_N_ELEMENTS(code), code};
    int fd = world_file();

    if (!w) {
        return 0;
    }
    FfMemory *begun;
    char *map = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    call(ff_memory_new(0, &begun));
    call(ff_region_add(begun, map, LEN, -1, 0));
    call(ff_snapshot_begin(begun));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0) {
        return __LINE__;
    }
    if (ff_snapshot_prepare(w->m, NULL) != -EAGAIN || !strstr(ff_last_error(), "thread")) {
        return __LINE__;
    }
    if (ff_template_start(w->m, NULL, NULL) != -EAGAIN || !strstr(ff_last_error(), "thread")) {
        return __LINE__;
    }
    if (ff_snapshot_save_fd(begun, fd) != -EAGAIN || !strstr(ff_last_error(), "thread")) {
        return __LINE__;
    }
    call(ff_snapshot_cancel(begun));
    memset(map, 1, LEN);
    return 0;
}

static void test_without_threads(void)
{
    run_in_child(without_threads);
}

/* A disk of 1 MiB, and writers that wait for it. */
static int full_disk(void)
{
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = 4096};
    World *w = world_new(W_ANON, LEN);

    if (!w || unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/mnt", "tmpfs", 0, "size=1m") < 0) {
        return 0; /* not root */
    }
    held_fill(w, 1);
    world_start_writers(w);
    world_wait_writes(w, 1000);
    for (unsigned i = 0; i < 4; i++) {
        options.flags = i % 2 ? FF_SNAPSHOT_NO_DIRECT : 0;
        call(ff_snapshot_prepare(w->m, &options));
        world_park(w);
        call(ff_snapshot_begin(w->m));
        world_release(w);
        call(ff_snapshot_save_path(w->m, "/mnt/dump"));
        if (ff_snapshot_wait(w->m, NULL) != -ENOSPC || access("/mnt/dump", F_OK) == 0) {
            return __LINE__;
        }
        world_wait_writes(w, 1000);
    }
    world_free(w);
    return 0;
}

static void test_full_disk(void)
{
    run_in_child(full_disk);
}

static void add(const char *name, unsigned kinds, GTestDataFunc test)
{
    for (unsigned k = 0; k < W_KINDS; k++) {
        if (kinds >> k & 1) {
            g_autofree char *path =
                g_strdup_printf("/libfarfault/trouble/%s/%s", name, world_kinds[k]);
            g_test_add_data_func(path, GUINT_TO_POINTER(k), test);
        }
    }
}

int main(int argc, char **argv)
{
    const unsigned small = 1u << W_ANON | 1u << W_MEMFD;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/trouble/split-page", test_split_page);
    add("gone", small, test_gone);
    g_test_add_func("/libfarfault/trouble/replaced", test_replaced);
    g_test_add_func("/libfarfault/trouble/mapped-anew", test_mapped_anew);
    g_test_add_func("/libfarfault/trouble/shorten", test_shorten);
    add("stuck", small, test_stuck);
    add("registered", small, test_registered);
    add("in-flight", small, test_in_flight);
    g_test_add_func("/libfarfault/trouble/without-threads", test_without_threads);
    g_test_add_func("/libfarfault/trouble/full-disk", test_full_disk);
    return g_test_run();
}
