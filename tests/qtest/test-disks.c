/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A qcow2 image on storage that both sides reach, with QEMU's file locks on: it is never open for
 * writing at both, it can be written where the guest runs, and after a rollback it is the
 * source's again. Who may write is read from the locks that each QEMU process holds.
 */
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/delay.h"
#include "tests/lib/move.h"

/* block/file-posix.c: RAW_LOCK_PERM_BASE plus the bit of BLK_PERM_WRITE. */
#define WRITE_LOCK " 101 "

static const BootsectConfig boot = {.start = 0x100000, .end = 40 << 20, .n_cpus = 1};

static bool locks_for_writing(Vm *vm, Vm *storage)
{
    g_autofree char *image = vm_path(storage, "image.qcow2");
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo", (int)vm_pid(vm));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    bool found = false;
    GStatBuf st;

    g_assert_cmpint(g_stat(image, &st), ==, 0);
    g_autofree char *inode = g_strdup_printf(":%lu ", (unsigned long)st.st_ino);

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_autofree char *text = NULL;

        if (g_file_get_contents(file, &text, NULL, NULL)) {
            g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

            for (char **line = lines; *line; line++) {
                g_autofree char *padded = g_strconcat(*line, " ", NULL);

                found |= g_str_has_prefix(*line, "lock:") && strstr(padded, "OFDLCK") &&
                         strstr(padded, inode) && strstr(padded, WRITE_LOCK);
            }
        }
    }
    return found;
}

/* Writes a new pattern through the guest's disk, and reads it back from the image. */
static void assert_writes(Vm *vm, Vm *storage, const char *when)
{
    static unsigned pattern;
    g_autofree char *image = vm_path(storage, "image.qcow2");
    g_autofree char *write = g_strdup_printf("write -P %u 0 64k", ++pattern);
    g_autofree char *read = g_strdup_printf("read -P %u 0 64k", pattern);
    const char *steps[] = {write, "flush"};
    const char *argv[] = {"qemu-io", "-r", "-U", "-f", "qcow2", "-c", read, image, NULL};
    g_autofree char *out = NULL;
    int status = -1;

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *line = g_strdup_printf(
            "qemu-io -d /machine/peripheral/disk/virtio-backend \\\"%s\\\"", steps[i]);
        g_autofree char *text = qmp_hmp(vm_qmp(vm), line);

        if (*text)
            g_test_fail_printf("%s: %s: %s", when, steps[i], text);
    }
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, NULL, &status,
                 NULL);
    if (status || strstr(out, "verification failed"))
        g_test_fail_printf("%s: the image lacks what was written: %s", when, out);
}

/* A QEMU that has given up its disks aborts when it is told to write: only the lock is looked at.
 */
static void assert_writable(Vm *vm, Vm *storage, bool writable, const char *when)
{
    if (locks_for_writing(vm, storage) != writable)
        g_test_fail_printf("%s: QEMU has %s the image for writing", when,
                           writable ? "not locked" : "locked");
    if (writable)
        assert_writes(vm, storage, when);
}

/* OPTION and VALUE: another two arguments of QEMU, the second can be NULL; or both NULL. */
static Vm *start_as(bool stock, Vm *first, const char *name, const char *incoming,
                    const char *option, const char *value)
{
    g_autofree char *image = first ? vm_path(first, "image.qcow2") : NULL;
    g_autofree char *file = NULL;
    const char *args[] = {"-machine",  "pc",
                          "-blockdev", NULL,
                          "-blockdev", "driver=qcow2,node-name=q0,file=f0",
                          "-device",   "virtio-blk-pci,drive=q0,id=disk,share-rw=off",
                          option,      value,
                          NULL};

    file = g_strdup_printf("driver=file,node-name=f0,locking=on,filename=%s", image);
    args[3] = file;
    return vm_start(&(VmConfig){.name = name,
                                .launcher = stock || move_stock() ? VM_PLAIN : VM_RUN,
                                .memory = "64M",
                                .boot = &boot,
                                .incoming = incoming,
                                .args = args});
}

static Vm *start(Vm *first, const char *name, const char *incoming, const char *device)
{
    return start_as(false, first, name, incoming, device ? "-device" : NULL, device);
}

