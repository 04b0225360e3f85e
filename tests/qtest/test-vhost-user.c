/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest whose disk is a vhost-user-blk device, with qemu-storage-daemon behind it and the
 * relay in between: it is used, stopped under way, it loses its back-end and gets a new one, and
 * QEMU migrates it. The guest checks the memory into which nobody but the back-end has written, and
 * what is on the disk.
 */
#include <string.h>

#include "tests/lib/attach.h"
#include "tests/lib/move.h"
#include "tests/lib/vhostworld.h"

/* Requests that are few and large. */
#define SLOW_LOAD "ff.report=200 ff.mib=8 ff.mode=zipf ff.write=70 ff.direct=2"

/* ---- without a migration --------------------------------------------------------------------- */

/* Requests are always under way when it is stopped. */
static void test_stop(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "farfault", VHOST_BUSY_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    for (unsigned i = 0; i < 3; i++) {
        qmp_ok(vm_qmp(w->vm), "stop", NULL);
        qmp_ok(vm_qmp(w->vm), "cont", NULL);
        vm_wait_new_serial(w->vm, "FF direct reads=");
    }
    linux_guest_assert_intact(w->vm, "stopped and started");
    vhost_world_end(w);
}

/* The back-end is killed, and QEMU takes the next one. Nothing is under way, as qemu-storage-daemon
 * has no memory of what is. */
static void test_reconnect(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "farfault", VHOST_IDLE_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    storage_kill(w->storage);
    vm_wait_stderr(w->vm, "cannot connect to");
    vhost_world_start_storage(w);
    vhost_world_wait_connected(w);
    linux_guest_assert_intact(w->vm, "with a new back-end");
    vhost_world_end(w);
}

/* ---- migrations, which QEMU carries ---------------------------------------------------------- */

static void hop(VhostWorld *w)
{
    VhostWorld old = *w;

    w->hops++;
    vhost_world_start(w, "defer");
    Qmp *s = vm_qmp(old.vm), *d = vm_qmp(w->vm);

    for (unsigned i = 0; i < 2; i++)
        qmp_ok(i ? s : d, "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'events', 'state': true},"
               " {'capability': 'postcopy-ram', 'state': true}]}");
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(w->vm);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 2000000000, 'downtime-limit': 2000}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "completed");
    qmp_expect_migration(d, "completed");
    vm_wait_stderr(old.vm, "another process maps the guest's memory");
    vm_end(old.vm);
    storage_end(old.storage);
    vhost_world_remove_socket(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
}

/* As between two of plain QEMU: the disk rests, as the back-end breaks when a ring is stopped with
 * requests under way. */
static void test_native(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "qemu", VHOST_IDLE_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    hop(w);
    vhost_world_end(w);
}

/* The disk is busy: the relay waits for the requests. QEMU's own log and the rest pass by it. */
static void test_passed_on(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "farfault", VHOST_BUSY_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    hop(w);
    vm_wait_new_serial(w->vm, "FF direct reads=");
    hop(w);
    vm_wait_new_serial(w->vm, "FF direct reads=");
    vhost_world_end(w);
}

/* ---- migrations that farfault carries -------------------------------------------------------- */

/* To the next QEMU, with its disk. */
static void migrate_on(VhostWorld *w)
{
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "completed");
    qmp_expect_migration(vm_qmp(w->vm), "completed");
    vhost_world_assert_carried(old.vm);
    vhost_world_assert_carried(w->vm);
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
}

typedef struct {
    const char *name, *load;
    unsigned n_queues, n_entries, iops;
    bool huge;
    bool rest; /* of the long tests */
} Rings;

/* A ring of 512 entries has its index and its avail event in different pages. So few requests that
 * none of the last entries, which are in a page with the avail event, is used meanwhile. */
static const Rings rings[] = {
    {"followed", VHOST_SMALL_LOAD, 1, 128, 0},
    {"queues", VHOST_SMALL_LOAD, 2, 128, 0, .rest = true},
    {"entries", SLOW_LOAD, 1, 512, 20, .rest = true},
    {"huge", VHOST_SMALL_LOAD, 1, 128, 0, .huge = true, .rest = true},
};

