/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deltas against a base of pages, and the private memory of a process that a base is made of. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "net/delta.h"
#include "uffd/private.h"

#define PAGE FF_DELTA_PAGE
#define ROOM (32 * PAGE)
#define GUARD 64

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
    uint64_t x = seed * 2 + 88172645463325253ull;

    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = x >> 24;
    }
}

/* N pages, all different. */
static FfDelta *base_of(unsigned n)
{
    g_autoptr(FfDelta) d = ff_delta_new();
    uint8_t page[PAGE];

    for (unsigned i = 0; i < n; i++) {
        fill(page, sizeof(page), i);
        g_assert_true(ff_delta_add(d, page, sizeof(page)));
    }
    g_assert_true(ff_delta_index(d));
    g_assert_cmpuint(ff_delta_size(d), ==, n * PAGE);
    return g_steal_pointer(&d);
}

/* Returns the delta's length. What is made of it again is what it was made of. */
static size_t there_and_back(FfDelta *d, const uint8_t *in, size_t n)
{
    g_autofree uint8_t *delta = g_malloc(n), *out = g_malloc(n + GUARD);
    const char *why = NULL;
    size_t len = ff_delta_encode(d, in, n, delta);

    g_assert_cmpuint(len, <, n);
    if (!len) {
        return 0;
    }
    memset(out, 0x5a, n + GUARD);
    g_assert_cmpint(ff_delta_decode(d, delta, len, out, n, &why), ==, 0);
    g_assert_cmpmem(out, n, in, n);
    for (unsigned i = 0; i < GUARD; i++) {
        g_assert_cmpuint(out[n + i], ==, 0x5a);
    }
    return len;
}

/* As QEMU's stream has them: a header of 8 bytes, then the page. */
static void test_stream(void)
{
    g_autoptr(FfDelta) d = base_of(64);
    g_autofree uint8_t *in = g_malloc(ROOM);
    size_t n = 0;

    for (unsigned i = 20; i < 40 && n + 8 + PAGE <= ROOM; i++, n += 8 + PAGE) {
        uint64_t header = GUINT64_TO_BE((uint64_t)i * PAGE | 8);
        memcpy(in + n, &header, 8);
        fill(in + n + 8, PAGE, i);
    }
    g_assert_cmpuint(there_and_back(d, in, n), ==, n / (PAGE + 8) * (4 + 8 + 4));
}

/* Pages in between have changed, one or many. */
static void test_gaps(void)
{
    g_autoptr(FfDelta) d = ff_delta_new();
    g_autofree uint8_t *in = g_malloc(ROOM);
    uint8_t page[PAGE] = {0};
    size_t n = 0, added = 0;

    for (unsigned i = 0; i < 64; i++) {
        page[100] = i + 1; /* words by which it would be looked for are the same in all */
        g_assert_true(ff_delta_add(d, page, sizeof(page)));
    }
    g_assert_true(ff_delta_index(d));
    for (unsigned i = 0; n + 8 + PAGE <= ROOM; i++, n += 8 + PAGE) {
        bool changed = i % 7 == 3 || (i > 15 && i < 25);
        memset(in + n, 0, 8 + PAGE);
        in[n] = 0x55;
        in[n + 8 + 100] = i + 1;
        in[n + 8 + 2000] = changed;
        added += changed ? 8 + PAGE : 8 + 4;
    }
    size_t len = there_and_back(d, in, n);
    g_assert_cmpuint(len, >, added);
    g_assert_cmpuint(len, <, added + 32 * 4);
}

/* Wherever it begins, and with anything around it. */
static void test_anywhere(void)
{
    g_autoptr(FfDelta) d = base_of(300);
    g_autofree uint8_t *in = g_malloc(ROOM);

    for (unsigned at = 0; at <= 2 * PAGE; at += at < 70 ? 1 : 1021) {
        fill(in, ROOM, 7777);
        fill(in + at, PAGE, 299);
        fill(in + at + PAGE + 3, PAGE, 0); /* not the next one */
        size_t len = there_and_back(d, in, 4 * PAGE);
        g_assert_cmpuint(len, >, 0);
        g_assert_cmpuint(len, <=, 2 * PAGE + 5 * 4);
    }
}

/* A page that has changed by one bit, in any of its words, is not that page. */
static void test_changed(void)
{
    g_autoptr(FfDelta) d = base_of(8);
    g_autofree uint8_t *in = g_malloc(ROOM);

    for (unsigned bit = 0; bit < PAGE * 8; bit += 61) {
        fill(in, PAGE, 3);
        fill(in + PAGE, PAGE, 4);
        in[bit / 8] ^= 1 << bit % 8;
        g_assert_cmpuint(there_and_back(d, in, 2 * PAGE), ==, PAGE + 2 * 4);
    }
}

