/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault snapshot --disks: memory and disks of one instant. A Linux guest that writes its disk
 * all the time is restored from the file and the images that belong to it, and finds every block as
 * its memory knows it. However the snapshot ends, either the guest has the disks that it had, and
 * nothing is left; or what it says, and FILE.disks, name the images that the guest has continued
 * with.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/linuxguest.h"
#include "tests/qtest/disks-rig.h"

/* ---- all kinds of disks ---------------------------------------------------------------------- */

/* The image of the drive d1 (g_free). */
static char *image_of_d1(Rig *r)
{
    g_autofree char *now = rig_disks_of(r->snap.vm);
    char *line = strstr(now, " d1 ");
    g_auto(GStrv) words = g_strsplit_set(line, " \n", -1);

    return g_strdup(words[3]);
}

/* d1 gets a block of twos by way of the guest's drive: its base has none of it. */
static void check_goes_to_overlay(Rig *r)
{
    g_autofree char *sum = rig_checksum(r->d1), *overlay = image_of_d1(r);
    g_autofree char *said = qmp_hmp(vm_qmp(r->snap.vm), "qemu-io d1 \\\"write -P 2 0 64k\\\"");
    g_autofree char *flushed = qmp_hmp(vm_qmp(r->snap.vm), "qemu-io d1 \\\"flush\\\"");
    g_autofree char *later = rig_checksum(r->d1);
    const char *const argv[] = {
        "qemu-io",           "-r",    "-U", "-f", "qcow2", "-c", "read -P 2 0 64k", "-c",
        "read -P 1 64k 64k", overlay, NULL};

    g_assert_cmpstr(said, ==, "");
    g_assert_cmpstr(flushed, ==, "");
    g_assert_cmpstr(sum, ==, later);
    rig_run(argv);
}

/* From QEMU's working directory, which is ours (g_free). */
static char *relative(const char *path)
{
    g_autofree char *cwd = g_get_current_dir();
    GString *s = g_string_new(NULL);

    for (const char *c = cwd; *c; c++) {
        g_string_append(s, *c == '/' && c[1] ? "../" : "");
    }
    g_string_append(s, path + 1);
    return g_string_free(s, FALSE);
}

static void test_kinds(gconstpointer data)
{
    g_autofree char *newer = data ? vm_newer_qemu() : NULL, *folder = NULL;

    if (data && !newer) {
        return;
    }
    folder = folder_new();
    g_autofree char *raw = rig_image_new(folder, "raw", false),
                    *node = rig_image_new(folder, "node", true);
    g_autofree char *bare = rig_image_new(folder, "bare", false),
                    *unused = rig_image_new(folder, "u", false);
    g_autofree char *name = relative(raw);
    g_autofree char *throttled =
        g_strdup_printf("if=none,id=d3,format=raw,cache=writethrough,throttling.iops-total=100000,"
                        "file=%s",
                        name);
    g_autofree char *qcow2 = g_strdup_printf("qcow2,node-name=n4,discard=unmap,file.driver=file,"
                                             "file.filename=%s",
                                             node);
    g_autofree char *file = g_strdup_printf("file,node-name=n5,filename=%s", bare);
    g_autofree char *cd = g_strdup_printf("if=none,id=cd1,media=cdrom,format=raw,file=%s", unused);
    const char *const more[] = {"-object",   "iothread,id=t0",
                                "-drive",    "if=none,id=d2,format=qcow2,cache=none,file=%s",
                                "-device",   "virtio-blk-pci,drive=d2,iothread=t0",
                                "-drive",    throttled,
                                "-device",   "virtio-blk-pci,drive=d3",
                                "-blockdev", qcow2,
                                "-device",   "virtio-blk-pci,drive=n4,iothread=t0,id=disk4",
                                "-blockdev", file,
                                "-device",   "virtio-blk-pci,drive=n5,id=disk5",
                                "-drive",    cd,
                                "-device",   "ide-cd,drive=cd1,bus=ide.0,unit=0",
                                "-device",   "ide-cd,bus=ide.0,unit=1",
                                NULL};
    Rig r;

    if (!rig_begin(&r, newer, NULL, more)) {
        rig_remove_folder(g_steal_pointer(&folder));
        return;
    }
    for (unsigned i = 0; i < 2; i++) { /* the second one of what the first has made */
        Cli cli = rig_ask(&r, false);
        g_autofree char *out = cli_succeeds(&cli);
        char *last = rig_last_line(out);

        g_assert_true(g_str_has_prefix(last, LINE));
        rig_check_manifest(&r, last, "taken", 6);
        g_assert_cmpuint(rig_count_files(r.folder), ==, 6 + 6 * i);
        rig_check_in_use(&r);
        g_assert_cmpint(g_unlink(r.manifest), ==, 0);
        g_assert_cmpint(g_unlink(r.snap.path), ==, 0);
    }
    check_goes_to_overlay(&r);
    rig_end(&r);
    rig_remove_folder(g_steal_pointer(&folder));
}

