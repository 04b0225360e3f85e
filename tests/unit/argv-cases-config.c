/* SPDX-License-Identifier: GPL-2.0-or-later */
/* -readconfig: what QEMU gets of the files, and which files are left to it. */
#include "tests/unit/argv-cases.h"

#define C Q ND "-readconfig "
#define COPY(N) "/proc/self/fd/@FF_CONFIG" #N "@"
/* As Incus and LXD write it. */
#define QMP_CHARDEV                                                                                \
    "[chardev \"monitor\"]\n"                                                                      \
    "backend = \"socket\"\n"                                                                       \
    "path = \"/v.qmp\"\n"                                                                          \
    "server = \"on\"\n"                                                                            \
    "wait = \"off\"\n\n"
#define QMP_CHARDEV_COPY                                                                           \
    "[chardev \"monitor\"]\n"                                                                      \
    "backend = \"socket\"\n"                                                                       \
    "fd = \"@FF_MON0@\"\n"                                                                         \
    "server = \"on\"\n"                                                                            \
    "wait = \"off\"\n\n"
#define QMP_MON                                                                                    \
    "[mon]\n"                                                                                      \
    "chardev = \"monitor\"\n"                                                                      \
    "mode = \"control\"\n\n"
#define INCUS_HEAD                                                                                 \
    "# Machine\n"                                                                                  \
    "[machine]\n"                                                                                  \
    "graphics = \"off\"\n"                                                                         \
    "type = \"q35\"\n\n"                                                                           \
    "[memory]\n"                                                                                   \
    "size = \"64M\"\n\n"
#define INCUS_MEM "[object \"mem0\"]\nqom-type = \"memory-backend-memfd\"\nsize = \"64M\"\n"
#define INCUS_NUMA                                                                                 \
    "share = \"on\"\n\n[numa]\ntype = \"node\"\nnodeid = \"0\"\nmemdev = \"mem0\"\n\n"
#define INCUS_MEM_COPY                                                                             \
    "[object \"mem0\"]\n"                                                                          \
    "qom-type = \"memory-backend-file\"\n"                                                         \
    "size = \"64M\"\n"                                                                             \
    "mem-path = \"/proc/self/fd/@FF_RAM0@\"\n"                                                     \
    "share = \"on\"\n"                                                                             \
    "[numa]\ntype = \"node\"\nnodeid = \"0\"\nmemdev = \"mem0\"\n\n"

