/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Postcopy of a Linux guest whose disk is a vhost-user-blk device: at once and after precopy, with
 * the disk busy; a back-end that can waits for pages, one that cannot gets memory when all of it is
 * there; the migration is paused and goes on, engines and back-ends die. The guest checks the
 * memory into which nobody but the back-end has written, and what is on the disk.
 */
#include <string.h>

#include "contract/link.h"
#include "tests/lib/attach.h"
#include "tests/lib/move.h"
#include "tests/lib/vhostworld.h"

/* So slow that the guest is seen to run while its memory comes (bytes per second). */
#define SLOW (4 << 20)

/* The next QEMU is there, and the switch may be asked for. */
static VhostWorld next_postcopy(VhostWorld *w, uint64_t postcopy_bandwidth)
{
    VhostWorld old = vhost_world_next(w);

    for (unsigned i = 0; i < 2; i++)
        qmp_ok(vm_qmp(i ? old.vm : w->vm), "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}]}");
    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters",
           "{'max-bandwidth': %u, 'max-postcopy-bandwidth': %" G_GUINT64_FORMAT "}", 30 << 20,
           postcopy_bandwidth);
    return old;
}

static void arrive(VhostWorld *w, VhostWorld *old)
{
    move_wait_completed(old->vm, w->vm);
    vhost_world_assert_carried(old->vm);
    vhost_world_assert_carried(w->vm);
    vhost_world_leave(old);
    linux_guest_assert_intact(w->vm, "after a postcopy");
    vm_wait_new_serial(w->vm, "FF direct reads=");
}

typedef struct {
    const char *name;
    unsigned n_queues;
    bool hybrid; /* a round goes before */
    bool unable;
    bool huge;
    bool rest;              /* with -m slow */
    bool newer, daemon;     /* QEMU 10, the storage daemon of QEMU 10 */
    bool iothread, precopy; /* without a switch */
} Course;

static const Course courses[] = {
    {"at-once", 1, false},
    {"hybrid", 1, true},
    {"queues", 2, true, .rest = true},
    {"at-once/unable", 1, false, true, .rest = true},
    {"hybrid/unable", 1, true, true},
    {"huge/hybrid", 1, true, .huge = true, .rest = true},
    {"huge/at-once", 1, .huge = true, .rest = true},
    {"huge/unable", 1, .unable = true, .huge = true, .rest = true},
    {"10/hybrid", 1, true, .newer = true, .rest = true},
    {"10/daemon/precopy", 1, .daemon = true, .precopy = true, .rest = true},
    {"10/daemon/at-once", 1, .daemon = true, .rest = true},
    {"10/daemon/unable", 1, .unable = true, .daemon = true, .rest = true},
    {"10/both", 1, true, .newer = true, .daemon = true, .rest = true},
    {"iothread/precopy", 1, .iothread = true, .precopy = true, .rest = true},
    {"iothread/at-once", 1, .iothread = true, .rest = true},
    {"iothread/queues", 2, true, .iothread = true, .rest = true},
    {"iothread/unable", 1, .unable = true, .iothread = true, .rest = true},
};

/* Twice in a row. */
static void test_course(gconstpointer data)
{
    const Course *c = data;
    VhostWorld *w = vhost_world_new_of(c->huge, VHOST_SMALL_LOAD);

    w = w ? vhost_world_newer(w, c->newer, c->daemon) : NULL;
    if (!w)
        return;
    w->guest.n_queues = c->n_queues;
    w->unable = c->unable;
    w->iothread = c->iothread;
    vhost_world_boot(w);
    for (unsigned i = 0; i < 2; i++) {
        /* memory is missing when the device that stands is to begin */
        VhostWorld old = next_postcopy(w, c->unable ? SLOW : 0);

        vhost_world_migrate(w, &old);
        if (c->hybrid)
            qmp_expect(vm_qmp(old.vm), "MIGRATION_PASS");
        if (c->precopy)
            vhost_world_hurry(&old);
        else
            vhost_world_switch_over(w, &old);
        if (c->unable) {
            vm_wait_stderr(w->vm, "does not wait for pages");
            vhost_world_set_free(&old);
        }
        arrive(w, &old);
    }
    vhost_world_end(w);
}

/* The disk is used while memory is missing. */
static void test_waits(gconstpointer huge)
{
    const char *why = NULL;

    if (!storage_can_wait(&why)) {
        g_test_skip(why);
        return;
    }
    VhostWorld *w = vhost_world_new_of(huge, VHOST_SMALL_LOAD);
    if (!w)
        return;
    vhost_world_boot(w);
    VhostWorld old = next_postcopy(w, SLOW);

    vhost_world_migrate(w, &old);
    vhost_world_switch_over(w, &old);
    guint64 first = vhost_world_reads(w->vm);
    while (vhost_world_reads(w->vm) < first + 16) {
    }
    g_autofree char *status = qmp_migrate_status(vm_qmp(w->vm));
    g_assert_cmpstr(status, ==, "postcopy-active");
    vhost_world_set_free(&old);
    arrive(w, &old);
    vhost_world_end(w);
}

static void recover(VhostWorld *w, VhostWorld *old)
{
    qmp_expect_migration(vm_qmp(old->vm), "postcopy-paused");
    qmp_expect_migration(vm_qmp(w->vm), "postcopy-paused");
    vhost_world_resume(w, old);
}

/* What QEMU would do at once, as its own migration is over: a back-end of its own on memory with
 * holes. */
