/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command line and console of the Linux guest. One thread.
 */
#include "tests/lib/linuxguest.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Where they are, be they plugged or on the command line. */
#define DISK_ADDR "0x10"
#define NET_ADDR "0x11"
#define NET_DEVICE "virtio-net-pci,netdev=net0,romfile=,vectors=0,addr=" NET_ADDR

static char *guest_file(const char *name)
{
    return g_build_filename(g_getenv("FF_SOURCE"), ".cache", "guest", name, NULL);
}

bool linux_guest_available(const char **why)
{
    g_autofree char *initrd = guest_file("initrd.img");

    if (g_file_test(initrd, G_FILE_TEST_EXISTS))
        return true;
    *why = "the guest is not built: run scripts/build-guest";
    return false;
}

char *linux_guest_disk_new(uint64_t bytes)
{
    const char *const places[] = {g_get_tmp_dir(), g_getenv("FF_BUILD")};

    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        char *path = g_strdup_printf("%s/ff-disk-XXXXXX", places[i]);
        int fd = g_mkstemp_full(path, O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
        bool ok = fd >= 0 && ftruncate(fd, (off_t)bytes) == 0;

        if (fd >= 0)
            close(fd);
        if (ok)
            return path;
        unlink(path);
        g_free(path);
    }
    return NULL;
}

Vm *linux_guest_start(const LinuxGuest *guest, const char *name, VmLauncher launcher,
                      const char *incoming)
{
    g_autofree char *memory =
        g_strdup_printf("%uK%s", guest->ram_kib, guest->plug_mib ? ",slots=1,maxmem=2G" : "");
    g_autofree char *more = g_strdup_printf("memory-backend-ram,id=more,size=%uM", guest->plug_mib);
    /* "Inaccessible" is the default for shared memory, which farfault's is, and not for QEMU's. */
    g_autofree char *device =
        g_strconcat("virtio-mem-pci,id=vm0,memdev=more,requested-size=0,unplugged-inaccessible=on",
                    guest->plug_more, NULL);
    g_autofree char *smp = g_strdup_printf("%u", guest->n_cpus);
    g_autofree char *kernel = guest_file("vmlinuz"), *initrd = guest_file("initrd.img");
    /* no_timer_check: a vCPU that gets no processor for long fails that check, and panics. */
    g_autofree char *append = g_strdup_printf("console=ttyS0 quiet panic=-1 pti=on no_timer_check "
                                              "cryptomgr.notests %s",
                                              guest->load);
    g_autofree char *drive =
        g_strdup_printf("if=virtio,format=raw,cache=none,aio=%s,file=%s",
                        guest->aio ? guest->aio : "threads", guest->disk ? guest->disk : "");
    g_autofree char *chardev =
        g_strdup_printf("socket,id=vhost,path=%s,reconnect=1", guest->vhost ? guest->vhost : "");
    g_autofree char *vhost_device = g_strdup_printf(
        "vhost-user-blk-pci,chardev=vhost,addr=" DISK_ADDR ",num-queues=%u,queue-size=%u",
        MAX(guest->n_queues, 1), guest->n_entries ? guest->n_entries : 128);
    g_autofree char *net_chardev =
        g_strdup_printf("socket,id=network,path=%s,%s", guest->network ? guest->network : "",
                        guest->network_server ? "server=on" : "reconnect=1");
    g_autofree char *netdev =
        g_strdup_printf("vhost-user,id=net0,chardev=network,queues=%u", MAX(guest->n_queues, 1));
    g_autofree char *machine = g_strconcat(guest->machine ? guest->machine : "pc",
                                           guest->huge ? ",memory-backend=ram0" : NULL, NULL);
    g_autofree char *huge = g_strdup_printf(
        "memory-backend-memfd,id=ram0,size=%uK,hugetlb=on,hugetlbsize=2M", guest->ram_kib);
    const char *args[32] = {"-machine", machine, "-smp",    smp,    "-kernel",   kernel,
                            "-initrd",  initrd,  "-append", append, "-no-reboot"};
    unsigned n = 11;

    const char *cpu = guest->cpu ? guest->cpu : g_getenv("FF_TEST_CPU");
    if (cpu) {
        args[n++] = "-cpu";
        args[n++] = cpu;
    }
    if (guest->disk) {
        args[n++] = "-drive";
        args[n++] = drive;
    }
    if (guest->plugged && !incoming)
        args[n++] = "-S";
    if (guest->vhost && !guest->plugged) {
        args[n++] = "-chardev";
        args[n++] = chardev;
        args[n++] = "-device";
        args[n++] = vhost_device;
    }
    if (guest->network && !guest->plugged) {
        args[n++] = "-chardev";
        args[n++] = net_chardev;
        args[n++] = "-netdev";
        args[n++] = netdev;
        args[n++] = "-device";
        /* Of vhost-user and MSI-X, without KVM, QEMU 7.2 dies (virtio_pci_vector_unmask()). */
        args[n++] = guest->n_queues > 1 ? NET_DEVICE ",mq=on" : NET_DEVICE;
    }
    if (guest->huge) {
        args[n++] = "-object";
        args[n++] = huge;
    }
    if (guest->balloon) {
        args[n++] = "-device";
        args[n++] =
            guest->reporting ? "virtio-balloon-pci,free-page-reporting=on" : "virtio-balloon-pci";
    }
    if (guest->plug_mib) {
        args[n++] = "-object";
        args[n++] = more;
        args[n++] = "-device";
        args[n++] = device;
    }
    return vm_start(&(VmConfig){.name = name,
                                .launcher = launcher,
                                .qemu = guest->qemu,
                                .faults = guest->faults,
                                .listens = guest->listens,
                                .memory = memory,
                                .args = args,
                                .incoming = incoming});
}

