/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The harness itself, on stock QEMU: its guest runs, QEMU's own postcopy passes its checks, and
 * its checks find damage. Without this a passing migration test would say nothing.
 */
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

/* No multiple of 256 KiB: QEMU 7.2 under TCG then syncs its dirty bitmap by the path that also
 * resets the TLB. On the other one its own migration loses stores. */
#define RAM_KIB (64 * 1024 + 8)
#define RAM ((uint64_t)RAM_KIB << 10)

typedef struct {
    Vm *source, *destination;
    BootsectConfig boot;
    char *uri;
} Pair;

static Vm *start(Pair *p, const char *name, const char *incoming)
{
    g_autofree char *memory = g_strdup_printf("%dK", RAM_KIB);
    g_autofree char *smp = g_strdup_printf("%u", p->boot.n_cpus);
    const char *args[] = {"-machine", "pc", "-smp", smp, NULL};
    return vm_start(&(VmConfig){
        .name = name, .memory = memory, .args = args, .boot = &p->boot, .incoming = incoming});
}

static void pair_start(Pair *p, unsigned n_cpus)
{
    p->boot = bootsect_config(RAM, 0, n_cpus);
    p->source = start(p, "source", NULL);
    p->destination = start(p, "destination", "defer");
    g_autofree char *path = vm_path(p->destination, "migration");
    p->uri = g_strconcat("unix:", path, NULL);
    vm_wait_serial(p->source, "AB");
}

static void pair_end(Pair *p)
{
    vm_end(p->source);
    vm_end(p->destination);
    g_free(p->uri);
}

/* QEMU's own postcopy, to the end; then both are stopped. */
static void move(Pair *p)
{
    Qmp *s = vm_qmp(p->source), *d = vm_qmp(p->destination);
    move_prepare(p->source, p->destination);
    qmp_ok(d, "migrate-incoming", "{'uri': '%s'}", p->uri);
    qmp_ok(s, "migrate", "{'uri': '%s'}", p->uri);
    qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(s, "STOP");
    qmp_expect(d, "RESUME");
    move_wait_completed(p->source, p->destination);
    vm_wait_new_serial(p->destination, "B");
    qmp_ok(d, "stop", NULL);
}

static void assert_found(char *wrong, const char *part)
{
    g_assert_nonnull(wrong);
    g_test_message("found: %s", wrong);
    g_assert_nonnull(strstr(wrong, part));
    g_free(wrong);
}

static void test_native_postcopy(gconstpointer n_cpus)
{
    Pair p;
    pair_start(&p, GPOINTER_TO_UINT(n_cpus));
    move(&p);
    check_right(check_counters(p.destination, &p.boot));
    check_right(check_moved(p.source, p.destination, &p.boot, RAM));
    pair_end(&p);
}

/* From 'A' on the counters of all vCPUs count: nothing is left there of what the firmware wrote. */
static void test_ready(void)
{
    BootsectConfig boot = bootsect_config(RAM, 0, 2);
    g_autofree char *memory = g_strdup_printf("%dK", RAM_KIB);
    const char *args[] = {"-machine", "pc", "-smp", "2", NULL};
    g_autoptr(Vm) vm =
        vm_start(&(VmConfig){.name = "vm", .memory = memory, .args = args, .boot = &boot});

    vm_wait_serial(vm, "A");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    g_autofree char *wrong = check_counters(vm, &boot);
    if (wrong &&
        !g_str_has_suffix(wrong, " never counted")) /* all are set, and may not count yet */
        g_test_fail_printf("%s", wrong);
}

