/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content (content/source/content.h) by itself: the same bytes from a file and from an NBD export
 * of it, in all forms; exports that change; servers that lie.
 */
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/seekable-write.h"
#include "content/source/backend.h"
#include "tests/content/exports.h"
#include "tests/lib/savedfile.h"
#include "tests/pager/exporter.h"

#define MIB (1ull << 20)
#define PAGE 4096ull

static FfContent *open_uri(const char *uri, const FfContentIdentity *known, GError **error)
{
    g_autofree char *plugin =
        g_build_filename(g_getenv("FF_BUILD"), "content/farfault-nbd.so", NULL);
    const FfContentAccess access = {.plugin = plugin};

    return ff_content_open(uri, known, &access, error);
}

static bool read_page(FfContentReader *r, uint64_t page, void *buf, bool *zero, GError **error)
{
    uint64_t len = PAGE;

    return ff_content_read(r, page * PAGE, buf, &len, PAGE, 0, zero, error);
}

/* All of it; *ZEROS: bytes that did not have to be looked at, or were zeros. */
static GByteArray *read_all(FfContent *c, uint64_t piece, uint64_t *zeros)
{
    g_autoptr(FfContentReader) r = ff_content_reader(c, NULL);
    uint64_t most = MAX(MIB, piece);
    g_autofree char *buf = g_malloc(most);
    GByteArray *all = g_byte_array_new();
    uint64_t size = ff_content_size(c), len;
    bool zero;

    *zeros = 0;
    for (uint64_t at = 0; at < size; at += len) {
        g_autoptr(GError) error = NULL;
        len = MIN(most, size - at);
        bool done = ff_content_read(r, at, buf, &len, piece, 0, &zero, &error);
        g_assert_no_error(error);
        g_assert_true(done);
        if (zero) {
            memset(buf, 0, len);
            *zeros += len;
        }
        g_byte_array_append(all, (guint8 *)buf, (guint)len);
    }
    return all;
}

/* ---- an export of a file --------------------------------------------------------------------- */

static void write_saved(const char *path, bool other)
{
    const SavedFileKind kind = {.mapped = true};
    g_auto(SavedFile) f = savedfile_new(&kind);

    if (other) { /* what a device says */
        f.bytes->data[f.tail + 20] ^= 1;
    }
    g_assert_true(g_file_set_contents(path, (char *)f.bytes->data, f.bytes->len, NULL));
}

/* What virsh save writes: a header, its XML, and the same behind it. */
static void write_libvirt(const char *path, const char *magic)
{
    static const char xml[] = "<domain type='qemu'/>";
    const uint32_t numbers[] = {2, sizeof(xml) + (64 << 10), 1, 6 /* sparse */};
    const SavedFileKind kind = {.prefix = 92 + numbers[1], .mapped = true};
    g_auto(SavedFile) f = savedfile_new(&kind);

    memcpy(f.bytes->data, magic, 16);
    memcpy(f.bytes->data + 16, numbers, sizeof(numbers));
    memcpy(f.bytes->data + 92, xml, sizeof(xml));
    g_assert_true(g_file_set_contents(path, (char *)f.bytes->data, f.bytes->len, NULL));
}

typedef enum { RAW, MAPPED, PACKED, LIBVIRT, FORMS } Form;
static const char *const forms[FORMS] = {"raw", "mapped", "packed", "libvirt"};

