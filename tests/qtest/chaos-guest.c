/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See chaos-guest.h. One thread.
 */
#include "tests/qtest/chaos-guest.h"

#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/storage.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

/* VM_RUN of SIDE, what else is in CONFIG. MORE: of its machine; can be "". */
static Vm *start_side(const ChaosSide *side, VmConfig config, const char *more,
                      const char *const *args)
{
    g_autofree char *machine = g_strconcat(side->qemu ? "pc-i440fx-7.2" : "pc", more, NULL);
    g_autoptr(GPtrArray) all = g_ptr_array_new();

    g_ptr_array_add(all, (gpointer) "-machine");
    g_ptr_array_add(all, machine);
    for (unsigned i = 0; args && args[i]; i++) {
        g_ptr_array_add(all, (gpointer)args[i]);
    }
    g_ptr_array_add(all, NULL);
    config.name = side->name;
    config.launcher = VM_RUN;
    config.qemu = (char *)side->qemu;
    config.incoming = side->incoming;
    config.faults = side->faults;
    config.args = (const char *const *)all->pdata;
    return vm_start(&config);
}

/* ---- the boot sector: counters in each page -------------------------------------------------- */

static BootsectConfig boot_config(void)
{
    return bootsect_config(RAM_BYTES, 32 << 20, 1);
}

static Vm *boot_start(const ChaosSide *side)
{
    BootsectConfig boot = boot_config();

    return start_side(side, (VmConfig){.memory = RAM, .boot = &boot}, "", NULL);
}

#define HUGE "memory-backend-memfd,id=ram0,size=" RAM ",hugetlb=on,hugetlbsize=2M"
#define IN_HUGE ",memory-backend=ram0"

static const char *const huge[] = {"-object", HUGE, NULL};

static Vm *huge_start(const ChaosSide *side)
{
    BootsectConfig boot = boot_config();

    return start_side(side, (VmConfig){.memory = "size=" RAM, .boot = &boot}, IN_HUGE, huge);
}

static Vm *unreserved_start(const ChaosSide *side)
{
    static const char *const args[] = {"-object", HUGE ",reserve=off", NULL};
    BootsectConfig boot = boot_config();

    return start_side(side, (VmConfig){.memory = "size=" RAM, .boot = &boot}, IN_HUGE, args);
}

static void boot_wait(Vm *vm)
{
    vm_wait_serial(vm, "B");
}

static void boot_check(Vm *vm)
{
    BootsectConfig boot = boot_config();

    vm_wait_new_serial(vm, "B");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    g_autofree char *wrong = check_counters(vm, &boot);
    if (wrong) {
        g_error("%s", wrong);
    }
}

/* ---- the ring-3 guest, by KVM ---------------------------------------------------------------- */

static const Ring3 ring3 = {.accel = RING3_KVM, .busy_mib = 24, .n_cpus = 2};

/* Each page is written about once a second: what precopy has lost is not written again at once. */
static const Ring3 rare = {.accel = RING3_KVM, .busy_mib = 24, .n_cpus = 2, .pauses = 1000};

static Vm *kvm_start(const ChaosSide *side)
{
    return start_side(side, (VmConfig){.memory = RAM, .ring3 = &ring3}, "", NULL);
}

static Vm *kvm_rare_start(const ChaosSide *side)
{
    return start_side(side, (VmConfig){.memory = RAM, .ring3 = &rare}, "", NULL);
}

static Vm *kvm_huge_start(const ChaosSide *side)
{
    return start_side(side, (VmConfig){.memory = "size=" RAM, .ring3 = &ring3}, IN_HUGE, huge);
}

static void kvm_check(Vm *vm)
{
    vm_wait_works(vm);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    g_autofree char *wrong = check_counters(vm, NULL);
    if (wrong) {
        g_error("%s", wrong);
    }
}

/* ---- Linux: two processors that write at random, each page checked by the guest -------------- */

static char *guest_file(const char *name)
{
    return g_build_filename(g_getenv("FF_SOURCE"), ".cache", "guest", name, NULL);
}

static Vm *linux_start(const ChaosSide *side)
{
    g_autofree char *kernel = guest_file("vmlinuz"), *initrd = guest_file("initrd.img");
    const char *args[] = {
        "-smp",
        "2",
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        "console=ttyS0 quiet panic=-1 pti=on no_timer_check ff.mib=96 ff.mode=random ff.write=60",
        "-no-reboot",
        NULL};

    /* No multiple of 256 KiB, as in test-linux.c. */
    return start_side(side, (VmConfig){.memory = "196616K"}, "", args);
}

