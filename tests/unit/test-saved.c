/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files of saved guests that are right, cut at each byte, damaged and hostile: what is said of
 * them, in one line that names the file.
 */
#include <string.h>
#include <sys/resource.h>

#include "base/sandbox.h"
#include "content/image/mapped.h"
#include "content/image/statistics.h"
#include "tests/lib/savedfile.h"

#define DATA_PAGES (24 + 1)
#define ALL_PAGES (SAVEDFILE_PAGES + SAVEDFILE_SMALL)

typedef struct {
    const char *name;
    SavedFileKind kind;
} Good;

static const Good goods[] = {
    {"stream", {0}},
    {"stream/background", {.background = true}},
    {"stream/switchover", {.switchover = true}},
    {"stream/no-footers", {.no_footers = true}},
    {"stream/offset", {.prefix = 4099}},
    {"mapped", {.mapped = true}},
    {"mapped/offset", {.mapped = true, .prefix = 65672}},
    {"mapped/early", {.mapped = true, .early = true, .switchover = true}},
};

static FfSaved *open_bytes(const GByteArray *b, size_t n, int64_t offset, GError **error)
{
    FfInput *in = ff_input_new_memory("FILE", b->data, n, error);

    g_assert_nonnull(in);
    return ff_saved_open(in, offset, error);
}

static void test_good(gconstpointer data)
{
    const Good *good = data;
    g_auto(SavedFile) f = savedfile_new(&good->kind);
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = open_bytes(f.bytes, f.bytes->len, good->kind.prefix, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);

    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_true(v->complete);
    g_assert_cmpstr(s->machine, ==, "pc-i440fx-7.2");
    g_assert_cmpuint(s->form, ==, good->kind.mapped ? FF_SAVED_MAPPED : FF_SAVED_STREAM);
    g_assert_cmpuint(s->blocks->len, ==, 2);
    g_assert_cmpuint(s->memory, ==, ALL_PAGES * FF_SAVED_PAGE);
    g_assert_cmpuint(v->data, ==, DATA_PAGES);
    g_assert_cmpuint(v->zero, ==, ALL_PAGES - DATA_PAGES);
    g_assert_cmpuint(v->absent, ==, 0);
    g_assert_cmpuint(s->tail, ==, f.tail);
    g_assert_cmpuint(s->end, ==, f.bytes->len);
    g_assert_cmpint(s->background, ==, good->kind.background);
    g_assert_cmpint(s->early, ==, good->kind.early);
    g_assert_cmpuint(v->major, ==, good->kind.mapped ? 9 : 7);
}

/* What libvirt has written into its header. */
typedef struct {
    const char *name, *magic;
    uint32_t format;
    bool mapped;
    const char *says; /* NULL: it is read */
} Image;

static const Image images[] = {
    {"raw", "LibvirtQemudSave", 0, false, NULL},
    {"sparse", "LibvirtQemudSave", 6, true, NULL},
    {"gzip", "LibvirtQemudSave", 1, false, "packed it with gzip"},
    {"zstd", "LibvirtQemudSave", 5, false, "FILE | zstd -dc >NEW"},
    {"part", "LibvirtQemudPart", 6, true, "its guest may still run"},
};

/* After the header of "virsh save", in the host's byte order, and its XML: libvirt 11.3 leaves
 * 64 KiB of zeros after that, in which it grows. */
static void test_libvirt(gconstpointer data)
{
    static const char xml[] = "<domain type='qemu'/>";
    const Image *image = data;
    uint32_t numbers[] = {2, sizeof(xml) + (64 << 10), 1, image->format};
    SavedFileKind kind = {.prefix = 92 + numbers[1], .mapped = image->mapped};
    g_auto(SavedFile) f = savedfile_new(&kind);
    g_autoptr(GError) error = NULL, named = NULL, outside = NULL;

    memcpy(f.bytes->data, image->magic, 16);
    memcpy(f.bytes->data + 16, numbers, sizeof(numbers));
    memcpy(f.bytes->data + 92, xml, sizeof(xml));
    g_autoptr(FfSaved) s = open_bytes(f.bytes, f.bytes->len, FF_SAVED_OFFSET_LOOK, &error);
    if (image->says) {
        g_assert_null(s);
        g_assert_nonnull(strstr(error->message, image->says));
    } else {
        g_assert_no_error(error);
        g_assert_cmpuint(s->offset, ==, kind.prefix);
        g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);
        g_assert_true(v->complete);
    }
    /* A client that names the place knows what stands there. */
    g_autoptr(FfSaved) there = open_bytes(f.bytes, f.bytes->len, kind.prefix, &named);
    g_assert_no_error(named);
    if (!image->says) {
        numbers[1] = UINT32_MAX;
        memcpy(f.bytes->data + 16, numbers, sizeof(numbers));
        g_autoptr(FfSaved) far = open_bytes(f.bytes, f.bytes->len, FF_SAVED_OFFSET_LOOK, &outside);
        g_assert_null(far);
        g_assert_nonnull(strstr(outside->message, "at byte 4294967387"));
    }
}

