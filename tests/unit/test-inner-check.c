/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stands against a migration, as check() finds it, what can go wrong in stop_and_save()
 * ("stop/..."), in load() ("load/...") and with QEMU's settings ("prepare/...", "undo/..."): a
 * table over a scripted QEMU that answers as a healthy guest would, but for one command per case,
 * or two. Such an answer can fail to come: that is no "no". Devices that no test machine has
 * (assigned ones, vhost-user, vDPA, encrypted memory) are tried here, answers of the wrong shape,
 * another monitor's cont in between, and settings that QEMU refuses.
 *
 * Threads: the client's context, the scripted QEMU, and the test's function (the coordinator).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "contract/backends.h"
#include "guest/qemu/files.h"
#include "guest/qemu/vmm-qemu.h"

typedef struct {
    const char *command, *argument; /* ARGUMENT is a part of the line; NULL, LATER: any */
    /* NULL: CommandNotFound; "!text": GenericError; "^text": after RESUME; UNSAID: the first of
     * such questions is not answered. */
    const char *answer;
} Answer;

#define UNSAID "?"
#define LATER "later" /* than UNSAID_DEADLINE_MS */
/* In which a QEMU that answers does so. */
#define UNSAID_DEADLINE_MS 500

/* A node of a list, and the first one. */
#define MORE(driver) "{'node-name': 'n', 'drv': '" driver "', 'cache': {'direct': false}}"
#define NODE(driver) "[" MORE(driver)

/* A memory backend that farfault made is not there. */
#define NO_FIT                                                                                     \
    {                                                                                              \
        "query-memdev", NULL, "[{'id': 'pc.ram', 'size': 1048576, 'share': true}]"                 \
    }

/* What query-block says of a disk that the guest can write to. */
#define DISK(device, node, size)                                                                   \
    "{'device': '', 'qdev': '" device "', 'inserted': {'ro': false, 'node-name': '" node           \
    "', 'image': {'virtual-size': " size "}}}"

#define NET_OF(type) "'nic: index=0,type=nic,x\\r\\n \\\\ n0: index=0,type=" type "\\r\\n'"
#define DISK_OF(type) "[{'name': 'd0', 'type': 'child<" type ">'}]"

/* The first match counts. */
static const Answer healthy[] = {
    {"human-monitor-command", "aio_flush", "''"},
    {"human-monitor-command", "info registers", "'CPU#0 CR4=000006f0 EFER=0000000000001d01 '"},
    {"query-kvm", NULL, "{'enabled': true, 'present': true}"},
    {"query-status", NULL, "{'status': 'running', 'running': true}"},
    {"query-migrate", NULL, "{}"},
    {"query-memdev", NULL,
     "[{'id': 'pc.ram', 'size': 1048576, 'share': true}, {'id': 'm1', 'size': 4096, 'share': "
     "true}]"},
    {"query-memory-devices", NULL,
     "[{'type': 'dimm', 'data': {'memdev': '/objects/m1', 'addr': 4294967296}}]"},
    {"qom-list", NULL,
     "[{'name': 'type', 'type': 'string'}, {'name': 'd0', 'type': 'child<virtio-net-pci>'}]"},
    {"human-monitor-command", NULL,
     "'d0: index=0,type=nic,model=virtio-net-pci\\r\\n \\\\ n0: index=0,type=tap,ifname=t\\r\\n'"},
    {"query-named-block-nodes", NULL, "[{'node-name': 'n', 'drv': 'qcow2'}, {'drv': 'file'}]"},
    {"query-sev", NULL, "{'enabled': false}"},
    {"qom-get", "\"type\"", "'pc-test-1.0-machine'"},
    {"qom-get", "chardev", "'disk'"},
    {"qom-get", "/blobs\",\"property\":\"blob\"", "true"},
    {"qom-get", "\"blob\"", "false"},
    {"qom-get", "parent_bus", "'/machine/i440fx/pci.0'"},
    {"qom-get", "addr", "32"},
    {"query-cpus-fast", NULL, "[{'cpu-index': 0, 'qom-path': '/machine/unattached/device[0]'}]"},
    {"qom-get", "\"vmx\"", "!Property qemu64-x86_64-cpu.vmx not found"},
    {"qom-get", "\"svm\"", "true"},
    {"query-pci", NULL,
     "[{'bus': 0, 'devices': [{'bus': 0, 'slot': 1, 'function': 3, 'qdev_id': '', 'class_info': "
     "{'class': 1664, 'desc': 'Bridge'}, 'id': {'vendor': 32902, 'device': 28947}}]}]"},
    {"qom-get", NULL, "''"},
    {"query-target", NULL, "{'arch': 'x86_64'}"},
    {"query-uuid", NULL, "{'UUID': '11111111-2222-4333-8444-555555555555'}"},
    {"stop", NULL, "{}"},
    {"migrate", "fd:farfault-inner", "{}"},
    {"migrate-incoming", "fd:farfault-inner", "{}"},
    {"getfd", NULL, "{}"},
    {"closefd", NULL, "{}"},
    {"query-block", NULL,
     "[" DISK("d0", "n0", "512") ", {'device': 'cd0', 'qdev': 'c'}, {'device': 'unused', "
                                 "'inserted': {'ro': false, 'node-name': 'u'}}, {'qdev': 'r', "
                                 "'inserted': {'ro': true}}]"},
    {"transaction", "\"node\":\"n0\",\"overlay\":\"o0\"", "{}"},
};
static const Answer stopped = {"query-status", NULL, "{'status': 'paused', 'running': false}"};

typedef struct {
    const char *name;
    Answer odd;
    const char *part; /* of the error; NULL: the check passes */
    const char *version;
    const char *machine; /* "": none; NULL: any */
    bool late;           /* ODD is so from stop's answer on */
    bool no_save;        /* stop(), whose migration comes later */
    bool patient;
    FfGuestFit fit; /* 0: any but FF_GUEST_FITS */
    bool others;    /* it has devices in other processes, or that is not known */
    Answer too;     /* a second one that is not as a healthy guest's */
} Case;

