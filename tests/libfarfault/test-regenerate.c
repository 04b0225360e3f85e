/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volatile ranges with a callback: memory that is regenerated while somebody touches it, in the
 * program and in system calls, with purges all the time; limits, failures, children. FF_ROUNDS says
 * how long the storms are.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/libfarfault/range.h"

static uint64_t word_of(size_t page, size_t i)
{
    return (page * 512 + i + 1) * 0x9e3779b97f4a7c15ull;
}

typedef struct {
    size_t page_size;
    unsigned calls;     /* atomic */
    int fail;           /* atomic: the negative errno of page 3 */
    FfVolatile *nested; /* atomic: page N needs page N + 1 of this, if N is even */
} Source;

static Source source(size_t page_size)
{
    return (Source){.page_size = page_size};
}

static int regenerate(void *opaque, size_t page, void *buf)
{
    Source *s = opaque;
    int fail = __atomic_load_n(&s->fail, __ATOMIC_RELAXED);

    __atomic_fetch_add(&s->calls, 1, __ATOMIC_RELAXED);
    if (page == 3 && fail) {
        return fail;
    }
    FfVolatile *nested = __atomic_load_n(&s->nested, __ATOMIC_RELAXED);
    if (nested && page % 2 == 0) {
        const volatile uint64_t *other =
            (const volatile uint64_t *)ff_volatile_addr(nested) + (page + 1) * s->page_size / 8;
        g_assert_cmphex(*other, ==, word_of((page + 1) * s->page_size / PS, 0));
    }
    for (size_t i = 0; i < s->page_size / 8; i++) {
        ((uint64_t *)buf)[i] = word_of(page * s->page_size / PS, i);
    }
    return 0;
}

/* NULL: skipped. */
static FfVolatile *regenerated(Source *s, size_t len, size_t limit)
{
    FfVolatileOptions o = {.size = sizeof(o), .page_size = s->page_size, .limit = limit};
    FfVolatile *v;
    int rc = ff_volatile_new(len, regenerate, s, &o, &v);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        return NULL;
    }
    call(rc);
    return v;
}

static void assert_right(const void *data, size_t offset, size_t len)
{
    const uint64_t *words = data;

    for (size_t i = 0; i < len / 8; i++) {
        g_assert_cmphex(words[i], ==, word_of(0, offset / 8 + i));
    }
}

static void test_regenerate(gconstpointer data)
{
    Source s = source(GPOINTER_TO_SIZE(data));
    size_t len = 16 * s.page_size;
    FfVolatile *v = regenerated(&s, len, 0);

    if (!v) {
        return;
    }
    g_assert_cmpuint(bytes_of(v), ==, 0);
    assert_right(ff_volatile_addr(v), 0, len);
    g_assert_cmpuint(__atomic_load_n(&s.calls, __ATOMIC_RELAXED), ==, 16);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 0); /* it is pinned */
    call(ff_volatile_unpin(v, s.page_size, 2 * s.page_size));
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, (ssize_t)(2 * s.page_size));
    g_assert_cmpuint(bytes_of(v), ==, 14 * s.page_size);
    assert_right(ff_volatile_addr(v), 0, len); /* unpinned */
    g_assert_cmpuint(__atomic_load_n(&s.calls, __ATOMIC_RELAXED), ==, 18);
    g_assert_cmpint(ff_volatile_purge(v, ALL), ==, (ssize_t)(2 * s.page_size));
    g_assert_cmpint(ff_volatile_pin(v, 0, 0), ==, 0); /* nothing is lost */
    assert_right(ff_volatile_addr(v), 0, len);
    g_assert_cmpuint(__atomic_load_n(&s.calls, __ATOMIC_RELAXED), ==, 20);
    ff_volatile_free(v);
}

/* A purge of a part of a huge page can leave zeros. */
static void test_no_huge_pages(void)
{
    Source s = source(PS);
    FfVolatile *v = regenerated(&s, 4 << 20, 0);
    g_autofree char *text = NULL, *start = NULL;

    if (!v) {
        return;
    }
    start = g_strdup_printf("%" G_GINT64_MODIFIER "x-", (guint64)(uintptr_t)ff_volatile_addr(v));
    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    const char *at = strstr(text, start), *flags = at ? strstr(at, "VmFlags:") : NULL;
    g_assert_nonnull(flags);
    g_autofree char *line = g_strndup(flags, strcspn(flags, "\n"));
    bool has = g_file_test("/sys/kernel/mm/transparent_hugepage", G_FILE_TEST_IS_DIR);
    g_assert_cmpint(has, ==, strstr(line, " nh") != NULL);
    ff_volatile_free(v);
}