const ArgvFile argv_config_files[] = {
    {"/incus", INCUS_HEAD QMP_CHARDEV QMP_MON INCUS_MEM INCUS_NUMA},
    {"/qmp", QMP_CHARDEV QMP_MON},
    {"/chardev", QMP_CHARDEV},
    {"/mon", QMP_MON},
    {"/numa", "[numa]\ntype = \"node\"\nmemdev = \"m0\"\n"},
    {"/ram", "[object \"m0\"]\n  qom-type = \"memory-backend-ram\"  # as ever\n  size=\"x\"\n"},
    {"/ram0", "[object]\nid = \"m0\"\nqom-type = \"memory-backend-ram\"\nsize = \"64M\""},
    {"/huge", "[object \"m0\"]\nqom-type = \"memory-backend-file\"\nmem-path = \"/dev/hugepages\"\n"
              "prealloc = \"on\"\ndiscard-data = \"on\"\nsize = \"64M\"\nhost-nodes.0 = \"0\"\n"
              "policy = \"bind\"\n[machine]\nmemory-backend = \"m0\"\n"},
    {"/fd", "[chardev \"m\"]\nbackend = \"socket\"\nfd = \"31\"\nserver = \"on\"\n"
            "[mon \"m\"]\nchardev = \"m\"\nmode = \"control\"\n"},
    {"/comma", "[chardev \"m\"]\nbackend = \"socket\"\npath = \"/a,b=c\"\n"
               "[mon \"m\"]\nchardev = \"m\"\nmode = \"control\"\n"},
    {"/disk", "[chardev \"v\"]\nbackend = \"socket\"\npath = \"/b\"\n"
              "[device \"d\"]\ndriver = \"vhost-user-blk-pci\"\nchardev = \"v\"\n"},
    {"/twice", "[chardev \"c\"]\nbackend = \"file\"\nbackend = \"socket\"\npath = \"/x\"\n"
               "path = \"/a\"\nserver = \"on\"\nid = \"d\"\n"
               "[mon]\nchardev = \"d\"\nmode = \"readline\"\nmode = \"control\"\n"},
    {"/name", "[name]\n guest = \"me\"\n[accel]\naccel = \"tcg\"\n"},
    /* left to QEMU */
    {"/telnet", "[chardev \"c\"]\nbackend = \"socket\"\nhost = \"h\"\nport = \"1\"\n"
                "server = \"on\"\ntelnet = \"on\"\n[mon \"m\"]\nchardev = \"c\"\n"
                "mode = \"control\"\n"},
    {"/no-path", "[chardev \"c\"]\nbackend = \"socket\"\n[mon]\nchardev = \"c\"\n"
                 "mode = \"control\"\n"},
    {"/shared", QMP_CHARDEV QMP_MON "[device]\ndriver = \"isa-serial\"\nchardev = \"monitor\"\n"},
    {"/mon-object", "[chardev \"c\"]\nbackend = \"null\"\n[object \"m\"]\nchardev = \"c\"\n"
                    "qom-type = \"monitor-qmp\"\n"},
    {"/file", "[object \"m0\"]\nqom-type = \"memory-backend-file\"\nsize = \"64M\"\n"
              "mem-path = \"/var/file\"\n[numa]\nmemdev = \"m0\"\n"},
    {"/global",
     "[global]\ndriver = \"memory-backend-ram\"\nproperty = \"share\"\nvalue = \"on\"\n"},
    {"/nvdimm", "[device]\ndriver = \"nvdimm\"\nmemdev = \"m0\"\n"},
    {"/xen", "[accel]\naccel = \"xen\"\n"},
    {"/no-bracket", "[chardev \"c\"\nbackend = \"null\"\n"},
    {"/no-bracket-at-end", "[machine]\n[mon"},
    {"/no-quote", "[chardev \"c]\n"},
    {"/no-name", "[]\n"},
    {"/more", "[mon] \"m\"]\n"},
    {"/blank", "[machine ]\n"},
    {"/blank-line", "[machine]\n \n"},
    {"/cr", "[machine]\r\n"},
    {"/no-section", "type = \"q35\"\n"},
    {"/no-value", "[machine]\ntype = q35\n"},
    {"/open-value", "[machine]\ntype = \"q35\n"},
    {"/odd-key", "[chardev \"c\"]\npath=\"/x\",server = \"on\"\n"},
    {"/odd-comment", " # QEMU takes none there\n"},
    {"/control", "[machine]\ntype = \"q35\x0b\"\n"},
    {NULL},
};

