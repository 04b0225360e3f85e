/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A running boot-sector guest moves by postcopy between two QEMUs under farfault, in many forms:
 * one table, one course. At the end the memory is compared byte for byte, and both QEMUs must be
 * in the states that QEMU's own postcopy leaves.
 *
 * FF_TEST_STOCK=1 runs the same table on plain QEMU, with its own postcopy. FF_TEST_QUICK=1 runs
 * the few rows that between them take every way through the engine.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

typedef enum { UNIX, TCP4, TCP6, FD } Transport;
typedef enum {
    AT_ONCE,      /* migrate-start-postcopy right after migrate */
    AFTER_ACTIVE, /* once the source says "active" */
} Switch;
typedef enum {
    RUNS,       /* no -S: starts by itself */
    CONT_EARLY, /* -S; cont is sent before the guest has arrived */
    CONT_LATE,  /* -S; cont when all is over */
} DestinationStart;

typedef struct {
    const char *name;
    Transport transport;
    const char *memory;      /* -m */
    const char *const *args; /* of both QEMUs; NULL: machine pc */
    uint64_t ram_kib;
    uint64_t busy_mib; /* the guest counts in that much; 0: all */
    unsigned n_cpus;   /* 0: 1 */
    Switch when;
    DestinationStart start;
    bool source_paused;
    bool incoming_argument; /* -incoming URI, not migrate-incoming */
    bool relative;          /* a path from the folder in which both QEMUs run */
    bool link;              /* started by the name qemu-system-x86_64 */
    unsigned hugepages;     /* of 2 MiB, that both sides together need */
    bool release_ram;       /* the source gives away what has arrived */
    unsigned channels;      /* bulk connections; 0: as by default */
    const char *host;       /* TCP4: what the source is given in place of 127.0.0.1 */
    bool quick;             /* also where FF_TEST_QUICK=1 */
} Row;

static const char *const q35[] = {"-machine", "q35", NULL};
static const char *const named_backend[] = {"-machine", "pc,memory-backend=ram0", "-object",
                                            "memory-backend-memfd,id=ram0,size=64M", NULL};
static const char *const huge_backend[] = {
    "-machine", "pc,memory-backend=ram0", "-object",
    "memory-backend-memfd,id=ram0,size=64M,hugetlb=on,hugetlbsize=2M", NULL};
static const char *const sandbox[] = {
    "-machine", "pc", "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", NULL};
static const char *const json_backend[] = {
    "-machine", "q35,memory-backend=pc.ram", "-object",
    "{\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":67108864}", NULL};
static const char *const numa[] = {"-machine", "pc",
                                   "-object",  "memory-backend-ram,id=m0,size=40M",
                                   "-object",  "memory-backend-ram,id=m1,size=24M,prealloc=on",
                                   "-object",  "memory-backend-memfd,id=m2,size=8M,share=off",
                                   "-numa",    "node,nodeid=0,cpus=0,memdev=m0",
                                   "-numa",    "node,nodeid=1,cpus=1,memdev=m1",
                                   "-numa",    "node,nodeid=2,memdev=m2",
                                   NULL};

#define MIB(n) ((n)*1024u)

