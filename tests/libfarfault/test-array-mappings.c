/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mappings of an array: changes lie over the content in all of them, also in those that are made
 * later, until they are dropped or stored; whichever address is touched, at an end, beside a gap or
 * beside another mapping, is the right block; store() touches what is not loaded; and what is
 * written while others store, though nobody should, is not lost.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

/* ---- what lies over the content -------------------------------------------------------------- */

static void test_overlay(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    touch_by_calls(mode->by_calls);
    uint64_t *one = file_map(&f, 100, 4);
    /* What is only read is the content, and not changed. */
    g_assert_cmpuint(peek(one), ==, 100);
    g_assert_cmpuint(peek(one + 3 * WORDS), ==, 103);
    assert_states(&f, 100, "LEEL", "----");
    /* The first writes, to what was read and to what was not. */
    poke(one, 10);
    poke(one + 2 * WORDS, 12);
    g_assert_cmpuint(peek(one + 1), ==, 100);
    g_assert_cmpuint(peek(one + 2 * WORDS + 1), ==, 102);
    /* A mapping that is made now shows them, without a load: those of one it was not touched in. */
    uint64_t *two = file_map(&f, 100, 4);
    g_assert_cmpuint(file_mappings(&f, 100), ==, 1);
    g_assert_cmpuint(peek(two), ==, 10);
    g_assert_cmpuint(peek(two + 2 * WORDS), ==, 12);
    g_assert_cmpuint(file_mappings(&f, 100), ==, 2);
    g_assert_cmpuint(file_mappings(&f, 103), ==, 1);
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, 3);
    /* A write by the second is there in the first at once, and the other way round. */
    poke(two + 1, 11);
    g_assert_cmpuint(peek(one + 1), ==, 11);
    poke(one + 2 * WORDS + 1, 13);
    g_assert_cmpuint(peek(two + 2 * WORDS + 1), ==, 13);
    /* Dropped: the content shows again in both, and each block is loaded once for both. */
    poke(one + WORDS, 14); /* the second has not touched that */
    call(ff_array_abort(f.a));
    assert_states(&f, 100, "EEEL", "----");
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(file_mappings(&f, 100 + i), ==, 0);
        g_assert_cmpuint(peek(one + i * WORDS), ==, 100 + i);
        g_assert_cmpuint(peek(two + i * WORDS + 1), ==, 100 + i);
        g_assert_cmpuint(file_mappings(&f, 100 + i), ==, 2);
        g_assert_cmpuint(file_get(&f, &f.loads[100 + i]), ==, 2);
    }
    g_assert_cmpuint(file_get(&f, &f.loads[103]), ==, 1);
    /* Stored: one that both have, one that only one has. Nothing is loaded again. */
    poke(two, 20);
    poke(two + 3 * WORDS, 23);
    call(ff_array_unmap(f.a, one));
    g_assert_cmpuint(file_mappings(&f, 100), ==, 1);
    uint64_t *three = file_map(&f, 100, 1);
    g_assert_cmpuint(peek(three), ==, 20);
    unsigned loads = file_get(&f, &f.n_loads);
    call(ff_array_commit(f.a));
    assert_states(&f, 100, "LLLL", "----");
    g_assert_cmpuint(f.stores[100] + f.stores[103], ==, 2);
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(peek(three), ==, 20);
    g_assert_cmpuint(peek(two + 3 * WORDS), ==, 23);
    g_assert_cmpuint(file_get(&f, &f.n_loads), ==, loads);
    /* The content itself: a change that comes over it now, and is dropped, shows that. */
    poke(three, 30);
    call(ff_array_invalidate(f.a, 100 * PS, PS));
    g_assert_cmpuint(peek(two), ==, 20);
    g_assert_cmpuint(peek(three + 1), ==, 100);
    /* Without any mapping what was changed stays. */
    poke(two, 40);
    call(ff_array_unmap(f.a, two));
    call(ff_array_unmap(f.a, three));
    assert_states(&f, 100, "L", "d");
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.words[100 * WORDS], ==, 40);
    file_free(&f);
}

/* ---- which mapping, which block -------------------------------------------------------------- */

#define MAPS 16

typedef struct {
    char *at;          /* NULL: unmapped */
    uint64_t first, n; /* blocks */
} Mapped;

static int by_address(const void *a, const void *b)
{
    const Mapped *one = a, *two = b;

    return (one->at > two->at) - (one->at < two->at);
}

/* The first and the last word of M, and what is on either side of each block's edge. */
static void assert_ends(const Mapped *m)
{
    for (uint64_t i = 0; i < m->n; i++) {
        uint64_t *block = (uint64_t *)(void *)m->at + i * WORDS;
        g_assert_cmpuint(peek(block + WORDS - 1), ==, m->first + i);
        g_assert_cmpuint(peek(block), ==, m->first + i);
    }
}

static Mapped map_some(File *f, unsigned i)
{
    /* No two neighbours in the array, so that the next mapping's block is not the next one. */
    Mapped m = {.first = i * 37 % (BLOCKS - 4), .n = 1 + i % 3};

    m.at = (char *)file_map(f, m.first, m.n);
    return m;
}

