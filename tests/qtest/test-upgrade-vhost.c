/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade of a Linux guest whose disk, or network, is a vhost-user device: one back-end
 * all the time, which serves one QEMU after the other, with the device in use; an upgrade that
 * fails, and what dies in one; the same where the first process stays (--keep-process).
 *
 * FF_ROUNDS: upgrades in a row.
 */
#include "tests/lib/linuxguest.h"
#include "tests/lib/storage.h"
#include "tests/lib/testpmd.h"
#include "tests/qtest/upgrade-rig.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISK_BYTES (32 << 20)

typedef struct {
    Guest *guest;
    char *image; /* of the disk; NULL: it has a network */
    char *socket;
    Storage *storage;
    Testpmd *testpmd;
    bool idle; /* nothing is read from the disk */
} World;

/* The guest's line that grows with each read that it has checked, or each frame. */
static const char *progress_of(const World *w)
{
    return w->idle ? "FF t=" : w->image ? "FF direct reads=" : "FF frames good=";
}

static void start_backend(World *w)
{
    if (w->image) {
        w->storage =
            storage_start(&(StorageConfig){.image = w->image, .socket = w->socket, .n_queues = 2});
    } else {
        unlink(w->socket); /* of one that was killed */
        w->testpmd = testpmd_start(w->socket, false, 1, TESTPMD_WAITS);
    }
}

static void boot(World *w)
{
    const char *source = g_getenv("FF_SOURCE");
    g_autofree char *kernel = g_build_filename(source, ".cache/guest/vmlinuz", NULL);
    g_autofree char *initrd = g_build_filename(source, ".cache/guest/initrd.img", NULL);
    g_autofree char *append =
        g_strconcat("console=ttyS0 quiet panic=-1 pti=on no_timer_check cryptomgr.notests "
                    "ff.mib=8 ff.mode=zipf ff.write=70 ff.report=100 ",
                    w->idle    ? ""
                    : w->image ? "ff.disk=1 ff.direct=8"
                               : "ff.frames=1500",
                    NULL);
    g_autofree char *chardev = g_strdup_printf("socket,id=c,path=%s,reconnect=1", w->socket);
    const char *const head[] = {"-machine", "pc-i440fx-7.2", "-smp",       "2",       "-m",
                                "160M",     "-kernel",       kernel,       "-initrd", initrd,
                                "-append",  append,          "-no-reboot", "-vga",    "std",
                                "-chardev", chardev,         "-device",    NULL};
    g_autoptr(GPtrArray) args = g_ptr_array_new();

    for (unsigned i = 0; head[i]; i++) {
        g_ptr_array_add(args, (char *)head[i]);
    }
    start_backend(w);
    if (w->image) {
        g_ptr_array_add(args, (char *)"vhost-user-blk-pci,chardev=c");
    } else {
        /* Without KVM QEMU 7.2 dies of such a network with MSI-X. */
        g_ptr_array_add(args, (char *)"virtio-net-pci,netdev=n,romfile=,vectors=0");
        g_ptr_array_add(args, (char *)"-netdev");
        g_ptr_array_add(args, (char *)"vhost-user,id=n,chardev=c");
    }
    g_ptr_array_add(args, NULL);
    up_start(w->guest, "qemu-system-x86_64", (const char *const *)args->pdata);
    g_free(up_wait_console(w->guest, "FF ready"));
}

static gint64 number(const char *text, const char *line, const char *name)
{
    const char *at = g_strrstr(text, line), *found = at ? strstr(at, name) : NULL;

    return found ? g_ascii_strtoll(found + strlen(name), NULL, 10) : -1;
}

static void nothing_bad(const char *text)
{
    const char *bad = strstr(text, "FF bad");

    if (bad) {
        test_fail("%.*s", (int)strcspn(bad, "\r\n"), bad);
    }
}

/* Its device works, what came from it was what it had to be, and so is all of its memory. */
static void is_right(World *w)
{
    const char *line = progress_of(w);
    gint64 first = -1, passes = -1;
    g_autofree char *before = up_wait_console(w->guest, ""); /* of a QEMU that had it before */

    nothing_bad(before);
    for (;;) {
        g_autofree char *text = up_wait_console(w->guest, line);
        gint64 now = number(text, line, "="), passes_now = number(text, "FF t=", "passes=");

        nothing_bad(text);
        g_assert_cmpint(number(text, line, "bad="), ==, 0);
        g_assert_cmpint(MAX(number(text, "FF t=", " bad="), 0), ==, 0);
        first = first < 0 ? now : first;
        passes = passes < 0 ? passes_now : passes;
        if (now > first + (w->idle ? 1 : 100) && passes >= 0 && passes_now > passes + 1) {
            return;
        }
    }
}

