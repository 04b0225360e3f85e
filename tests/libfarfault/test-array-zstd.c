/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of compressed files: each byte is what was compressed, whatever the sizes of frames and
 * blocks; changes stay in memory; a frame is unpacked once by a thread that reads on, and by
 * threads that need it at once; what is damaged, cut or hostile is refused in one line, or SIGBUS.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/libfarfault/held.h"
#include "tests/libfarfault/record.h"

#define PS 4096u
#define MIB (1u << 20)
#define FOOTER 9
#define HAS_CHECKSUMS 0x80

/* A file of this process, and what it holds. */
typedef struct {
    char *dir, *path;
    char *plain; /* LEN bytes */
    size_t len, frame, n_frames;
    GByteArray *file;
    size_t *ends; /* of frames in the file */
} Packed;

/* How it is made. */
typedef enum {
    P_FRAME_SUMS = 1,
    P_TABLE_SUMS = 2,
    P_EMPTY_LAST = 4,
    P_RANDOM = 8,
    P_PADDED = 16 /* with PADDING bytes after each, that are skipped */
} PackedFlags;
#define PADDING (9u * MIB)

static void put_le32(GByteArray *b, uint32_t value)
{
    uint32_t le = GUINT32_TO_LE(value);

    g_byte_array_append(b, (const guint8 *)&le, sizeof(le));
}

static void set_le32(guint8 *at, uint32_t value)
{
    uint32_t le = GUINT32_TO_LE(value);

    memcpy(at, &le, sizeof(le));
}

/* N bytes of DATA as a frame of its own. */
static GByteArray *pack(const char *data, size_t n, bool sum)
{
    GByteArray *frame = g_byte_array_new();
    ZSTD_CCtx *ctx = ZSTD_createCCtx();

    g_byte_array_set_size(frame, (guint)ZSTD_compressBound(n));
    g_assert_false(ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, sum)));
    size_t size = ZSTD_compress2(ctx, frame->data, frame->len, data, n);
    g_assert_false(ZSTD_isError(size));
    g_byte_array_set_size(frame, (guint)size);
    ZSTD_freeCCtx(ctx);
    return frame;
}

/* Appends one, and its row of TABLE. Its sum is what ends a frame that has one. */
static void add_frame(Packed *p, GByteArray *table, const char *data, size_t n, unsigned flags)
{
    g_autoptr(GByteArray) frame = pack(data, n, flags & P_FRAME_SUMS);
    g_autoptr(GByteArray) summed = pack(data, n, true);

    g_byte_array_append(p->file, frame->data, frame->len);
    if (flags & P_PADDED) {
        put_le32(p->file, 0x184d2a50u);
        put_le32(p->file, PADDING - 8);
        g_byte_array_set_size(p->file, p->file->len + PADDING - 8);
        memset(p->file->data + p->file->len - (PADDING - 8), 0, PADDING - 8);
    }
    put_le32(table, frame->len + (flags & P_PADDED ? PADDING : 0));
    put_le32(table, (uint32_t)n);
    if (flags & P_TABLE_SUMS) {
        g_byte_array_append(table, summed->data + summed->len - 4, 4);
    }
    p->ends[p->n_frames++] = p->file->len;
}

static void write_file(const Packed *p)
{
    g_assert_true(g_file_set_contents_full(p->path, (const char *)p->file->data, p->file->len,
                                           G_FILE_SET_CONTENTS_NONE, 0600, NULL));
}

