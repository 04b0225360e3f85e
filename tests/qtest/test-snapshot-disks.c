/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault snapshot --disks: memory and disks of one instant. A Linux guest that writes its disk
 * all the time is restored from the file and the images that belong to it, and finds every block as
 * its memory knows it. What fails says which images the guest needs from now on.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/linuxguest.h"

#define RAM_KIB (160 * 1024)
#define DISK_BYTES (32 << 20)
#define LOAD "ff.mib=32 ff.write=70 ff.disk=1"
#define SMALL "64M"

/* Status 0 if GOOD; returns what it said on both channels (g_free). */
static char *snapshot(Vm *vm, const char *file, const char *folder, const char *form, bool good)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *monitor = vm_path(vm, "server");
    const char *const argv[] = {farfault, "snapshot", monitor,    file, "--disks",
                                folder,   "--quiet",  "--format", form, NULL};
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    g_test_message("%s%s", out, err);
    if ((status == 0) != good) {
        test_fail("farfault snapshot: %s", err);
    }
    return g_strconcat(out, err, NULL);
}

/* Of the first disk, as QEMU has it now (g_free). */
static char *image_of(Vm *vm)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-block", NULL);
    JsonArray *list = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *entry = json_array_get_object_element(list, i);

        if (json_object_has_member(entry, "inserted")) {
            JsonObject *inserted = json_object_get_object_member(entry, "inserted");
            JsonObject *image = json_object_get_object_member(inserted, "image");

            return g_strdup(json_object_get_string_member(image, "filename"));
        }
    }
    g_assert_not_reached();
}

static char *checksum(const char *path)
{
    g_autofree char *bytes = NULL;
    gsize n;

    g_assert_true(g_file_get_contents(path, &bytes, &n, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)bytes, n);
}

/* FOLDER's files go, too. */
static void remove_folder(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(folder), ==, 0);
}

static unsigned count_files(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* ---- a guest and its disk ----------------------------------------------------------------------
 */

static void check_manifest(const char *file, const char *base, const char *overlay)
{
    g_autofree char *path = g_strconcat(file, ".disks", NULL), *text = NULL;
    g_autofree char *line = g_strdup_printf(": %s\n", base);
    g_autofree char *last = g_strdup_printf("from now on the guest has to be started with %s for "
                                            "virtio0.\n",
                                            overlay);

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, line));
    g_assert_true(g_str_has_suffix(text, last));
    g_assert_cmpint(g_unlink(path), ==, 0);
}

/* The guest says how many blocks it has found right; none may be wrong. */
static void assert_disk_works(Vm *vm)
{
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *line = vm_serial_line(vm, "FF io disk=");

        if (!g_str_has_suffix(g_strchomp(line), "bad=0")) {
            test_fail("the guest says: %s", line);
        }
    }
}

static void check_restored(LinuxGuest guest, const char *file)
{
    g_autofree char *uri = g_strdup_printf("exec:cat %s", file);
    Vm *vm = linux_guest_start(&guest, "restored", VM_PLAIN, "defer");

    qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect(vm_qmp(vm), "RESUME");
    assert_disk_works(vm);
    linux_guest_assert_intact(vm, "restored");
    linux_guest_finish(vm);
}

static void test_busy(void)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *disk = linux_guest_disk_new(DISK_BYTES);
    if (!disk) {
        g_test_skip("no file here can be read past the page cache");
        return;
    }
    g_autofree char *folder = g_strconcat(disk, ".d", NULL), *file = g_strconcat(disk, ".ff", NULL);
    LinuxGuest guest = {
        .ram_kib = RAM_KIB, .n_cpus = 2, .load = LOAD, .disk = disk, .listens = true};
    Vm *vm = linux_guest_start(&guest, "saved", VM_RUN, NULL);

    g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
    vm_wait_serial(vm, "FF ready");
    assert_disk_works(vm);
    g_autofree char *said = snapshot(vm, file, folder, "stream", true);
    g_autofree char *overlay = image_of(vm), *sum = checksum(disk);

    g_assert_true(g_str_has_prefix(overlay, folder));
    g_assert_nonnull(strstr(said, overlay));
    check_manifest(file, disk, overlay);
    assert_disk_works(vm);
    linux_guest_finish(vm);
    g_autofree char *later = checksum(disk);

    g_assert_cmpstr(later, ==, sum); /* nobody has written there since */
    check_restored(guest, file);
    remove_folder(folder);
    g_assert_cmpint(g_unlink(file), ==, 0);
    g_assert_cmpint(g_unlink(disk), ==, 0);
}

