/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What libfarfault's calls say and do, one by one: wrong arguments and wrong order, what a program
 * gives back, moves and unmaps while it is saved, fork(), cancel, permissions. A callback that is
 * held keeps everything after the first 128 KiB unsaved for as long as a test wants.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"

#define LEN HELD_LEN
#define LATE HELD_LATE

/* ---- cases ----------------------------------------------------------------------------------- */

static void test_arguments(void)
{
    World *w = world_new(W_MEMFD, LEN);

    if (!w) {
        return;
    }
    FfMemory *m;
    assert_says(ff_memory_new(1u << 31, &m), -EINVAL, "flag");
    g_assert_null(m);
    assert_says(ff_region_add(w->m, w->map, LEN, w->fd, 0), -EEXIST, "already");
    char *alias = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
    g_assert_true(alias != MAP_FAILED);
    assert_says(ff_region_add(w->m, alias, LEN, w->fd, 0), -EEXIST, "same pages of the file");
    assert_says(ff_region_add(w->m, alias, LEN, -1, 0), -ENOTSUP, "not private anonymous");
    munmap(alias, LEN);
    char *own = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_says(ff_region_add(w->m, own + 1, 4096, -1, 0), -EINVAL, "whole pages");
    assert_says(ff_region_add(w->m, own, 4096, -1, FF_REGION_HUGE), -EINVAL, "whole pages");
    assert_says(ff_region_add(w->m, own, LEN, w->fd, 0), -EINVAL, "no shared mapping");
    assert_says(ff_region_add(w->m, own, 0, -1, 0), -EINVAL, "whole pages");
    assert_says(ff_region_add(w->m, own, LEN, 9999, 0), -EBADF, "9999");
    mprotect(own, 4096, PROT_READ);
    assert_says(ff_region_add(w->m, own, LEN, -1, 0), -EACCES, "writable");
    munmap(own + 4096, 4096);
    assert_says(ff_region_add(w->m, own + 4096, 4096, -1, 0), -ENOMEM, "nothing is mapped");
    munmap(own, LEN);
    assert_says(ff_region_discard(w->m, w->map + 1, 4096), -EINVAL, "whole pages of one region");
    assert_says(ff_region_remove(w->m, w->map + LEN, 4096), -EINVAL, "whole pages of one region");
    FfSnapshotOptions old = {.size = 8};
    assert_says(ff_snapshot_prepare(w->m, &old), -EINVAL, "size");
    call(ff_region_remove(w->m, w->map, LEN));
    assert_says(ff_snapshot_prepare(w->m, NULL), -EINVAL, "no region");
    world_free(w);
}

static void test_order(void)
{
    World *w = world_new(W_ANON, LEN);

    if (!w) {
        return;
    }
    int fd = world_file();
    assert_says(ff_snapshot_save_fd(w->m, fd), -EBUSY, "ff_snapshot_begin() come first");
    assert_says(ff_snapshot_wait(w->m, NULL), -EINVAL, "nothing is being saved");
    call(ff_snapshot_cancel(w->m));
    call(ff_snapshot_prepare(w->m, NULL));
    assert_says(ff_snapshot_prepare(w->m, NULL), -EBUSY, "begin or cancel it");
    assert_says(ff_region_add(w->m, w->map, LEN, -1, 0), -EBUSY, "begin or cancel it");
    call(ff_snapshot_cancel(w->m));
    call(ff_snapshot_begin(w->m)); /* prepares by itself */
    assert_says(ff_snapshot_begin(w->m), -EBUSY, "save or cancel it");
    int pipe_fds[2];
    g_assert_cmpint(pipe(pipe_fds), ==, 0);
    assert_says(ff_snapshot_save_fd(w->m, pipe_fds[1]), -EIO, "regular file");
    assert_says(ff_snapshot_save_path(w->m, "/no such/file"), -ENOENT, "/no such/file");
    call(ff_snapshot_save_fd(w->m, fd));
    assert_says(ff_snapshot_prepare(w->m, NULL), -EBUSY, "wait");
    call(ff_snapshot_wait(w->m, NULL));
    call(ff_snapshot_begin(w->m));
    call(ff_snapshot_cancel(w->m));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    close(fd);
    world_free(w);
}