/* ---- what is refused ------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *more[9];    /* arguments of the guest; %s: an image */
    void (*before)(Rig *r); /* done to it first */
    const char *part;       /* of the line that says so */
} Refusal;

static void move_image(Rig *r)
{
    g_autofree char *other = g_strconcat(r->d1, ".other", NULL);

    g_assert_cmpint(g_rename(r->d1, other), ==, 0);
    g_assert_true(g_file_set_contents(r->d1, "not mine", 8, NULL));
}

/* Behind an overlay of somebody else's. */
static void move_base(Rig *r)
{
    qmp_ok(vm_qmp(r->snap.vm), "blockdev-snapshot-sync",
           "{'device': 'd1', 'snapshot-file': '%s.front'}", r->d1);
    rig_look(r);
    move_image(r);
}

static void begin_job(Rig *r)
{
    g_autofree char *target = g_strconcat(r->d1, ".target", NULL);

    qmp_ok(vm_qmp(r->snap.vm), "drive-backup",
           "{'device': 'd1', 'target': '%s', 'sync': 'full', 'format': 'raw', 'speed': 1}", target);
    rig_look(r);
}

static void begin_export(Rig *r)
{
    g_autofree char *path = g_strconcat(r->images, "/nbd", NULL);

    qmp_ok(vm_qmp(r->snap.vm), "nbd-server-start",
           "{'addr': {'type': 'unix', 'data': {'path': '%s'}}}", path);
    qmp_ok(vm_qmp(r->snap.vm), "block-export-add",
           "{'type': 'nbd', 'id': 'e0', 'node-name': 'n2', 'writable': true}");
}

static const Refusal refusals[] = {
    {"libvirt", {"-object", "secret,id=masterKey0,data=x"}, .part = "virsh snapshot-create-as"},
    {"filter",
     {"-object", "throttle-group,id=g0,x-iops-total=100000", "-blockdev",
      "throttle,node-name=n2,throttle-group=g0,file.driver=qcow2,file.file.driver=file,"
      "file.file.filename=%s",
      "-device", "virtio-blk-pci,drive=n2"},
     .part = "has a node of type \"throttle\""},
    {"filter-below",
     {"-object", "throttle-group,id=g0,x-iops-total=100000", "-blockdev",
      "qcow2,node-name=n2,file.driver=throttle,file.throttle-group=g0,file.file.driver=file,"
      "file.file.filename=%s",
      "-device", "virtio-blk-pci,drive=n2"},
     .part = "is no file or block device of this host"},
    {"no-file", {"-drive", "if=virtio,format=raw,file.driver=null-co"}, .part = "is no file or"},
    {"temporary",
     {"-drive", "if=virtio,format=qcow2,snapshot=on,file=%s"},
     .part = "is no file or block device"},
    {"two-devices",
     {"-blockdev", "qcow2,node-name=n2,file.driver=file,file.filename=%s", "-device",
      "virtio-blk-pci,drive=n2,share-rw=on", "-device", "virtio-blk-pci,drive=n2,share-rw=on"},
     .part = "are one ("},
    {"moved", .before = move_image, .part = "is not the file that QEMU has open"},
    {"base-moved", .before = move_base,
     .part = " names as its base, is not the file that QEMU has"},
    {"job", .before = begin_job, .part = "QEMU is at a job with a disk (backup, d1)"},
    {"export",
     {"-blockdev", "qcow2,node-name=n2,file.driver=file,file.filename=%s", "-device",
      "virtio-blk-pci,drive=n2,share-rw=on"},
     .before = begin_export,
     .part = "QEMU exports node n2"},
};