static void test_nothing_alike(void)
{
    g_autoptr(FfDelta) d = base_of(8), empty = ff_delta_new(), indexed = base_of(0);
    g_autofree uint8_t *in = g_malloc(ROOM);

    fill(in, ROOM, 4711);
    g_assert_cmpuint(there_and_back(d, in, ROOM), ==, 0);
    memset(in, 0, ROOM);
    g_assert_cmpuint(there_and_back(d, in, ROOM), ==, 0);
    g_assert_cmpuint(there_and_back(empty, in, ROOM), ==, 0); /* no index either */
    g_assert_cmpuint(there_and_back(indexed, in, ROOM), ==, 0);
    fill(in, PAGE, 1);
    g_assert_cmpuint(there_and_back(d, in, 1), ==, 0);
    g_assert_cmpuint(there_and_back(d, in, PAGE - 1), ==, 0);
    g_assert_cmpuint(there_and_back(d, in, PAGE), ==, 4);
}

/* Firmware has many pages of one pattern. */
static void test_all_the_same(void)
{
    g_autoptr(FfDelta) d = ff_delta_new();
    g_autofree uint8_t *in = g_malloc(ROOM);

    memset(in, 0xff, ROOM);
    for (unsigned i = 0; i < 64; i++) {
        g_assert_true(ff_delta_add(d, in, ROOM));
    }
    g_assert_true(ff_delta_index(d));
    fill(in, 10, 1);
    g_assert_cmpuint(there_and_back(d, in, ROOM), ==, 4 + 10 + 31 * 4 + 4 + PAGE - 10);
}

/* A row of pages of one byte, as erased flash has it, in pieces that end anywhere: only a page that
 * a piece ends in is not found. */
static void test_pieces(void)
{
    enum { PAGES = 120, PIECE = 50000 };
    g_autoptr(FfDelta) d = ff_delta_new();
    g_autofree uint8_t *in = g_malloc0(PAGES * (8 + PAGE));
    size_t n = PAGES * (8 + PAGE), whole = 0, pieces = 0, len = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        uint8_t *page = in + (size_t)i * (8 + PAGE) + 8;
        memset(page, 0xff, PAGE);
        if (i == 0) {
            fill(page, PAGE, 1);
        }
        g_assert_true(ff_delta_add(d, page, PAGE));
        size_t first = page - in, last = first + PAGE - 1;
        whole += first / PIECE == last / PIECE;
    }
    g_assert_true(ff_delta_index(d));
    for (size_t at = 0; at < n; at += PIECE, pieces++) {
        size_t piece = MIN(PIECE, n - at), delta = there_and_back(d, in + at, piece);
        len += delta ? delta : piece;
    }
    /* of a whole page its number is left, and the length of what stands in front of it */
    g_assert_cmpuint(whole, ==, PAGES - n / PIECE);
    g_assert_cmpuint(len, <=, n - whole * (PAGE - 8) + pieces * 4);
}

/* Pieces of what a guest has drawn, then pages of the base: the first ones may be missed, and no
 * more of them. */
static void test_long_row(void)
{
    enum { PAGES = 64, PIECE = 128 << 10, DRAWN = 16 };
    g_autoptr(FfDelta) d = base_of(PAGES);
    const size_t n = (size_t)DRAWN * PIECE + PAGES * (8 + PAGE);
    g_autofree uint8_t *in = g_malloc0(n);
    size_t len = 0;

    fill(in, (size_t)DRAWN * PIECE, 4711);
    for (unsigned i = 0; i < PAGES; i++) {
        fill(in + (size_t)DRAWN * PIECE + (size_t)i * (8 + PAGE) + 8, PAGE, i);
    }
    for (size_t at = 0; at < n; at += PIECE) {
        size_t piece = MIN(PIECE, n - at), delta = there_and_back(d, in + at, piece);
        len += delta ? delta : piece;
    }
    g_assert_cmpuint(len, >, (size_t)DRAWN * PIECE);
    /* 16 pages at most until the next look, and the one that each piece ends in */
    g_assert_cmpuint(len, <, (size_t)DRAWN * PIECE + (16 + 2 + 1) * (PAGE + 8) + PAGES * 16);
}

/* Nearly a page, all the time: it is given up for this piece, and not for the next. */
static void test_in_vain(void)
{
    g_autoptr(FfDelta) d = ff_delta_new();
    g_autofree uint8_t *in = g_malloc(ROOM);

    for (unsigned i = 0; i < ROOM; i++) {
        in[i] = i % 3;
    }
    for (unsigned i = 0; i < 4; i++) {
        uint8_t last = in[PAGE - 1];
        in[PAGE - 1] = 10 + i;
        g_assert_true(ff_delta_add(d, in, PAGE));
        in[PAGE - 1] = last;
    }
    uint8_t *page = in + ROOM - PAGE;
    fill(page, PAGE, 1);
    g_assert_true(ff_delta_add(d, page, PAGE));
    g_assert_true(ff_delta_index(d));
    g_assert_cmpuint(there_and_back(d, in, ROOM), ==, 0);
    g_assert_cmpuint(there_and_back(d, page, PAGE), ==, 4);
}