static void linux_wait(Vm *vm)
{
    vm_wait_serial(vm, "FF ready");
}

static void linux_check(Vm *vm)
{
    vm_type_serial(vm, "v");
    g_autofree char *line = vm_serial_line(vm, "FF verdict ");
    if (!strstr(line, "verdict ok ")) {
        g_error("the guest says: %s", line);
    }
}

/* ---- the same with a busy disk that is another process, one for each QEMU -------------------- */

#define VHOST_BYTES (32 << 20)

typedef struct {
    Storage *storage;
    char *socket;
} BackEnd;

static struct {
    char *folder, *image; /* NULL: there are none */
    GPtrArray *backends;  /* BackEnd * */
} disks;

static void backend_end(gpointer p)
{
    BackEnd *b = p;
    g_autofree char *pidfile = g_strconcat(b->socket, ".pid", NULL);

    storage_kill(b->storage);
    unlink(b->socket);
    unlink(pidfile);
    g_free(b->socket);
    g_free(b);
}

static void begin_disks(void)
{
    disks.folder = g_dir_make_tmp("ff-chaos-XXXXXX", NULL);
    disks.image = linux_guest_disk_new(VHOST_BYTES);
    disks.backends = g_ptr_array_new_with_free_func(backend_end);
    g_assert_nonnull(disks.image);
    g_setenv("FARFAULT_VHOST_USER", "migrate", TRUE);
}

static void vhost_end(void)
{
    g_ptr_array_unref(disks.backends);
    unlink(disks.image);
    rmdir(disks.folder);
    g_clear_pointer(&disks.image, g_free);
    g_clear_pointer(&disks.folder, g_free);
}

static Vm *vhost_start(const ChaosSide *side)
{
    LinuxGuest guest = {.ram_kib = 160 << 10,
                        .n_cpus = 2,
                        .load = "ff.mib=24 ff.mode=random ff.write=60 ff.disk=1 ff.direct=8",
                        .n_queues = 2,
                        .faults = side->faults};
    BackEnd *b = g_new0(BackEnd, 1);

    if (!disks.folder) {
        begin_disks();
    }
    b->socket = g_strdup_printf("%s/%u", disks.folder, disks.backends->len);
    b->storage = storage_start(
        &(StorageConfig){.image = disks.image, .socket = b->socket, .n_queues = guest.n_queues});
    g_ptr_array_add(disks.backends, b);
    guest.vhost = b->socket;
    return linux_guest_start(&guest, side->name, VM_RUN, side->incoming);
}

static void vhost_wait(Vm *vm)
{
    vm_wait_serial(vm, "FF direct reads=");
}

static void vhost_check(Vm *vm)
{
    vm_wait_new_serial(vm, "FF direct reads=");
    linux_check(vm);
}

static const ChaosGuest guests[] = {
    {"bootsect", 25.5, 0, boot_start, boot_wait, 0, boot_check},
    {"linux", 28.5, 200000000, linux_start, linux_wait, 0, linux_check},
    {"vhost", 27.5, 200000000, vhost_start, vhost_wait, 0, vhost_check, vhost_end},
    {"huge", 26.5, 0, huge_start, boot_wait, 2 * RAM_BYTES / HUGEPAGE, boot_check},
    {"huge-unreserved", 26.5, 0, unreserved_start, boot_wait, 2 * RAM_BYTES / HUGEPAGE, boot_check},
    {"kvm", 25.5, 0, kvm_start, vm_wait_ready, 0, kvm_check},
    {"kvm-rare", 25.5, 0, kvm_rare_start, vm_wait_ready, 0, kvm_check},
    {"kvm-huge", 26.5, 0, kvm_huge_start, vm_wait_ready, 2 * RAM_BYTES / HUGEPAGE, kvm_check},
};

const ChaosGuest *chaos_guest(const char *name)
{
    g_autofree char *initrd = guest_file("initrd.img");

    name = name ? name : "bootsect";
    bool linux_too = !strcmp(name, "linux") || !strcmp(name, "vhost");
    const char *why;
    if (!strcmp(name, "vhost") && !storage_available(&why)) {
        return NULL;
    }
    if (linux_too && !g_file_test(initrd, G_FILE_TEST_EXISTS)) {
        return NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(guests); i++) {
        if (!strcmp(name, guests[i].name)) {
            return &guests[i];
        }
    }
    return NULL;
}
