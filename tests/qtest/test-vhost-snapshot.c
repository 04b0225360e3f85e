/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live snapshots of a Linux guest whose disk or network is another process (vhost-user): the guest
 * runs while its memory is saved, and the device stands, so what is on the disk is what was there
 * at the instant. The guest is restored from both, and finds in memory and on the disk what it
 * expects.
 */
#include <gio/gio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/move.h"
#include "tests/lib/snapshotcli.h"
#include "tests/lib/vhostworld.h"

/* So slow that it is seen that the device stands (bytes per second). */
#define SLOW (256 << 10)

typedef struct {
    const char *name;
    bool network, huge, stream;
    bool unable; /* the back-ends cannot wait for pages */
    bool eager;  /* QEMU restores it; else farfault */
    bool newer;  /* QEMU 10 and its storage daemon */
    bool rest;   /* of the long tests */
} Saved;

static const Saved rows[] = {
    {"disk"},
    {"unable/disk", .unable = true, .rest = true},
    {"huge/disk", .huge = true, .rest = true},
    {"stream/disk", .stream = true, .eager = true, .rest = true},
    {"network", .network = true, .rest = true},
    {"unable/network", .network = true, .unable = true, .rest = true},
    {"10/disk", .newer = true, .rest = true},
    {"10/network", .network = true, .newer = true, .rest = true},
    {"huge/network", .network = true, .huge = true, .rest = true},
};

static VhostWorld *world_new(const Saved *row)
{
    VhostWorld *w = row->network ? vhost_world_new_network(VM_RUN, "migrate", VHOST_NET_LOAD)
                                 : vhost_world_new(VM_RUN, "migrate", VHOST_BUSY_LOAD);

    w = w ? vhost_world_newer(w, row->newer, row->newer && !row->network) : NULL;
    w = w && row->huge ? vhost_world_huge(w) : w;
    if (w)
        w->unable = row->unable;
    return w;
}

static void copy_image(const VhostWorld *w, const char *path)
{
    g_autoptr(GFile) from = g_file_new_for_path(w->disk), to = g_file_new_for_path(path);
    g_autoptr(GError) error = NULL;

    g_file_copy(from, to, G_FILE_COPY_OVERWRITE, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
}

/* The snapshot has begun, the guest runs, and its device stands. */
static void begin(VhostWorld *w, const Saved *row, const char *path)
{
    Qmp *q = vm_qmp(w->vm);

    qmp_set_capability(q, "events", true);
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': %u}", SLOW);
    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'format': '%s'}", path,
           row && row->stream ? "stream" : "mapped-ram");
    qmp_expect(q, "RESUME");
    vm_wait_stderr(w->vm, "the device stands until the snapshot is saved");
}

/* The guest runs, and its disk does nothing; what had been done before the instant it may see only
 * now. */
static void expect_standing(VhostWorld *w)
{
    vm_wait_new_serial(w->vm, "FF t=");
    guint64 before, reads = vhost_world_reads(w->vm);

    do {
        before = reads;
        reads = vhost_world_reads(w->vm);
    } while (reads != before);
    g_autofree char *status = qmp_migrate_status(vm_qmp(w->vm));
    g_assert_cmpstr(status, ==, "active");
}

static void await_device(VhostWorld *w)
{
    if (w->network) {
        vhost_world_await_frames(w->vm, 2000);
        return;
    }
    for (guint64 reads = vhost_world_reads(w->vm); vhost_world_reads(w->vm) == reads;) {
    }
}

static void finish(VhostWorld *w, const char *status)
{
    Qmp *q = vm_qmp(w->vm);

    if (!strcmp(status, "completed"))
        qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(q, status);
    await_device(w);
    linux_guest_assert_intact(w->vm, "after the snapshot");
}

static void assert_same(const char *a, const char *b)
{
    g_autofree char *first = NULL, *second = NULL;
    gsize n, m;

    g_assert_true(g_file_get_contents(a, &first, &n, NULL));
    g_assert_true(g_file_get_contents(b, &second, &m, NULL));
    g_assert_cmpuint(n, ==, m);
    for (gsize i = 0; i < n; i += 512)
        if (memcmp(first + i, second + i, 512))
            test_fail("sector %zu differs", i / 512);
}

/* Another QEMU, over the image of the instant. Its device stands until all of the memory is there.
 */
static VhostWorld restore(VhostWorld *w, const Saved *row, const char *path, char *image)
{
    VhostWorld restored = *w;
    const char *why;
    bool slow = !row->eager && vm_faults_available(&why);

    restored.hops++;
    restored.disk = image;
    restored.testpmd = NULL;
    restored.storage = NULL;
    restored.guest.faults = slow ? "*/*/at/all=delay:1500" : NULL;
    vhost_world_start(&restored, "defer");
    Qmp *q = vm_qmp(restored.vm);
    qmp_set_capability(q, "events", true);
    if (row->eager)
        qmp_ok(q, "migrate-incoming", "{'uri': 'exec:cat %s'}", path);
    else
        qmp_ok(q, "x-farfault-restore", "{'file': '%s'}", path);
    if (slow)
        vm_wait_stderr(restored.vm, "does not wait for pages: the device stands");
    qmp_expect_migration(q, "completed");
    return restored;
}