static void test_room(void)
{
    g_autoptr(FfDelta) d = ff_delta_new();
    g_autofree uint8_t *in = g_malloc0(FF_DELTA_BASE_MAX);

    g_assert_false(ff_delta_add(d, in, 1));
    g_assert_false(ff_delta_add(d, in, PAGE + 1));
    g_assert_false(ff_delta_add(d, in, FF_DELTA_BASE_MAX + PAGE));
    g_assert_true(ff_delta_add(d, in, PAGE));
    g_assert_false(ff_delta_add(d, in, FF_DELTA_BASE_MAX));
    g_assert_true(ff_delta_add(d, in, FF_DELTA_BASE_MAX - PAGE));
    g_assert_false(ff_delta_add(d, in, PAGE));
    g_assert_cmpuint(ff_delta_size(d), ==, FF_DELTA_BASE_MAX);
}

/* ---- what is refused */

typedef struct {
    const char *name;
    uint32_t words[4];
    size_t len, n; /* bytes: of the delta, and what it is said to be of */
    const char *why;
} Row;

static const Row rows[] = {
    {"empty", {0}, 0, 4, "less than was said"},
    {"half-a-word", {1}, 3, 4, "ends within an instruction"},
    {"add-nothing", {0, 0}, 8, 4, "cannot have"},
    {"add-behind-the-end", {5, 1}, 8, 5, "cannot have"},
    {"add-billions", {0x7fffffff, 1}, 8, 5, "cannot have"},
    {"add-too-much", {4, 1}, 8, 3, "more than was said"},
    {"add-too-little", {4, 1}, 8, 5, "less than was said"},
    {"page-outside", {FF_DELTA_COPY | 2}, 4, PAGE, "cannot have"},
    {"last-page-number", {0xffffffff}, 4, PAGE, "cannot have"},
    {"page-too-much", {FF_DELTA_COPY}, 4, PAGE - 1, "more than was said"},
    {"second-page-too-much", {FF_DELTA_COPY, FF_DELTA_COPY | 1}, 8, PAGE, "more than was said"},
    {"page-too-little", {FF_DELTA_COPY | 1}, 4, PAGE + 1, "less than was said"},
    {"rest", {FF_DELTA_COPY | 1, 0}, 5, PAGE, "ends within an instruction"},
};

static void test_refused(gconstpointer data)
{
    const Row *r = data;
    g_autoptr(FfDelta) d = base_of(2);
    uint32_t words[4];
    const char *why = NULL;

    for (unsigned i = 0; i < 4; i++) {
        words[i] = GUINT32_TO_LE(r->words[i]);
    }
    /* Of their own size, so that ASan sees a byte too far. */
    g_autofree uint8_t *delta = g_memdup2(words, r->len), *out = g_malloc(r->n);
    g_assert_cmpint(ff_delta_decode(d, delta, r->len, out, r->n, &why), ==, -EBADMSG);
    g_assert_nonnull(strstr(why, r->why));
}

/* ---- private memory: this process has blocks as QEMU does */

typedef struct {
    uint8_t *map; /* with what is around it */
    uint8_t *at;
    size_t len;
} Block;