static void test_refused(gconstpointer data)
{
    const Refusal *row = data;
    Rig r;

    if (!rig_begin(&r, NULL, NULL, row->more)) {
        return;
    }
    if (row->before) {
        row->before(&r);
    }
    Cli cli = rig_ask(&r, false);

    cli_fails(&cli, row->part);
    rig_check_as_before(&r);
    rig_end(&r);
}

static void test_manifest_there(void)
{
    g_autofree char *content = NULL;
    Rig r;

    if (!rig_begin(&r, NULL, NULL, NULL)) {
        return;
    }
    g_assert_true(g_file_set_contents(r.manifest, "mine", 4, NULL));
    Cli cli = rig_ask(&r, false);

    cli_fails(&cli, "is there already, and says which images another snapshot has");
    g_assert_true(g_file_get_contents(r.manifest, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, "mine");
    g_assert_cmpint(g_unlink(r.manifest), ==, 0);
    rig_check_as_before(&r);
    rig_end(&r);
}

/* The first overlay has room, the second has none. */
static void test_full(void)
{
    Rig r;

    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        g_test_skip("may not mount");
        return;
    }
    g_autofree char *point = folder_new();
    g_assert_cmpint(mount("fs", point, "tmpfs", 0, "size=300k"), ==, 0);
    if (rig_begin(&r, NULL, NULL, NULL)) {
        char *folder = r.folder;

        r.folder = point;
        Cli cli = rig_ask(&r, false);
        cli_fails(&cli, "No space left on device");
        rig_check_as_before(&r);
        r.folder = folder;
        rig_end(&r);
    }
    g_assert_cmpint(umount(point), ==, 0);
    folder_free(g_steal_pointer(&point));
}

/* ---- what comes in between ------------------------------------------------------------------- */

#define AT_PROTECTED "snapshot/active/at/protected=hold" /* the guest runs; the plan is made */
#define AT_BRANCHING "snapshot/active/at/branching=hold" /* it stands */

typedef struct {
    const char *name, *faults;
    void (*meanwhile)(Rig *r); /* while it is held, or after the guest continues; can be NULL */
    const char *part;          /* of the line that says what failed */
    bool slowly;               /* the guest is waited for to continue */
    bool taken;                /* it has the overlays */
} Course;

static void grow_disk(Rig *r)
{
    qmp_ok(vm_qmp(r->snap.vm), "block_resize", "{'device': 'd1', 'size': 8388608}");
}

static void put_another(Rig *r)
{
    g_autofree char *path = g_strconcat(r->images, "/another", NULL);

    qmp_ok(vm_qmp(r->snap.vm), "blockdev-snapshot-sync",
           "{'device': 'd1', 'snapshot-file': '%s', 'format': 'qcow2'}", path);
}

static void cancel(Rig *r)
{
    qmp_ok(vm_qmp(r->snap.vm), "migrate_cancel", NULL);
}

/* So that QEMU refuses the transaction: the second of two overlays is missing. */
static void drop_second(Rig *r)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(r->snap.vm), "query-named-block-nodes", NULL);
    JsonArray *list = rig_list(answer);
    g_autofree char *second = NULL;

    for (guint i = 0; i < json_array_get_length(list); i++) {
        const char *name =
            json_object_get_string_member(json_array_get_object_element(list, i), "node-name");

        if (g_str_has_prefix(name, "farfault-") && g_str_has_suffix(name, "-1")) {
            second = g_strdup(name);
        }
    }
    g_assert_nonnull(second);
    qmp_ok(vm_qmp(r->snap.vm), "blockdev-del", "{'node-name': '%s'}", second);
}