void linux_guest_add_chardev(Vm *vm, const char *id, const char *path)
{
    qmp_ok(vm_qmp(vm), "chardev-add",
           "{'id': '%s', 'backend': {'type': 'socket', 'data': {'server': false, 'reconnect': 1,"
           " 'addr': {'type': 'unix', 'data': {'path': '%s'}}}}}",
           id, path);
}

void linux_guest_plug(const LinuxGuest *guest, Vm *vm)
{
    Qmp *q = vm_qmp(vm);

    if (guest->vhost) {
        linux_guest_add_chardev(vm, "vhost", guest->vhost);
        qmp_ok(q, "device_add",
               "{'driver': 'vhost-user-blk-pci', 'id': 'disk0', 'chardev': 'vhost',"
               " 'addr': '" DISK_ADDR "', 'num-queues': %u}",
               MAX(guest->n_queues, 1));
    }
    if (guest->network) {
        linux_guest_add_chardev(vm, "network", guest->network);
        qmp_ok(q, "netdev_add",
               "{'type': 'vhost-user', 'id': 'net0', 'chardev': 'network', 'queues': %u}",
               MAX(guest->n_queues, 1));
        qmp_ok(q, "device_add",
               "{'driver': 'virtio-net-pci', 'netdev': 'net0', 'romfile': '', 'vectors': 0,"
               " 'addr': '" NET_ADDR "'}");
    }
}

void linux_guest_assert_intact(Vm *vm, const char *when)
{
    vm_type_serial(vm, "v");
    g_autofree char *line = vm_serial_line(vm, "FF verdict ");

    g_test_message("%s: %s", when, line);
    if (!strstr(line, "verdict ok "))
        test_fail("%s the guest says: %s", when, line);
}

void linux_guest_finish(Vm *vm)
{
    vm_type_serial(vm, "q");
    vm_wait_serial(vm, "FF verdict ok");
    g_assert_cmpint(vm_wait_exit(vm), ==, 0);
    vm_end(vm);
}
