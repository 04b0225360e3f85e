/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of files, and of folders of chunks: what was committed is there when they are opened
 * again, and nothing else. The calls that change the file and its log are recorded, and each prefix
 * of them is replayed on a disk that has lost all, some or none of what was not synced; what is
 * opened then is as of a commit, and of none that is older than the last that returned. And a
 * program that commits all the time is killed. FF_ROUNDS says how often.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"
#include "tests/libfarfault/record.h"

#define PS 4096u
#define BLOCK (4 * PS)
#define PAGES 96u
#define LEN (PAGES * (uint64_t)PS - 100)

static char *new_directory(void)
{
    char *dir = g_dir_make_tmp("libfarfault-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return dir;
}

static void remove_all(const char *path)
{
    GDir *d = g_dir_open(path, 0, NULL);

    for (const char *name; d && (name = g_dir_read_name(d));) {
        g_autofree char *one = g_build_filename(path, name, NULL);
        remove_all(one);
    }
    g_clear_pointer(&d, g_dir_close);
    g_assert_cmpint(remove(path), ==, 0);
}

typedef int Open(const char *path, uint64_t len, const FfArrayOptions *options, FfArray **result);

/* NULL: skipped. LIMIT: blocks. */
static FfArray *open_len(Open *fn, const char *path, uint64_t len, unsigned limit)
{
    FfArrayOptions o = {.size = sizeof(o), .block_size = BLOCK, .limit = limit * BLOCK};
    FfArray *a;
    int rc = fn(path, len, &o, &a);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        return NULL;
    }
    call(rc);
    return a;
}

static FfArray *open_at(Open *fn, const char *path, unsigned limit)
{
    return open_len(fn, path, LEN, limit);
}

static char *map(FfArray *a)
{
    void *at;

    call(ff_array_map(a, 0, 0, &at));
    return at;
}

static void test_reopen(gconstpointer data)
{
    Open *fn = data ? ff_array_open_chunks : ff_array_open;
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    FfArray *a = open_at(fn, path, 0), *b;

    if (!a) {
        remove_all(dir);
        g_free(dir);
        return;
    }
    char *p = map(a);
    strcpy(p, "Hello"), strcpy(p + 5 * BLOCK + 77, "World");
    p[LEN - 1] = 'x';
    g_assert_cmpint(fn(path, LEN, NULL, &b), ==, -EBUSY);
    call(ff_array_commit(a));
    strcpy(p, "lost");
    ff_array_free(a);
    a = open_at(fn, path, 0);
    p = map(a);
    g_assert_cmpstr(p, ==, "Hello");
    g_assert_cmpstr(p + 5 * BLOCK + 77, ==, "World");
    g_assert_cmpint(p[LEN - 1], ==, 'x');
    g_assert_cmpint(p[BLOCK], ==, 0);
    strcpy(p + BLOCK, "aborted");
    call(ff_array_abort(a));
    strcpy(p + 2 * BLOCK, "kept");
    call(ff_array_writeout(a, FF_ARRAY_STORE));
    call(ff_array_writeout(a, FF_ARRAY_MARK));
    ff_array_free(a);
    a = open_at(fn, path, 4);
    p = map(a);
    g_assert_cmpint(p[BLOCK], ==, 0);
    g_assert_cmpstr(p + 2 * BLOCK, ==, "kept");
    g_assert_cmpstr(p, ==, "Hello");
    ff_array_free(a);
    struct stat st;
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    g_assert_cmpint(stat(log, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
    if (!data) {
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, LEN);
        g_assert_cmpint(fn(path, LEN - 1, NULL, &b), ==, -EFBIG);
        call(fn(path, 0, NULL, &b));
        g_assert_cmpuint(ff_array_len(b), ==, LEN);
        ff_array_free(b);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- what is beside it ----------------------------------------------------------------------- */

static void copy(const char *from, const char *to)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(from, &data, &len, NULL));
    remove(to); /* it may be longer */
    g_assert_true(
        g_file_set_contents_full(to, data, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

static char *log_of(const char *path)
{
    return g_strconcat(path, ".redo", NULL);
}

/* An array at PATH whose first word is "old", with a log that says that it is "new": its program
 * was killed, or the machine. FALSE: skipped. */
static bool leave_behind(const char *path)
{
    g_autofree char *work = g_strconcat(path, "-work", NULL);
    g_autofree char *from = log_of(work), *to = log_of(path);
    FfArray *a = open_at(ff_array_open, work, 0);

    if (!a) {
        return false;
    }
    strcpy(map(a), "old");
    call(ff_array_commit(a));
    ff_array_free(a);
    copy(work, path);
    call(ff_array_open(work, 0, NULL, &a)); /* as long as it is */
    strcpy(map(a), "new");
    call(ff_array_commit(a));
    copy(from, to);
    ff_array_free(a);
    g_assert_cmpint(remove(work), ==, 0);
    g_assert_cmpint(remove(from), ==, 0);
    return true;
}

static void assert_new(const char *path, uint64_t len)
{
    FfArray *a;

    call(ff_array_open(path, len, NULL, &a));
    g_assert_cmpstr(map(a), ==, "new");
    ff_array_free(a);
}

/* A log that was left behind is of that file alone, by whatever name. */
static void test_left_behind(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autofree char *name = g_build_filename(dir, "name", NULL), *text = NULL;
    FfArray *a;

    if (leave_behind(path)) {
        assert_new(path, 0);
        assert_new(path, 0); /* the log is empty now */
        g_assert_true(leave_behind(path));
        assert_new(path, LEN + 5); /* it is made longer, after that */
        g_assert_true(leave_behind(path));
        g_assert_cmpint(symlink("array", name), ==, 0);
        assert_new(name, 0);
        g_assert_cmpint(remove(name), ==, 0);
        /* The file was cut, replaced, removed: nothing is changed. */
        g_assert_true(leave_behind(path));
        g_assert_cmpint(truncate(path, LEN - 1), ==, 0);
        assert_says(ff_array_open(path, 0, NULL, &a), -EINVAL, "put the right file there");
        assert_says(ff_array_open(path, LEN, NULL, &a), -EINVAL, "put the right file there");
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "old");
        g_assert_cmpint(remove(path), ==, 0);
        assert_says(ff_array_open(path, LEN, NULL, &a), -EINVAL, "put the right file there");
        g_assert_cmpint(truncate(path, LEN), ==, 0); /* the right one, for this test */
        assert_new(path, 0);
        /* Somebody else's file of that name. */
        g_assert_true(g_file_set_contents(log, "notes", -1, NULL));
        assert_says(ff_array_open(path, 0, NULL, &a), -EINVAL, "is no log");
        g_clear_pointer(&text, g_free);
        g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "notes");
    }
    remove_all(dir);
    g_free(dir);
}

#define CUT (5 * BLOCK + 77) /* of a file; of a folder that much of its sixth chunk is left */

static off_t size_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_size;
}

/* Another program cuts the file, or a chunk, while it is open: what it took is no zeros, and a
 * commit does not hide that. One that is made long enough again can be read. */
static void test_cut(gconstpointer data)
{
    Open *fn = data ? ff_array_open_chunks : ff_array_open;
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *file =
        data ? g_build_filename(path, "0000000000000005", NULL) : g_strdup(path);
    off_t whole = data ? BLOCK : (off_t)LEN, cut = data ? CUT % BLOCK : CUT;
    FfArray *a = open_at(fn, path, 0);

    if (a) {
        char *p = map(a);

        strcpy(p, "kept"), strcpy(p + 5 * BLOCK, "cut"), strcpy(p + LEN - 4, "end");
        call(ff_array_commit(a));
        g_assert_cmpint(size_of(file), ==, whole);
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), ==, 3 * BLOCK);
        g_assert_cmpint(p[5 * BLOCK + PS], ==, 0);
        g_assert_cmpint(p[LEN - 2], ==, 'd');
        g_assert_cmpint(truncate(file, cut), ==, 0);
        g_assert_cmpstr(p, ==, "kept");
        g_assert_cmpint(p[4 * BLOCK], ==, 0);
        g_assert_cmpstr(p + 5 * BLOCK, ==, "cut"); /* is in memory */
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), ==, 4 * BLOCK);
        g_assert_true(world_is_bus(p + 5 * BLOCK));
        g_assert_true(world_is_bus(p + 6 * BLOCK - 1));
        g_assert_cmpint(truncate(file, whole), ==, 0);
        call(ff_array_invalidate(a, 0, 0));
        g_assert_cmpstr(p + 5 * BLOCK, ==, "cut");
        g_assert_cmpint(p[6 * BLOCK - 1], ==, 0);
        g_assert_cmpint(truncate(file, cut), ==, 0);
        p[6 * BLOCK - 1] = 'x';
        assert_says(ff_array_commit(a), -EIO, "open it again");
        g_assert_cmpint(size_of(file), ==, cut);
        ff_array_free(a);
        g_assert_cmpint(size_of(file), ==, cut);
        if (data) { /* its log has what was committed, and not what was cut */
            a = open_at(fn, path, 0);
            g_assert_cmpint(map(a)[6 * BLOCK - 1], ==, 'x');
            ff_array_free(a);
        } else {
            assert_says(fn(path, LEN, NULL, &a), -EINVAL, "put the right file there");
        }
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- an end in the middle of a block --------------------------------------------------------- */