static void test_form(gconstpointer opaque)
{
    Form form = GPOINTER_TO_UINT(opaque);
    uint64_t zeros;

    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    if (form == LIBVIRT) {
        write_libvirt(e.file, "LibvirtQemudSave");
    } else if (form != RAW) {
        write_saved(e.file, false);
    }
    if (form == PACKED) {
        g_autofree char *convert = g_strconcat(
            g_getenv("FF_BUILD"), "/cli/farfault convert --compress FILE DIR/packed", NULL);
        exporter_run(&e, convert);
        g_free(e.file);
        e.file = g_build_filename(e.dir, "packed", NULL);
    }
    exporter_start(&e, "nbdkit -f -r file FILE");
    g_autoptr(FfContent) near = ff_content_open(e.file, NULL, NULL, NULL);
    g_autoptr(FfContent) far = open_uri(e.uri, NULL, NULL);
    g_assert_true(near && far);
    g_assert_true(ff_content_is_file(near) && ff_content_is_far(far));
    g_assert_cmpint(ff_content_is_compressed(far), ==, form == PACKED);
    g_assert_cmpuint(ff_content_size(near), ==, ff_content_size(far));
    g_autoptr(GByteArray) a = read_all(near, PAGE, &zeros);
    if (form == LIBVIRT) { /* as without that header */
        write_saved(e.file, false);
        g_autoptr(FfContent) plain = ff_content_open(e.file, NULL, NULL, NULL);
        g_autoptr(GByteArray) as = read_all(plain, PAGE, &zeros);
        g_assert_cmpmem(a->data, a->len, as->data, as->len);
        write_libvirt(e.file, "LibvirtQemudSave");
    }
    g_autoptr(GByteArray) b = read_all(far, PAGE, &zeros);
    g_assert_cmpmem(a->data, a->len, b->data, b->len);
    if (form == RAW) { /* a huge page, with holes */
        g_autoptr(GByteArray) huge = read_all(far, 2 * MIB, &zeros);
        g_assert_cmpmem(a->data, a->len, huge->data, huge->len);
    }
    /* Known again. */
    g_autoptr(FfContent) again = open_uri(e.uri, ff_content_identity(far), NULL);
    g_assert_nonnull(again);
    exporter_end(&e);
}

/* Not memory: no page of it is where it is asked for. */
static void test_not_memory(void)
{
    static const struct {
        char magic[17];
        const char *says;
    } others[] = {{"LibvirtQemudPart", "its guest may still run"},
                  {"QFI\xfb\0\0\0\3", "a qcow2 image: what is in it is served by qemu-nbd"}};
    Exporter e = exporter_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autoptr(GError) error = NULL;
        write_libvirt(e.file, others[i].magic);
        g_autoptr(FfContent) c = ff_content_open(e.file, NULL, NULL, &error);
        g_assert_null(c);
        g_assert_nonnull(strstr(error->message, others[i].says));
    }
    exporter_end(&e);
}

/* Another snapshot of a guest, of the same size: its own readers and new ones see that. */
static void test_other_guest(void)
{
    g_autoptr(GError) read_error = NULL;
    g_autoptr(GError) open_error = NULL;
    char buf[PAGE];
    bool zero;

    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    write_saved(e.file, false);
    exporter_start(&e, "nbdkit -f -r file FILE");
    g_autoptr(FfContent) c = open_uri(e.uri, NULL, NULL);
    g_autoptr(FfContentReader) r = ff_content_reader(c, NULL);
    g_assert_true(read_page(r, 0, buf, &zero, NULL));
    exporter_kill(&e);
    write_saved(e.file, true);
    exporter_start(&e, NULL);
    g_assert_false(read_page(r, 3, buf, &zero, &read_error));
    g_assert_nonnull(strstr(read_error->message, "another guest's memory"));
    g_assert_null(open_uri(e.uri, ff_content_identity(c), &open_error));
    g_assert_nonnull(strstr(open_error->message, "another guest's memory"));
    exporter_kill(&e);
    write_saved(e.file, false);
    exporter_start(&e, NULL);
    g_assert_true(read_page(r, 3, buf, &zero, NULL));
    exporter_end(&e);
}

/* Of a raw file, which has no table: some of its pages. */
static void test_other_raw(void)
{
    g_autoptr(GError) read_error = NULL;
    g_autoptr(GError) open_error = NULL;
    char buf[PAGE];
    bool zero;

    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    exporter_start(&e, "nbdkit -f -r file FILE");
    g_autoptr(FfContent) c = open_uri(e.uri, NULL, NULL);
    g_autoptr(FfContentReader) r = ff_content_reader(c, NULL);
    g_assert_true(read_page(r, 0, buf, &zero, NULL));
    exporter_kill(&e);
    exporter_write_file(e.file, 1);
    exporter_start(&e, NULL);
    g_assert_false(read_page(r, 1, buf, &zero, &read_error));
    g_assert_nonnull(strstr(read_error->message, "other content than it had"));
    g_assert_null(open_uri(e.uri, ff_content_identity(c), &open_error));
    g_assert_nonnull(strstr(open_error->message, "other content than it had"));
    exporter_kill(&e);
    exporter_write_file(e.file, 0);
    exporter_start(&e, NULL);
    g_assert_true(read_page(r, 1, buf, &zero, NULL));
    g_autoptr(FfContent) again = open_uri(e.uri, ff_content_identity(c), NULL);
    g_assert_nonnull(again);
    exporter_end(&e);
}

