/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a live snapshot is the guest's memory at the instant, byte for byte: the engine is
 * held at the instant, QEMU itself copies the memory, and then the guest writes everywhere while
 * its old memory is written. With buffers of any size, in both forms, slowly and fast. That the
 * comparison can fail is tested as well: with the memory of a moment later.
 *
 * FF_SNAPSHOTS: so many of each kind; default 2.
 */
#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/mapped.h"
#include "snapshot/records.h"
#include "snapshot/saved.h"

#define MIB ((uint64_t)1 << 20)
#define RAM (64 * MIB)

typedef struct {
    const char *name;
    unsigned n_cpus;
    const char *buffer;
    bool stream;
    unsigned rate; /* MiB/s; 0: no limit */
    bool later;    /* compared with the memory of a moment later */
} Row;

static const Row rows[] = {
    {"mapped", 2, "67108864", false, 0, false},
    {"mapped/none", 1, "0", false, 0, false},
    {"mapped/one-page", 4, "4096", false, 0, false},
    {"mapped/slow", 2, "4194304", false, 40, false},
    {"stream", 2, "67108864", true, 0, false},
    {"stream/none", 4, "0", true, 0, false},
    {"stream/one-page", 1, "4096", true, 0, false},
    {"stream/slow", 2, "4194304", true, 40, false},
    {"later", 2, "67108864", false, 0, true},
};

/* ---- what is in the file -----------------------------------------------------------------------
 */

typedef struct {
    uint8_t *ram;
    FfSaved *s;
    guint block; /* of the guest's RAM */
} Image;

static guint ram_block(const FfSaved *s)
{
    for (guint i = 0; i < s->blocks->len; i++) {
        if (ff_saved_block(s, i)->size == RAM) {
            return i;
        }
    }
    g_error("the file has no block of %" G_GUINT64_FORMAT " bytes", RAM);
}

static bool add_page(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error)
{
    Image *i = opaque;

    if (block == i->block) {
        memcpy(i->ram + page * FF_SAVED_PAGE, bytes, FF_SAVED_PAGE);
    }
    return true;
}

static bool add_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    return true;
}

static bool add_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Image *i = opaque;

    return ff_input_read(i->s->in, ff_saved_block(i->s, i->block)->pages + first * FF_SAVED_PAGE,
                         i->ram + first * FF_SAVED_PAGE, n * FF_SAVED_PAGE, error);
}

/* g_free */
static uint8_t *read_file(const char *path)
{
    static const FfPageSink sink = {add_page, add_zero};
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(path, &error);

    g_assert_no_error(error);
    g_autoptr(FfSaved) s = ff_saved_open(in, 0, &error);
    g_assert_no_error(error);
    Image i = {.ram = g_malloc0(RAM), .s = s, .block = ram_block(s)};
    bool ok = s->form == FF_SAVED_MAPPED
                  ? ff_mapped_runs(s, ff_saved_block(s, i.block), add_run, &i, &error)
                  : ff_records_walk(s, &sink, &i, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    return i.ram;
}

/* ---- one snapshot ------------------------------------------------------------------------------
 */

static bool is_equal(const char *at_the_instant, const char *file)
{
    g_autofree char *then = NULL;
    g_autofree uint8_t *saved = read_file(file);
    gsize n;

    g_assert_true(g_file_get_contents(at_the_instant, &then, &n, NULL));
    g_assert_cmpuint(n, ==, RAM - MIB);
    for (uint64_t at = 0; at < n; at += FF_SAVED_PAGE) {
        if (memcmp(then + at, saved + MIB + at, FF_SAVED_PAGE) != 0) {
            g_test_message("the page at %#" G_GINT64_MODIFIER "x differs", MIB + at);
            return false;
        }
    }
    return true;
}

static void save_memory(Qmp *q, const char *path)
{
    /* From 1 MiB on: below that the memory is not all the block's. */
    qmp_ok(q, "pmemsave",
           "{'val': %" G_GUINT64_FORMAT ", 'size': %" G_GUINT64_FORMAT ", 'filename': '%s'}", MIB,
           RAM - MIB, path);
}

/* The engine, which waits at the instant, goes on. */
static void let_go(Vm *vm)
{
    g_autofree char *path = g_build_filename(vm_dir(vm), "hold", NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

/* FALSE: the file is not what the memory was. */
static bool take(Vm *vm, const Row *row)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *file = vm_path(vm, "file"), *then = vm_path(vm, "then");

    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'buffer': %s, 'format': '%s'}", file,
           row->buffer, row->stream ? "stream" : "mapped-ram");
    qmp_expect(q, "STOP");
    if (!row->later) {
        save_memory(q, then);
        g_assert_false(qmp_has_event(q, "RESUME"));
    }
    let_go(vm);
    qmp_expect(q, "RESUME");
    if (row->later) {
        vm_wait_new_serial(vm, "B");
        save_memory(q, then);
    }
    qmp_expect_migration(q, "completed");
    bool equal = is_equal(then, file);

    g_assert_cmpint(unlink(file), ==, 0);
    g_assert_cmpint(unlink(then), ==, 0);
    return equal;
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *number = g_getenv("FF_SNAPSHOTS"), *why;
    unsigned n = number ? atoi(number) : 2;
    g_autofree char *cpus = g_strdup_printf("%u", row->n_cpus);
    const char *args[] = {"-smp", cpus, NULL};
    BootsectConfig boot = bootsect_config(RAM, 0, row->n_cpus);
    unsigned wrong = 0;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *vm = vm_start(&(VmConfig){.name = "guest",
                                  .launcher = VM_RUN,
                                  .memory = "64M",
                                  .args = args,
                                  .boot = &boot,
                                  .faults = "snapshot/*/at/armed=hold"});
    g_autofree char *hold = vm_path(vm, "hold");
    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    vm_wait_serial(vm, "AB");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': %u}", row->rate << 20);
    for (unsigned i = 0; i < n; i++) {
        wrong += !take(vm, row);
    }
    g_assert_cmpuint(wrong, ==, row->later ? n : 0);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &boot));
    vm_end(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/equal/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