static const Course courses[] = {
    {"other-size", AT_PROTECTED, grow_disk, "got another size while its overlay was made"},
    {"other-node", AT_PROTECTED, put_another, "got another node while its overlay was made"},
    {"cancelled-in-the-stop", AT_BRANCHING, cancel, "cancelled by another client"},
    {"no-transaction", AT_BRANCHING, drop_second, "no overlays of the disks: transaction: "},
    {"no-resume", "snapshot/active/call/resume=EIO", NULL, "the snapshot failed", .taken = true},
    {"cancelled-later", NULL, cancel, "cancelled by another client", .slowly = true, .taken = true},
};

/* It says so, and BEGIN...: why they stay. What was FILE.disks has another name now, and no command
 * that would restore a file that never was. The first name (g_free); R has the other one. */
static char *check_failed(Rig *r, Cli *cli, const char *part, const char *begin, const char *state)
{
    char *own = g_steal_pointer(&r->manifest);

    r->manifest = g_strconcat(own, ".failed", NULL);
    g_autofree char *lists = g_strconcat(*begin == 'f' ? " uses" : " may use",
                                         " them: ", r->manifest, " lists them\n", NULL);
    g_autofree char *parts =
        g_strconcat(part, "*; the overlays stay, because the guest", lists, NULL);
    g_autofree char *line = rig_fails_with_line(cli, parts, begin);
    g_autofree char *text = NULL;

    rig_check_manifest(r, line, state, 2);
    g_assert_true(g_file_get_contents(r->manifest, &text, NULL, NULL));
    g_assert_null(strstr(text, "restore-command"));
    g_assert_false(g_file_test(own, G_FILE_TEST_EXISTS));
    return own;
}

static void check_taken(Rig *r, Cli *cli, const char *part)
{
    g_autofree char *own = check_failed(r, cli, part, LINE, "taken");

    g_assert_cmpuint(rig_count_files(r->folder), ==, 2);
    rig_check_in_use(r);
    check_goes_to_overlay(r);
    g_free(r->manifest);
    r->manifest = g_steal_pointer(&own);
}

/* The next one, of the same name, is as good as any. */
static void check_next(Rig *r)
{
    Cli cli = rig_ask(r, false);
    g_autofree char *out = cli_succeeds(&cli), *last = g_strconcat(r->manifest, ".failed", NULL);

    rig_check_manifest(r, rig_last_line(out), "taken", 2);
    rig_check_in_use(r);
    g_assert_cmpint(g_unlink(last), ==, 0);
}

static void follow(const Course *c)
{
    bool held = c->faults && g_str_has_suffix(c->faults, "=hold");
    Rig r;

    if (!rig_begin(&r, NULL, c->faults, NULL)) {
        return;
    }
    Cli cli = rig_ask(&r, c->slowly);

    if (held) {
        snap_wait_held(&r.snap);
    } else if (c->slowly) {
        qmp_expect(vm_qmp(r.snap.vm), "STOP");
        qmp_expect(vm_qmp(r.snap.vm), "RESUME");
    }
    if (c->meanwhile) {
        c->meanwhile(&r);
    }
    if (held) {
        g_free(r.before);
        r.before = rig_disks_of(r.snap.vm);
        snap_let_go(&r.snap);
    }
    if (c->taken) {
        check_taken(&r, &cli, c->part);
        check_next(&r);
    } else {
        cli_fails(&cli, c->part);
        g_autofree char *now = rig_disks_of(r.snap.vm);
        g_assert_cmpstr(now, ==, r.before);
        assert_empty(r.folder);
        g_assert_false(g_file_test(r.manifest, G_FILE_TEST_EXISTS));
    }
    rig_end(&r);
}

static void test_course(gconstpointer data)
{
    follow(data);
}

/* ---- the engine dies ------------------------------------------------------------------------- */

