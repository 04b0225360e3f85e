/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests under KVM, as everybody has them: their faults come out of KVM's own page-fault path, and
 * write protection and removal of pages reach them by MMU notifiers. The guest is that of ring3.h,
 * which checks all of its memory and its registers all the time; at the end the test checks that
 * memory once more, from outside. Each row runs with KVM, and with TCG as well, so that a failure
 * of one alone shows what it depends on.
 *
 * Without a usable KVM its rows are skipped, with the reason. With -m slow: the rows with TCG, and
 * those that are no more than one more moment of the same.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/hold.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/move.h"
#include "tests/lib/operator.h"
#include "tests/qtest/restore-rig.h"
#include "tests/qtest/snapshot-rig.h"
#include "tests/qtest/upgrade-rig.h"

#define MEMORY "24M"
#define MEMORY_BYTES (24ull << 20)
#define BUSY_MIB 8
/* Precopy ends by itself, however seldom it gets a processor. */
#define CONVERGES "'max-bandwidth': 0, 'downtime-limit': 60000"
/* A write that precopy has lost is only seen until the page is written again: with so many pauses
 * that is about a second, without them a millisecond. */
#define PAUSES 1000

static char *credentials; /* NULL: no openssl command */

/* ---- the guest itself ------------------------------------------------------------------------ */

static Ring3 guest_of(Ring3Accel accel, unsigned n_cpus)
{
    return (Ring3){.accel = accel, .busy_mib = BUSY_MIB, .n_cpus = n_cpus};
}

static bool is_possible(bool faults, Ring3Accel accel, const char *qemu)
{
    const char *why;

    if ((faults ? vm_faults_available : vm_farfault_available)(&why) &&
        ring3_available(accel, qemu, &why)) {
        return true;
    }
    g_test_skip(why);
    return false;
}

/* Damage of its memory is noticed: a word of the pattern, and a page that is as it was before. */
static void test_notices(gconstpointer accel)
{
    enum { WORD = 5000, STALE = 77 };
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);
    const uint64_t word = ring3_start(&guest) + WORD * 8,
                   stale = ring3_start(&guest) + STALE * 4096;
    uint8_t page[4096];

    if (!is_possible(false, guest.accel, NULL)) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        Vm *vm = vm_start(
            &(VmConfig){.name = "guest", .memory = MEMORY, .ring3 = &guest, .launcher = VM_PLAIN});

        vm_wait_ready(vm);
        qtest_read(vm_qtest(vm), stale, page, sizeof(page));
        vm_wait_works(vm);
        qmp_ok(vm_qmp(vm), "stop", NULL);
        check_right(check_counters(vm, NULL));
        if (i == 0) {
            qtest_writeq(vm_qtest(vm), word, 0);
        } else {
            qtest_write(vm_qtest(vm), stale, page, sizeof(page));
        }
        g_autofree char *outside = check_counters(vm, NULL);
        qmp_ok(vm_qmp(vm), "cont", NULL);
        g_autofree char *inside = vm_wait_finding(vm);
        g_autofree char *which = g_strdup_printf("page %u", i ? STALE : WORD * 8 / 4096);
        g_test_message("%s; %s", outside, inside);
        g_assert_nonnull(strstr(outside, which));
        g_assert_nonnull(strstr(inside, which));
        vm_end(vm);
    }
}

/* ---- moves ----------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned n_cpus;         /* 0: 1 */
    unsigned pauses;         /* of Ring3 */
    const char *faults;      /* POINT=ACTION;... of base/failpoints.h, two at most */
    bool stays;              /* the guest is the source's in the end */
    bool precopy;            /* nobody switches */
    bool at_once;            /* before precopy has begun */
    unsigned passes;         /* of precopy, before the switch; 0: as soon as it has begun */
    const char *parameters;  /* of the source, more of them */
    const char *capability;  /* of both sides */
    const char *tls;         /* kind of the credentials */
    const char *const *huge; /* arguments for memory in pages of 2 MiB */
    bool newer;              /* QEMU 10 */
    bool rest;               /* with -m slow */
} Row;