static void expect_unplugged(Vm *vm)
{
    g_autofree char *net = qmp_error(vm_qmp(vm), "netdev_add",
                                     "{'type': 'vhost-user', 'id': 'n', 'chardev': 'vhost'}");
    g_autofree char *disk =
        qmp_error(vm_qmp(vm), "device_add", "{'driver': 'vhost-user-blk-pci', 'chardev': 'vhost'}");
    g_autofree char *human = qmp_hmp(vm_qmp(vm), "netdev_add vhost-user,id=n,chardev=vhost");

    g_assert_cmpstr(net, ==, FF_PLUG_COMING);
    g_assert_cmpstr(disk, ==, FF_PLUG_COMING);
    g_assert_nonnull(strstr(human, FF_PLUG_COMING));
    qmp_ok(vm_qmp(vm), "netdev_add", "{'type': 'user', 'id': 'n'}");
    qmp_ok(vm_qmp(vm), "netdev_del", "{'id': 'n'}");
}

/* It is paused by its client when its guest runs at the destination, and goes on. */
static void test_pause(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_SMALL_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    VhostWorld old = next_postcopy(w, SLOW);

    vhost_world_migrate(w, &old);
    vhost_world_switch_over(w, &old);
    vm_wait_new_serial(w->vm, "FF t=");
    expect_unplugged(w->vm);
    qmp_ok(vm_qmp(old.vm), "migrate-pause", NULL);
    recover(w, &old);
    arrive(w, &old);
    vhost_world_end(w);
}

/* The back-end at the destination is killed while memory is missing, and another one takes its
 * place. No request is under way: qemu-storage-daemon has no memory of what is. */
static void test_backend_dies(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_IDLE_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    VhostWorld old = next_postcopy(w, SLOW);

    vhost_world_migrate(w, &old);
    vhost_world_switch_over(w, &old);
    vm_wait_new_serial(w->vm, "FF t=");
    storage_kill(w->storage);
    vm_wait_stderr(w->vm, "cannot connect to");
    vhost_world_start_storage(w);
    vhost_world_wait_connected(w);
    vhost_world_set_free(&old);
    move_wait_completed(old.vm, w->vm);
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "with another back-end");
    vhost_world_end(w);
}

/* An engine is killed when the guest is the destination's. */
typedef struct {
    const char *name;
    bool destination;
    const char *fault;
    bool all;  /* every page is there */
    bool rest; /* with -m slow */
} Death;

static const Death deaths[] = {
    {"source/running", false, "source/*/at/running=kill", false, .rest = true},
    {"destination/granted", true, "destination/*/at/granted=kill", false},
    {"destination/running", true, "destination/*/at/running=kill", false},
    {"destination/all", true, "destination/*/at/all=kill", true, .rest = true},
    {"destination/done", true, "destination/*/at/done=kill", true},
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
    VhostWorld old = next_postcopy(w, death->all ? 0 : SLOW);

    vhost_world_migrate(w, &old);
    qmp_ok(vm_qmp(old.vm), "migrate-start-postcopy", NULL);
    if (!death->all)
        recover(w, &old);
    qmp_expect_migration(vm_qmp(w->vm), "completed");
    g_assert_true(vm_fault_happened(death->destination ? w->vm : old.vm, 0));
    g_assert_false(qmp_has_event(vm_qmp(old.vm), "RESUME"));
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "moved");
    vm_wait_new_serial(w->vm, "FF direct reads=");
    vhost_world_end(w);
}

/* Relay and engine die while the guest and its disk wait for pages: the next relay finds what the
 * back-end waits in, and the next engine answers there. */
static void test_relay_dies(void)
{
    const char *why = NULL;
    bool possible = storage_can_wait(&why);
    VhostWorld *w = vhost_world_new_if(possible, why, VHOST_SMALL_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    w->guest.listens = true;
    VhostWorld old = next_postcopy(w, SLOW);

    vhost_world_migrate(w, &old);
    vhost_world_switch_over(w, &old);
    guint64 first = vhost_world_reads(w->vm);
    while (vhost_world_reads(w->vm) < first + 8) {
    }
    attach_kill_relay(w->vm, true);
    qmp_expect_migration(vm_qmp(old.vm), "postcopy-paused");
    attach_vm(w->vm, NULL);
    vhost_world_resume(w, &old);
    qmp_expect_migration(vm_qmp(old.vm), "completed");
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "with another relay");
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    for (unsigned i = 0; i < G_N_ELEMENTS(courses); i++) {
        g_autofree char *path = g_strconcat("/vhost-postcopy/", courses[i].name, NULL);

        if (courses[i].rest == rest)
            g_test_add_data_func(path, &courses[i], test_course);
    }
    if (rest) {
        g_test_add_data_func("/vhost-postcopy/huge/waits", GUINT_TO_POINTER(1), test_waits);
        g_test_add_func("/vhost-postcopy/pause", test_pause);
    } else {
        g_test_add_data_func("/vhost-postcopy/waits", NULL, test_waits);
        g_test_add_func("/vhost-postcopy/back-end-dies", test_backend_dies);
        g_test_add_func("/vhost-postcopy/relay-dies", test_relay_dies);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/vhost-postcopy/death/", deaths[i].name, NULL);

        if (deaths[i].rest == rest)
            g_test_add_data_func(path, &deaths[i], test_death);
    }
    return g_test_run();
}
