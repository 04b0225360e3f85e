/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hybrid migration of a busy Linux guest whose disk is read and written past the page cache all the
 * time, in the three ways in which QEMU does that. The switch comes at a random moment of precopy,
 * over one connection or four. After each hop the guest checks every page: of the memory that its
 * processors write, of the memory that only the disk writes to, and what it reads back from the
 * disk.
 *
 * FF_HOPS: number of hops of each guest, default 1. FF_SEED: what the moments are drawn from; it is
 * printed.
 */
#include <stdlib.h>
#include <unistd.h>

#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"

#define RAM_KIB (192 * 1024)
#define DISK_BYTES (32 << 20)
#define LOAD "ff.mib=48 ff.mode=zipf ff.write=70 ff.disk=1 ff.direct=32"
/* The switch comes before so much has been sent: several passes of what is busy. */
#define LATEST_MIB 500

static const char *const ways[] = {"threads", "native", "io_uring"};

/* Waits until the peer agreed; then why there is no precopy (g_free), NULL if there is. */
static char *no_precopy(Qmp *s)
{
    for (;;) {
        g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
        if (!json_object_has_member(info, "x-farfault"))
            continue;
        JsonObject *own = json_object_get_object_member(info, "x-farfault");
        return g_strdup(json_object_get_string_member_with_default(own, "no-precopy", NULL));
    }
}

static Vm *start(const LinuxGuest *guest, unsigned number, const char *incoming)
{
    g_autofree char *name = g_strdup_printf("vm%u", number);

    return linux_guest_start(guest, name, VM_RUN, incoming);
}

/* Moves the guest of SOURCE; returns the destination. SOURCE is ended. */
static Vm *hop(const LinuxGuest *guest, Vm *source, unsigned number, uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    int64_t after = g_rand_int_range(rand, 0, LATEST_MIB) * (1ll << 20);
    int64_t bandwidth = g_rand_int_range(rand, 50, 400) * 1000000ll;
    unsigned channels = g_rand_boolean(rand) ? 4 : 1;
    Vm *destination = start(guest, number, "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': %" G_GINT64_FORMAT
           ", 'downtime-limit': 0, 'x-farfault-channels': %u}",
           bandwidth, channels);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    g_autofree char *why = no_precopy(s);
    if (why)
        g_test_message("no precopy: %s", why);
    if (!why)
        move_await_count(source, "transferred", after);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    g_autofree char *when =
        g_strdup_printf("hop %u, seed %u, %u channels, %" G_GINT64_FORMAT
                        " MB/s, switched after %" G_GINT64_FORMAT " MiB in pass %" G_GINT64_FORMAT,
                        number, seed, channels, bandwidth / 1000000, after >> 20,
                        move_ram_count(source, "dirty-sync-count"));
    move_wait_completed(source, destination);
    g_autofree char *wrong = move_check_counts(source, (uint64_t)guest->ram_kib << 10);
    if (wrong)
        g_test_fail_printf("%s: %s", when, wrong);
    vm_end(source);
    linux_guest_assert_intact(destination, when);
    return destination;
}

static void move_around(const char *aio, const char *disk)
{
    LinuxGuest guest = {.ram_kib = RAM_KIB, .n_cpus = 2, .load = LOAD, .disk = disk, .aio = aio};
    const char *hops = g_getenv("FF_HOPS"), *given = g_getenv("FF_SEED");
    uint32_t seed = given ? strtoul(given, NULL, 0) : g_random_int();
    Vm *vm = start(&guest, 0, NULL);

    g_test_message("aio=%s, FF_SEED=%u", aio, seed);
    vm_wait_serial(vm, "FF ready");
    vm_wait_serial(vm, "FF direct reads=");
    for (unsigned i = 1, n = hops ? atoi(hops) : 1; i <= n; i++)
        vm = hop(&guest, vm, i, seed + i);
    linux_guest_finish(vm);
}

static void test_way(gconstpointer aio)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *disk = linux_guest_disk_new(DISK_BYTES);
    if (!disk) {
        g_test_skip("no file here can be read past the page cache");
        return;
    }
    move_around(aio, disk);
    unlink(disk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *path = g_strconcat("/hybrid/", ways[i], NULL);
        g_test_add_data_func(path, ways[i], test_way);
    }
    return g_test_run();
}