/* Damages memory that was moved rightly, in each way that the checks promise to see. */
static void test_finds_damage(void)
{
    Pair p;
    pair_start(&p, 2);
    move(&p);
    Qtest *t = vm_qtest(p.destination);

    uint64_t counter = p.boot.start + 4096 * 100 + BOOTSECT_STRIDE;
    uint32_t old, stale;
    qtest_read(t, counter, &old, sizeof old);
    stale = old - 2;
    qtest_write(t, counter, &stale, sizeof stale);
    assert_found(check_counters(p.destination, &p.boot), "vCPU 1, page 100");
    qtest_write(t, counter, &old, sizeof old);
    check_right(check_counters(p.destination, &p.boot));

    uint8_t byte, flipped;
    uint64_t elsewhere = p.boot.start + 4096 * 200 + 2049;
    qtest_read(t, elsewhere, &byte, 1);
    flipped = byte ^ 0x10;
    qtest_write(t, elsewhere, &flipped, 1);
    assert_found(check_moved(p.source, p.destination, &p.boot, RAM), "0x1c8801");
    qtest_write(t, elsewhere, &byte, 1);

    /* A whole page of zeros where data should be: what an unserved fault leaves. */
    static const uint8_t zeros[4096];
    uint64_t last = p.boot.end - 4096;
    qtest_write(t, last, zeros, sizeof zeros);
    assert_found(check_counters(p.destination, &p.boot), "counter 0");
    assert_found(check_moved(p.source, p.destination, &p.boot, RAM), "went back");
    pair_end(&p);
}

static void test_equal_when_paused(void)
{
    g_autoptr(Vm) a = vm_start(&(VmConfig){.name = "a", .memory = "8M", .paused = true});
    g_autoptr(Vm) b = vm_start(&(VmConfig){.name = "b", .memory = "8M", .paused = true});
    check_right(check_equal(a, b, 1 << 20, 8 << 20));
    qtest_writeq(vm_qtest(b), (8 << 20) - 8, 1);
    g_assert_cmpuint(qtest_readq(vm_qtest(b), (8 << 20) - 8), ==, 1);
    assert_found(check_equal(a, b, 1 << 20, 8 << 20), "0x7ffff8");
}

static void test_law(void)
{
    static const struct {
        uint32_t counters[4];
        const char *wrong; /* NULL: right */
    } rows[] = {
        {{5, 5, 5, 5}, NULL},
        {{5, 5, 4, 4}, NULL},
        {{0, UINT32_MAX, UINT32_MAX, UINT32_MAX}, NULL},
        {{5, 4, 4, 3}, "a step before"},
        {{5, 4, 5, 5}, "page 2"},
        {{4, 5, 5, 5}, "page 1"},
        {{5, 5, 3, 3}, "page 2"},
        {{5, 5, 5, 0}, "page 3"},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *wrong = bootsect_check(rows[i].counters, 4);
        if (!rows[i].wrong)
            g_assert_null(wrong);
        else
            g_assert_nonnull(strstr(wrong, rows[i].wrong));
    }
}

static bool has_reason(JsonObject *data, const void *reason)
{
    return !g_strcmp0(json_object_get_string_member(data, "reason"), reason);
}

static void test_qmp(void)
{
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "vm", .memory = "8M"});
    Qmp *q = vm_qmp(vm);
    g_autofree char *error = qmp_error(q, "no-such-command", NULL);
    g_assert_cmpstr(error, ==, "The command no-such-command has not been found");
    qmp_ok(q, "stop", NULL);
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(q, "system_reset", NULL);
    json_object_unref(qmp_wait_event(q, "RESET", has_reason, "host-qmp-system-reset", 10));
    /* The older event is still there. */
    qmp_expect(q, "STOP");
    g_assert_false(qmp_has_event(q, "STOP"));
    g_autofree char *hmp = qmp_hmp(q, "info status");
    g_assert_nonnull(strstr(hmp, "paused"));
    qmp_ok(q, "quit", NULL);
    g_assert_cmpint(vm_wait_exit(vm), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/harness/law", test_law);
    g_test_add_func("/harness/qmp", test_qmp);
    g_test_add_func("/harness/ready", test_ready);
    g_test_add_func("/harness/equal-when-paused", test_equal_when_paused);
    g_test_add_data_func("/harness/native-postcopy/1-vcpu", GUINT_TO_POINTER(1),
                         test_native_postcopy);
    g_test_add_data_func("/harness/native-postcopy/2-vcpus", GUINT_TO_POINTER(2),
                         test_native_postcopy);
    g_test_add_func("/harness/finds-damage", test_finds_damage);
    return g_test_run();
}
