/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Migrations of guests that farfault started and QEMU carries, and which of the two carries one.
 * QEMU has to work as if farfault were not there, however the destination was told to listen.
 */
#include <string.h>

#include "tests/lib/move.h"
#include "tests/lib/vm.h"

typedef struct {
    const char *name;
    const char *capability; /* set on both sides; NULL: none */
    const char *policy;     /* x-farfault-policy; NULL: as it is */
    bool incoming_argument; /* -incoming URI, not migrate-incoming */
    bool unix_socket;       /* else TCP */
    bool engine;            /* farfault is to carry it */
} Row;

static const Row rows[] = {
    {"command", NULL, NULL},
    {"argument", NULL, NULL, .incoming_argument = true},
    {"argument/unix", NULL, NULL, .incoming_argument = true, .unix_socket = true},
    {"command/multifd", "multifd", NULL},
    {"argument/multifd", "multifd", NULL, .incoming_argument = true},
    {"argument/xbzrle", "xbzrle", NULL, .incoming_argument = true},
    {"never/command", NULL, "never"},
    {"never/argument", NULL, "never", .incoming_argument = true},
    {"never/postcopy", "postcopy-ram", "never"},
    {"never/argument/postcopy", "postcopy-ram", "never", .incoming_argument = true},
    {"always/command", NULL, "always", .engine = true},
    {"always/argument", NULL, "always", .incoming_argument = true, .engine = true},
};

static Vm *start_vm(const Row *row, const char *name, const char *incoming)
{
    return vm_start(
        &(VmConfig){.name = name, .launcher = VM_RUN, .memory = "64M", .incoming = incoming});
}

static void set_up(const Row *row, Qmp *q)
{
    qmp_set_capability(q, "events", true);
    if (row->capability) {
        qmp_set_capability(q, row->capability, true);
    }
    if (row->policy) {
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': '%s'}", row->policy);
    }
}

static void check_carrier(const Row *row, Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    g_assert_cmpint(json_object_has_member(info, "x-farfault"), ==, row->engine);
}

/* The client's settings are what they were, and nothing of the engine's is left. */
static void check_settings(const Row *row, Vm *vm)
{
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "info migrate_capabilities");

    g_assert_nonnull(strstr(text, "x-ignore-shared: off"));
    g_assert_nonnull(strstr(text, "events: on"));
    g_assert_nonnull(strstr(text, "return-path: off"));
}

static void move(const void *opaque)
{
    const Row *row = opaque;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start_vm(row, "source", NULL);
    g_autofree char *path = vm_path(source, "migration");
    g_autofree char *listen =
        row->unix_socket ? g_strdup_printf("unix:%s", path) : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) destination =
        start_vm(row, "destination", row->incoming_argument ? listen : "defer");

    set_up(row, vm_qmp(source));
    set_up(row, vm_qmp(destination));
    if (!row->incoming_argument) {
        qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': '%s'}", listen);
    }
    g_autofree char *uri = row->unix_socket ? g_strdup(listen) : move_listen_uri(destination);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    if (!g_strcmp0(row->capability, "postcopy-ram")) {
        qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    }
    qmp_expect_migration(vm_qmp(source), "completed");
    qmp_expect_migration(vm_qmp(destination), "completed");
    g_autofree char *here = qmp_run_state(vm_qmp(source));
    g_autofree char *there = qmp_run_state(vm_qmp(destination));

    /* QEMU says "completed" a moment before it is. */
    g_assert_true(g_str_equal(here, "postmigrate") || g_str_equal(here, "finish-migrate"));
    g_assert_cmpstr(there, ==, "running");
    check_carrier(row, source);
    check_carrier(row, destination);
    check_settings(row, source);
    check_settings(row, destination);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/native/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], move);
    }
    return g_test_run();
}