static const Case cases[] = {
    {"healthy", {"none", NULL, NULL}, NULL, .machine = "pc-test-1.0"},
    /* A QEMU that lacks a command cannot have the thing. */
    {"no-sev-command", {"query-sev", NULL, NULL}, NULL},
    {"no-sev", {"query-sev", NULL, "!SEV is not available"}, NULL},
    {"no-block-command", {"query-named-block-nodes", NULL, NULL}, NULL},
    {"no-hmp", {"human-monitor-command", NULL, NULL}, NULL},
    {"no-confidential", {"qom-get", NULL, "!Property not found"}, NULL},
    {"no-uuid-command", {"query-uuid", NULL, NULL}, NULL},
    {"no-memory-devices", {"query-memory-devices", NULL, NULL}, NULL},
    {"sev", {"query-sev", NULL, "{'enabled': true}"}, "encrypted (SEV)"},
    {"confidential-unsaid",
     {"qom-get", "confidential-guest-support", UNSAID},
     "qom-get: ",
     .fit = FF_GUEST_UNKNOWN},
    {"confidential", {"qom-get", NULL, "'/objects/tdx0'"}, "confidential one (/objects/tdx0)"},
    {"blocked",
     {"query-migrate", NULL, "{'blocked-reasons': ['one', 'two']}"},
     "QEMU cannot migrate this guest: one; two"},
    {"postmigrate", {"query-status", NULL, "{'status': 'postmigrate'}"}, "\"postmigrate\""},
    {"suspended-old", {"query-status", NULL, "{'status': 'suspended'}"}, "system_wakeup"},
    {"suspended-new", {"query-status", NULL, "{'status': 'suspended'}"}, NULL, "9"},
    {"foreign-share",
     {"query-memdev", NULL, "[{'id': 'x', 'size': 2097152, 'share': true}]"},
     "memory backend \"x\" (2 MiB, shared) was not made by farfault",
     .machine = "pc-test-1.0"},
    {"forged-line",
     {"query-memdev", NULL, "[{'id': 'x\\nfarfault: all is well', 'size': 1}]"},
     "\"x farfault: all is well\""},
    {"forged-error", {"query-memdev", NULL, "!a\\nb"}, "query-memdev: a b"},
    {"no-id", {"query-memdev", NULL, "[{'size': 2097152, 'share': true}]"}, "(without id)"},
    {"private",
     {"query-memdev", NULL, "[{'id': 'pc.ram', 'size': 1048576, 'share': false}]"},
     "is private to QEMU"},
    {"size",
     {"query-memdev", NULL, "[{'id': 'pc.ram', 'size': 4096, 'share': true}]"},
     "has 4096 bytes in QEMU but 1048576 in farfault"},
    {"missing",
     {"query-memdev", NULL, "[{'id': 'pc.ram', 'size': 1048576, 'share': true}]"},
     "QEMU has no memory backend \"m1\""},
    /* Nor has it the file mapped: somebody has removed it. */
    {"gone", {"query-memdev", NULL, "[{'id': 'pc.ram', 'size': 1048576, 'share': true}]"}, NULL},
    {"other-target", {"query-target", NULL, "{'arch': 'aarch64'}"}, NULL, .machine = ""},
    {"unsaid-target", {"query-target", NULL, UNSAID}, NULL, .machine = ""},
    {"vfio",
     {"qom-list", "/peripheral\"", "[{'name': 'gpu', 'type': 'child<vfio-pci>'}]"},
     "device \"gpu\" (vfio-pci): it is an assigned device"},
    {"gpu/plain",
     {"qom-list", "/peripheral\"", "[{'name': 'gpu', 'type': 'child<virtio-vga>'}]"},
     NULL},
    {"gpu/blobs",
     {"qom-list", "/peripheral\"", "[{'name': 'blobs', 'type': 'child<virtio-gpu-pci>'}]"},
     "device \"blobs\" (virtio-gpu-pci): it hands guest memory to the kernel"},
    {"gpu/unsaid",
     {"qom-get", "\"blob\"", UNSAID},
     "qom-get: ",
     .fit = FF_GUEST_UNKNOWN,
     .too = {"qom-list", "/peripheral\"", "[{'name': 'blobs', 'type': 'child<virtio-vga>'}]"}},
    {"gpu/odd",
     {"qom-get", "\"blob\"", "'on'"},
     "neither yes nor no",
     .too = {"qom-list", "/peripheral\"", "[{'name': 'blobs', 'type': 'child<virtio-vga>'}]"}},
    {"gpu/no-property",
     {"qom-get", "\"blob\"", "!Property virtio-vga.blob not found"},
     NULL,
     .too = {"qom-list", "/peripheral\"", "[{'name': 'blobs', 'type': 'child<virtio-vga>'}]"}},
    {"vhost-user",
     {"qom-list", "peripheral-anon", "[{'name': 'device[0]', 'type': 'child<vhost-user-fs-pci>'}]"},
     "device \"device[0]\" (vhost-user-fs-pci): another process maps"},
    {"vhost-scsi",
     {"qom-list", NULL, "[{'name': 's', 'type': 'child<vhost-scsi-pci>'}]"},
     "vhost-scsi"},
    {"sev-object",
     {"qom-list", "/objects", "[{'name': 's', 'type': 'child<sev-guest>'}]"},
     "object \"s\" (sev-guest)"},
    {"net-vhost-user",
     {"human-monitor-command", NULL, "' \\\\ vu0: index=0,type=vhost-user,x\\r\\n'"},
     "net client \"vu0\": another process"},
    {"net-vdpa", {"human-monitor-command", NULL, "'v: index=0,type=vhost-vdpa,x\\r\\n'"}, "vDPA"},
    {"nvme",
     {"query-named-block-nodes", NULL, "[{'node-name': 'd', 'drv': 'nvme'}]"},
     "disk \"d\" (driver nvme)"},
    {"blkio", {"query-named-block-nodes", NULL, "[{'drv': 'virtio-blk-vhost-user'}]"}, "libblkio"},
    {"io_uring", {"query-named-block-nodes", NULL, "[{'drv': 'io_uring'}]"}, "libblkio"},
    {"bad-uuid", {"query-uuid", NULL, "{'UUID': 'zz'}"}, "UUID that is none"},
    {"refused", {"query-memdev", NULL, "!no"}, "query-memdev: no"},
    /* Answers of the wrong shape: no crash; what cannot be read is not there. */
    {"odd-status", {"query-status", NULL, "[]"}, "named no status"},
    {"odd-memdev", {"query-memdev", NULL, "{}"}, "QEMU has no memory backend"},
    {"odd-memdev-elements", {"query-memdev", NULL, "[1, null, [], {'id': 5}]"}, "(without id)"},
    {"odd-reasons", {"query-migrate", NULL, "{'blocked-reasons': [1, {}]}"}, NULL},
    {"odd-qom", {"qom-list", NULL, "[{'name': 1, 'type': []}, 7, 'x']"}, NULL},
    {"odd-devices",
     {"query-memory-devices", NULL, "[[], {'data': 1}, {'data': {'memdev': 2}}]"},
     NULL},
    {"odd-nodes", {"query-named-block-nodes", NULL, "'x'"}, NULL},
    {"odd-hmp", {"human-monitor-command", NULL, "{}"}, NULL},
    {"odd-uuid", {"query-uuid", NULL, "{'UUID': {}}"}, NULL},
    {"odd-sev", {"query-sev", NULL, "[]"}, NULL},
    {"odd-machine", {"qom-get", "\"type\"", "[]"}, NULL},
    /* Of a destination: a QEMU that may have a guest already is not to be ended. */
    {"incoming/waits", {"query-status", NULL, "{'status': 'inmigrate'}"}, NULL},
    {"incoming/runs",
     {"none", NULL, NULL},
     "not waiting for a migration",
     .fit = FF_GUEST_OCCUPIED},
    {"incoming/unsaid", {"query-status", NULL, UNSAID}, "query-status: ", .fit = FF_GUEST_OCCUPIED},
    {"incoming/later", {"query-status", LATER, "{'status': 'inmigrate'}"}, NULL, .patient = true},
    {"incoming/later-runs",
     {"query-status", LATER, "{'status': 'running'}"},
     "not waiting for a migration",
     .fit = FF_GUEST_OCCUPIED,
     .patient = true},
    {"incoming/odd", {"query-status", NULL, "[]"}, "no status", .fit = FF_GUEST_OCCUPIED},
    {"incoming/unsaid-devices",
     {"qom-list", "/peripheral\"", UNSAID},
     "qom-list: ",
     .fit = FF_GUEST_UNKNOWN,
     .too = {"query-status", NULL, "{'status': 'inmigrate'}"}},
    /* A device in another process; the relay stands in the socket of chardev "disk". */
    {"devices/followed", {"qom-list", "/peripheral\"", DISK_OF("vhost-user-blk-pci")}, NULL},
    {"devices/followed-net",
     {"human-monitor-command", NULL, NET_OF("vhost-user,vhost-user12 to disk")},
     NULL},
    {"devices/other-net",
     {"human-monitor-command", NULL, NET_OF("vhost-user,vhost-user0 to disk2")},
     "net client \"n0\": farfault does not stand between"},
    {"devices/odd-net",
     {"human-monitor-command", NULL, NET_OF("vhost-user,vhost-user0 for disk")},
     "net client \"n0\": farfault does not stand between"},
    {"devices/vdpa", {"human-monitor-command", NULL, NET_OF("vhost-vdpa,to disk")}, "vDPA"},
    {"devices/passt",
     {"human-monitor-command", NULL, NET_OF("passt,vhost-user,connected to pid 1")},
     "net client \"n0\": another process"},
    {"devices/unknown-net",
     {"human-monitor-command", NULL, NET_OF("new-one,x")},
     "the type new-one"},
    {"devices/none", {"none", NULL, NULL}, NULL},
    {"devices/not-wanted",
     {"qom-list", "/peripheral\"", DISK_OF("vhost-user-blk-pci")},
     "device \"d0\" (vhost-user-blk-pci): another process maps"},
    {"devices/refused",
     {"qom-list", "/peripheral-anon\"", DISK_OF("vhost-user-blk-pci")},
     "device \"d0\": devices in other processes: it cannot"},
    {"devices/other-chardev",
     {"qom-list", "/peripheral\"", DISK_OF("vhost-user-blk-pci")},
     "device \"d0\": farfault does not stand between"},
    {"devices/unsaid",
     {"qom-get", "chardev", UNSAID},
     "qom-get: ",
     .fit = FF_GUEST_UNKNOWN,
     .too = {"qom-list", "/peripheral\"", DISK_OF("vhost-user-blk-pci")}},
    {"devices/no-chardev",
     {"qom-get", "chardev", "!Property vhost-user-blk-pci.chardev not found"},
     "device \"d0\": farfault does not stand between",
     .too = {"qom-list", "/peripheral\"", DISK_OF("vhost-user-blk-pci")}},
    {"devices/other-kind",
     {"qom-list", "/peripheral\"", DISK_OF("vhost-user-fs-pci")},
     "device \"d0\" (vhost-user-fs-pci): another process maps"},
    /* The guest does not fit, for another reason (NO_FIT), and has such a device. */
    {"others/plugged", NO_FIT, "QEMU has no memory",
     .too = {"qom-list", "/peripheral\"", DISK_OF("vhost-user-fs-pci")}, .others = true},
    {"others/anonymous", NO_FIT, "QEMU has no memory",
     .too = {"qom-list", "peripheral-anon", DISK_OF("vhost-user-fs-pci")}, .others = true},
    {"others/object", NO_FIT, "QEMU has no memory",
     .too = {"qom-list", "/objects", DISK_OF("cryptodev-vhost-user")}, .others = true},
    {"others/net", NO_FIT, "QEMU has no memory",
     .too = {"human-monitor-command", NULL, NET_OF("vhost-user,x")}, .others = true},
    {"others/net-by-name", NO_FIT, "QEMU has no memory",
     .too = {"human-monitor-command", NULL, "'vhost-user: index=0,type=tap,x\\r\\n'"}},
    {"others/second",
     {"qom-list", "/peripheral\"",
      "[{'name': 'a', 'type': 'child<vfio-pci>'}, {'name': 'b', 'type': "
      "'child<vhost-user-fs-pci>'}]"},
     "an assigned device",
     .others = true},
    {"others/none", NO_FIT, "QEMU has no memory"},
    {"others/no-hmp", NO_FIT, "QEMU has no memory", .too = {"human-monitor-command", NULL, NULL}},
    {"others/unsaid", {"query-memdev", NULL, UNSAID}, "query-memdev: ", .others = true},
    {"others/unsaid-later",
     {"human-monitor-command", NULL, UNSAID},
     "QEMU has no memory",
     .too = NO_FIT,
     .others = true},
    {"stop/good", {"none", NULL, NULL}, NULL},
    {"stop/resumed", {"migrate", NULL, "^{}"}, "resumed by another monitor"},
    {"stop/refused", {"stop", NULL, "!no"}, "stop: no"},
    {"stop/runs-on",
     {"query-status", NULL, "{'status': 'running'}"},
     "still \"running\" after stop"},
    {"stop/save-refused", {"migrate", NULL, "!no"}, "migrate: no"},
    {"stop/odd-status", {"query-status", NULL, "{'status': 7}"}, "named no status"},
    {"stop/offer-refused", {"getfd", NULL, "!no"}, "getfd: no"},
    {"stop/resumed-no-save",
     {"query-status", NULL, "^{'status': 'paused'}"},
     "resumed by another monitor",
     .late = true,
     .no_save = true},
    {"branch/good", {"none", NULL, NULL}, NULL},
    {"branch/refused", {"transaction", NULL, "!no"}, "transaction: no"},
    {"branch/not-said", {"query-block", NULL, "!no"}, "query-block: no"},
    {"branch/resumed",
     {"query-block", NULL, "^[" DISK("d0", "n0", "512") "]"},
     "resumed by another"},
    {"branch/none", {"query-block", NULL, "[]"}, "a disk went away"},
    {"branch/odd",
     {"query-block", NULL, "[7, {'qdev': 'd0', 'inserted': []}]"},
     "a disk went away"},
    {"branch/other-node",
     {"query-block", NULL, "[" DISK("d0", "n1", "512") "]"},
     "disk d0 got another node"},
    {"branch/other-size",
     {"query-block", NULL, "[" DISK("d0", "n0", "1024") "]"},
     "disk d0 got another size"},
    {"branch/one-more",
     {"query-block", NULL, "[" DISK("d0", "n0", "512") ", " DISK("d1", "n1", "512") "]"},
     "disk d1 has come"},
    {"branch/twice",
     {"query-block", NULL, "[" DISK("d0", "n0", "512") ", " DISK("d0", "n0", "512") "]"},
     "disk"},
    {"load/good", {"none", NULL, NULL}, NULL},
    {"load/stop-refused", {"stop", NULL, "!no"}, "stop: no"},
    {"load/getfd-refused", {"getfd", NULL, "!no"}, "getfd: no"},
    {"load/refused", {"migrate-incoming", NULL, "!no"}, "migrate-incoming: no"},
    /* PART: the disks are drained. */
    {"drain/no-disk", {"query-named-block-nodes", NULL, "[]"}, NULL},
    {"drain/no-command", {"query-named-block-nodes", NULL, NULL}, NULL},
    {"drain/copies", {"query-named-block-nodes", NULL, NODE("nbd") ", " MORE("qcow2") "]"}, NULL},
    {"drain/file", {"query-named-block-nodes", NULL, NODE("file") ", " MORE("raw") "]"}, NULL},
    {"drain/unseen", {"query-named-block-nodes", NULL, NODE("file") ", " MORE("raw") "]"}, "yes"},
    {"drain/direct",
     {"query-named-block-nodes", NULL,
      "[{'node-name': 'n', 'drv': 'file', 'cache': {'direct': true}}]"},
     "yes"},
    {"drain/device", {"query-named-block-nodes", NULL, NODE("host_device") "]"}, "yes"},
    {"drain/unknown-driver", {"query-named-block-nodes", NULL, NODE("rbd") "]"}, "yes"},
    {"drain/odd-cache",
     {"query-named-block-nodes", NULL, "[{'node-name': 'n', 'drv': 'raw'}]"},
     "yes"},
    {"drain/odd-driver",
     {"query-named-block-nodes", NULL, "[{'node-name': 'n', 'cache': {'direct': false}}]"},
     "yes"},
    {"prepare/capabilities-refused",
     {"migrate-set-capabilities", "true", "!no"},
     "migrate-set-capabilities: no"},
    {"prepare/parameters-refused",
     {"migrate-set-parameters", "9223372036854775807", "!no"},
     "migrate-set-parameters: no"},
    {"prepare/odd-parameters",
     {"query-migrate-parameters", NULL, "[]"},
     "query-migrate-parameters: QEMU answered no object"},
    {"prepare/no-capabilities",
     {"query-migrate-capabilities", NULL, "!no"},
     "query-migrate-capabilities: no"},
    /* PART: of why its writes cannot be tracked, when that is asked once more; NULL: they can. The
     * guest is a hypervisor (svm). */
    {"nested/yes", {"none", NULL, NULL}, "(svm)"},
    {"nested/not-now",
     {"human-monitor-command", NULL, "'CPU#0 CR4=000006f0 EFER=0000000000000d01 '"},
     NULL},
    {"nested/tcg", {"query-kvm", NULL, "{'enabled': false, 'present': true}"}, NULL},
    {"nested/no-kvm-command", {"query-kvm", NULL, NULL}, "(svm)"},
    {"nested/odd-kvm", {"query-kvm", NULL, "[]"}, "(svm)"},
    {"nested/off", {"qom-get", "\"svm\"", "false"}, NULL},
    {"nested/no-property", {"qom-get", "\"svm\"", "!Property cortex-a57.svm not found"}, NULL},
    {"nested/no-path", {"query-cpus-fast", NULL, "[{'cpu-index': 0}]"}, "(svm)"},
    {"nested/unsaid/kvm", {"query-kvm", NULL, UNSAID}, "(svm)"},
    {"nested/unsaid/cpus", {"query-cpus-fast", NULL, UNSAID}, "(svm)"},
    {"nested/unsaid/vmx", {"qom-get", "\"vmx\"", UNSAID}, "(svm)"},
    {"nested/unsaid/svm", {"qom-get", "\"svm\"", UNSAID}, "(svm)"},
    {"nested/unsaid/odd", {"qom-get", "\"svm\"", "'on'"}, "neither yes nor no"},
    /* PART: a line of what the guest is made of; NULL: it is not known. */
    {"parts/machine", {"none", NULL, NULL}, "machine\ttype\tpc-test-1.0\t\n"},
    {"parts/version", {"none", NULL, NULL}, "qemu\tversion\t7.2.0\t\n"},
    {"parts/cpus",
     {"query-cpus-fast", NULL, "[{'cpu-index': 0}, {'cpu-index': 2}]"},
     "cpu\t0\t\t\ncpu\t2\t\t\n"},
    {"parts/device",
     {"none", NULL, NULL},
     "device\tpci.0/04.0\tvirtio-net-pci\tvirtio-net-pci 'd0'\n"},
    {"parts/behind-another",
     {"qom-get", "peripheral/d0\",\"property\":\"parent_bus",
      "'/machine/peripheral-anon/d0/bridge'"},
     "device\tpci.0/04.0/04.0\tvirtio-net-pci"},
    {"parts/behind-itself",
     {"qom-get", "parent_bus", "'/machine/peripheral/d0/bus'"},
     "other\tvirtio-net-pci on bus/04.0/04.0"},
    {"parts/other-bus",
     {"qom-get", "parent_bus", "'/machine/unattached/device[3]/usb.0'"},
     "other\tvirtio-net-pci on usb.0/04.0\t2\t"},
    {"parts/no-bus", {"qom-get", "parent_bus", "!no"}, "other\tvirtio-net-pci\t2\t"},
    {"parts/no-address", {"qom-get", "addr", "!no"}, "other\tvirtio-net-pci on pci.0\t2\t"},
    {"parts/transitional",
     {"qom-list", "peripheral\"", "[{'name': 'd0', 'type': 'child<virtio-net-pci-transitional>'}]"},
     "device\tpci.0/04.0\tvirtio-net-pci\tvirtio-net-pci-transitional 'd0'\n"},
    {"parts/pci", {"none", NULL, NULL}, "pci\t00:01.3\t8086:7113\tBridge 8086:7113\n"},
    {"parts/forged",
     {"qom-list", "peripheral\"", "[{'name': 'a\\tb\\nmachine', 'type': 'child<x>'}]"},
     "x 'a?b?machine'\n"},
    {"parts/no-machine", {"qom-get", "\"type\"", "!no"}, NULL},
    {"parts/no-list", {"qom-list", NULL, "!no"}, NULL},
    {"parts/no-cpus", {"query-cpus-fast", NULL, "!no"}, NULL},
    {"parts/no-pci",
     {"query-pci", NULL, "!PCI devices not supported"},
     "machine\ttype\tpc-test-1.0"},
    {"parts/unsaid/bus", {"qom-get", "parent_bus", UNSAID}, NULL},
    {"parts/unsaid/address", {"qom-get", "addr", UNSAID}, NULL},
    {"parts/unsaid/pci", {"query-pci", NULL, UNSAID}, NULL},
    {"parts/odd-pci", {"query-pci", NULL, "[1, {'devices': [2, {}, {'id': 3}]}]"}, "qemu\t"},
    {"undo/good", {"none", NULL, NULL}, NULL},
    /* With it the whole is refused: the others are set one by one, and looked at after that. */
    {"undo/one-refused", {"migrate-set-capabilities", "multifd\",\"state\":true", "!no"}, NULL},
    {"undo/parameters-refused", {"migrate-set-parameters", ":1}", "!no"}, NULL},
    {"undo/stuck",
     {"migrate-set-capabilities", "x-ignore-shared\",\"state\":false", "!no"},
     "x-ignore-shared could not be set back"},
};