typedef struct {
    const char *step;
    bool taken; /* the transaction was before it */
} Death;

static const Death deaths[] = {
    {"setup"},          {"protected"},     {"stopping"},    {"offered"},       {"branching"},
    {"branched", true}, {"stopped", true}, {"armed", true}, {"running", true}, {"written", true},
};

static void test_death(gconstpointer data)
{
    const Death *d = data;
    g_autofree char *faults = g_strdup_printf("snapshot/*/at/%s=kill", d->step);

    /* As early as that the engine has perhaps not answered yet, and the command is refused. */
    const char *part = strcmp(d->step, "setup") ? "the snapshot failed"
                                                : "the migration engine ended unexpectedly";

    follow(&(Course){.faults = faults, .part = part, .taken = d->taken});
}

/* ---- the command ends ------------------------------------------------------------------------ */

/* A signal, by which no file is left, but the overlays are. */
static void test_signal(void)
{
    Rig r;

    if (!rig_begin(&r, NULL, NULL, NULL)) {
        return;
    }
    Cli cli = rig_ask(&r, true);

    qmp_expect(vm_qmp(r.snap.vm), "STOP");
    qmp_expect(vm_qmp(r.snap.vm), "RESUME");
    kill(cli.pid, SIGINT);
    check_taken(&r, &cli, "the snapshot was cancelled; no snapshot is left");
    check_next(&r);
    rig_end(&r);
}

/* It says nothing any more, but the manifest does. */
static void test_killed(void)
{
    Rig r;

    if (!rig_begin(&r, NULL, NULL, NULL)) {
        return;
    }
    g_autofree char *out = NULL, *err = NULL, *start = NULL;
    Cli cli = rig_ask(&r, true);

    qmp_expect(vm_qmp(r.snap.vm), "STOP");
    qmp_expect(vm_qmp(r.snap.vm), "RESUME");
    kill(cli.pid, SIGKILL);
    cli_end(&cli, &out, &err);
    qmp_expect_migration(vm_qmp(r.snap.vm), "cancelled");
    start = rig_start_of(&r);
    g_assert_true(g_str_has_prefix(start, UNKNOWN));
    rig_check_manifest(&r, start, "asked", 2);
    rig_check_in_use(&r);
    rig_end(&r);
}

/* QEMU ends, and nobody can be asked: what the line says is right either way. */
static void test_qemu_ends(void)
{
    Rig r;

    if (!rig_begin(&r, NULL, NULL, NULL)) {
        return;
    }
    Cli cli = rig_ask(&r, true);

    qmp_expect(vm_qmp(r.snap.vm), "STOP");
    qmp_expect(vm_qmp(r.snap.vm), "RESUME");
    vm_kill(r.snap.vm);
    g_free(check_failed(&r, &cli, "the monitor was closed", UNKNOWN, "asked"));
    g_assert_cmpint(g_unlink(r.manifest), ==, 0);
    g_free(r.snap.path);
    vm_end(r.snap.vm);
    rig_free(&r);
}

/* ---- the same instant ------------------------------------------------------------------------ */

#define RAM_KIB (160 * 1024)
#define DISK_BYTES (32 << 20)
#define LOAD "ff.mib=32 ff.write=70 ff.disk=1"

/* The guest says how many blocks it has found right, and how many were wrong. TRUE: none of N
 * times. */
static bool disk_is_right(Vm *vm, unsigned n)
{
    bool right = true;

    for (unsigned i = 0; i < n && right; i++) {
        g_autofree char *line = vm_serial_line(vm, "FF io disk=");

        g_test_message("%s", line);
        right = g_str_has_suffix(g_strchomp(line), "bad=0");
    }
    return right;
}

static Vm *restore(LinuxGuest guest, const char *name, const char *file)
{
    g_autofree char *uri = g_strdup_printf("exec:cat %s", file);
    Vm *vm = linux_guest_start(&guest, name, VM_PLAIN, "defer");

    qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect(vm_qmp(vm), "RESUME");
    return vm;
}