static void test_shared(gconstpointer data)
{
    SavedFileKind kind = {.shared = true, .mapped = GPOINTER_TO_INT(data)};
    g_auto(SavedFile) f = savedfile_new(&kind);
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = open_bytes(f.bytes, f.bytes->len, FF_SAVED_OFFSET_LOOK, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);

    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_cmpuint(v->data, ==, 1);
    g_assert_cmpuint(v->absent, ==, SAVEDFILE_PAGES);
}

/* What is said of the first N bytes (g_free); NULL: complete. */
static char *problem_of(const GByteArray *b, size_t n)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = open_bytes(b, n, FF_SAVED_OFFSET_LOOK, &error);

    if (!s) {
        return g_strdup(error->message);
    }
    g_autoptr(FfSurvey) v = ff_statistics_new(s, error);
    g_assert_cmpint(v->complete, ==, !v->problem);
    return g_strdup(v->problem);
}

static void assert_one_line(const char *problem, size_t n)
{
    if (!problem || !g_str_has_prefix(problem, "FILE: ") || strchr(problem, '\n')) {
        g_error("%zu bytes: '%s'", n, problem ? problem : "complete");
    }
}

/* Of one thread, and under TSan forty times as long. */
#ifdef __SANITIZE_THREAD__
#define CUT_STEP 17
#else
#define CUT_STEP 1
#endif

/* At each byte that is no page, and in a page now and then. */
static void test_cut(gconstpointer data)
{
    const Good *good = data;
    g_auto(SavedFile) f = savedfile_new(&good->kind);

    for (size_t n = 0; n < f.bytes->len; n += CUT_STEP) {
        if (n > f.header + 100 && n + 4200 < f.tail) {
            n += good->kind.mapped ? 4095 : 250;
        }
        g_autofree char *problem = problem_of(f.bytes, n);

        assert_one_line(problem, n);
        if (n > f.description + 4 && !strstr(problem, "bytes are missing at its end")) {
            g_error("%zu bytes: %s", n, problem);
        }
    }
    /* A device that is larger than what was written to it. */
    gsize size = f.bytes->len;
    g_byte_array_set_size(f.bytes, size + 70000);
    memset(f.bytes->data + size, 0, 70000);
    g_autofree char *padded = problem_of(f.bytes, f.bytes->len);
    g_assert_cmpstr(padded, ==, NULL);
    f.bytes->data[size + 60000] = 'x';
    g_autofree char *more = problem_of(f.bytes, f.bytes->len);
    assert_one_line(more, f.bytes->len);
}

/* After "pc.ram" and its length byte. */
#define SIZE_OF_BLOCK 7

/* A limit of memory (ulimit -v) that the bitmaps of a large guest do not fit into. */
static void test_limit(void)
{
    const uint64_t large = 1ull << 40;
    g_auto(SavedFile) f = savedfile_new(&(SavedFileKind){0});
    g_autofree char *pages = NULL;
    struct rlimit before, limit;

    if (FF_SANITIZED) {
        g_test_skip("a sanitizer ends at that itself");
        return;
    }
    savedfile_put64(&f, f.total, (large + SAVEDFILE_SMALL * SAVEDFILE_PAGE) | 4);
    savedfile_put64(&f, f.block + SIZE_OF_BLOCK, large);
    g_assert_true(g_file_get_contents("/proc/self/statm", &pages, NULL, NULL));
    g_assert_cmpint(getrlimit(RLIMIT_AS, &before), ==, 0);
    limit = before;
    limit.rlim_cur = strtoull(pages, NULL, 10) * 4096 + (16 << 20);
    g_assert_cmpint(setrlimit(RLIMIT_AS, &limit), ==, 0);
    g_autofree char *problem = problem_of(f.bytes, f.bytes->len);
    g_assert_cmpint(setrlimit(RLIMIT_AS, &before), ==, 0);
    assert_one_line(problem, f.bytes->len);
    g_assert_nonnull(strstr(problem, "no memory for the bitmaps of 1099511635968 bytes"));
}