static const Row rows[] = {
    {"unix", UNIX, "64M", NULL, MIB(64)},
    {"tcp4", TCP4, "64M", NULL, MIB(64)},
    {"tcp6", TCP6, "64M", NULL, MIB(64)},
    {"fd", FD, "64M", NULL, MIB(64)},
    /* What getaddrinfo() takes, as QEMU does. */
    {"host/0", TCP4, "64M", NULL, MIB(64), .host = "0"},
    {"host/127.1", TCP4, "64M", NULL, MIB(64), .host = "127.1"},
    {"host/0x7f000001", TCP4, "64M", NULL, MIB(64), .host = "0x7f000001"},
    {"host/localhost", TCP4, "64M", NULL, MIB(64), .host = "localhost"},
    {"unix/after-active", UNIX, "64M", NULL, MIB(64), .when = AFTER_ACTIVE},
    {"tcp4/after-active", TCP4, "64M", NULL, MIB(64), .when = AFTER_ACTIVE, .n_cpus = 2,
     .quick = true},
    {"unix/2-vcpus", UNIX, "64M", NULL, MIB(64), .n_cpus = 2},
    {"tcp4/2-vcpus/q35", TCP4, "96M", q35, MIB(96), .n_cpus = 2},
    {"fd/2-vcpus", FD, "64M", NULL, MIB(64), .n_cpus = 2, .quick = true},
    {"unix/incoming-argument", UNIX, "64M", NULL, MIB(64), .incoming_argument = true},
    {"tcp4/incoming-argument", TCP4, "64M", NULL, MIB(64), .incoming_argument = true},
    {"fd/incoming-argument", FD, "64M", NULL, MIB(64), .incoming_argument = true},
    {"unix/relative", UNIX, "64M", NULL, MIB(64), .relative = true},
    {"unix/relative/incoming-argument", UNIX, "64M", NULL, MIB(64), .relative = true,
     .incoming_argument = true},
    {"link", TCP4, "64M", NULL, MIB(64), .link = true},
    /* No multiple of 2 MiB, of 64 pages, of 256 KiB. QEMU rounds up to 8 KiB. */
    {"size/64m+8k", UNIX, "65544K", NULL, 65544},
    {"size/100m+8k", TCP4, "102408K", NULL, 102408, .n_cpus = 2, .quick = true},
    {"size/65m-8k", UNIX, "66552K", NULL, 66552},
    {"size/150", TCP4, "150", NULL, MIB(150), .busy_mib = 100},
    /* Most of it holes, and some of it above 4 GiB. */
    {"size/4g", TCP4, "4G", NULL, MIB(4096), .busy_mib = 48, .n_cpus = 2},
    {"size/16g", UNIX, "16G", NULL, MIB(16384), .busy_mib = 48},
    {"tcp4/8-vcpus", TCP4, "64M", NULL, MIB(64), .n_cpus = 8},
    {"sandbox", TCP4, "64M", sandbox, MIB(64)},
    {"release-ram", TCP4, "64M", NULL, MIB(64), .release_ram = true},
    {"channels/tcp4", TCP4, "64M", NULL, MIB(64), .n_cpus = 2, .channels = 4, .quick = true},
    {"channels/numa", UNIX, "72M", numa, MIB(72), .n_cpus = 2, .channels = 8},
    {"channels/release-ram", TCP4, "64M", NULL, MIB(64), .release_ram = true, .channels = 2},
    {"memory/hugetlb", TCP4, NULL, huge_backend, MIB(64), .n_cpus = 2, .hugepages = 64},
    {"memory/named", UNIX, NULL, named_backend, MIB(64)},
    {"memory/json", TCP4, NULL, json_backend, MIB(64)},
    {"memory/numa", TCP4, "72M", numa, MIB(72), .n_cpus = 2, .quick = true},
    {"paused-destination/cont-early", TCP4, "64M", NULL, MIB(64), .start = CONT_EARLY},
    {"paused-destination/cont-late", TCP4, "64M", NULL, MIB(64), .start = CONT_LATE, .quick = true},
    {"paused-destination/incoming-argument", UNIX, "64M", NULL, MIB(64), .start = CONT_LATE,
     .incoming_argument = true},
    {"paused-source", UNIX, "64M", NULL, MIB(64), .source_paused = true, .quick = true},
    {"paused-source/paused-destination", TCP4, "64M", NULL, MIB(64), .source_paused = true,
     .start = CONT_LATE},
};

/* One row's course. */
typedef struct {
    const Row *row;
    bool stock;
    BootsectConfig boot;
    Vm *source, *destination;
    int fds[2]; /* FD: the source's end, the destination's end */
    char *uri;  /* what the destination listens at, then what the source connects to */
} Moves;

static Vm *start_vm(Moves *m, const char *name, const char *incoming, bool paused, const int *fds)
{
    static const char *const pc[] = {"-machine", "pc", NULL};
    const char *const *args = m->row->args ? m->row->args : pc;
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autofree char *smp = g_strdup_printf("%u", m->boot.n_cpus);
    for (unsigned i = 0; args[i]; i++)
        g_ptr_array_add(all, (char *)args[i]);
    g_ptr_array_add(all, "-smp");
    g_ptr_array_add(all, smp);
    if (!m->row->memory) {
        g_ptr_array_add(all, "-m");
        g_ptr_array_add(all, "64M");
    }
    g_ptr_array_add(all, NULL);
    VmLauncher launcher = m->stock ? VM_PLAIN : m->row->link ? VM_LINK : VM_RUN;
    return vm_start(&(VmConfig){.name = name,
                                .launcher = launcher,
                                .memory = m->row->memory,
                                .args = (const char *const *)all->pdata,
                                .boot = &m->boot,
                                .incoming = incoming,
                                .paused = paused,
                                .fds = fds});
}

/* A directory that both sides reach is the source's: the destination's URI may be needed before
 * the destination is there. */
