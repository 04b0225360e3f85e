/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest that writes its memory all the time has a balloon. It is inflated before a
 * migration, while precopy continues, and at the destination while most of the memory is still at
 * the source; deflated there; and what it gave back is used and verified, as is all other memory.
 *
 * Before the balloon takes pages the guest has filled nearly all that is free and freed it again,
 * so that pages with something in them are dropped, of which the destination may have a copy.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"

/* MiB. What is taken after the migration fits only if the balloon has given back. */
#define RAM 256
#define BUSY 64
#define EXTRA 112
#define INFLATED 192
#define INFLATED_MORE 160
#define INFLATED_MOST 152

static Vm *start(const char *name, const char *incoming)
{
    LinuxGuest guest = {.ram_kib = RAM * 1024,
                        .n_cpus = 2,
                        .load = "ff.mode=zipf ff.write=70 ff.mib=" G_STRINGIFY(
                            BUSY) " ff.extra=" G_STRINGIFY(EXTRA),
                        .balloon = true};

    return linux_guest_start(&guest, name, VM_RUN, incoming);
}

static bool is_actual(JsonObject *data, const void *opaque)
{
    return json_object_get_int_member(data, "actual") == *(const int64_t *)opaque;
}

/* The guest has as much memory when this returns. */
static void set_balloon(Vm *vm, int64_t mib)
{
    int64_t bytes = mib << 20;

    qmp_ok(vm_qmp(vm), "balloon", "{'value': %" G_GINT64_FORMAT "}", bytes);
    json_object_unref(
        qmp_wait_event(vm_qmp(vm), "BALLOON_CHANGE", is_actual, &bytes, TEST_TIMEOUT));
}

static int64_t balloon(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-balloon", NULL);

    return json_object_get_int_member(info, "actual") >> 20;
}

static void take_or_give_back(Vm *vm, const char *expected)
{
    vm_type_serial(vm, "m");
    g_autofree char *line = vm_serial_line(vm, "FF extra ");

    g_assert_nonnull(strstr(line, expected));
}

/* MiB of guest RAM that QEMU has. */
static int64_t resident(Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)vm_pid(vm)), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = strstr(text, "RssShmem:");
    g_assert_nonnull(at);
    return atoll(at + strlen("RssShmem:")) >> 10;
}

static bool tracked(Vm *source)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);

    return !json_object_has_member(json_object_get_object_member(info, "x-farfault"), "no-precopy");
}

static void await_passes(Vm *source, int64_t more)
{
    int64_t until = move_ram_count(source, "dirty-sync-count") + more;

    while (move_ram_count(source, "dirty-sync-count") < until) {
    }
}

/* DATA: the switch comes after some passes of precopy, else at once. */
static void test_balloon(gconstpointer data)
{
    bool precopy = data;
    const char *why = NULL;

    if (linux_guest_available(&why))
        vm_farfault_available(&why);
    if (why) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start("source", NULL);
    vm_wait_serial(source, "FF ready");
    take_or_give_back(source, "taken");
    take_or_give_back(source, "given back");
    int64_t before = resident(source);
    set_balloon(source, INFLATED);
    g_assert_cmpint(resident(source), <, before - (RAM - INFLATED) / 2); /* it did drop pages */

    g_autoptr(Vm) destination = start("destination", "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': 300000000, 'downtime-limit': 1, 'max-postcopy-bandwidth': 4096}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    if (precopy && tracked(source)) {
        await_passes(source, 1);
        set_balloon(source, INFLATED_MORE);
        await_passes(source, 2);
    }
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    /* Bulk all but stands still from here on: pages come when they are touched. */
    g_assert_cmpint(balloon(destination), ==, balloon(source));
    set_balloon(destination, INFLATED_MOST);
    set_balloon(destination, RAM);
    take_or_give_back(destination, "taken");
    linux_guest_assert_intact(destination, "in postcopy");
    g_autofree char *status = qmp_migrate_status(s);
    /* Of what precopy left all may have been touched by now. */
    if (!precopy)
        g_assert_cmpstr(status, ==, "postcopy-active");
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(source, destination);
    g_autofree char *wrong = move_check_counts(source, (uint64_t)RAM << 20);
    if (wrong)
        g_test_fail_printf("%s", wrong);
    linux_guest_assert_intact(destination, "after the migration");
    take_or_give_back(destination, "given back");
    take_or_give_back(destination, "taken");
    linux_guest_finish(g_steal_pointer(&destination));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/balloon/precopy", "yes", test_balloon);
    g_test_add_data_func("/balloon/postcopy", NULL, test_balloon);
    return g_test_run();
}