const ArgvCase argv_config_cases[] = {
    {"incus", C "/incus", C COPY(0) PRIV,
     "ram=mem0:67108864:4096:seal "
     "mon=monitor:listen-unix:/v.qmp ",
     .configs = INCUS_HEAD QMP_CHARDEV_COPY QMP_MON INCUS_MEM_COPY},
    {"incoming", C "/incus -incoming tcp:0:44", C COPY(0) " -incoming defer" PRIV,
     "ram=mem0:67108864:4096:seal mon=monitor:listen-unix:/v.qmp takes=tcp:0:44 ",
     .configs = INCUS_HEAD QMP_CHARDEV_COPY QMP_MON INCUS_MEM_COPY},
    {"qmp", C "/qmp -m 128", C COPY(0) " -m 128" PC128 PRIV, S128 "mon=monitor:listen-unix:/v.qmp ",
     .configs = QMP_CHARDEV_COPY QMP_MON},
    /* Two files, of which one is changed; the option that goes with a section of another. */
    {"two-files", C "/mon -readconfig /chardev", C "/mon -readconfig " COPY(0) PC128 PRIV,
     S128 "mon=monitor:listen-unix:/v.qmp ", .configs = QMP_CHARDEV_COPY},
    {"own-mon", C "/chardev -mon monitor,mode=control",
     C COPY(0) " -mon monitor,mode=control" PC128 PRIV, S128 "mon=monitor:listen-unix:/v.qmp ",
     .configs = QMP_CHARDEV_COPY},
    {"own-qmp", C "/chardev -qmp chardev:monitor", C COPY(0) " -qmp chardev:monitor" PC128 PRIV,
     S128 "mon=monitor:listen-unix:/v.qmp ", .configs = QMP_CHARDEV_COPY},
    {"own-chardev", C "/mon -chardev socket,id=monitor,path=/a",
     C "/mon " MON("monitor", 0, "off") PC128 PRIV, S128 "mon=monitor:connect-unix:/a "},
    {"own-object", C "/numa -object memory-backend-ram,id=m0,size=64M",
     C "/numa -object memory-backend-file,id=m0,size=64M," FD(
         0) ",x-use-canonical-path-for-ramblock-id=off,align=2097152" PRIV,
     "ram=m0:67108864:4096 "},
    {"own-numa", C "/ram0 -numa node,memdev=m0", C COPY(0) " -numa node,memdev=m0" PRIV,
     "ram=m0:67108864:4096 ",
     .configs = "[object]\nid = \"m0\"\nqom-type = \"memory-backend-file\"\nsize = \"64M\"\n"
                "mem-path = \"/proc/self/fd/@FF_RAM0@\"\nshare = \"on\"\n"
                "x-use-canonical-path-for-ramblock-id = \"off\"\nalign = \"2097152\""},
    {"huge", C "/huge", C COPY(0) PRIV, "ram=m0:67108864:2097152 ",
     .configs = "[object \"m0\"]\nqom-type = \"memory-backend-file\"\nprealloc = \"on\"\n"
                "size = \"64M\"\nhost-nodes.0 = \"0\"\npolicy = \"bind\"\n"
                "mem-path = \"/proc/self/fd/@FF_RAM0@\"\nshare = \"on\"\n"
                "[machine]\nmemory-backend = \"m0\"\n"},
    {"huge-incoming", C "/huge -incoming defer", C COPY(0) " -incoming defer" PRIV,
     "ram=m0:67108864:2097152 incoming=defer ",
     .configs = "[object \"m0\"]\nqom-type = \"memory-backend-file\"\nsize = \"64M\"\n"
                "host-nodes.0 = \"0\"\npolicy = \"bind\"\n"
                "mem-path = \"/proc/self/fd/@FF_RAM0@\"\nshare = \"on\"\n\n"
                "[machine]\nmemory-backend = \"m0\"\n"},
    {"fd", C "/fd", C COPY(0) PC128 DOOR(9) PRIV, S128 "mon=m:listen-fd:31:wait ",
     .configs = "[chardev \"m\"]\nbackend = \"socket\"\nfd = \"@FF_MON0@\"\nserver = \"on\"\n"
                "wait = \"on\"\n[mon \"m\"]\nchardev = \"m\"\nmode = \"control\"\n"},
    {"comma", C "/comma", C COPY(0) PC128 PRIV, S128 "mon=m:connect-unix:/a,b=c ",
     .configs = "[chardev \"m\"]\nbackend = \"socket\"\nfd = \"@FF_MON0@\"\nserver = \"on\"\n"
                "wait = \"off\"\n[mon \"m\"]\nchardev = \"m\"\nmode = \"control\"\n"},
    {"disk", C "/disk", C COPY(0) PC128 PRIV, S128 "mon=v:connect-unix:/b:backend ",
     .configs = "[chardev \"v\"]\nbackend = \"socket\"\nfd = \"@FF_MON0@\"\nserver = \"on\"\n"
                "wait = \"off\"\n[device \"d\"]\ndriver = \"vhost-user-blk-pci\"\n"
                "chardev = \"v\"\n"},
    {"twice", C "/twice", C COPY(0) PC128 PRIV, S128 "mon=d:listen-unix:/a:wait ",
     .configs = "[chardev \"c\"]\nbackend = \"socket\"\nid = \"d\"\nfd = \"@FF_MON0@\"\n"
                "server = \"on\"\nwait = \"on\"\n\n"
                "[mon]\nchardev = \"d\"\nmode = \"readline\"\nmode = \"control\"\n"},
    {"name", C "/name", C "/name" PC128 PRIV, S128 "name=me "},
    {NULL},
};

