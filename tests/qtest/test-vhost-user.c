/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest whose disk is a vhost-user-blk device, with qemu-storage-daemon behind it and the
 * relay in between: it is used, stopped under way, it loses its back-end and gets a new one, and
 * QEMU migrates it. The guest checks the memory into which nobody but the back-end has written, and
 * what is on the disk.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/check.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/move.h"
#include "tests/lib/storage.h"

#define RAM_KIB (160 * 1024)
#define DISK_BYTES (32 << 20)
#define IDLE_LOAD "ff.mib=24 ff.mode=zipf ff.write=70"
#define BUSY_LOAD IDLE_LOAD " ff.disk=1 ff.direct=32"
/* So little that nearly all of the guest is sent while its disk writes to what was sent. */
#define SMALL_LOAD "ff.mib=8 ff.mode=zipf ff.write=70 ff.disk=1 ff.direct=8"

/* Requests that are few and large. */
#define SLOW_LOAD "ff.mib=8 ff.mode=zipf ff.write=70 ff.direct=2"

/* One guest that goes from QEMU to QEMU, and each QEMU's back-end. */
typedef struct {
    char *folder, *disk;
    LinuxGuest guest;
    VmLauncher launcher;
    Vm *vm;
    Storage *storage;
    char *socket;
    unsigned hops;
    unsigned iops; /* of the disk; 0: as many as it can */
} World;

/* NULL, and the test is skipped. */
static World *world_new(VmLauncher launcher, const char *who, const char *load)
{
    const char *why = NULL;
    World *w;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why) || !storage_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    g_setenv("FARFAULT_VHOST_USER", who, TRUE);
    w = g_new0(World, 1);
    w->launcher = launcher;
    w->folder = g_dir_make_tmp("ff-vhost-XXXXXX", NULL);
    w->disk = linux_guest_disk_new(DISK_BYTES);
    g_assert_nonnull(w->disk);
    w->guest = (LinuxGuest){.ram_kib = RAM_KIB, .n_cpus = 2, .load = load, .n_queues = 1};
    return w;
}

static void world_start(World *w, const char *incoming)
{
    g_autofree char *name = g_strdup_printf("vm%u", w->hops);

    w->socket = g_strdup_printf("%s/%u", w->folder, w->hops);
    w->storage = storage_start(w->disk, w->socket, w->guest.n_queues, w->iops);
    w->guest.vhost = w->socket;
    w->vm = linux_guest_start(&w->guest, name, w->launcher, incoming);
}

static void world_boot(World *w)
{
    world_start(w, NULL);
    vm_wait_serial(w->vm, "FF ready");
    if (strstr(w->guest.load, "direct"))
        vm_wait_serial(w->vm, "FF direct reads=");
}

static void remove_socket(World *w)
{
    g_autofree char *pidfile = g_strconcat(w->socket, ".pid", NULL);

    unlink(w->socket);
    unlink(pidfile);
    g_clear_pointer(&w->socket, g_free);
}

static void world_end(World *w)
{
    vm_type_serial(w->vm, "q");
    vm_wait_serial(w->vm, "FF verdict ok");
    g_assert_cmpint(vm_wait_exit(w->vm), ==, 0);
    storage_end(w->storage);
    vm_end(w->vm);
    remove_socket(w);
    unlink(w->disk);
    rmdir(w->folder);
    g_free(w->disk);
    g_free(w->folder);
    g_free(w);
}

/* ---- without a migration --------------------------------------------------------------------- */

/* Requests are always under way when it is stopped. */
static void test_stop(void)
{
    World *w = world_new(VM_RUN, "farfault", BUSY_LOAD);

    if (!w)
        return;
    world_boot(w);
    for (unsigned i = 0; i < 3; i++) {
        qmp_ok(vm_qmp(w->vm), "stop", NULL);
        qmp_ok(vm_qmp(w->vm), "cont", NULL);
        vm_wait_new_serial(w->vm, "FF direct reads=");
    }
    linux_guest_assert_intact(w->vm, "stopped and started");
    world_end(w);
}

static void wait_connected(World *w)
{
    for (;;) {
        g_autofree char *text = qmp_hmp(vm_qmp(w->vm), "info chardev");

        /* QEMU has no event for it. */
        if (!strstr(text, "vhost: filename=disconnected"))
            break;
    }
}

/* The back-end is killed, and QEMU takes the next one. Nothing is under way, as qemu-storage-daemon
 * has no memory of what is. */
static void test_reconnect(void)
{
    World *w = world_new(VM_RUN, "farfault", IDLE_LOAD);

    if (!w)
        return;
    world_boot(w);
    storage_kill(w->storage);
    vm_wait_stderr(w->vm, "cannot connect to");
    w->storage = storage_start(w->disk, w->socket, w->guest.n_queues, w->iops);
    wait_connected(w);
    linux_guest_assert_intact(w->vm, "with a new back-end");
    world_end(w);
}