/* Some of them cannot be read, of either: the others say it. */
static void test_part_of_sample(void)
{
    Exports e = {.size = MIB, .from = MIB / 2};

    if (!exporter_possible("true")) {
        return;
    }
    exports_start(&e);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        e.wrong = i ? EXPORTS_EIO : EXPORTS_RIGHT;
        e.more = 0;
        g_autoptr(FfContent) c = open_uri(e.uri, NULL, NULL);
        g_assert_nonnull(c);
        e.wrong = i ? EXPORTS_RIGHT : EXPORTS_EIO;
        g_autoptr(FfContent) same = open_uri(e.uri, ff_content_identity(c), NULL);
        g_assert_nonnull(same);
        e.more = 1;
        g_assert_null(open_uri(e.uri, ff_content_identity(c), &error));
        g_assert_nonnull(strstr(error->message, "other content than it had"));
    }
    exports_stop(&e);
}

static uint64_t last_sampled, longest;

static bool note_sampled(FfContentReader *r, uint64_t at, void *buf, uint64_t len, unsigned flags,
                         GError **error)
{
    g_assert_cmpuint(at + len, <=, r->content->size);
    longest = MAX(longest, at / PAGE - last_sampled);
    last_sampled = at / PAGE;
    memset(buf, 0, len);
    return true;
}

/* The pages are of the whole of it, however large that is. */
static void test_sample(void)
{
    static const uint64_t pages[] = {1, 2, 127, 128, 129, 255, 383, 1000, 1ull << 40};

    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        const FfContentOps ops = {.fill = note_sampled};
        FfContent c = {.ops = &ops, .size = pages[i] * PAGE};
        FfContentReader r = {.content = &c};
        last_sampled = longest = 0;
        g_assert_cmpuint(ff_content_sample(&r), !=, 0);
        g_assert_cmpuint(longest, <, 2 * (pages[i] / 128 + 1));
        g_assert_cmpuint(pages[i] - last_sampled, <=, pages[i] / 128 + 1);
    }
}

/* Some of each part of them cannot be read: that is no error of the others, and then it is not
 * known again. */
static void test_no_sample(void)
{
    Exports e = {.size = MIB, .wrong = EXPORTS_EIO, .from = 2 * PAGE};
    char buf[PAGE];
    bool zero;

    if (!exporter_possible("true")) {
        return;
    }
    exports_start(&e);
    g_autoptr(FfContent) c = open_uri(e.uri, NULL, NULL);
    g_assert_nonnull(c);
    g_assert_cmpuint(ff_content_identity(c)->digest, ==, 0);
    g_autoptr(FfContent) again = open_uri(e.uri, ff_content_identity(c), NULL);
    g_assert_nonnull(again);
    g_autoptr(FfContentReader) r = ff_content_reader(again, NULL);
    g_assert_true(read_page(r, 1, buf, &zero, NULL));
    g_assert_false(read_page(r, 200, buf, &zero, NULL));
    g_clear_pointer(&r, ff_content_reader_free);
    g_clear_pointer(&again, ff_content_free);
    g_clear_pointer(&c, ff_content_free);
    exports_stop(&e);
}

/* ---- a server that changes while it is opened ------------------------------------------------ */

typedef struct {
    FfContent base;
    FfContent *file[2];
    unsigned reads, after; /* so many are of the first file */
    bool fails;            /* in place of the second one: a read, once */
} Changing;

static bool fill_changing(FfContentReader *r, uint64_t at, void *buf, uint64_t len, unsigned flags,
                          GError **error)
{
    Changing *c = (Changing *)r->content;
    unsigned n = c->reads++;
    FfContent *now = c->file[!c->fails && n >= c->after];
    g_autoptr(FfContentReader) of_now = ff_content_reader(now, error);

    if (c->fails && n == c->after) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "changing: it fails");
        return false;
    }
    return of_now && now->ops->fill(of_now, at, buf, len, flags, error);
}