/* NULL, and the test is skipped. IDLE: the disk. WHO: of --vhost-user=. FAULTS: of the first QEMU's
 * engines; "": of later ones, by and by; NULL: none. */
static World *world_begin(bool disk, bool idle, const char *who, const char *faults)
{
    const char *why = NULL;

    if (!vm_farfault_available(&why) || !linux_guest_available(&why) ||
        (faults && !vm_faults_available(&why)) ||
        !(disk ? storage_available(&why) : testpmd_available(&why))) {
        g_test_skip(why);
        return NULL;
    }
    g_setenv("FARFAULT_VHOST_USER", who, TRUE);
    World *w = g_new0(World, 1);
    w->guest = up_new();
    w->image = disk ? linux_guest_disk_new(DISK_BYTES) : NULL;
    w->idle = disk && idle;
    w->socket = g_build_filename(w->guest->dir, "backend", NULL);
    if (faults && *faults) {
        up_set_faults(w->guest, faults);
    }
    boot(w);
    is_right(w);
    return w;
}

static World *world_new(bool disk, const char *who, const char *faults)
{
    return world_begin(disk, false, who, faults);
}

static void quit(World *w)
{
    up_reconnect(w->guest);
    qmp_ok(w->guest->qmp, "quit", NULL);
    up_disconnect(w->guest);
}

/* Its guest has quit, or is about to. */
static void world_free(World *w)
{
    up_await_qemus(w->guest, 0);
    if (w->image) {
        storage_end(w->storage);
        g_unlink(w->image);
    } else {
        testpmd_end(w->testpmd);
    }
    up_end(w->guest);
    g_free(w->image);
    g_free(w->socket);
    g_free(w);
}

static void world_end(World *w)
{
    quit(w);
    world_free(w);
}

/* To QEMU 10 and back. */
static void test_row(gconstpointer disk)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    World *w = newer ? world_new(GPOINTER_TO_INT(disk), "migrate", NULL) : NULL;

    if (!w) {
        return;
    }
    for (unsigned i = 0; i < up_rounds(3); i++) {
        g_autofree char *said = NULL;
        int status =
            up_run(w->guest, (const char *const[]){"--qemu", i % 2 ? older : newer, NULL}, &said);

        g_assert_cmpint(status, ==, 0);
        is_right(w);
    }
    world_end(w);
}

/* A second QEMU is started and looked at, or fails, or its engine dies when all is loaded: the
 * device stays where it is. */
static void test_unharmed(gconstpointer disk)
{
    World *w = world_new(GPOINTER_TO_INT(disk), "migrate", "");

    if (!w) {
        return;
    }
    g_autofree char *said = NULL;
    pid_t old = up_only_qemu(w->guest);

    g_assert_cmpint(up_run(w->guest, (const char *const[]){"--check", NULL}, &said), ==, 0);
    is_right(w);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *failed = NULL;

        up_set_faults(w->guest, i ? "takeover/*/at/ready=kill" : "takeover/*/at/loaded=kill");
        g_assert_cmpint(up_run(w->guest, NULL, &failed), ==, 1);
        g_assert_cmpint(up_only_qemu(w->guest), ==, old);
        is_right(w);
    }
    world_end(w);
}

/* The engine that has taken the guest dies, and then its relay as well: the one that is attached
 * gives QEMU its back-end. */
static void test_died(gconstpointer disk)
{
    World *w = world_new(GPOINTER_TO_INT(disk), "migrate", "");

    if (!w) {
        return;
    }
    g_autofree char *said = NULL, *failed = NULL;

    up_set_faults(w->guest, "takeover/*/at/taken=kill");
    g_assert_cmpint(up_run(w->guest, NULL, &said), ==, 0);
    is_right(w);
    up_set_faults(w->guest, "takeover/*/at/taken=relay");
    g_assert_cmpint(up_run(w->guest, NULL, &failed), ==, 1);
    up_attach(w->guest, up_only_qemu(w->guest));
    is_right(w);
    world_end(w);
}

/* The old QEMU's engine dies before it can say that the back-end is free, or with its relay before
 * it is: the end of the old QEMU says so. */
static void test_left(gconstpointer disk)
{
    static const char *const faults[] = {"handover/*/at/left=kill", "handover/*/at/running=both"};

    for (unsigned i = 0; i < G_N_ELEMENTS(faults); i++) {
        World *w = world_new(GPOINTER_TO_INT(disk), "migrate", faults[i]);

        if (!w) {
            return;
        }
        g_autofree char *said = NULL;
        g_assert_cmpint(up_run(w->guest, NULL, &said), ==, 0);
        up_only_qemu(w->guest);
        is_right(w);
        world_end(w);
    }
}

