/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade of guests whose disks are not any more what they were under the same names: it
 * is refused, the guest continues where it is, and goes over when each name is given back.
 */
#include "tests/qtest/upgrade-rig.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/bootsect.h"
#include "tests/lib/snapshotcli.h"

/* Both in G's folder; TO is replaced. */
static void move(const Guest *g, const char *from, const char *to)
{
    g_autofree char *a = g_build_filename(g->dir, from, NULL);
    g_autofree char *b = g_build_filename(g->dir, to, NULL);

    g_assert_cmpint(g_rename(a, b), ==, 0);
}

static void copy(const Guest *g, const char *from, const char *to)
{
    g_autofree char *a = g_build_filename(g->dir, from, NULL);
    g_autofree char *b = g_build_filename(g->dir, to, NULL);
    g_autofree char *bytes = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(a, &bytes, &len, NULL));
    g_assert_true(g_file_set_contents(b, bytes, len, NULL));
}

static void link_to(const Guest *g, const char *target, const char *name)
{
    g_autofree char *path = g_build_filename(g->dir, name, NULL);

    unlink(path);
    g_assert_cmpint(symlink(target, path), ==, 0);
}

/* Of N bytes. */
static void make(const Guest *g, const char *name, gsize n)
{
    g_autofree char *path = g_build_filename(g->dir, name, NULL);
    g_autofree char *bytes = g_malloc0(n);

    g_assert_true(g_file_set_contents(path, bytes, n, NULL));
}

static void is_refused(Guest *g, const char *part)
{
    up_fails(g, (const char *const[]){"--check", NULL}, part);
    up_fails(g, NULL, part);
}

static void goes_over(Guest *g)
{
    g_autofree char *program = up_installed();

    up_to(g, program);
    up_check_memory(g);
}

/* A guest that writes counters, from a disk that is "disk0" by the words DISK; MORE: of its command
 * line. Both NULL-terminated. WITHIN: its working directory is its folder. */
static void start_disk(Guest *g, const char *const *disk, const char *const *more, bool within)
{
    g_autofree char *here = g_get_current_dir();
    g_autoptr(GStrvBuilder) args = g_strv_builder_new();

    g_strv_builder_add_many(args, "-machine", "pc-i440fx-7.2", "-smp", "2", "-m",
                            G_STRINGIFY(RAM_MIB) "M", NULL);
    g_strv_builder_addv(args, (const char **)disk);
    g_strv_builder_add_many(args, "-device", "ide-hd,id=disk0,drive=disk0,secs=1,cyls=1,heads=1",
                            NULL);
    g_strv_builder_addv(args, (const char **)more);
    g_auto(GStrv) all = g_strv_builder_end(args);
    g_assert_cmpint(g_chdir(within ? g->dir : here), ==, 0);
    up_start(g, "qemu-system-x86_64", (const char *const *)all);
    g_assert_cmpint(g_chdir(here), ==, 0);
    g_free(up_wait_console(g, "AB"));
}

/* The same from one that its QEMU opens as FILE. */
static void start(Guest *g, const char *file, const char *const *more, bool within)
{
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s", file);

    start_disk(g, (const char *const[]){"-drive", drive, NULL}, more, within);
}

static void write_boot_disk(Guest *g, const char *name)
{
    g_autofree char *image = g_build_filename(g->dir, name, NULL);

    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, 16 << 20, 2);
    bootsect_write(&g->boot, image);
}

/* NULL, and the test is skipped. */
static Guest *new_guest(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = up_new();
    write_boot_disk(g, "disk");
    return g;
}

static void test_replaced(void)
{
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    move(g, "disk", "kept");
    copy(g, "kept", "disk");
    is_refused(g, "block device 'disk0': ");
    is_refused(g, "disk is not the file that the running QEMU has open");
    move(g, "kept", "disk");
    goes_over(g);
}