static void test_nested(void)
{
    Source s = source(PS);
    FfVolatile *v = regenerated(&s, 64 * PS, 0);

    if (v) {
        __atomic_store_n(&s.nested, v, __ATOMIC_RELAXED);
        assert_right(ff_volatile_addr(v), 0, 64 * PS);
        g_assert_cmpuint(__atomic_load_n(&s.calls, __ATOMIC_RELAXED), ==, 64);
        ff_volatile_free(v);
    }
}

static void test_fails(void)
{
    Source s = source(PS);
    s.fail = -EIO;
    FfVolatile *v = regenerated(&s, 8 * PS, 0);
    FfVolatileStats stats = {.size = sizeof(stats)};
    int fd = world_file();

    if (!v) {
        close(fd);
        return;
    }
    const char *map = ff_volatile_addr(v);
    g_assert_true(world_is_bus(map + 3 * PS + 8));
    g_assert_true(world_is_bus(map + 3 * PS));
    g_assert_false(world_is_bus(map + 2 * PS));
    g_assert_false(world_is_bus(map + 4 * PS));
    g_assert_cmpint(pwrite(fd, map + 3 * PS, PS, 0), ==, -1); /* an error of that call */
    call(ff_volatile_stats(v, &stats));
    g_assert_cmpuint(stats.failed, ==, 1);
    g_assert_cmpuint(stats.regenerated, ==, 2);
    __atomic_store_n(&s.fail, 0, __ATOMIC_RELAXED);
    g_assert_true(world_is_bus(map + 3 * PS)); /* until somebody says so */
    g_assert_cmpint(madvise(ff_volatile_addr(v), 8 * PS, MADV_DONTNEED), ==, 0);
    g_assert_true(world_is_bus(map + 3 * PS + 16)); /* the library */
    call(ff_volatile_purge(v, ALL));
    assert_right(map, 0, 8 * PS);
    close(fd);
    ff_volatile_free(v);
}

/* ---- storms ---------------------------------------------------------------------------------- */

typedef struct {
    FfVolatile *v;
    size_t len;
    bool *end; /* atomic */
    int fd;
} Reader;

static gpointer purge_all_the_time(gpointer opaque)
{
    Reader *r = opaque;

    while (!__atomic_load_n(r->end, __ATOMIC_RELAXED)) {
        call(ff_volatile_purge(r->v, ALL));
    }
    return NULL;
}

static gpointer read_all_the_time(gpointer opaque)
{
    Reader *r = opaque;

    while (!__atomic_load_n(r->end, __ATOMIC_RELAXED)) {
        assert_right(ff_volatile_addr(r->v), 0, r->len); /* each word: nothing is torn */
    }
    return NULL;
}

/* write() of the range to a file, read() of the file: never EFAULT, never another byte. */
static void write_out(Reader *r)
{
    g_autofree char *back = g_malloc(r->len);

    for (size_t at = 0; at < r->len;) {
        ssize_t n = pwrite(r->fd, (char *)ff_volatile_addr(r->v) + at, r->len - at, (off_t)at);
        g_assert_cmpint(n, >, 0);
        at += (size_t)n;
    }
    g_assert_cmpint(pread(r->fd, back, r->len, 0), ==, (ssize_t)r->len);
    assert_right(back, 0, r->len);
}

static void test_storm(gconstpointer data)
{
    Source s = source(GPOINTER_TO_SIZE(data));
    bool end = false;
    FfVolatileStats stats = {.size = sizeof(stats)};
    Reader r = {regenerated(&s, 64 * PS, 0), 64 * PS, &end, world_file()};

    if (!r.v) {
        close(r.fd);
        return;
    }
    call(ff_volatile_unpin(r.v, 0, 0));
    GThread *purger = g_thread_new("purger", purge_all_the_time, &r);
    GThread *reader = g_thread_new("reader", read_all_the_time, &r);
    for (unsigned i = 0; i < world_rounds(20) || stats.purged < 200; i++) {
        write_out(&r);
        call(ff_volatile_stats(r.v, &stats));
    }
    __atomic_store_n(&end, true, __ATOMIC_RELAXED);
    g_thread_join(purger);
    g_thread_join(reader);
    call(ff_volatile_stats(r.v, &stats));
    g_assert_cmpuint(stats.failed, ==, 0);
    g_test_message("%" G_GUINT64_FORMAT " pages purged, %" G_GUINT64_FORMAT " regenerated",
                   stats.purged, stats.regenerated);
    close(r.fd);
    ff_volatile_free(r.v);
}

/* ---- limits, pressure ------------------------------------------------------------------------ */