/* The disk as it was when the guest ended, in place of the one of the instant: that the guest sees.
 */
static void check_control(LinuxGuest guest, const char *file, const char *overlay)
{
    g_autofree char *later = g_strconcat(guest.disk, ".later", NULL);
    const char *const argv[] = {"qemu-img", "convert", "-O", "raw", overlay, later, NULL};

    rig_run(argv);
    guest.disk = later;
    Vm *vm = restore(guest, "control", file);
    if (disk_is_right(vm, 20)) {
        test_fail("a disk of another time is not told from that of the snapshot");
    }
    vm_kill(vm);
    vm_end(vm);
    g_assert_cmpint(g_unlink(later), ==, 0);
}

static void test_same_instant(void)
{
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *disk = linux_guest_disk_new(DISK_BYTES), *folder = NULL;
    if (!disk) {
        g_test_skip("no file here can be read past the page cache");
        return;
    }
    LinuxGuest guest = {
        .ram_kib = RAM_KIB, .n_cpus = 2, .load = LOAD, .disk = disk, .listens = true};
    Vm *vm = linux_guest_start(&guest, "saved", VM_RUN, NULL);
    g_autofree char *monitor = vm_path(vm, "server"), *file = g_strconcat(disk, ".snap", NULL);
    g_autofree char *manifest = g_strconcat(file, ".disks", NULL);

    folder = g_strconcat(disk, ".d", NULL); /* where files can be read past the page cache */
    g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
    vm_wait_serial(vm, "FF ready");
    g_assert_true(disk_is_right(vm, 2));
    const char *const args[] = {"--disks", folder, "--quiet", "--format", "stream", NULL};
    Cli cli = cli_start(monitor, file, args, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli), *sum = rig_checksum(disk), *now = rig_disks_of(vm);
    g_auto(GStrv) words = g_strsplit_set(now, " \n", -1);

    g_assert_true(g_str_has_prefix(words[3], folder));
    g_assert_true(disk_is_right(vm, 2));
    linux_guest_finish(vm);
    g_autofree char *later = rig_checksum(disk);

    g_assert_cmpstr(later, ==, sum); /* nobody has written there since */
    check_control(guest, file, words[3]);
    vm = restore(guest, "restored", file);
    g_assert_true(disk_is_right(vm, 3));
    linux_guest_assert_intact(vm, "restored");
    linux_guest_finish(vm);
    g_assert_cmpint(g_unlink(file), ==, 0);
    g_assert_cmpint(g_unlink(manifest), ==, 0);
    g_assert_cmpint(g_unlink(disk), ==, 0);
    rig_remove_folder(g_steal_pointer(&folder));
}

int main(int argc, char **argv)
{
    signal(SIGINT, SIG_DFL); /* the command inherits it if it is ignored */
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot-disks/same-instant", test_same_instant);
    g_test_add_data_func("/snapshot-disks/kinds/plain", NULL, test_kinds);
    g_test_add_data_func("/snapshot-disks/kinds/newer", "newer", test_kinds);
    for (unsigned i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *path = g_strconcat("/snapshot-disks/refused/", refusals[i].name, NULL);

        g_test_add_data_func(path, &refusals[i], test_refused);
    }
    g_test_add_func("/snapshot-disks/refused/manifest-there", test_manifest_there);
    g_test_add_func("/snapshot-disks/refused/full", test_full);
    for (unsigned i = 0; i < G_N_ELEMENTS(courses); i++) {
        g_autofree char *path = g_strconcat("/snapshot-disks/course/", courses[i].name, NULL);

        g_test_add_data_func(path, &courses[i], test_course);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/snapshot-disks/death/", deaths[i].step, NULL);

        g_test_add_data_func(path, &deaths[i], test_death);
    }
    g_test_add_func("/snapshot-disks/signal", test_signal);
    g_test_add_func("/snapshot-disks/killed", test_killed);
    g_test_add_func("/snapshot-disks/qemu-ends", test_qemu_ends);
    return g_test_run();
}