static const char *const huge[] = {
    "-machine", "pc,memory-backend=h", "-object",
    "memory-backend-memfd,id=h,size=" MEMORY ",hugetlb=on,hugetlbsize=2M", NULL};
static const char *const plain[] = {"-machine", "pc", NULL};

static const Row rows[] = {
    {"postcopy", .at_once = true},
    {"postcopy/2-vcpus", .n_cpus = 2},
    {"postcopy/4-vcpus", .n_cpus = 4, .at_once = true},
    {"postcopy/channels", .n_cpus = 2, .parameters = "'x-farfault-channels': 4"},
    {"postcopy/newer", .n_cpus = 2, .newer = true},
    {"preempt", .n_cpus = 2, .capability = "postcopy-preempt"},
    {"precopy", .n_cpus = 2, .precopy = true, .parameters = CONVERGES},
    {"precopy/rare", .n_cpus = 2, .pauses = PAUSES, .precopy = true, .parameters = CONVERGES},
    {"hybrid/1", .n_cpus = 2, .passes = 2},
    {"hybrid/3", .n_cpus = 2, .passes = 4},
    {"hybrid/rare", .n_cpus = 2, .passes = 3, .pauses = PAUSES},
    {"tls", .n_cpus = 2, .tls = "x509"},
    {"compress", .n_cpus = 2, .parameters = "'x-farfault-compress': 'always'"},
    {"compress/precopy", .precopy = true, .rest = true,
     .parameters = "'x-farfault-compress': 'always', " CONVERGES},
    {"huge", .n_cpus = 2, .huge = huge},
    {"huge/at-once", .huge = huge, .at_once = true},
    {"huge/precopy", .huge = huge, .precopy = true, .parameters = CONVERGES, .rest = true},
    {"huge/killed", .huge = huge, .faults = "destination/postcopy-active/at/placed#2=kill",
     .at_once = true},
    /* an engine that is killed: who has the guest then is what test-moments.c says */
    {"killed/source/round", .faults = "source/active/main/round#2=kill", .precopy = true,
     .stays = true},
    {"killed/source/frozen", .faults = "source/active/at/frozen=kill", .stays = true},
    {"killed/source/loaded", .faults = "source/device/at/loaded=kill", .stays = true, .rest = true},
    {"killed/source/given", .faults = "source/device/at/given=kill"},
    {"killed/source/grant", .faults = "source/device/main/grant=kill", .rest = true},
    {"killed/source/pages", .faults = "source/postcopy-active/urgent/pages=kill", .n_cpus = 2,
     .at_once = true},
    {"killed/source/done", .faults = "source/postcopy-active/at/done=kill", .rest = true,
     .at_once = true},
    {"killed/destination/armed", .faults = "destination/active/at/armed=kill", .stays = true},
    {"killed/destination/loaded", .faults = "destination/active/at/loaded=kill", .stays = true,
     .rest = true},
    {"killed/destination/granted", .faults = "destination/active/at/granted=kill"},
    {"killed/destination/request", .faults = "destination/postcopy-active/*/request=kill",
     .n_cpus = 2, .at_once = true},
    {"killed/destination/placed", .faults = "destination/postcopy-active/at/placed#50=kill",
     .n_cpus = 4, .at_once = true},
    {"killed/destination/disarmed", .faults = "destination/postcopy-active/at/disarmed=kill",
     .at_once = true},
    {"killed/twice", .n_cpus = 2,
     .faults = "source/*/at/running=kill;source/postcopy-recover/main/resume=kill"},
    /* some pages have come for sure: without one there is nothing to be had */
    {"killed/twice/have", .rest = true, .at_once = true,
     .faults = "destination/*/at/placed#50=kill;destination/*/main/have=kill"},
    /* connections that break, and calls that fail, under it */
    {"broken/round", .faults = "source/active/main/round#2=cut:20", .precopy = true, .stays = true,
     .rest = true},
    {"broken/loaded", .faults = "destination/active/main/loaded=cut:10", .stays = true,
     .rest = true},
    {"broken/grant", .faults = "source/device/main/grant=cut:39"},
    {"broken/pages", .faults = "source/postcopy-active/main/pages#3=flip:4", .n_cpus = 2,
     .parameters = "'x-farfault-channels': 1, 'max-postcopy-bandwidth': 8388608", .at_once = true},
    {"failed/register", .faults = "destination/*/call/uffd-register=ENOMEM", .stays = true,
     .rest = true},
    {"failed/copy", .faults = "destination/postcopy-active/call/uffd-copy#9=EIO", .at_once = true},
    {"failed/copy-again", .faults = "destination/postcopy-active/call/uffd-copy=EAGAIN",
     .rest = true, .at_once = true},
    {"failed/unregister", .faults = "destination/*/call/uffd-unregister=ENOMEM", .rest = true},
};