static void test_limit(void)
{
    Source s = source(PS);
    FfVolatile *v = regenerated(&s, 1024 * PS, 64 * PS);

    if (!v) {
        return;
    }
    call(ff_volatile_unpin(v, 0, 0));
    for (size_t i = 0; i < 1024; i++) {
        assert_right((char *)ff_volatile_addr(v) + i * PS, i * PS, PS);
        g_assert_cmpuint(bytes_of(v), <=, 64 * PS);
    }
    call(ff_volatile_set_limit(v, 32 * PS));
    g_assert_cmpuint(bytes_of(v), <=, 32 * PS);
    call(ff_volatile_set_limit(v, 1)); /* never so few that nobody gets on */
    assert_right(ff_volatile_addr(v), 0, 1024 * PS);
    g_assert_cmpuint(bytes_of(v), <=, 16 * PS);
    ff_volatile_free(v);
}

static gpointer touch_page(gpointer at)
{
    return GSIZE_TO_POINTER(*(const volatile uint64_t *)at);
}

static void fill_two_at_once(void)
{
    Source s = source(PS);
    FfVolatile *v = regenerated(&s, 64 * PS, 16 * PS);

    if (v) {
        uint64_t *map = ff_volatile_addr(v);
        call(ff_volatile_unpin(v, 0, 0));
        assert_right(map, 0, 15 * PS);
        GThread *thread = g_thread_new("toucher", touch_page, map + 15 * PS / 8);
        touch_page(map + 16 * PS / 8);
        g_thread_join(thread);
        g_assert_cmpuint(bytes_of(v), <=, 16 * PS);
        ff_volatile_free(v);
    }
}

/* Of two pages, for one of which there is room, one is about to be placed when the other one is. */
static void test_limit_at_once(void)
{
    if (g_test_subprocess()) {
        fill_two_at_once();
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("libfarfault-XXXXXX", NULL);
    g_autofree char *faults = g_strdup_printf("%s;*/*/call/uffd-copy#16=delay:300", dir);
    g_autofree char *done = g_build_filename(dir, "fault-0", NULL);
    g_setenv("FARFAULT_FAULTS", faults, TRUE); /* of a build for tests */
    g_test_trap_subprocess(NULL, 0, 0);
    g_unsetenv("FARFAULT_FAULTS");
    g_test_trap_assert_passed();
    remove(done);
    g_assert_cmpint(remove(dir), ==, 0);
}

static void unpin_all(FfVolatile *v)
{
    ff_volatile_unpin(v, 0, 0);
}

/* A child that does not have the memory cannot let go of it. */
static void test_child_pins(void)
{
    Source s = source(PS);
    FfVolatile *v = regenerated(&s, 8 * PS, 0);

    if (v) {
        fill(v, 0, 8, 7);
        run_child(unpin_all, v);
        g_assert_cmpint(status(v, 0, 0), ==, 1);
        g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 0);
        assert_holds(v, 0, 8, 7);
        ff_volatile_free(v);
    }
}

/* All that the program maps is locked into memory, and filled by the kernel: but for this. */
static void test_locked(void)
{
    Source s = source(PS);

    if (!world_lock_memory()) {
        return;
    }
    FfVolatile *v = regenerated(&s, 8 * PS, 0);
    if (v) {
        assert_right(ff_volatile_addr(v), 0, 8 * PS);
        g_assert_cmpint(mlock(ff_volatile_addr(v), 8 * PS), ==, 0);
    }
    g_assert_cmpint(munlockall(), ==, 0);
    if (v) {
        g_assert_cmpint(mlock(ff_volatile_addr(v), 8 * PS), ==, 0);
        unpin(v, 2, 4);
        g_assert_cmpint(ff_volatile_purge(v, ALL), ==, 4 * PS);
        g_assert_cmpuint(bytes_of(v), ==, 4 * PS);
        assert_right(ff_volatile_addr(v), 0, 8 * PS);
        ff_volatile_free(v);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/libfarfault/regenerate/4K", GSIZE_TO_POINTER(PS), test_regenerate);
    g_test_add_data_func("/libfarfault/regenerate/64K", GSIZE_TO_POINTER(16 * PS), test_regenerate);
    g_test_add_data_func("/libfarfault/regenerate/2M", GSIZE_TO_POINTER(512 * PS), test_regenerate);
    g_test_add_func("/libfarfault/regenerate/nested", test_nested);
    g_test_add_func("/libfarfault/regenerate/no-huge-pages", test_no_huge_pages);
    g_test_add_func("/libfarfault/regenerate/fails", test_fails);
    g_test_add_data_func("/libfarfault/regenerate/storm-4K", GSIZE_TO_POINTER(PS), test_storm);
    g_test_add_data_func("/libfarfault/regenerate/storm-64K", GSIZE_TO_POINTER(16 * PS),
                         test_storm);
    g_test_add_func("/libfarfault/regenerate/limit", test_limit);
    g_test_add_func("/libfarfault/regenerate/limit-at-once", test_limit_at_once);
    g_test_add_func("/libfarfault/regenerate/child-pins", test_child_pins);
    g_test_add_func("/libfarfault/regenerate/locked", test_locked);
    return g_test_run();
}