/* A name that means what it did from QEMU's working directory alone. */
static void test_relative(void)
{
    static const char *const none[] = {"-vga", "std", NULL};
    g_autoptr(Guest) g = new_guest();

    if (!g) {
        return;
    }
    start(g, "disk,format=raw", none, true);
    move(g, "disk", "kept");
    copy(g, "kept", "disk");
    is_refused(g, "block device 'disk0': disk is not the file");
    move(g, "kept", "disk");
    goes_over(g);
}

static void test_link(void)
{
    static const char *const none[] = {"-vga", "std", NULL};
    g_autoptr(Guest) g = new_guest();

    if (!g) {
        return;
    }
    g_autofree char *file = g_strdup_printf("%s/link,format=raw", g->dir);
    copy(g, "disk", "other");
    link_to(g, "disk", "link");
    start(g, file, none, false);
    link_to(g, "other", "link");
    is_refused(g, "link is not the file that the running QEMU has open");
    link_to(g, "disk", "link");
    goes_over(g);
}

static void test_backing(void)
{
    static const char *const none[] = {"-vga", "std", NULL};
    g_autofree char *program = g_find_program_in_path("qemu-img");
    g_autoptr(Guest) g = program ? new_guest() : NULL;

    if (!g) {
        g_test_skip("no qemu-img");
        return;
    }
    g_autofree char *overlay = g_build_filename(g->dir, "overlay", NULL);
    g_autofree char *file = g_strdup_printf("%s,format=qcow2", overlay);
    const char *argv[] = {program, "create", "-q",  "-f",    "qcow2", "-b",
                          "disk",  "-F",     "raw", overlay, NULL};
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL));
    start(g, file, none, false);
    move(g, "disk", "kept");
    copy(g, "kept", "disk");
    is_refused(g, "block device 'disk0': ");
    is_refused(g, "/disk is not the file that the running QEMU has open");
    move(g, "kept", "disk");
    goes_over(g);
}

/* How a guest has its disk: what stands before the file, and behind it. */
typedef struct {
    const char *name, *before, *behind;
    bool relative;
} Overlaid;

static const Overlaid overlaid[] = {
    {"drive", "-drive if=none,id=disk0,file=", "", false},
    {"relative", "-drive if=none,id=disk0,file=", "", true},
    /* As libvirt writes it: who names nodes may name those of the new QEMU. */
    {"blockdev", "-blockdev driver=file,node-name=file0,filename=",
     " -blockdev node-name=disk0,file=file0,driver=", false},
};

/* "PATH,format=FORMAT" in its place on a command line (g_free). */
static char *disk_words(const Overlaid *o, const char *disk)
{
    const char *format = strstr(disk, ",format=");
    g_autofree char *path = g_strndup(disk, format - disk);

    return g_strconcat(o->before, *o->behind ? path : disk, o->behind,
                       *o->behind ? format + strlen(",format=") : "", NULL);
}

/* What farfault snapshot --disks, of FILE, prints that the guest has to be started with (g_free).
 */
static char *overlay_of_snapshot(Guest *g, const char *file)
{
    static const char begin[] = "from now on the guest has to be started with ";
    const char *const args[] = {"--disks", g->dir, "--quiet", NULL};
    g_autofree char *path = g_build_filename(g->dir, file, NULL);

    up_disconnect(g);
    Cli cli = cli_start(g->monitor, path, args, NULL, NULL);
    g_autofree char *out = cli_succeeds(&cli);
    const char *at = strstr(out, begin), *end = at ? strstr(at, " for disk0;") : NULL;
    g_assert_nonnull(end);
    return g_strndup(at + strlen(begin), end - at - strlen(begin));
}

/* Its arguments with NOW in the place of WAS: the file with them (g_free). */
static char *args_with(const Guest *g, const Overlaid *o, const char *was, const char *now)
{
    g_autofree char *own = g_strjoinv(" ", g->args), *from = disk_words(o, was);
    g_autofree char *to = disk_words(o, now), *path = g_build_filename(g->dir, "args", NULL);
    g_auto(GStrv) parts = g_strsplit(own, from, 2);
    g_autofree char *text = g_strjoinv(to, parts);

    g_assert_nonnull(parts[1]);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return g_steal_pointer(&path);
}

