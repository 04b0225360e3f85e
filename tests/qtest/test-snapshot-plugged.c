/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live snapshots of a Linux guest with a virtio-mem device. While its memory is written, the guest
 * gives memory back that it had at the instant (what its driver unplugs, QEMU discards), gets it
 * again, and writes to it. The file has what was there at the instant: a guest that is restored
 * from it has the memory plugged that it had, and finds in it what it expects.
 */
#include <string.h>
#include <unistd.h>

#include "tests/lib/hook.h"
#include "tests/lib/linuxguest.h"

#define MIB ((uint64_t)1 << 20)
#define RAM 128  /* MiB; as all of them */
#define PLUG 256 /* of the device */
#define LESS 128 /* plugged after some of it was taken away and given again */
#define EXTRA 96 /* more than the guest has free without the device */

static const LinuxGuest guest = {
    .ram_kib = RAM * 1024,
    .n_cpus = 2,
    .load = "ff.report=200 ff.mib=32 ff.write=60 ff.extra=" G_STRINGIFY(
        EXTRA) " swiotlb=noforce memhp_default_state=online_movable",
    .plug_mib = PLUG};

/* ---- the device ------------------------------------------------------------------------------ */

static uint64_t plugged(Vm *vm)
{
    g_autoptr(JsonObject) answer =
        qmp_call(vm_qmp(vm), "qom-get", "{'path': 'vm0', 'property': 'size'}");

    return (uint64_t)json_object_get_int_member(answer, "return");
}

/* The guest plugs, or unplugs, until it has BYTES. */
static void request(Vm *vm, uint64_t bytes)
{
    qmp_ok(vm_qmp(vm), "qom-set",
           "{'path': 'vm0', 'property': 'requested-size', 'value': %" G_GUINT64_FORMAT "}", bytes);
    while (plugged(vm) != bytes) {
        qmp_expect(vm_qmp(vm), "MEMORY_DEVICE_SIZE_CHANGE"); /* once a second at most */
    }
}

/* The guest tells its device first what is plugged, and can use that a moment later: it is asked
 * until then. A guest that never can is ended by the test's limit of time. */
static void expect_extra(Vm *vm, const char *what)
{
    for (bool taken = !strcmp(what, "taken");;) {
        vm_type_serial(vm, "m");
        g_autofree char *line = vm_serial_line(vm, "FF extra ");

        if (strstr(line, what)) {
            return;
        }
        if (!taken || !strstr(line, "refused")) {
            test_fail("the guest says '%s', and not '%s'", line, what);
        }
    }
}

/* ---- one snapshot ---------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool stream; /* restored by QEMU itself; else by farfault */
    bool newer;  /* QEMU 10, else the installed one */
} Row;

static const Row rows[] = {
    {"mapped", false, false},
    {"stream", true, false},
    {"10/mapped", false, true},
    {"10/stream", true, true},
};

/* It has EXTRA MiB more than it had room for, in the device's memory. */
#define LATE ",x-early-migration=off"

static Vm *start(const char *qemu)
{
    LinuxGuest saved = guest;

    saved.qemu = qemu;
    saved.plug_more = qemu ? LATE : NULL;
    Vm *vm = linux_guest_start(&saved, "saved", VM_RUN, NULL);

    vm_wait_serial(vm, "FF ready");
    qmp_set_capability(vm_qmp(vm), "events", true);
    expect_extra(vm, "refused"); /* and its driver is there */
    request(vm, PLUG * MIB);
    expect_extra(vm, "taken");
    return vm;
}

static void take(const Row *row, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    int more = hook_ram(vm, "more");
    uint64_t before = hook_allocated(more);

    g_assert_cmpuint(before, >, EXTRA / 2 * MIB);
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 1048576}");
    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'format': '%s'}", path,
           row->stream ? "stream" : "mapped-ram");
    qmp_expect(q, "RESUME");
    expect_extra(vm, "given back");
    request(vm, 0);
    g_assert_cmpuint(hook_allocated(more), >=, before); /* nothing was discarded */
    request(vm, LESS * MIB);
    expect_extra(vm, "taken"); /* other content, in the same place */
    linux_guest_assert_intact(vm, "while it is written");
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(q, "completed");
    linux_guest_assert_intact(vm, "saved");
    /* What was unplugged meanwhile is discarded when it is unplugged once more. */
    uint64_t left = hook_allocated(more);
    expect_extra(vm, "given back");
    request(vm, PLUG * MIB);
    request(vm, 0);
    g_test_message("the device's memory had %" G_GUINT64_FORMAT " MiB, then %" G_GUINT64_FORMAT
                   " MiB, and has %" G_GUINT64_FORMAT,
                   before / MIB, left / MIB, hook_allocated(more) / MIB);
    g_assert_cmpuint(hook_allocated(more), ==, 0);
    close(more);
}

static Vm *restore(const Row *row, const char *qemu, const char *path)
{
    LinuxGuest restored = guest;

    restored.qemu = qemu;
    restored.plug_more = qemu ? LATE : NULL;
    Vm *vm = linux_guest_start(&restored, "restored", row->stream ? VM_PLAIN : VM_RUN, "defer");

    qmp_set_capability(vm_qmp(vm), "events", true);
    if (row->stream) {
        qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': 'exec:cat %s'}", path);
    } else {
        qmp_ok(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", path);
    }
    qmp_expect_migration(vm_qmp(vm), "completed");
    return vm;
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    Vm *saved = start(qemu);
    g_autofree char *path = vm_path(saved, "file");

    take(row, saved, path);
    Vm *restored = restore(row, qemu, path);
    g_assert_cmpuint(plugged(restored), ==, PLUG * MIB);
    linux_guest_assert_intact(restored, "restored");
    expect_extra(restored, "given back"); /* what it had at the instant */
    request(restored, 0);
    request(restored, PLUG * MIB);
    expect_extra(restored, "taken");
    linux_guest_finish(restored);
    linux_guest_finish(saved);
}

/* The device says what is plugged before the memory comes: how long that is nobody says. */
static void test_early(void)
{
    g_autofree char *qemu = vm_newer_qemu();
    const char *why;

    if (!qemu) {
        return;
    }
    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    LinuxGuest early = guest;
    early.qemu = qemu;
    Vm *vm = linux_guest_start(&early, "saved", VM_RUN, NULL);
    g_autofree char *path = vm_path(vm, "file");

    vm_wait_serial(vm, "FF ready");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(vm), "failed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    g_assert_nonnull(
        strstr(json_object_get_string_member(info, "error-desc"), "x-early-migration=off"));
    g_assert_false(qmp_has_event(vm_qmp(vm), "STOP"));
    linux_guest_finish(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* those with QEMU 10 alone, and the others without -m slow */

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/plugged/", rows[i].name, NULL);

        if (rows[i].newer == rest)
            g_test_add_data_func(path, &rows[i], test_row);
    }
    if (rest)
        g_test_add_func("/snapshot/plugged/10/early", test_early);
    return g_test_run();
}