#define SHORT (5 * (uint64_t)BLOCK + 100) /* of its last block three pages are after the end */

/* At PATH the file as it was before a commit to all that is mapped, and the log of that: the
 * machine stopped. LIMIT: blocks; if there is one the last block had no room. FALSE: skipped. */
static bool leave_commit(Open *fn, const char *path, uint64_t len, unsigned limit)
{
    g_autofree char *work = g_strconcat(path, "-work", NULL);
    g_autofree char *from = log_of(work), *to = log_of(path);
    FfArrayBlock last = {.size = sizeof(last)};
    FfArray *a = open_len(fn, work, len, limit);

    if (!a) {
        return false;
    }
    if (fn == ff_array_open) { /* a folder is made */
        copy(work, path);
    }
    char *p = map(a);
    memset(p, 'n', (len + BLOCK - 1) / BLOCK * BLOCK);
    for (unsigned i = 0; i < limit; i++) {
        p[i * BLOCK] = 'n';
    }
    call(ff_array_block(a, (len - 1) / BLOCK, &last));
    g_assert_cmpint(last.state, ==, limit ? FF_BLOCK_EMPTY : FF_BLOCK_LOADED);
    call(ff_array_commit(a));
    for (uint64_t i = 0; i < len; i++) {
        g_assert_cmpint(p[i], ==, 'n');
    }
    copy(from, to);
    ff_array_free(a);
    remove_all(work);
    remove_all(from);
    return true;
}

static void assert_committed(Open *fn, const char *path)
{
    g_autofree char *log = log_of(path);
    FfArray *a = open_len(fn, path, SHORT, 0);
    const char *p = map(a);

    for (uint64_t i = 0; i < SHORT; i++) {
        g_assert_cmpint(p[i], ==, 'n');
    }
    ff_array_free(a);
    remove_all(path);
    remove_all(log);
}

/* LOG, as of an array of its length, has what LONGER has, the log of a longer one. */
static void put_records(const char *log, const char *longer)
{
    g_autofree char *header = NULL, *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(log, &header, NULL, NULL));
    g_assert_true(g_file_get_contents(longer, &data, &len, NULL));
    memcpy(data, header, PS);
    g_assert_true(g_file_set_contents(log, data, (gssize)len, NULL));
}