/* Another userfaultfd has the memory. */
static void test_two_owners(void)
{
    World *w = world_new(W_ANON, LEN);
    FfMemory *other;

    if (!w) {
        return;
    }
    call(ff_memory_new(0, &other));
    call(ff_region_add(other, w->map, LEN, -1, 0));
    call(ff_snapshot_prepare(w->m, NULL));
    assert_says(ff_snapshot_prepare(other, NULL), -EBUSY, "another userfaultfd");
    call(ff_snapshot_cancel(w->m));
    call(ff_snapshot_prepare(other, NULL));
    ff_memory_free(other);
    world_free(w);
}

/* What gives memory back, in the program's own words. */
typedef struct {
    const char *name;
    int advice;
    bool is_for_files, by_process;
} Advice;

static const Advice advices[] = {
    {"dontneed", MADV_DONTNEED, false, false}, {"free", MADV_FREE, false, false},
    {"process", MADV_DONTNEED, false, true},   {"remove", MADV_REMOVE, true, false},
    {"unmap", MADV_DONTNEED, true, false},
};

/* -1: the kernel does not have it. */
static int give_back(const Advice *a, char *at, size_t len)
{
    if (!a->by_process) {
        /* The kernel looks at an int of it, whatever the register holds. */
        return (int)syscall(SYS_madvise, at, len, (unsigned long)a->advice | 1ul << 32);
    }
    struct iovec parts[] = {{at, len / 2}, {at + len / 2, len / 2}};
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    ssize_t n = syscall(SYS_process_madvise, self, parts, 2, a->advice, 0);
    close(self);
    return n == (ssize_t)len ? 0 : -1;
}

/* Without telling us: its old content is saved all the same. */
static void test_plain_discard(gconstpointer p)
{
    WorldKind kind = GPOINTER_TO_UINT(p);

    for (unsigned i = 0; i < G_N_ELEMENTS(advices); i++) {
        Held h;
        if (advices[i].is_for_files != (kind == W_MEMFD || kind == W_HUGETLB)) {
            continue;
        }
        if (!held_new(&h, kind, NULL)) {
            return;
        }
        int rc = give_back(&advices[i], h.w->map + LATE, LEN - LATE);
        if (rc < 0 && advices[i].by_process) {
            g_test_message("no process_madvise() of this process: Linux 6.13 has it");
        } else {
            g_assert_cmpint(rc, ==, 0);
            memset(h.w->map + LATE, 9, LEN - LATE); /* nobody is in the way */
        }
        held_assert_saved(&h);
        held_free(&h);
    }
}

/* Eight threads at once, a piece each time, and as fast as they can: on a loaded machine one of
 * them may be seen too late. Then the snapshot says so; most are whole. */
static gpointer give_own_back(gpointer p)
{
    WorldWriter *writer = p;
    World *w = writer->w;
    size_t piece = w->page_size, share = (LEN - LATE) / WORLD_WRITERS;
    char *own = w->map + LATE + writer->index * share;

    for (size_t at = 0; at < share; at += piece) {
        size_t n = MIN(piece, share - at); /* of a page of 2 MiB a part */
        g_assert_cmpint(madvise(own + at, n, MADV_DONTNEED), ==, 0);
        memset(own + at, 9, n);
    }
    return NULL;
}