static Packed packed_new(size_t len, size_t frame, unsigned flags)
{
    Packed p = {.dir = g_dir_make_tmp("libfarfault-XXXXXX", NULL), .len = len, .frame = frame};
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autofree char *plain = g_malloc(len + 8);
    uint64_t state = 1;

    p.path = g_build_filename(p.dir, "array.zst", NULL);
    for (size_t i = 0; i < len; i += 8) { /* numbers that differ: some zeros, or none */
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = (flags & P_RANDOM ? state ^ state >> 29 : state >> 48) | 1;
        memcpy(plain + i, &word, 8);
    }
    p.plain = g_steal_pointer(&plain);
    p.file = g_byte_array_new();
    p.ends = g_new(size_t, len / frame + 2);
    for (size_t at = 0; at < len; at += frame) {
        add_frame(&p, table, p.plain + at, MIN(frame, len - at), flags);
    }
    if (flags & P_EMPTY_LAST) {
        add_frame(&p, table, p.plain, 0, flags);
    }
    put_le32(p.file, 0x184d2a5eu);
    put_le32(p.file, table->len + FOOTER);
    put_le32(table, (uint32_t)p.n_frames);
    guint8 descriptor = flags & P_TABLE_SUMS ? HAS_CHECKSUMS : 0;
    g_byte_array_append(table, &descriptor, 1);
    put_le32(table, 0x8f92eab1u);
    g_byte_array_append(p.file, table->data, table->len);
    write_file(&p);
    return p;
}

static void packed_free(Packed *p)
{
    remove(p->path);
    g_assert_cmpint(rmdir(p->dir), ==, 0); /* nothing was put beside it */
    g_byte_array_unref(p->file);
    g_free(p->dir);
    g_free(p->path);
    g_free(p->plain);
    g_free(p->ends);
}

/* NULL: skipped. LIMIT: blocks. */
static FfArray *open_packed(const Packed *p, size_t block, unsigned limit, unsigned flags)
{
    FfArrayOptions o = {.size = sizeof(o),
                        .block_size = block,
                        .limit = limit * block,
                        .flags = flags,
                        .spill = g_get_tmp_dir()};
    FfArray *a;
    int rc = ff_array_open_zstd(p->path, &o, &a);

    if (rc == -EPERM || rc == -ENOTSUP) {
        g_test_skip(ff_last_error());
        return NULL;
    }
    call(rc);
    return a;
}

static char *map(FfArray *a)
{
    void *at;

    call(ff_array_map(a, 0, 0, &at));
    return at;
}

static void assert_same(const Packed *p, const char *at, size_t from, size_t end)
{
    g_assert_cmpint(memcmp(at + from, p->plain + from, end - from), ==, 0);
}

/* ---- what it holds --------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    size_t len, frame, block;
    unsigned limit; /* blocks */
    unsigned packed, flags;
} Shape;

static const Shape shapes[] = {
    {"frames-1000-blocks-4k", 3 * MIB / 2 + 77, 1000, PS, 64, P_FRAME_SUMS, 0},
    {"frames-4k-blocks-4k", MIB, PS, PS, 64, P_TABLE_SUMS, FF_ARRAY_RANDOM},
    {"frames-128k-blocks-4k", 3 * MIB + 1, 128 << 10, PS, 64, P_FRAME_SUMS | P_TABLE_SUMS, 0},
    {"frames-128k-blocks-64k", 5 * MIB + 5001, 128 << 10, 64 << 10, 64, P_EMPTY_LAST, 0},
    {"frames-3m-blocks-64k", 10 * MIB, 3 * MIB + 17, 64 << 10, 0, P_RANDOM | P_TABLE_SUMS, 0},
    {"frames-5000-blocks-2m", 9 * MIB + 123, 5000, 2 * MIB, 4, P_FRAME_SUMS, 0},
    {"frames-whole-blocks-2m", 9 * MIB, 9 * MIB, 2 * MIB, 0, P_FRAME_SUMS | P_EMPTY_LAST, 0},
    {"frames-1m-blocks-huge", 9 * MIB + 123, MIB + 1, 2 * MIB, 4, 0, FF_ARRAY_HUGE},
    {"one-byte", 1, 1, PS, 0, P_TABLE_SUMS | P_EMPTY_LAST, 0},
};

