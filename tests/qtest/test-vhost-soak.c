/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest whose busy disk is a vhost-user-blk device goes from QEMU to QEMU again and again,
 * each time in another way; and one stays in precopy until its back-end has written to so many
 * pages, and then all of its memory is compared with what has arrived.
 *
 * FF_HOPS: number of hops, default 2. FF_SEED: what the ways are drawn from; it is printed.
 * FF_WRITES: pages that the back-end writes to in one precopy, default 20000.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/move.h"
#include "tests/lib/vhostworld.h"

#define PAGE 4096
#define READ_PAGES 16 /* of a read of the guest's (tests/guest/directio.h) */
/* Memory below and above what a PC has between 640 KiB and 1 MiB: display, firmware. */
#define HOLE_BEGIN (640u << 10)
#define HOLE_END (1u << 20)

/* ---- hops ------------------------------------------------------------------------------------ */

typedef enum { PRECOPY, AT_ONCE, HYBRID, WAYS } Way;

static const char *const ways[WAYS] = {"precopy", "postcopy at once", "hybrid"};

/* What is written all the time fits into the stop of a precopy, so that it ends, and by far not
 * into that of a hybrid one, so that it does not; what QEMU keeps to itself fits into each. */
#define HOT (G_GINT64_CONSTANT(72) << 20)
#define SHORT 40 /* ms */

static void prepare(VhostWorld *w, VhostWorld *old, Way way, int64_t bandwidth)
{
    for (unsigned i = 0; way != PRECOPY && i < 2; i++)
        qmp_ok(vm_qmp(i ? old->vm : w->vm), "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}]}");
    /* Behind the switch slow enough for the disk to wait as well. */
    qmp_ok(vm_qmp(old->vm), "migrate-set-parameters",
           "{'max-bandwidth': %" G_GINT64_FORMAT ", 'max-postcopy-bandwidth': %" G_GINT64_FORMAT
           ", 'downtime-limit': %" G_GINT64_FORMAT "}",
           bandwidth, bandwidth / 8, way == HYBRID ? SHORT : HOT * 1000 / bandwidth);
}

/* How long the guest waited for pages, and its disk (g_free). */
static char *waits_of(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    return g_strdup_printf(
        "waits: all %.0f us (p99 %.0f); the disk's %" G_GINT64_FORMAT
        ", mean %.0f us, worst %" G_GINT64_FORMAT " us",
        json_object_get_double_member(own, "latency-mean-us"),
        json_object_get_double_member(own, "latency-p99-us"),
        json_object_get_int_member_with_default(own, "device-waits", 0),
        json_object_get_double_member_with_default(own, "device-wait-mean-us", 0),
        json_object_get_int_member_with_default(own, "device-wait-max-us", 0));
}

static void hop(VhostWorld *w, uint32_t seed, bool can_wait)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    Way way = g_rand_int_range(rand, 0, WAYS);
    int64_t bandwidth = g_rand_int_range(rand, 50, way == HYBRID ? 150 : 400) * 1000000ll;
    int64_t after = g_rand_int_range(rand, 0, 150) * (1ll << 20);
    unsigned seen = 0;

    w->unable = !can_wait || g_rand_boolean(rand);
    VhostWorld old = vhost_world_next(w);
    prepare(w, &old, way, bandwidth);
    vhost_world_migrate(w, &old);
    while (way == HYBRID && move_ram_count(old.vm, "transferred") < after)
        seen++;
    if (way != PRECOPY)
        vhost_world_switch_over(w, &old);
    move_wait_completed(old.vm, w->vm);
    vhost_world_assert_carried(old.vm);
    vhost_world_assert_carried(w->vm);
    g_autofree char *when =
        g_strdup_printf("hop %u, seed %u, %s, a back-end that %s, %" G_GINT64_FORMAT
                        " MB/s, pass %" G_GINT64_FORMAT,
                        w->hops, seed, ways[way], w->unable ? "cannot wait" : "waits",
                        bandwidth / 1000000, move_ram_count(old.vm, "dirty-sync-count"));
    g_autofree char *waits = waits_of(w->vm);
    g_test_message("%s; %s (looked %u times)", when, waits, seen);
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, when);
    vm_wait_new_serial(w->vm, "FF direct reads=");
}