static void with_disk_is_refused(Guest *g, const Overlaid *o, const char *was, const char *now,
                                 const char *part)
{
    g_autofree char *args = args_with(g, o, was, now);

    g_test_message("%s", now);
    up_fails(g, (const char *const[]){"--args-from", args, NULL}, part);
}

/* An overlay of BACKING that nobody has ("PATH,format=qcow2"; g_free). */
static char *other_overlay(const Guest *g, const char *backing)
{
    g_autofree char *path = g_build_filename(g->dir, "other", NULL);
    g_autofree char *base = g_strndup(backing, strcspn(backing, ","));
    const char *argv[] = {"qemu-img", "create", "-q",    "-f", "qcow2", "-b",
                          base,       "-F",     "qcow2", path, NULL};
    int status = -1;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    return g_strconcat(path, ",format=qcow2", NULL);
}

/* With what two snapshots print the guest goes to another QEMU, and from there on by its own
 * command line; with a shorter chain, another one, or the overlay as if it were raw, it does not.
 */
static void test_overlays(gconstpointer data)
{
    static const char *const none[] = {NULL};
    const Overlaid *o = data;
    g_autofree char *image = g_find_program_in_path("qemu-img");
    g_autofree char *newer = vm_newer_qemu(), *newest = vm_qemu(11), *older = up_installed();
    g_autoptr(Guest) g = image ? new_guest() : NULL;

    if (!g) {
        g_test_skip("no qemu-img, or as said above");
        return;
    }
    g_autofree char *was =
        g_strdup_printf("%s%sdisk,format=raw", o->relative ? "" : g->dir, o->relative ? "" : "/");
    g_autofree char *words = disk_words(o, was);
    g_auto(GStrv) disk = g_strsplit(words, " ", -1);
    start_disk(g, (const char *const *)disk, none, true);
    g_autofree char *first = overlay_of_snapshot(g, "one");
    g_autofree char *second = overlay_of_snapshot(g, "two");
    g_autofree char *other = other_overlay(g, first);
    g_autofree char *as_raw = g_strdup_printf("%.*s,format=raw", (int)strcspn(second, ","), second);
    g_autofree char *fix =
        g_strdup_printf("give the guest's command line with file=%s for it (--args-from)", second);

    with_disk_is_refused(g, o, was, was, fix);
    with_disk_is_refused(g, o, was, first, fix);
    with_disk_is_refused(g, o, was, other, fix);
    with_disk_is_refused(g, o, was, as_raw, fix);
    /* Its own command line is adapted, but where the format is in another word than the file. */
    g_autofree char *alone = NULL;
    g_assert_cmpint(up_run(g, (const char *const[]){"--check", NULL}, &alone), ==, !!*o->behind);
    g_assert_true(!*o->behind || strstr(alone, fix));
    g_autofree char *args = args_with(g, o, was, second), *said = NULL;
    const char *const typed[] = {"--args-from", args, "--qemu", newer ? newer : older, NULL};
    g_assert_cmpint(up_run(g, typed, &said), ==, 0);
    up_check_memory(g);
    up_to(g, newest ? newest : older);
    goes_over(g);
}

/* The next package of it has replaced the file, and nobody has the old one any more. */
static void test_firmware(void)
{
    static const char bios[] = "/usr/share/seabios/bios-256k.bin";
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    gsize len;
    g_autoptr(Guest) g = g_file_test(bios, G_FILE_TEST_EXISTS) ? new_guest() : NULL;

    if (!g) {
        g_test_skip("no SeaBIOS, or as said above");
        return;
    }
    g_autofree char *code = g_build_filename(g->dir, "code", NULL);
    g_autofree char *flash =
        g_strdup_printf("if=pflash,unit=0,format=raw,readonly=on,file=%s", code);
    g_autofree char *file = g_strdup_printf("%s/disk,format=raw", g->dir);
    const char *const more[] = {"-drive", flash, NULL};

    g_assert_true(g_file_get_contents(bios, &bytes, &len, &error));
    g_assert_no_error(error);
    g_assert_true(g_file_set_contents(code, bytes, len, &error));
    start(g, file, more, false);
    bytes[0] ^= 1;
    g_assert_true(g_file_set_contents(code, bytes, len, &error)); /* another file of that name */
    goes_over(g);
}