/* ---- damage ---------------------------------------------------------------------------------- */

typedef enum { MAGIC, MACHINE, SECTIONS, TOTAL, BLOCK, HEADER, SECOND, RECORDS, DESCRIPTION } Place;

typedef struct {
    const char *name;
    SavedFileKind kind;
    Place place;
    int plus;
    unsigned width; /* bytes */
    uint64_t value;
    const char *says;
} Damage;

#define VERSION 0
#define PAGE_SIZE 4
#define BITMAP 12
#define PAGES 20
/* Of the first record: name with its length. */
#define NAMED (8 + 7)

static const Damage damages[] = {
    {"magic", {0}, MAGIC, 0, 4, 0x51455700, "no saved guest"},
    {"version", {0}, MAGIC, 4, 4, 2, "stream of version 2"},
    {"machine/length", {0}, MACHINE, 0, 4, UINT32_MAX, "the machine's name has 4294967295 bytes"},
    {"machine/text", {0}, MACHINE, 4, 1, 27, "the machine's name at byte 13 is no text"},
    {"section/type", {0}, SECTIONS, 0, 1, 4, "a section of type 4 stands in front of the memory"},
    {"section/name", {0}, SECTIONS, 6, 1, 'x', "section 'xam'"},
    {"section/version", {0}, SECTIONS, 13, 4, 5, "of version 5"},
    {"total/flags", {0}, TOTAL, 0, 8, 0x10, "no table of blocks"},
    {"total/none", {0}, TOTAL, 0, 8, 4, "0 bytes of memory"},
    {"total/2^63", {0}, TOTAL, 0, 8, 1ull << 63 | 4, "bytes of memory"},
    {"total/more", {0}, TOTAL, 0, 8, 1ull << 40 | 4, ""},
    {"total/less", {0}, TOTAL, 0, 8, 4096 | 4, "where 4096 are left"},
    {"block/name-without-end", {0}, BLOCK, 0, 1, 255, "is no text"},
    {"block/no-size", {0}, BLOCK, SIZE_OF_BLOCK, 8, 0, "of 0 bytes"},
    {"block/odd", {0}, BLOCK, SIZE_OF_BLOCK, 8, 4097, "of 4097 bytes"},
    {"block/2^63", {0}, BLOCK, SIZE_OF_BLOCK, 8, 1ull << 63, "of 9223372036854775808 bytes"},
    {"block/2^64-4096", {0}, BLOCK, SIZE_OF_BLOCK, 8, -4096ull, "where 294912 are left"},
    {"mapped/version", {.mapped = true}, HEADER, VERSION, 4, 2, "mapped-ram version 2"},
    {"mapped/page", {.mapped = true}, HEADER, PAGE_SIZE, 8, 65536, "pages of 65536"},
    {"mapped/bitmap/0", {.mapped = true}, HEADER, BITMAP, 8, 0, "its bitmap should be at byte"},
    {"mapped/bitmap/far", {.mapped = true}, HEADER, BITMAP, 8, 1ull << 63, "its bitmap should be"},
    {"mapped/pages/0", {.mapped = true}, HEADER, PAGES, 8, 0, "its pages are said to be at byte 0"},
    {"mapped/pages/odd", {.mapped = true}, HEADER, PAGES, 8, (1 << 20) + 1, "its pages are said"},
    {"mapped/pages/far", {.mapped = true}, HEADER, PAGES, 8, 1ull << 62, "in the memory of block"},
    {"mapped/pages/2^64-4096", {.mapped = true}, HEADER, PAGES, 8, -4096ull, "in the memory of"},
    {"mapped/bits", {.mapped = true}, HEADER, 28 + 15, 1, 0x80, "bits for pages after its end"},
    {"mapped/second", {.mapped = true}, SECOND, 1, 4, 0, "is no text"},
    {"record/flags", {0}, RECORDS, 0, 8, 0x01, "flags 0x1 at byte"},
    {"record/far", {0}, RECORDS, 0, 8, 1ull << 63 | 8, "a page at 9223372036854775808 of block"},
    {"record/name", {0}, RECORDS, 9, 1, 'x', "a page of a block 'xc.ram'"},
    {"record/no-block", {0}, RECORDS, 0, 8, 0x28, "a page of no block"},
    {"record/xbzrle", {0}, RECORDS, 0, 8, 0x40, "xbzrle"},
    {"record/compress", {0}, RECORDS, 0, 8, 0x100, "QEMU's compress"},
    {"record/hook", {0}, RECORDS, 0, 8, 0x80, "RDMA"},
    {"record/section", {0}, RECORDS, -4, 4, 3, "that never began"},
    {"record/second-live", {0}, RECORDS, -5, 1, 1, "a second live section"},
    {"record/second", {0}, RECORDS, NAMED + 4096, 8, 4096 | 0x60, "xbzrle"},
    {"footer", {0}, RECORDS, -9, 4, 7, "is of another one"},
    {"early", {.early = true}, MAGIC, 0, 1, 'Q', "a device section (virtio-mem?)"},
    {"description/length", {0}, DESCRIPTION, 0, 4, 1000, "bytes are missing at its end"},
    {"description/short", {0}, DESCRIPTION, 0, 4, 7, "does not end with QEMU's description"},
    {"description/type", {0}, DESCRIPTION, -1, 1, 5, "does not end with QEMU's description"},
};

