/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest whose own KVM (kvm-amd, under TCG, which is taken for KVM here) runs a virtual
 * machine. Its drivers alone change nothing: the engine carries the guest, with precopy. While the
 * machine runs QEMU carries it, or there is no precopy; one that begins in a precopy ends that.
 * Each time the inner machine counts on at the destination, and all memory is right.
 */
#include <string.h>

#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"

/* No multiple of 256 KiB, so that QEMU 7.2's own dirty tracking does not fail. */
#define RAM_KIB (128 * 1024 + 8)
/* Two things that plain QEMU does as well (docs/testing.md), then the case begins again: in one of
 * some dozens of its starts the inner machine hangs (QEMU 7.2's TCG); and a QEMU built with KVM
 * loads no processor that stood within the inner machine, if TCG runs it (cpu_post_load()). */
#define HUNG_SECONDS 60
#define WITHIN "vCPU set in guest-mode inconsistent with migrated kernel nested state"
#define TRIES 3
#define REASON "the guest uses nested virtualisation (svm)"

typedef enum {
    LOADED,  /* the drivers, and no virtual machine */
    RUNS,    /* one that runs */
    ENDED,   /* one that ran */
    BEGINS,  /* in the first round of precopy */
    REPLACED /* one that runs, and the client accepts postcopy without precopy */
} Moment;

typedef struct {
    const char *name;
    Moment moment;
    bool postcopy; /* migrate-start-postcopy when it is active */
} Row;

static const Row rows[] = {
    {"loaded", LOADED}, {"loaded/postcopy", LOADED, .postcopy = true}, {"ended", ENDED},
    {"runs", RUNS},     {"runs/postcopy", RUNS, .postcopy = true},     {"runs/switch", REPLACED},
    {"begins", BEGINS},
};

static Vm *start(const char *name, const char *incoming)
{
    const LinuxGuest guest = {
        .ram_kib = RAM_KIB,
        .n_cpus = 2,
        .cpu = "max",
        .load = "ff.mib=32 ff.hot=8 ff.report=100 ff.nested=1",
        /* Of each migration. */
        .faults = "source/*/step/nested-kvm=skip;source/*/step/nested-kvm=skip",
    };

    return linux_guest_start(&guest, name, VM_RUN, incoming);
}

/* The inner machine has come to an exit again that it had not come to before. */
static void expect_exits(Vm *vm)
{
    g_autofree char *first = vm_serial_line(vm, "FF nested exits=");

    for (;;) {
        g_autofree char *line = vm_serial_line(vm, "FF nested exits=");
        g_assert_true(g_str_has_suffix(line, "bad=0"));
        if (strcmp(strstr(line, "exits="), strstr(first, "exits=")) != 0) {
            return;
        }
    }
}

static void end(Vm *vm)
{
    vm_type_serial(vm, "n");
    vm_wait_serial(vm, "FF nested ended");
}

/* FALSE: QEMU's TCG hangs. */
static bool begin(Vm *vm)
{
    vm_type_serial(vm, "n");
    if (!vm_try_serial(vm, "FF nested begun", HUNG_SECONDS)) {
        return false;
    }
    expect_exits(vm);
    return true;
}

static bool is_end(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    g_assert_cmpstr(status, !=, "completed");
    return !strcmp(status, "failed");
}

static JsonObject *own_info(Vm *vm, JsonObject **info)
{
    *info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    return json_object_get_object_member(*info, "x-farfault");
}

/* A machine that begins after the first bytes: what was sent of the memory is good for nothing,
 * the client hears it, and what it asks for next is QEMU's. */
static bool begin_in_between(Vm *source, Vm **destination)
{
    Qmp *s = vm_qmp(source);
    g_autoptr(JsonObject) info = NULL;

    g_autofree char *uri = move_listen(*destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    if (!begin(source)) {
        return false;
    }
    json_object_unref(qmp_wait_event(s, "MIGRATION", is_end, NULL, TEST_TIMEOUT));
    g_assert_cmpint(vm_wait_exit(*destination), ==, 1);
    vm_end(*destination);
    own_info(source, &info);
    const char *desc = json_object_get_string_member_with_default(info, "error-desc", "");
    g_assert_nonnull(strstr(desc, "(svm)"));
    expect_exits(source);
    *destination = start("second", "defer");
    move_prepare(source, *destination);
    return true;
}

static void check_carrier(const Row *row, Vm *source)
{
    g_autoptr(JsonObject) info = NULL;
    JsonObject *own = own_info(source, &info);
    bool engine = row->moment == LOADED || row->moment == ENDED || row->moment == REPLACED;
    const char *reason = json_object_get_string_member_with_default(own, "reason", "");
    const char *no = json_object_get_string_member_with_default(own, "no-precopy", "");

    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, engine ? "farfault" : "qemu");
    g_assert_true(!strstr(reason, REASON) == engine);
    g_assert_true(!strstr(no, "(svm)") == (row->moment != REPLACED));
}

static bool has_ended(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "completed") || !strcmp(status, "failed");
}

/* FALSE: a processor stood within the inner machine; the guest goes on here. */
static bool move(const Row *row, Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source);
    g_autofree char *uri = move_listen(destination);

    if (row->moment == REPLACED) {
        qmp_ok(s, "migrate-set-parameters", "{'x-farfault-untracked': 'postcopy'}");
    } else if (!row->postcopy) {
        /* A precopy that may end does. */
        qmp_ok(s, "migrate-set-parameters",
               "{'max-bandwidth': 1000000000, 'downtime-limit': 20000}");
    }
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    if (row->postcopy) {
        qmp_expect_migration(s, "active");
        qmp_ok(s, "migrate-start-postcopy", NULL);
    }
    json_object_unref(qmp_wait_event(s, "MIGRATION", has_ended, NULL, TEST_TIMEOUT));
    g_autofree char *status = qmp_migrate_status(s);
    if (!strcmp(status, "failed")) {
        g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
        const char *desc = json_object_get_string_member_with_default(info, "error-desc", "");

        if (row->moment == LOADED || row->moment == ENDED || !strstr(desc, WITHIN)) {
            test_fail("the migration failed: %s", desc);
        }
        g_test_message("%s", desc);
        expect_exits(source);
        return false;
    }
    qmp_expect_migration(vm_qmp(destination), "completed");
    check_carrier(row, source);
    return true;
}

/* FALSE: one of the things that plain QEMU does. */
static bool run_row(const Row *row, Vm *source, Vm **destination)
{
    vm_wait_serial(source, "FF ready");
    move_prepare(source, *destination);
    if (row->moment == BEGINS ? !begin_in_between(source, destination)
                              : row->moment != LOADED && !begin(source)) {
        return false;
    }
    if (row->moment == ENDED) {
        end(source);
    }
    if (!move(row, source, *destination)) {
        return false;
    }
    if (row->moment != LOADED && row->moment != ENDED) {
        expect_exits(*destination);
    } else if (!begin(*destination)) {
        return false;
    }
    end(*destination);
    return true;
}

static void test_row(gconstpointer data)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why) ||
        !vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    for (unsigned i = 0; i < TRIES; i++) {
        Vm *source = start("source", NULL), *destination = start("destination", "defer");

        if (run_row(data, source, &destination)) {
            vm_end(source);
            linux_guest_finish(destination);
            return;
        }
        g_test_message("the inner machine did not begin, or its guest cannot move; again");
        /* First: one that waits for its source ends with it. And it may have failed by now: what
         * hangs has set the bit. */
        vm_kill(destination);
        vm_end(destination);
        vm_end(source);
    }
    test_fail("in each of %d tries", TRIES);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/nested-guest/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