static void test_lookup(gconstpointer data)
{
    const Mode *mode = data;
    Mapped maps[MAPS];
    unsigned adjacent = 0;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    touch_by_calls(mode->by_calls);
    for (unsigned i = 0; i < MAPS; i++) {
        maps[i] = map_some(&f, i);
    }
    qsort(maps, MAPS, sizeof(*maps), by_address);
    for (unsigned i = 0; i + 1 < MAPS; i++) {
        char *end = maps[i].at + maps[i].n * PS;
        g_assert_true(end <= maps[i + 1].at);
        adjacent += end == maps[i + 1].at;
    }
    g_assert_cmpuint(adjacent, >, 0);     /* the kernel fills from above */
    for (unsigned i = 0; i < MAPS; i++) { /* the upper end first, of every other one first */
        assert_ends(&maps[(i * 2 + i / (MAPS / 2)) % MAPS]);
    }
    /* Gaps: what is beside them is as it was, and is what it was when it is loaded again. */
    for (unsigned i = 1; i < MAPS; i += 2) {
        g_assert_cmpint(ff_array_unmap(f.a, maps[i].at + PS / 2), ==, -EINVAL);
        call(ff_array_unmap(f.a, maps[i].at));
        g_assert_cmpint(ff_array_unmap(f.a, maps[i].at), ==, -EINVAL);
        maps[i].at = NULL;
    }
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), >, 0);
    for (unsigned i = 0; i < MAPS; i += 2) {
        assert_ends(&maps[i]);
    }
    /* Others in their place, of other blocks. */
    for (unsigned i = 1; i < MAPS; i += 2) {
        maps[i] = map_some(&f, MAPS + i);
    }
    for (unsigned i = 0; i < MAPS; i++) {
        assert_ends(&maps[i]);
    }
    /* A write at an end is of that block alone. */
    for (unsigned i = 0; i < MAPS; i++) {
        poke((uint64_t *)(void *)maps[i].at + maps[i].n * WORDS - 1, maps[i].first + maps[i].n - 1);
    }
    call(ff_array_commit(f.a));
    for (unsigned i = 0; i < BLOCKS; i++) {
        bool is_end = false;
        for (unsigned k = 0; k < MAPS; k++) {
            is_end |= i == maps[k].first + maps[k].n - 1;
        }
        g_assert_cmpuint(f.stores[i], ==, is_end);
    }
    for (unsigned i = 0; i < MAPS; i++) {
        call(ff_array_unmap(f.a, maps[i].at));
    }
    file_free(&f);
}

/* ---- in a call of the program's -------------------------------------------------------------- */

static gpointer invalidate(gpointer opaque)
{
    const File *f = opaque;

    return GINT_TO_POINTER(ff_array_invalidate(f->a, 0, PS));
}

/* store() touches a block that is not loaded, and one that is; and waits for a thread that
 * invalidates, which is told that it is not the time. */
static void in_store(File *f, uint64_t block, bool store)
{
    if (!store) {
        return;
    }
    g_assert_cmpuint(*(const volatile uint64_t *)(f->nested + 20 * WORDS), ==, 20);
    g_assert_cmpuint(*(const volatile uint64_t *)(f->nested + block * WORDS), ==, 1000 + block);
    GThread *other = g_thread_new("invalidate", invalidate, f);
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(other)), ==, -EBUSY);
}

static void test_in_store(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, PS, 0, mode->flags | FF_ARRAY_RANDOM)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    p[2 * WORDS] = 1002, p[5 * WORDS] = 1005;
    assert_states(&f, 20, "E", "-");
    f.nested = p; /* of store() alone: loads of block 8 and later look at it as little */
    file_during(&f, in_store);
    call(ff_array_commit(f.a));
    assert_states(&f, 20, "L", "-");
    g_assert_cmpuint(f.n_stores, ==, 2);
    g_assert_cmpuint(f.words[5 * WORDS], ==, 1005);
    call(ff_array_invalidate(f.a, 0, PS)); /* now it is */
    file_free(&f);
}

/* ---- writing meanwhile ----------------------------------------------------------------------- */

#define LIMIT 4

/* Two mappings of all blocks; what is written to block N there is N, and ROUND. */
typedef struct {
    uint64_t *one, *two;
    size_t words;
    uint64_t round;
} Meanwhile;
static Meanwhile meanwhile;

/* FALSE: skipped. Of blocks of 4 KiB, or of huge pages. */
static bool start_meanwhile(File *f, const Mode *mode, HugePages **pool)
{
    bool huge = mode->flags & FF_ARRAY_HUGE;

    *pool = huge ? hugepages_new(LIMIT) : NULL;
    if ((huge && !*pool) ||
        !file_new(f, huge ? HUGEPAGE : PS, LIMIT, mode->flags | FF_ARRAY_RANDOM)) {
        hugepages_free(*pool);
        return false;
    }
    touch_by_calls(mode->by_calls);
    meanwhile = (Meanwhile){file_map(f, 0, 0), file_map(f, 0, 0), f->block_size / 8, 0};
    return true;
}