static void test_damage(gconstpointer data)
{
    const Damage *d = data;
    g_auto(SavedFile) f = savedfile_new(&d->kind);
    const uint32_t places[] = {0,        f.machine, f.sections, f.total,      f.block,
                               f.header, f.second,  f.records,  f.description};
    uint32_t at = places[d->place] + d->plus;

    for (unsigned i = 0; i < d->width; i++) {
        f.bytes->data[at + i] = d->value >> (8 * (d->width - 1 - i));
    }
    g_autofree char *problem = problem_of(f.bytes, f.bytes->len);
    assert_one_line(problem, f.bytes->len);
    if (!strstr(problem, d->says)) {
        g_test_fail_printf("says '%s', not '%s'", problem, d->says);
    }
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

static bool note_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    g_string_append_printf(opaque, "%u+%u ", (unsigned)first, (unsigned)n);
    return true;
}

static void test_runs(void)
{
    SavedFileKind kind = {.mapped = true};
    g_auto(SavedFile) f = savedfile_new(&kind);
    g_autoptr(GString) runs = g_string_new(NULL);
    g_autoptr(GError) error = NULL;

    memset(f.bytes->data + f.header + 28, 0, 16);
    memcpy(f.bytes->data + f.header + 28, "\3\0\0\0\0\1\0\xf0\x3f", 9);
    g_autoptr(FfSaved) s = open_bytes(f.bytes, f.bytes->len, FF_SAVED_OFFSET_LOOK, &error);
    g_assert_no_error(error);
    g_assert_true(ff_mapped_runs(s, ff_saved_block(s, 0), note_run, runs, &error));
    g_assert_cmpstr(runs->str, ==, "0+2 40+1 60+10 ");
    g_string_truncate(runs, 0);
    memset(f.bytes->data + f.header + 28, 0xff, 8);
    g_assert_true(ff_mapped_runs(s, ff_saved_block(s, 0), note_run, runs, &error));
    g_assert_cmpstr(runs->str, ==, "0+70 ");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(goods); i++) {
        g_autofree char *good = g_strconcat("/saved/good/", goods[i].name, NULL);
        g_autofree char *cut = g_strconcat("/saved/cut/", goods[i].name, NULL);

        g_test_add_data_func(good, &goods[i], test_good);
        if (!goods[i].kind.prefix) {
            g_test_add_data_func(cut, &goods[i], test_cut);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(images); i++) {
        g_autofree char *path = g_strconcat("/saved/libvirt/", images[i].name, NULL);
        g_test_add_data_func(path, &images[i], test_libvirt);
    }
    g_test_add_data_func("/saved/shared/stream", GINT_TO_POINTER(0), test_shared);
    g_test_add_data_func("/saved/shared/mapped", GINT_TO_POINTER(1), test_shared);
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *path = g_strconcat("/saved/damage/", damages[i].name, NULL);

        g_test_add_data_func(path, &damages[i], test_damage);
    }
    g_test_add_func("/saved/runs", test_runs);
    g_test_add_func("/saved/limit", test_limit);
    return g_test_run();
}