enum { IGNORE_SHARED, RETURN_PATH, MULTIFD, N_CAPABILITIES };
static const char *const capabilities[] = {"x-ignore-shared", "return-path", "multifd"};

typedef struct {
    const Case *c;
    int fd;
    bool stopped;
    gint drained;         /* atomic */
    gint branched, saved; /* atomic; times that a transaction, that migrate was asked for */
    unsigned machine;     /* questions for its type */
    bool silent;          /* one question was not answered */
    bool on[N_CAPABILITIES], wide; /* WIDE: bandwidth without limit */
    GString *held; /* answers that go out when the next line has come; can be NULL */
} Script;

static const Answer *find(const Answer *table, size_t n, const char *line)
{
    for (size_t i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("\"execute\":\"%s\"", table[i].command);
        const char *part = g_strcmp0(table[i].argument, LATER) ? table[i].argument : NULL;
        if (strstr(line, name) && (!part || strstr(line, part))) {
            return &table[i];
        }
    }
    return NULL;
}

/* The settings that QEMU has; g_free, NULL if LINE is not about them. */
static char *settings_answer(Script *s, const char *line)
{
    if (strstr(line, "migrate-set-parameters")) {
        s->wide = strstr(line, "9223372036854775807");
        return g_strdup("{}");
    }
    if (strstr(line, "query-migrate-parameters")) {
        return g_strdup_printf("{'max-bandwidth': %s}", s->wide ? "9223372036854775807" : "1");
    }
    if (!strstr(line, "migrate-set-capabilities") && !strstr(line, "query-migrate-capabilities")) {
        return NULL;
    }
    g_autoptr(GString) list = g_string_new(NULL);
    for (unsigned i = 0; i < N_CAPABILITIES; i++) {
        g_autofree char *set = g_strdup_printf("\"%s\",\"state\":", capabilities[i]);
        const char *value = strstr(line, set);
        s->on[i] = value ? g_str_has_prefix(value + strlen(set), "true") : s->on[i];
        g_string_append_printf(list, "%s{'capability': '%s', 'state': %s}", i ? ", " : "",
                               capabilities[i], s->on[i] ? "true" : "false");
    }
    return strstr(line, "query") ? g_strdup_printf("[%s]", list->str) : g_strdup("{}");
}