/* Twice in a row. What the back-end has written past every mapping of QEMU's is all there, and none
 * of its requests is lost. */
static void test_followed(gconstpointer data)
{
    const Rings *row = data;
    VhostWorld *w = vhost_world_new_of(row->huge, row->load);

    if (!w)
        return;
    w->guest.n_queues = row->n_queues;
    w->guest.n_entries = row->n_entries;
    w->iops = row->iops;
    vhost_world_boot(w);
    for (unsigned i = 0; i < 2; i++) {
        migrate_on(w);
        vm_wait_new_serial(w->vm, "FF direct reads=");
    }
    vhost_world_end(w);
}

/* One side is not told to migrate such guests, so QEMU carries it on both. */
typedef struct {
    const char *name, *source, *destination;
} Mixed;

static const Mixed mixed[] = {
    {"passed-on/followed", "farfault", "migrate"},
    {"followed/passed-on", "migrate", "farfault"},
    {"followed/native", "migrate", "qemu"},
};

static void test_mixed(gconstpointer data)
{
    const Mixed *row = data;
    VhostWorld *w = vhost_world_new(VM_RUN, row->source, VHOST_SMALL_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    g_setenv("FARFAULT_VHOST_USER", row->destination, TRUE);
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "completed");
    qmp_expect_migration(vm_qmp(w->vm), "completed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(old.vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "qemu");
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    vhost_world_end(w);
}

/* What it has not logged nobody knows: the guest stays, and goes with the next back-end. */
static void test_backend_dies(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_IDLE_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-bandwidth': 10000000}");
    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "active");
    storage_kill(old.storage);
    qmp_expect_migration(vm_qmp(old.vm), "failed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(old.vm), "query-migrate", NULL);
    g_assert_nonnull(strstr(json_object_get_string_member(info, "error-desc"),
                            "the connection of one of them has ended"));
    vhost_world_back(w, &old);
    vhost_world_start_storage(w);
    vhost_world_wait_connected(w);
    linux_guest_assert_intact(w->vm, "with a new back-end");
    migrate_on(w);
    vhost_world_end(w);
}

/* Another relay takes the place of the one that is there, with the disk busy: it stops rings when
 * they are empty, has the back-end log, and takes the next one. */
static void test_replaced(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_BUSY_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    for (unsigned i = 0; i < 3; i++) {
        attach_replace(w->vm);
        vm_wait_new_serial(w->vm, "FF direct reads=");
    }
    qmp_ok(vm_qmp(w->vm), "stop", NULL);
    attach_replace(w->vm);
    qmp_ok(vm_qmp(w->vm), "cont", NULL);
    vm_wait_new_serial(w->vm, "FF direct reads=");
    migrate_on(w);
    attach_replace(w->vm);
    migrate_on(w);
    vhost_world_end(w);
}

/* The back-end goes, and comes, while one relay follows another. */
static void test_replaced_idle(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_IDLE_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    attach_replace(w->vm);
    storage_kill(w->storage);
    vm_wait_stderr(w->vm, "cannot connect to");
    attach_replace(w->vm);
    vhost_world_start_storage(w);
    vhost_world_wait_connected(w);
    linux_guest_assert_intact(w->vm, "with a new back-end");
    migrate_on(w);
    vhost_world_end(w);
}

/* The relay dies with the engine, in the middle of a migration, and another one is attached: the
 * guest has stayed, its device is connected again, and it can be migrated. */
static void test_relay_dies(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_SMALL_LOAD);

    if (!w)
        return;
    w->guest.listens = true;
    vhost_world_boot(w);
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-bandwidth': 10000000}");
    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "active");
    attach_kill_relay(old.vm, true);
    vhost_world_back(w, &old);
    attach_vm(w->vm, NULL);
    /* Of the migration that has ended: said before this client was there, or after. */
    g_autofree char *status = qmp_migrate_status(vm_qmp(w->vm));
    if (strcmp(status, "failed")) {
        qmp_expect_migration(vm_qmp(w->vm), "failed");
    }
    qmp_drop_events(vm_qmp(w->vm));
    vhost_world_wait_connected(w);
    linux_guest_assert_intact(w->vm, "with another relay");
    migrate_on(w);
    vhost_world_end(w);
}

