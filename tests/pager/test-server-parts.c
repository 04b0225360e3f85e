/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parts of farfault pager by themselves: Firecracker's message, sources of content, and the gate
 * between holder and pager, in one process.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/xxh64.h"
#include "pager/cloud-hypervisor/offload.h"
#include "pager/dialects/dialects.h"
#include "pager/dialects/firecracker.h"
#include "pager/holder/space-record.h"
#include "pager/server/criu.h"
#include "pager/server/session-internal.h"
#include "pager/server/session-working-set.h"
#include "pager/server/source.h"
#include "tests/lib/savedfile.h"

#define MIB (1ull << 20)

/* ---- Firecracker ----------------------------------------------------------------------------- */

static const struct {
    const char *text;
    unsigned regions; /* 0: refused */
    uint64_t size;    /* of the memory file */
    const char *why;
} messages[] = {
    {"[{\"base_host_virt_addr\":1048576,\"size\":8192,\"offset\":0,\"page_size\":4096}]", 1, 8192,
     NULL},
    /* old; both; both, not equal */
    {"[{\"base_host_virt_addr\":1048576,\"size\":8192,\"offset\":0,\"page_size_kib\":4096}]", 1,
     8192, NULL},
    {"[{\"base_host_virt_addr\":2097152,\"size\":4194304,\"offset\":0,\"page_size\":2097152,"
     "\"page_size_kib\":2097152}]",
     1, 4194304, NULL},
    {"[{\"base_host_virt_addr\":2097152,\"size\":4194304,\"offset\":0,\"page_size\":2097152,"
     "\"page_size_kib\":2048}]",
     0, 4194304, "page_size_kib the same"},
    {"[{\"base_host_virt_addr\":1048576,\"size\":8192,\"offset\":0}]", 0, 8192, "page_size"},
    /* what comes in later versions */
    {" [ {\"new\":{\"a\":[1]},\"base_host_virt_addr\":1048576,\"size\":4096,\"offset\":4096,"
     "\"page_size\":4096} , {\"base_host_virt_addr\":8388608,\"size\":4096,\"offset\":0,"
     "\"page_size\":4096}]\n",
     2, 8192, NULL},
    {"[{\"base_host_virt_addr\":1048576,\"size\":8192,\"offset\":4096,\"page_size\":4096}]", 0,
     8192, "ends after"},
    {"[{\"base_host_virt_addr\":1048576,\"size\":4096,\"offset\":0,\"page_size\":4096}]", 0, 8192,
     "another snapshot"},
    {"[{\"base_host_virt_addr\":18446744073709547520,\"size\":4096,\"offset\":0,"
     "\"page_size\":4096}]",
     0, 4096, "region 0"},
    {"[{\"base_host_virt_addr\":\"1048576\",\"size\":4096,\"offset\":0,\"page_size\":4096}]", 0,
     4096, "must be numbers"},
    {"[[]]", 0, 4096, "must be numbers"},
    {"{}", 0, 4096, "array"},
    {"", 0, 4096, "array"},
};

static void test_firecracker(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(messages); i++) {
        FfRegionOfClient region[FF_REGIONS];
        g_autoptr(GError) error = NULL;
        unsigned n = ff_firecracker_parse(messages[i].text, strlen(messages[i].text),
                                          messages[i].size, region, &error);
        g_assert_cmpuint(n, ==, messages[i].regions);
        g_assert_true(!n == !!error);
        if (!n && (!strstr(error->message, messages[i].why) || strchr(error->message, '\n'))) {
            g_error("%u: %s", i, error->message);
        }
    }
}

/* Brackets in brackets beyond the end of the stack, with others in texts that seem to close them.
 */
static void test_firecracker_deep(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    FfRegionOfClient region[FF_REGIONS];

    for (unsigned i = 0; i < 1000000; i++) {
        g_string_append(text, "[\"]\",");
    }
    g_assert_cmpuint(ff_firecracker_parse(text->str, text->len, 4096, region, &error), ==, 0);
    g_assert_nonnull(error);
}

/* ---- who asks -------------------------------------------------------------------------------- */