typedef struct {
    const Row *row;
    Ring3 guest;
    char *qemu; /* NULL: the installed one */
} Case;

static Vm *start(const Case *c, const char *name)
{
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .qemu = c->qemu,
                                .memory = MEMORY,
                                .args = c->row->huge ? c->row->huge : plain,
                                .ring3 = &c->guest,
                                .incoming = strcmp(name, "source") ? "defer" : NULL,
                                .faults = c->row->faults});
}

static void set_up(const Row *row, Vm *s, Vm *d)
{
    move_prepare(s, d);
    /* However late the operator switches, precopy has not sent everything. */
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-bandwidth': %u, 'downtime-limit': 0}",
           row->passes ? 100000000 : 4194304);
    if (row->parameters) {
        qmp_ok(vm_qmp(s), "migrate-set-parameters", "{%s}", row->parameters);
    }
    if (row->capability) {
        qmp_set_capability(vm_qmp(s), row->capability, true);
        qmp_set_capability(vm_qmp(d), row->capability, true);
    }
    if (row->tls) {
        move_set_tls(s, credentials, row->tls, false, NULL);
        move_set_tls(d, credentials, row->tls, true, NULL);
    }
}

static void check_faults(const Row *row, Vm *s, Vm *d)
{
    g_auto(GStrv) faults = g_strsplit(row->faults ? row->faults : "", ";", -1);

    for (unsigned i = 0; faults[i]; i++) {
        if (!vm_fault_happened(g_str_has_prefix(faults[i], "source") ? s : d, i)) {
            g_error("the point was not reached: %s", faults[i]);
        }
    }
}

/* For a person: how long it has waited, since it began. */
static void tell_waits(Vm *vm)
{
    Ring3Record r = vm_record(vm);

    g_test_message("%" G_GUINT64_FORMAT " steps, %" G_GUINT64_FORMAT
                   " sweeps; waits above 0.1, 1, 10, "
                   "100 ms: %" G_GUINT64_FORMAT ", %" G_GUINT64_FORMAT ", %" G_GUINT64_FORMAT
                   ", %" G_GUINT64_FORMAT "; worst %.1f ms, all %.1f ms",
                   r.ops, r.sweeps, r.above[0], r.above[1], r.above[2], r.above[3],
                   (double)r.worst_us / 1000, (double)r.sum_us / 1000);
}

static void move_guest(const Case *c)
{
    const Row *row = c->row;
    Vm *s = start(c, "source"), *d = start(c, "destination");
    Operator o;

    operator_init(&o, s, d);
    vm_wait_ready(s);
    set_up(row, s, d);
    o.switched = row->precopy || row->passes;
    operator_begin(&o, row->at_once);
    if (row->passes) {
        move_await_count(s, "dirty-sync-count", row->passes);
        o.switched = false;
    }
    OperatorEnd end = operator_run(&o);
    g_assert_cmpint(end, ==, row->stays ? OPERATOR_SOURCE : OPERATOR_DESTINATION);
    if (!row->faults) {
        g_assert_cmpuint(o.recoveries, ==, 0);
    }
    check_faults(row, s, d);
    operator_check_guest(&o, end, NULL, MEMORY_BYTES);
    tell_waits(end == OPERATOR_SOURCE ? s : d);
    operator_end(&o, end);
}

