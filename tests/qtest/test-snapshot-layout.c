/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a live snapshot beside the one that stock QEMU 10 itself writes (mapped-ram) of the
 * same guest as it stands: byte for byte the same from the first byte to the end of the last block,
 * which is the header, the configuration, the order of the blocks, the places of bitmaps and
 * pages, bitmaps and pages. Each is also looked at by itself, from the bytes, so that a
 * difference has a name.
 *
 * The guest writes one byte to its serial port and stands with interrupts off, so that `cont` and
 * `stop` between the two change nothing of its memory.
 *
 * After the last block these differ, and nothing else:
 *
 *   - QEMU has PARTs of the section "ram" with nothing in them, one for each look whether it is
 *     done; a snapshot has none.
 *   - Clocks and timers of the devices: the two are of different moments.
 *   - In the description of all that, which QEMU throws away, the length of a capability's name.
 * The engine had QEMU write it for a stream with x-ignore-shared.
 */
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "content/image/saved.h"

#define MIB ((uint64_t)1 << 20)
#define RAM (64 * MIB)
#define CLOCKS 64 /* bytes that may differ in the devices */
#define HEADER 28 /* bytes: version, page size, places of bitmap and pages */

typedef struct {
    const char *name, *machine, *device;
} Row;

static const Row rows[] = {
    {"pc", "pc", "VGA"},
    {"q35", "q35", "VGA,vgamem_mb=32"},
    {"pc-7.2", "pc-i440fx-7.2", "virtio-vga"},
};

/* ---- a guest that stands by itself ----------------------------------------------------------- */

