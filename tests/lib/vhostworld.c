/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See vhostworld.h. One thread. */
#include "tests/lib/vhostworld.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define RAM_KIB (160 * 1024)
#define HUGE_PAGES 170 /* two guests have fewer */
#define DISK_BYTES (32 << 20)

VhostWorld *vhost_world_new(VmLauncher launcher, const char *who, const char *load)
{
    const char *why = NULL;
    VhostWorld *w;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why) || !storage_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    g_setenv("FARFAULT_VHOST_USER", who, TRUE);
    w = g_new0(VhostWorld, 1);
    w->launcher = launcher;
    w->folder = g_dir_make_tmp("ff-vhost-XXXXXX", NULL);
    w->disk = linux_guest_disk_new(DISK_BYTES);
    g_assert_nonnull(w->disk);
    w->guest = (LinuxGuest){.ram_kib = RAM_KIB, .n_cpus = 2, .load = load, .n_queues = 1};
    return w;
}

static void world_free(VhostWorld *w)
{
    unlink(w->disk);
    rmdir(w->folder);
    hugepages_free(w->pool);
    g_free(w->disk);
    g_free(w->folder);
    g_free(w->qemu);
    g_free(w->daemon);
    g_free(w);
}

VhostWorld *vhost_world_newer(VhostWorld *w, bool qemu, bool daemon)
{
    w->qemu = qemu ? vm_newer_qemu() : NULL;
    w->daemon = daemon ? storage_newer() : NULL;
    if ((qemu && !w->qemu) || (daemon && !w->daemon)) {
        world_free(w);
        return NULL;
    }
    w->guest.qemu = w->qemu;
    return w;
}

VhostWorld *vhost_world_huge(VhostWorld *w)
{
    w->pool = hugepages_new(HUGE_PAGES);
    if (!w->pool) {
        world_free(w);
        return NULL;
    }
    w->guest.huge = true;
    return w;
}

VhostWorld *vhost_world_new_if(bool possible, const char *why, const char *load)
{
    if (!possible) {
        g_test_skip(why);
        return NULL;
    }
    return vhost_world_new(VM_RUN, "migrate", load);
}

VhostWorld *vhost_world_new_of(bool huge, const char *load)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", load);

    return w && huge ? vhost_world_huge(w) : w;
}