/* Two disks, each in the file of the other. */
static void test_exchanged(void)
{
    g_autoptr(Guest) g = new_guest();

    if (!g) {
        return;
    }
    make(g, "one", 1 << 20);
    make(g, "two", 2 << 20);
    g_autofree char *one = g_strdup_printf("if=none,id=one,format=raw,file=%s/one", g->dir);
    g_autofree char *two = g_strdup_printf("if=none,id=two,format=raw,file=%s/two", g->dir);
    const char *const more[] = {"-drive", one, "-drive", two, NULL};
    g_autofree char *file = g_strdup_printf("%s/disk,format=raw", g->dir);
    start(g, file, more, false);
    move(g, "one", "kept");
    move(g, "two", "one");
    move(g, "kept", "two");
    is_refused(g, "block device 'one' has 1048576 bytes in the running QEMU and 2097152 in");
    copy(g, "one", "two");
    is_refused(g, "two is not the file that the running QEMU has open");
}

/* The same of their devices, on a command line of somebody's: by their names and files all is
 * there. */
static void test_devices_exchanged(void)
{
    static const struct {
        const char *first, *second, *part;
    } cases[] = {
        {"id=b,drive=two", "id=a,drive=one", "property of a device '"},
        {"id=a,drive=two", "id=b,drive=one", ".drive' is "},
        {"id=a,drive=one,addr=9", "id=b,drive=two", ".addr' is 0"},
    };
    static const char line[] = "-device virtio-blk-pci,%s -device virtio-blk-pci,%s";
    g_autoptr(Guest) g = new_guest();

    if (!g) {
        return;
    }
    make(g, "one", 1 << 20);
    make(g, "two", 1 << 20);
    g_autofree char *one = g_strdup_printf("if=none,id=one,format=raw,file=%s/one", g->dir);
    g_autofree char *two = g_strdup_printf("if=none,id=two,format=raw,file=%s/two", g->dir);
    const char *const more[] = {"-drive",  one,
                                "-drive",  two,
                                "-device", "virtio-blk-pci,id=a,drive=one",
                                "-device", "virtio-blk-pci,id=b,drive=two",
                                NULL};
    g_autofree char *disk = g_strdup_printf("%s/disk,format=raw", g->dir);
    start(g, disk, more, false);
    g_autofree char *own = g_strjoinv(" ", g->args);
    g_autofree char *before = g_strdup_printf(line, "id=a,drive=one", "id=b,drive=two");
    g_auto(GStrv) parts = g_strsplit(own, before, 2);
    g_autofree char *file = g_build_filename(g->dir, "args", NULL);
    g_assert_nonnull(parts[1]);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *now = g_strdup_printf(line, cases[i].first, cases[i].second);
        g_autofree char *text = g_strconcat(parts[0], now, parts[1], NULL);

        g_assert_true(g_file_set_contents(file, text, -1, NULL));
        up_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
    }
    g_assert_true(g_file_set_contents(file, own, -1, NULL));
    g_autofree char *said = NULL;
    g_assert_cmpint(up_run(g, (const char *const[]){"--args-from", file, NULL}, &said), ==, 0);
    up_check_memory(g);
}

/* As root, without what root may more than others. */
static int run_bare(const Guest *g, char **said)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    const char *argv[] = {farfault, "upgrade", g->monitor, NULL};
    g_auto(GStrv) env = up_environment(g);
    g_autofree char *path = g_build_filename(g->dir, "bare", NULL);
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        dup2(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
        for (int cap = 0; prctl(PR_CAPBSET_DROP, cap) == 0; cap++) {
        }
        execve(farfault, (char **)argv, env);
        _exit(127);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(g_file_get_contents(path, said, NULL, NULL));
    return WEXITSTATUS(status);
}