/* What is set, or begun, is answered when the next line has come: a thread that waits in between
 * waits for ever. */
static bool is_held(const Script *s, const char *line)
{
    return (g_str_equal(s->c->name, "undo/good") && strstr(line, "migrate-set-")) ||
           (g_str_equal(s->c->name, "load/good") &&
            (strstr(line, "\"stop\"") || strstr(line, "\"getfd\"")));
}

static void send_answer(Script *s, const char *line, const GString *text)
{
    g_autoptr(GString) all = s->held ? g_steal_pointer(&s->held) : g_string_new(NULL);

    g_string_append_len(all, text->str, text->len);
    if (is_held(s, line) && !strstr(line, "9223372036854775807")) {
        s->held = g_steal_pointer(&all);
        return;
    }
    /* A caller that has found what it looked for wants no more answers. */
    ssize_t n = send(s->fd, all->str, all->len, MSG_NOSIGNAL);
    g_assert_true(n == (ssize_t)all->len || (n < 0 && errno == EPIPE));
}

/* What is not as a healthy guest's; NULL: that is. */
static const Answer *find_odd(const Script *s, const char *line)
{
    const Answer *odd = s->c->late && !s->stopped ? NULL : find(&s->c->odd, 1, line);
    bool said = !odd || g_strcmp0(odd->answer, UNSAID) || !s->silent;

    return odd && said ? odd : s->c->too.command ? find(&s->c->too, 1, line) : NULL;
}