/* What comes first, and of which dialect it is. ANSWER: to it as a whole message. */
static const struct {
    const char *text;
    const FfDialect *dialect; /* NULL: of none */
    const char *answer;       /* NULL: it is no question */
} firsts[] = {
    {"[", &ff_dialect_firecracker, NULL},
    {"[{\"base_host_virt_addr\":4096}]", &ff_dialect_firecracker, NULL},
    {"{", &ff_dialect_nydus, NULL},
    {"{\"type\":2}", &ff_dialect_nydus,
     "{\"type\":3,\"size\":8192,\"block_size\":4096,\"flags\":0,\"version\":1}"},
    {"{ \"type\" : 2\n}", &ff_dialect_nydus,
     "{\"type\":3,\"size\":8192,\"block_size\":4096,\"flags\":0,\"version\":1}"},
    {"{\"type\":2}x", &ff_dialect_nydus, NULL},
    {"{\"type\":22}", &ff_dialect_nydus, NULL},
    {"{\"type\":", &ff_dialect_nydus, NULL},
    {"{\"type\":0,\"regions\":[]}", &ff_dialect_nydus, NULL},
    {"\n[", NULL, NULL},
    {"GET /", NULL, NULL},
    {"\x12\x34", NULL, NULL}, /* CRIU's are known by the folder */
};

static void test_dialects(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(firsts); i++) {
        char answer[256] = "";
        size_t len = strlen(firsts[i].text);
        int number = ff_dialect_recognise(firsts[i].text, len);
        g_assert_true((number >= 0 ? ff_dialects[number] : NULL) == firsts[i].dialect);
        if (number < 0) {
            continue;
        }
        size_t n = ff_dialect_answer((unsigned)number, firsts[i].text, len, 8192, answer,
                                     sizeof(answer) - 1);
        g_assert_cmpstr(n ? answer : NULL, ==, firsts[i].answer);
        g_assert_cmpuint(n, ==, strlen(answer));
        g_assert_cmpuint(ff_dialect_answer((unsigned)number, firsts[i].text, len, 8192, answer, 10),
                         ==, 0);
    }
    for (unsigned i = 0; ff_dialects[i]; i++) {
        g_assert_true(ff_dialect_named(ff_dialects[i]->name) == ff_dialects[i]);
        g_assert_cmpuint(ff_dialect_number(ff_dialects[i]), ==, i);
        g_assert_true(ff_dialects[i]->make_image && ff_dialects[i]->open_source &&
                      ff_dialects[i]->serve);
    }
    g_assert_null(ff_dialect_named("qemu"));
}

/* ---- Cloud Hypervisor's configuration -------------------------------------------------------- */

#define SLOT(slot, gpa, size, offset)                                                              \
    "{\"slot\":" slot ",\"gpa\":" gpa ",\"size\":" size ",\"file_offset\":" offset "}"
#define CONFIG(vm, slots)                                                                          \
    "{\"vm_config\":{" vm "},\"memory_manager_data\":{\"guest_ram_mappings\":[" slots "]}}"

static const struct {
    const char *text;
    unsigned slots;
    const char *why; /* a part of what is said */
} configs[] = {
    {CONFIG("", SLOT("0", "0", "4096", "0")), 1, NULL},
    {CONFIG("\"disks\":[{\"path\":\"a\",\"vhost_user\":false}],\"fs\":null,\"net\":[]",
            SLOT("0", "0", "4096", "0") "," SLOT("7", "4294967296", "8192", "4096")),
     2, NULL},
    {CONFIG("\"disks\":[{},{\"vhost_user\":true}]", SLOT("0", "0", "4096", "0")), 0, "disks of"},
    {CONFIG("\"net\":[{\"vhost_user\":true}]", SLOT("0", "0", "4096", "0")), 0, "net of"},
    {CONFIG("\"fs\":[{}]", SLOT("0", "0", "4096", "0")), 0, "fs of"},
    {CONFIG("\"user_devices\":[{}]", SLOT("0", "0", "4096", "0")), 0, "user_devices of"},
    {CONFIG("\"generic_vhost_user\":[{}]", SLOT("0", "0", "4096", "0")), 0, "another process"},
    {CONFIG("", ""), 0, "guest_ram_mappings"},
    {CONFIG("", "0"), 0, "must be numbers"},
    {CONFIG("", SLOT("-1", "0", "4096", "0")), 0, "must be numbers"},
    {CONFIG("", SLOT("4294967296", "0", "4096", "0")), 0, "must be numbers"},
    {CONFIG("", SLOT("0", "0", "0", "0")), 0, "must be numbers"},
    {CONFIG("", SLOT("0", "\"0\"", "4096", "0")), 0, "must be numbers"},
    {CONFIG("", SLOT("0", "0", "4095", "0")), 0, "whole pages"},
    {CONFIG("", SLOT("0", "1", "4096", "0")), 0, "whole pages"},
    {CONFIG("", SLOT("0", "0", "4096", "8")), 0, "whole pages"},
    {CONFIG("", SLOT("0", "4503599627370496", "4096", "0")), 0, "such an address"},
    {CONFIG("", SLOT("0", "0", "9223372036854771712", "0")), 0, "such an address"},
    {CONFIG("", SLOT("0", "0", "4096", "9223372036854771712")), 0, "such an address"},
    {CONFIG("", SLOT("0", "0", "8192", "0") "," SLOT("1", "4096", "4096", "0")), 0, "some of"},
    {CONFIG("", SLOT("0", "0", "4096", "0") "," SLOT("0", "4096", "4096", "0")), 0, "its slot"},
    {"[]", 0, "guest_ram_mappings"},
    {"", 0, "guest_ram_mappings"},
    {"{", 0, "no JSON"},
};