static void test_content(gconstpointer data)
{
    const Shape *s = data;
    HugePages *pool = s->flags & FF_ARRAY_HUGE ? hugepages_new(4) : NULL;

    if (s->flags & FF_ARRAY_HUGE && !pool) {
        return;
    }
    Packed p = packed_new(s->len, s->frame, s->packed);
    FfArray *a = open_packed(&p, s->block, s->limit, s->flags);
    if (a) {
        size_t end = (s->len + s->block - 1) / s->block * s->block;
        g_assert_cmpuint(ff_array_len(a), ==, s->len);
        const char *at = map(a);
        assert_same(&p, at, 0, s->len);
        for (size_t i = s->len; i < end; i++) { /* what has no room in the last block */
            g_assert_cmpint(at[i], ==, 0);
        }
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), >, 0);
        for (size_t i = s->len; i > 0; i -= MIN(i, 3 * PS + 1)) { /* no stream */
            g_assert_cmpint(at[i - 1], ==, p.plain[i - 1]);
        }
        ff_array_free(a);
    }
    packed_free(&p);
    hugepages_free(pool);
}

/* What is changed is in memory, or where there is no room there beside it, until it is dropped. */
static void test_changes(gconstpointer data)
{
    const unsigned *flags = data;
    Packed p = packed_new(4 * MIB + 100, 100 << 10, P_FRAME_SUMS);
    FfArray *a = open_packed(&p, 4 * PS, 8, *flags), *b;
    FfArrayStats stats = {.size = sizeof(stats)};

    if (a) {
        char *at = map(a);
        for (size_t i = 0; i < p.len; i += PS) {
            at[i] = 0;
        }
        call(ff_array_stats(a, &stats));
        g_assert_cmpuint(stats.spilled, >, p.len / PS / 2);
        assert_says(ff_array_commit(a), -EROFS, "can only be read");
        assert_says(ff_array_writeout(a, FF_ARRAY_STORE), -EROFS, "can only be read");
        for (size_t i = 0; i < p.len; i += PS) { /* also after that */
            g_assert_cmpint(at[i], ==, 0);
            g_assert_cmpint(at[MIN(i + 1, p.len - 1)], ==, p.plain[MIN(i + 1, p.len - 1)]);
        }
        call(ff_array_invalidate(a, 0, 8 * PS));
        assert_same(&p, at, 0, 8 * PS);
        g_assert_cmpint(at[8 * PS], ==, 0);
        call(ff_array_abort(a));
        assert_same(&p, at, 0, p.len);
        call(ff_array_commit(a)); /* of nothing */
        b = open_packed(&p, 0, 0, 0);
        assert_same(&p, map(b), 0, p.len);
        ff_array_free(b);
        assert_says(ff_array_open(p.path, 0, NULL, &b), -EBUSY, "somebody has it open");
        at[5] = 0;
        ff_array_free(a);
        a = open_packed(&p, 0, 0, 0);
        assert_same(&p, map(a), 0, p.len);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* ---- how often it is unpacked ---------------------------------------------------------------- */

/* A thread that reads on unpacks each frame once, though it is loaded in many blocks. */
static void test_stream(gconstpointer data)
{
    const unsigned *flags = data;
    Packed p = packed_new(8 * MIB, 128 << 10, P_FRAME_SUMS);
    FfArray *a = open_packed(&p, PS, 256, *flags);

    if (a) {
        record_count_reads(p.path);
        assert_same(&p, map(a), 0, p.len);
        g_assert_cmpuint(record_reads(), >=, p.ends[p.n_frames - 1]);
        g_assert_cmpuint(record_reads(), <, 2 * p.file->len);
        record_count_reads(NULL);
        ff_array_free(a);
    }
    packed_free(&p);
}

#define READERS 8

typedef struct {
    const Packed *p;
    const char *at;
    unsigned index, *ready;
    size_t n; /* pages to read */
} Reader;

static void await_all(unsigned *ready)
{
    __atomic_add_fetch(ready, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(ready, __ATOMIC_RELAXED) < READERS) {
        g_thread_yield();
    }
}

/* Another block of the same frame. */
static gpointer read_block(gpointer opaque)
{
    const Reader *r = opaque;
    size_t from = r->index * 16 * PS;

    await_all(r->ready);
    assert_same(r->p, r->at, from, from + PS);
    return NULL;
}

/* Pages from a place of its own on, or here and there. */
static gpointer read_pages(gpointer opaque)
{
    const Reader *r = opaque;
    size_t n = r->p->len / PS;

    await_all(r->ready);
    for (size_t i = 0; i < r->n; i++) {
        size_t page = r->index % 2 ? (i * 7919 + r->index) % n : (i + r->index * n / READERS) % n;
        assert_same(r->p, r->at, page * PS, page * PS + PS);
    }
    return NULL;
}

static void run_readers(const Packed *p, FfArray *a, GThreadFunc fn, size_t n)
{
    GThread *threads[READERS];
    Reader readers[READERS];
    unsigned ready = 0;
    char *one = map(a), *two = map(a);

    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (Reader){p, i % 3 ? one : two, i, &ready, n};
        threads[i] = g_thread_new("reader", fn, &readers[i]);
    }
    for (unsigned i = 0; i < READERS; i++) {
        g_thread_join(threads[i]);
    }
}

static void test_threads(void)
{
    Packed p = packed_new(4 * MIB, 2 * MIB, P_FRAME_SUMS);
    FfArray *a = open_packed(&p, PS, 0, FF_ARRAY_RANDOM);

    if (a) {
        record_count_reads(p.path);
        run_readers(&p, a, read_block, 1);
        g_assert_cmpuint(record_reads(), ==, p.ends[0]); /* the second one waits for the first */
        record_count_reads(NULL);
        ff_array_free(a);
        a = open_packed(&p, 4 * PS, 16, 0);
        run_readers(&p, a, read_pages, 1024);
        ff_array_free(a);
    }
    packed_free(&p);
    /* More threads than frames are kept. */
    p = packed_new(20 * MIB, 6 * MIB, P_TABLE_SUMS);
    a = open_packed(&p, 4 * PS, 32, 0);
    if (a) {
        run_readers(&p, a, read_pages, 16);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* Frames that unpack to little and have much in the file: that is not kept of many. */
static void test_padded(void)
{
    Packed p = packed_new(8 * PS, PS, P_PADDED);
    FfArray *a = open_packed(&p, PS, 0, FF_ARRAY_RANDOM);

    if (a) {
        const char *at = map(a);
        assert_same(&p, at, 0, p.len);
        g_assert_cmpint(ff_array_reclaim(a, SIZE_MAX), ==, (ssize_t)p.len);
        record_count_reads(p.path);
        assert_same(&p, at, 0, p.len);
        g_assert_cmpuint(record_reads(), >=, 6 * PADDING);
        record_count_reads(NULL);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

#define DAMAGED 3u

/* A byte of a frame is another one. A thread that touches that frame gets SIGBUS, or EFAULT; nobody
 * else. */
static void test_damaged(gconstpointer data)
{
    const unsigned *flags = data;
    Packed p = packed_new(10 * 40 * PS, 40 * PS, *flags);
    FfArray *a = open_packed(&p, 16 * PS, 0, 0);
    FfArrayStats stats = {.size = sizeof(stats)};

    if (a) {
        size_t from = DAMAGED * p.frame, end = from + p.frame;
        size_t first = from / (16 * PS) * 16 * PS, last = (end + 16 * PS - 1) / (16 * PS) * 16 * PS;
        char *at = map(a);
        int fd = open(p.path, O_RDWR | O_CLOEXEC), out = world_file();
        off_t place = (off_t)(p.ends[DAMAGED - 1] + p.ends[DAMAGED]) / 2;
        char byte = (char)(p.file->data[place] ^ 4);
        g_assert_cmpint(pwrite(fd, &byte, 1, place), ==, 1);
        assert_same(&p, at, 0, first);
        for (size_t i = first; i < last; i += PS) {
            g_assert_true(world_is_bus(at + i));
        }
        g_assert_cmpint(pwrite(out, at + from, PS, 0), ==, -1);
        assert_same(&p, at, last, p.len);
        call(ff_array_stats(a, &stats));
        g_assert_cmpuint(stats.failed, ==, (last - first) / (16 * PS));
        write_file(&p); /* has another inode: */
        g_assert_cmpint(pwrite(fd, &p.file->data[place], 1, place), ==, 1);
        call(ff_array_invalidate(a, first, last - first));
        assert_same(&p, at, 0, p.len);
        close(out);
        close(fd);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* The file becomes shorter while it is open. */
static void test_cut_open(void)
{
    Packed p = packed_new(8 * 64 * PS, 64 * PS, P_FRAME_SUMS);
    FfArray *a = open_packed(&p, 16 * PS, 0, FF_ARRAY_RANDOM);

    if (a) {
        char *at = map(a);
        g_assert_cmpint(truncate(p.path, (off_t)p.ends[3] + 100), ==, 0);
        g_assert_true(world_is_bus(at + 5 * 64 * PS));
        g_assert_true(world_is_bus(at + 4 * 64 * PS));
        assert_same(&p, at, 0, 4 * 64 * PS);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* Somebody writes to it, in its place: what was unpacked before is of the file as it was. */
static void test_changed_open(void)
{
    Packed p = packed_new(4 * 16 * PS, 16 * PS, P_RANDOM);
    FfArray *a = open_packed(&p, 4 * PS, 0, FF_ARRAY_RANDOM);

    if (a) {
        char *at = map(a);
        int fd = open(p.path, O_RDWR | O_CLOEXEC);
        assert_same(&p, at, 0, p.len);
        char *found = memmem(p.file->data, p.file->len, p.plain + 100, 32); /* as it is */
        g_assert_nonnull(found);
        p.plain[100] ^= 4;
        off_t place = found - (char *)p.file->data;
        g_assert_cmpint(pwrite(fd, p.plain + 100, 1, place), ==, 1);
        call(ff_array_invalidate(a, 0, 0));
        assert_same(&p, at, 0, p.len);
        close(fd);
        ff_array_free(a);
    }
    packed_free(&p);
}

/* TEXT: in the line that says why it is not opened. */
static void assert_refused(const Packed *p, const char *text)
{
    FfArray *a;

    assert_says(ff_array_open_zstd(p->path, NULL, &a), -EINVAL, text);
    g_assert_null(a);
    g_assert_true(g_str_has_prefix(ff_last_error(), p->path));
}

static void test_not_such_a_file(void)
{
    Packed p = packed_new(MIB, 64 << 10, P_FRAME_SUMS);
    g_autofree char *none = g_build_filename(p.dir, "none", NULL);
    FfArray *a;

    for (size_t n = 0; n < p.file->len; n += n < 64 || n > p.file->len - 400 ? 1 : 997) {
        g_assert_true(g_file_set_contents(p.path, (char *)p.file->data, (gssize)n, NULL));
        assert_refused(&p, n < 4 ? "not compressed" : "");
    }
    assert_refused(&p, "the file is cut");
    g_autoptr(GByteArray) frame = pack(p.plain, p.len, true);
    g_assert_true(g_file_set_contents(p.path, (char *)frame->data, frame->len, NULL));
    assert_refused(&p, "must be unpacked first (zstd -d)");
    g_assert_true(g_file_set_contents(p.path, p.plain, (gssize)p.len, NULL));
    assert_refused(&p, "ff_array_open() is for plain files");
    assert_says(ff_array_open_zstd(none, NULL, &a), -ENOENT, "none: No such file");
    assert_says(ff_array_open_zstd(p.dir, NULL, &a), -EINVAL, "not a regular file");
    g_assert_cmpint(mkfifo(none, 0600), ==, 0);
    assert_says(ff_array_open_zstd(none, NULL, &a), -EINVAL, "not a regular file");
    g_assert_cmpint(remove(none), ==, 0);
    packed_free(&p);
}

/* Tables that lie. FIELD: bytes before the end of the file, where VALUE is put. */
static void test_hostile(void)
{
    Packed p = packed_new(4 * 64 * PS, 64 * PS, P_FRAME_SUMS), none = packed_new(1, 1, 0);
    /* Rows of 8 bytes, 4 of them. */
    const struct {
        size_t field;
        uint32_t value;
        const char *text;
    } lies[] = {
        {FOOTER, 5, "damaged"},
        {FOOTER, 3, "damaged"},
        {FOOTER, 0, "damaged"},
        {FOOTER, UINT32_MAX, "does not fit"},
        {FOOTER + 8, UINT32_MAX, "damaged: frame 3"},
        {FOOTER + 8, 1, "are not those of the file"},
        {FOOTER + 8, 0, "damaged: frame 3"},
        {FOOTER + 16, 1u << 20, "damaged: frame 2"}, /* it has what the next one has */
        {FOOTER + 12, 65 * MIB, "64 MiB at most"},
        {FOOTER + 12, UINT32_MAX, "64 MiB at most"},
        {FOOTER - 4, 0x8f92eab1u << 8 | 0x7f, "does not fit"}, /* reserved bits */
        {4, 0, "without the table"},
        {FOOTER + 32 + 4, 0, "does not begin where it should"},
        {FOOTER + 32 + 8, 0, "does not begin where it should"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lies); i++) {
        guint8 *at = p.file->data + p.file->len - lies[i].field, before[4];
        memcpy(before, at, 4);
        set_le32(at, lies[i].value);
        write_file(&p);
        assert_refused(&p, lies[i].text);
        memcpy(at, before, 4);
    }
    write_file(&p);
    /* A size that is not the frame's is seen when it is unpacked. */
    set_le32(p.file->data + p.file->len - FOOTER - 4, 64 * PS - 1);
    write_file(&p);
    FfArray *a = open_packed(&p, 16 * PS, 0, 0);
    if (a) {
        char *at = map(a);
        g_assert_cmpuint(ff_array_len(a), ==, p.len - 1);
        assert_same(&p, at, 0, 3 * 64 * PS);
        g_assert_true(world_is_bus(at + 3 * 64 * PS));
        ff_array_free(a);
    }
    /* Nothing but an empty frame. */
    set_le32(none.file->data + none.file->len - FOOTER - 4, 0);
    write_file(&none);
    assert_refused(&none, "nothing is in it");
    packed_free(&none);
    packed_free(&p);
}

int main(int argc, char **argv)
{
    static const unsigned sums[] = {P_FRAME_SUMS, P_RANDOM | P_TABLE_SUMS};
    static const unsigned modes[] = {0, FF_ARRAY_WRITE_FAULTS, FF_ARRAY_RANDOM};

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_autofree char *path = g_strconcat("/libfarfault/zstd/content/", shapes[i].name, NULL);
        g_test_add_data_func(path, &shapes[i], test_content);
    }
    g_test_add_data_func("/libfarfault/zstd/changes/tables", &modes[0], test_changes);
    g_test_add_data_func("/libfarfault/zstd/changes/faults", &modes[1], test_changes);
    g_test_add_data_func("/libfarfault/zstd/stream/ahead", &modes[0], test_stream);
    g_test_add_data_func("/libfarfault/zstd/stream/touched", &modes[2], test_stream);
    g_test_add_func("/libfarfault/zstd/threads", test_threads);
    g_test_add_func("/libfarfault/zstd/padded", test_padded);
    g_test_add_data_func("/libfarfault/zstd/damaged/sums-of-frames", &sums[0], test_damaged);
    g_test_add_data_func("/libfarfault/zstd/damaged/sums-of-table", &sums[1], test_damaged);
    g_test_add_func("/libfarfault/zstd/cut-while-open", test_cut_open);
    g_test_add_func("/libfarfault/zstd/changed-while-open", test_changed_open);
    g_test_add_func("/libfarfault/zstd/not-such-a-file", test_not_such_a_file);
    g_test_add_func("/libfarfault/zstd/hostile", test_hostile);
    return g_test_run();
}