static void answer(Script *s, const char *line)
{
    const Answer *a = find_odd(s, line);
    const char *id = strstr(line, "\"id\":");
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *settings = a ? NULL : settings_answer(s, line);

    g_assert_nonnull(id);
    id += strlen("\"id\":");
    a = a ? a : find(&stopped, s->stopped, line);
    a = a ? a : find(healthy, G_N_ELEMENTS(healthy), line);
    s->stopped |= a && !strcmp(a->command, "stop");
    if (strstr(line, "aio_flush")) {
        g_atomic_int_inc(&s->drained);
    }
    if (strstr(line, "\"transaction\"")) {
        g_assert_true(s->stopped);
        g_atomic_int_inc(&s->branched);
    }
    if (strstr(line, "\"migrate\"")) {
        g_atomic_int_inc(&s->saved);
    }
    s->machine += strstr(line, "\"type\"") != NULL;
    g_assert_cmpuint(s->machine, <=, 1);
    if (a && !g_strcmp0(a->answer, UNSAID)) {
        s->silent = true;
        return;
    }
    if (a && !g_strcmp0(a->argument, LATER)) {
        g_usleep(2 * UNSAID_DEADLINE_MS * 1000); /* it is busy */
    }
    if (strstr(line, "qmp_capabilities")) {
        g_string_append(text, "{'return': {}");
    } else if (settings) {
        g_string_append_printf(text, "{'return': %s", settings);
    } else if (!a || !a->answer) {
        g_string_append(text, "{'error': {'class': 'CommandNotFound', 'desc': 'not found'}");
    } else if (a->answer[0] == '!') {
        g_string_append_printf(text, "{'error': {'class': 'GenericError', 'desc': '%s'}",
                               a->answer + 1);
    } else if (a->answer[0] == '^') {
        g_string_append_printf(text, "{'event': 'RESUME'}\r\n{'return': %s", a->answer + 1);
    } else {
        g_string_append_printf(text, "{'return': %s", a->answer);
    }
    g_strdelimit(text->str, "'", '"');
    g_string_append_printf(text, ", \"id\": %.*s}\r\n", (int)strspn(id, " 0123456789"), id);
    send_answer(s, line, text);
}

