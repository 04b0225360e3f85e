/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest with 2 vCPUs that writes its memory all the time moves again and again, each time
 * to a new QEMU. After each hop the guest itself checks every page of its memory.
 *
 * FF_HOPS: number of hops, default 3. FF_TEST_STOCK=1: with QEMU's own postcopy.
 */
#include <stdlib.h>

#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"

/* No multiple of 256 KiB, so that QEMU 7.2's own dirty tracking does not fail (FF_TEST_STOCK). */
#define RAM_KIB (256 * 1024 + 8)
#define BUSY_MIB 160

typedef struct {
    const char *name;
    const char *load; /* parameters of the guest's init */
    unsigned n_cpus;
} Row;

static const Row rows[] = {
    {"random", "ff.mode=random ff.write=80", 2},
    {"zipf", "ff.mode=zipf ff.write=50", 2},
    {"seq", "ff.mode=seq ff.write=100 ff.hot=32", 1},
};

static Vm *start(const Row *row, unsigned number, const char *incoming)
{
    g_autofree char *name = g_strdup_printf("vm%u", number);
    g_autofree char *load = g_strdup_printf("ff.mib=%d %s", BUSY_MIB, row->load);
    LinuxGuest guest = {.ram_kib = RAM_KIB, .n_cpus = row->n_cpus, .load = load};

    return linux_guest_start(&guest, name, move_stock() ? VM_PLAIN : VM_RUN, incoming);
}

/* FALSE where farfault says that there is no precopy. */
static bool can_track(Qmp *s)
{
    g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
    return !json_object_has_member(info, "x-farfault") ||
           !json_object_has_member(json_object_get_object_member(info, "x-farfault"), "no-precopy");
}

/* Moves the guest of SOURCE; returns the destination. SOURCE is ended. */
static Vm *hop(const Row *row, Vm *source, unsigned number)
{
    Vm *destination = start(row, number, "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    if (number % 2 == 0)
        qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 300000000, 'downtime-limit': %u}",
               test_slower() > 1 ? 100 : 1);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    /* Each second time what the guest wrote in a whole pass of precopy is stale. */
    if (number % 2 || !can_track(s) || move_await_count(source, "dirty-sync-count", 3))
        qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    move_wait_completed(source, destination);
    g_autofree char *wrong = move_check_counts(source, move_stock() ? 0 : (uint64_t)RAM_KIB << 10);
    if (wrong)
        g_test_fail_printf("hop %u: %s", number, wrong);
    vm_end(source);
    g_autofree char *when = g_strdup_printf("after hop %u", number);
    linux_guest_assert_intact(destination, when);
    return destination;
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *why = NULL;
    if (linux_guest_available(&why) && !move_stock())
        vm_farfault_available(&why);
    if (why) {
        g_test_skip(why);
        return;
    }
    const char *hops = g_getenv("FF_HOPS");
    unsigned n = hops ? atoi(hops) : 3;
    Vm *vm = start(row, 0, NULL);
    vm_wait_serial(vm, "FF ready");
    for (unsigned i = 1; i <= n; i++)
        vm = hop(row, vm, i);
    linux_guest_finish(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/linux/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