/* The VM whose directory the image lies in: it does nothing else. */
static Vm *start_storage(void)
{
    Vm *vm = vm_start(&(VmConfig){.name = "storage", .launcher = VM_PLAIN, .memory = "16M"});
    g_autofree char *image = vm_path(vm, "image.qcow2");
    g_autoptr(GError) error = NULL;
    const char *argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", image, "16M", NULL};
    int status = -1;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    return vm;
}

static void start_move(Vm *source, Vm *destination)
{
    move_prepare(source, destination);
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(source), "active");
}

static bool have(void)
{
    g_autofree char *img = g_find_program_in_path("qemu-img");
    const char *why;

    if (!img) {
        g_test_skip("no qemu-img");
        return false;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

/* Either may be a QEMU without farfault, so that QEMU carries the migration. */
static void commit(bool source_stock, bool destination_stock)
{
    if (!have())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start_as(source_stock, storage, "source", NULL, NULL, NULL);
    g_autoptr(Vm) destination =
        start_as(destination_stock, storage, "destination", "defer", NULL, NULL);

    vm_wait_serial(source, "AB");
    assert_writable(source, storage, true, "source before");
    assert_writable(destination, storage, false, "destination before");
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 4194304}");
    start_move(source, destination);
    assert_writable(source, storage, true, "source active");
    assert_writable(destination, storage, false, "destination active");
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(destination), "RESUME");
    assert_writable(source, storage, false, "source in postcopy");
    assert_writable(destination, storage, true, "destination in postcopy");
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(source, destination);
    assert_writable(source, storage, false, "source at the end");
    assert_writable(destination, storage, true, "destination at the end");
}

static void test_commit(void)
{
    commit(false, false);
}

static void test_commit_from_stock(void)
{
    commit(true, false);
}

static void test_commit_to_stock(void)
{
    commit(false, true);
}

static Vm *start_paused(Vm *storage)
{
    return start_as(false, storage, "destination", "defer", "-S", NULL);
}

static bool refuses_cont(Qmp *qmp)
{
    g_autoptr(JsonObject) reply = qmp_call(qmp, "cont", NULL);

    return json_object_has_member(reply, "error");
}

/* Before a source has come QEMU has the say. 7.2 opens its disks, which are the source's still, and
 * refuses; then the guest does not run when it has arrived. */
static void test_cont_refused(void)
{
    if (!have())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start(storage, "source", NULL, NULL);
    g_autoptr(Vm) destination = start_paused(storage);
    Qmp *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    bool refused = refuses_cont(d);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    g_autofree char *state = qmp_run_state(d);

    g_assert_cmpstr(state, ==, refused ? "paused" : "running");
    assert_writable(source, storage, false, "source at the end");
    if (refused)
        qmp_ok(d, "cont", NULL);
    assert_writable(destination, storage, true, "destination at the end");
    vm_wait_new_serial(destination, "B");
}

/* When a source has connected the engine has the say, and remembers it. Then the source is found to
 * be a QEMU without farfault: the destination's is told, and may refuse as above. */
static void test_cont_before_stock(void)
{
    if (!have() || move_stock())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start_as(true, storage, "source", NULL, NULL, NULL);
    g_autoptr(Vm) destination = start_paused(storage);
    Qmp *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    bool refuses = refuses_cont(d), refused = refuses;
    Delay *proxy = delay_new(uri, 0);

    delay_set(proxy, -1);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", delay_uri(proxy));
    /* Until the engine has taken the connection it is QEMU that refuses. */
    while (refused)
        refused = refuses_cont(d);
    delay_set(proxy, 0);
    if (refuses)
        vm_wait_stderr(destination, "the guest will be paused when it has arrived");
    qmp_expect_migration(vm_qmp(source), "active");
    assert_writable(source, storage, true, "source active");
    assert_writable(destination, storage, false, "destination active");
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    g_autofree char *state = qmp_run_state(d);

    g_assert_cmpstr(state, ==, refuses ? "paused" : "running");
    assert_writable(source, storage, false, "source at the end");
    if (refuses)
        qmp_ok(d, "cont", NULL);
    assert_writable(destination, storage, true, "destination at the end");
    vm_wait_new_serial(destination, "B");
    delay_free(proxy);
}