static void *scripted_qemu(void *data)
{
    Script *s = data;
    g_autofree char *greeting =
        g_strdup_printf("{\"QMP\": {\"version\": {\"qemu\": {\"major\": %s, \"minor\": 2}}}}\r\n",
                        s->c->version ? s->c->version : "7");
    FILE *in = fdopen(dup(s->fd), "r");
    char *line = NULL;
    size_t size = 0;

    g_assert_cmpint(write(s->fd, greeting, strlen(greeting)), ==, strlen(greeting));
    while (getline(&line, &size, in) > 0) {
        answer(s, line);
    }
    free(line);
    fclose(in);
    return NULL;
}

static void *run_loop(void *data)
{
    g_main_loop_run(data);
    return NULL;
}

static gboolean quit_loop(void *data)
{
    g_main_loop_quit(data);
    return G_SOURCE_REMOVE;
}

static void check(FfVmm *vmm, const Case *c)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *blocks = NULL;
    uint8_t uuid[16];

    vmm->memory.takes_devices =
        g_str_has_prefix(c->name, "devices/") && !g_str_equal(c->name, "devices/not-wanted");
    vmm->memory.patient = c->patient;
    bool incoming = g_str_has_prefix(c->name, "incoming/");
    FfRole role = incoming ? FF_ROLE_DESTINATION : FF_ROLE_SOURCE;
    FfGuestFit fit = vmm->memory.check(&vmm->memory, role, &blocks, uuid, &error);

    g_assert_false(vmm->memory.takes_devices || vmm->memory.patient);
    g_assert_true(vmm->memory.has_devices == g_str_has_prefix(c->name, "devices/followed"));
    if (g_str_has_prefix(c->name, "others/")) {
        g_assert_true(vmm->memory.refuses_devices == c->others);
    }
    if (c->machine) {
        g_autofree char *machine = vmm->state.machine(&vmm->state);
        g_assert_cmpstr(machine, ==, *c->machine ? c->machine : NULL);
    }
    if (c->part) {
        g_assert_cmpint(fit, !=, FF_GUEST_FITS);
        g_assert_true(!c->fit || fit == c->fit);
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, c->part));
        g_assert_null(strchr(error->message, '\n'));
        return;
    }
    g_assert_no_error(error);
    g_assert_cmpint(fit, ==, FF_GUEST_FITS);
    g_assert_cmpuint(blocks->len, ==, g_str_equal(c->name, "gone") ? 1 : 2);
    if (g_str_equal(c->name, "healthy")) {
        g_assert_cmpuint(((FfRamBlock *)blocks->pdata[1])->gpa, ==, 4ull << 30);
        g_assert_cmpuint(uuid[15], ==, 0x55);
    }
}

