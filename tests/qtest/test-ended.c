/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIGKILL to the destination's QEMU at moments of postcopy, chiefly of its end. The source says
 * "completed" only if the destination has said, while its QEMU lived, that every page is there;
 * else it is postcopy-paused, and its QEMU does not run the guest. At a named moment the
 * destination's engine is held for that long, or everything runs and the kill comes at any time.
 */
#include <signal.h>
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)
#define HELD_MS "1500"
#define RANDOM_KILLS 8

typedef struct {
    const char *moment; /* of the destination's engine */
    bool said;          /* that every page is there */
    bool newer;         /* QEMU 10 */
} Row;

static const Row rows[] = {
    {"running"},
    {"placed#20"},
    {"all"},
    {"disarmed"},
    {"done"},
    {"undone", .said = true},
    {"done", .newer = true},
};

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming, char *faults,
                 const char *qemu)
{
    return vm_start_pc((VmConfig){.name = name,
                                  .qemu = qemu,
                                  .memory = RAM,
                                  .boot = boot,
                                  .incoming = incoming,
                                  .faults = faults});
}

static void begin(Vm *s, Vm *d)
{
    Qmp *sq = vm_qmp(s);

    move_prepare(s, d);
    qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(d);

    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(sq, "postcopy-active");
}

static bool is_end(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "completed") || !strcmp(status, "postcopy-paused");
}

/* TRUE: the source is completed. It does not run the guest in either case. */
static bool source_completes(Vm *s)
{
    Qmp *q = vm_qmp(s);
    g_autoptr(JsonObject) data = qmp_wait_event(q, "MIGRATION", is_end, NULL, 60);
    g_autofree char *status = qmp_migrate_status(q), *state = qmp_run_state(q);

    g_assert_cmpstr(state, !=, "running");
    g_assert_false(qmp_has_event(q, "RESUME"));
    return !strcmp(status, "completed");
}

static void test_held(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    g_autofree char *faults = g_strdup_printf("destination/*/at/%s=stop:" HELD_MS, row->moment);
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) s = start("source", &boot, NULL, NULL, qemu);
    g_autoptr(Vm) d = start("destination", &boot, "defer", faults, qemu);

    vm_wait_serial(s, "B");
    begin(s, d);
    while (!vm_fault_happened(d, 0)) {
        g_usleep(1000); /* a file tells; it stands for HELD_MS */
    }
    vm_kill(d);
    g_assert_true(source_completes(s) == row->said);
    vm_kill(s);
}

/* At any time: a source that is completed has had DONE. */
static void test_any_time(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    for (unsigned i = 0; i < RANDOM_KILLS; i++) {
        BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
        g_autoptr(Vm) s = start("source", &boot, NULL, NULL, NULL);
        g_autoptr(Vm) d = start("destination", &boot, "defer", NULL, NULL);

        vm_wait_serial(s, "B");
        qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 33554432}");
        begin(s, d);
        g_usleep(g_test_rand_int_range(0, 400000));
        vm_kill(d);
        if (source_completes(s)) {
            /* Then it has sent every page, and the destination has taken every one. */
            check_right(move_check_counts(s, RAM_BYTES));
            g_test_message("%u: completed", i);
        }
        vm_kill(s);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path =
            g_strdup_printf("/ended/%s%s", rows[i].moment, rows[i].newer ? "/newer" : "");

        g_test_add_data_func(path, &rows[i], test_held);
    }
    g_test_add_func("/ended/any-time", test_any_time);
    return g_test_run();
}