static FfContentReader *open_changing_reader(FfContent *c, GError **error)
{
    FfContentReader *r = g_new0(FfContentReader, 1);

    r->content = c;
    return r;
}

static void close_changing_reader(FfContentReader *r)
{
    g_free(r);
}

/* As a file of which the time tells. */
static bool check_changing(FfContentReader *r, GError **error)
{
    Changing *c = (Changing *)r->content;

    if (c->base.where == FF_CONTENT_FILE && c->reads > c->after) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "changing: it was changed");
        return false;
    }
    return true;
}

static const FfContentOps changing_ops = {.reader = open_changing_reader,
                                          .reader_close = close_changing_reader,
                                          .fill = fill_changing,
                                          .check = check_changing};

static FfContent *new_changing(FfContent *a, FfContent *b, unsigned after)
{
    Changing *c = g_new0(Changing, 1);

    c->base = (FfContent){.ops = &changing_ops,
                          .name = g_strdup("changing"),
                          .size = ff_content_size(a),
                          .where = FF_CONTENT_FAR};
    c->file[0] = a;
    c->file[1] = b;
    c->after = after;
    return &c->base;
}

static bool has_map_of(const FfContent *c, const FfContent *other)
{
    return c->map->len == other->map->len &&
           memcmp(c->map->data, other->map->data, c->map->len * sizeof(FfContentExtent)) == 0;
}

/* Two snapshots of one size, of which a page is zeros in the second. Whenever it changes: what is
 * opened is all of one of them, or nothing. */
static void test_changes_meanwhile(void)
{
    const SavedFileKind kind = {.mapped = true};
    g_auto(SavedFile) f = savedfile_new(&kind);
    g_autofree char *dir = g_dir_make_tmp("farfault-content-XXXXXX", NULL);
    FfContent *bytes[2], *all[2];
    char *path[2];
    unsigned refusals = 0;

    for (unsigned i = 0; i < 2; i++) {
        path[i] = g_strdup_printf("%s/%u", dir, i);
        f.bytes->data[f.header + 28] ^= i; /* the bitmap */
        g_assert_true(g_file_set_contents(path[i], (char *)f.bytes->data, f.bytes->len, NULL));
        bytes[i] = ff_content_open_file(path[i], NULL, NULL);
        all[i] = ff_content_open_image(new_changing(bytes[i], bytes[i], 0), NULL, NULL);
        g_assert_nonnull(all[i]);
    }
    g_assert_false(has_map_of(all[0], all[1]));
    for (unsigned after = 0; after < 40; after++) {
        g_autoptr(FfContent) c =
            ff_content_open_image(new_changing(bytes[0], bytes[1], after), NULL, NULL);
        FfContent *file = new_changing(bytes[0], bytes[1], after);
        file->where = FF_CONTENT_FILE;
        g_autoptr(FfContent) as_file = ff_content_open_image(file, NULL, NULL);
        refusals += !c;
        for (unsigned i = 0; c && i < 2; i++) {
            g_assert_cmpint(has_map_of(c, all[i]), ==, c->id.digest == all[i]->id.digest);
        }
        g_assert_true(!as_file || has_map_of(as_file, all[0]));
    }
    g_assert_cmpuint(refusals, >, 0);
    for (unsigned i = 0; i < 2; i++) {
        ff_content_free(all[i]);
        ff_content_free(bytes[i]);
        g_unlink(path[i]);
        g_free(path[i]);
    }
    g_rmdir(dir);
}

/* Bytes of SEED, which zstd stores as they are. */
static void write_packed(const char *dir, const char *to, guint32 seed)
{
    g_autofree char *plain = g_build_filename(dir, "plain", NULL);
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autofree guint32 *words = g_new(guint32, MIB / sizeof(guint32));
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < MIB / sizeof(guint32); i++) {
        words[i] = g_rand_int(rand);
    }
    g_assert_true(g_file_set_contents(plain, (char *)words, MIB, NULL));
    g_autoptr(FfOutput) in = ff_output_new_fd(g_open(plain, O_RDWR | O_CLOEXEC), plain, NULL);
    g_autoptr(FfOutput) out =
        ff_output_new_fd(g_open(to, O_RDWR | O_CREAT | O_CLOEXEC, 0600), to, NULL);
    g_assert_true(ff_seekable_write(in, out, NULL, NULL, &error) && ff_output_flush(out, &error));
    g_unlink(plain);
}