static void test_move(gconstpointer data)
{
    const Row *row = ((const Case *)data)->row;
    Case c = *(const Case *)data;

    if (row->newer && !(c.qemu = vm_newer_qemu())) {
        return;
    }
    if (row->tls && !credentials) {
        g_test_skip("no openssl command");
    } else if (is_possible(row->faults, c.guest.accel, c.qemu)) {
        HugePages *pool = row->huge ? hugepages_new(2 * MEMORY_BYTES / HUGEPAGE) : NULL;

        if (!row->huge || pool) {
            move_guest(&c);
        }
        hugepages_free(pool);
    }
    g_free(c.qemu);
}

/* By the few lines that any test of a migration may have. */
static void test_cancelled(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);
    Move *m = move_new(&(MoveConfig){.mib = 24, .ring3 = &guest});

    if (m) {
        move_start(m);
        move_cancel(m);
        move_start(m);
        move_switch(m);
        move_finish(m);
    }
}

/* ---- relays, and peers that say nothing ------------------------------------------------------ */

static Vm *start_listening(const Ring3 *guest, const char *name)
{
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = MEMORY,
                                .args = plain,
                                .listens = true,
                                .ring3 = guest,
                                .incoming = strcmp(name, "source") ? "defer" : NULL});
}

typedef struct {
    Vm *s, *d;
} Pair;