static char *listen_uri(Moves *m)
{
    switch (m->row->transport) {
    case TCP4:
        return g_strdup("tcp:127.0.0.1:0");
    case TCP6:
        return g_strdup("tcp:[::1]:0");
    case FD:
        return m->row->incoming_argument ? g_strdup_printf("fd:%d", m->fds[1])
                                         : g_strdup("fd:migration");
    default: {
        g_autofree char *path = m->row->relative ? g_strdup_printf("farfault-test-%d", getpid())
                                                 : vm_path(m->source, "migration");
        return g_strconcat("unix:", path, NULL);
    }
    }
}

static char *connect_uri(Moves *m)
{
    if (m->row->transport == FD)
        return g_strdup("fd:migration");
    if (m->row->transport == UNIX)
        return g_strdup(m->uri);
    g_autofree char *uri = move_listen_uri(m->destination);
    return m->row->host ? g_strdup_printf("tcp:%s%s", m->row->host, strrchr(uri, ':'))
                        : g_steal_pointer(&uri);
}

static void start_both(Moves *m)
{
    const Row *row = m->row;
    m->fds[0] = m->fds[1] = -1;
    if (row->transport == FD)
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, m->fds), ==, 0);
    m->source = start_vm(m, "source", NULL, false, NULL);
    m->uri = listen_uri(m);
    int inherited[] = {m->fds[1], -1};
    m->destination = start_vm(m, "destination", row->incoming_argument ? m->uri : "defer",
                              row->start != RUNS, inherited);
    vm_wait_serial(m->source, "AB");
}

static void prepare(Moves *m)
{
    Qmp *s = vm_qmp(m->source), *d = vm_qmp(m->destination);
    move_prepare(m->source, m->destination);
    if (m->row->release_ram)
        qmp_set_capability(s, "release-ram", true);
    if (m->row->channels && !m->stock)
        qmp_ok(s, "migrate-set-parameters", "{'x-farfault-channels': %u}", m->row->channels);
    if (m->row->transport == FD) {
        qmp_getfd(s, "migration", m->fds[0]);
        close(m->fds[0]);
        if (!m->row->incoming_argument)
            qmp_getfd(d, "migration", m->fds[1]);
        close(m->fds[1]);
    }
    if (m->row->source_paused)
        qmp_ok(s, "stop", NULL);
    if (!m->row->incoming_argument)
        qmp_ok(d, "migrate-incoming", "{'uri': '%s'}", m->uri);
    char *uri = connect_uri(m);
    g_free(m->uri);
    m->uri = uri;
}

static void assert_state(Vm *vm, const char *name, const char *state)
{
    g_autofree char *now = qmp_run_state(vm_qmp(vm));
    if (strcmp(now, state))
        g_test_fail_printf("%s: run state is \"%s\", not \"%s\"", name, now, state);
}

static void migrate(Moves *m)
{
    Qmp *s = vm_qmp(m->source), *d = vm_qmp(m->destination);
    if (m->row->source_paused)
        qmp_expect(s, "STOP");
    qmp_ok(s, "migrate", "{'uri': '%s'}", m->uri);
    if (m->row->when == AFTER_ACTIVE)
        qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    if (m->row->start == CONT_EARLY)
        qmp_ok(d, "cont", NULL);
    qmp_expect_migration(s, "postcopy-active");
    if (!m->row->source_paused)
        qmp_expect(s, "STOP");
    if (m->row->start != CONT_LATE && !m->row->source_paused)
        qmp_expect(d, "RESUME");
    move_wait_completed(m->source, m->destination);
}

static void check_memory(Moves *m)
{
    Qmp *d = vm_qmp(m->destination);
    uint64_t end = m->row->busy_mib ? m->boot.end : m->row->ram_kib << 10;
    bool ran = m->row->start != CONT_LATE && !m->row->source_paused;
    if (!ran) {
        assert_state(m->destination, "destination", "paused");
        check_right(check_equal(m->source, m->destination, 1 << 20, end));
        qmp_ok(d, "cont", NULL);
        qmp_expect(d, "RESUME");
    }
    vm_wait_new_serial(m->destination, "B");
    assert_state(m->destination, "destination", "running");
    qmp_ok(d, "stop", NULL);
    check_right(check_counters(m->destination, &m->boot));
    if (!m->row->release_ram)
        check_right(check_moved(m->source, m->destination, &m->boot, end));
    qmp_ok(d, "cont", NULL);
    vm_wait_new_serial(m->destination, "B");
}