/* Cancelled while the guest is stopped, before device state was asked for. */
static void test_cancel(void)
{
    if (!have())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start(storage, "source", NULL, NULL);
    g_autoptr(Vm) destination = start(storage, "destination", "defer", NULL);

    vm_wait_serial(source, "AB");
    qmp_set_capability(vm_qmp(source), "pause-before-switchover", true);
    start_move(source, destination);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(source), "pre-switchover");
    if (locks_for_writing(destination, storage))
        g_test_fail_printf("the destination has locked the image before the switch");
    qmp_ok(vm_qmp(source), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(source), "cancelled");
    g_assert_cmpint(vm_wait_exit(destination), ==, 1);
    assert_writable(source, storage, true, "source after cancel");
    vm_wait_new_serial(source, "B");
}

/* A device that the destination lacks, and that is compared by nobody but QEMU: it is on no bus. */
static const char unloadable[] = "vmcoreinfo";

/* The destination cannot load the device state, for which the source has given up its disks. */
static void roll_back(bool stopped_by_client)
{
    if (!have())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start(storage, "source", NULL, unloadable);
    g_autoptr(Vm) destination = start(storage, "destination", "defer", NULL);

    vm_wait_serial(source, "AB");
    if (stopped_by_client)
        qmp_set_capability(vm_qmp(source), "pause-before-switchover", true);
    start_move(source, destination);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    if (stopped_by_client) {
        qmp_expect_migration(vm_qmp(source), "pre-switchover");
        qmp_ok(vm_qmp(source), "stop", NULL);
        qmp_ok(vm_qmp(source), "migrate-continue", "{'state': 'pre-switchover'}");
    }
    qmp_expect_migration(vm_qmp(source), "failed");
    g_assert_cmpint(vm_wait_exit(destination), ==, 1);
    if (stopped_by_client) {
        g_autoptr(JsonObject) status = qmp_return(vm_qmp(source), "query-status", NULL);

        g_assert_false(json_object_get_boolean_member(status, "running"));
        qmp_ok(vm_qmp(source), "cont", NULL);
    }
    assert_writable(source, storage, true, "source after the rollback");
    vm_wait_new_serial(source, "B");
}

/* The same with a destination that must outlive it: it must never run. */
static void test_roll_back_kept(void)
{
    if (!have())
        return;
    g_autoptr(Vm) storage = start_storage();
    g_autoptr(Vm) source = start(storage, "source", NULL, unloadable);
    g_autoptr(Vm) destination = start(storage, "destination", "defer", NULL);
    Qmp *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    g_autoptr(JsonObject) reply =
        qmp_call(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0', 'exit-on-error': false}");
    if (json_object_has_member(reply, "error")) {
        g_test_skip("this QEMU does not know exit-on-error");
        return;
    }
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    qmp_expect_migration(d, "failed");
    qmp_expect_migration(vm_qmp(source), "failed");
    qmp_ok(d, "cont", NULL);
    g_autofree char *state = qmp_run_state(d);
    g_autofree char *hmp = qmp_hmp(d, "info migrate_capabilities");

    g_assert_cmpstr(state, ==, "inmigrate");
    g_assert_nonnull(strstr(hmp, "x-ignore-shared: off"));
    assert_writable(destination, storage, false, "destination that failed");
    assert_writable(source, storage, true, "source after the rollback");
    vm_wait_new_serial(source, "B");
}

static void test_roll_back(void)
{
    roll_back(false);
}

static void test_roll_back_stopped(void)
{
    roll_back(true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disks/commit", test_commit);
    g_test_add_func("/disks/commit/from-stock", test_commit_from_stock);
    g_test_add_func("/disks/commit/to-stock", test_commit_to_stock);
    g_test_add_func("/disks/cont-refused", test_cont_refused);
    g_test_add_func("/disks/cont-before-stock", test_cont_before_stock);
    g_test_add_func("/disks/cancel", test_cancel);
    g_test_add_func("/disks/roll-back", test_roll_back);
    g_test_add_func("/disks/roll-back/stopped-by-client", test_roll_back_stopped);
    g_test_add_func("/disks/roll-back/kept-destination", test_roll_back_kept);
    return g_test_run();
}