static char *make_disk(void)
{
    static const uint8_t code[] = {
        0xfa,             /* cli */
        0xba, 0xf8, 0x03, /* mov $0x3f8, %dx */
        0xb0, 'A',        /* mov $'A', %al */
        0xee,             /* out %al, %dx */
        0xf4,             /* hlt */
        0xeb, 0xfd,       /* jmp .-1 */
    };
    uint8_t sector[512] = {0};
    char *path = g_build_filename(g_get_tmp_dir(), "ff-layout-XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    memcpy(sector, code, sizeof(code));
    sector[510] = 0x55;
    sector[511] = 0xaa;
    g_assert_true(fd >= 0 && write(fd, sector, sizeof(sector)) == sizeof(sector));
    close(fd);
    return path;
}

/* Pages here and there: alone, in rows, the last one of the guest's RAM that is free, and one of
 * which only the last byte is not zero. */
static void write_memory(Vm *vm)
{
    g_autofree uint8_t *page = g_malloc0(FF_SAVED_PAGE);

    for (unsigned i = 0; i < 600; i++) {
        uint64_t at = i < 200 ? 2 * MIB + i * FF_SAVED_PAGE : 4 * MIB + i * 20 * FF_SAVED_PAGE;
        memset(page, (int)i + 1, FF_SAVED_PAGE);
        qtest_write(vm_qtest(vm), at, page, FF_SAVED_PAGE);
    }
    memset(page, 0, FF_SAVED_PAGE);
    page[FF_SAVED_PAGE - 1] = 1;
    qtest_write(vm_qtest(vm), RAM - 2 * MIB, page, FF_SAVED_PAGE);
    /* There, but zero. */
    memset(page, 0, FF_SAVED_PAGE);
    qtest_write(vm_qtest(vm), RAM - 3 * MIB, page, FF_SAVED_PAGE);
}

/* ---- the files ------------------------------------------------------------------------------- */

typedef struct {
    const char *who;
    FfSaved *s;
    char *bytes;
    gsize n;
    uint64_t end; /* of the last block */
} File;

static void read_file(File *f, const char *who, const char *path)
{
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(path, &error);

    g_assert_no_error(error);
    f->who = who;
    f->s = ff_saved_open(in, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(f->s->form, ==, FF_SAVED_MAPPED);
    g_assert_true(g_file_get_contents(path, &f->bytes, &f->n, NULL));
    for (guint i = 0; i < f->s->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(f->s, i);
        f->end = MAX(f->end, b->pages + b->size);
    }
    g_assert_cmpuint(f->end, <=, f->n);
}

static void clear_file(File *f)
{
    ff_saved_free(f->s);
    g_free(f->bytes);
}

static uint64_t number(const File *f, uint64_t at, unsigned bytes)
{
    uint64_t value = 0;

    g_assert_cmpuint(at + bytes, <=, f->n);
    for (unsigned i = 0; i < bytes; i++) {
        value = value << 8 | (uint8_t)f->bytes[at + i];
    }
    return value;
}

/* What QEMU's docs/devel/migration/mapped-ram.rst says of block I, from the bytes. */
static void check_block(const File *f, guint i)
{
    const FfSavedBlock *b = ff_saved_block(f->s, i);
    uint64_t header = b->bitmap - HEADER, size = b->size / FF_SAVED_PAGE / 8;

    g_test_message("%s: %s: %" G_GUINT64_FORMAT " bytes, bitmap at %" G_GUINT64_FORMAT
                   ", pages at %" G_GUINT64_FORMAT,
                   f->who, b->name, b->size, b->bitmap, b->pages);
    g_assert_cmpmem(f->bytes + header - 8 - strlen(b->name), strlen(b->name), b->name,
                    strlen(b->name));
    g_assert_cmpuint(number(f, header - 8 - strlen(b->name) - 1, 1), ==, strlen(b->name));
    g_assert_cmpuint(number(f, header - 8, 8), ==, b->size);
    g_assert_cmpuint(number(f, header, 4), ==, 1);
    g_assert_cmpuint(number(f, header + 4, 8), ==, FF_SAVED_PAGE);
    g_assert_cmpuint(number(f, header + 12, 8), ==, b->bitmap);
    g_assert_cmpuint(number(f, header + 20, 8), ==, b->pages);
    g_assert_cmpuint(b->pages % MIB, ==, 0);
    g_assert_cmpuint(b->pages, >=, b->bitmap + size);
}

static void compare_range(const File *a, const File *b, uint64_t from, uint64_t to,
                          const char *block, const char *what)
{
    for (uint64_t at = from; at < to; at++) {
        if (a->bytes[at] != b->bytes[at]) {
            test_fail("%s of %s: byte %" G_GUINT64_FORMAT " of it (%" G_GUINT64_FORMAT
                      " of the file) is %#x in %s, %#x in %s",
                      what, block, at - from, at, (uint8_t)a->bytes[at], a->who,
                      (uint8_t)b->bytes[at], b->who);
        }
    }
}

/* ---- after the last block -------------------------------------------------------------------- */

#define END_OF_PART 13 /* bytes: the last record, and the section's footer */

static void expect_end_of_part(const File *f, uint64_t at)
{
    g_assert_cmpuint(number(f, at, 8), ==, FF_RECORD_EOS);
    g_assert_cmpuint(number(f, at + 8, 1), ==, FF_SECTION_FOOTER);
    g_assert_cmpuint(number(f, at + 9, 4), ==, f->s->section);
}

/* After the table, and the PARTs that have nothing in them. */
static uint64_t behind_parts(const File *f, unsigned *parts)
{
    uint64_t at = f->end + END_OF_PART;

    expect_end_of_part(f, f->end);
    for (*parts = 0; number(f, at, 1) == FF_SECTION_PART; at += 5 + END_OF_PART) {
        g_assert_cmpuint(number(f, at + 1, 4), ==, f->s->section);
        expect_end_of_part(f, at + 5);
        ++*parts;
    }
    return at;
}

/* Where the description begins, without the length of a capability's name (g_free). */
static char *description(const File *f, uint64_t from, uint64_t *at)
{
    static const char size[] = "\"type\": \"capability\", \"size\": ";
    const char *begin = memmem(f->bytes + from, f->n - from, "{\"configuration\"", 16);
    g_autoptr(GString) text = NULL;

    g_assert_nonnull(begin);
    *at = begin - f->bytes;
    text = g_string_new_len(begin, (gssize)(f->n - *at));
    char *number_at = strstr(text->str, size);
    g_assert_nonnull(number_at);
    for (number_at += strlen(size); g_ascii_isdigit(*number_at); number_at++) {
        *number_at = 'N';
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void compare_tails(const File *a, const File *b)
{
    unsigned parts, none, clocks = 0;
    uint64_t in_a = behind_parts(a, &none), in_b = behind_parts(b, &parts), end_a, end_b;
    g_autofree char *text_a = description(a, in_a, &end_a), *text_b = description(b, in_b, &end_b);

    g_assert_cmpuint(none, ==, 0);
    g_assert_cmpuint(a->n - in_a, ==, b->n - in_b);
    g_assert_cmpuint(end_a - in_a, ==, end_b - in_b);
    g_assert_cmpstr(text_a, ==, text_b);
    for (uint64_t i = 0; i < end_a - in_a; i++) {
        clocks += a->bytes[in_a + i] != b->bytes[in_b + i];
    }
    g_test_message("%u PARTs with nothing in them; %u of %" G_GUINT64_FORMAT
                   " bytes of the devices differ",
                   parts, clocks, end_a - in_a);
    g_assert_cmpuint(clocks, <=, CLOCKS);
}

static void compare(const File *a, const File *b)
{
    uint64_t at = 0;

    g_assert_cmpuint(a->s->blocks->len, ==, b->s->blocks->len);
    g_assert_cmpuint(a->s->blocks->len, >=, 3);
    for (guint i = 0; i < a->s->blocks->len; i++) {
        const FfSavedBlock *one = ff_saved_block(a->s, i), *other = ff_saved_block(b->s, i);

        check_block(a, i);
        check_block(b, i);
        g_assert_cmpstr(one->name, ==, other->name);
        g_assert_cmpuint(one->size, ==, other->size);
        g_assert_cmpuint(one->bitmap, ==, other->bitmap);
        g_assert_cmpuint(one->pages, ==, other->pages);
        compare_range(a, b, at, one->bitmap, one->name, i ? "the header" : "all up to the header");
        compare_range(a, b, one->bitmap, one->pages, one->name, "the bitmap");
        compare_range(a, b, one->pages, one->pages + one->size, one->name, "the pages");
        at = one->pages + one->size;
    }
    g_assert_cmpuint(a->end, ==, b->end);
    compare_tails(a, b);
}

/* ---- the test -------------------------------------------------------------------------------- */

/* Both of the guest as it stands. */
static void save_both(Vm *vm, const char *ours, const char *theirs)
{
    Qmp *q = vm_qmp(vm);

    vm_wait_serial(vm, "A");
    qmp_ok(q, "stop", NULL);
    write_memory(vm);
    qmp_set_capability(q, "events", true);
    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'format': 'mapped-ram'}", ours);
    qmp_expect_migration(q, "completed");
    /* QEMU does not migrate a guest that it has just migrated. */
    qmp_ok(q, "cont", NULL);
    qmp_ok(q, "stop", NULL);
    qmp_set_capability(q, "mapped-ram", true);
    qmp_ok(q, "migrate", "{'uri': 'file:%s'}", theirs);
    qmp_expect_migration(q, "completed");
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    g_autofree char *qemu = vm_newer_qemu();
    const char *why;

    if (!qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *disk = make_disk();
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", disk);
    const char *args[] = {
        "-machine", row->machine, "-device", row->device,
        "-drive",   drive,        "-device", "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
        NULL};
    Vm *vm = vm_start(&(VmConfig){
        .name = "guest", .launcher = VM_RUN, .qemu = qemu, .memory = "64M", .args = args});
    g_autofree char *ours = vm_path(vm, "ours"), *theirs = vm_path(vm, "theirs");
    File a = {0}, b = {0};

    save_both(vm, ours, theirs);
    read_file(&a, "farfault's", ours);
    read_file(&b, "QEMU's", theirs);
    compare(&a, &b);
    clear_file(&a);
    clear_file(&b);
    vm_end(vm);
    g_assert_cmpint(unlink(disk), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot-layout/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