/* The relay, as far as it is asked here. */
typedef struct {
    const char *name; /* of the case */
    int fd;
} Relay;

static gpointer answer_engine(gpointer opaque)
{
    const Relay *r = opaque;
    FfBackendsRequest request;

    while (recv(r->fd, &request, sizeof(request), 0) == sizeof(request)) {
        FfBackendsAnswer answer = {.op = request.op, .ids = "disk\n"};

        g_assert_cmpuint(request.op, ==, FF_BACKENDS_PROBE);
        g_assert_cmpuint(request.flag, ==, 0);
        if (g_str_equal(r->name, "devices/refused")) {
            g_strlcpy(answer.why, "it cannot", sizeof(answer.why));
        } else if (g_str_equal(r->name, "devices/other-chardev")) {
            g_strlcpy(answer.ids, "a\nisk\ndisk2\n", sizeof(answer.ids));
        }
        g_assert_cmpint(send(r->fd, &answer, sizeof(answer), 0), ==, sizeof(answer));
    }
    return NULL;
}

static void check_stop(FfVmm *vmm, const Case *c)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *run_state = NULL;
    int fd = -1;
    bool ok = c->no_save ? vmm->run.stop(&vmm->run, &run_state, &error)
                         : vmm->state.offer(&vmm->state, &fd, &error) &&
                               vmm->state.stop_and_save(&vmm->state, &run_state, &error);

    if (c->part) {
        g_assert_false(ok);
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, c->part));
    } else {
        g_assert_no_error(error);
        g_assert_true(ok);
    }
    /* A roll back must know it wherever QEMU stands. */
    bool stands = !c->part || c->late || strcmp(c->odd.command, "migrate") == 0;
    g_assert_cmpstr(run_state, ==, stands ? "running" : NULL);
    if (fd >= 0) {
        close(fd);
    }
}

static bool between(void *opaque, GError **error)
{
    FfVmm *vmm = opaque;

    return vmm->disks.branch(&vmm->disks, error);
}

/* Only the disks of the plan get overlays; else the devices are not saved either. */
static void check_branch(FfVmm *vmm, const Script *s)
{
    FfDisk disk = {(char *)"d0", (char *)"n0", (char *)"o0", 512};
    g_autoptr(GPtrArray) plan = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *run_state = NULL;
    const char *part = s->c->part;
    int fd = -1;

    g_ptr_array_add(plan, &disk);
    vmm->disks.plan = plan;
    vmm->state.between = between;
    vmm->state.between_opaque = vmm;
    bool ok = vmm->state.offer(&vmm->state, &fd, &error) &&
              vmm->state.stop_and_save(&vmm->state, &run_state, &error);

    g_assert_true(ok == !part);
    g_assert_cmpstr(run_state, ==, "running");
    g_assert_cmpint(g_atomic_int_get(&s->saved), ==, !part);
    g_assert_cmpint(g_atomic_int_get(&s->branched), ==,
                    !part || !strcmp(s->c->odd.command, "transaction"));
    if (part) {
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, part));
    }
    close(fd);
}

static void check_load(FfVmm *vmm, const Case *c)
{
    g_autoptr(GError) error = NULL;
    int fd = -1;
    bool ok = vmm->state.load(&vmm->state, &fd, &error);

    g_assert_true(ok == !c->part);
    g_assert_true(ok == (fd >= 0));
    g_assert_cmpstr(error ? error->message : NULL, ==, c->part);
    if (ok) {
        close(fd);
    }
}

/* Of the test's own files nobody knows where they are. */
static void check_drain(FfVmm *vmm, const Script *s)
{
    const int memory = 0;
    bool copies = ff_files_copy(getpid(), &memory, 1), file = g_str_equal(s->c->name, "drain/file");
    g_autoptr(GError) error = NULL;

    g_assert_true(vmm->memory.drain(&vmm->memory, &error));
    g_assert_no_error(error);
    g_assert_cmpint(g_atomic_int_get(&s->drained), ==, s->c->part || (file && !copies));
}

static void check_parts(FfVmm *vmm, const Case *c)
{
    g_autofree char *text = vmm->state.parts(&vmm->state);

    g_test_message("%s", text);
    g_assert_true(!text == !c->part);
    g_assert_true(!text || strstr(text, c->part));
}

