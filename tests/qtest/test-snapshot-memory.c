/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live snapshots of unusual memory: huge pages of which not one has room in the buffer, and memory
 * that somebody else in QEMU has in a userfaultfd of its own (other-uffd.c).
 */
#include "tests/qtest/snapshot-rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"

/* ---- huge pages ------------------------------------------------------------------------------ */

/* The memory that the file holds is that of one instant. */
static void expect_right_counters(const Snap *t)
{
    g_autofree uint8_t *ram = snap_read(t->path, (uint64_t)SNAP_RAM_MIB << 20);
    uint64_t n = (t->boot.end - t->boot.start) / 4096;
    g_autofree uint32_t *counters = g_new(uint32_t, n);

    for (unsigned cpu = 0; cpu < t->boot.n_cpus; cpu++) {
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&counters[i], ram + t->boot.start + i * 4096 + cpu * BOOTSECT_STRIDE,
                   sizeof(*counters));
        }
        check_right(bootsect_check(counters, n));
    }
}

/* Each write waits for the disk, which takes a page of 2 MiB at a time. */
static void test_huge(gconstpointer buffer)
{
    static const char *const args[] = {"-machine", "pc,memory-backend=ram0", "-object",
                                       "memory-backend-memfd,id=ram0,size=" G_STRINGIFY(
                                           SNAP_RAM_MIB) "M,hugetlb=on,hugetlbsize=2M",
                                       NULL};
    g_autofree char *more = g_strdup_printf(", 'buffer': %s", (const char *)buffer);
    Snap t = {.args = args};
    HugePages *pages = hugepages_new(SNAP_RAM_MIB / 2);

    if (!pages) {
        return;
    }
    if (snap_begin(&t, NULL, NULL)) {
        snap_ask_with(&t, more);
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        expect_right_counters(&t);
        snap_expect_settings(&t);
        snap_end(&t);
    }
    hugepages_free(pages);
}

/* ---- backends -------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *args[6];
} Backends;

static const Backends backends[] = {
    {"dimm", {"-object", "memory-backend-ram,id=more,size=32M", "-device", "pc-dimm,memdev=more"}},
    {"unused", {"-object", "memory-backend-ram,id=more,size=32M"}},
    {"same-name", /* as the memory of a device of QEMU's own */
     {"-object", "memory-backend-ram,id=vga.vram,size=32M", "-device", "pc-dimm,memdev=vga.vram"}},
};

/* Each of them is found in what QEMU says of the guest, or is not the guest's. */
static void test_backends(gconstpointer data)
{
    const Backends *b = data;
    const char *args[16] = {"-m", G_STRINGIFY(SNAP_RAM_MIB) "M,slots=1,maxmem=1G", "-vga", "std"};
    Snap t = {.args = args};

    for (unsigned i = 0; b->args[i]; i++) {
        args[4 + i] = b->args[i];
    }
    if (snap_begin(&t, NULL, NULL)) {
        snap_ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        expect_right_counters(&t);
        snap_expect_settings(&t);
        snap_end(&t);
    }
}

/* ---- backends that are plugged later --------------------------------------------------------- */

#define SLOTS "-m", G_STRINGIFY(SNAP_RAM_MIB) "M,slots=1,maxmem=1G"
#define CXL                                                                                        \
    "-machine", "q35,cxl=on", "-device", "pxb-cxl,bus_nr=52,bus=pcie.0,id=cxl0", "-device",        \
        "cxl-rp,port=0,bus=cxl0,id=rp0,chassis=0,slot=2"

typedef struct {
    const char *name, *args[10], *device; /* NULL: none takes it */
    const char *error;                    /* NULL: the snapshot has it, or need not have it */
} Plugged;

static const char left_out[] =
    "the guest has memory that no snapshot of its QEMU has (memory backend \"more\")";

static const Plugged plugged[] = {
    {"dimm", {SLOTS}, "{'driver': 'pc-dimm', 'memdev': 'more'}", NULL},
    {"unused", {SLOTS}, NULL, NULL},
    /* These leave their backend out of QEMU's own streams: it would be lost without a word. */
    {"pmem", {SLOTS}, "{'driver': 'virtio-pmem-pci', 'id': 'pmem0', 'memdev': 'more'}", left_out},
    {"pmem-without-id", {SLOTS}, "{'driver': 'virtio-pmem-pci', 'memdev': 'more'}", left_out},
    {"cxl",
     {SLOTS, CXL, NULL},
     "{'driver': 'cxl-type3', 'bus': 'rp0', 'memdev': 'more', 'lsa': 'label'}",
     left_out},
};