static void test_offload(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(configs); i++) {
        FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
        g_autoptr(GError) error = NULL;
        unsigned n = ff_offload_parse(configs[i].text, strlen(configs[i].text), slot, NULL, &error);
        g_assert_true(!n == !!error);
        if (n != configs[i].slots ||
            (!n && (!strstr(error->message, configs[i].why) || strchr(error->message, '\n')))) {
            g_error("%u: %u, %s", i, n, error ? error->message : "");
        }
    }
}

/* Who asks which device is another process gets the slots as well. */
static void test_offload_foreign(void)
{
    FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
    const char *const texts[] = {CONFIG("\"fs\":[{}]", SLOT("0", "0", "4096", "0")),
                                 CONFIG("", SLOT("0", "0", "4096", "0"))};

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        FfOffloadFacts facts = {.foreign = "x"};
        g_assert_cmpuint(ff_offload_parse(texts[i], strlen(texts[i]), slot, &facts, NULL), ==, 1);
        g_assert_cmpstr(facts.foreign, ==, i ? NULL : "fs");
    }
}

/* ---- sources --------------------------------------------------------------------------------- */

static char *make_file(const void *data, size_t len, uint64_t size)
{
    char *path = NULL;
    int fd = g_file_open_tmp("farfault-source-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, len, 0), ==, len);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    close(fd);
    return path;
}

/* All of it, as pieces of PIECE bytes. */
static GByteArray *read_all(FfContent *s, uint64_t piece, uint64_t *zeros)
{
    g_autoptr(FfContentReader) r = ff_content_reader(s, NULL);
    g_autofree char *buf = g_malloc(MIB);
    GByteArray *all = g_byte_array_new();
    uint64_t size = ff_content_size(s), len;
    bool zero;

    *zeros = 0;
    for (uint64_t at = 0; at < size; at += len) {
        g_autoptr(GError) error = NULL;
        len = MIN(MIB, size - at);
        g_assert_true(ff_content_read(r, at, buf, &len, piece, 0, &zero, &error));
        g_assert_cmpuint(len % piece, ==, 0);
        g_assert_cmpuint(len, >, 0);
        if (zero) {
            memset(buf, 0, len);
            *zeros += len;
        }
        g_byte_array_append(all, (guint8 *)buf, len);
    }
    return all;
}

static void test_raw(void)
{
    g_autofree char *data = g_malloc(3 * MIB);
    uint64_t zeros;

    for (uint64_t i = 0; i < 3 * MIB; i++) {
        data[i] = (char)(i * 2654435761u >> 13 | 1);
    }
    g_autofree char *path = make_file(data, 3 * MIB, 8 * MIB);
    g_autoptr(FfContent) s = ff_content_open(path, NULL, NULL, NULL);
    g_assert_cmpuint(ff_content_size(s), ==, 8 * MIB);
    g_autoptr(GByteArray) all = read_all(s, 4096, &zeros);
    g_assert_cmpuint(zeros, ==, 5 * MIB);
    g_assert_cmpint(memcmp(all->data, data, 3 * MIB), ==, 0);
    g_autoptr(FfContentReader) r = ff_content_reader(s, NULL);
    uint64_t len = 8192;
    bool zero;
    g_assert_false(ff_content_read(r, 8 * MIB - 4096, data, &len, 4096, 0, &zero, NULL));
    g_unlink(path);
}

/* A process that cuts a file leaves an open reader nothing that it may take for a hole; nor may new
 * content be given to a client that has had some of the old. */
static void test_changed(void)
{
    g_autofree char *data = g_strnfill(MIB, 'x'), *buf = g_malloc(MIB);
    g_autofree char *path = make_file(data, MIB, MIB);
    g_autoptr(FfContent) s = ff_content_open(path, NULL, NULL, NULL);
    g_autoptr(FfContentReader) r = ff_content_reader(s, NULL);
    g_autoptr(GError) error = NULL;
    struct stat st;
    uint64_t len = 4096;
    bool zero;

    g_assert_true(ff_content_read(r, 0, buf, &len, 4096, 0, &zero, NULL));
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    g_assert_cmpint(truncate(path, 4096), ==, 0);
    g_assert_false(ff_content_read(r, MIB / 2, buf, &len, 4096, 0, &zero, NULL));
    /* As large as before, and other content: only its time tells. */
    g_assert_cmpint(truncate(path, MIB), ==, 0);
    len = 4096;
    g_assert_false(ff_content_read(r, MIB / 2, buf, &len, 4096, 0, &zero, &error));
    g_assert_nonnull(strstr(error->message, "was changed"));
    /* Nor may a new reader, or the next pager's source, begin with it. */
    g_assert_null(ff_content_reader(s, NULL));
    g_assert_null(ff_content_open(path, ff_content_identity(s), NULL, NULL));
    /* Put back as it was, with the old time. */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, data, MIB, 0), ==, MIB);
    g_assert_cmpint(futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}), ==, 0);
    close(fd);
    g_autoptr(FfContent) again = ff_content_open(path, ff_content_identity(s), NULL, NULL);
    g_assert_nonnull(again);
    g_unlink(path);
}