VhostWorld *vhost_world_new_network(VmLauncher launcher, const char *who, const char *load)
{
    const char *why = NULL;
    VhostWorld *w;

    if (!testpmd_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    w = vhost_world_new(launcher, who, load);
    if (w)
        w->no_disk = w->network = true;
    return w;
}

void vhost_world_start_storage(VhostWorld *w)
{
    w->storage = storage_start(&(StorageConfig){.program = w->daemon,
                                                .image = w->disk,
                                                .socket = w->socket,
                                                .n_queues = w->guest.n_queues,
                                                .iops = w->iops,
                                                .unable = w->unable,
                                                .iothread = w->iothread});
}

void vhost_world_start_testpmd(VhostWorld *w)
{
    if (!w->guest.network_server)
        unlink(w->net_socket); /* of one that was killed */
    w->testpmd = testpmd_start(w->net_socket, w->guest.network_server, MAX(w->guest.n_queues, 1),
                               w->unable   ? TESTPMD_UNABLE
                               : w->locked ? TESTPMD_LOCKED
                                           : TESTPMD_WAITS);
}

void vhost_world_start(VhostWorld *w, const char *incoming)
{
    g_autofree char *name = g_strdup_printf("vm%u", w->hops);

    if (!w->no_disk) {
        w->socket = g_strdup_printf("%s/%u", w->folder, w->hops);
        vhost_world_start_storage(w);
        w->guest.vhost = w->socket;
    }
    if (w->network) {
        w->net_socket = g_strdup_printf("%s/net%u", w->folder, w->hops);
        vhost_world_start_testpmd(w);
        w->guest.network = w->net_socket;
    }
    w->vm = linux_guest_start(&w->guest, name, w->launcher, incoming);
    if (w->guest.plugged) {
        linux_guest_plug(&w->guest, w->vm);
        if (!incoming)
            qmp_ok(vm_qmp(w->vm), "cont", NULL);
    }
}

void vhost_world_boot(VhostWorld *w)
{
    vhost_world_start(w, NULL);
    vm_wait_serial(w->vm, "FF ready");
    if (strstr(w->guest.load, "direct"))
        vm_wait_serial(w->vm, "FF direct reads=");
    if (w->network)
        vhost_world_await_frames(w->vm, 2000);
}

/* What stands behind TEXT in the guest's next line that has it. */
static guint64 number_after(Vm *vm, const char *text)
{
    g_autofree char *line = vm_serial_line(vm, text);

    return g_ascii_strtoull(line + strlen(text), NULL, 10);
}

guint64 vhost_world_reads(Vm *vm)
{
    return number_after(vm, "FF direct reads=");
}

static guint64 good_frames(Vm *vm)
{
    return number_after(vm, "FF frames good=");
}

void vhost_world_await_frames(Vm *vm, guint64 n)
{
    guint64 first = good_frames(vm);

    while (good_frames(vm) < first + n) {
    }
}

void vhost_world_remove_socket(VhostWorld *w)
{
    g_autofree char *pidfile = g_strconcat(w->socket, ".pid", NULL);

    unlink(w->socket);
    unlink(pidfile);
    g_clear_pointer(&w->socket, g_free);
}

static void end_backends(VhostWorld *w)
{
    if (w->storage)
        storage_end(w->storage);
    if (w->testpmd)
        testpmd_end(w->testpmd);
}

static void remove_sockets(VhostWorld *w)
{
    if (w->socket)
        vhost_world_remove_socket(w);
    if (w->net_socket)
        unlink(w->net_socket);
    g_clear_pointer(&w->net_socket, g_free);
}

void vhost_world_end(VhostWorld *w)
{
    vm_type_serial(w->vm, "q");
    vm_wait_serial(w->vm, "FF verdict ok");
    g_assert_cmpint(vm_wait_exit(w->vm), ==, 0);
    end_backends(w);
    vm_end(w->vm);
    remove_sockets(w);
    world_free(w);
}

void vhost_world_wait_connected(VhostWorld *w)
{
    for (;;) {
        g_autofree char *text = qmp_hmp(vm_qmp(w->vm), "info chardev");

        /* QEMU has no event for it. */
        if (!strstr(text, "vhost: filename=disconnected"))
            break;
    }
}

void vhost_world_assert_carried(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    g_assert_false(json_object_has_member(own, "no-precopy"));
}

VhostWorld vhost_world_next(VhostWorld *w)
{
    VhostWorld old = *w;

    w->hops++;
    vhost_world_start(w, "defer");
    for (unsigned i = 0; i < 2; i++) {
        Qmp *q = vm_qmp(i ? old.vm : w->vm);

        qmp_ok(q, "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'events', 'state': true}]}");
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': 'always'}");
    }
    qmp_ok(vm_qmp(w->vm), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    vhost_world_hurry(&old);
    return old;
}

void vhost_world_hurry(VhostWorld *old)
{
    qmp_ok(vm_qmp(old->vm), "migrate-set-parameters",
           "{'max-bandwidth': 200000000, 'downtime-limit': 2000}");
}

void vhost_world_migrate(VhostWorld *w, VhostWorld *old)
{
    g_autofree char *uri = move_listen_uri(w->vm);

    qmp_ok(vm_qmp(old->vm), "migrate", "{'uri': '%s'}", uri);
}

void vhost_world_switch_over(VhostWorld *w, VhostWorld *old)
{
    qmp_ok(vm_qmp(old->vm), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(old->vm), "postcopy-active");
    qmp_expect(vm_qmp(w->vm), "RESUME");
}

void vhost_world_set_free(VhostWorld *old)
{
    qmp_ok(vm_qmp(old->vm), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
}

void vhost_world_resume(VhostWorld *w, VhostWorld *old)
{
    qmp_ok(vm_qmp(w->vm), "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(w->vm);
    vhost_world_set_free(old);
    qmp_ok(vm_qmp(old->vm), "migrate", "{'uri': '%s', 'resume': true}", uri);
}

void vhost_world_leave(VhostWorld *old)
{
    vm_end(old->vm);
    end_backends(old);
    remove_sockets(old);
}

void vhost_world_back(VhostWorld *w, const VhostWorld *old)
{
    vm_wait_exit(w->vm);
    vhost_world_leave(w);
    w->vm = old->vm;
    w->socket = old->socket;
    w->storage = old->storage;
    w->testpmd = old->testpmd;
    w->net_socket = old->net_socket;
}