static void plug_backend(const Snap *t, const char *id, unsigned mib)
{
    qmp_ok(vm_qmp(t->vm), "object-add",
           "{'qom-type': 'memory-backend-ram', 'id': '%s', 'size': %u}", id, mib << 20);
}

static void test_plugged(gconstpointer data)
{
    const Plugged *p = data;
    Snap t = {.args = p->args};

    if (!snap_begin(&t, NULL, NULL)) {
        return;
    }
    plug_backend(&t, "more", 256);
    if (p->device && strstr(p->device, "label")) {
        plug_backend(&t, "label", 1);
    }
    if (p->device) {
        qmp_ok(vm_qmp(t.vm), "device_add", "%s", p->device);
    }
    snap_ask(&t);
    qmp_expect_migration(vm_qmp(t.vm), p->error ? "failed" : "completed");
    if (p->error) {
        snap_expect_error(&t, p->error);
        snap_expect_no_file(&t);
        snap_expect_running(&t);
    } else {
        expect_right_counters(&t);
    }
    snap_end(&t);
}

/* By a monitor of which farfault knows nothing, when the backends have been looked at. */
static void test_plugged_during(void)
{
    static const char *const args[] = {SLOTS, NULL};
    Snap t = {.args = args, .listens = true};

    if (!snap_begin(&t, "snapshot/*/at/protected=hold", NULL)) {
        return;
    }
    plug_backend(&t, "more", 32);
    snap_ask(&t);
    snap_wait_held(&t);
    g_free(vm_human(t.vm, "device_add virtio-pmem-pci,id=pmem0,memdev=more"));
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "a device took the memory backend \"more\" during the snapshot");
    snap_expect_no_file(&t);
    snap_end(&t);
}

/* The same, with a backend that there was not either. */
static void test_came_during(gconstpointer device)
{
    static const char *const args[] = {SLOTS, NULL};
    Snap t = {.args = args, .listens = true};

    if (!snap_begin(&t, "snapshot/*/at/protected=hold", NULL)) {
        return;
    }
    snap_ask(&t);
    snap_wait_held(&t);
    g_free(vm_human(t.vm, "object_add memory-backend-ram,id=late,size=32M"));
    if (device) {
        g_autofree char *add = g_strdup_printf("device_add %s,memdev=late", (const char *)device);
        g_free(vm_human(t.vm, add));
    }
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), device ? "failed" : "completed");
    if (device) {
        snap_expect_error(&t, "a device got the new memory backend \"late\" during the snapshot");
        snap_expect_no_file(&t);
    }
    snap_end(&t);
}

/* What the guest has never touched stays a hole of its memory, and takes no huge page of the host.
 */
static void test_holes(void)
{
    static const char *const args[] = {"-machine", "pc,memory-backend=ram0", "-object",
                                       "memory-backend-memfd,id=ram0,size=" G_STRINGIFY(
                                           SNAP_RAM_MIB) "M,hugetlb=on,hugetlbsize=2M,reserve=off",
                                       NULL};
    Snap t = {.args = args};
    HugePages *pages = hugepages_new(SNAP_RAM_MIB / 2);

    if (!pages) {
        return;
    }
    if (snap_begin(&t, NULL, NULL)) {
        unsigned before = hugepages_free_now();
        snap_ask_with(&t, "");
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        expect_right_counters(&t);
        g_test_message("%u huge pages were free, %u are", before, hugepages_free_now());
        g_assert_cmpuint(hugepages_free_now() + 2, >=, before);
        snap_end(&t);
    }
    hugepages_free(pages);
}

/* ---- somebody else's ------------------------------------------------------------------------- */

