/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's precopy between two real QEMUs: a guest that writes all of its memory all the time
 * is switched at random moments; one that fits into the downtime arrives whole; a disk is read into
 * guest memory past the page cache while rounds continue.
 *
 * FF_ROUNDS: number of switches at random moments, default 4.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/move.h"
#include "tests/lib/slowfile.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 40

typedef struct {
    BootsectConfig boot;
    Vm *source, *destination;
    char *uri;
    const char *faults; /* of the source; can be NULL */
} Pair;

static bool skipped(void)
{
    const char *why = NULL;

    vm_farfault_available(&why);
    if (why)
        g_test_skip(why);
    return why != NULL;
}

static const char *const huge[] = {
    "-machine", "pc,memory-backend=ram0", "-object",
    "memory-backend-memfd,id=ram0,size=" G_STRINGIFY(RAM_MIB) "M,hugetlb=on,hugetlbsize=2M", NULL};

static Vm *start_vm(const Pair *p, const char *name, const char *incoming, const char *const *args)
{
    static const char *const pc[] = {"-machine", "pc", "-smp", "2", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = args == huge ? "size=" G_STRINGIFY(RAM_MIB) "M"
                                                       : G_STRINGIFY(RAM_MIB) "M",
                                .args = args ? args : pc,
                                .boot = &p->boot,
                                .incoming = incoming,
                                .faults = incoming ? NULL : p->faults});
}

static void start_both(Pair *p, const char *const *args)
{
    p->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, args ? 1 : 2);
    p->source = start_vm(p, "source", NULL, args);
    p->destination = start_vm(p, "destination", "defer", args);
    vm_wait_serial(p->source, "AB");
    move_prepare(p->source, p->destination);
    qmp_ok(vm_qmp(p->destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    p->uri = move_listen_uri(p->destination);
}

static void end_both(Pair *p)
{
    vm_end(p->source);
    vm_end(p->destination);
    g_free(p->uri);
}

static void check_memory(Pair *p)
{
    Qmp *d = vm_qmp(p->destination);

    vm_wait_new_serial(p->destination, "B");
    qmp_ok(d, "stop", NULL);
    check_right(check_counters(p->destination, &p->boot));
    check_right(check_moved(p->source, p->destination, &p->boot, (uint64_t)RAM_MIB << 20));
    qmp_ok(d, "cont", NULL);
    vm_wait_new_serial(p->destination, "B");
}

/* Skips where the kernel cannot track writes. */
static bool tracked(Pair *p)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(p->source), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    const char *why = json_object_get_string_member_with_default(own, "no-precopy", NULL);

    if (why)
        g_test_skip(why);
    return !why;
}

/* Everything fits into the downtime: no postcopy at either side. */
static void test_plain(gconstpointer data)
{
    const char *const *args = data;
    Pair p = {0};

    if (skipped())
        return;
    HugePages *pool = args ? hugepages_new(RAM_MIB) : NULL; /* of 2 MiB, for both sides */
    if (args && !pool)
        return;
    start_both(&p, args);
    Qmp *s = vm_qmp(p.source), *d = vm_qmp(p.destination);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000, 'downtime-limit': 30000}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", p.uri);
    qmp_expect_migration(s, "active");
    if (!tracked(&p))
        qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(s, "STOP");
    qmp_expect(d, "RESUME");
    move_wait_completed(p.source, p.destination);
    g_assert_cmpint(move_ram_count(p.source, "dirty-sync-count"), >=, 3);
    g_assert_cmpint(move_ram_count(p.source, "postcopy-bytes"), ==, 0);
    g_autofree char *states = qmp_event_names(s);
    g_test_message("%s", states);
    check_memory(&p);
    end_both(&p);
    hugepages_free(pool);
}

/* The switch when a random amount has been sent, up to four times the busy memory; over four
 * connections and over one in turn. */