/* ---- migrations, which QEMU carries ---------------------------------------------------------- */

static void hop(World *w)
{
    World old = *w;

    w->hops++;
    world_start(w, "defer");
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
    remove_socket(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
}

/* As between two of plain QEMU: the disk rests, as the back-end breaks when a ring is stopped with
 * requests under way. */
static void test_native(void)
{
    World *w = world_new(VM_RUN, "qemu", IDLE_LOAD);

    if (!w)
        return;
    world_boot(w);
    hop(w);
    world_end(w);
}

/* The disk is busy: the relay waits for the requests. QEMU's own log and the rest pass by it. */
static void test_passed_on(void)
{
    World *w = world_new(VM_RUN, "farfault", BUSY_LOAD);

    if (!w)
        return;
    world_boot(w);
    hop(w);
    vm_wait_new_serial(w->vm, "FF direct reads=");
    hop(w);
    vm_wait_new_serial(w->vm, "FF direct reads=");
    world_end(w);
}

/* ---- migrations that farfault carries -------------------------------------------------------- */

static void assert_carried(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    g_assert_false(json_object_has_member(own, "no-precopy"));
}

/* The next QEMU is there, and both are farfault's. Returns the one before. */
static World next(World *w)
{
    World old = *w;

    w->hops++;
    world_start(w, "defer");
    for (unsigned i = 0; i < 2; i++) {
        Qmp *q = vm_qmp(i ? old.vm : w->vm);

        qmp_ok(q, "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'events', 'state': true}]}");
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': 'always'}");
    }
    qmp_ok(vm_qmp(w->vm), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters",
           "{'max-bandwidth': 200000000, 'downtime-limit': 400}");
    return old;
}

static void leave(World *old)
{
    vm_end(old->vm);
    storage_end(old->storage);
    remove_socket(old);
}

/* To the next QEMU, with its disk. */
static void migrate_on(World *w)
{
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "completed");
    qmp_expect_migration(vm_qmp(w->vm), "completed");
    assert_carried(old.vm);
    assert_carried(w->vm);
    leave(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
}

typedef struct {
    const char *name, *load;
    unsigned n_queues, n_entries, iops;
} Rings;

/* A ring of 512 entries has its index and its avail event in different pages. So few requests that
 * none of the last entries, which are in a page with the avail event, is used meanwhile. */
static const Rings rings[] = {
    {"followed", SMALL_LOAD, 1, 128, 0},
    {"queues", SMALL_LOAD, 2, 128, 0},
    {"entries", SLOW_LOAD, 1, 512, 20},
};

/* Twice in a row. What the back-end has written past every mapping of QEMU's is all there, and none
 * of its requests is lost. */
static void test_followed(gconstpointer data)
{
    const Rings *row = data;
    World *w = world_new(VM_RUN, "migrate", row->load);

    if (!w)
        return;
    w->guest.n_queues = row->n_queues;
    w->guest.n_entries = row->n_entries;
    w->iops = row->iops;
    world_boot(w);
    for (unsigned i = 0; i < 2; i++) {
        migrate_on(w);
        vm_wait_new_serial(w->vm, "FF direct reads=");
    }
    world_end(w);
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
    World *w = world_new(VM_RUN, row->source, SMALL_LOAD);

    if (!w)
        return;
    world_boot(w);
    g_setenv("FARFAULT_VHOST_USER", row->destination, TRUE);
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "completed");
    qmp_expect_migration(vm_qmp(w->vm), "completed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(old.vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "qemu");
    leave(&old);
    linux_guest_assert_intact(w->vm, "after a migration");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    world_end(w);
}

/* What it has not logged nobody knows: the guest stays, and goes with the next back-end. */
static void test_backend_dies(void)
{
    World *w = world_new(VM_RUN, "migrate", IDLE_LOAD);

    if (!w)
        return;
    world_boot(w);
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-bandwidth': 10000000}");
    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "active");
    storage_kill(old.storage);
    qmp_expect_migration(vm_qmp(old.vm), "failed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(old.vm), "query-migrate", NULL);
    g_assert_nonnull(strstr(json_object_get_string_member(info, "error-desc"),
                            "the connection of one of them has ended"));
    vm_wait_exit(w->vm);
    leave(w);
    w->vm = old.vm;
    w->socket = old.socket;
    w->storage = storage_start(w->disk, w->socket, w->guest.n_queues, w->iops);
    wait_connected(w);
    linux_guest_assert_intact(w->vm, "with a new back-end");
    migrate_on(w);
    world_end(w);
}

/* The relay dies with the engine, in the middle of a migration, and another one is attached: the
 * guest has stayed, its device is connected again, and it can be migrated. */
static void test_relay_dies(void)
{
    World *w = world_new(VM_RUN, "migrate", IDLE_LOAD);

    if (!w)
        return;
    w->guest.listens = true;
    world_boot(w);
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-bandwidth': 10000000}");
    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(old.vm), "active");
    attach_kill_relay(old.vm, true);
    vm_wait_exit(w->vm);
    leave(w);
    w->vm = old.vm;
    w->socket = old.socket;
    w->storage = old.storage;
    attach_vm(w->vm, NULL);
    /* Of the migration that has ended: said before this client was there, or after. */
    g_autofree char *status = qmp_migrate_status(vm_qmp(w->vm));
    if (strcmp(status, "failed")) {
        qmp_expect_migration(vm_qmp(w->vm), "failed");
    }
    qmp_drop_events(vm_qmp(w->vm));
    wait_connected(w);
    linux_guest_assert_intact(w->vm, "with another relay");
    migrate_on(w);
    world_end(w);
}

