/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * postcopy-blocktime against a stall of known length: the connection is paused while the guest
 * counts in memory that is mostly not there, so its one vCPU waits from then until the recovery.
 * And a destination that is slower to end than its source has it already.
 */
#include "tests/lib/bootsect.h"
#include "tests/lib/move.h"

static const BootsectConfig boot = {.start = 0x100000, .end = 60 << 20, .n_cpus = 1};

static Vm *start(const char *name, const char *incoming, const char *faults)
{
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "64M",
                                .boot = &boot,
                                .incoming = incoming,
                                .faults = faults});
}

/* Many answers of another QEMU are the clock; returns how long it took, ms. */
static int64_t let_time_go_by(Vm *vm)
{
    int64_t from = g_get_monotonic_time(), ms;

    do {
        g_autofree char *state = qmp_run_state(vm_qmp(vm));

        ms = (g_get_monotonic_time() - from) / 1000;
    } while (ms < 400);
    return ms;
}

static void test_pause(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start("source", NULL, NULL);
    g_autoptr(Vm) destination = start("destination", "defer", NULL);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_set_capability(d, "postcopy-blocktime", true);
    /* One page at a time: all but what is asked for stays away. */
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 65536}");
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    int64_t begin = g_get_monotonic_time();

    qmp_expect(d, "RESUME");
    qmp_expect_migration(s, "postcopy-active"); /* said when the grant is out: perhaps later */
    qmp_ok(s, "migrate-pause", NULL);
    qmp_expect_migration(s, "postcopy-paused");
    qmp_expect_migration(d, "postcopy-paused");
    int64_t stall = let_time_go_by(source);

    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(d, "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *again = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s', 'resume': true}", again);
    move_wait_completed(source, destination);
    int64_t all = (g_get_monotonic_time() - begin) / 1000;
    g_autoptr(JsonObject) info = qmp_return(d, "query-migrate", NULL);
    int64_t blocked = json_object_get_int_member(info, "postcopy-blocktime");
    JsonArray *vcpus = json_object_get_array_member(info, "postcopy-vcpu-blocktime");

    g_test_message("stall %d ms, blocktime %d ms, vCPU %d ms, all %d ms", (int)stall, (int)blocked,
                   (int)json_array_get_int_element(vcpus, 0), (int)all);
    g_assert_cmpuint(json_array_get_length(vcpus), ==, 1);
    g_assert_cmpint(blocked, >=, stall * 3 / 4);
    g_assert_cmpint(blocked, <=, all);
    /* One vCPU: the same, but for waits that overlap by a moment. */
    int64_t alone = json_array_get_int_element(vcpus, 0);

    g_assert_cmpint(ABS(alone - blocked), <=, 5 + blocked / 20);
}

static void test_late(void)
{
    const char *why;

    if (!vm_farfault_available(&why) || !vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start("source", NULL, NULL);
    g_autoptr(Vm) destination =
        start("destination", "defer", "destination/*/at/finished=delay:3000");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_set_capability(d, "postcopy-blocktime", true);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "completed");
    g_autoptr(JsonObject) info = qmp_return(d, "query-migrate", NULL);

    g_assert_true(json_object_has_member(info, "postcopy-blocktime"));
    qmp_expect_migration(d, "completed");
    g_assert_true(vm_fault_happened(destination, 0));
}

/* Its clients get how long single waits were, too, as of QEMU 10.1 and newer. */
static void test_newer(void)
{
    const char *why;
    g_autofree char *qemu = vm_qemu(11);

    if (!qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    VmConfig config = {.name = "source", .launcher = VM_RUN, .qemu = qemu};
    config.memory = "64M";
    config.boot = &boot;
    g_autoptr(Vm) source = vm_start(&config);
    config.name = "destination";
    config.incoming = "defer";
    g_autoptr(Vm) destination = vm_start(&config);
    Qmp *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_set_capability(d, "postcopy-blocktime", true);
    g_autofree char *uri = move_listen(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    g_autoptr(JsonObject) info = qmp_return(d, "query-migrate", NULL);
    JsonArray *dist = json_object_get_array_member(info, "postcopy-latency-dist");
    JsonArray *vcpus = json_object_get_array_member(info, "postcopy-vcpu-latency");
    gint64 mean = json_object_get_int_member(info, "postcopy-latency"), waits = 0;

    g_assert_cmpuint(json_array_get_length(dist), ==, 24);
    for (unsigned i = 0; i < 24; i++) {
        waits += json_array_get_int_element(dist, i);
    }
    g_assert_cmpint(waits, >, 0);
    g_assert_cmpint(mean, >, 1000);
    g_assert_cmpuint(json_array_get_length(vcpus), ==, 1);
    g_assert_cmpint(json_array_get_int_element(vcpus, 0), >, 1000);
    g_assert_cmpint(json_object_get_int_member(info, "postcopy-non-vcpu-latency"), >=, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/blocktime/pause", test_pause);
    g_test_add_func("/blocktime/late", test_late);
    g_test_add_func("/blocktime/newer", test_newer);
    return g_test_run();
}