static void test_hybrid(gconstpointer data)
{
    const char *const *args = data;
    const char *rounds = g_getenv("FF_ROUNDS");

    if (skipped())
        return;
    HugePages *pool = args ? hugepages_new(RAM_MIB) : NULL;
    if (args && !pool)
        return;
    for (int i = 0, n = rounds ? atoi(rounds) : 4; i < n; i++) {
        Pair p = {0};
        start_both(&p, args);
        Qmp *s = vm_qmp(p.source), *d = vm_qmp(p.destination);
        int64_t after = g_random_int_range(0, 4 * BUSY_MIB) * (1ll << 20);
        qmp_ok(s, "migrate-set-parameters",
               "{'max-bandwidth': 200000000, 'downtime-limit': 1, 'x-farfault-channels': %d}",
               i % 2 ? 1 : 4);
        qmp_ok(s, "migrate", "{'uri': '%s'}", p.uri);
        qmp_expect_migration(s, "active");
        if (!tracked(&p) || move_await_count(p.source, "transferred", after)) {
            qmp_ok(s, "migrate-start-postcopy", NULL);
            qmp_expect_migration(s, "postcopy-active");
        }
        qmp_expect(d, "RESUME");
        move_wait_completed(p.source, p.destination);
        g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
        g_test_message("switched after %" G_GINT64_FORMAT " MiB, pass %" G_GINT64_FORMAT
                       ", downtime %" G_GINT64_FORMAT " ms",
                       after >> 20, move_ram_count(p.source, "dirty-sync-count"),
                       json_object_get_int_member(info, "downtime"));
        check_memory(&p);
        end_both(&p);
    }
    hugepages_free(pool);
}

/* Writes faster than the link: switches without being asked, and sends less than twice the RAM. */
static void test_auto(void)
{
    Pair p = {0};

    if (skipped())
        return;
    start_both(&p, NULL);
    Qmp *s = vm_qmp(p.source), *d = vm_qmp(p.destination);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': 20000000, 'downtime-limit': 1, 'x-farfault-auto-postcopy': true}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", p.uri);
    qmp_expect_migration(s, "active");
    if (!tracked(&p))
        qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "postcopy-active");
    qmp_expect(d, "RESUME");
    move_wait_completed(p.source, p.destination);
    g_assert_cmpint(move_ram_count(p.source, "transferred"), <, 2ll * RAM_MIB << 20);
    check_memory(&p);
    end_both(&p);
}

/* ---- direct I/O ------------------------------------------------------------------------------ */

#define PRD                                                                                        \
    (56ull << 20)          /* the controller's table, guest-physical; the guest is not busy there  \
                            */
#define DATA (57ull << 20) /* where the disk is read to */
#define LENGTH 65536u
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define IDE_FUNCTION 0x80000900u /* PIIX3, 00:01.1 */
#define ATA 0x170                /* second channel */
#define BUS_MASTER 0xc000

static uint32_t pci_read(Qtest *t, uint32_t at)
{
    qtest_out(t, 4, PCI_ADDRESS, IDE_FUNCTION | at);
    return qtest_in(t, 4, PCI_DATA);
}

static void pci_write(Qtest *t, uint32_t at, uint32_t value)
{
    qtest_out(t, 4, PCI_ADDRESS, IDE_FUNCTION | at);
    qtest_out(t, 4, PCI_DATA, value);
}

/* A read by DMA of LENGTH bytes at SLOWFILE_HELD of the second disk; returns at once. */
static void start_dma(Qtest *t)
{
    uint64_t lba = SLOWFILE_HELD / 512, count = LENGTH / 512;

    pci_write(t, 0x20, BUS_MASTER);
    pci_write(t, 0x04, pci_read(t, 0x04) | 5); /* I/O space, bus master */
    uint16_t bm = (pci_read(t, 0x20) & ~3u) + 8;
    qtest_writeq(t, PRD, 0x80000000ull << 32 | (uint64_t)(LENGTH & 0xffff) << 32 | DATA);
    qtest_out(t, 4, bm + 4, PRD);
    qtest_out(t, 1, bm, 0x08);
    qtest_out(t, 1, ATA + 2, count);
    qtest_out(t, 1, ATA + 3, lba);
    qtest_out(t, 1, ATA + 4, lba >> 8);
    qtest_out(t, 1, ATA + 5, lba >> 16);
    qtest_out(t, 1, ATA + 6, 0xf0 | lba >> 24); /* second drive */
    qtest_out(t, 1, ATA + 7, 0xc8);             /* READ DMA */
    qtest_out(t, 1, bm, 0x09);
}