/* The same at the destination, right when the guest has become its own: nobody runs it until a
 * relay is attached, and then it has its disk. */
static void test_relay_dies_granted(void)
{
    const char *why = NULL;
    World *w = vm_faults_available(&why) ? world_new(VM_RUN, "migrate", SMALL_LOAD) : NULL;

    if (why)
        g_test_skip(why);
    if (!w)
        return;
    world_boot(w);
    w->guest.listens = true;
    w->guest.faults = "destination/*/at/granted=both";
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    vm_wait_qmp_end(w->vm);
    g_assert_true(vm_fault_happened(w->vm, 0));
    attach_vm(w->vm, NULL);
    linux_guest_assert_intact(w->vm, "moved");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    g_assert_false(qmp_has_event(vm_qmp(old.vm), "RESUME"));
    leave(&old);
    world_end(w);
}

/* An engine is killed: who has the guest then has its disk as well. */
typedef struct {
    const char *name;
    bool destination;
    const char *fault;
    bool moved; /* it is the destination's */
} Death;

static const Death deaths[] = {
    {"source/active", false, "source/*/at/active=kill"},
    {"source/frozen", false, "source/*/at/frozen=kill"},
    {"destination/armed", true, "destination/*/at/armed=kill"},
    {"destination/granted", true, "destination/*/at/granted=kill", true},
    {"destination/done", true, "destination/*/at/done=kill", true},
};

static void test_death(gconstpointer data)
{
    const Death *death = data;
    const char *why = NULL;
    World *w = vm_faults_available(&why) ? world_new(VM_RUN, "migrate", SMALL_LOAD) : NULL;

    if (why)
        g_test_skip(why);
    if (!w)
        return;
    w->guest.faults = death->destination ? NULL : death->fault;
    world_boot(w);
    w->guest.faults = death->destination ? death->fault : NULL;
    World old = next(w);
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old.vm), "migrate", "{'uri': '%s'}", uri);
    if (death->moved) {
        qmp_expect(vm_qmp(w->vm), "RESUME");
        linux_guest_assert_intact(w->vm, "moved");
        vm_wait_new_serial(w->vm, "FF direct reads=");
        g_assert_true(vm_fault_happened(w->vm, 0));
        g_assert_false(qmp_has_event(vm_qmp(old.vm), "RESUME"));
        leave(&old);
        world_end(w);
        return;
    }
    qmp_expect_migration(vm_qmp(old.vm), "failed");
    g_assert_true(vm_fault_happened(death->destination ? w->vm : old.vm, 0));
    vm_wait_exit(w->vm);
    leave(w);
    w->vm = old.vm;
    w->storage = old.storage;
    w->socket = old.socket;
    linux_guest_assert_intact(w->vm, "where it was");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost-user/stop", test_stop);
    g_test_add_func("/vhost-user/reconnect", test_reconnect);
    g_test_add_func("/vhost-user/migration/native", test_native);
    g_test_add_func("/vhost-user/migration/passed-on", test_passed_on);
    for (unsigned i = 0; i < G_N_ELEMENTS(rings); i++) {
        g_autofree char *path = g_strconcat("/vhost-user/migration/", rings[i].name, NULL);
        g_test_add_data_func(path, &rings[i], test_followed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(mixed); i++) {
        g_autofree char *path = g_strconcat("/vhost-user/mixed/", mixed[i].name, NULL);
        g_test_add_data_func(path, &mixed[i], test_mixed);
    }
    g_test_add_func("/vhost-user/migration/back-end-dies", test_backend_dies);
    g_test_add_func("/vhost-user/migration/relay-dies", test_relay_dies);
    g_test_add_func("/vhost-user/death/destination-relay", test_relay_dies_granted);
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/vhost-user/death/", deaths[i].name, NULL);
        g_test_add_data_func(path, &deaths[i], test_death);
    }
    return g_test_run();
}