static void copy_time(const char *from, const char *to)
{
    struct stat st;

    g_assert_cmpint(g_stat(from, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, to, (struct timespec[]){st.st_atim, st.st_mtim}, 0), ==, 0);
}

/* Images that a build system makes have one size and one time. */
static void test_replaced(void)
{
    g_autofree char *one = g_strnfill(MIB, 'x'), *two = g_strnfill(MIB, 'y');
    g_autofree char *path = make_file(one, MIB, MIB), *other = make_file(two, MIB, MIB);
    g_autofree char *kept = g_strconcat(path, ".kept", NULL);
    g_autoptr(FfContent) s = ff_content_open(path, NULL, NULL, NULL);
    g_autoptr(GError) error = NULL;

    copy_time(path, other);
    g_assert_cmpint(g_rename(path, kept), ==, 0);
    g_assert_cmpint(g_rename(other, path), ==, 0);
    g_assert_null(ff_content_reader(s, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, "another file"));
    g_assert_null(ff_content_open(path, ff_content_identity(s), NULL, NULL));
    g_assert_cmpint(g_rename(kept, path), ==, 0);
    g_autoptr(FfContentReader) r = ff_content_reader(s, NULL);
    g_assert_nonnull(r);
    g_unlink(path);
}

/* PATH's first page, as pager/server/session-working-set.c says which file it is of. */
static void write_set(const char *path)
{
    g_autofree char *set = g_strconcat(path, ".ws", NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t place = 0;
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    const uint64_t about[] = {st.st_dev, st.st_ino, (uint64_t)st.st_ctim.tv_sec,
                              (uint64_t)st.st_ctim.tv_nsec};
    FfWorkingSetFile file = {(uint64_t)st.st_size,
                             st.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st.st_mtim.tv_nsec,
                             ff_xxh64(about, sizeof(about), 0)};
    g_assert_true(ff_working_set_write(set, fd, &file, &place, 1, NULL, 0, NULL));
    close(fd);
}

static bool has_set(FfContent *source)
{
    FfSessions all = {.sets = true};
    FfSpaceRecord root = {0};
    FfImage *image = g_new0(FfImage, 1);
    FfSession *s = g_new0(FfSession, 1);

    s->dialect = &ff_dialect_firecracker;
    s->set_path = g_strconcat(ff_content_name(source), FF_WORKING_SET_SUFFIX, NULL);
    s->all = &all;
    s->root_rec = &root;
    s->image = image;
    s->source = source;
    ff_set_begin(s);
    bool has = s->set;
    ff_set_end(s);
    g_free(s->set_path);
    g_free(s);
    g_free(image);
    return has;
}

/* The set is of the file that has the source's name by now, which has its size and time. */
static void test_set_of_another(void)
{
    g_autofree char *one = g_strnfill(MIB, 'x'), *two = g_strnfill(MIB, 'y');
    g_autofree char *path = make_file(one, MIB, MIB), *other = make_file(two, MIB, MIB);
    g_autofree char *set = g_strconcat(path, ".ws", NULL);
    g_autoptr(FfContent) first = ff_content_open(path, NULL, NULL, NULL);

    write_set(path);
    g_assert_true(has_set(first));
    copy_time(path, other);
    g_assert_cmpint(g_rename(other, path), ==, 0);
    g_assert_false(has_set(first));
    write_set(path);
    g_assert_false(has_set(first));
    g_autoptr(FfContent) second = ff_content_open(path, NULL, NULL, NULL);
    g_assert_true(has_set(second));
    g_unlink(set);
    g_unlink(path);
}

/* Blocks one after the other. */
static void test_mapped(gconstpointer huge)
{
    g_auto(SavedFile) f = savedfile_new(&(SavedFileKind){.mapped = true});
    g_autofree char *path = make_file(f.bytes->data, f.bytes->len, f.bytes->len);
    g_autoptr(GError) error = NULL;
    g_autoptr(FfContent) s = ff_content_open(path, NULL, NULL, &error);
    uint64_t zeros;
    uint8_t page[SAVEDFILE_PAGE];

    g_assert_no_error(error);
    g_assert_cmpuint(ff_content_size(s), ==, (SAVEDFILE_PAGES + SAVEDFILE_SMALL) * SAVEDFILE_PAGE);
    /* Larger than its runs: parts of a piece are in different places. */
    g_autoptr(GByteArray) all = read_all(s, huge ? 8 * SAVEDFILE_PAGE : SAVEDFILE_PAGE, &zeros);
    for (unsigned i = 0; i < SAVEDFILE_PAGES + SAVEDFILE_SMALL; i++) {
        bool second = i >= SAVEDFILE_PAGES;
        unsigned number = second ? i - SAVEDFILE_PAGES : i;
        memset(page, 0, sizeof(page));
        if (savedfile_has_data(second, number)) {
            savedfile_fill(second, number, page);
        }
        g_assert_cmpint(memcmp(all->data + i * SAVEDFILE_PAGE, page, sizeof(page)), ==, 0);
    }
    g_unlink(path);
}

static void test_refused(void)
{
    g_auto(SavedFile) stream = savedfile_new(&(SavedFileKind){.mapped = false});
    g_auto(SavedFile) shared = savedfile_new(&(SavedFileKind){.mapped = true, .shared = true});
    g_autofree char *a = make_file(stream.bytes->data, stream.bytes->len, stream.bytes->len),
                    *b = make_file(shared.bytes->data, shared.bytes->len, shared.bytes->len),
                    *c = make_file("", 0, 0), *e = make_file("state", 5, 5000);
    g_autoptr(GError) ea = NULL, eb = NULL, ec = NULL, ee = NULL;

    g_assert_null(ff_content_open(a, NULL, NULL, &ea));
    g_assert_nonnull(strstr(ea->message, "farfault convert"));
    g_assert_null(ff_content_open(b, NULL, NULL, &eb));
    g_assert_nonnull(strstr(eb->message, "not in the file"));
    g_assert_null(ff_content_open(c, NULL, NULL, &ec));
    g_assert_nonnull(strstr(ec->message, "nothing in it"));
    g_assert_null(ff_content_open(e, NULL, NULL, &ee));
    g_assert_nonnull(strstr(ee->message, "not whole pages"));
    g_unlink(a);
    g_unlink(b);
    g_unlink(c);
    g_unlink(e);
}

/* ---- CRIU ------------------------------------------------------------------------------------ */

/* Two runs in two mappings, and in between one that is not lazy. */
static const uint8_t pagemap_image[] = {
    0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, /* magic */
    2,    0,    0,    0,    8,    7,                /* pages-7 */
    7,    0,    0,    0,    8,    0x80, 0x20, 16,
    3,    32,   6, /* 3 pages at 0x1000: lazy, present */
    7,    0,    0,    0,    8,    0x80, 0x80, 1,
    16,   2,    32, /* 2 at 0x4000 ... */
};
static const uint8_t pagemap_rest[] = {
    4,                                          /* ... present */
    8, 0, 0, 0, 8, 0x80, 0xc0, 1, 40, 1, 32, 6, /* 1 at 0x6000, by the new field */
};
static const uint8_t mm_image[] = {
    0x19, 0x43, 0x56, 0x54, 0x20, 0x28, 0x49, 0x57,       /* magic */
    20,   0,    0,    0,                                  /* one message */
    8,    1,                                              /* another field */
    0x72, 6,    8,    0x80, 0x20, 16,   0x80, 0x40,       /* 0x1000 to 0x2000 */
    0x72, 8,    8,    0x80, 0x40, 16,   0x80, 0x80, 2, 0, /* 0x2000 to 0x8000, and what is bad */
};

static bool parse_criu(const uint8_t *pagemap, size_t pagemap_len, const uint8_t *mm, size_t mm_len,
                       GArray **ranges, GArray **extents, uint64_t *size)
{
    g_auto(FfCriu) c = {0};
    uint32_t id;

    *extents = g_array_new(FALSE, FALSE, sizeof(FfContentExtent));
    bool ok = ff_criu_parse(&c, false, pagemap, pagemap_len, mm, mm_len, &id, *extents, size, NULL);
    *ranges = g_steal_pointer(&c.ranges);
    return ok;
}

/* As they are, and then with each bit wrong and each end too early: what is accepted is whole. */
static void test_criu(void)
{
    g_autoptr(GByteArray) pagemap = g_byte_array_new(), mm = g_byte_array_new();

    g_byte_array_append(pagemap, pagemap_image, sizeof(pagemap_image));
    g_byte_array_append(pagemap, pagemap_rest, sizeof(pagemap_rest));
    pagemap->data[25] = 8; /* the entry's length */
    g_byte_array_append(mm, mm_image, sizeof(mm_image) - 1);
    mm->data[8] = 19;
    mm->data[23] = 7;
    for (guint bit = 0; bit <= (pagemap->len + mm->len) * 8; bit++) {
        GByteArray *file = bit / 8 < pagemap->len ? pagemap : mm;
        guint at = bit / 8 < pagemap->len ? bit / 8 : bit / 8 - pagemap->len;
        bool flip = bit < (pagemap->len + mm->len) * 8;
        g_autoptr(GArray) ranges = NULL;
        g_autoptr(GArray) extents = NULL;
        uint64_t size = 0, sum = 0;
        if (flip) {
            file->data[at] ^= 1 << bit % 8;
        }
        bool ok =
            parse_criu(pagemap->data, pagemap->len, mm->data, mm->len, &ranges, &extents, &size);
        for (guint i = 0; ok && i < ranges->len; i++) {
            const FfCriuRange *r = &g_array_index(ranges, FfCriuRange, i);
            g_assert_cmpuint(r->offset, ==, sum);
            sum += r->len;
        }
        g_assert_true(!ok || sum == size);
        if (!flip) {
            g_assert_true(ok);
            g_assert_cmpuint(size, ==, 4 * 4096);
            g_assert_cmpuint(ranges->len, ==, 3); /* the first run is in both mappings */
            g_assert_cmpuint(g_array_index(extents, FfContentExtent, 1).file, ==, 5 * 4096);
        } else {
            file->data[at] ^= 1 << bit % 8;
        }
    }
    for (guint len = 0; len < pagemap->len; len++) {
        g_autoptr(GArray) ranges = NULL;
        g_autoptr(GArray) extents = NULL;
        uint64_t size;
        g_autofree uint8_t *copy = g_memdup2(pagemap->data, len); /* nothing is after it */
        parse_criu(copy, len, mm->data, mm->len, &ranges, &extents, &size);
    }
}

/* ---- the gate -------------------------------------------------------------------------------- */

typedef struct {
    FfSpaceRecord *rec;
    int told;
    unsigned inside; /* atomic */
    bool closed;     /* atomic; the one that closed it thinks that nobody is inside */
    bool end;        /* atomic */
    unsigned times;
} Gate;

static gpointer go_through(gpointer p)
{
    Gate *g = p;

    while (!__atomic_load_n(&g->end, __ATOMIC_SEQ_CST)) {
        unsigned seen = ff_gate_look(g->rec);
        if (!ff_gate_enter(g->rec, g->told)) {
            if (ff_gate_state(seen) != FF_GATE_OPEN) {
                ff_gate_wait(g->rec, seen);
            }
            continue;
        }
        g_assert_false(__atomic_load_n(&g->closed, __ATOMIC_SEQ_CST));
        __atomic_add_fetch(&g->times, 1, __ATOMIC_SEQ_CST);
        g_assert_false(__atomic_load_n(&g->closed, __ATOMIC_SEQ_CST));
        ff_gate_leave(g->rec, g->told);
    }
    return NULL;
}

static void test_gate(void)
{
    Gate g = {0};
    GThread *t[3];
    int fd = ff_space_record_create(&g.rec);
    uint64_t n;

    g.told = eventfd(0, EFD_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(t); i++) {
        t[i] = g_thread_new("through", go_through, &g);
    }
    for (unsigned i = 0; i < 3000; i++) {
        while (!ff_gate_close(g.rec)) {
            /* The last one that leaves tells: this would wait for ever. */
            g_assert_cmpint(read(g.told, &n, sizeof(n)), ==, sizeof(n));
        }
        __atomic_store_n(&g.closed, true, __ATOMIC_SEQ_CST);
        if (i % 2) {
            ff_gate_set(g.rec, FF_GATE_EVENT);
        }
        __atomic_store_n(&g.closed, false, __ATOMIC_SEQ_CST);
        ff_gate_set(g.rec, FF_GATE_OPEN);
    }
    __atomic_store_n(&g.end, true, __ATOMIC_SEQ_CST);
    ff_gate_set(g.rec, FF_GATE_OPEN);
    for (unsigned i = 0; i < G_N_ELEMENTS(t); i++) {
        g_thread_join(t[i]);
    }
    g_assert_cmpuint(g.rec->placers, ==, 0);
    ff_space_record_unmap(g.rec);
    close(fd);
    close(g.told);
}

/* A ring that is full says so, and the one that takes something tells. */
static void test_ring(void)
{
    FfSpaceRecord *rec, *other;
    int fd = ff_space_record_create(&rec), told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct uffd_msg msg = {.event = UFFD_EVENT_PAGEFAULT}, out[64];
    uint64_t n, next = 0;

    g_assert_cmpint(ff_space_record_map(fd, &other), ==, 0);
    for (unsigned i = 0; i < FF_SPACE_RECORD_FAULTS; i++) {
        msg.arg.pagefault.address = i;
        g_assert_true(ff_space_record_add_fault(rec, &msg));
    }
    g_assert_false(ff_space_record_add_fault(rec, &msg));
    g_assert_cmpint(read(told, &n, sizeof(n)), <, 0);
    for (unsigned got; (got = ff_space_record_take_faults(other, out, 64, told));) {
        for (unsigned i = 0; i < got; i++) {
            g_assert_cmpuint(out[i].arg.pagefault.address, ==, next++);
        }
    }
    g_assert_cmpuint(next, ==, FF_SPACE_RECORD_FAULTS);
    g_assert_cmpint(read(told, &n, sizeof(n)), ==, sizeof(n));
    g_assert_cmpuint(n, ==, 1);
    g_assert_true(ff_space_record_add_fault(rec, &msg));
    ff_space_record_unmap(rec);
    ff_space_record_unmap(other);
    close(fd);
    close(told);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/server-parts/firecracker", test_firecracker);
    g_test_add_func("/server-parts/firecracker-deep", test_firecracker_deep);
    g_test_add_func("/server-parts/dialects", test_dialects);
    g_test_add_func("/server-parts/offload", test_offload);
    g_test_add_func("/server-parts/offload-foreign", test_offload_foreign);
    g_test_add_func("/server-parts/source/raw", test_raw);
    g_test_add_func("/server-parts/source/changed", test_changed);
    g_test_add_func("/server-parts/source/replaced", test_replaced);
    g_test_add_func("/server-parts/set-of-another", test_set_of_another);
    g_test_add_data_func("/server-parts/source/mapped", NULL, test_mapped);
    g_test_add_data_func("/server-parts/source/mapped-large", GUINT_TO_POINTER(1), test_mapped);
    g_test_add_func("/server-parts/source/refused", test_refused);
    g_test_add_func("/server-parts/criu", test_criu);
    g_test_add_func("/server-parts/gate", test_gate);
    g_test_add_func("/server-parts/ring", test_ring);
    return g_test_run();
}