/* A guest that runs at the destination, and whose pages come only as it asks for them. */
static Pair begin_slow(const Ring3 *guest)
{
    Pair p = {start_listening(guest, "source"), start_listening(guest, "destination")};

    vm_wait_ready(p.s);
    move_prepare(p.s, p.d);
    qmp_ok(vm_qmp(p.s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    g_autofree char *uri = move_listen(p.d);
    qmp_ok(vm_qmp(p.s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(p.s), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(p.s), "postcopy-active");
    qmp_expect_migration(vm_qmp(p.d), "postcopy-active");
    qmp_expect(vm_qmp(p.d), "RESUME");
    return p;
}

static void recover(const Pair *p, const char *name)
{
    g_autofree char *path = vm_path(p->d, name);

    qmp_ok(vm_qmp(p->d), "migrate-recover", "{'uri': 'unix:%s'}", path);
    qmp_ok(vm_qmp(p->s), "migrate", "{'uri': 'unix:%s', 'resume': true}", path);
    qmp_expect_migration(vm_qmp(p->s), "postcopy-active");
    qmp_expect_migration(vm_qmp(p->d), "postcopy-active");
}

static void finish_slow(const Pair *p)
{
    qmp_ok(vm_qmp(p->s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(p->s, p->d);
    move_check_guest(p->s, p->d, NULL, MEMORY_BYTES);
    vm_end(p->d);
    vm_end(p->s);
}

/* Both relays die behind the switch, one with its engine. */
static void test_relays(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);

    if (!is_possible(false, guest.accel, NULL)) {
        return;
    }
    Pair p = begin_slow(&guest);
    attach_kill_relay(p.s, false);
    attach_kill_relay(p.d, true);
    attach_vm(p.s, NULL);
    attach_vm(p.d, NULL);
    recover(&p, "again");
    finish_slow(&p);
}

static void pause_and_recover(const Pair *p, Vm *where, const char *name)
{
    qmp_ok(vm_qmp(where), "migrate-pause", NULL);
    qmp_expect_migration(vm_qmp(p->s), "postcopy-paused");
    qmp_expect_migration(vm_qmp(p->d), "postcopy-paused");
    recover(p, name);
}

/* The guest's processors wait in KVM while there is no connection. */
static void test_recovery(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 4);

    if (!is_possible(false, guest.accel, NULL)) {
        return;
    }
    Pair p = begin_slow(&guest);
    pause_and_recover(&p, p.s, "first");
    pause_and_recover(&p, p.d, "second");
    finish_slow(&p);
}

/* The client stops the guest, and lets it continue, while its memory is at two places. */
static void test_stopped(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);

    if (!is_possible(false, guest.accel, NULL)) {
        return;
    }
    Pair p = begin_slow(&guest);
    for (unsigned i = 0; i < 3; i++) {
        qmp_ok(vm_qmp(p.d), "stop", NULL);
        g_autofree char *state = qmp_run_state(vm_qmp(p.d));
        g_assert_cmpstr(state, ==, "paused");
        qmp_ok(vm_qmp(p.d), "cont", NULL);
    }
    vm_wait_works(p.d);
    finish_slow(&p);
}

/* A peer that accepts and is mute: the guest works all the time, and goes somewhere else. */
static void test_mute(gconstpointer accel)
{
    const Case c = {.row = &rows[0], .guest = guest_of(GPOINTER_TO_INT(accel), 1)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    if (!is_possible(false, c.guest.accel, NULL)) {
        return;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(fd, 8), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&a, &len), ==, 0);
    Vm *s = start(&c, "source"), *d = start(&c, "destination");
    vm_wait_ready(s);
    set_up(c.row, s, d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': 'tcp:127.0.0.1:%u'}", ntohs(a.sin_port));
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    vm_wait_works(s);
    qmp_ok(vm_qmp(s), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(s), "cancelled");
    close(fd);
    vm_wait_works(s);
    g_autofree char *uri = move_listen(d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    move_wait_completed(s, d);
    move_check_guest(s, d, NULL, MEMORY_BYTES);
    vm_end(d);
    vm_end(s);
}

/* ---- snapshots, restores, upgrades ----------------------------------------------------------- */

#define HELD "snapshot/*/at/armed=hold"

/* The file is what the memory was at the instant: QEMU copies it then, and the guest's own law
 * holds in it. BUFFER: bytes. */
static void take_snapshot(Snap *t, unsigned buffer)
{
    const uint64_t ram = (uint64_t)SNAP_RAM_MIB << 20;
    g_autofree char *then = vm_path(t->vm, "then"), *more = NULL;
    Qmp *q = vm_qmp(t->vm);

    more = g_strdup_printf(", 'buffer': %u", buffer);
    snap_ask_with(t, more);
    qmp_expect(q, "STOP");
    snap_wait_held(t);
    snap_save_memory(t->vm, ram, then);
    snap_let_go(t);
    qmp_expect(q, "RESUME");
    qmp_expect_migration(q, "completed");
    g_assert_true(snap_is_equal(then, t->path, ram));
    g_autofree uint8_t *saved = snap_read(t->path, ram);
    check_right(ring3_check_image(t->ring3, saved));
    g_assert_cmpint(unlink(t->path), ==, 0);
    g_assert_cmpint(unlink(then), ==, 0);
}

static void test_snapshot(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);
    Snap t = {.ring3 = &guest};

    if (snap_begin(&t, HELD, NULL)) {
        take_snapshot(&t, 64 << 20);
        take_snapshot(&t, 0);
        take_snapshot(&t, 4096);
        snap_end(&t);
    }
}

/* Lazily; the second time with the working set that the first one has learnt. */
static void test_restore(gconstpointer accel)
{
    const Ring3 guest = {.accel = GPOINTER_TO_INT(accel), .busy_mib = BUSY_MIB, .hot_mib = 1};
    const RestoreRow row = {"ring3",     OURS,           OLD, OLD, COMMAND, .machine = RESTORE_PC,
                            .n_cpus = 1, .ring3 = &guest};
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin(&s, &row)) {
        static const char *const ways[] = {", 'working-set': 'learn'", ""};
        g_autofree char *set = vm_path(s.saved, "file.ws");

        for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
            /* This file is in the page cache. */
            Vm *vm = restore_start_again(&s, "destination/*/step/not-cached=skip");

            restore_ask_with(&s, vm, s.path, ways[i]);
            qmp_expect_migration(vm_qmp(vm), "completed");
            restore_check_info(vm);
            g_assert_true(g_file_test(set, G_FILE_TEST_IS_REGULAR));
            restore_check_restored(&s, vm);
            vm_end(vm);
        }
    }
    restore_end(&s);
}

/* The engine is killed while the guest waits for its memory. */
static void test_restore_killed(gconstpointer accel)
{
    const Ring3 guest = guest_of(GPOINTER_TO_INT(accel), 2);
    const RestoreRow row = {"ring3",     OURS,           OLD, OLD, COMMAND, .machine = RESTORE_PC,
                            .n_cpus = 2, .ring3 = &guest};
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin(&s, &row)) {
        Vm *vm = restore_start_again(&s, "destination/postcopy-active/call/read-file#9=kill");

        restore_ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* From 7.2 to 10, and, of a CPU that both have, back. MACHINE as in up_ring3(). */
static void upgrade(Ring3Accel accel, const char *cpu, const char *const *machine)
{
    Ring3 guest = guest_of(accel, 2);
    g_autofree char *newer = vm_newer_qemu(), *installed = up_installed();

    guest.cpu = cpu;
    Guest *g = newer ? up_ring3(&guest, machine, NULL) : NULL;
    if (g) {
        up_to(g, newer);
        up_check_memory(g);
        if (cpu) {
            up_to(g, installed);
            up_check_memory(g);
        }
        up_end(g);
    }
}

static void test_upgrade(gconstpointer accel)
{
    upgrade(GPOINTER_TO_INT(accel), "qemu64", NULL);
}

static void test_upgrade_host(gconstpointer accel)
{
    upgrade(GPOINTER_TO_INT(accel), NULL, NULL);
}

static void test_upgrade_huge(gconstpointer accel)
{
    static const char *const machine[] = {
        "-machine",
        "pc-i440fx-7.2,memory-backend=h",
        "-m",
        G_STRINGIFY(RAM_MIB) "M",
        "-object",
        "memory-backend-memfd,id=h,size=" G_STRINGIFY(RAM_MIB) "M,hugetlb=on,hugetlbsize=2M",
        NULL};
    HugePages *pool = hugepages_new(2 * ((size_t)RAM_MIB << 20) / HUGEPAGE);

    if (pool) {
        upgrade(GPOINTER_TO_INT(accel), "qemu64", machine);
    }
    hugepages_free(pool);
}

/* ---- the list -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    GTestDataFunc run;
} others[] = {
    {"notices", test_notices},
    {"cancelled", test_cancelled},
    {"relays", test_relays},
    {"recovery", test_recovery},
    {"stopped", test_stopped},
    {"mute", test_mute},
    {"snapshot", test_snapshot},
    {"restore", test_restore},
    {"restore/killed", test_restore_killed},
    {"upgrade", test_upgrade},
    {"upgrade/host", test_upgrade_host},
    {"upgrade/huge", test_upgrade_huge},
};

/* REST: the rows with TCG are all among them. */
static void add_tests(Ring3Accel accel, bool rest)
{
    static Case cases[2][G_N_ELEMENTS(rows)];
    const char *prefix = accel == RING3_KVM ? "/kvm/" : "/kvm/tcg/";

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat(prefix, rows[i].name, NULL);

        cases[accel][i] = (Case){&rows[i], guest_of(accel, rows[i].n_cpus), NULL};
        cases[accel][i].guest.pauses = rows[i].pauses;
        if ((rows[i].rest || accel == RING3_TCG) == rest) {
            g_test_add_data_func(path, &cases[accel][i], test_move);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autofree char *path = g_strconcat(prefix, others[i].name, NULL);

        if ((accel == RING3_TCG) == rest) {
            g_test_add_data_func(path, GINT_TO_POINTER(accel), others[i].run);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    add_tests(RING3_KVM, rest);
    add_tests(RING3_TCG, rest);
    credentials = certs_new_pair();
    int status = g_test_run();
    if (credentials) {
        certs_remove(credentials);
        g_free(credentials);
    }
    return status;
}