static void open_fifo(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

/* The other one registers its memory, or lets go of it, and has done so. */
static void other(const char *dir)
{
    open_fifo(dir, "go");
    open_fifo(dir, "done");
}

static void make_fifos(const char *dir)
{
    g_autofree char *go = g_build_filename(dir, "go", NULL);
    g_autofree char *done = g_build_filename(dir, "done", NULL);

    g_assert_cmpint(mkfifo(go, 0600), ==, 0);
    g_assert_cmpint(mkfifo(done, 0600), ==, 0);
}

static void remove_fifos(const char *dir)
{
    g_autofree char *go = g_build_filename(dir, "go", NULL);
    g_autofree char *done = g_build_filename(dir, "done", NULL);

    g_assert_cmpint(unlink(go) | unlink(done) | rmdir(dir), ==, 0);
}

/* The first block may be registered by then: it is taken out again, and the guest runs on as if
 * nothing had been. */
static void test_other(void)
{
    static const char *const args[] = {"-m",      "64M",
                                       "-object", "memory-backend-memfd,id=m0,size=40M",
                                       "-object", "memory-backend-memfd,id=m1,size=24M",
                                       "-numa",   "node,nodeid=0,cpus=0-1,memdev=m0",
                                       "-numa",   "node,nodeid=1,memdev=m1",
                                       NULL};
    g_autofree char *dir = g_dir_make_tmp("other-uffd-XXXXXX", NULL);
    g_autofree char *preload = vm_build_path("tests/qtest/other-uffd.so");
    Snap t = {.args = args};

    make_fifos(dir);
    g_setenv("LD_PRELOAD", preload, TRUE);
    g_setenv("OTHER_UFFD", dir, TRUE);
    bool runs = snap_begin(&t, NULL, NULL);
    g_unsetenv("LD_PRELOAD");
    g_unsetenv("OTHER_UFFD");
    if (runs) {
        other(dir);
        snap_ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "failed");
        snap_expect_error(&t, "guest RAM 'm1' is watched by another userfaultfd");
        snap_expect_no_file(&t);
        snap_expect_settings(&t);
        snap_expect_running(&t);
        other(dir);
        snap_ask(&t);
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        snap_end(&t);
    }
    remove_fifos(dir);
}

/* ---- the engine's own ------------------------------------------------------------------------ */

/* KiB of it that no file backs: the guest's is not among them. */
static int64_t engine_memory(Snap *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", vm_engine(t->vm)), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = strstr(text, "\nRssAnon:");
    g_assert_nonnull(at);
    return g_ascii_strtoll(at + strlen("\nRssAnon:"), NULL, 10);
}

/* Besides the buffer: bitmaps, the state of the devices, what is gathered for the file. Before
 * anything is given back. */
static void test_engine(gconstpointer form)
{
    Snap t = {0};

    if (!snap_begin(&t, "snapshot/*/at/setup=hold;snapshot/*/at/capture-lifting=hold", NULL)) {
        return;
    }
    g_autofree char *more = g_strdup_printf(", 'buffer': 4096, 'format': '%s'", (char *)form);
    snap_ask_with(&t, more);
    snap_wait_held(&t);
    int64_t before = engine_memory(&t);
    snap_let_go(&t);
    snap_wait_held(&t);
    int64_t more_now = engine_memory(&t) - before;
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_test_message("%d KiB besides a buffer of one page", (int)more_now);
    g_assert_cmpint(more_now, <, 6 << 10);
    snap_end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot/memory/huge/holes", test_holes);
    g_test_add_data_func("/snapshot/memory/huge/no-room", "0", test_huge);
    g_test_add_data_func("/snapshot/memory/huge/one-small-page", "4096", test_huge);
    g_test_add_func("/snapshot/memory/other-uffd", test_other);
    g_test_add_data_func("/snapshot/memory/engine/mapped-ram", "mapped-ram", test_engine);
    g_test_add_data_func("/snapshot/memory/engine/stream", "stream", test_engine);
    for (unsigned i = 0; i < G_N_ELEMENTS(backends); i++) {
        g_autofree char *path = g_strconcat("/snapshot/backends/", backends[i].name, NULL);

        g_test_add_data_func(path, &backends[i], test_backends);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(plugged); i++) {
        g_autofree char *path = g_strconcat("/snapshot/plugged/", plugged[i].name, NULL);

        g_test_add_data_func(path, &plugged[i], test_plugged);
    }
    g_test_add_func("/snapshot/plugged/during", test_plugged_during);
    g_test_add_data_func("/snapshot/plugged/came/unused", NULL, test_came_during);
    g_test_add_data_func("/snapshot/plugged/came/dimm", "pc-dimm", test_came_during);
    g_test_add_data_func("/snapshot/plugged/came/pmem", "virtio-pmem-pci", test_came_during);
    return g_test_run();
}