static void test_saved(gconstpointer data)
{
    const Saved *row = data;
    VhostWorld *w = world_new(row);

    if (!w)
        return;
    vhost_world_boot(w);
    g_autofree char *path = vm_path(w->vm, "file"), *image = g_strconcat(w->disk, ".instant", NULL);
    begin(w, row, path);
    copy_image(w, image);
    if (!row->network) {
        expect_standing(w);
        assert_same(w->disk, image);
    }
    finish(w, "completed");
    VhostWorld restored = restore(w, row, path, image);
    linux_guest_assert_intact(restored.vm, "restored");
    await_device(&restored);
    vhost_world_leave(&restored);
    unlink(image);
    vhost_world_end(w);
}

/* What becomes of a snapshot, and of who takes part in it. */
typedef struct {
    const char *name;
    void (*act)(VhostWorld *w);
    const char *status;
    bool rest; /* of the long tests */
} Course;

static void cancel(VhostWorld *w)
{
    qmp_ok(vm_qmp(w->vm), "migrate_cancel", NULL);
}

static void kill_engine(VhostWorld *w)
{
    g_assert_cmpint(kill(vm_engine(w->vm), SIGKILL), ==, 0);
}

/* Its next one is connected meanwhile, and stands as well. */
static void kill_backend(VhostWorld *w)
{
    storage_kill(w->storage);
    vm_wait_stderr(w->vm, "cannot connect to");
    vhost_world_start_storage(w);
    vhost_world_wait_connected(w);
    expect_standing(w);
}

static void stop_and_start(VhostWorld *w)
{
    for (unsigned i = 0; i < 2; i++) {
        qmp_ok(vm_qmp(w->vm), "stop", NULL);
        qmp_ok(vm_qmp(w->vm), "cont", NULL);
    }
    expect_standing(w);
}

static const Course courses[] = {
    {"cancelled", cancel, "cancelled"},
    {"engine-killed", kill_engine, "failed"},
    {"backend-killed", kill_backend, "completed"},
    {"stopped", stop_and_start, "completed", .rest = true},
};

static void test_course(gconstpointer data)
{
    const Course *course = data;
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_SMALL_LOAD);

    if (!w)
        return;
    vhost_world_boot(w);
    g_autofree char *path = vm_path(w->vm, "file");
    begin(w, NULL, path);
    course->act(w);
    finish(w, course->status);
    vhost_world_end(w);
}

/* The engine dies with the guest stopped, right when its devices are not to go on; or when it has
 * let them go, and not said that it is over. */
static void test_dies(gconstpointer faults)
{
    const char *why = NULL;
    bool possible = vm_faults_available(&why);
    VhostWorld *w = vhost_world_new_if(possible, why, VHOST_SMALL_LOAD);

    if (!w)
        return;
    w->guest.faults = faults;
    vhost_world_boot(w);
    g_autofree char *path = vm_path(w->vm, "file");
    qmp_set_capability(vm_qmp(w->vm), "events", true);
    qmp_ok(vm_qmp(w->vm), "x-farfault-snapshot", "{'file': '%s'}", path);
    finish(w, "failed");
    g_assert_true(vm_fault_happened(w->vm, 0));
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    vhost_world_end(w);
}

/* The command names the disk that is not in it, and does not say that it keeps it. */
static void test_command(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_SMALL_LOAD);

    if (!w)
        return;
    w->guest.listens = true;
    vhost_world_boot(w);
    g_autofree char *monitor = vm_path(w->vm, "server"), *path = vm_path(w->vm, "file");
    const char *const disks[] = {"--disks", w->folder, NULL};
    Cli refused = cli_start(monitor, path, disks, NULL, NULL);
    g_autofree char *said = NULL, *why = NULL;

    cli_fails(&refused, "another process's disk (vhost-user)");
    Cli cli = cli_start(monitor, path, NULL, NULL, NULL);
    g_assert_cmpint(cli_end(&cli, &said, &why), ==, 0);
    g_assert_nonnull(strstr(said, "(vhost-user): restored over an image that was written to"));
    g_assert_nonnull(strstr(why, "(vhost-user) stands while the memory is written"));
    await_device(w);
    vhost_world_end(w);
}

/* Relay and engine die: the next relay has the device stand until its engine has ended what the one
 * before has begun. */
static void test_relay_dies(void)
{
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_SMALL_LOAD);

    if (!w)
        return;
    w->guest.listens = true;
    vhost_world_boot(w);
    g_autofree char *path = vm_path(w->vm, "file");
    begin(w, NULL, path);
    attach_kill_relay(w->vm, true);
    attach_vm(w->vm, NULL);
    vhost_world_wait_connected(w);
    await_device(w);
    linux_guest_assert_intact(w->vm, "with another relay");
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/vhost-snapshot/saved/", rows[i].name, NULL);

        if (rows[i].rest == rest)
            g_test_add_data_func(path, &rows[i], test_saved);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(courses); i++) {
        g_autofree char *path = g_strconcat("/vhost-snapshot/", courses[i].name, NULL);

        if (courses[i].rest == rest)
            g_test_add_data_func(path, &courses[i], test_course);
    }
    if (rest) {
        g_test_add_data_func("/vhost-snapshot/dies/unparked", "snapshot/*/at/unparked=kill",
                             test_dies);
        g_test_add_func("/vhost-snapshot/command", test_command);
    } else {
        g_test_add_data_func("/vhost-snapshot/dies/parked", "snapshot/*/at/parked=kill", test_dies);
        g_test_add_func("/vhost-snapshot/relay-dies", test_relay_dies);
    }
    return g_test_run();
}