/* What FROM has stands in FILE, and its time is that of FILE before. */
static void overwrite(const char *file, const char *from, const struct timespec *mtime)
{
    g_autofree char *bytes = NULL;
    gsize n;
    int fd = g_open(file, O_WRONLY | O_CLOEXEC);

    g_assert_true(g_file_get_contents(from, &bytes, &n, NULL));
    g_assert_cmpint(pwrite(fd, bytes, n, 0), ==, (gssize)n);
    g_assert_cmpint(futimens(fd, (struct timespec[]){*mtime, *mtime}), ==, 0);
    close(fd);
}

/* A compressed file is changed, and put back: what was unpacked meanwhile is not given out. */
static void test_put_back(void)
{
    g_autofree char *dir = g_dir_make_tmp("farfault-content-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "packed", NULL);
    g_autofree char *same = g_build_filename(dir, "same", NULL);
    g_autofree char *other = g_build_filename(dir, "other", NULL);
    g_autoptr(GError) error = NULL;
    char was[PAGE], now[PAGE];
    struct stat st;
    bool zero;

    write_packed(dir, path, 1);
    write_packed(dir, same, 1);
    write_packed(dir, other, 2);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_autoptr(FfContent) c = ff_content_open(path, NULL, NULL, NULL);
    g_autoptr(FfContentReader) r = ff_content_reader(c, NULL);
    g_assert_true(ff_content_is_compressed(c));
    g_assert_true(read_page(r, 100, was, &zero, NULL));
    g_assert_true(read_page(r, 200, now, &zero, NULL)); /* another frame */
    overwrite(path, other, &(struct timespec){1, 0});
    g_assert_false(read_page(r, 100, now, &zero, &error));
    g_assert_error(error, G_IO_ERROR, FF_CONTENT_CHANGED);
    overwrite(path, same, &st.st_mtim);
    g_assert_true(read_page(r, 100, now, &zero, NULL));
    g_assert_cmpmem(now, PAGE, was, PAGE);
    g_clear_pointer(&r, ff_content_reader_free);
    g_unlink(path);
    g_unlink(same);
    g_unlink(other);
    g_rmdir(dir);
}

/* A read fails once, whichever: what is opened is what the file is, or nothing; never the file's
 * bytes as if it were raw. */
static void test_fails_once(void)
{
    g_autofree char *dir = g_dir_make_tmp("farfault-content-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "saved", NULL);
    unsigned n = 0;
    bool opened = false;

    write_saved(path, false);
    g_autoptr(FfContent) file = ff_content_open_file(path, NULL, NULL);
    for (; !opened; n++) {
        g_autoptr(GError) error = NULL;
        FfContent *bytes = new_changing(file, file, n);
        ((Changing *)bytes)->fails = true;
        g_autoptr(FfContent) c = ff_content_open_image(bytes, NULL, &error);
        g_assert_true(c ? c->map != NULL : !strcmp(error->message, "changing: it fails"));
        opened = c;
    }
    g_assert_cmpuint(n, >, 10);
    g_unlink(path);
    g_rmdir(dir);
}

/* ---- servers that lie ------------------------------------------------------------------------ */

static void check_page(const char *buf, uint64_t page)
{
    for (unsigned i = 0; i < PAGE; i += 8) {
        uint64_t word;
        memcpy(&word, buf + i, sizeof(word));
        g_assert_cmpuint(word, ==, exports_word(page));
    }
}

static const struct {
    const char *name;
    ExportsWrong wrong;
} lies[] = {
    {"closes", EXPORTS_CLOSES},   {"short", EXPORTS_SHORT},
    {"nothing", EXPORTS_NOTHING}, {"other-cookie", EXPORTS_OTHER_COOKIE},
    {"eio", EXPORTS_EIO},         {"too-much", EXPORTS_TOO_MUCH},
};

/* What E exports, once it is started; NULL: skipped. */
static FfContent *open_exports(Exports *e)
{
    if (!exporter_possible("true")) {
        return NULL;
    }
    exports_start(e);
    FfContent *c = open_uri(e->uri, NULL, NULL);

    g_assert_nonnull(c);
    return c;
}

/* Takes C and R, a reader of it (can be NULL). */
static void close_exports(Exports *e, FfContent *c, FfContentReader *r)
{
    ff_content_reader_free(r);
    ff_content_free(c);
    exports_stop(e);
}

/* A page is read, or it is an error of that page: the others can still be read. */
static void test_lie(gconstpointer opaque)
{
    Exports e = {.size = MIB, .wrong = lies[GPOINTER_TO_UINT(opaque)].wrong, .from = MIB / 2};
    char buf[PAGE];
    bool zero;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    FfContentReader *r = ff_content_reader(c, NULL);
    g_autoptr(GError) error = NULL;
    ff_content_reader_hurry(r);
    g_assert_false(read_page(r, 128, buf, &zero, &error));
    g_assert_true(g_str_has_prefix(error->message, e.uri));
    g_assert_null(strchr(error->message, '\n'));
    for (uint64_t page = 0; page < 3; page++) {
        g_assert_true(read_page(r, page, buf, &zero, NULL));
        check_page(buf, page);
    }
    close_exports(&e, c, r);
}

typedef struct {
    FfContent *c;
    bool end; /* atomic */
} Others;

static gpointer read_others(gpointer opaque)
{
    Others *o = opaque;
    g_autoptr(FfContentReader) r = ff_content_reader(o->c, NULL);
    char buf[PAGE];
    bool zero;

    ff_content_reader_hurry(r);
    for (uint64_t i = 0; !__atomic_load_n(&o->end, __ATOMIC_ACQUIRE); i++) {
        g_assert_true(read_page(r, i % 128, buf, &zero, NULL));
    }
    return NULL;
}

/* Each read of a page ends the connection (the server dies of it), and others are read all the
 * time: it is an error of that page nevertheless, and soon. */
static void test_kills(void)
{
    Exports e = {.size = MIB, .wrong = EXPORTS_CLOSES, .from = MIB / 2};
    g_autoptr(GError) error = NULL;
    GThread *thread[2];
    char buf[PAGE];
    bool zero;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    FfContentReader *r = ff_content_reader(c, NULL);
    Others others = {.c = c};
    for (unsigned i = 0; i < G_N_ELEMENTS(thread); i++) {
        thread[i] = g_thread_new("others", read_others, &others);
    }
    ff_content_reader_hurry(r);
    gint64 begin = g_get_monotonic_time();
    g_assert_false(read_page(r, 128, buf, &zero, &error));
    g_assert_cmpint(g_get_monotonic_time() - begin, <, 5 * G_USEC_PER_SEC);
    __atomic_store_n(&others.end, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < G_N_ELEMENTS(thread); i++) {
        g_thread_join(thread[i]);
    }
    close_exports(&e, c, r);
    g_test_message("%u connections", e.peers);
    g_assert_cmpuint(e.peers, <, 100);
}

/* A server that is stopped and started again in order. */
static void test_leaves(void)
{
    Exports e = {.size = MIB, .wrong = EXPORTS_LEAVES, .from = MIB / 2};
    g_autoptr(GError) error = NULL;
    char buf[PAGE];
    bool zero;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    FfContentReader *r = ff_content_reader(c, NULL);
    bool done = read_page(r, 200, buf, &zero, &error);
    g_assert_no_error(error);
    g_assert_true(done);
    check_page(buf, 200);
    close_exports(&e, c, r);
}

typedef struct {
    FfContent *c;
    unsigned number;
} Many;

#define MANY 12

static gpointer read_many(gpointer opaque)
{
    const Many *m = opaque;
    g_autoptr(FfContentReader) r = ff_content_reader(m->c, NULL);
    g_autofree char *buf = g_malloc(16 * PAGE);
    bool zero;

    if (m->number % 2) {
        ff_content_reader_hurry(r);
    }
    for (uint64_t i = 0; i < 64; i++) {
        uint64_t page = (i * 37 + m->number * 16) % 240, len = 16 * PAGE;
        g_assert_true(ff_content_read(r, page * PAGE, buf, &len, PAGE, 0, &zero, NULL));
        for (uint64_t k = 0; k < len / PAGE; k++) {
            check_page(buf + k * PAGE, page + k);
        }
    }
    return NULL;
}

static const struct {
    const char *name;
    Exports e;
    unsigned peers;
} manies[] = {
    {"eight", {.size = MIB}, 8},
    {"one", {.size = MIB, .one = true}, 1},
    /* qemu-nbd -e 2, or -e 8 and another pager: it says that it takes more, and does not. */
    {"room-for-two", {.size = MIB, .room = 2}, 2},
};

static void run_many(FfContent *c)
{
    Many many[MANY];
    GThread *thread[MANY];

    for (unsigned i = 0; i < MANY; i++) {
        many[i] = (Many){c, i};
        thread[i] = g_thread_new("many", read_many, &many[i]);
    }
    for (unsigned i = 0; i < MANY; i++) {
        g_thread_join(thread[i]);
    }
}

/* More readers than connections. */
static void test_many(gconstpointer opaque)
{
    unsigned kind = GPOINTER_TO_UINT(opaque);
    Exports e = manies[kind].e;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    run_many(c);
    close_exports(&e, c, NULL);
    g_assert_cmpuint(e.peers, <=, manies[kind].peers);
}

typedef struct {
    FfContent *c;
    gint ends; /* atomic; observers: the threads */
} Crowd;

static gpointer read_in_crowd(gpointer opaque)
{
    Crowd *crowd = opaque;
    g_autoptr(FfContentReader) r = ff_content_reader(crowd->c, NULL);
    char buf[PAGE];
    bool zero;

    ff_content_reader_hurry(r);
    for (uint64_t page = 1; !g_atomic_int_get(&crowd->ends); page = page % 240 + 1) {
        g_assert_true(read_page(r, page, buf, &zero, NULL));
        check_page(buf, page);
    }
    return NULL;
}

/* One connection that readers in a hurry use all the time: bulk has a turn, and what has not is no
 * server that is gone. */
static void test_crowd(void)
{
    Exports e = {.size = MIB, .one = true};
    g_autoptr(GError) error = NULL;
    GThread *threads[MANY];
    char buf[PAGE];
    bool zero;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    Crowd crowd = {c, 0};
    for (unsigned i = 0; i < MANY; i++) {
        threads[i] = g_thread_new("crowd", read_in_crowd, &crowd);
    }
    FfContentReader *r = ff_content_reader(c, NULL);
    for (uint64_t page = 0; page < 4; page++) {
        ff_content_reader_until(r, g_get_monotonic_time() + 20 * G_USEC_PER_SEC);
        bool done = read_page(r, page, buf, &zero, &error);
        g_assert_no_error(error);
        g_assert_true(done);
        check_page(buf, page);
    }
    ff_content_reader_until(r, g_get_monotonic_time() + G_USEC_PER_SEC / 20);
    if (!read_page(r, 5, buf, &zero, &error)) { /* sooner than its turn */
        g_assert_error(error, G_IO_ERROR, FF_CONTENT_BUSY);
    }
    g_atomic_int_set(&crowd.ends, 1);
    for (unsigned i = 0; i < MANY; i++) {
        g_thread_join(threads[i]);
    }
    close_exports(&e, c, r);
}

/* Of connections that are idle one has failed: the others are not tried. */
static void test_idle(void)
{
    Exports e = {.size = 2 * MIB, .from = MIB};
    char buf[PAGE];
    bool zero;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    run_many(c); /* of the first MIB */
    FfContentReader *r = ff_content_reader(c, NULL);
    e.old = e.peers;
    e.wrong = EXPORTS_LEAVES;
    g_assert_cmpuint(e.peers, >, 2);
    g_assert_true(read_page(r, 300, buf, &zero, NULL));
    check_page(buf, 300);
    g_assert_cmpint(g_atomic_int_get(&e.left), ==, 1);
    close_exports(&e, c, r);
}

enum { HOLE = 1, ZERO = 2 };

typedef struct {
    const char *name;
    uint32_t extents[8];
    unsigned n;
    uint64_t zeros; /* bytes of 1 MiB that need not be read */
} Extents;

static const Extents extents[] = {
    {"none", {0}, 0, 0},
    {"some", {65536, 0, 65536, HOLE | ZERO}, 4, 8 * 65536},
    {"hole-that-is-no-zeros", {MIB, HOLE}, 2, 0},
    {"of-length-0", {0, ZERO, MIB, ZERO}, 4, 0},
    {"too-long", {65536, ZERO, 0xfffff000u, 0}, 4, 65536},
    {"uneven", {4095, 0, 4098, ZERO, MIB - 8193, 0}, 6, 4096},
};

/* What is said to be zeros is not read; all else is. */
static void test_extents(gconstpointer opaque)
{
    const Extents *x = opaque;
    Exports e = {.size = MIB, .extents = x->n ? x->extents : NULL, .n_extents = x->n};
    uint64_t zeros;

    FfContent *c = open_exports(&e);
    if (!c) {
        return;
    }
    g_autoptr(GByteArray) all = read_all(c, PAGE, &zeros);
    g_assert_cmpuint(zeros, ==, x->zeros);
    for (uint64_t page = 0; page < MIB / PAGE; page++) {
        bool is_zero = !all->data[page * PAGE] && !all->data[page * PAGE + 1];
        if (!is_zero && (page > 2 || strcmp(x->name, "uneven") != 0)) {
            check_page((char *)all->data + page * PAGE, page);
        }
    }
    close_exports(&e, c, NULL);
}

static const struct {
    uint64_t size;
    ExportsWrong wrong;
    const char *why;
} refused[] = {
    {0, EXPORTS_RIGHT, "there is nothing in it"},
    {1000, EXPORTS_RIGHT, "not whole pages"},
    {1ull << 63, EXPORTS_RIGHT, ""},
    {MIB, EXPORTS_GARBAGE, ""},
    {MIB, EXPORTS_EIO, "Input/output error"},
};

static void test_refused(void)
{
    if (!exporter_possible("true")) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(refused); i++) {
        Exports e = {.size = refused[i].size, .wrong = refused[i].wrong};
        g_autoptr(GError) error = NULL;
        exports_start(&e);
        g_assert_null(open_uri(e.uri, NULL, &error));
        g_assert_true(g_str_has_prefix(error->message, e.uri));
        if (!strstr(error->message, refused[i].why)) {
            g_error("%u: %s", i, error->message);
        }
        exports_stop(&e);
    }
}

/* The program without its plugin. */
static void test_no_plugin(void)
{
    g_autoptr(GError) none = NULL;
    g_autoptr(GError) bad = NULL;

    g_assert_null(ff_content_open("nbd://host/x", NULL, NULL, &none));
    g_assert_nonnull(strstr(none->message, "built without libnbd: install"));
    g_assert_null(ff_content_open("nbd://host/x", NULL,
                                  &(FfContentAccess){.plugin = "/proc/self/maps"}, &bad));
    g_assert_nonnull(strstr(bad->message, "/proc/self/maps"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < FORMS; i++) {
        g_autofree char *path = g_strconcat("/content/nbd/form/", forms[i], NULL);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_form);
    }
    g_test_add_func("/content/not-memory", test_not_memory);
    g_test_add_func("/content/nbd/other-guest", test_other_guest);
    g_test_add_func("/content/nbd/other-raw", test_other_raw);
    g_test_add_func("/content/sample", test_sample);
    g_test_add_func("/content/nbd/part-of-sample", test_part_of_sample);
    g_test_add_func("/content/nbd/no-sample", test_no_sample);
    g_test_add_func("/content/changes-meanwhile", test_changes_meanwhile);
    g_test_add_func("/content/put-back", test_put_back);
    g_test_add_func("/content/fails-once", test_fails_once);
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autofree char *path = g_strconcat("/content/nbd/lie/", lies[i].name, NULL);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_lie);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(extents); i++) {
        g_autofree char *path = g_strconcat("/content/nbd/extents/", extents[i].name, NULL);
        g_test_add_data_func(path, &extents[i], test_extents);
    }
    g_test_add_func("/content/nbd/kills", test_kills);
    g_test_add_func("/content/nbd/leaves", test_leaves);
    for (unsigned i = 0; i < G_N_ELEMENTS(manies); i++) {
        g_autofree char *path = g_strconcat("/content/nbd/many/", manies[i].name, NULL);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_many);
    }
    g_test_add_func("/content/nbd/crowd", test_crowd);
    g_test_add_func("/content/nbd/idle", test_idle);
    g_test_add_func("/content/nbd/refused", test_refused);
    g_test_add_func("/content/nbd/no-plugin", test_no_plugin);
    return g_test_run();
}