/* The same at the destination, right when the guest has become its own: nobody runs it until a
 * relay is attached, and then it has its disk. */
static void test_relay_dies_granted(void)
{
    const char *why = NULL;
    bool possible = vm_faults_available(&why);
    VhostWorld *w = vhost_world_new_if(possible, why, VHOST_SMALL_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    w->guest.listens = true;
    w->guest.faults = "destination/*/at/granted=both";
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    vm_wait_qmp_end(w->vm);
    g_assert_true(vm_fault_happened(w->vm, 0));
    attach_vm(w->vm, NULL);
    linux_guest_assert_intact(w->vm, "moved");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    g_assert_false(qmp_has_event(vm_qmp(old.vm), "RESUME"));
    vhost_world_leave(&old);
    vhost_world_end(w);
}

/* An engine is killed: who has the guest then has its disk as well. */
typedef struct {
    const char *name;
    bool destination;
    const char *fault;
    bool moved; /* it is the destination's */
    bool rest;  /* of the long tests */
} Death;

static const Death deaths[] = {
    {"source/active", false, "source/*/at/active=kill"},
    {"source/frozen", false, "source/*/at/frozen=kill", .rest = true},
    {"destination/armed", true, "destination/*/at/armed=kill", .rest = true},
    {"destination/granted", true, "destination/*/at/granted=kill", true},
    {"destination/done", true, "destination/*/at/done=kill", true, .rest = true},
};

static void test_death(gconstpointer data)
{
    const Death *death = data;
    const char *why = NULL;
    bool possible = vm_faults_available(&why);
    VhostWorld *w = vhost_world_new_if(possible, why, VHOST_SMALL_LOAD);

    if (!w)
        return;
    w->guest.faults = death->destination ? NULL : death->fault;
    vhost_world_boot(w);
    w->guest.faults = death->destination ? death->fault : NULL;
    VhostWorld old = vhost_world_next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    if (death->moved) {
        qmp_expect(vm_qmp(w->vm), "RESUME");
        linux_guest_assert_intact(w->vm, "moved");
        vm_wait_new_serial(w->vm, "FF direct reads=");
        g_assert_true(vm_fault_happened(w->vm, 0));
        g_assert_false(qmp_has_event(vm_qmp(old.vm), "RESUME"));
        vhost_world_leave(&old);
        vhost_world_end(w);
        return;
    }
    qmp_expect_migration(vm_qmp(old.vm), "failed");
    g_assert_true(vm_fault_happened(death->destination ? w->vm : old.vm, 0));
    vhost_world_back(w, &old);
    linux_guest_assert_intact(w->vm, "where it was");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    for (unsigned i = 0; i < G_N_ELEMENTS(rings); i++) {
        g_autofree char *path = g_strconcat("/vhost-user/migration/", rings[i].name, NULL);

        if (rings[i].rest == rest)
            g_test_add_data_func(path, &rings[i], test_followed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(mixed) && rest; i++) {
        g_autofree char *path = g_strconcat("/vhost-user/mixed/", mixed[i].name, NULL);

        g_test_add_data_func(path, &mixed[i], test_mixed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/vhost-user/death/", deaths[i].name, NULL);

        if (deaths[i].rest == rest)
            g_test_add_data_func(path, &deaths[i], test_death);
    }
    if (rest) {
        g_test_add_func("/vhost-user/migration/native", test_native);
        g_test_add_func("/vhost-user/replaced/busy", test_replaced);
        g_test_add_func("/vhost-user/death/destination-relay", test_relay_dies_granted);
    } else {
        g_test_add_func("/vhost-user/stop", test_stop);
        g_test_add_func("/vhost-user/reconnect", test_reconnect);
        g_test_add_func("/vhost-user/migration/passed-on", test_passed_on);
        g_test_add_func("/vhost-user/migration/back-end-dies", test_backend_dies);
        g_test_add_func("/vhost-user/migration/relay-dies", test_relay_dies);
        g_test_add_func("/vhost-user/replaced/back-end-dies", test_replaced_idle);
    }
    return g_test_run();
}