/* LEN bytes at a multiple of ALIGNMENT, with GUARD_LEN of nothing after them. */
static Block make_aligned(size_t len, size_t guard_len, size_t alignment)
{
    const size_t around = 2 * alignment;
    Block b = {.len = len};

    b.map = mmap(NULL, len + around, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(b.map != MAP_FAILED);
    b.at = (uint8_t *)(((uintptr_t)b.map + alignment) & ~((uintptr_t)alignment - 1));
    g_assert_cmpint(mprotect(b.at, len, PROT_READ | PROT_WRITE), ==, 0);
    g_assert_cmpint(munmap(b.at + len + guard_len, b.map + len + around - (b.at + len + guard_len)),
                    ==, 0);
    return b;
}

static Block make_block(size_t len, size_t guard_len)
{
    return make_aligned(len, guard_len, 2 << 20);
}

typedef struct {
    GArray *seeds; /* uint64_t at the beginning of each page that was seen with our mark */
    unsigned limit;
} Seen;

#define MARK 0x6b72616d74736574ull

static bool see(const void *page, void *opaque)
{
    Seen *s = opaque;
    uint64_t words[2];

    memcpy(words, page, sizeof(words));
    if (words[1] == MARK) {
        g_array_append_val(s->seeds, words[0]);
    }
    return s->seeds->len < s->limit;
}

static void mark(Block *b, unsigned page, uint64_t number)
{
    uint64_t words[2] = {number, MARK};

    memcpy(b->at + page * PAGE, words, sizeof(words));
}

static GArray *read_all(unsigned limit)
{
    int maps = open("/proc/self/maps", O_RDONLY), mem = open("/proc/self/mem", O_RDONLY);
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    Seen s = {g_array_new(FALSE, FALSE, sizeof(uint64_t)), limit};

    g_assert_cmpint(ff_private_read(maps, pagemap, mem, see, &s), ==, 0);
    close(maps);
    close(mem);
    close(pagemap);
    return s.seeds;
}

static void assert_numbers(GArray *seen, const uint64_t *want, guint n)
{
    g_assert_cmpmem(seen->data, seen->len * sizeof(uint64_t), want, n * sizeof(uint64_t));
}

static void test_private(void)
{
    Block large = make_block(300 * PAGE, PAGE), small = make_block(2 * PAGE, PAGE);
    Block arena = make_block(3 * PAGE, 2 * PAGE), bare = make_block(3 * PAGE, 0);
    /* glibc's heap for a thread, all of it in use but for a page */
    Block heap = make_aligned((64 << 20) - PAGE, PAGE, 64 << 20);
    const uint64_t all[] = {1, 10, 11, 12, 13}, two[] = {1, 10};

    mark(&large, 0, 10);
    mark(&large, 63, 11);
    mark(&large, 64, 12);
    mark(&large, 299, 13);
    large.at[100 * PAGE] = 0; /* there, and zero */
    mark(&small, 1, 1);
    mark(&arena, 0, 20);
    mark(&bare, 0, 21);
    mark(&heap, 0, 22);
    g_autoptr(GArray) seen = read_all(1000);
    assert_numbers(seen, all, G_N_ELEMENTS(all));
    g_autoptr(GArray) some = read_all(2);
    assert_numbers(some, two, G_N_ELEMENTS(two));
}

static bool count(const void *page, void *opaque)
{
    g_assert_null(page);
    ++*(unsigned *)opaque;
    return true;
}

static unsigned count_all(void)
{
    int maps = open("/proc/self/maps", O_RDONLY), pagemap = open("/proc/self/pagemap", O_RDONLY);
    unsigned n = 0;

    g_assert_cmpint(ff_private_read(maps, pagemap, -1, count, &n), ==, 0);
    close(maps);
    close(pagemap);
    return n;
}

/* Without the memory itself: what is there is counted, zero or not. */
static void test_private_unread(void)
{
    Block b = make_block(300 * PAGE, PAGE);
    unsigned before = count_all();

    mark(&b, 7, 1);
    mark(&b, 299, 2);
    b.at[100 * PAGE] = 0;
    g_assert_cmpuint(count_all(), ==, before + 3);
}

/* What cannot be had is an error, and no crash. */
static void test_private_refused(void)
{
    int maps = open("/proc/self/maps", O_RDONLY), pagemap = open("/proc/self/pagemap", O_RDONLY);
    Block b = make_block(2 * PAGE, PAGE);
    Seen s = {g_array_new(FALSE, FALSE, sizeof(uint64_t)), 1000};

    mark(&b, 0, 1);
    g_assert_cmpint(ff_private_read(maps, pagemap, maps, see, &s), ==, -EIO);
    g_assert_cmpint(ff_private_read(-1, pagemap, maps, see, &s), ==, 0);
    g_assert_cmpuint(s.seeds->len, ==, 0);
    g_array_unref(s.seeds);
    close(maps);
    close(pagemap);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/delta/stream", test_stream);
    g_test_add_func("/delta/gaps", test_gaps);
    g_test_add_func("/delta/anywhere", test_anywhere);
    g_test_add_func("/delta/changed", test_changed);
    g_test_add_func("/delta/nothing-alike", test_nothing_alike);
    g_test_add_func("/delta/all-the-same", test_all_the_same);
    g_test_add_func("/delta/pieces", test_pieces);
    g_test_add_func("/delta/long-row", test_long_row);
    g_test_add_func("/delta/in-vain", test_in_vain);
    g_test_add_func("/delta/room", test_room);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/delta/refused/%s", rows[i].name);
        g_test_add_data_func(path, &rows[i], test_refused);
    }
    g_test_add_func("/delta/private", test_private);
    g_test_add_func("/delta/private-unread", test_private_unread);
    g_test_add_func("/delta/private-refused", test_private_refused);
    return g_test_run();
}