/* Waits until the source's pass N has begun. FALSE: not within SECONDS. */
static bool reach_pass(Pair *p, int64_t n, unsigned seconds)
{
    int64_t end = test_deadline(seconds);

    while (move_ram_count(p->source, "dirty-sync-count") < n) {
        if (g_get_monotonic_time() >= end)
            return false;
    }
    return true;
}

/*
 * A disk is read into memory; its answer comes when the first round is over, if the rounds do not
 * wait for it. Tracking saw the pages when they were pinned, before it began: only because a round
 * drains between scan and copy has the destination what the disk gave. A buffered read of this file
 * pins them just as one past the page cache does. FAULTS: the first round, two windows of 32 MiB,
 * does not drain, and the destination must lack it, or this would prove nothing.
 */
typedef struct {
    const char *cache, *faults;
} DirectIo;

static const DirectIo cache_none = {"none", NULL}, cache_writeback = {"writeback", NULL},
                      no_drain = {"none", "source/*/step/drain=skip;source/*/step/drain=skip"};

static void test_direct_io(gconstpointer data)
{
    const DirectIo *row = data;
    g_autofree char *directory = g_dir_make_tmp("ff-slow-XXXXXX", NULL);
    const char *why = NULL;
    bool drains = !row->faults;
    Pair p = {.faults = row->faults};

    if (skipped())
        return;
    if (row->faults && !vm_faults_available(&why)) {
        g_test_skip(why);
        rmdir(directory);
        return;
    }
    SlowFile *slow = slowfile_new(directory, &why);
    if (!slow) {
        g_test_skip(why);
        rmdir(directory);
        return;
    }
    g_autofree char *drive = g_strdup_printf(
        "if=none,id=slow,file=%s,format=raw,cache=%s,aio=threads", slowfile_path(slow), row->cache);
    const char *args[] = {
        "-machine", "pc", "-drive", drive, "-device", "ide-hd,drive=slow,bus=ide.1,unit=1", NULL};
    start_both(&p, args);
    Qmp *s = vm_qmp(p.source), *d = vm_qmp(p.destination);
    uint8_t before[LENGTH], after[LENGTH];
    memset(before, 0x11, sizeof(before));
    qtest_write(vm_qtest(p.source), DATA, before, LENGTH);
    start_dma(vm_qtest(p.source));
    slowfile_wait_held(slow);

    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000, 'downtime-limit': 1}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", p.uri);
    qmp_expect_migration(s, "active");
    bool ok = tracked(&p);
    /* The second pass must not begin. (Without a drain it does so at once.) */
    bool waited = ok && !reach_pass(&p, 2, drains ? 2 : TEST_TIMEOUT);
    slowfile_release(slow);
    g_assert_true(!ok || reach_pass(&p, 3, TEST_TIMEOUT));
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    move_wait_completed(p.source, p.destination);
    qtest_read(vm_qtest(p.destination), DATA, after, LENGTH);
    if (ok && !drains) {
        g_assert_true(vm_fault_happened(p.source, 0));
        g_assert_true(vm_fault_happened(p.source, 1));
        g_assert_false(waited);
        g_assert_cmpmem(after, LENGTH, before, LENGTH);
    } else {
        memset(before, SLOWFILE_BYTE, sizeof(before));
        if (memcmp(after, before, LENGTH))
            g_test_fail_printf("the destination lacks what was read from the disk (0x%02x...)",
                               after[0]);
        if (ok && !waited)
            g_test_fail_printf("a round ended while a disk was being read");
        check_memory(&p);
    }
    end_both(&p);
    slowfile_free(slow);
    rmdir(directory);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/precopy/plain", NULL, test_plain);
    g_test_add_data_func("/precopy/plain/huge", huge, test_plain);
    g_test_add_func("/precopy/auto", test_auto);
    g_test_add_data_func("/precopy/hybrid", NULL, test_hybrid);
    g_test_add_data_func("/precopy/hybrid/huge", huge, test_hybrid);
    g_test_add_data_func("/precopy/direct-io", &cache_none, test_direct_io);
    g_test_add_data_func("/precopy/direct-io/buffered", &cache_writeback, test_direct_io);
    g_test_add_data_func("/precopy/direct-io/no-drain", &no_drain, test_direct_io);
    return g_test_run();
}