/* Of a back-end that has come again QEMU asks less than of the first one. A disk is idle: its
 * back-end has no INFLIGHT_SHMFD, and QEMU gives the next one requests again that were answered, so
 * that a busy guest reads EIO, or what is wrong (with --vhost-user=qemu as well). */
static void test_restarted(gconstpointer disk)
{
    World *w = world_begin(GPOINTER_TO_INT(disk), true, "migrate", NULL);

    if (!w) {
        return;
    }
    if (w->image) {
        storage_kill(w->storage);
    } else {
        testpmd_kill(w->testpmd);
    }
    start_backend(w);
    is_right(w);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *said = NULL;

        g_assert_cmpint(up_run(w->guest, NULL, &said), ==, 0);
        is_right(w);
    }
    world_end(w);
}

/* The same command line with another socket: what is behind that is another disk. */
static void test_elsewhere(void)
{
    World *w = world_new(true, "migrate", NULL);

    if (!w) {
        return;
    }
    g_autofree char *other = g_strconcat(w->socket, "2", NULL);
    g_autofree char *file = g_build_filename(w->guest->dir, "args", NULL), *said = NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    for (char **arg = w->guest->args; *arg; arg++) {
        g_autofree char *with = g_strdup_printf("path=%s,", w->socket);
        g_autofree char *instead = g_strdup_printf("path=%s,", other);
        g_auto(GStrv) parts = g_strsplit(*arg, with, 2);
        g_autofree char *word = g_strjoinv(instead, parts), *quoted = g_shell_quote(word);

        g_string_append_printf(text, "%s ", quoted);
    }
    g_assert_true(g_file_set_contents(file, text->str, -1, NULL));
    g_assert_cmpint(
        up_run(w->guest, (const char *const[]){"--check", "--args-from", file, NULL}, &said), ==,
        1);
    g_assert_nonnull(strstr(said, "where another disk or network may be"));
    g_assert_nonnull(strstr(said, other));
    is_right(w);
    world_end(w);
}

/* Its back-end hangs: the guest runs while that is found out, and goes over when it does not. */
static void test_hangs(void)
{
    World *w = world_new(true, "migrate", NULL);

    if (!w) {
        return;
    }
    g_autofree char *said = NULL, *after = NULL;
    storage_stand(w->storage, true);
    g_autoptr(Command) c = up_begin(w->guest, NULL);
    g_free(up_wait_console(w->guest, "FF t=")); /* often */
    g_assert_true(up_is_under_way(c));
    g_assert_cmpint(up_finish(c, &said), ==, 1);
    g_assert_nonnull(strstr(said, "one of them does not answer"));
    storage_stand(w->storage, false);
    is_right(w);
    g_assert_cmpint(up_run(w->guest, (const char *const[]){NULL}, &after), ==, 0);
    is_right(w);
    world_end(w);
}

/* farfault does not stand between QEMU and its back-end, or follows nothing. */
static void test_refused(void)
{
    static const char *const whos[] = {"qemu", "farfault"};

    for (unsigned i = 0; i < G_N_ELEMENTS(whos); i++) {
        World *w = world_new(true, whos[i], NULL);

        if (!w) {
            return;
        }
        g_autofree char *said = NULL;
        g_assert_cmpint(up_run(w->guest, NULL, &said), ==, 1);
        g_assert_nonnull(strstr(said, "--vhost-user=migrate"));
        g_assert_cmpuint(strcspn(said, "\n") + 1, ==, strlen(said));
        is_right(w);
        world_end(w);
    }
}

/* ---- the first process stays ----------------------------------------------------------------- */

/* The guest quits, and FRONT, this program's child, ends. WITH: its status. */
static void world_end_front(World *w, pid_t front, int with)
{
    int status;

    quit(w);
    g_assert_cmpint(waitpid(front, &status, 0), ==, front);
    g_assert_cmpint(status, ==, with);
    world_free(w);
}

/* The QEMU that has the guest, behind FRONT. */
static pid_t behind(const World *w, pid_t front)
{
    g_autoptr(GArray) all = up_qemus(w->guest);

    g_assert_cmpuint(all->len, ==, 2);
    return g_array_index(all, pid_t, g_array_index(all, pid_t, 0) == front);
}

/* PROGRAM can be NULL. Returns the exit status. */
static int keep(World *w, const char *program, char **said)
{
    return up_run(w->guest,
                  (const char *const[]){"--keep-process", program ? "--qemu" : NULL, program, NULL},
                  said);
}

