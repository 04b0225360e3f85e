/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the table of QEMU's options: which take an argument, which may ask for help.
 *
 * The table is the union of the x86 options of QEMU 7.2 to 10.x, with a few that older ones had:
 * an option that this QEMU lacks makes it stop by itself. What matters is has_arg: the argument
 * of an option may begin with "-" or look like another option (-append -S), and must not be
 * taken for one. Constant data; any thread.
 */
#include "guest/launch/argv-opts.h"

#include <string.h>

#define FLAG(NAME)                                                                                 \
    {                                                                                              \
        NAME, false, FF_OPT_OTHER, FF_HELP_NO, NULL                                                \
    }
#define TEXT(NAME)                                                                                 \
    {                                                                                              \
        NAME, true, FF_OPT_OTHER, FF_HELP_NO, NULL                                                 \
    }
#define LIST(NAME, IMPLIED)                                                                        \
    {                                                                                              \
        NAME, true, FF_OPT_OTHER, FF_HELP_PART, IMPLIED                                            \
    }

static const FfOption options[] = {
    {"h", false, FF_OPT_QUITS, FF_HELP_NO, NULL},
    {"help", false, FF_OPT_QUITS, FF_HELP_NO, NULL},
    {"version", false, FF_OPT_QUITS, FF_HELP_NO, NULL},
    {"audio-help", false, FF_OPT_QUITS, FF_HELP_NO, NULL},
    {"dump-vmstate", true, FF_OPT_QUITS, FF_HELP_NO, NULL},
    {"machine", true, FF_OPT_MACHINE, FF_HELP_PART, "type"},
    {"M", true, FF_OPT_MACHINE, FF_HELP_PART, "type"},
    {"cpu", true, FF_OPT_CPU, FF_HELP_WHOLE, NULL},
    {"accel", true, FF_OPT_ACCEL, FF_HELP_PART, "accel"},
    {"m", true, FF_OPT_M, FF_HELP_PART, "size"},
    {"mem-path", true, FF_OPT_MEM_PATH, FF_HELP_NO, NULL},
    {"mem-prealloc", false, FF_OPT_MEM_PREALLOC, FF_HELP_NO, NULL},
    {"numa", true, FF_OPT_NUMA, FF_HELP_PART, "type"},
    {"object", true, FF_OPT_OBJECT, FF_HELP_PART, "qom-type"},
    {"device", true, FF_OPT_DEVICE, FF_HELP_PART, "driver"},
    {"netdev", true, FF_OPT_NETDEV, FF_HELP_PART, "type"},
    {"chardev", true, FF_OPT_CHARDEV, FF_HELP_PART, "backend"},
    {"mon", true, FF_OPT_MON, FF_HELP_PART, "chardev"},
    {"monitor", true, FF_OPT_MONITOR, FF_HELP_NO, NULL},
    {"qmp", true, FF_OPT_QMP, FF_HELP_NO, NULL},
    {"qmp-pretty", true, FF_OPT_QMP_PRETTY, FF_HELP_NO, NULL},
    {"serial", true, FF_OPT_SERIAL, FF_HELP_NO, NULL},
    {"parallel", true, FF_OPT_PARALLEL, FF_HELP_NO, NULL},
    {"debugcon", true, FF_OPT_CHARDEV_USER, FF_HELP_NO, NULL},
    {"gdb", true, FF_OPT_CHARDEV_USER, FF_HELP_NO, NULL},
    {"qtest", true, FF_OPT_CHARDEV_USER, FF_HELP_NO, NULL},
    {"tpmdev", true, FF_OPT_TPMDEV, FF_HELP_PART, "type"},
    {"incoming", true, FF_OPT_INCOMING, FF_HELP_NO, NULL},
    {"name", true, FF_OPT_NAME, FF_HELP_PART, "guest"},
    {"global", true, FF_OPT_GLOBAL, FF_HELP_NO, NULL},
    {"set", true, FF_OPT_SET, FF_HELP_NO, NULL},
    {"readconfig", true, FF_OPT_READCONFIG, FF_HELP_NO, NULL},
    {"no-user-config", false, FF_OPT_NO_USER_CONFIG, FF_HELP_NO, NULL},
    {"nodefaults", false, FF_OPT_NODEFAULTS, FF_HELP_NO, NULL},
    {"nographic", false, FF_OPT_NOGRAPHIC, FF_HELP_NO, NULL},
    {"preconfig", false, FF_OPT_PRECONFIG, FF_HELP_NO, NULL},
    {"S", false, FF_OPT_S, FF_HELP_NO, NULL},
    {"daemonize", false, FF_OPT_DAEMONIZE, FF_HELP_NO, NULL},
    {"runas", true, FF_OPT_RUNAS, FF_HELP_NO, NULL},
    {"run-with", true, FF_OPT_RUN_WITH, FF_HELP_PART, NULL},
    {"d", true, FF_OPT_LOG, FF_HELP_WHOLE, NULL},
    {"L", true, FF_OPT_OTHER, FF_HELP_WHOLE, NULL},
    {"vga", true, FF_OPT_OTHER, FF_HELP_WHOLE, NULL},
    {"soundhw", true, FF_OPT_OTHER, FF_HELP_WHOLE, NULL},
    {"watchdog", true, FF_OPT_OTHER, FF_HELP_WHOLE, NULL},
    LIST("smp", "cpus"),
    LIST("boot", "order"),
    LIST("audio", "driver"),
    LIST("audiodev", "driver"),
    LIST("drive", NULL),
    LIST("fsdev", "fsdriver"),
    LIST("virtfs", "fsdriver"),
    LIST("iscsi", NULL),
    LIST("display", "type"),
    LIST("spice", NULL),
    LIST("acpitable", NULL),
    LIST("smbios", NULL),
    LIST("nic", "type"),
    LIST("net", "type"),
    LIST("compat", NULL),
    LIST("overcommit", NULL),
    LIST("option-rom", "romfile"),
    LIST("rtc", NULL),
    LIST("icount", "shift"),
    LIST("action", NULL),
    LIST("semihosting-config", NULL),
    LIST("sandbox", "enable"),
    LIST("trace", "enable"),
    LIST("plugin", "file"),
    LIST("msg", NULL),
    LIST("fw_cfg", "name"),
    LIST("add-fd", NULL),
    TEXT("append"),
    TEXT("balloon"),
    TEXT("bios"),
    TEXT("blockdev"),
    TEXT("cdrom"),
    TEXT("chroot"),
    TEXT("D"),
    TEXT("dfilter"),
    TEXT("dtb"),
    TEXT("echr"),
    TEXT("fda"),
    TEXT("fdb"),
    TEXT("g"),
    TEXT("hda"),
    TEXT("hdb"),
    TEXT("hdc"),
    TEXT("hdd"),
    TEXT("initrd"),
    TEXT("k"),
    TEXT("kernel"),
    TEXT("loadvm"),
    TEXT("mtdblock"),
    TEXT("pflash"),
    TEXT("pidfile"),
    TEXT("prom-env"),
    TEXT("qtest-log"),
    TEXT("realtime"),
    TEXT("rotate"),
    TEXT("sd"),
    TEXT("seed"),
    TEXT("shim"),
    TEXT("tb-size"),
    TEXT("usbdevice"),
    TEXT("uuid"),
    TEXT("vnc"),
    TEXT("watchdog-action"),
    TEXT("writeconfig"),
    TEXT("xen-domid"),
    FLAG("alt-grab"),
    FLAG("async-teardown"),
    FLAG("ctrl-grab"),
    FLAG("curses"),
    FLAG("enable-kvm"),
    FLAG("enable-sync-profile"),
    FLAG("full-screen"),
    FLAG("jitdump"),
    FLAG("no-acpi"),
    FLAG("no-fd-bootchk"),
    FLAG("no-frame"),
    FLAG("no-hpet"),
    FLAG("no-quit"),
    FLAG("no-reboot"),
    FLAG("no-shutdown"),
    FLAG("old-param"),
    FLAG("only-migratable"),
    FLAG("perfmap"),
    FLAG("portrait"),
    FLAG("s"),
    FLAG("sdl"),
    FLAG("semihosting"),
    FLAG("show-cursor"),
    FLAG("singlestep"),
    FLAG("snapshot"),
    FLAG("usb"),
    FLAG("win2k-hack"),
    FLAG("xen-attach"),
    FLAG("xen-domid-restrict"),
};

const FfOption *ff_option_find(const char *word)
{
    if (word[0] != '-') {
        return NULL;
    }
    word += word[1] == '-' ? 2 : 1;
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (!strcmp(options[i].name, word)) {
            return &options[i];
        }
    }
    return NULL;
}
