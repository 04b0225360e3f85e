/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is not the engine's: a display's and flash travel with the device state, and must
 * arrive as they were, over a destination whose own are different. One thread.
 */
#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)
/* Where SeaBIOS puts the display's memory of 16 MiB, and how much of it is compared. */
#define VRAM 0xfd000000ull
#define VRAM_BYTES (2ull << 20)
#define OVMF_CODE "/usr/share/OVMF/OVMF_CODE_4M.fd"
#define OVMF_VARS "/usr/share/OVMF/OVMF_VARS_4M.fd"

static bool skipped(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return true;
    }
    return false;
}

static void move(Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source);

    move_prepare(source, destination);
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(destination), "RESUME");
    move_wait_completed(source, destination);
}

static void test_display(void)
{
    static const char *const args[] = {"-machine", "pc", "-vga", "std", NULL};
    BootsectConfig boot = bootsect_config(RAM_BYTES, 0, 1);
    VmConfig config = {
        .name = "source", .launcher = VM_RUN, .memory = RAM, .args = args, .boot = &boot};

    if (skipped()) {
        return;
    }
    g_autoptr(Vm) source = vm_start(&config);
    config.name = "destination";
    config.incoming = "defer";
    g_autoptr(Vm) destination = vm_start(&config);
    Qtest *t = vm_qtest(source);

    vm_wait_serial(source, "AB");
    for (uint64_t at = 0; at < VRAM_BYTES; at += 12288 - 8) {
        qtest_writeq(t, VRAM + at, ~at);
        g_assert_cmphex(qtest_readq(t, VRAM + at), ==, ~at);
    }
    move(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(vm_qmp(destination), "stop", NULL);
    check_right(check_equal(source, destination, VRAM, VRAM + VRAM_BYTES));
    check_right(check_counters(destination, &boot));
    check_right(check_moved(source, destination, &boot, RAM_BYTES));
}

/* A copy of PATH in VM's place (g_free), changed in every byte if CHANGE. */
static char *copy(const char *path, const char *to, bool change, gsize *size)
{
    g_autofree char *data = NULL;
    g_autoptr(GError) error = NULL;

    g_file_get_contents(path, &data, size, &error);
    g_assert_no_error(error);
    for (gsize i = 0; change && i < *size; i++) {
        data[i] ^= 0x5a;
    }
    g_file_set_contents(to, data, *size, &error);
    g_assert_no_error(error);
    return g_strdup(to);
}

static Vm *start_ovmf(const char *dir, const char *name, bool incoming, gsize *code_size)
{
    g_autofree char *code_path = g_strdup_printf("%s/%s-code", dir, name);
    g_autofree char *vars_path = g_strdup_printf("%s/%s-vars", dir, name);
    g_autofree char *code_file = copy(OVMF_CODE, code_path, incoming, code_size);
    gsize size;
    g_autofree char *vars_file = copy(OVMF_VARS, vars_path, incoming, &size);
    g_autofree char *code = g_strdup_printf("if=pflash,format=raw,readonly=on,file=%s", code_file);
    g_autofree char *vars = g_strdup_printf("if=pflash,format=raw,file=%s", vars_file);
    const char *args[] = {"-machine", "pc", "-vga", "std", "-drive", code, "-drive", vars, NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = RAM,
                                .args = args,
                                .incoming = incoming ? "defer" : NULL});
}

/* NAME of "x-farfault" in VM's query-migrate. */
static int64_t count(Vm *vm, const char *name)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    return json_object_get_int_member(json_object_get_object_member(info, "x-farfault"), name);
}

/* What was sent before the guest stopped was not sent again: all but a few pages of either. */
static void check_delta(Vm *source, Vm *destination, int64_t at_least)
{
    int64_t bytes = count(source, "device-bytes"), wire = count(source, "device-bytes-wire");

    g_test_message("device state: %" G_GINT64_FORMAT " bytes, %" G_GINT64_FORMAT " on the wire",
                   bytes, wire);
    g_assert_cmpint(bytes, >=, at_least);
    g_assert_cmpint(wire, <, bytes - at_least * 3 / 4);
    g_assert_cmpint(count(destination, "device-bytes"), ==, bytes);
    g_assert_cmpint(count(destination, "device-bytes-wire"), ==, wire);
}

/* The firmware itself moves, at its work. */
static void test_firmware(void)
{
    gsize size;

    if (access(OVMF_CODE, R_OK) || access(OVMF_VARS, R_OK)) {
        g_test_skip("no OVMF on this machine: install the package ovmf");
        return;
    }
    if (skipped()) {
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("ff-devices-XXXXXX", NULL);
    {
        g_autoptr(Vm) source = start_ovmf(dir, "source", false, &size);
        g_autoptr(Vm) destination = start_ovmf(dir, "destination", true, &size);

        vm_wait_serial(source, "\x1b[2J"); /* it clears the screen: it is at work */
        move(source, destination);
        qmp_ok(vm_qmp(destination), "stop", NULL);
        check_right(check_equal(source, destination, (4ull << 30) - size, 4ull << 30));
        check_delta(source, destination, (int64_t)size);
    }
    static const char *const files[] = {"source-code", "source-vars", "destination-code",
                                        "destination-vars"};
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(dir, files[i], NULL);
        unlink(path);
    }
    rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/devices/display", test_display);
    g_test_add_func("/devices/firmware", test_firmware);
    return g_test_run();
}