/* To QEMU 10 and back; what fails before that leaves the device where it is. */
static void test_front(gconstpointer disk)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    World *w = newer ? world_new(GPOINTER_TO_INT(disk), "migrate", "") : NULL;

    if (!w) {
        return;
    }
    g_autofree char *failed = NULL, *mark = g_build_filename(w->guest->dir, "fault-0", NULL);
    pid_t front = up_only_qemu(w->guest), last = 0;
    up_set_faults(w->guest, "takeover/*/at/loaded=kill");
    g_assert_cmpint(keep(w, NULL, &failed), ==, 1);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
    g_assert_cmpint(up_only_qemu(w->guest), ==, front);
    is_right(w);
    for (unsigned i = 0; i < up_rounds(3); i++) {
        g_autofree char *said = NULL;

        g_assert_cmpint(keep(w, i % 2 ? older : newer, &said), ==, 0);
        g_assert_cmpint(behind(w, front), !=, last);
        last = behind(w, front);
        is_right(w);
    }
    world_end_front(w, front, 0);
}

typedef struct {
    const char *name, *faults;
    bool attach; /* the new QEMU has lost its relay */
    bool rest;   /* with -m slow alone */
} Died;

/* The front's engine dies before it can say that the back-end is free, and its relay with it or
 * not; or the new QEMU's dies, and its relay with it or not. The device does not stand. */
static void test_front_died(gconstpointer data)
{
    const Died *row = data;
    World *w = world_new(true, "migrate", row->faults);

    if (!w) {
        return;
    }
    g_autofree char *said = NULL, *mark = g_build_filename(w->guest->dir, "fault-0", NULL);
    pid_t front = up_only_qemu(w->guest);
    int status = keep(w, NULL, &said);
    g_assert_cmpint(status, ==, row->attach ? 1 : 0);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
    pid_t now = behind(w, front);
    if (row->attach) {
        up_attach_if_needed(w->guest, now); /* when the front has let the monitors' sockets go */
    }
    is_right(w);
    up_attach_if_needed(w->guest, front);
    is_right(w);
    /* A relay that was attached does not hear its QEMU say that it ends. */
    world_end_front(w, front, row->attach ? SIGKILL : 0);
}

/* Its relay is of a farfault that would keep the back-end. */
static void test_front_older(void)
{
    World *w = world_new(true, "migrate", "relay/*/step/leaves-back-ends=omit");

    if (!w) {
        return;
    }
    g_autofree char *said = NULL, *after = NULL;
    pid_t front = up_only_qemu(w->guest);

    g_assert_cmpint(keep(w, NULL, &said), ==, 1);
    g_assert_nonnull(strstr(said, "older farfault, which would not leave the back-end"));
    g_assert_cmpuint(strcspn(said, "\n") + 1, ==, strlen(said));
    g_assert_cmpint(up_only_qemu(w->guest), ==, front);
    is_right(w);
    g_assert_cmpint(up_run(w->guest, NULL, &after), ==, 0); /* where it does not stay */
    is_right(w);
    world_end(w);
}

int main(int argc, char **argv)
{
    static const Died died[] = {
        {"engine-running", "handover/*/at/running=kill", .rest = true},
        {"engine-inner-told", "handover/*/at/inner-told=kill"},
        {"relay-given", "handover/*/at/given=both", .rest = true},
        {"relay-running", "handover/*/at/running=both"},
        {"relay-left", "relay/*/at/back-ends-left=kill", .rest = true},
        {"next-taken", "takeover/*/at/taken=kill", .rest = true},
        {"next-relay", "takeover/*/at/taken=relay", true},
        {"next-relay-and-engine", "handover/*/at/running=kill;takeover/*/at/resumed=relay", true}};
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    for (unsigned i = 0; i < 2; i++) {
        const struct {
            const char *name;
            GTestDataFunc fn;
            bool both; /* with either device in the short tests */
        } tests[] = {{"row", test_row, true},     {"unharmed", test_unharmed},
                     {"died", test_died},         {"left", test_left, true},
                     {"front", test_front, true}, {"restarted", test_restarted}};

        for (unsigned k = 0; k < G_N_ELEMENTS(tests); k++) {
            if ((i == 0 && !tests[k].both) != rest) {
                continue;
            }
            g_autofree char *path =
                g_strdup_printf("/upgrade-vhost/%s/%s", tests[k].name, i ? "disk" : "network");

            g_test_add_data_func(path, GINT_TO_POINTER(i), tests[k].fn);
        }
    }
    if (!rest) {
        g_test_add_func("/upgrade-vhost/refused", test_refused);
        g_test_add_func("/upgrade-vhost/elsewhere", test_elsewhere);
        g_test_add_func("/upgrade-vhost/hangs", test_hangs);
        g_test_add_func("/upgrade-vhost/front-older", test_front_older);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(died); i++) {
        g_autofree char *path = g_strconcat("/upgrade-vhost/front-died/", died[i].name, NULL);

        if (died[i].rest == rest) {
            g_test_add_data_func(path, &died[i], test_front_died);
        }
    }
    return g_test_run();
}