/* What cannot be found out is not taken for granted. */
static void test_not_seen(void)
{
    g_autofree char *said = NULL;

    if (geteuid() != 0) {
        g_test_skip("not root: no process of ours has more capabilities than another");
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    if (!g) {
        return;
    }
    up_disconnect(g);
    g_assert_cmpint(run_bare(g, &said), ==, 1);
    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, ") has open cannot be seen"));
    g_assert_nonnull(strstr(said, "run this with its user, group and capabilities\n"));
    up_runs(g);
    goes_over(g);
}

#define CACHED (4u << 20) /* bytes */

/* Pages of the file at PATH that are in the kernel's cache. */
static unsigned cached(const char *path)
{
    g_autofree unsigned char *is = g_malloc(CACHED / 4096);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *at = mmap(NULL, CACHED, PROT_READ, MAP_SHARED, fd, 0);
    unsigned n = 0;

    g_assert_true(at != MAP_FAILED);
    g_assert_cmpint(mincore(at, CACHED, is), ==, 0);
    for (unsigned i = 0; i < CACHED / 4096; i++) {
        n += is[i] & 1;
    }
    munmap(at, CACHED);
    close(fd);
    return n;
}

/* A QEMU that opens its disks for writing drops their caches, which takes as long as they are
 * large: not here, where nobody else has written to them. */
static void test_cache(void)
{
    g_autoptr(Guest) g = new_guest();
    struct statfs fs;

    if (!g) {
        return;
    }
    g_autofree char *path = g_build_filename(g->dir, "other", NULL);
    g_autofree char *disk = g_build_filename(g->dir, "disk,format=raw", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=other,format=raw,file=%s", path);
    const char *const more[] = {"-drive", drive, "-device", "ide-hd,drive=other", NULL};

    make(g, "other", CACHED);
    g_assert_cmpint(statfs(path, &fs), ==, 0);
    if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC) {
        g_test_skip("the folder for temporary files is neither ext4 nor XFS");
        return;
    }
    start(g, disk, more, false);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fsync(fd), ==, 0); /* what is not on the disk yet stays in any case */
    close(fd);
    g_assert_cmpuint(cached(path), ==, CACHED / 4096);
    goes_over(g);
    g_assert_cmpuint(cached(path), ==, CACHED / 4096);

    /* But right behind it, when somebody else may have had them. */
    up_reconnect(g);
    qmp_ok(g->qmp, "migrate-set-capabilities",
           "{'capabilities': [{'capability': 'events', 'state': true}]}");
    qmp_ok(g->qmp, "migrate", "{'uri': 'exec:cat >/dev/null'}");
    qmp_expect_migration(g->qmp, "completed");
    qmp_wait_postmigrate(g->qmp); /* it refuses cont until then */
    qmp_ok(g->qmp, "cont", NULL);
    g_assert_cmpuint(cached(path), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade-disks/replaced", test_replaced);
    g_test_add_func("/upgrade-disks/relative", test_relative);
    g_test_add_func("/upgrade-disks/link", test_link);
    g_test_add_func("/upgrade-disks/backing", test_backing);
    for (unsigned i = 0; i < G_N_ELEMENTS(overlaid); i++) {
        g_autofree char *path = g_strconcat("/upgrade-disks/overlays/", overlaid[i].name, NULL);

        g_test_add_data_func(path, &overlaid[i], test_overlays);
    }
    g_test_add_func("/upgrade-disks/firmware", test_firmware);
    g_test_add_func("/upgrade-disks/exchanged", test_exchanged);
    g_test_add_func("/upgrade-disks/devices-exchanged", test_devices_exchanged);
    g_test_add_func("/upgrade-disks/not-seen", test_not_seen);
    g_test_add_func("/upgrade-disks/cache", test_cache);
    return g_test_run();
}
