/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that has no memory left: each call of libfarfault is -ENOMEM until there is enough, and
 * never ends the program; what it calls to get rid of memory succeeds without any. malloc() is this
 * file's, and has a budget.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/libfarfault/held.h"
#include "tests/libfarfault/range.h"

#define LEN ((size_t)4 << 20)
#define STEP 4000
#define LARGE (128u << 10)
#define MOST (64 << 20)
#define NO_BUDGET INT64_MAX

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

/* ---- malloc() -------------------------------------------------------------------------------- */

static int64_t budget = NO_BUDGET; /* atomic; bytes that all threads can have */

static void set_budget(int64_t n)
{
    __atomic_store_n(&budget, n, __ATOMIC_SEQ_CST);
}

#if !IS_SANITIZED
/* glibc's own. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

static bool is_limited(void)
{
    return __atomic_load_n(&budget, __ATOMIC_SEQ_CST) < NO_BUDGET / 2;
}

/* FALSE, and errno: the budget does not have N bytes. What glibc maps alone is not of it. */
static bool may_have(size_t n)
{
    if (!is_limited() || n >= LARGE || __atomic_sub_fetch(&budget, n, __ATOMIC_SEQ_CST) >= 0) {
        return true;
    }
    __atomic_add_fetch(&budget, n, __ATOMIC_SEQ_CST);
    errno = ENOMEM;
    return false;
}

void *malloc(size_t n)
{
    return may_have(n) ? __libc_malloc(n) : NULL;
}

void *calloc(size_t n, size_t size)
{
    return may_have(n * size) ? __libc_calloc(n, size) : NULL;
}

void free(void *p)
{
    size_t had = p && is_limited() ? malloc_usable_size(p) : 0;

    __atomic_add_fetch(&budget, had < LARGE ? had : 0, __ATOMIC_SEQ_CST);
    __libc_free(p);
}

/* Both are there for a moment. */
void *realloc(void *p, size_t n)
{
    size_t had = p && is_limited() ? malloc_usable_size(p) : 0;

    if (!may_have(n)) {
        return NULL;
    }
    if (is_limited() && had < LARGE) {
        __atomic_add_fetch(&budget, had, __ATOMIC_SEQ_CST);
    }
    return __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n)
{
    return may_have(n) ? __libc_memalign(align, n) : NULL;
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    *p = memalign(align, n);
    return *p ? 0 : ENOMEM;
}
#endif

/* ---- calls ----------------------------------------------------------------------------------- */

typedef struct {
    FfMemory *m;
    char *map;
    int fd; /* of a memfd, or the file of a snapshot */
    char *dir, *path;
    FfArray *a;
    uint64_t *at; /* its mapping */
    FfVolatile *v;
} Short;

typedef int Call(Short *s);

/* CALL succeeds when there is enough memory, and is -ENOMEM before; BEFORE (can be NULL) each time
 * has all. */
static void expect_short(Short *s, const char *name, Call *before, Call *fn)
{
    int64_t n = 0;
    int rc;

    do {
        g_assert_cmpint(before ? before(s) : 0, ==, 0);
        set_budget(n);
        rc = fn(s);
        set_budget(NO_BUDGET);
        if (rc < 0 && rc != -ENOMEM) {
            g_error("%s with %" PRId64 " bytes: %d: %s", name, n, rc, ff_last_error());
        }
        n += STEP;
    } while (rc < 0 && n < MOST);
    g_test_message("%s: %" PRId64 " bytes", name, n - STEP);
    g_assert_cmpint(rc, >=, 0);
    g_assert_cmpint(n, >, 2 * STEP); /* it has asked */
}

/* FN needs no memory. */
static void expect_none(Short *s, Call *fn)
{
    set_budget(0);
    int rc = fn(s);
    set_budget(NO_BUDGET);
    call(rc);
}

#define SHORT(s, before, fn) expect_short(s, #fn, before, fn)