/* ---- what fails --------------------------------------------------------------------------------
 */

typedef struct {
    const char *name, *faults;
    const char *arg;  /* -object of the guest; NULL */
    const char *said; /* in the error's line */
    bool no_folder;   /* it goes away before the snapshot */
    bool branched;    /* the guest has a new image all the same */
    bool newer;       /* QEMU 10, its disk a node of -blockdev that an iothread serves */
} Row;

static const Row rows[] = {
    {"transaction", "snapshot/active/at/branching=hold", .said = "no overlays of the disks",
     .no_folder = true},
    {"libvirt", .arg = "secret,id=masterKey0,data=x", .said = "virsh snapshot-create-as"},
    {"killed/before", "snapshot/active/at/branching=kill", .said = "the snapshot failed"},
    {"killed/after", "snapshot/active/at/branched=kill", .said = "the snapshot failed",
     .branched = true},
    {"iothread", .branched = true, .newer = true},
    {"flush-fails", "snapshot/active/step/flush=skip", .said = NULL, .branched = true},
};

typedef struct {
    Vm *vm;
    const char *folder;
} Taker;

/* The folder goes between the plan and the transaction. */
static gpointer take_folder_away(gpointer data)
{
    Taker *t = data;
    g_autofree char *gate = vm_path(t->vm, "hold");
    int fd = open(gate, O_WRONLY | O_CLOEXEC); /* waits for the engine */

    g_assert_cmpint(g_rmdir(t->folder), ==, 0);
    close(fd);
    return NULL;
}

static void check_goes_on(Vm *vm, const BootsectConfig *boot)
{
    vm_wait_new_serial(vm, "B");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, boot));
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (row->faults ? !vm_faults_available(&why) : !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    g_autofree char *disk = linux_guest_disk_new(1 << 20);
    g_autofree char *folder = g_strconcat(disk, ".d", NULL), *file = g_strconcat(disk, ".ff", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=d0,format=raw,file=%s", disk);
    g_autofree char *node = g_strdup_printf("driver=raw,node-name=n0,file.driver=file,"
                                            "file.filename=%s",
                                            disk);
    const char *arg = row->newer ? "iothread,id=t0" : row->arg;
    const char *args[] = {"-machine",
                          "pc",
                          arg ? "-object" : "-no-reboot",
                          arg ? arg : "-no-reboot",
                          row->newer ? "-blockdev" : "-drive",
                          row->newer ? node : drive,
                          "-device",
                          row->newer ? "virtio-blk-pci,drive=n0,iothread=t0,id=disk1"
                                     : "virtio-blk-pci,drive=d0",
                          NULL};
    BootsectConfig boot = bootsect_config(64 << 20, 8 << 20, 1);
    Vm *vm = vm_start(&(VmConfig){.name = "saved",
                                  .launcher = VM_RUN,
                                  .qemu = qemu,
                                  .memory = SMALL,
                                  .args = args,
                                  .boot = &boot,
                                  .faults = row->faults,
                                  .listens = true});
    Taker taker = {vm, folder};
    GThread *thread = NULL;

    vm_wait_serial(vm, "B");
    g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
    if (row->no_folder) {
        g_autofree char *gate = vm_path(vm, "hold");

        g_assert_cmpint(mkfifo(gate, 0600), ==, 0);
        thread = g_thread_new("folder", take_folder_away, &taker);
    }
    g_autofree char *said = snapshot(vm, file, folder, "stream", !row->said);
    g_autofree char *image = image_of(vm);

    if (thread) {
        g_thread_join(thread);
    }
    if (row->said && !strstr(said, row->said)) {
        test_fail("it says '%s'", said);
    }
    g_assert_cmpint(g_str_has_prefix(image, folder), ==, row->branched);
    g_assert_cmpint(strstr(said, "from now on the guest has to be started with") != NULL, ==,
                    row->branched);
    check_goes_on(vm, &boot);
    vm_end(vm);
    if (!row->no_folder) {
        /* The one it boots from is a disk, too. */
        g_assert_cmpuint(count_files(folder), ==, row->branched ? 2 : 0);
        remove_folder(folder);
    }
    if (!row->said) {
        g_autofree char *manifest = g_strconcat(file, ".disks", NULL);

        g_assert_cmpint(g_unlink(manifest), ==, 0);
    }
    g_assert_cmpint(g_unlink(file), ==, row->said ? -1 : 0);
    g_assert_cmpint(g_unlink(disk), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot-disks/busy", test_busy);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot-disks/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