static void test_hops(void)
{
    const char *hops = g_getenv("FF_HOPS"), *given = g_getenv("FF_SEED"), *why = NULL;
    uint32_t seed = given ? strtoul(given, NULL, 0) : g_random_int();
    bool can_wait = storage_can_wait(&why);
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_BUSY_LOAD);

    if (!w)
        return;
    g_test_message("FF_SEED=%u%s%s", seed,
                   can_wait ? "" : "; no back-end waits: ", can_wait ? "" : why);
    vhost_world_boot(w);
    for (unsigned i = 1, n = hops ? atoi(hops) : 2; i <= n; i++)
        hop(w, seed + i, can_wait);
    vhost_world_end(w);
}

/* ---- writes ---------------------------------------------------------------------------------- */

/* The memory of VM, which stands, from FROM to END (g_bytes_unref). */
static GBytes *memory_of(Vm *vm, const char *folder, uint64_t from, uint64_t end)
{
    g_autofree char *path = g_build_filename(folder, "memory", NULL);
    g_autoptr(GError) error = NULL;

    qmp_ok(vm_qmp(vm), "pmemsave",
           "{'val': %" G_GUINT64_FORMAT ", 'size': %" G_GUINT64_FORMAT ", 'filename': '%s'}", from,
           end - from, path);
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, &error);
    g_assert_no_error(error);
    g_assert_cmpint(unlink(path), ==, 0);
    return g_mapped_file_get_bytes(file);
}

/* Pages that are not the same in both. */
static unsigned compare(Vm *a, Vm *b, const char *folder, uint64_t from, uint64_t end)
{
    g_autoptr(GBytes) x = memory_of(a, folder, from, end), y = memory_of(b, folder, from, end);
    const char *p = g_bytes_get_data(x, NULL), *q = g_bytes_get_data(y, NULL);
    unsigned differ = 0;

    g_assert_cmpuint(g_bytes_get_size(x), ==, end - from);
    g_assert_cmpuint(g_bytes_get_size(y), ==, end - from);
    for (uint64_t at = 0; at < end - from; at += PAGE) {
        if (memcmp(p + at, q + at, PAGE)) {
            g_test_message("page 0x%" G_GINT64_MODIFIER "x differs", (from + at) / PAGE);
            differ++;
        }
    }
    return differ;
}

/* Nobody has written past the log: what has arrived is what is here, when the guest stands. */
static void test_writes(void)
{
    const char *given = g_getenv("FF_WRITES");
    guint64 writes = given ? g_ascii_strtoull(given, NULL, 0) : 20000;
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_BUSY_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    VhostWorld old = vhost_world_next(w);
    uint64_t ram = (uint64_t)w->guest.ram_kib << 10;

    prepare(w, &old, PRECOPY, 100000000);
    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'downtime-limit': %d}", SHORT);
    guint64 first = vhost_world_reads(old.vm), reads = 0;
    vhost_world_migrate(w, &old);
    while (reads * READ_PAGES < writes)
        reads = vhost_world_reads(old.vm) - first;
    qmp_ok(vm_qmp(old.vm), "stop", NULL);
    move_wait_completed(old.vm, w->vm);
    vhost_world_assert_carried(old.vm);
    g_test_message("%" G_GUINT64_FORMAT " pages written by the back-end, in %" G_GINT64_FORMAT
                   " passes",
                   reads * READ_PAGES, move_ram_count(old.vm, "dirty-sync-count"));
    g_assert_cmpuint(compare(old.vm, w->vm, w->folder, 0, HOLE_BEGIN), ==, 0);
    g_assert_cmpuint(compare(old.vm, w->vm, w->folder, HOLE_END, ram), ==, 0);
    vhost_world_leave(&old);
    qmp_ok(vm_qmp(w->vm), "cont", NULL);
    linux_guest_assert_intact(w->vm, "moved");
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost-soak/hops", test_hops);
    g_test_add_func("/vhost-soak/writes", test_writes);
    return g_test_run();
}
