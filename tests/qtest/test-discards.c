/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What real QEMUs (the installed one and QEMU 10) do when their discards of guest memory are
 * dropped: a balloon, free page reporting and virtio-mem continue, the memory keeps its content,
 * the guest is right; disarmed, they discard. And who disarms when those that armed it are dead.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/hook.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"

#define MIB ((uint64_t)1 << 20)
/* MiB. What the balloon takes is more than what was never touched. */
#define RAM 256
#define BUSY 48
#define EXTRA 128
#define INFLATED 160

typedef struct {
    bool newer; /* QEMU 10 */
    bool reporting;
} Case;

static bool available(const Case *c, char **qemu)
{
    const char *why = NULL;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    *qemu = c->newer ? vm_newer_qemu() : NULL;
    return *qemu || !c->newer;
}

/* ---- a Linux guest --------------------------------------------------------------------------- */

static Vm *start(const Case *c, const char *qemu)
{
    const char *why;

    if (!linux_guest_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    LinuxGuest guest = {.ram_kib = RAM * 1024,
                        .n_cpus = 2,
                        .qemu = qemu,
                        .load = "ff.report=200 ff.mode=zipf ff.write=70 ff.mib=" G_STRINGIFY(
                            BUSY) " ff.extra=" G_STRINGIFY(EXTRA),
                        .balloon = true,
                        .reporting = c->reporting};
    Vm *vm = linux_guest_start(&guest, "guest", VM_RUN, NULL);

    vm_wait_serial(vm, "FF ready");
    return vm;
}

static int64_t wait_limit(void)
{
    return g_get_monotonic_time() + TEST_TIMEOUT * G_USEC_PER_SEC;
}

/* The guest program refuses to take what is not free, and pages that the guest's kernel is just
 * reporting are not: page_reporting_cycle() takes up to 64 MiB of them off the free list. */
static void take_or_give_back(Vm *vm, const char *expected)
{
    for (int64_t end = wait_limit();;) {
        vm_type_serial(vm, "m");
        g_autofree char *line = vm_serial_line(vm, "FF extra ");
        if (strstr(line, expected)) {
            return;
        }
        if (!strstr(line, "refused") || g_get_monotonic_time() > end) {
            g_error("the guest says '%s', and not '%s'", line, expected);
        }
    }
}

static bool is_actual(JsonObject *data, const void *opaque)
{
    return json_object_get_int_member(data, "actual") == *(const int64_t *)opaque;
}

static void set_balloon(Vm *vm, int64_t mib)
{
    int64_t bytes = mib << 20;

    qmp_ok(vm_qmp(vm), "balloon", "{'value': %" G_GINT64_FORMAT "}", bytes);
    json_object_unref(
        qmp_wait_event(vm_qmp(vm), "BALLOON_CHANGE", is_actual, &bytes, TEST_TIMEOUT));
}

static uint64_t dropped(FfDiscards *d)
{
    uint64_t bytes;

    ff_discards_dropped(d, &bytes);
    return bytes;
}

static void test_balloon(gconstpointer data)
{
    const Case *c = data;
    g_autofree char *qemu = NULL;
    g_autoptr(Vm) vm = available(c, &qemu) ? start(c, qemu) : NULL;

    if (!vm) {
        return;
    }
    FfDiscards *hook = hook_of(vm);
    int ram = hook_ram(vm, NULL);

    take_or_give_back(vm, "taken");
    take_or_give_back(vm, "given back");
    uint64_t before = hook_allocated(ram);
    hook_arm(vm, hook, ram);
    set_balloon(vm, INFLATED);
    uint64_t kept = dropped(hook);
    g_test_message("dropped %" G_GUINT64_FORMAT " MiB, the file had %" G_GUINT64_FORMAT
                   " MiB and has %" G_GUINT64_FORMAT,
                   kept / MIB, before / MIB, hook_allocated(ram) / MIB);
    g_assert_cmpuint(hook_allocated(ram), >=, before);
    g_assert_cmpuint(kept, >=, (RAM - INFLATED) * MIB);
    set_balloon(vm, RAM);
    take_or_give_back(vm, "taken");
    take_or_give_back(vm, "given back");
    linux_guest_assert_intact(vm, "armed");

    g_assert_true(ff_discards_disarm(hook));
    before = hook_allocated(ram);
    kept = dropped(hook);
    set_balloon(vm, INFLATED);
    g_assert_cmpuint(hook_allocated(ram), <, before - (RAM - INFLATED) / 2 * MIB);
    g_assert_cmpuint(dropped(hook), ==, kept);
    set_balloon(vm, RAM);
    take_or_give_back(vm, "taken");
    linux_guest_finish(g_steal_pointer(&vm));
    ff_discards_free(hook);
    close(ram);
}

/* Nobody tells when the guest reports what it has free: it reports a part each two seconds, of what
 * is free in 2 MiB at least. Until DEADLINE, us of the monotonic clock. */
static void wait_a_moment(int64_t deadline, FfDiscards *hook, int ram)
{
    if (g_get_monotonic_time() > deadline) {
        g_error("the guest reports no free pages: %" G_GUINT64_FORMAT
                " MiB were dropped so far, the file has %" G_GUINT64_FORMAT " MiB",
                dropped(hook) / MIB, hook_allocated(ram) / MIB);
    }
    g_usleep(20000);
}

static void test_reporting(gconstpointer data)
{
    const Case *c = data;
    g_autofree char *qemu = NULL;
    g_autoptr(Vm) vm = available(c, &qemu) ? start(c, qemu) : NULL;

    if (!vm) {
        return;
    }
    FfDiscards *hook = hook_of(vm);
    int ram = hook_ram(vm, NULL);

    take_or_give_back(vm, "taken");
    uint64_t before = hook_allocated(ram);
    hook_arm(vm, hook, ram);
    take_or_give_back(vm, "given back");
    for (int64_t end = wait_limit(); dropped(hook) < EXTRA / 2 * MIB;) {
        wait_a_moment(end, hook, ram);
    }
    g_assert_cmpuint(hook_allocated(ram), >=, before);
    take_or_give_back(vm, "taken"); /* what was reported */
    linux_guest_assert_intact(vm, "armed");

    g_assert_true(ff_discards_disarm(hook));
    before = hook_allocated(ram);
    take_or_give_back(vm, "given back");
    for (int64_t end = wait_limit(); hook_allocated(ram) > before - EXTRA / 2 * MIB;) {
        wait_a_moment(end, hook, ram);
    }
    take_or_give_back(vm, "taken");
    linux_guest_finish(g_steal_pointer(&vm));
    ff_discards_free(hook);
    close(ram);
}

/* ---- virtio-mem ------------------------------------------------------------------------------ */

#define PLUGGED (64 * MIB)

static Vm *start_with_slots(const char *qemu)
{
    static const char *const args[] = {"-machine", "pc", NULL};

    return vm_start(&(VmConfig){.name = "guest",
                                .launcher = VM_RUN,
                                .qemu = qemu,
                                .memory = "24M,slots=1,maxmem=1G",
                                .args = args,
                                .listens = true,
                                .paused = true});
}

static int64_t plugged_size(Vm *vm)
{
    g_autoptr(JsonObject) answer =
        qmp_call(vm_qmp(vm), "qom-get", "{'path': 'vm0', 'property': 'size'}");

    return json_object_get_int_member(answer, "return");
}

/* Memory that is plugged while the guest runs, and a device that discards all of it when it is made
 * and (QEMU 7.2: always) when the guest is reset. */
static void test_virtio_mem(gconstpointer data)
{
    const Case *c = data;
    g_autofree char *qemu = NULL;

    if (!available(c, &qemu)) {
        return;
    }
    g_autoptr(Vm) vm = start_with_slots(qemu);
    Qmp *q = vm_qmp(vm);
    FfDiscards *hook = hook_of(vm);

    qmp_ok(q, "object-add",
           "{'qom-type': 'memory-backend-ram', 'id': 'late', 'size': %" G_GUINT64_FORMAT "}",
           (guint64)PLUGGED);
    int ram = hook_ram(vm, "farfault-late");
    char *map = mmap(NULL, PLUGGED, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
    g_assert_true(map != MAP_FAILED);
    memset(map, 0x5a, PLUGGED);
    hook_arm(vm, hook, ram);
    qmp_ok(q, "device_add", "{'driver': 'virtio-mem-pci', 'id': 'vm0', 'memdev': 'late'}");
    g_assert_cmpuint(dropped(hook), ==, PLUGGED);
    qmp_ok(q, "qom-set", "{'path': 'vm0', 'property': 'requested-size', 'value': 33554432}");
    qmp_ok(q, "system_reset", NULL);
    g_assert_cmpint(plugged_size(vm), ==, 0); /* after the reset */
    qmp_ok(q, "qom-set", "{'path': 'vm0', 'property': 'requested-size', 'value': 0}");
    g_assert_cmpuint(hook_allocated(ram), ==, PLUGGED);
    g_assert_cmpint(map[PLUGGED - 1], ==, 0x5a);

    g_assert_true(ff_discards_disarm(hook));
    if (!c->newer) {
        qmp_ok(q, "system_reset", NULL);
        g_assert_cmpint(plugged_size(vm), ==, 0);
        g_assert_cmpuint(hook_allocated(ram), ==, 0);
    }
    munmap(map, PLUGGED);
    close(ram);
    ff_discards_free(hook);
}

/* ---- who disarms ----------------------------------------------------------------------------- */

static void kill_engine(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    kill(vm_engine(vm), SIGKILL);
    vm_wait_stderr(vm, "QEMU discards guest memory again");
}

static void test_engine_dies(gconstpointer data)
{
    const Case *c = data;
    g_autofree char *qemu = NULL;

    if (!available(c, &qemu)) {
        return;
    }
    g_autoptr(Vm) vm = start_with_slots(qemu);
    FfDiscards *hook = hook_of(vm);
    int ram = hook_ram(vm, NULL);

    hook_arm(vm, hook, ram);
    kill_engine(vm);
    g_assert_false(ff_discards_is_armed(hook));
    close(ram);
    ff_discards_free(hook);
}

/* The relay has died, too: nobody is left who could disarm, until there is a new one. */
static void test_relay_dies(gconstpointer data)
{
    const Case *c = data;
    g_autofree char *qemu = NULL;

    if (!available(c, &qemu)) {
        return;
    }
    g_autoptr(Vm) vm = start_with_slots(qemu);
    FfDiscards *hook = hook_of(vm);
    int ram = hook_ram(vm, NULL);

    hook_arm(vm, hook, ram);
    attach_kill_relay(vm, false);
    g_assert_true(ff_discards_is_armed(hook));
    attach_vm(vm, NULL);
    g_assert_false(ff_discards_is_armed(hook));
    hook_arm(vm, hook, ram);
    attach_kill_relay(vm, false);
    attach_vm(vm, NULL);
    g_assert_false(ff_discards_is_armed(hook)); /* the second one has it, too */
    close(ram);
    ff_discards_free(hook);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        GTestDataFunc func;
        bool reporting;
    } tests[] = {
        {"balloon", test_balloon, false},       {"reporting", test_reporting, true},
        {"virtio-mem", test_virtio_mem, false}, {"engine-dies", test_engine_dies, false},
        {"relay-dies", test_relay_dies, false},
    };
    static Case cases[G_N_ELEMENTS(tests)][2];

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        for (unsigned newer = 0; newer < 2; newer++) {
            g_autofree char *path =
                g_strdup_printf("/discards/%s/%s", tests[i].name, newer ? "10" : "installed");

            cases[i][newer] = (Case){.newer = newer, .reporting = tests[i].reporting};
            g_test_add_data_func(path, &cases[i][newer], tests[i].func);
        }
    }
    return g_test_run();
}
