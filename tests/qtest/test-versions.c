/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From one QEMU to another, with the newest machine type that both have: by postcopy, after passes
 * of precopy, and by precopy alone; through farfault, and by QEMU itself, to know that what is
 * asked for is possible.
 *
 * From the installed QEMU 7.2 to QEMU 10, which is that of vm_newer_qemu(); or from FF_QEMU to
 * FF_PEER_QEMU, if there are both (scripts/matrix).
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 24

typedef struct {
    const char *name;
    VmLauncher launcher;
    int passes; /* of precopy, then postcopy; -1: never */
} Row;

static const Row rows[] = {
    {"native/postcopy", VM_PLAIN, 0}, {"farfault/postcopy", VM_RUN, 0},
    {"farfault/hybrid", VM_RUN, 3},   {"native/precopy", VM_PLAIN, -1},
    {"farfault/precopy", VM_RUN, -1},
};

typedef struct {
    char *from, *to, *machine;
} Pair;

static void pair_clear(Pair *pair)
{
    g_free(pair->from);
    g_free(pair->to);
    g_free(pair->machine);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pair, pair_clear)

/* What QEMU says of its machines (g_free). */
static char *machines_of(const char *qemu)
{
    char *argv[] = {(char *)qemu, (char *)"-machine", (char *)"help", NULL}, *text = NULL;
    int status = -1;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &text, NULL,
                               &status, NULL));
    g_assert_cmpint(status, ==, 0);
    return text;
}

/* The newest that both have (g_free). */
static char *common_machine(const char *from, const char *to)
{
    g_autofree char *one = machines_of(from), *other = machines_of(to);
    g_auto(GStrv) lines = g_strsplit(one, "\n", -1);
    unsigned best = 0;

    for (char **line = lines; *line; line++) {
        unsigned major, minor;

        if (sscanf(*line, "pc-i440fx-%u.%u ", &major, &minor) == 2) {
            g_autofree char *name = g_strdup_printf("\npc-i440fx-%u.%u ", major, minor);

            best = strstr(other, name) ? MAX(best, major << 8 | minor) : best;
        }
    }
    return best ? g_strdup_printf("pc-i440fx-%u.%u", best >> 8, best & 0xff) : NULL;
}

/* FALSE: the test is skipped. */
static bool pair_find(Pair *pair)
{
    const char *from = g_getenv("FF_QEMU"), *to = g_getenv("FF_PEER_QEMU");

    pair->from = g_strdup(from && to ? from : "qemu-system-x86_64");
    if (from && to) {
        pair->to = g_strdup(to);
    } else if (!vm_is_qemu(pair->from, "7.2")) {
        g_test_skip("the installed QEMU is not 7.2");
        return false;
    } else if (!(pair->to = vm_newer_qemu())) {
        return false;
    }
    pair->machine = common_machine(pair->from, pair->to);
    if (!pair->machine) {
        g_test_skip("these QEMUs have no machine type in common");
        return false;
    }
    g_test_message("%s to %s: %s", pair->from, pair->to, pair->machine);
    return true;
}

static void move(const Row *row, Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000, 'downtime-limit': %d}",
           row->passes < 0 ? 30000 : 0);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    while (row->passes > 0 && move_ram_count(source, "dirty-sync-count") < row->passes) {
    }
    if (row->passes >= 0)
        qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    move_wait_completed(source, destination);
}

static void test_row(gconstpointer data)
{
    g_auto(Pair) pair = {0};
    const Row *row = data;
    const char *why = NULL;
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);

    if (row->launcher == VM_RUN && !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!pair_find(&pair)) {
        return;
    }
    const char *const args[] = {"-machine", pair.machine, "-smp", "2", NULL};
    VmConfig config = {.name = "source",
                       .launcher = row->launcher,
                       .qemu = pair.from,
                       .memory = G_STRINGIFY(RAM_MIB) "M",
                       .args = args,
                       .boot = &boot};
    Vm *source = vm_start(&config);
    config.name = "destination";
    config.qemu = pair.to;
    config.incoming = "defer";
    Vm *destination = vm_start(&config);
    move(row, source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(vm_qmp(destination), "stop", NULL);
    g_autofree char *wrong = check_counters(destination, &boot);
    /* QEMU's own precopy under TCG may lose pages (7.2). */
    if (wrong && row->launcher == VM_RUN)
        g_test_fail_printf("%s", wrong);
    vm_end(source);
    vm_end(destination);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/versions/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
