/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stands against a migration is said at once, in QEMU's words: devices and disk formats that
 * cannot move, -only-migratable. The same commands go to a plain QEMU and to one under farfault.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "tests/lib/vm.h"

typedef struct {
    const char *name;
    const char *const *args;
    const char *format; /* of an image "v0" beside it; NULL: none */
    const char *expected;
    bool blocked; /* migrate is refused */
} Row;

static const char *const nvme[] = {"-blockdev", "driver=null-co,node-name=n0", "-device",
                                   "nvme,serial=1,drive=n0,id=disk", NULL};
static const char *const only[] = {"-only-migratable", "-blockdev", "driver=null-co,node-name=n0",
                                   NULL};

static const Row rows[] = {
    {"device", nvme, NULL, "non-migratable device", true},
    {"format", NULL, "vdi", "vdi format used by node 'v0' does not support live migration", true},
    {"only-migratable", only, NULL, "--only-migratable", false},
};

static const struct {
    const char *command, *args;
} commands[] = {
    {"query-migrate", NULL},
    {"human-monitor-command", "{'command-line': 'info migrate'}"},
    {"migrate-set-capabilities",
     "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}]}"},
    {"device_add", "{'driver': 'nvme', 'serial': '2', 'drive': 'n0'}"},
    {"migrate", "{'uri': 'unix:/nonexistent/socket'}"},
    {"human-monitor-command", "{'command-line': 'migrate -d unix:/nonexistent/socket'}"},
    {"query-status", NULL},
};

static Vm *start(const Row *row, VmLauncher launcher, const char *image)
{
    g_autofree char *disk =
        g_strdup_printf("driver=%s,node-name=v0,file.driver=file,file.filename=%s,file.locking=off",
                        row->format, image);
    const char *const with_image[] = {"-blockdev", disk, NULL};

    return vm_start(&(VmConfig){.name = launcher == VM_PLAIN ? "plain" : "own",
                                .launcher = launcher,
                                .memory = "16M",
                                .args = row->format ? with_image : row->args});
}

static char *answer(Vm *vm, const char *command, const char *args)
{
    g_autoptr(JsonObject) reply =
        args ? qmp_call(vm_qmp(vm), command, "%s", args) : qmp_call(vm_qmp(vm), command, NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_object_remove_member(reply, "id");
    json_node_set_object(node, reply);
    return json_to_string(node, FALSE);
}

static void compare(const void *opaque)
{
    const Row *row = opaque;
    g_autofree char *dir = g_dir_make_tmp("ff-blockers-XXXXXX", NULL);
    g_autofree char *image = g_build_filename(dir, "image", NULL);
    const char *const argv[] = {"qemu-img", "create", "-q", "-f", row->format, image, "1M", NULL};
    int status = 0;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
    } else if (row->format && (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL,
                                             NULL, NULL, NULL, &status, NULL) ||
                               status)) {
        g_test_skip("no qemu-img");
    } else {
        g_autoptr(Vm) plain = start(row, VM_PLAIN, image);
        g_autoptr(Vm) own = start(row, VM_RUN, image);
        bool met = false;

        for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
            if (!row->blocked && strstr(commands[i].args ? commands[i].args : "", "nonexistent")) {
                continue;
            }
            g_autofree char *expected = answer(plain, commands[i].command, commands[i].args);
            g_autofree char *got = answer(own, commands[i].command, commands[i].args);

            met |= strstr(expected, row->expected) != NULL;
            if (strcmp(expected, got)) {
                g_test_message("%s\n  QEMU:     %s\n  farfault: %s", commands[i].command, expected,
                               got);
                g_test_fail_printf("another answer than QEMU's");
            }
        }
        g_assert_true(met);
    }
    g_remove(image);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/blockers/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], compare);
    }
    return g_test_run();
}
