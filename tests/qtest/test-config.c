/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests of which a file for -readconfig has everything, as Incus and LXD write it: machine,
 * memory, devices and the QMP monitor. The relay stands before that monitor, all RAM is shared, and
 * a postcopy moves the guest, with each QEMU that there is. One thread.
 */
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define HEAD                                                                                       \
    "# Machine\n"                                                                                  \
    "[machine]\n"                                                                                  \
    "graphics = \"off\"\n"                                                                         \
    "type = \"q35\"\n"                                                                             \
    "usb = \"off\"\n\n"                                                                            \
    "[global]\n"                                                                                   \
    "driver = \"ICH9-LPC\"\n"                                                                      \
    "property = \"disable_s3\"\n"                                                                  \
    "value = \"1\"\n\n"                                                                            \
    "[boot-opts]\n"                                                                                \
    "strict = \"off\"\n\n"                                                                         \
    "# CPU\n"                                                                                      \
    "[smp-opts]\n"                                                                                 \
    "maxcpus = \"2\"\n\n"                                                                          \
    "[device \"qemu_pcie0\"]\n"                                                                    \
    "addr = \"01.0\"\n"                                                                            \
    "bus = \"pcie.0\"\n"                                                                           \
    "chassis = \"0\"\n"                                                                            \
    "driver = \"pcie-root-port\"\n"                                                                \
    "multifunction = \"on\"\n"                                                                     \
    "port = \"0\"\n\n"                                                                             \
    "[device \"qemu_balloon\"]\n"                                                                  \
    "addr = \"00.0\"\n"                                                                            \
    "bus = \"qemu_pcie0\"\n"                                                                       \
    "driver = \"virtio-balloon-pci\"\n\n"                                                          \
    "[device \"qemu_rng\"]\n"                                                                      \
    "driver = \"virtio-rng-pci\"\n"                                                                \
    "rng = \"qemu_rng\"\n\n"                                                                       \
    "[object \"qemu_rng\"]\n"                                                                      \
    "filename = \"/dev/urandom\"\n"                                                                \
    "qom-type = \"rng-random\"\n\n"                                                                \
    "[chardev \"ring\"]\n"                                                                         \
    "backend = \"ringbuf\"\n"                                                                      \
    "size = \"16B\"\n\n"
#define SIZE "[memory]\nsize = \"64M\"\n\n"
#define NUMA                                                                                       \
    "[numa]\n"                                                                                     \
    "type = \"node\"\n"                                                                            \
    "nodeid = \"0\"\n"                                                                             \
    "memdev = \"mem0\"\n\n"
#define MEMFD "[object \"mem0\"]\nqom-type = \"memory-backend-memfd\"\nsize = \"64M\"\n"

typedef struct {
    const char *name, *sections;
    unsigned major;   /* vm_qemu(); 0: the installed one */
    const char *args; /* more of them, separated by blanks; NULL */
} Row;

static const Row rows[] = {
    {"memfd", HEAD SIZE MEMFD "share = \"on\"\n\n" NUMA},
    {"memfd/qemu10", HEAD SIZE MEMFD "share = \"on\"\n\n" NUMA, 10},
    {"memfd/qemu11", HEAD SIZE MEMFD "share = \"on\"\n\n" NUMA, 11},
    {"memfd/private", HEAD SIZE MEMFD "share = \"off\"\n" NUMA},
    {"file", HEAD SIZE "[object \"mem0\"]\nqom-type = \"memory-backend-file\"\nsize = \"64M\"\n"
                       "mem-path = \"/dev/shm\"\nprealloc = \"on\"\ndiscard-data = \"on\"\n"
                       "share = \"on\"\n\n" NUMA},
    {"named", HEAD "[machine]\nmemory-backend = \"mem0\"\n" MEMFD},
    {"default", HEAD SIZE},
    {"default/qemu10", HEAD SIZE, 10},
    /* QEMU reads the file before any of it takes effect. */
    {"confined", HEAD SIZE MEMFD NUMA, 0,
     "-sandbox on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"},
};

static bool has_command(Vm *vm, const char *name)
{
    g_autoptr(JsonObject) reply = qmp_call(vm_qmp(vm), "query-commands", NULL);
    JsonArray *commands = json_object_get_array_member(reply, "return");

    for (guint i = 0; i < json_array_get_length(commands); i++) {
        JsonObject *command = json_array_get_object_element(commands, i);

        if (!strcmp(json_object_get_string_member(command, "name"), name)) {
            return true;
        }
    }
    return false;
}

static void check_side(Vm *vm)
{
    g_autofree char *memdev = qmp_hmp(vm_qmp(vm), "info memdev");

    g_assert_true(has_command(vm, "x-farfault-snapshot"));
    g_assert_nonnull(strstr(memdev, "share: true"));
    g_assert_null(strstr(memdev, "share: false"));
}

static void test_move(gconstpointer opaque)
{
    const Row *row = opaque;
    g_autofree char *qemu = row->major ? vm_qemu(row->major) : NULL;
    g_auto(GStrv) args = row->args ? g_strsplit(row->args, " ", -1) : NULL;

    if (row->major && !qemu) {
        return;
    }
    Move *m = move_new(&(MoveConfig){
        .qemu = qemu, .sections = row->sections, .devices = (const char *const *)args});
    if (m) {
        check_side(m->source);
        check_side(m->destination);
        move_start(m);
        qmp_expect_migration(vm_qmp(m->source), "active");
        move_switch(m);
        move_finish(m);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/config/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_move);
    }
    return g_test_run();
}