/* For test_left(): no word is changed. */
const ArgvCase argv_left_config_cases[] = {
    {"telnet", C "/telnet", NULL, "", "QMP monitor c of /telnet stays QEMU's own (telnet)",
     "QMP monitor c (telnet) of /telnet stays QEMU's own"},
    {"no-path", C "/no-path", NULL, "", "QMP monitor c of /no-path stays QEMU's own"},
    {"shared", C "/shared", NULL, "", "QMP monitor monitor of /shared", "has another user"},
    {"no-chardev", C "/mon", NULL, "", "QMP monitor monitor of /mon", "not on the command line"},
    {"again", C "/qmp -readconfig /qmp", NULL, "", "QMP monitor monitor of /qmp", .warnings = 2},
    {"again-own", C "/qmp -chardev socket,id=monitor,path=/a", NULL, "",
     "QMP monitor monitor of /qmp", "has another user"},
    {"set-chardev", C "/qmp -set chardev.monitor.path=/a", NULL, "", "QMP monitor monitor of /qmp",
     "has another user"},
    {"set-mon", C "/name -set mon.m.mode=control", NULL, "name=me ", "-set mon.m.mode=control"},
    {"set-numa", C "/name -set numa.n.memdev=m", NULL, "name=me ", "-set numa.n.memdev=m"},
    {"mon-object", Q ND "-monitor none -readconfig /mon-object", NULL, "",
     "QMP monitor c of /mon-object", "QMP monitor c (null) of /mon-object"},
    {"file", C "/file", NULL, "",
     "-object memory-backend-file,id=m0 of /file keeps guest RAM in the file /var/file of a disk"},
    {"global", C "/global", NULL, "", "-global"},
    {"nvdimm", C "/nvdimm", NULL, "", "nvdimm,memdev=m0"},
    {"xen", C "/xen", NULL, "", "Xen"},
    {"bad-size", C "/ram", NULL, "", "/ram: line 3 is none", "/ram: line 3 is none"},
    {"no-bracket", C "/no-bracket", NULL, "", ": line 1", ": line 1"},
    {"no-bracket-at-end", C "/no-bracket-at-end", NULL, "", ": line 2", ": line 2"},
    {"no-quote", C "/no-quote", NULL, "", ": line 1", ": line 1"},
    {"no-name", C "/no-name", NULL, "", ": line 1", ": line 1"},
    {"more", C "/more", NULL, "", ": line 1", ": line 1"},
    {"blank", C "/blank", NULL, "", ": line 1", ": line 1"},
    {"blank-line", C "/blank-line", NULL, "", ": line 2", ": line 2"},
    {"cr", C "/cr", NULL, "", ": line 1", ": line 1"},
    {"no-section", C "/no-section", NULL, "", ": line 1", ": line 1"},
    {"no-value", C "/no-value", NULL, "", ": line 2", ": line 2"},
    {"open-value", C "/open-value", NULL, "", ": line 2", ": line 2"},
    {"odd-key", C "/odd-key", NULL, "", ": line 2", ": line 2"},
    {"odd-comment", C "/odd-comment", NULL, "", ": line 1", ": line 1"},
    {"control", C "/control", NULL, "", ": line 2", ": line 2"},
    {"absent", C "/nowhere", NULL, "", "/nowhere"},
    {NULL},
};