/* Else the test is marked as skipped; *PAGES are for hugepages_free(). */
static bool skipped(const Row *row, HugePages **pages)
{
    const char *why = NULL;
    if (move_stock()) {
        if (row->source_paused)
            why = "QEMU 7.2's own postcopy starts a guest that was paused";
        if (row->link)
            why = "plain QEMU has no launcher";
    } else {
        vm_farfault_available(&why);
    }
    if (row->transport == TCP6 && access("/proc/net/if_inet6", F_OK))
        why = "this machine has no IPv6";
    if (!why && row->hugepages)
        *pages = hugepages_try(row->hugepages, &why);
    if (why)
        g_test_skip(why);
    return why != NULL;
}

/* The engine compares a fingerprint of the source's RAM at stop with one at the end. */
static void assert_frozen(Vm *source)
{
    vm_wait_stderr(source, "RAM at stop and at the end: equal");
}

static void test_row(gconstpointer data)
{
    Moves m = {.row = data, .stock = move_stock()};
    HugePages *pages = NULL;
    if (skipped(m.row, &pages))
        return;
    unsigned n_cpus = m.row->n_cpus ? m.row->n_cpus : 1;
    m.boot = bootsect_config(m.row->ram_kib << 10, m.row->busy_mib << 20, n_cpus);
    start_both(&m);
    prepare(&m);
    migrate(&m);
    check_right(move_check_counts(m.source, m.stock ? 0 : m.row->ram_kib << 10));
    check_memory(&m);
    qmp_wait_postmigrate(vm_qmp(m.source));
    if (!m.stock) {
        if (!m.row->release_ram)
            assert_frozen(m.source);
        check_right(move_check_summary(m.source));
        check_right(move_check_summary(m.destination));
    }
    vm_end(m.source);
    vm_end(m.destination);
    hugepages_free(pages);
    g_free(m.uri);
}

/* What assert_frozen() and the end of every VM ask for says no when it should. */
static void test_notices_writes(void)
{
    BootsectConfig boot = bootsect_config(64 << 20, 0, 1);
    VmConfig config = {.name = "source", .launcher = VM_RUN, .memory = "64M", .boot = &boot};
    const uint64_t address = 0x234560;
    const char *why;

    if (move_stock() || !vm_farfault_available(&why)) {
        g_test_skip("farfault's own check");
        return;
    }
    g_autoptr(Vm) source = vm_start(&config);
    config.name = "destination";
    config.incoming = "defer";
    g_autoptr(Vm) destination = vm_start(&config);
    Qmp *s = vm_qmp(source);

    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "postcopy-active");
    vm_expect_ram_change(source);
    qtest_writeq(vm_qtest(source), address, ~qtest_readq(vm_qtest(source), address));
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(source, destination);
    vm_wait_stderr(source, VM_RAM_CHANGED ": 1 pages of block 'pc.ram', the first at 0x234000");
}

/* What is said to a destination that waits for migrate-incoming: QEMU obeys it when the guest has
 * arrived, whatever -S says. */
static const struct {
    const char *name, *option, *command, *args, *state;
} said[] = {
    {"stop", NULL, "stop", NULL, "paused"},
    {"hmp-stop", NULL, "human-monitor-command", "{'command-line': 's'}", "paused"},
    {"cont", "-S", "cont", NULL, "running"},
    {"hmp-cont", "-S", "human-monitor-command", "{'command-line': 'cont'}", "running"},
};

static void test_said(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    const char *args[] = {said[i].option, NULL};
    BootsectConfig boot = bootsect_config(64 << 20, 0, 1);
    VmConfig config = {.name = "source", .launcher = VM_RUN, .memory = "64M", .boot = &boot};
    const char *why;

    if (!move_stock() && !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (move_stock()) {
        config.launcher = VM_PLAIN;
    }
    g_autoptr(Vm) source = vm_start(&config);
    config.name = "destination";
    config.incoming = "defer";
    config.args = args;
    g_autoptr(Vm) destination = vm_start(&config);
    Qmp *d = vm_qmp(destination);

    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    if (said[i].args) {
        g_autoptr(JsonObject) reply = qmp_call(d, said[i].command, "%s", said[i].args);

        g_assert_false(json_object_has_member(reply, "error"));
    } else {
        qmp_ok(d, said[i].command, NULL);
    }
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    g_autofree char *state = qmp_run_state(d);
    g_assert_cmpstr(state, ==, said[i].state);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool quick = g_strcmp0(g_getenv("FF_TEST_QUICK"), "1") == 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (quick && !rows[i].quick)
            continue;
        g_autofree char *path = g_strconcat("/postcopy/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/postcopy/notices-writes", test_notices_writes);
    for (unsigned i = 0; i < G_N_ELEMENTS(said); i++) {
        g_autofree char *path = g_strconcat("/postcopy/said/", said[i].name, NULL);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_said);
    }
    return g_test_run();
}