static bool is_whole(WorldKind kind, unsigned *n_whole)
{
    WorldWriter writers[WORLD_WRITERS];
    Held h;

    if (!held_new(&h, kind, NULL)) {
        return false;
    }
    for (unsigned i = 0; i < WORLD_WRITERS; i++) {
        writers[i] = (WorldWriter){h.w, i, NULL};
        writers[i].thread = g_thread_new("gives", give_own_back, &writers[i]);
    }
    for (unsigned i = 0; i < WORLD_WRITERS; i++) {
        g_thread_join(writers[i].thread);
    }
    held_go(&h);
    int rc = ff_snapshot_wait(h.w->m, NULL);
    if (rc == 0) {
        g_assert_cmphex(world_hash(h.pages.copy, LEN), ==, world_hash(h.then, LEN));
        ++*n_whole;
    } else {
        assert_says(rc, -EIO, "were given back");
    }
    held_free(&h);
    return true;
}

static void test_plain_discards(gconstpointer p)
{
    unsigned n_whole = 0, n = 0;

    while (n < 8 && is_whole(GPOINTER_TO_UINT(p), &n_whole)) {
        n++;
    }
    g_test_message("%u of %u whole", n_whole, n);
    g_assert_true(n == 0 || n_whole * 2 > n);
}

/* There is no room for it: never a file that is wrong. */
static void test_discard_without_room(gconstpointer p)
{
    WorldKind kind = GPOINTER_TO_UINT(p);
    bool is_huge = kind == W_HUGETLB || kind == W_ANON_HUGE, is_shared;
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = is_huge ? HUGEPAGE : 4096};
    Held h;

    if (!held_new(&h, kind, &options)) {
        return;
    }
    is_shared = h.w->fd >= 0;
    g_assert_cmpint(
        madvise(h.w->map + LATE, 2 * h.w->page_size, is_shared ? MADV_REMOVE : MADV_DONTNEED), ==,
        0);
    held_go(&h);
    assert_says(ff_snapshot_wait(h.w->m, NULL), -EIO, "2 pages were given back");
    held_free(&h);
}

static void test_discard(gconstpointer p)
{
    static const char zeros[4096];
    Held h;

    if (!held_new(&h, GPOINTER_TO_UINT(p), NULL)) {
        return;
    }
    call(ff_region_discard(h.w->m, h.w->map + LATE, LEN - LATE));
    g_assert_cmpint(memcmp(h.w->map + LATE, zeros, sizeof(zeros)), ==, 0);
    g_assert_cmpint(memcmp(h.w->map + LEN - 4096, zeros, sizeof(zeros)), ==, 0);
    held_assert_saved(&h);
    held_free(&h);
}

static void test_munmap(gconstpointer p)
{
    Held h;

    if (!held_new(&h, GPOINTER_TO_UINT(p), NULL)) {
        return;
    }
    bool is_shared = h.w->fd >= 0;
    if (!is_shared) { /* else the file keeps it */
        call(ff_region_remove(h.w->m, h.w->map + LATE, LEN - LATE));
    }
    g_assert_cmpint(munmap(h.w->map + LATE, LEN - LATE), ==, 0);
    held_assert_saved(&h);
    held_free(&h);
}

static void test_plain_munmap(void)
{
    Held h;

    if (!held_new(&h, W_ANON, NULL)) {
        return;
    }
    g_assert_cmpint(munmap(h.w->map + LATE, LEN - LATE), ==, 0);
    held_go(&h);
    assert_says(ff_snapshot_wait(h.w->m, NULL), -EIO, "were given back");
    held_free(&h);
}