/* What was written after the end is in no log. Where it is, as once it was, the rest counts. */
static void test_tail(gconstpointer data)
{
    Open *fn = data ? ff_array_open_chunks : ff_array_open;
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autofree char *longer = g_build_filename(dir, "longer", NULL), *longer_log = log_of(longer);
    struct stat st;

    if (leave_commit(fn, path, SHORT, 0)) {
        g_assert_cmpint(stat(log, &st), ==, 0);
        assert_committed(fn, path);
        g_assert_cmpuint(st.st_size, <, (SHORT / PS + 3) * PS);
        g_assert_true(leave_commit(fn, path, SHORT, 4));
        assert_committed(fn, path);
        g_assert_true(leave_commit(fn, path, SHORT, 0));
        g_assert_true(leave_commit(fn, longer, 6 * BLOCK, 0));
        put_records(log, longer_log);
        assert_committed(fn, path);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- what is dropped ------------------------------------------------------------------------- */

/* What was changed, had no room in memory, and was dropped by ff_array_invalidate() is no part of
 * the transaction: also not of what a crash leaves behind. */
static void test_dropped(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autofree char *left = g_build_filename(dir, "left", NULL), *left_log = log_of(left);
    FfArray *a = open_at(ff_array_open, path, 4);

    if (a) {
        FfArrayStats stats = {.size = sizeof(stats)};
        char *p = map(a);
        memset(p, 'a', LEN);
        call(ff_array_commit(a));
        ff_array_free(a);
        copy(path, left);
        a = open_at(ff_array_open, path, 4);
        p = map(a);
        memset(p, 'b', LEN);
        call(ff_array_stats(a, &stats));
        g_assert_cmpuint(stats.spilled, >, 8 * BLOCK / PS);
        record_fail(ENOSPC, 0); /* all or nothing */
        assert_says(ff_array_invalidate(a, BLOCK, 2 * BLOCK), -ENOSPC, "the log");
        record_fail(0, 0);
        for (size_t i = 0; i < LEN; i++) {
            g_assert_cmpint(p[i], ==, 'b');
        }
        call(ff_array_invalidate(a, BLOCK, 2 * BLOCK));
        g_assert_cmpint(p[BLOCK], ==, 'a');
        p[2 * BLOCK] = 'c'; /* and changed once more */
        call(ff_array_commit(a));
        copy(log, left_log); /* the machine stops here, before any of it is in the file */
        ff_array_free(a);
        for (unsigned i = 0; i < 2; i++) { /* of what is left, and of what is in the file */
            a = open_at(ff_array_open, i ? path : left, 0);
            p = map(a);
            for (size_t k = 0; k < LEN; k++) {
                bool dropped = k >= BLOCK && k < 3 * BLOCK;
                g_assert_cmpint(p[k], ==, k == 2 * BLOCK ? 'c' : dropped ? 'a' : 'b');
            }
            ff_array_free(a);
        }
    }
    remove_all(dir);
    g_free(dir);
}

/* Of an array, in a file that this process has open. */
static bool has_memory(void)
{
    struct stat st;
    bool any = false;

    for (int fd = 0; fd < 256; fd++) {
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
        g_autofree char *name = g_file_read_link(path, NULL);
        any |=
            name && g_str_has_prefix(name, "/memfd:array") && fstat(fd, &st) == 0 && st.st_blocks;
    }
    return any;
}

/* Chunks that were written stay open until they are synced, but not all that a commit writes. */
static void test_many_chunks(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    FfArrayOptions o = {.size = sizeof(o), .block_size = PS};
    FfArray *a = open_at(ff_array_open_chunks, path, 0);
    size_t len = 300 * PS;

    if (a) {
        ff_array_free(a);
        remove_all(path);
        call(ff_array_open_chunks(path, len, &o, &a));
        char *p = map(a);
        memset(p, 'a', len);
        call(ff_array_commit(a));
        memset(p, 'b', len);
        int next = dup(0); /* the lowest that is free */
        g_assert_cmpint(next, <, 200);
        close(next);
        struct rlimit many, few;
        g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &many), ==, 0);
        few = many;
        few.rlim_cur = (rlim_t)next + 2;
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &few), ==, 0);
        call(ff_array_commit(a));
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &many), ==, 0);
        memset(p, 'c', len);
        ff_array_free(a);
        call(ff_array_open_chunks(path, len, &o, &a));
        p = map(a);
        for (size_t i = 0; i < len; i++) {
            g_assert_cmpint(p[i], ==, 'b');
        }
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* A sync of each chunk would take as many times as long as one. */
static void test_syncs_of_many_chunks(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    FfArrayOptions o = {.size = sizeof(o), .block_size = PS};
    FfArray *a = open_at(ff_array_open_chunks, path, 0);
    size_t len = 300 * PS;

    if (a) {
        g_autoptr(GArray) ops = record_new();
        unsigned n = 0;

        ff_array_free(a);
        remove_all(path);
        call(ff_array_open_chunks(path, len, &o, &a));
        memset(map(a), 'a', len);
        record_start(ops, path);
        call(ff_array_commit(a));
        call(ff_array_sync(a));
        record_stop();
        for (guint i = 0; i < ops->len; i++) {
            n += g_array_index(ops, Op, i).kind == OP_SYNC;
        }
        g_assert_cmpuint(n, <, 10);
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* Whether OPS has one of KIND of the file INO. */
static bool has_op(const GArray *ops, OpKind kind, ino_t ino)
{
    for (guint i = 0; i < ops->len; i++) {
        const Op *op = &g_array_index(ops, Op, i);
        if (op->kind == kind && op->ino == ino) {
            return true;
        }
    }
    return false;
}

/* A folder's block_size, of which a crash of its first program has left N bytes
 * of TEXT, or no name (NULL): it is whole, and on the disk with its name, when
 * the array is open. FALSE: skipped. */
static bool check_left(const char *path, const char *text, gssize n)
{
    g_autofree char *name = g_build_filename(path, "block_size", NULL), *log = log_of(path);
    g_autofree char *now = NULL;
    g_autoptr(GArray) ops = record_new();
    struct stat folder, file;

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    g_assert_true(!text || g_file_set_contents(name, text, n, NULL));
    record_start(ops, name);
    FfArray *a = open_at(ff_array_open_chunks, path, 0);
    record_stop();
    if (a) {
        g_assert_true(g_file_get_contents(name, &now, NULL, NULL));
        g_assert_cmpstr(g_strchomp(now), ==, "16384");
        g_assert_cmpint(stat(path, &folder), ==, 0);
        g_assert_cmpint(stat(name, &file), ==, 0);
        g_assert_true(has_op(ops, OP_SYNC, file.st_ino));
        g_assert_true(has_op(ops, OP_SYNC_DIRECTORY, folder.st_ino));
        ff_array_free(a);
        remove_all(log);
    }
    remove_all(path);
    return a;
}

static void test_block_size(void)
{
    static const struct {
        const char *text;
        gssize n;
    } left[] = {{NULL, 0}, {"", 0}, {"163", 3}, {"\0\0\0\0\0", 6}, {"16384", 5}, {"16384\n", 6}};
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *name = g_build_filename(path, "block_size", NULL);
    FfArray *a;

    for (unsigned i = 0; i < G_N_ELEMENTS(left); i++) {
        if (!check_left(path, left[i].text, left[i].n)) {
            break; /* skipped */
        }
    }
    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    g_assert_true(g_file_set_contents(name, "32768\n", -1, NULL));
    FfArrayOptions o = {.size = sizeof(o), .block_size = BLOCK};
    assert_says(ff_array_open_chunks(path, LEN, &o, &a), -EINVAL, "are not of 16384 bytes");
    g_assert_true(g_file_set_contents(name, "163840\n", -1, NULL));
    assert_says(ff_array_open_chunks(path, LEN, &o, &a), -EINVAL, "does not say of how many");
    g_assert_cmpint(unlink(name) | mkfifo(name, 0600), ==, 0);
    assert_says(ff_array_open_chunks(path, LEN, &o, &a), -EINVAL, "does not say of how many");
    g_assert_cmpint(unlink(name), ==, 0);
    /* Chunks that were copied without it, or with a part of it. */
    g_autofree char *chunk = g_build_filename(path, "0000000000000002", NULL);
    g_assert_true(g_file_set_contents(chunk, "x", 1, NULL) && truncate(chunk, BLOCK) == 0);
    g_assert_true(g_file_set_contents(name, "163", -1, NULL));
    assert_says(ff_array_open_chunks(path, LEN, &o, &a), -EINVAL, "does not say of how many");
    g_assert_cmpint(unlink(name), ==, 0);
    assert_says(ff_array_open_chunks(path, LEN, &o, &a), -EINVAL, "write the number there");
    g_assert_false(g_file_test(name, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_set_contents(name, "16384\r\n", -1, NULL));
    for (unsigned i = 0; i < 2 && ff_array_open_chunks(path, LEN, &o, &a) == 0; i++) {
        g_assert_cmpint(map(a)[2 * BLOCK], ==, 'x');
        ff_array_free(a);
        o.block_size = 0; /* as it says */
    }
    remove_all(dir);
    g_free(dir);
}

/* A chunk that is something else holds nobody, and is no zeros. */
static void test_fifo(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *fifo = g_build_filename(path, "0000000000000002", NULL);
    FfArray *a = open_at(ff_array_open_chunks, path, 0);

    if (a) {
        g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
        char *p = map(a);
        int ends[2];
        g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
        g_assert_cmpint(write(ends[1], p + 2 * BLOCK, 1), ==, -1);
        g_assert_cmpint(errno, ==, EFAULT);
        g_assert_cmpint(write(ends[1], p + 3 * BLOCK, 1), ==, 1);
        close(ends[0]), close(ends[1]);
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* What another user may have put where the log would be. */
static void test_foreign_log(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autofree char *other = g_build_filename(dir, "other", NULL);
    FfArray *a = open_at(ff_array_open, path, 0);

    if (a) {
        ff_array_free(a);
        g_assert_cmpint(rename(log, other), ==, 0);
        g_assert_cmpint(symlink(other, log), ==, 0);
        assert_says(ff_array_open(path, 0, NULL, &a), -ELOOP, "is a link");
        g_assert_cmpint(unlink(log), ==, 0);
        g_assert_cmpint(mkfifo(log, 0600), ==, 0);
        assert_says(ff_array_open(path, 0, NULL, &a), -EINVAL, "not a regular file");
        g_assert_cmpint(unlink(log), ==, 0);
        g_assert_cmpint(link(other, log), ==, 0);
        assert_says(ff_array_open(path, 0, NULL, &a), -EINVAL, "another name as well");
        g_assert_cmpint(unlink(other), ==, 0);
        if (geteuid() == 0) {
            struct stat st;
            g_assert_cmpint(chown(log, 1, 1), ==, 0);
            a = open_at(ff_array_open, path, 0); /* it is empty: another one is made */
            ff_array_free(a);
            g_assert_cmpint(stat(log, &st), ==, 0);
            g_assert_cmpuint(st.st_uid, ==, 0);
            g_assert_true(g_file_set_contents(log, "of somebody", -1, NULL));
            g_assert_cmpint(chown(log, 1, 1), ==, 0);
            assert_says(ff_array_open(path, 0, NULL, &a), -EACCES, "is of user 1");
            g_assert_cmpint(truncate(log, 0) | chown(path, 1, 1), ==, 0); /* both are */
            a = open_at(ff_array_open, path, 0);
            ff_array_free(a);
            g_assert_cmpint(unlink(log), ==, 0);
            a = open_at(ff_array_open, path, 0); /* root makes it for him */
            ff_array_free(a);
            g_assert_cmpint(stat(log, &st), ==, 0);
            g_assert_cmpuint(st.st_uid, ==, 1);
            g_assert_cmpint(chown(log, 0, 0), ==, 0); /* root has opened it first */
            a = open_at(ff_array_open, path, 0);
            ff_array_free(a);
        }
    }
    remove_all(dir);
    g_free(dir);
}

/* A commit while no file may be longer than SIZE. */
static int commit_within(FfArray *a, rlim_t size)
{
    struct rlimit much, little;

    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &much), ==, 0);
    little = much;
    little.rlim_cur = size;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &little), ==, 0);
    int rc = ff_array_commit(a);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &much), ==, 0);
    return rc;
}