/* Looked at before precopy, with the guest stopped, and when it runs. */
static void check_nested(FfVmm *vmm, const Case *c)
{
    bool unsaid = g_str_has_prefix(c->name, "nested/unsaid/");
    g_autofree char *first = vmm->memory.untrackable(&vmm->memory, false);
    g_autofree char *run_state = NULL;
    g_autoptr(GError) error = NULL;

    g_test_message("%s", first);
    g_assert_true(unsaid ? first && strstr(first, "QEMU does not say") : !first == !c->part);
    g_assert_true(vmm->run.stop(&vmm->run, &run_state, &error));
    g_assert_no_error(error);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *why = vmm->memory.untrackable(&vmm->memory, i == 0);

        g_test_message("%s", why);
        g_assert_true(c->part ? why && strstr(why, c->part) : !why);
    }
}

/* prepare(), and undo() whatever came of it. */
static void check_settings(FfVmm *vmm, const Case *c)
{
    g_autoptr(GError) unprepared = NULL;
    g_autoptr(GError) left = NULL;
    bool prepared = vmm->state.prepare(&vmm->state, FF_ROLE_SOURCE, &unprepared);
    bool undone = vmm->state.undo(&vmm->state, &left);
    bool undoing = g_str_has_prefix(c->name, "undo/");
    const GError *error = undoing ? left : unprepared;

    g_assert_true(prepared == (undoing || !c->part));
    g_assert_true(undone == (!undoing || !c->part));
    g_assert_true(!c->part == !error);
    if (c->part) {
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, c->part));
    }
}

/* What QEMU is left with after that. */
static void check_left(const Script *s, const FfStateHeader *state)
{
    const Answer *odd = &s->c->odd;
    bool stuck = s->c->part && g_str_has_prefix(s->c->name, "undo/");

    g_assert_true(s->on[IGNORE_SHARED] == stuck);
    g_assert_true((state->undo_len > 0) == stuck);
    g_assert_false(s->on[RETURN_PATH]);
    g_assert_true(s->on[MULTIFD] == (!odd->argument || !strstr(odd->argument, "multifd")));
    g_assert_true(s->wide == (odd->argument && strcmp(odd->argument, ":1}") == 0));
}

static void test_case(const void *data)
{
    FfRamBlock ram[] = {{.id = "pc.ram", .size = 1 << 20, .page_size = 4096},
                        {.id = "m1", .size = 4096, .page_size = 4096}};
    void *map = MAP_FAILED;
    g_autoptr(GPtrArray) blocks = g_ptr_array_new();
    g_autoptr(GMainContext) context = g_main_context_new();
    g_autoptr(GMainLoop) loop = g_main_loop_new(context, FALSE);
    GThread *io = g_thread_new("io", run_loop, loop), *qemu;
    FfStateHeader *state = g_new0(FfStateHeader, 1);
    FfQmpClient *client;
    Script script = {.c = data, .on[MULTIFD] = true};
    bool settings =
        g_str_has_prefix(script.c->name, "prepare/") || g_str_has_prefix(script.c->name, "undo/");
    bool seen = !g_str_equal(script.c->name, "drain/unseen");
    bool unsaid = !g_strcmp0(script.c->odd.answer, UNSAID) || script.c->patient;
    int pair[2], backends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(ram); i++) {
        ram[i].memfd = memfd_create("ram", MFD_CLOEXEC);
        g_assert_cmpint(ftruncate(ram[i].memfd, (off_t)ram[i].size), ==, 0);
    }
    if (!g_str_equal(script.c->name, "gone")) {
        map = mmap(NULL, ram[1].size, PROT_READ, MAP_SHARED, ram[1].memfd, 0);
    }
    g_ptr_array_add(blocks, &ram[0]);
    g_ptr_array_add(blocks, &ram[1]);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, backends), ==, 0);
    Relay relay = {script.c->name, backends[1]};
    GThread *answers = g_thread_new("relay", answer_engine, &relay);
    script.fd = pair[1];
    qemu = g_thread_new("qemu", scripted_qemu, &script);
    client = ff_qmp_client_new(pair[0], context, NULL, NULL, NULL);
    FfQemu *under_test = ff_qemu_new(&(FfQemuConfig){.qmp = client,
                                                     .state = state,
                                                     .ram = blocks,
                                                     .qemu_pid = seen ? getpid() : 0,
                                                     .backends = backends[0],
                                                     .deadline_ms = unsaid ? UNSAID_DEADLINE_MS : 0,
                                                     .name = "test"});
    FfVmm *vmm = ff_qemu_vmm(under_test);
    if (g_str_has_prefix(script.c->name, "drain/")) {
        check_drain(vmm, &script);
    } else if (g_str_has_prefix(script.c->name, "branch/")) {
        check_branch(vmm, &script);
    } else {
        (settings                                      ? check_settings
         : g_str_has_prefix(script.c->name, "nested/") ? check_nested
         : g_str_has_prefix(script.c->name, "parts/")  ? check_parts
         : g_str_has_prefix(script.c->name, "stop/")   ? check_stop
         : g_str_has_prefix(script.c->name, "load/")   ? check_load
                                                       : check)(vmm, data);
    }
    ff_qemu_free(under_test);
    shutdown(backends[0], SHUT_RDWR);
    g_thread_join(answers);
    close(backends[0]);
    close(backends[1]);
    ff_qmp_client_close(client);
    g_thread_join(qemu);
    if (settings) {
        check_left(&script, state);
    }
    g_main_context_invoke(context, quit_loop, loop);
    g_thread_join(io);
    ff_qmp_client_unref(client);
    close(pair[1]);
    if (map != MAP_FAILED) {
        munmap(map, ram[1].size);
    }
    close(ram[0].memfd);
    close(ram[1].memfd);
    g_free(state);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/inner-check/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_case);
    }
    return g_test_run();
}
