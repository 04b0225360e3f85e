/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines for test-argv.c: guest RAM. */
#include "tests/unit/argv-cases.h"

const ArgvCase argv_memory_cases[] = {
    {"none", Q ND, Q ND PC128 PRIV, S128},
    {"plain", Q ND "-m 1G", Q ND "-m 1G" PC(1073741824) PRIV, "ram=pc.ram:1073741824:4096 "},
    {"mib", Q ND "-m 1024", Q ND "-m 1024" PC(1073741824) PRIV, "ram=pc.ram:1073741824:4096 "},
    {"zero-is-default", Q ND "-m 0", Q ND "-m 0" PC128 PRIV, S128},
    {"fraction", Q ND "-m 1.5G", Q ND "-m 1.5G" PC(1610612736) PRIV, "ram=pc.ram:1610612736:4096 "},
    {"rounded-to-8k", Q ND "-m 100001K", Q ND "-m 100001K" PC(102408192) PRIV,
     "ram=pc.ram:102408192:4096 "},
    {"slots", Q ND "-m size=1g,slots=2,maxmem=4G",
     Q ND "-m size=1g,slots=2,maxmem=4G" PC(1073741824) PRIV, "ram=pc.ram:1073741824:4096 "},
    {"maxmem-only", Q ND "-m slots=2,maxmem=4G", Q ND "-m slots=2,maxmem=4G" PC128 PRIV, S128},
    {"two-m", Q ND "-m 64M -m slots=1,maxmem=1G",
     Q ND "-m 64M -m slots=1,maxmem=1G" PC(67108864) PRIV, "ram=pc.ram:67108864:4096 "},
    {"last-m", Q ND "-m 64M --m 65", Q ND "-m 64M --m 65" PC(68157440) PRIV,
     "ram=pc.ram:68157440:4096 "},
    {"machine-memory", Q ND "-M q35,memory.size=64M",
     Q ND "-M q35,memory.size=64M" PC(67108864) PRIV, "ram=pc.ram:67108864:4096 "},
    {"m-before-machine-memory", Q ND "-m 32 -M memory.size=64M",
     Q ND "-m 32 -M memory.size=64M" PC(33554432) PRIV, "ram=pc.ram:33554432:4096 "},
    {"microvm", Q ND "-M microvm", Q ND "-M microvm" RAM("microvm.ram", 134217728, 0) PRIV,
     "ram=microvm.ram:134217728:4096 "},
    {"pve", Q ND "-M pc+pve0 -m 16", Q ND "-M pc+pve0 -m 16" PC(16777216) PRIV,
     "ram=pc.ram:16777216:4096 "},
    {"pve-q35", Q ND "-machine type=q35+pve0 -m 16",
     Q ND "-machine type=q35+pve0 -m 16" PC(16777216) PRIV, "ram=pc.ram:16777216:4096 "},
    {"pve-version", Q ND "-M pc-i440fx-7.2+pve0 -m 16",
     Q ND "-M pc-i440fx-7.2+pve0 -m 16" PC(16777216) PRIV, "ram=pc.ram:16777216:4096 "},
    {"asked", Q ND "-M ubuntu -m 16", Q ND "-M ubuntu -m 16" PC(16777216) PRIV,
     "ram=pc.ram:16777216:4096 "},
    {"asked-none", Q ND "-M x-remote -m 16", Q ND "-M x-remote -m 16" PRIV, ""},
    {"isapc", Q ND "-M isapc -m 16", Q ND "-M isapc -m 16" PC(16777216) PRIV,
     "ram=pc.ram:16777216:4096 "},
    {"version", Q ND "-M pc-q35-2.4 -m 16", Q ND "-M pc-q35-2.4 -m 16" PC(16777216) PRIV,
     "ram=pc.ram:16777216:4096 "},
    {"mem-path-tmpfs", Q ND "-m 16 -mem-path /dev/shm", Q ND "-m 16" PC(16777216) PRIV,
     "ram=pc.ram:16777216:4096 "},
    {"mem-path-huge", Q ND "-m 16 -mem-path /dev/hugepages -mem-prealloc",
     Q ND "-m 16 -mem-prealloc" RAM_UNALIGNED("pc.ram", 16777216, 0) PRIV,
     "ram=pc.ram:16777216:2097152 "},
    {"mem-path-last", Q ND "-m 16 -mem-path /var -mem-path /dev/shm",
     Q ND "-m 16" PC(16777216) PRIV, "ram=pc.ram:16777216:4096 "},
    {"mem-path-dir", Q ND "-m 16 -mem-path /var", Q ND "-m 16 -mem-path /var" PRIV, "",
     "-mem-path /var"},
    {"mem-path-file", Q ND "-m 16 -mem-path /dev/shm/file",
     Q ND "-m 16 -mem-path /dev/shm/file" PRIV, "", "-mem-path /dev/shm/file"},
    {"mem-path-absent", Q ND "-mem-path /nowhere", Q ND "-mem-path /nowhere" PRIV, "",
     "-mem-path /nowhere"},
    {"mem-path-huge-odd", Q ND "-m 15 -mem-path /dev/hugepages",
     Q ND "-m 15 -mem-path /dev/hugepages" PRIV, "", "huge page"},
    {"docs-memory-backend",
     Q ND "-object memory-backend-file,id=pc.ram,size=512M,mem-path=/dev/hugepages,prealloc=on,"
          "share=on -machine memory-backend=pc.ram -m 512M",
     Q ND "-object memory-backend-file,id=pc.ram,size=512M,prealloc=on," FD(
         0) " -machine memory-backend=pc.ram -m 512M" PRIV,
     "ram=pc.ram:536870912:2097152 "},
    {"docs-canonical",
     Q ND "-object memory-backend-ram,id=pc.ram,size=512M,x-use-canonical-path-for-ramblock-id="
          "off -machine memory-backend=pc.ram -m 512M",
     Q ND "-object memory-backend-file,id=pc.ram,size=512M,x-use-canonical-path-for-ramblock-id="
          "off," FD(0) ",align=2097152 -machine memory-backend=pc.ram -m 512M" PRIV,
     "ram=pc.ram:536870912:4096 "},
    {"docs-numa",
     Q ND "-m 2G -object memory-backend-ram,size=1G,id=m0 "
          "-object memory-backend-ram,size=1G,id=m1 -smp 2 -numa node,nodeid=0,memdev=m0 "
          "-numa node,nodeid=1,memdev=m1,initiator=0",
     Q ND "-m 2G -object memory-backend-file,size=1G,id=m0," FD(
         0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152 -object "
            "memory-backend-file,size=1G,id=m1," FD(
                1) ",x-use-canonical-path-for-ramblock-id=off,align=2097152 "
                   "-smp 2 -numa node,nodeid=0,memdev=m0 "
                   "-numa "
                   "node,nodeid=1,memdev=m1,initiator=0" PRIV,
     "ram=m0:1073741824:4096 ram=m1:1073741824:4096 "},
    {"numa-old", Q ND "-M pc-i440fx-5.0 -m 128 -numa node,mem=64 -numa node,mem=64",
     Q ND "-M pc-i440fx-5.0 -m 128 -numa node,mem=64 -numa node,mem=64" PC128 PRIV, S128},
    {"memfd-huge",
     Q ND "-M q35,memory-backend=m0 -object memory-backend-memfd,id=m0,size=64M,hugetlb=on,"
          "hugetlbsize=2M,seal=off,host-nodes=0-1,policy=bind,dump=off,merge=off,reserve=on,"
          "prealloc-threads=4",
     Q ND "-M q35,memory-backend=m0 -object memory-backend-file,id=m0,size=64M,host-nodes=0-1,"
          "policy=bind,dump=off,merge=off,reserve=on,prealloc-threads=4," FD(0) PRIV,
     "ram=m0:67108864:2097152 "},
    {"memfd-huge-default",
     Q ND "-M memory-backend=m0 -object memory-backend-memfd,id=m0,size=64M,hugetlb=on,share=on",
     Q ND "-M memory-backend=m0 -object memory-backend-file,id=m0,size=64M," FD(0) PRIV,
     "ram=m0:67108864:2097152:seal "},
    {"shm", Q ND "-M memory-backend=m0 -object memory-backend-shm,id=m0,size=64M",
     Q ND "-M memory-backend=m0 -object memory-backend-file,id=m0,size=64M," FD(
         0) ",x-use-canonical-path-for-ramblock-id=off" PRIV,
     "ram=m0:67108864:4096 "},
    {"flag-and-comma",
     Q ND "-M memory-backend=a,,b -object memory-backend-memfd,id=a,,b,"
          "size=64M,share,nodump",
     Q ND "-M memory-backend=a,,b -object memory-backend-file,id=a,,b,"
          "size=64M,dump=off," FD(0) PRIV,
     "ram=a,b:67108864:4096:seal "},
    {"host-nodes-twice",
     Q ND "-M memory-backend=m -object memory-backend-ram,id=m,size=64M,"
          "host-nodes=0,host-nodes=2",
     Q ND "-M memory-backend=m -object memory-backend-file,id=m,"
          "size=64M,host-nodes=0,host-nodes=2," FD(
              0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152" PRIV,
     "ram=m:67108864:4096 "},
    {"json",
     Q ND "-M memory_backend=m0 -object '{\"qom-type\":\"memory-backend-memfd\",\"id\":"
          "\"m0\",\"hugetlb\":true,\"hugetlbsize\":2097152,\"prealloc\":true,\"share\":true,"
          "\"size\":67108864,\"host-nodes\":[0,1],\"policy\":\"bind\"}'",
     Q ND "-M memory_backend=m0 -object '{\"qom-type\":\"memory-backend-file\",\"id\":\"m0\","
          "\"prealloc\":true,\"size\":67108864,\"host-nodes\":[0,1],\"policy\":\"bind\","
          "\"mem-path\":\"/proc/self/fd/@FF_RAM0@\",\"share\":true}'" PRIV,
     "ram=m0:67108864:2097152:seal "},
    {"libvirt-hugepages",
     Q ND
     "-M pc-q35-7.2,memory-backend=pc.ram -m 512 -object "
     "'{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"mem-path\":"
     "\"/dev/hugepages/libvirt\",\"share\":true,\"x-use-canonical-path-for-ramblock-id\":false,"
     "\"prealloc\":true,\"size\":536870912}'",
     Q ND "-M pc-q35-7.2,memory-backend=pc.ram -m 512 -object "
          "'{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\","
          "\"x-use-canonical-path-for-ramblock-id\":false,\"prealloc\":true,\"size\":536870912,"
          "\"mem-path\":\"/proc/self/fd/@FF_RAM0@\",\"share\":true}'" PRIV,
     "ram=pc.ram:536870912:2097152 "},
    {"dimm",
     Q ND "-m 64,slots=2,maxmem=1G -object memory-backend-ram,id=d0,size=128M "
          "-device pc-dimm,id=dimm0,memdev=d0",
     Q ND "-m 64,slots=2,maxmem=1G -object "
          "memory-backend-file,id=d0,size=128M," FD(
              0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152 "
                 "-device pc-dimm,id=dimm0,memdev=d0" RAM("pc.ram", 67108864, 1) PRIV,
     "ram=d0:134217728:4096 ram=pc.ram:67108864:4096 "},
    {"virtio-mem-json",
     Q ND "-object memory-backend-ram,id=d0,size=128M,reserve=off,prealloc=off"
          " -device '{\"driver\":\"virtio-mem-pci\",\"memdev\":\"d0\"}'",
     Q ND "-object memory-backend-file,id=d0,size=128M,reserve=off,prealloc=off," FD(
         0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152"
            " -device '{\"driver\":\"virtio-mem-pci\",\"memdev\":\"d0\"}'" RAM("pc.ram", 134217728,
                                                                               1) PRIV,
     "ram=d0:134217728:4096:unreserved ram=pc.ram:134217728:4096 "},
    {"memfd-huge-unreserved",
     Q ND
     "-M memory-backend=m0 -object "
     "'{\"qom-type\":\"memory-backend-memfd\",\"id\":\"m0\",\"size\":67108864,\"hugetlb\":true,"
     "\"seal\":false,\"reserve\":false}'",
     Q ND
     "-M memory-backend=m0 -object "
     "'{\"qom-type\":\"memory-backend-file\",\"id\":\"m0\",\"size\":67108864,\"reserve\":false,"
     "\"mem-path\":\"/proc/self/fd/@FF_RAM0@\",\"share\":true}'" PRIV,
     "ram=m0:67108864:2097152:unreserved "},
    {"debian-spice", "/usr/bin/qemu-system-x86_64-spice " ND "-m 64",
     "/usr/bin/qemu-system-x86_64-spice " ND "-m 64" PC(67108864) PRIV,
     "ram=pc.ram:67108864:4096 "},
    {"ubuntu-microvm", "/usr/bin/qemu-system-x86_64-microvm " ND "-m 64",
     "/usr/bin/qemu-system-x86_64-microvm " ND "-m 64" RAM("microvm.ram", 67108864, 0) PRIV,
     "ram=microvm.ram:67108864:4096 "},
    {"i386", "qemu-system-i386 " ND "-m 64", "qemu-system-i386 " ND "-m 64" PC(67108864) PRIV,
     "ram=pc.ram:67108864:4096 "},
    {"config", Q ND "-readconfig /plain.cfg", Q ND "-readconfig /plain.cfg" PC(268435456) PRIV,
     "ram=pc.ram:268435456:4096 "},
    {"config-then-m", Q ND "-readconfig /plain.cfg -m 64",
     Q ND "-readconfig /plain.cfg -m 64" PC(67108864) PRIV, "ram=pc.ram:67108864:4096 "},
    {"other-objects", Q ND "-object secret,id=s,data=memory-backend-ram",
     Q ND "-object secret,id=s,data=memory-backend-ram" PC128 PRIV, S128},
    {NULL},
};

/* Memory that stays as it is. */
const ArgvCase argv_left_memory_cases[] = {
    {"file",
     Q "-M memory-backend=m0 -object memory-backend-file,id=m0,size=64M,mem-path="
       "/dev/shm/file,share=on",
     NULL, "", "/dev/shm/file"},
    {"migration-test-ignore-shared",
     Q "-object memory-backend-file,id=mem0,size=150M,mem-path="
       "/dev/shm/file,share=on -numa node,memdev=mem0",
     NULL, "", "id=mem0"},
    {"hugetlbfs-file",
     Q "-object memory-backend-file,id=m0,size=64M,mem-path="
       "/dev/hugepages/file -numa node,memdev=m0",
     NULL, "", "/dev/hugepages/file"},
    {"regular",
     Q "-object memory-backend-file,id=m0,size=64M,mem-path=/var -numa "
       "node,memdev=m0",
     NULL, "", "/var"},
    {"pmem", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/dev/shm,pmem=on", NULL, "",
     "pmem=on"},
    {"readonly", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/dev/shm,readonly=on", NULL,
     "", "readonly=on"},
    {"rom", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/dev/shm,rom=on", NULL, "",
     "rom=on"},
    /* What QEMU 7.2 would lose the guest for is said first. */
    {"pmem-disk", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/var/file,pmem=on", NULL,
     "", "pmem=on for a file of a disk"},
    {"readonly-disk", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/var/file,readonly=on",
     NULL, "", "readonly=on, which"},
    {"nvdimm-disk",
     Q "-m 64 -object memory-backend-file,id=m,size=64M,mem-path=/var/file,share=on -device "
       "nvdimm,memdev=m",
     NULL, "", "file /var/file of a disk"},
    {"nvdimm-mem-path",
     Q "-m 64 -mem-path /var -object memory-backend-ram,id=m,size=64M -device nvdimm,memdev=m",
     NULL, "", "-mem-path /var keeps guest RAM in a file of a disk"},
    {"offset", Q "-object memory-backend-file,id=m0,size=64M,mem-path=/dev/shm,offset=4096", NULL,
     "", "m0"},
    {"one-of-two",
     Q "-m 64 -object memory-backend-epc,id=e,size=64M -object "
       "memory-backend-ram,id=m,size=64M -machine memory-backend=m",
     NULL, "", "epc"},
    {"nvdimm", Q "-m 64 -object memory-backend-ram,id=m,size=64M -device nvdimm,memdev=m", NULL, "",
     "nvdimm,memdev=m"},
    {"ivshmem",
     Q "-m 64 -object memory-backend-memfd,id=m,size=64M,share=on "
       "-device '{\"driver\":\"ivshmem-plain\",\"memdev\":\"m\"}'",
     NULL, "", "ivshmem-plain"},
    {"cxl", Q "-device cxl-type3,volatile-memdev=m -object memory-backend-ram,id=m,size=64M", NULL,
     "", "cxl-type3"},
    {"no-size", Q "-M memory-backend=m -object memory-backend-ram,id=m", NULL, "", "size"},
    {"bad-size", Q "-M memory-backend=m -object memory-backend-ram,id=m,size=x", NULL, "", "size"},
    {"odd-size", Q "-M memory-backend=m -object memory-backend-ram,id=m,size=5000", NULL, "",
     "multiple"},
    {"odd-huge-size",
     Q "-M memory-backend=m -object memory-backend-memfd,id=m,size=65M,"
       "hugetlb=on",
     NULL, "", "multiple"},
    {"no-id", Q "-object memory-backend-ram,size=64M", NULL, "", "id"},
    {"bad-json", Q "-object '{\"qom-type\":\"memory-backend-ram\",'", NULL, "", "JSON"},
    {"no-object", Q "-M memory-backend=m", NULL, "", "memory-backend=m"},
    {"reserved-id", Q "-object memory-backend-ram,id=pc.ram,size=64M", NULL, "", "reserved"},
    {"mem-path-and-backend",
     Q "-mem-path /dev/shm -M memory-backend=m -object "
       "memory-backend-ram,id=m,size=64M",
     NULL, "", "-mem-path"},
    {"unknown-machine", Q "-M own -m 64", NULL, "", "-machine own"},
    {"xenfv", Q "-M xenfv -m 64", NULL, "", "Xen"},
    {"xen-accel", Q "-accel xen -m 64", NULL, "", "Xen"},
    {"sev", Q "-M q35,confidential-guest-support=sev0 -object sev-guest,id=sev0", NULL, "",
     "confidential-guest-support"},
    {"memory-encryption", Q "-M q35,memory-encryption=sev0", NULL, "", "memory-encryption"},
    {"cpr-transfer",
     Q "-object memory-backend-memfd,id=pc.ram,size=150M -machine "
       "memory-backend=pc.ram -machine aux-ram-share=on",
     NULL, "", "cpr-transfer"},
    {"cpr-incoming",
     Q "-incoming tcp:0:44 -incoming cpr,addr.transport=socket,addr.type=unix,"
       "addr.path=/cpr.sock",
     NULL, "incoming=tcp:0:44 ", "cpr"},
    {"global", Q "-global memory-backend-ram.share=on -m 64", NULL, "", "-global"},
    {"global-long", Q "-global driver=memory-backend-memfd,property=seal,value=off", NULL, "",
     "-global"},
    {"set-memdev", Q "-set device.d0.memdev=m1 -m 64", NULL, "", "-set"},
    {"preconfig", Q "-preconfig -m 64", NULL, "", "-preconfig"},
    {"bad-m", Q "-m lots", NULL, "", "-m"},
    {"huge-m", Q "-m 99999999999999999999", NULL, "", "-m"},
    {"memory-size-zero", Q "-M memory.size=0", NULL, "", "-m"},
    {"other-name", "/usr/bin/qemu-system-x86_64_old -m 64", NULL, "", "x86"},
    {"other-arch", "/usr/bin/qemu-system-aarch64 -M virt -m 64", NULL, "", "x86"},
    {"incoming-stays", Q "-M xenfv -incoming tcp:0:44", NULL, "incoming=tcp:0:44 ", "Xen"},
    {NULL},
};