/* The log has no room: it is emptied, as what it has is in the file, and the commit continues. */
static void test_full(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    FfArray *a = open_at(ff_array_open, path, 0);
    struct stat st;

    if (a) {
        char *p = map(a);
        for (unsigned i = 0; i < 5; i++) {
            memset(p, 'a' + (int)i, LEN);
            call(commit_within(a, LEN + 10 * PS)); /* the log of one, and not of two */
        }
        g_assert_cmpint(stat(log, &st), ==, 0);
        g_assert_cmpint(st.st_size, >, LEN);
        call(ff_array_sync(a));
        g_assert_cmpint(stat(log, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, 0);
        call(ff_array_sync(a));
        ff_array_free(a);
        /* What is changed has no room in memory, and is in the log alone. */
        a = open_at(ff_array_open, path, 4);
        p = map(a);
        memset(p, 'x', 10);
        call(ff_array_commit(a));
        memset(p, 'y', LEN);
        assert_says(ff_array_sync(a), -EBUSY, "commit or abort it first");
        call(ff_array_abort(a));
        g_assert_cmpint(p[0], ==, 'x');
        g_assert_cmpint(p[10], ==, 'e');
        call(ff_array_sync(a));
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- how much of it there is ----------------------------------------------------------------- */

/* Bytes of the log of an array of SPILL, which has no name, or of PATH. */
static off_t log_size(const char *spill, const char *path)
{
    g_autoptr(GDir) d = g_dir_open("/proc/self/fd", 0, NULL);
    off_t size = -1;

    for (const char *name; (name = g_dir_read_name(d));) {
        g_autofree char *fd = g_build_filename("/proc/self/fd", name, NULL);
        g_autofree char *to = g_file_read_link(fd, NULL);
        struct stat st;
        if (to && (path ? !strcmp(to, path)
                        : g_str_has_prefix(to, spill) && g_str_has_suffix(to, " (deleted)"))) {
            g_assert_cmpint(stat(fd, &st), ==, 0);
            size = st.st_size;
        }
    }
    return size;
}

static int load_zeros(void *opaque, uint64_t block, void *buf)
{
    memset(buf, 0, BLOCK);
    return 0;
}

/* What was changed is read again and again, and for want of memory leaves as often. DATA: of a
 * file; else the log has no name, and what is changed once more takes no more room either. */
static void test_log_size(gconstpointer data)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    FfArrayOptions o = {.size = sizeof(o), .block_size = BLOCK, .limit = 4 * BLOCK, .spill = dir};
    FfArrayFile file = {.size = sizeof(file), .load = load_zeros};
    FfArray *a = NULL;
    int rc = data ? ff_array_open(path, LEN, &o, &a) : ff_array_new(LEN, &file, NULL, &o, &a);
    off_t most = 4096 + (off_t)PAGES * (PS + 32);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
    } else {
        call(rc);
        char *p = map(a);
        for (unsigned round = 0; round < 6; round++) {
            for (unsigned i = 0; i < PAGES && (!data || !round); i++) {
                memset(p + i * PS, (int)(i + round), 10);
            }
            for (unsigned i = 0; i < PAGES; i++) {
                g_assert_cmpint((unsigned char)p[i * PS], ==, i + (data ? 0 : round));
            }
            g_assert_cmpint(log_size(dir, data ? log : NULL), >, most / 2);
            g_assert_cmpint(log_size(dir, data ? log : NULL), <=, most);
        }
        if (data) {
            call(ff_array_commit(a));
        }
        ff_array_free(a);
    }
    if (data && rc == 0) {
        a = open_at(ff_array_open, path, 0);
        char *p = map(a);
        for (unsigned i = 0; i < PAGES; i++) {
            g_assert_cmpint((unsigned char)p[i * PS], ==, i);
        }
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* One at a time, whichever name it has; the next one at once, though a child of fork() lives. */
static void test_locked(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autofree char *name = g_build_filename(dir, "name", NULL);
    FfArray *a = open_at(ff_array_open, path, 0), *b;
    struct stat st;
    int fds[2], status;
    char c;

    if (a) {
        g_assert_cmpint(link(path, name), ==, 0);
        assert_says(ff_array_open(name, 0, NULL, &b), -EBUSY, "somebody has it open");
        g_assert_cmpint(remove(name), ==, 0);
        g_assert_cmpint(symlink(path, name), ==, 0);
        assert_says(ff_array_open(name, 0, NULL, &b), -EBUSY, "somebody has it open");
        memset(map(a), 1, LEN);
        g_assert_true(has_memory());
        g_assert_cmpint(pipe(fds), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(fds[1]);
            _exit(read(fds[0], &c, 1) != 0 || has_memory());
        }
        close(fds[0]);
        ff_array_free(a);
        call(ff_array_open(path, 0, NULL, &a));
        ff_array_free(a);
        close(fds[1]);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        /* A user who may not read the file may not read the log. */
        g_assert_cmpint(remove(log), ==, 0);
        g_assert_cmpint(chmod(path, 0600), ==, 0);
        mode_t mask = umask(022);
        call(ff_array_open(path, 0, NULL, &a));
        umask(mask);
        g_assert_cmpint(stat(log, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 0777, ==, 0600);
        ff_array_free(a);
        /* A name that is wrong. */
        g_autofree char *none = g_build_filename(dir, "none", NULL), *none_log = log_of(none);
        assert_says(ff_array_open(none, 0, NULL, &a), -ENOENT, "none: No such file");
        g_assert_cmpint(access(none, F_OK), <, 0);
        g_assert_cmpint(access(none_log, F_OK), <, 0);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- a disk that fails ----------------------------------------------------------------------- */

static void change(char *p, unsigned first, unsigned step, char byte)
{
    for (unsigned i = first; i < PAGES - 1; i += step) {
        memset(p + (size_t)i * PS + 10, byte, PS - 10);
    }
}

static void test_disk_fails(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    FfArray *a = open_at(ff_array_open, path, 6);
    FfArrayStats stats = {.size = sizeof(stats)};

    if (a) {
        char *p = map(a);
        change(p, 0, 1, 'a');
        call(ff_array_commit(a));
        /* No room in the log: what is changed stays in memory, more than the limit. */
        record_fail(ENOSPC, 0);
        change(p, 0, 1, 'b');
        call(ff_array_stats(a, &stats));
        g_assert_cmpuint(stats.bytes, >, 6 * BLOCK);
        assert_says(ff_array_commit(a), -ENOSPC, "the log");
        g_assert_cmpint(p[PS + 10], ==, 'b');
        record_fail(0, 0);
        call(ff_array_commit(a)); /* once there is room */
        /* Nobody knows what is on the disk: nothing more is committed. */
        change(p, 0, 2, 'c');
        record_fail(0, EIO);
        assert_says(ff_array_commit(a), -EIO, "open it again");
        record_fail(0, 0);
        assert_says(ff_array_commit(a), -EIO, "open it again");
        g_assert_cmpint(p[10], ==, 'c');
        assert_says(ff_array_abort(a), -EIO, "open it again"); /* to what? */
        assert_says(ff_array_invalidate(a, 0, 0), -EIO, "open it again");
        g_assert_cmpint(p[10], ==, 'c');
        ff_array_free(a);
        a = open_at(ff_array_open, path, 6);
        p = map(a);
        g_assert_cmpint(p[PS + 10], ==, 'b');
        for (unsigned i = 0; i < PAGES - 1; i += 2) { /* all of it, or nothing */
            g_assert_cmpint(p[(size_t)i * PS + 10], ==, p[10]);
            g_assert_cmpint(p[(size_t)i * PS + PS - 1], ==, p[10]);
        }
        change(p, 0, 3, 'd');
        call(ff_array_commit(a));
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

#define LARGE (32ull << 20)

/* The log is long enough to be emptied, and the file cannot be synced: the kernel tells that once,
 * and what it could not write it may take from the disk again. */
static void test_file_fails(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    FfArray *a = open_len(ff_array_open, path, LARGE, 0);

    if (a) {
        char *p = map(a);
        record_no_syncs(true);
        record_fail_at(path);
        record_fail(0, EIO);
        for (char i = 1; i <= 8; i++) {
            memset(p, i, LARGE);
            call(ff_array_commit(a));
        }
        record_fail(0, 0);
        record_fail_at(NULL);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(ftruncate(fd, 0), ==, 0); /* zeros: as before all of it */
        g_assert_cmpint(ftruncate(fd, LARGE), ==, 0);
        close(fd);
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), ==, LARGE);
        record_count_reads(log);
        for (unsigned i = 1; i < 16; i++) {
            g_assert_cmpint(p[i * i * BLOCK + 10], ==, 8);
        }
        /* It was looked through once (each transaction is read twice). */
        g_assert_cmpuint(record_reads(), >, 0);
        g_assert_cmpuint(record_reads(), <, 8 * LARGE / 4 * 9);
        record_count_reads(NULL);
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), >, 0);
        call(ff_array_commit(a)); /* of nothing */
        p[0] = 9;
        assert_says(ff_array_commit(a), -EIO, "open it again");
        g_assert_cmpint(p[0], ==, 9);
        g_assert_cmpint(p[1], ==, 8);
        ff_array_free(a);
        record_no_syncs(false);
        a = open_len(ff_array_open, path, LARGE, 0);
        p = map(a);
        for (uint64_t i = 0; i < LARGE; i++) {
            g_assert_cmpint(p[i], ==, 8);
        }
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- prefixes -------------------------------------------------------------------------------- */

#define VERSIONS 6

typedef struct {
    Open *open;
    GArray *ops;
    char *path;               /* while it was recorded */
    ino_t file, log;          /* FILE: or the folder */
    char *first;              /* the file before all of it; NULL: a folder, which is empty */
    char *versions[VERSIONS]; /* after each commit; [0]: before */
    guint ended[VERSIONS];    /* when there were so many operations it had returned */
    unsigned n;
} History;

static void apply(GByteArray *file, const Op *op, bool torn)
{
    gsize len = 0;
    const void *data = op->data ? g_bytes_get_data(op->data, &len) : NULL;
    guint old = file->len, size;

    len = torn ? len / 2 : len;
    size = op->kind == OP_SIZE ? (guint)op->offset : MAX(old, (guint)(op->offset + len));
    g_byte_array_set_size(file, size);
    if (size > old) {
        memset(file->data + old, 0, size - old);
    }
    if (op->kind == OP_WRITE) {
        memcpy(file->data + op->offset, data, len);
    }
}

/* A disk: files by inode, and the names that they have: "", of the array; "log"; of chunks. */
typedef struct {
    GHashTable *files, *names;
} Image;

static GByteArray *file_of(Image *image, ino_t ino)
{
    gpointer key = GSIZE_TO_POINTER(ino);
    GByteArray *file = g_hash_table_lookup(image->files, key);

    if (!file) {
        file = g_byte_array_new();
        g_hash_table_insert(image->files, key, file);
    }
    return file;
}

static void set_name(Image *image, const char *name, ino_t ino)
{
    g_hash_table_insert(image->names, g_strdup(name), GSIZE_TO_POINTER(ino));
}

/* Before all of it. */
static Image image_new(const History *h)
{
    Image image = {g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_byte_array_unref),
                   g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL)};

    set_name(&image, "log", h->log);
    if (h->first) {
        set_name(&image, "", h->file);
        g_byte_array_append(file_of(&image, h->file), (const guint8 *)h->first, LEN);
    }
    return image;
}

static void image_free(Image *image)
{
    g_hash_table_unref(image->files);
    g_hash_table_unref(image->names);
}

/* Of the first N operations one syncs number I. A name is synced with its folder. */
static bool is_synced(const History *h, guint i, guint n)
{
    const Op *op = &g_array_index(h->ops, Op, i);
    bool is_name = op->kind == OP_CREATE;

    for (guint k = i; k < n; k++) {
        const Op *later = &g_array_index(h->ops, Op, k);
        if (later->kind == (is_name ? OP_SYNC_DIRECTORY : OP_SYNC) &&
            later->ino == (is_name ? h->file : op->ino)) {
            return true;
        }
    }
    return false;
}

/* After N operations. LOSS 0: nothing is lost; 1: all that was not synced; else what a generator of
 * that seed says, and something is written half (not what is shorter than a sector). */
static Image replay(const History *h, guint n, unsigned loss)
{
    Image image = image_new(h);
    GRand *rand = g_rand_new_with_seed(loss);

    for (guint i = 0; i < n; i++) {
        const Op *op = &g_array_index(h->ops, Op, i);
        bool synced = is_synced(h, i, n);
        double draw = g_rand_double(rand);
        if ((op->kind != OP_WRITE && op->kind != OP_SIZE && op->kind != OP_CREATE) ||
            (!synced && (loss == 1 || (loss > 1 && draw < 0.5)))) {
            continue;
        }
        bool torn = !synced && loss > 1 && draw > 0.9 &&
                    (op->ino == h->log || (op->data && g_bytes_get_size(op->data) > 512));
        if (op->kind == OP_CREATE) {
            set_name(&image, op->name, op->ino);
        } else {
            apply(file_of(&image, op->ino), op, torn);
        }
    }
    g_rand_free(rand);
    return image;
}

/* PATH, and its log, are as IMAGE says. */
static void write_image(Image *image, const char *path)
{
    g_autofree char *log = log_of(path);
    GHashTableIter iter;
    gpointer name, ino;

    if (!g_hash_table_contains(image->names, "")) {
        g_assert_true(mkdir(path, 0700) == 0);
    }
    g_hash_table_iter_init(&iter, image->names);
    while (g_hash_table_iter_next(&iter, &name, &ino)) {
        const GByteArray *file = file_of(image, GPOINTER_TO_SIZE(ino));
        g_autofree char *at = strcmp(name, "log") == 0 ? g_strdup(log)
                              : *(char *)name          ? g_build_filename(path, name, NULL)
                                                       : g_strdup(path);
        g_assert_true(g_file_set_contents_full(at, file->len ? (char *)file->data : "", file->len,
                                               G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    }
}

/* LEN bytes of what is at PATH, a file or a folder of chunks, when nobody has it open. */
static char *read_back(const History *h, const char *path)
{
    char *data = NULL;
    gsize len;

    if (h->first) {
        g_assert_true(g_file_get_contents(path, &data, &len, NULL));
        g_assert_cmpuint(len, ==, LEN);
        return data;
    }
    data = g_malloc0(LEN);
    for (uint64_t at = 0; at < LEN; at += BLOCK) {
        g_autofree char *chunk = g_strdup_printf("%s/%016" G_GINT64_MODIFIER "x", path, at / BLOCK);
        g_autofree char *found = NULL;
        if (g_file_get_contents(chunk, &found, &len, NULL)) {
            memcpy(data + at, found, MIN(len, LEN - at));
        }
    }
    return data;
}

/* Which version IMAGE opens as; -1: none, or not at all. It is not needed any more. */
static int opens_as(const History *h, Image image, const char *path)
{
    g_autofree char *log = log_of(path);
    int version = -1;

    FfArrayOptions o = {.size = sizeof(o), .block_size = BLOCK};
    FfArray *a;

    write_image(&image, path);
    bool opened = h->open(path, LEN, &o, &a) == 0;
    ff_array_free(a);
    g_autofree char *found = read_back(h, path);
    for (unsigned v = 0; opened && v < h->n; v++) {
        version = memcmp(found, h->versions[v], LEN) == 0 ? (int)v : version;
    }
    remove_all(path);
    remove_all(log);
    image_free(&image);
    return version;
}

static void note_version(History *h, const char *p)
{
    g_assert_cmpuint(h->n, <, VERSIONS);
    h->ended[h->n] = h->ops->len;
    h->versions[h->n++] = g_memdup2(p, LEN);
}

static ino_t inode_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_ino;
}

/* What is there before it is recorded: of a file its content; of a folder nothing, so that how it
 * begins is recorded as well. */
static void make_first(History *h)
{
    g_autofree char *log = log_of(h->path);

    if (h->open == ff_array_open) {
        FfArray *a = open_at(h->open, h->path, 6);
        change(map(a), 0, 1, 'a');
        call(ff_array_commit(a));
        ff_array_free(a);
        g_assert_true(g_file_get_contents(h->path, &h->first, NULL, NULL));
    } else {
        g_assert_cmpint(mkdir(h->path, 0700), ==, 0);
        g_assert_true(g_file_set_contents_full(log, "", 0, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    }
    h->file = inode_of(h->path);
    h->log = inode_of(log);
}

/* Commits, with and without room in memory for them, invalidations and aborts. */
static void make_history(History *h)
{
    make_first(h);
    record_start(h->ops, h->path);
    FfArray *a = open_at(h->open, h->path, 6);
    char *p = map(a);
    note_version(h, p);
    change(p, 1, 7, 'b');
    call(ff_array_commit(a));
    note_version(h, p);
    change(p, 0, 2, 'c'); /* most of it has no room */
    call(ff_array_commit(a));
    note_version(h, p);
    change(p, 0, 3, 'd');
    call(ff_array_abort(a));
    change(p, 0, 31, 'e');
    call(ff_array_commit(a));
    note_version(h, p);
    ff_array_free(a); /* the log is emptied */
    a = open_at(h->open, h->path, 6);
    p = map(a);
    change(p, 2, 9, 'f');
    call(ff_array_commit(a));
    note_version(h, p);
    change(p, 0, 1, 'h');
    call(ff_array_invalidate(a, 2 * BLOCK, 9 * BLOCK));
    change(p, 12, 5, 'i');
    call(ff_array_commit(a));
    note_version(h, p);
    change(p, 3, 5, 'g');
    ff_array_free(a);
    record_stop();
}

/* TRUE: one of the prefixes opens as what it must not. */
static bool is_wrong(const History *h, const char *path, unsigned losses, guint step)
{
    bool wrong = false;

    for (guint n = 0; n <= h->ops->len && !wrong; n += step) {
        int least = 0;
        for (unsigned v = 0; v < h->n; v++) {
            least = h->ended[v] <= n ? (int)v : least;
        }
        for (unsigned loss = 0; loss < losses; loss++) {
            int version = opens_as(h, replay(h, n, loss), path);
            if (version != least && version != least + 1) {
                g_test_message("%u of %u operations, loss %u: version %d, not %d", n, h->ops->len,
                               loss, version, least);
                wrong = true;
            }
        }
    }
    return wrong;
}

/* What the recorder calls syncs of KIND is none. */
static void forget_syncs(const History *h, OpKind kind)
{
    for (guint i = h->ops->len; i-- > 0;) {
        Op *op = &g_array_index(h->ops, Op, i);
        op->ino = op->kind == kind ? 0 : op->ino;
    }
}

static void history_clear(History *h)
{
    for (unsigned v = 0; v < h->n; v++) {
        g_free(h->versions[v]);
    }
    g_free(h->first);
    g_free(h->path);
    g_array_unref(h->ops);
}

static void test_prefixes(gconstpointer data)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "first", NULL);
    g_autofree char *again = g_build_filename(dir, "again", NULL);
    FfArray *a = open_at(ff_array_open, path, 0);
    History h = {.open = data ? ff_array_open_chunks : ff_array_open,
                 .path = g_build_filename(dir, "array", NULL),
                 .ops = record_new()};

    if (a) {
        ff_array_free(a);
        make_history(&h);
        record_no_syncs(true);
        g_assert_cmpuint(h.ops->len, >, 60);
        g_assert_cmpint(opens_as(&h, replay(&h, h.ops->len, 0), again), ==, (int)h.n - 1);
        g_assert_false(is_wrong(&h, again, 2 + world_rounds(2), 1));
        /* That a forgotten sync would be seen: of the folder, of files. */
        if (data) {
            forget_syncs(&h, OP_SYNC_DIRECTORY);
            g_assert_true(is_wrong(&h, again, 3, 7));
        }
        forget_syncs(&h, OP_SYNC);
        g_assert_true(is_wrong(&h, again, 3, 7));
        record_no_syncs(false);
    }
    history_clear(&h);
    remove_all(dir);
    g_free(dir);
}

/* A record of which there is room for a half, and after that for all of it, with its first page
 * changed: then the machine stops, and of the second attempt the header and the first page were not
 * on the disk yet. They are not those of the first attempt. */
static void test_half(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL), *log = log_of(path);
    g_autoptr(GArray) ops = record_new();
    g_autoptr(GByteArray) left = g_byte_array_new();
    FfArray *a = open_at(ff_array_open, path, 0);

    if (a) {
        char *p = map(a);
        ino_t ino = inode_of(log);
        memset(p, 'b', BLOCK);
        record_start(ops, path);
        g_assert_cmpint(commit_within(a, 4096 + BLOCK / 2), ==, -EFBIG);
        guint second = ops->len, n = 0;
        memset(p, 'c', PS);
        call(ff_array_commit(a));
        record_stop();
        for (guint i = 0; i < ops->len; i++) {
            Op op = g_array_index(ops, Op, i);
            bool write = op.ino == ino && op.kind == OP_WRITE && i >= second && op.offset >= 4096;
            n += write;
            if (write && n == 2) {
                gsize len = g_bytes_get_size(op.data);
                op.offset += PS;
                op.data = g_bytes_new_from_bytes(op.data, PS, len - PS);
                apply(left, &op, false);
                g_bytes_unref(op.data);
            } else if (op.ino == ino && (op.kind == OP_WRITE || op.kind == OP_SIZE) &&
                       !(write && n == 1)) {
                apply(left, &op, false);
            } else if (op.ino == ino && op.kind == OP_SYNC && n > 2) {
                break; /* where it stops */
            }
        }
        g_assert_cmpuint(n, ==, 3); /* and the end */
        ff_array_free(a);
        g_assert_cmpint(truncate(path, 0) | truncate(path, LEN), ==, 0);
        g_assert_true(g_file_set_contents(log, (char *)left->data, left->len, NULL));
        a = open_at(ff_array_open, path, 0);
        p = map(a);
        g_assert_cmpint(p[0], ==, 0);
        g_assert_cmpint(p[PS], ==, 0);
        ff_array_free(a);
    }
    remove_all(dir);
    g_free(dir);
}

/* ---- killed ---------------------------------------------------------------------------------- */

/* All words are the same after each commit. */
static void commit_for_ever(Open *fn, const char *path, int fd, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    FfArray *a = getppid() == parent ? open_at(fn, path, 6) : NULL;
    uint64_t *p = a ? (uint64_t *)(void *)map(a) : NULL;

    for (uint64_t n = p ? p[0] + 1 : 0; p; n++) {
        for (size_t i = 0; i < LEN / 8; i++) {
            p[i] = n;
        }
        if (write(fd, &n, sizeof(n)) != sizeof(n)) {
            _exit(1);
        }
        call(ff_array_commit(a));
        if (write(fd, &n, sizeof(n)) != sizeof(n)) {
            _exit(1);
        }
    }
    _exit(1);
}

static void test_killed(gconstpointer data)
{
    Open *fn = data ? ff_array_open_chunks : ff_array_open;
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    FfArray *a = open_at(fn, path, 0);

    for (unsigned round = 0; a && round < world_rounds(8); round++) {
        unsigned moment = (unsigned)g_test_rand_int_range(2, 7);
        uint64_t n = 0, last = 0;
        int fds[2];
        ff_array_free(g_steal_pointer(&a));
        g_assert_cmpint(pipe(fds), ==, 0);
        pid_t self = getpid(), pid = fork();
        if (pid == 0) {
            close(fds[0]);
            commit_for_ever(fn, path, fds[1], self);
        }
        close(fds[1]);
        for (unsigned i = 0; i < moment; i++) {
            g_assert_cmpint(read(fds[0], &n, sizeof(n)), ==, sizeof(n));
            last = i % 2 ? n : last;
        }
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        while (read(fds[0], &n, sizeof(n)) == sizeof(n)) {
        }
        close(fds[0]);
        a = open_at(fn, path, 0);
        const uint64_t *p = (const uint64_t *)(const void *)map(a);
        g_assert_cmpuint(p[0], >=, last);
        g_assert_cmpuint(p[0], <=, n);
        for (size_t i = 0; i < LEN / 8; i++) {
            g_assert_cmpuint(p[i], ==, p[0]);
        }
    }
    ff_array_free(a);
    remove_all(dir);
    g_free(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/libfarfault/redo/reopen-file", NULL, test_reopen);
    g_test_add_data_func("/libfarfault/redo/reopen-chunks", GUINT_TO_POINTER(1), test_reopen);
    g_test_add_func("/libfarfault/redo/left-behind", test_left_behind);
    g_test_add_data_func("/libfarfault/redo/cut-file", NULL, test_cut);
    g_test_add_data_func("/libfarfault/redo/cut-chunks", GUINT_TO_POINTER(1), test_cut);
    g_test_add_data_func("/libfarfault/redo/tail-file", NULL, test_tail);
    g_test_add_data_func("/libfarfault/redo/tail-chunks", GUINT_TO_POINTER(1), test_tail);
    g_test_add_func("/libfarfault/redo/dropped", test_dropped);
    g_test_add_func("/libfarfault/redo/many-chunks", test_many_chunks);
    g_test_add_func("/libfarfault/redo/many-chunks-syncs", test_syncs_of_many_chunks);
    g_test_add_func("/libfarfault/redo/block-size", test_block_size);
    g_test_add_func("/libfarfault/redo/fifo", test_fifo);
    g_test_add_func("/libfarfault/redo/foreign-log", test_foreign_log);
    g_test_add_func("/libfarfault/redo/full", test_full);
    g_test_add_data_func("/libfarfault/redo/size", NULL, test_log_size);
    g_test_add_data_func("/libfarfault/redo/size-file", GUINT_TO_POINTER(1), test_log_size);
    g_test_add_func("/libfarfault/redo/locked", test_locked);
    g_test_add_func("/libfarfault/redo/disk-fails", test_disk_fails);
    g_test_add_func("/libfarfault/redo/file-fails", test_file_fails);
    g_test_add_data_func("/libfarfault/redo/prefixes-file", NULL, test_prefixes);
    g_test_add_data_func("/libfarfault/redo/prefixes-chunks", GUINT_TO_POINTER(1), test_prefixes);
    g_test_add_func("/libfarfault/redo/half", test_half);
    g_test_add_data_func("/libfarfault/redo/killed-file", NULL, test_killed);
    g_test_add_data_func("/libfarfault/redo/killed-chunks", GUINT_TO_POINTER(1), test_killed);
    return g_test_run();
}
