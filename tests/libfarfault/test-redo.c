/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of files: what was committed is there when they are opened again, and nothing else. The
 * calls that change the file and its log are recorded, and each prefix of them is replayed on a
 * disk that has lost all, some or none of what was not synced; what is opened then is as of a
 * commit, and of none that is older than the last that returned. And a program that commits all the
 * time is killed. FF_ROUNDS says how often.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
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

/* ---- what is beside it ------------------------------------------------------------------------
 */

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

/* ---- an end in the middle of a block -----------------------------------------------------------
 */

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

/* ---- what is dropped ---------------------------------------------------------------------------
 */

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
        call(ff_array_commit(a));
        int next = dup(0); /* the lowest that is free */
        g_assert_cmpint(next, <, 200);
        close(next);
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
        /* Who may not read the file may not read the log. */
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

/* ---- a disk that fails -------------------------------------------------------------------------
 */

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

/* ---- prefixes ----------------------------------------------------------------------------------
 */

#define VERSIONS 6

typedef struct {
    GByteArray *data, *log;
} Image;

typedef struct {
    GArray *ops;
    ino_t log;
    char *first;              /* the file before all of it */
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

/* After N operations. LOSS 0: nothing is lost; 1: all that was not synced; else what a generator of
 * that seed says, and something is written half. */
static Image replay(const History *h, guint n, unsigned loss)
{
    Image image = {g_byte_array_new(), g_byte_array_new()};
    GRand *rand = g_rand_new_with_seed(loss);

    g_byte_array_append(image.data, (const guint8 *)h->first, LEN);
    for (guint i = 0; i < n; i++) {
        const Op *op = &g_array_index(h->ops, Op, i);
        bool is_log = op->ino == h->log, synced = false;
        for (guint k = i; k < n && !synced; k++) {
            const Op *later = &g_array_index(h->ops, Op, k);
            synced = later->kind == OP_SYNC && later->ino == op->ino;
        }
        double draw = g_rand_double(rand);
        if ((op->kind != OP_WRITE && op->kind != OP_SIZE) ||
            (!synced && (loss == 1 || (loss > 1 && draw < 0.5)))) {
            continue;
        }
        apply(is_log ? image.log : image.data, op, !synced && loss > 1 && draw > 0.9);
    }
    g_rand_free(rand);
    return image;
}

/* Which version IMAGE opens as; -1: none. */
static int opens_as(const History *h, Image image, const char *path)
{
    g_autofree char *log = g_strconcat(path, ".redo", NULL), *found = NULL;
    int version = -1;
    gsize len;

    g_assert_true(g_file_set_contents_full(path, (char *)image.data->data, image.data->len,
                                           G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    g_assert_true(g_file_set_contents_full(log, image.log->len ? (char *)image.log->data : "",
                                           image.log->len, G_FILE_SET_CONTENTS_NONE, 0600, NULL));
    ff_array_free(open_at(ff_array_open, path, 0));
    g_assert_true(g_file_get_contents(path, &found, &len, NULL));
    g_assert_cmpuint(len, ==, LEN);
    for (unsigned v = 0; v < h->n; v++) {
        version = memcmp(found, h->versions[v], LEN) == 0 ? (int)v : version;
    }
    g_byte_array_unref(image.data);
    g_byte_array_unref(image.log);
    return version;
}

static void note_version(History *h, const char *p)
{
    g_assert_cmpuint(h->n, <, VERSIONS);
    h->ended[h->n] = h->ops->len;
    h->versions[h->n++] = g_memdup2(p, LEN);
}

/* Commits, with and without room in memory for them, invalidations and aborts. */
static void make_history(History *h, const char *path)
{
    FfArray *a = open_at(ff_array_open, path, 6);
    g_autofree char *log = g_strconcat(path, ".redo", NULL);
    struct stat st;

    char *p = map(a);
    change(p, 0, 1, 'a');
    call(ff_array_commit(a));
    ff_array_free(a);
    g_assert_true(g_file_get_contents(path, &h->first, NULL, NULL));
    g_assert_cmpint(stat(log, &st), ==, 0);
    h->log = st.st_ino;

    record_start(h->ops, path);
    a = open_at(ff_array_open, path, 6);
    p = map(a);
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
    a = open_at(ff_array_open, path, 6);
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

static void test_prefixes(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "array", NULL);
    g_autofree char *again = g_build_filename(dir, "again", NULL);
    History h = {.ops = record_new()};
    FfArray *a = open_at(ff_array_open, path, 0);

    if (a) {
        ff_array_free(a);
        make_history(&h, path);
        record_no_syncs(true);
        g_assert_cmpuint(h.ops->len, >, 60);
        g_assert_cmpint(opens_as(&h, replay(&h, h.ops->len, 0), again), ==, (int)h.n - 1);
        g_assert_false(is_wrong(&h, again, 2 + world_rounds(2), 1));
        /* That a forgotten sync would be seen. */
        for (guint i = h.ops->len; i-- > 0;) {
            if (g_array_index(h.ops, Op, i).kind == OP_SYNC) {
                g_array_index(h.ops, Op, i).kind = OP_SYNC_DIRECTORY;
            }
        }
        g_assert_true(is_wrong(&h, again, 3, 7));
        record_no_syncs(false);
        for (unsigned v = 0; v < h.n; v++) {
            g_free(h.versions[v]);
        }
        g_free(h.first);
    }
    g_array_unref(h.ops);
    remove_all(dir);
    g_free(dir);
}

/* ---- killed ------------------------------------------------------------------------------------
 */

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
    g_test_add_data_func("/libfarfault/redo/tail-file", NULL, test_tail);
    g_test_add_data_func("/libfarfault/redo/tail-chunks", GUINT_TO_POINTER(1), test_tail);
    g_test_add_func("/libfarfault/redo/dropped", test_dropped);
    g_test_add_func("/libfarfault/redo/many-chunks", test_many_chunks);
    g_test_add_func("/libfarfault/redo/locked", test_locked);
    g_test_add_func("/libfarfault/redo/disk-fails", test_disk_fails);
    g_test_add_func("/libfarfault/redo/file-fails", test_file_fails);
    g_test_add_func("/libfarfault/redo/prefixes", test_prefixes);
    g_test_add_data_func("/libfarfault/redo/killed-file", NULL, test_killed);
    g_test_add_data_func("/libfarfault/redo/killed-chunks", GUINT_TO_POINTER(1), test_killed);
    return g_test_run();
}