static bool skips(void)
{
    FfMemory *m = NULL;
    int rc = IS_SANITIZED ? -ENOSYS : ff_memory_new(0, &m);

    if (rc < 0) {
        g_test_skip(IS_SANITIZED ? "malloc() is a sanitizer's" : ff_last_error());
    }
    ff_memory_free(m);
    return rc < 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int new_memory(Short *s)
{
    return ff_memory_new(0, &s->m);
}

static int add_region(Short *s)
{
    return ff_region_add(s->m, s->map, LEN, -1, 0);
}

static int add_file(Short *s)
{
    return ff_region_add(s->m, s->map + LEN, LEN, s->fd, 0);
}

static int remove_page(Short *s)
{
    return ff_region_remove(s->m, s->map + 8 * PS, PS);
}

static int discard(Short *s)
{
    return ff_region_discard(s->m, s->map + 4 * PS, PS);
}

static int prepare(Short *s)
{
    const FfSnapshotOptions o = {.size = sizeof(o), .buffer = 1 << 20};

    return ff_snapshot_prepare(s->m, &o);
}

static int begin(Short *s)
{
    return ff_snapshot_begin(s->m);
}

static int begin_at_once(Short *s)
{
    ff_snapshot_cancel(s->m);
    return begin(s);
}

static int cancel(Short *s)
{
    return ff_snapshot_cancel(s->m);
}

/* Each has its old content kept. */
static int write_pages(Short *s)
{
    for (size_t i = 16; i < 32; i++) {
        s->map[i * PS]++;
        s->map[LEN + i * PS]++;
    }
    return 0;
}

static int again(Short *s)
{
    int rc = prepare(s);

    return rc < 0 ? rc : begin(s);
}

/* It may have begun. */
static int cancel_and_again(Short *s)
{
    ff_snapshot_cancel(s->m);
    return again(s);
}

static int wait_after(Short *s, int rc)
{
    return rc < 0 ? rc : ff_snapshot_wait(s->m, NULL);
}

static int save_fd(Short *s)
{
    return wait_after(s, ff_snapshot_save_fd(s->m, s->fd));
}

static int save_path(Short *s)
{
    return wait_after(s, ff_snapshot_save_path(s->m, s->path));
}

static int see_page(void *opaque, void *addr, const void *data, size_t len)
{
    return 0;
}

static int save_pages(Short *s)
{
    return wait_after(s, ff_snapshot_save_pages(s->m, see_page, NULL));
}

static int end_memory(Short *s)
{
    ff_memory_free(s->m);
    return 0;
}

static void make_map(Short *s)
{
    s->map = mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(s->map != MAP_FAILED);
    s->fd = memfd_create("short", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(s->fd, LEN), ==, 0);
    g_assert_true(mmap(s->map + LEN, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, s->fd,
                       0) == s->map + LEN);
    memset(s->map, 5, 2 * LEN);
}

static void make_dir(Short *s)
{
    s->dir = g_dir_make_tmp("short-XXXXXX", NULL);
    s->path = g_build_filename(s->dir, "file", NULL);
}

static void remove_dir(Short *s)
{
    g_autofree char *log = g_strconcat(s->path, ".redo", NULL);

    g_unlink(s->path);
    g_unlink(log);
    g_assert_cmpint(g_rmdir(s->dir), ==, 0);
    g_free(s->path);
    g_free(s->dir);
}

static void test_snapshots(void)
{
    Short s = {0};

    if (skips()) {
        return;
    }
    make_map(&s);
    make_dir(&s);
    SHORT(&s, NULL, new_memory);
    SHORT(&s, NULL, add_region);
    SHORT(&s, NULL, add_file);
    SHORT(&s, NULL, remove_page);
    SHORT(&s, NULL, prepare);
    expect_none(&s, cancel);
    SHORT(&s, NULL, begin_at_once);
    SHORT(&s, cancel_and_again, save_pages);
    SHORT(&s, cancel_and_again, save_path);
    call(again(&s));
    expect_none(&s, write_pages);
    expect_none(&s, discard);
    close(s.fd);
    s.fd = world_file();
    SHORT(&s, cancel_and_again, save_fd);
    call(again(&s));
    expect_none(&s, end_memory);
    close(s.fd);
    munmap(s.map, 2 * LEN);
    remove_dir(&s);
}

/* ---- ff_fork() ------------------------------------------------------------------------------- */

static int see_memory(void *opaque, const void *arg, size_t len)
{
    const char *map = opaque;

    return map[100 * PS] == 5 ? 0 : 1;
}

static int start_template(Short *s)
{
    return ff_template_start(s->m, see_memory, s->map);
}

static int prepare_child(Short *s)
{
    ff_snapshot_cancel(s->m);
    return ff_fork_prepare(s->m, NULL);
}

static int fork_child(Short *s)
{
    return MIN(ff_fork(s->m, "", 1), 0);
}

static void test_fork(void)
{
    Short s = {0};
    int status;

    if (skips()) {
        return;
    }
    make_map(&s);
    call(new_memory(&s));
    call(add_region(&s));
    SHORT(&s, NULL, start_template);
    SHORT(&s, NULL, prepare_child);
    SHORT(&s, prepare_child, fork_child);
    call(ff_fork_wait(s.m, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    expect_none(&s, end_memory);
    close(s.fd);
    munmap(s.map, 2 * LEN);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

#define BLOCK 65536

static int load(void *opaque, uint64_t block, void *buf)
{
    memset(buf, 1, BLOCK);
    return 0;
}

static int store(void *opaque, uint64_t block, const void *buf)
{
    return 0;
}

static int new_array(Short *s)
{
    const FfArrayFile file = {.size = sizeof(file), .load = load, .store = store};
    const FfArrayOptions o = {.size = sizeof(o), .limit = 8 * BLOCK};

    return ff_array_new(LEN, &file, NULL, &o, &s->a);
}

static int open_array(Short *s)
{
    return ff_array_open(s->path, LEN, NULL, &s->a);
}

static int open_chunks(Short *s)
{
    return ff_array_open_chunks(s->path, LEN, NULL, &s->a);
}

static int map_array(Short *s)
{
    return ff_array_map(s->a, 0, 0, (void **)(void *)&s->at);
}

/* More than there is room for, of an array that has a limit. */
static int change(Short *s)
{
    for (size_t i = 0; i < LEN; i += PS) {
        s->at[i / 8]++;
    }
    return 0;
}

static int commit(Short *s)
{
    return ff_array_commit(s->a);
}

static int drop(Short *s)
{
    return ff_array_abort(s->a);
}

static int invalidate(Short *s)
{
    return ff_array_invalidate(s->a, 0, BLOCK);
}

static int reclaim(Short *s)
{
    return MIN(ff_array_reclaim(s->a, SIZE_MAX), 0);
}

static int unmap_array(Short *s)
{
    return ff_array_unmap(s->a, s->at);
}

static int free_array(Short *s)
{
    ff_array_free(s->a);
    return 0;
}

static void use_array(Short *s, Call *open)
{
    expect_short(s, "open", NULL, open);
    SHORT(s, NULL, map_array);
    expect_none(s, change);
    SHORT(s, change, commit);
    SHORT(s, change, invalidate);
    SHORT(s, change, drop);
    expect_none(s, reclaim);
    expect_none(s, change);
    call(commit(s));
    expect_none(s, unmap_array);
    expect_none(s, free_array);
}

static void test_array(void)
{
    Short s = {0};

    if (!skips()) {
        use_array(&s, new_array);
    }
}

static void test_array_file(void)
{
    Short s = {0};

    if (!skips()) {
        make_dir(&s);
        use_array(&s, open_array);
        SHORT(&s, NULL, open_array); /* which puts what is in the log in its place */
        free_array(&s);
        remove_dir(&s);
    }
}

static void test_array_chunks(void)
{
    Short s = {0};

    if (!skips()) {
        make_dir(&s);
        use_array(&s, open_chunks);
        g_autofree char *command = g_strdup_printf("rm -r '%s'", s.path);
        g_assert_cmpint(system(command), ==, 0);
        remove_dir(&s);
    }
}

static int open_packed(Short *s)
{
    return ff_array_open_zstd(s->path, NULL, &s->a);
}

/* One frame of zeros. */
static void test_array_packed(void)
{
    g_autofree char *zeros = g_malloc0(LEN), *frame = g_malloc(LEN);
    uint8_t table[] = {0x5e, 0x2a, 0x4d, 0x18, 17, 0, 0, 0, 0,    0,    0,    0,   0,
                       0,    0x40, 0,    1,    0,  0, 0, 0, 0xb1, 0xea, 0x92, 0x8f};
    g_autoptr(GByteArray) file = g_byte_array_new();
    Short s = {0};

    if (skips()) {
        return;
    }
    size_t n = ZSTD_compress(frame, LEN, zeros, LEN, 1);
    g_assert_cmpuint(n, <, 65536);
    table[8] = n & 0xff;
    table[9] = (uint8_t)(n >> 8);
    g_byte_array_append(file, (const guint8 *)frame, (guint)n);
    g_byte_array_append(file, table, sizeof(table));
    make_dir(&s);
    g_assert_true(g_file_set_contents(s.path, (const char *)file->data, file->len, NULL));
    SHORT(&s, NULL, open_packed);
    SHORT(&s, NULL, map_array);
    g_assert_cmpuint(s.at[7], ==, 0);
    change(&s);
    SHORT(&s, change, drop);
    expect_none(&s, unmap_array);
    expect_none(&s, free_array);
    remove_dir(&s);
}

/* ---- volatile ranges ------------------------------------------------------------------------- */

static int regenerate(void *opaque, size_t page, void *buf)
{
    return 0;
}

static int new_range(Short *s)
{
    return ff_volatile_new(LEN, regenerate, NULL, NULL, &s->v);
}

static int watch(Short *s)
{
    return ff_volatile_watch(s->v, s->fd, POLLIN);
}

static int use_range(Short *s)
{
    const char *p = ff_volatile_addr(s->v);

    for (size_t i = 0; i < LEN; i += PS) {
        g_assert_cmpint(p[i], ==, 0);
    }
    return ff_volatile_unpin(s->v, 0, 0);
}

static int limit_range(Short *s)
{
    return ff_volatile_set_limit(s->v, LEN / 2);
}

static int purge(Short *s)
{
    g_assert_cmpint(ff_volatile_purge(s->v, 8 * PS), ==, 8 * PS);
    return 0;
}

static int free_range(Short *s)
{
    ff_volatile_free(s->v);
    return 0;
}

static void test_volatile(void)
{
    int fds[2];
    Short s = {0};

    if (skips()) {
        return;
    }
    g_assert_cmpint(pipe(fds), ==, 0);
    s.fd = fds[0];
    SHORT(&s, NULL, new_range);
    SHORT(&s, NULL, watch);
    expect_none(&s, use_range);
    expect_none(&s, purge);
    expect_none(&s, limit_range);
    expect_none(&s, use_range);
    expect_none(&s, free_range);
    close(fds[0]);
    close(fds[1]);
}

/* ---- RLIMIT_AS ------------------------------------------------------------------------------- */

/* As glibc does it: all calls, with N bytes of addresses more than now. */
static void use_all(Short *s, rlim_t n)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents("/proc/self/statm", &text, NULL, NULL));
    const rlim_t now = g_ascii_strtoull(text, NULL, 10) * PS + n;
    const struct rlimit limit = {now, now};
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    if (new_memory(s) == 0 && add_region(s) == 0 && add_file(s) == 0 && again(s) == 0) {
        save_path(s);
        write_pages(s);
    }
    if (new_array(s) == 0 && map_array(s) == 0) {
        change(s);
        commit(s);
    }
    if (open_array(s) == 0 && map_array(s) == 0) {
        change(s);
        commit(s);
        drop(s);
    }
    new_range(s);
}

static void test_limit(void)
{
    Short s = {0};
    int status;

    if (skips()) {
        return;
    }
    make_map(&s);
    make_dir(&s);
    for (rlim_t n = 0; n < 128 << 20; n += MAX(n / 8, 100000)) {
        pid_t pid = fork();
        if (pid == 0) {
            use_all(&s, n);
            _exit(0);
        }
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        if (status) {
            g_error("with %" PRIu64 " bytes: status %#x", (uint64_t)n, (unsigned)status);
        }
    }
    close(s.fd);
    munmap(s.map, 2 * LEN);
    remove_dir(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/short/snapshots", test_snapshots);
    g_test_add_func("/libfarfault/short/fork", test_fork);
    g_test_add_func("/libfarfault/short/array", test_array);
    g_test_add_func("/libfarfault/short/array-file", test_array_file);
    g_test_add_func("/libfarfault/short/array-chunks", test_array_chunks);
    g_test_add_func("/libfarfault/short/array-packed", test_array_packed);
    g_test_add_func("/libfarfault/short/volatile", test_volatile);
    g_test_add_func("/libfarfault/short/limit", test_limit);
    return g_test_run();
}