#define CHANGED 8

static uint64_t written(uint64_t block)
{
    return meanwhile.round * 1000 + block;
}

/* Its first word in one mapping, its last in the other; that is a page of its own in a huge one. */
static void write_block(uint64_t block)
{
    poke(meanwhile.one + block * meanwhile.words, written(block));
    poke(meanwhile.two + (block + 1) * meanwhile.words - 1, written(block));
}

/* Blocks 0 to CHANGED - 1, some of which leave memory. */
static void write_blocks(void)
{
    meanwhile.round++;
    for (uint64_t i = 0; i < CHANGED; i++) {
        write_block(i);
    }
}

/* Others have had their room in between. */
static void assert_written(void)
{
    for (uint64_t i = CHANGED; i < CHANGED + LIMIT + 4; i++) {
        g_assert_cmpuint(peek(meanwhile.two + i * meanwhile.words), ==, i);
    }
    for (uint64_t i = 0; i < CHANGED; i++) {
        g_assert_cmpuint(peek(meanwhile.two + i * meanwhile.words), ==, written(i));
        g_assert_cmpuint(peek(meanwhile.one + (i + 1) * meanwhile.words - 1), ==, written(i));
    }
}

/* It is there, and the next commit stores it. */
static void assert_kept(File *f)
{
    assert_written();
    file_during(f, NULL);
    call(ff_array_commit(f->a));
    for (uint64_t i = 0; i < CHANGED; i++) {
        g_assert_cmpuint(f->words[i * meanwhile.words], ==, written(i));
        g_assert_cmpuint(f->words[(i + 1) * meanwhile.words - 1], ==, written(i));
    }
    assert_written();
}

/* What was read of the block is stored a moment later. */
static void write_in_store(File *f, uint64_t block, bool store)
{
    if (store) {
        write_block(block);
    }
}

static void test_written_in_store(gconstpointer data)
{
    const Mode *mode = data;
    HugePages *pool;
    File f;

    if (!start_meanwhile(&f, mode, &pool)) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) { /* some of them are in memory then, some in the log */
        write_blocks();
        meanwhile.round++;
        file_during(&f, write_in_store);
        call(ff_array_commit(f.a));
        assert_kept(&f);
    }
    file_free(&f);
    hugepages_free(pool);
}

static void test_written_before_mark(gconstpointer data)
{
    const Mode *mode = data;
    HugePages *pool;
    File f;

    if (!start_meanwhile(&f, mode, &pool)) {
        return;
    }
    write_blocks();
    call(ff_array_writeout(f.a, FF_ARRAY_STORE));
    write_blocks(); /* which leave memory again, to the log */
    call(ff_array_unmap(f.a, meanwhile.two));
    meanwhile.two = file_map(&f, 0, 0);
    call(ff_array_writeout(f.a, FF_ARRAY_MARK));
    assert_kept(&f);
    file_free(&f);
    hugepages_free(pool);
}

/* One byte of the array's file was written. */
static char *touched_in_write;
static ino_t touched_ino;

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at);
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at)
{
    ssize_t done = syscall(SYS_pwrite64, fd, data, n, at);
    struct stat st;

    if (touched_in_write && fstat(fd, &st) == 0 && st.st_ino == touched_ino) {
        touched_in_write[0] = 2;
    }
    return done;
}

/* The same with a log. */
static void test_written_in_file(gconstpointer data)
{
    const Mode *mode = data;
    g_autofree char *folder = g_dir_make_tmp("meanwhile-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "file", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    FfArrayOptions o = {.size = sizeof(o), .block_size = PS, .flags = mode->flags};
    FfArray *a;
    void *at;
    struct stat st;
    int rc = ff_array_open(path, 16 * PS, &o, &a);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        rmdir(folder);
        return;
    }
    call(rc);
    call(ff_array_map(a, 0, 0, &at));
    char *p = at;
    p[0] = 1;
    g_assert_cmpint(stat(path, &st), ==, 0);
    touched_ino = st.st_ino;
    touched_in_write = p;
    call(ff_array_commit(a));
    touched_in_write = NULL;
    ff_array_reclaim(a, SIZE_MAX);
    g_assert_cmpint(p[0], ==, 2);
    call(ff_array_commit(a));
    ff_array_reclaim(a, SIZE_MAX);
    g_assert_cmpint(p[0], ==, 2);
    p[0] = 3;
    call(ff_array_abort(a));
    g_assert_cmpint(p[0], ==, 2);
    ff_array_free(a);
    unlink(path);
    unlink(log);
    rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("overlay", test_overlay, 4);
    add_modes("lookup", test_lookup, 4);
    add_modes("in-store", test_in_store, 2);
    add_modes("written-in-store", test_written_in_store, 4);
    add_huge_modes("written-in-store", test_written_in_store, 4);
    add_modes("written-before-mark", test_written_before_mark, 4);
    add_huge_modes("written-before-mark", test_written_before_mark, 4);
    add_modes("written-in-file", test_written_in_file, 2);
    return g_test_run();
}