static void test_mremap(gconstpointer p)
{
    Held h;

    if (!held_new(&h, GPOINTER_TO_UINT(p), NULL)) {
        return;
    }
    char *room = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *moved =
        mremap(h.w->map + LATE, LEN - LATE, LEN - LATE, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    g_assert_true(moved == room);
    /* Somebody else's memory where it was; and writes where it is now. */
    char *other = mmap(h.w->map + LATE, LEN - LATE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(other, 1, LEN - LATE);
    memset(moved, 2, LEN - LATE);
    held_assert_saved(&h);
    munmap(room, LEN);
    held_free(&h);
}

/* The child's memory is its own; the parent's is still kept. */
static void test_fork(gconstpointer p)
{
    Held h;
    int status;

    if (!held_new(&h, GPOINTER_TO_UINT(p), NULL)) {
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool ok = ff_snapshot_cancel(h.w->m) == -ECHILD &&
                  ff_snapshot_wait(h.w->m, NULL) == -ECHILD &&
                  ff_region_discard(h.w->m, h.w->map, 4096) == -ECHILD;
        ok = ok && memcmp(h.w->map, h.then, LEN) == 0;
        memset(h.w->map, 3, LEN);
        _exit(ok ? 0 : 1);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    held_fill(h.w, 7);
    held_assert_saved(&h);
    held_free(&h);
}

/* The flags of the mapping at AT, as /proc/self/smaps has them. */
static char *mapping_flags(const void *at)
{
    g_autofree char *head = g_strdup_printf("\n%" G_GINT64_MODIFIER "x-", (uint64_t)(uintptr_t)at);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    const char *flags = strstr(text, head);
    flags = flags ? strstr(flags, "\nVmFlags:") : NULL;
    g_assert_nonnull(flags);
    return g_strndup(flags + 1, strcspn(flags + 1, "\n"));
}

/* KSM takes the protection off what it merges: what is written then would be saved. */
static void test_merged(gconstpointer p)
{
    World *w = world_new(GPOINTER_TO_UINT(p), LEN);

    if (!w) {
        return;
    }
    if (madvise(w->map, LEN, MADV_MERGEABLE) == 0) {
        g_autofree char *before = mapping_flags(w->map);
        g_assert_nonnull(strstr(before, " mg"));
        call(ff_snapshot_prepare(w->m, NULL));
        g_autofree char *after = mapping_flags(w->map);
        g_assert_null(strstr(after, " mg"));
    } else {
        g_test_skip("this kernel has no KSM");
    }
    world_free(w);
}

static void test_cancel(void)
{
    Held h;

    if (!held_new(&h, W_ANON, NULL)) {
        return;
    }
    call(ff_snapshot_cancel(h.w->m));
    held_go(&h);
    assert_says(ff_snapshot_wait(h.w->m, NULL), -ECANCELED, "cancelled");
    int fd = world_file(); /* and the next one is whole */
    call(ff_snapshot_begin(h.w->m));
    call(ff_snapshot_save_fd(h.w->m, fd));
    call(ff_snapshot_wait(h.w->m, NULL));
    char *map = world_map_file(h.w, fd);
    g_assert_cmpint(memcmp(map, h.then, LEN), ==, 0);
    munmap(map, LEN);
    close(fd);
    held_free(&h);
}

static void test_callback_stops(void)
{
    Held h;

    if (!held_new(&h, W_ANON, NULL)) {
        return;
    }
    h.stop = -ENOSPC;
    held_go(&h);
    assert_says(ff_snapshot_wait(h.w->m, NULL), -ENOSPC, "callback");
    held_fill(h.w, 1); /* nobody waits */
    held_free(&h);
}

static gpointer write_all(gpointer p)
{
    held_fill(p, 5);
    return NULL;
}

/* A buffer of four pages is never more. */
static void test_limit(void)
{
    World *w = world_new(W_ANON, LEN);
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = 4 * 4096 + 100};
    FfSnapshotStats st = {.size = sizeof(st)};

    if (!w) {
        return;
    }
    held_fill(w, 0);
    uint64_t then = world_hash(w->map, LEN);
    call(ff_snapshot_prepare(w->m, &options));
    call(ff_snapshot_begin(w->m));
    GThread *writer = g_thread_new("writer", write_all, w);
    do { /* until it waits for room: nobody saves */
        call(ff_snapshot_stats(w->m, &st));
        g_thread_yield();
    } while (!st.waited);
    g_assert_cmpuint(st.slots, ==, 4);
    g_assert_cmpuint(st.free_slots, ==, 0);
    g_assert_cmpuint(st.faults, ==, 5);
    int fd = world_file();
    call(ff_snapshot_save_fd(w->m, fd));
    call(ff_snapshot_wait(w->m, &st));
    g_thread_join(writer);
    g_assert_cmpuint(st.pages, ==, LEN / 4096);
    g_assert_cmpuint(st.left, ==, 0);
    char *map = world_map_file(w, fd);
    g_assert_cmphex(world_hash(map, LEN), ==, then);
    munmap(map, LEN);
    close(fd);
    world_free(w);
}

/* Two regions of one file, and one in the middle of it that is none. */
static void test_parts_of_a_file(void)
{
    World *w = world_new(W_MEMFD, LEN);

    if (!w) {
        return;
    }
    held_fill(w, 0);
    call(ff_region_remove(w->m, w->map + LEN / 4, LEN / 4));
    char *then = g_memdup2(w->map, LEN);
    memset(then + LEN / 4, 0, LEN / 4);
    WorldPages pages;
    world_pages_init(&pages, w);
    int fd = world_file();
    call(ff_snapshot_begin(w->m));
    held_fill(w, 1);
    call(ff_snapshot_save_fd(w->m, fd));
    call(ff_snapshot_wait(w->m, NULL));
    FfFileHeader header;
    FfFileRegion regions[2];
    g_assert_cmpint(pread(fd, &header, sizeof(header), 0), ==, sizeof(header));
    g_assert_cmpuint(header.n_regions, ==, 2);
    g_assert_cmpint(pread(fd, regions, sizeof(regions), sizeof(header)), ==, sizeof(regions));
    for (unsigned i = 0; i < 2; i++) {
        size_t at = regions[i].addr - (uintptr_t)w->map;
        g_assert_cmpint(pread(fd, pages.copy + at, regions[i].len, (off_t)regions[i].offset), ==,
                        regions[i].len);
    }
    g_assert_cmphex(world_hash(pages.copy, LEN), ==, world_hash(then, LEN));
    world_pages_clear(&pages);
    g_free(then);
    close(fd);
    world_free(w);
}

static bool is_huge(const char *at)
{
    g_autofree char *text = NULL;
    bool here = false;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        unsigned long start, end, kb;
        if (sscanf(*l, "%lx-%lx ", &start, &end) == 2) {
            here = (uintptr_t)at >= start && (uintptr_t)at < end;
        } else if (here && sscanf(*l, "AnonHugePages: %lu kB", &kb) == 1) {
            return kb * 1024 == LEN;
        }
    }
    return false;
}

/* Huge pages come back. */
static void test_huge_pages(void)
{
    World *w = world_new(W_ANON, LEN);

    if (!w) {
        return;
    }
    madvise(w->map, LEN, MADV_HUGEPAGE);
    held_fill(w, 0);
    if (!is_huge(w->map)) {
        g_test_skip("no transparent huge pages here");
        world_free(w);
        return;
    }
    int fd = world_file();
    call(ff_snapshot_prepare(w->m, NULL));
    call(ff_snapshot_begin(w->m));
    for (size_t i = 0; i < LEN; i += 1u << 20) {
        w->map[i]++;
    }
    g_assert_false(is_huge(w->map));
    call(ff_snapshot_save_fd(w->m, fd));
    call(ff_snapshot_wait(w->m, NULL));
    g_assert_true(is_huge(w->map));
    close(fd);
    world_free(w);
}

/* ---- permissions ----------------------------------------------------------------------------- */

/* In a child that may nothing: 0, or the line of source that is wrong. */
static int as_nobody(void)
{
    FfMemory *m;
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = 1u << 20};

    if (setgid(65534) < 0 || setuid(65534) < 0) {
        return __LINE__;
    }
    if (ff_memory_new(FF_MEMORY_USER_MODE, &m) != -EACCES ||
        !strstr(ff_last_error(), "PR_SET_DUMPABLE")) {
        return __LINE__;
    }
    prctl(PR_SET_DUMPABLE, 1);
    if (ff_memory_new(0, &m) != -EPERM || !strstr(ff_last_error(), "/dev/userfaultfd") ||
        !strstr(ff_last_error(), "FF_MEMORY_USER_MODE")) {
        return __LINE__;
    }
    char *map = mmap(NULL, 1u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(map, 1, 1u << 20);
    if (ff_memory_new(FF_MEMORY_USER_MODE, &m) < 0 || ff_region_add(m, map, 1u << 20, -1, 0) < 0 ||
        ff_snapshot_prepare(m, &options) < 0 || ff_snapshot_begin(m) < 0) {
        return __LINE__;
    }
    int fds[2];
    if (pipe(fds) < 0 || write(fds[1], "x", 1) != 1 || read(fds[0], map + 4096 * 100, 1) != -1 ||
        errno != EFAULT) {
        return __LINE__;
    }
    map[4096 * 100] = 2;
    int fd = memfd_create("out", MFD_CLOEXEC);
    char saved[4096];
    if (ff_snapshot_save_fd(m, fd) < 0 || ff_snapshot_wait(m, NULL) < 0 ||
        pread(fd, saved, 4096, 4096 * 101) != 4096 || memcmp(saved, map, 4096) != 0 ||
        map[4096 * 100] != 2) {
        return __LINE__;
    }
    ff_memory_free(m);
    return 0;
}

static void test_permission(void)
{
    g_autofree char *sysctl = NULL;
    int status;

    if (getuid() != 0) {
        g_test_skip("only root can become nobody");
        return;
    }
    g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL);
    if (!sysctl || sysctl[0] != '0') {
        g_test_skip("vm.unprivileged_userfaultfd: everybody may");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int line = as_nobody();
        if (line) {
            g_printerr("line %d: %s\n", line, ff_last_error());
        }
        _exit(line != 0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

static void add(const char *name, unsigned kinds, GTestDataFunc test)
{
    for (unsigned k = 0; k < W_KINDS; k++) {
        if (kinds >> k & 1) {
            g_autofree char *path = g_strdup_printf("/libfarfault/%s/%s", name, world_kinds[k]);
            g_test_add_data_func(path, GUINT_TO_POINTER(k), test);
        }
    }
}

int main(int argc, char **argv)
{
    const unsigned all = (1u << W_KINDS) - 1, small = 1u << W_ANON | 1u << W_MEMFD;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/arguments", test_arguments);
    g_test_add_func("/libfarfault/order", test_order);
    g_test_add_func("/libfarfault/two-owners", test_two_owners);
    add("plain-discard", all, test_plain_discard);
    add("plain-discards", 1u << W_ANON | 1u << W_ANON_HUGE, test_plain_discards);
    add("discard-without-room", all, test_discard_without_room);
    add("discard", all, test_discard);
    add("munmap", all, test_munmap);
    g_test_add_func("/libfarfault/plain-munmap", test_plain_munmap);
    add("mremap", small, test_mremap);
    add("fork", 1u << W_ANON | 1u << W_ANON_HUGE, test_fork);
    add("merged", 1u << W_ANON | 1u << W_ANON_HUGE, test_merged);
    g_test_add_func("/libfarfault/cancel", test_cancel);
    g_test_add_func("/libfarfault/callback-stops", test_callback_stops);
    g_test_add_func("/libfarfault/limit", test_limit);
    g_test_add_func("/libfarfault/parts-of-a-file", test_parts_of_a_file);
    g_test_add_func("/libfarfault/huge-pages", test_huge_pages);
    g_test_add_func("/libfarfault/permission", test_permission);
    return g_test_run();
}
