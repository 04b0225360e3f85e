/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lazy restores of real guests: a guest that writes everywhere is saved, by farfault or by stock
 * QEMU 10, and runs again before its memory is there; each vCPU's counters have one step at most. A
 * stopped guest comes back byte for byte. The engine dies at each phase, the file cannot be read,
 * is cut, or is that of another guest: nothing is lost, and no zeros are seen.
 *
 * QEMU 10 is that of vm_newer_qemu(). FF_ROUNDS: how often an engine dies at random (default 3);
 * with it, it dies at more moments as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/check.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 24
#define OFFSET 65672 /* as libvirt has it: no multiple of anything */
#define PC "pc-i440fx-7.2"

typedef enum { OLD, NEW } Version; /* 7.2 and 10 */
typedef enum { OURS, STOCK } Saver;
typedef enum { COMMAND, INCOMING, BY_FD } Way;

typedef struct {
    const char *name;
    Saver saver;
    Version from, to;
    Way way;
    uint64_t offset;
    bool stopped;
    const char *machine;
    unsigned n_cpus;
    const char *const *args; /* more of them; they name the memory, if there is SIZE; can be NULL */
    const char *size;        /* of -m; NULL: RAM_MIB */
} Row;

/* Addresses of blocks that are not 0: RAM of two nodes, and a DIMM. */
static const char *const numa[] = {"-object", "memory-backend-ram,id=n0,size=16M",
                                   "-object", "memory-backend-ram,id=n1,size=48M",
                                   "-numa",   "node,memdev=n0",
                                   "-numa",   "node,memdev=n1",
                                   "-object", "memory-backend-ram,id=m0,size=128M",
                                   "-device", "pc-dimm,memdev=m0,id=d0",
                                   "-device", "virtio-rng-pci",
                                   NULL};
static const char *const huge[] = {"-object",
                                   "memory-backend-memfd,id=h,size=64M,hugetlb=on,hugetlbsize=2M",
                                   "-machine", "memory-backend=h", NULL};
#define HUGE_PAGES (2 * RAM_MIB / 2)

static const Row rows[] = {
    {"7.2", OURS, OLD, OLD, COMMAND, .machine = PC, .n_cpus = 2},
    {"7.2/10", OURS, OLD, NEW, INCOMING, .machine = PC, .n_cpus = 2},
    {"10", OURS, NEW, NEW, INCOMING, .machine = "q35", .n_cpus = 2},
    {"stock/10", STOCK, NEW, NEW, INCOMING, .machine = "q35", .n_cpus = 2},
    {"stock/7.2", STOCK, NEW, OLD, COMMAND, .machine = PC, .n_cpus = 2},
    {"offset", OURS, OLD, OLD, COMMAND, .offset = OFFSET, .machine = PC, .n_cpus = 1},
    {"stock/offset", STOCK, NEW, NEW, INCOMING, .offset = OFFSET, .machine = "q35", .n_cpus = 1},
    {"fd", OURS, OLD, OLD, BY_FD, .offset = OFFSET, .machine = PC, .n_cpus = 1},
    {"numa", OURS, OLD, OLD, COMMAND, .stopped = true, .machine = PC, .n_cpus = 1, .args = numa,
     .size = "64M,slots=2,maxmem=1G"},
    {"huge", OURS, OLD, OLD, COMMAND, .machine = PC, .n_cpus = 2, .args = huge},
    {"stopped", OURS, OLD, OLD, COMMAND, .stopped = true, .machine = PC, .n_cpus = 2},
    {"stock/stopped", STOCK, NEW, NEW, INCOMING, .stopped = true, .machine = "q35", .n_cpus = 1},
};

/* A guest, and the file that it was saved to. */
typedef struct {
    const Row *row;
    char *newer;
    BootsectConfig boot;
    Vm *saved;
    char *path;
    bool shared; /* its guest, and what that was saved to, are those of other cases, too */
} Scene;

static Vm *start(const Scene *s, Version version, bool incoming, const char *memory,
                 const char *faults)
{
    g_autofree char *cpus = g_strdup_printf("%u", s->row->n_cpus);
    const char *args[32] = {"-machine", s->row->machine, "-smp", cpus};

    for (unsigned i = 0; s->row->args && s->row->args[i]; i++) {
        g_assert_cmpuint(i, <, G_N_ELEMENTS(args) - 5);
        args[4 + i] = s->row->args[i];
    }
    return vm_start(&(VmConfig){.name = incoming ? "restored" : "saved",
                                .launcher = !incoming && s->row->saver == STOCK ? VM_PLAIN : VM_RUN,
                                .qemu = version == OLD ? "qemu-system-x86_64" : s->newer,
                                .memory = memory,
                                .args = args,
                                .boot = &s->boot,
                                .faults = faults,
                                .incoming = incoming ? "defer" : NULL});
}

static Vm *start_again(const Scene *s, const char *faults)
{
    Vm *vm =
        start(s, s->row->to, true, s->row->size ? s->row->size : G_STRINGIFY(RAM_MIB) "M", faults);

    qmp_set_capability(vm_qmp(vm), "events", true);
    return vm;
}

/* ---- saving ------------------------------------------------------------------------------------
 */

static void save(Scene *s)
{
    Qmp *q = vm_qmp(s->saved);

    vm_wait_serial(s->saved, "AB");
    qmp_set_capability(q, "events", true);
    if (s->row->stopped) {
        qmp_ok(q, "stop", NULL);
    }
    if (s->row->saver == OURS) {
        qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'offset': %" G_GUINT64_FORMAT "}", s->path,
               s->row->offset);
    } else {
        /* As "virsh save" does: stopped first, so that it comes to an end. */
        qmp_ok(q, "stop", NULL);
        qmp_set_capability(q, "mapped-ram", true);
        qmp_ok(q, "migrate", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", s->path,
               s->row->offset);
    }
    qmp_expect_migration(q, "completed");
}

/* FALSE: skipped. */
static bool begin(Scene *s, const Row *row)
{
    const char *why;

    *s = (Scene){.row = row};
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    if ((row->from == OLD || row->to == OLD) && !vm_is_qemu("qemu-system-x86_64", "7.2")) {
        g_test_skip("the installed QEMU is not 7.2");
        return false;
    }
    if (row->from == NEW || row->to == NEW) {
        s->newer = vm_newer_qemu();
        if (!s->newer) {
            return false;
        }
    }
    s->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, row->n_cpus);
    s->saved = start(s, row->from, false, row->size ? row->size : G_STRINGIFY(RAM_MIB) "M", NULL);
    s->path = vm_path(s->saved, "file");
    save(s);
    return true;
}

static void end(Scene *s)
{
    if (s->saved && !s->shared) {
        vm_end(s->saved);
    }
    g_free(s->path);
    g_free(s->newer);
}

static const Row plain = {"plain", OURS, OLD, OLD, COMMAND, .machine = PC, .n_cpus = 2};
static Scene first; /* of it; saved once */

/* A file of this case's own, of a guest that is saved once for all of them. FALSE: skipped. */
static bool begin_plain(Scene *s)
{
    static unsigned n;

    *s = (Scene){.row = &plain};
    if (!first.saved && !begin(&first, &plain)) {
        return false;
    }
    *s = first;
    g_autofree char *name = g_strdup_printf("copy-%u", n++);
    s->shared = true;
    s->newer = NULL;
    s->path = vm_path(s->saved, name);
    const char *const argv[] = {"cp", "--sparse=always", first.path, s->path, NULL};
    int status;
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    return true;
}

/* ---- restoring ---------------------------------------------------------------------------------
 */

static void ask(const Scene *s, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *offset =
        s->row->offset ? g_strdup_printf(", 'offset': %" G_GUINT64_FORMAT, s->row->offset)
                       : g_strdup("");

    if (s->row->way == INCOMING) {
        qmp_set_capability(q, "mapped-ram", true);
        qmp_set_capability(q, "postcopy-ram", true);
        qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", path,
               s->row->offset);
    } else if (s->row->way == BY_FD) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        g_assert_cmpint(fd, >=, 0);
        qmp_getfd(q, "saved", fd);
        close(fd);
        qmp_ok(q, "x-farfault-restore", "{'fdname': 'saved'%s}", offset);
    } else {
        qmp_ok(q, "x-farfault-restore", "{'file': '%s'%s}", path, offset);
    }
}

/* The engine did it, by faults and fill. */
static void check_info(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "completed");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    g_assert_true(json_object_has_member(own, "restore"));
}

/* It runs, and has never seen a wrong counter. */
static void check_goes_on(const Scene *s, Vm *vm)
{
    vm_wait_new_serial(vm, "B");
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &s->boot));
    qmp_ok(vm_qmp(vm), "cont", NULL);
    vm_wait_new_serial(vm, "B");
}

static void check_restored(const Scene *s, Vm *vm)
{
    g_autofree char *state = qmp_run_state(vm_qmp(vm));
    bool stood = s->row->stopped || s->row->saver == STOCK;

    g_assert_cmpstr(state, ==, stood ? "paused" : "running");
    if (s->row->stopped) {
        check_right(check_equal(s->saved, vm, 1 << 20, (uint64_t)RAM_MIB << 20));
    }
    if (stood) {
        qmp_ok(vm_qmp(vm), "cont", NULL);
    }
    check_goes_on(s, vm);
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    HugePages *pool = NULL;
    Scene s;

    if (row->args == huge && !(pool = hugepages_new(HUGE_PAGES))) {
        return;
    }

    if (begin(&s, data)) {
        Vm *vm = start_again(&s, NULL);
        Qmp *q = vm_qmp(vm);

        ask(&s, vm, s.path);
        qmp_expect_migration(q, "setup");
        qmp_expect_migration(q, "active");
        qmp_expect_migration(q, "postcopy-active");
        qmp_expect_migration(q, "completed");
        check_info(vm);
        check_restored(&s, vm);
        vm_end(vm);
    }
    end(&s);
    hugepages_free(pool);
}

/* ---- a guest that knows its memory --------------------------------------------------------------
 */

/* It checks all of it while it comes, and after that; and its disk. */
static void test_linux(void)
{
    const LinuxGuest guest = {
        .ram_kib = 160 * 1024, .n_cpus = 2, .load = "ff.mib=64 ff.mode=random ff.write=80"};
    const char *why = NULL;

    if (!linux_guest_available(&why) || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *saved = linux_guest_start(&guest, "saved", VM_RUN, NULL);
    g_autofree char *path = vm_path(saved, "file");

    vm_wait_serial(saved, "FF ready");
    qmp_set_capability(vm_qmp(saved), "events", true);
    qmp_ok(vm_qmp(saved), "x-farfault-snapshot", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(saved), "completed");
    Vm *vm = linux_guest_start(&guest, "restored", VM_RUN, "defer");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    linux_guest_assert_intact(vm, "while it comes");
    qmp_expect_migration(vm_qmp(vm), "completed");
    linux_guest_assert_intact(vm, "restored");
    linux_guest_finish(vm);
    linux_guest_finish(saved);
}

/* ---- two of them -------------------------------------------------------------------------------
 */

static void test_two(void)
{
    Scene s;

    if (begin_plain(&s)) {
        Vm *vm[] = {start_again(&s, NULL), start_again(&s, NULL)};

        for (unsigned i = 0; i < G_N_ELEMENTS(vm); i++) {
            ask(&s, vm[i], s.path);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(vm); i++) {
            qmp_expect_migration(vm_qmp(vm[i]), "completed");
            check_restored(&s, vm[i]);
            vm_end(vm[i]);
        }
    }
    end(&s);
}

/* A restored guest is one as any other: it is saved, and restored again. */
static void test_again(void)
{
    Scene s;

    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, NULL), *next;
        g_autofree char *path = vm_path(vm, "next");

        ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        next = start_again(&s, NULL);
        ask(&s, next, path);
        qmp_expect_migration(vm_qmp(next), "completed");
        check_restored(&s, next);
        vm_end(next);
        check_goes_on(&s, vm);
        vm_end(vm);
    }
    end(&s);
}

/* ---- the engine dies ---------------------------------------------------------------------------
 */

static bool has_faults(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

/* The engine may die before it has answered. */
static void ask_who_dies(const Scene *s, Vm *vm)
{
    g_autoptr(JsonObject) answer =
        qmp_call(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", s->path);
    JsonObject *error = answer && json_object_has_member(answer, "error")
                            ? json_object_get_object_member(answer, "error")
                            : NULL;

    g_assert_true(!error ||
                  strstr(json_object_get_string_member(error, "desc"), "ended unexpectedly"));
}

/* Another one continues, and the guest does not know. */
static void test_killed(gconstpointer point)
{
    g_autofree char *faults = g_strdup_printf("destination/*/at/%s=kill", (const char *)point);
    Scene s;

    if (!has_faults()) {
        return;
    }
    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, faults);

        ask_who_dies(&s, vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        check_restored(&s, vm);
        vm_end(vm);
    }
    end(&s);
}

/* The same while the memory comes, the file having lost its name. */
static void test_killed_deleted(void)
{
    Scene s;

    if (!has_faults()) {
        return;
    }
    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, "destination/postcopy-active/call/read-file#9=kill");

        ask_who_dies(&s, vm);
        g_assert_cmpint(unlink(s.path), ==, 0);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        check_restored(&s, vm);
        vm_end(vm);
    }
    end(&s);
}

/* TRUE: it has ended. FALSE: all of its memory is there. */
static bool has_ended(Vm *vm)
{
    for (;;) {
        g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-migrate", NULL);
        JsonObject *info = answer ? json_object_get_object_member(answer, "return") : NULL;

        if (!answer) {
            g_assert_cmpint(vm_wait_exit(vm), !=, 0);
            return true;
        }
        if (info && !g_strcmp0(json_object_get_string_member_with_default(info, "status", NULL),
                               "completed")) {
            return false;
        }
    }
}

/* At any moment: this QEMU ends before its guest ran, or all is right. */
static void test_killed_at_random(void)
{
    const char *rounds = g_getenv("FF_ROUNDS");
    Scene s;

    if (begin_plain(&s)) {
        for (int i = rounds ? atoi(rounds) : 3; i > 0; i--) {
            Vm *vm = start_again(&s, NULL);

            ask_who_dies(&s, vm);
            g_usleep(g_test_rand_int_range(0, 60000)); /* the moment, not an event */
            pid_t engine = vm_find_engine(vm);
            if (engine) {
                kill(engine, SIGKILL);
            }
            if (!has_ended(vm)) {
                check_restored(&s, vm);
            }
            vm_end(vm);
        }
    }
    end(&s);
}

/* Before device state is loaded: this QEMU ends, and another one restores the same file. */
static void test_killed_early(gconstpointer point)
{
    g_autofree char *faults = g_strdup_printf("destination/*/at/%s=kill", (const char *)point);
    Scene s;

    if (!has_faults()) {
        return;
    }
    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, faults), *next;

        ask_who_dies(&s, vm);
        g_assert_cmpint(vm_wait_exit(vm), !=, 0);
        g_assert_true(vm_fault_happened(vm, 0));
        vm_end(vm);
        next = start_again(&s, NULL);
        ask(&s, next, s.path);
        qmp_expect_migration(vm_qmp(next), "completed");
        check_restored(&s, next);
        vm_end(next);
    }
    end(&s);
}

/* ---- the file cannot be read -------------------------------------------------------------------
 */

static char *error_desc(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    return g_strdup(json_object_get_string_member(info, "error-desc"));
}

/* After postcopy-paused. */
static void recovers(const Scene *s, Vm *vm, const char *path)
{
    qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", path);
    qmp_expect_migration(vm_qmp(vm), "postcopy-recover");
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    qmp_expect_migration(vm_qmp(vm), "completed");
    check_restored(s, vm);
}

static void test_eio(void)
{
    Scene s;

    if (!has_faults()) {
        return;
    }
    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, "destination/postcopy-active/call/read-file#20=EIO");

        ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        g_assert_nonnull(strstr(why, "errno 5"));
        /* Nothing else begins meanwhile. */
        g_autofree char *other = vm_path(vm, "other");
        g_autofree char *refusal =
            qmp_error(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", other);
        g_assert_nonnull(strstr(refusal, "MiB are left"));
        g_autofree char *again = qmp_error(vm_qmp(vm), "migrate", "{'uri': 'unix:%s'}", other);
        g_assert_cmpstr(again, ==, refusal);
        recovers(&s, vm, s.path);
        vm_end(vm);
    }
    end(&s);
}

/* ---- files that are refused --------------------------------------------------------------------
 */

typedef struct {
    const char *name;
    void (*spoil)(Scene *s);
    const char *memory, *machine;
    const char *says;
} Bad;

static void cut_devices(Scene *s)
{
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);
    off_t end = lseek(fd, 0, SEEK_END);

    g_assert_cmpint(ftruncate(fd, end - 100), ==, 0);
    close(fd);
}

static void cut_memory(Scene *s)
{
    g_assert_cmpint(truncate(s->path, 8 << 20), ==, 0);
}

static void hostile(Scene *s)
{
    int fd = open(s->path, O_WRONLY | O_CLOEXEC);

    for (off_t at = 40; at < 200; at += 8) {
        g_assert_cmpint(pwrite(fd, "\377\377\377\377", 4, at), ==, 4);
    }
    close(fd);
}

static void empty(Scene *s)
{
    g_assert_cmpint(truncate(s->path, 0), ==, 0);
}

static const Bad bad[] = {
    {"cut/devices", cut_devices, "64M", PC, "cut"},
    {"cut/memory", cut_memory, "64M", PC, "cut"},
    {"hostile", hostile, "64M", PC, "damaged"},
    {"empty", empty, "64M", PC, "no saved guest"},
    {"smaller", NULL, "32M", PC, "start QEMU as the saved guest was started"},
    {"larger", NULL, "128M", PC, "start QEMU as the saved guest was started"},
    {"machine", NULL, "64M", "pc-q35-7.2", "start it with -machine pc-i440fx-7.2"},
};

/* This QEMU ends, as after every incoming migration that fails, and has said why. */
static void test_bad(gconstpointer data)
{
    const Bad *b = data;
    Row row = plain;
    Scene s;

    if (begin_plain(&s)) {
        if (b->spoil) {
            b->spoil(&s);
        }
        row.machine = b->machine;
        s.row = &row;
        Vm *vm = start(&s, OLD, true, b->memory, NULL);

        ask(&s, vm, s.path);
        g_assert_cmpint(vm_wait_exit(vm), ==, 1);
        g_autofree char *text = vm_stderr(vm);
        if (!strstr(text, b->says)) {
            g_error("'%s' does not say '%s'", text, b->says);
        }
        vm_end(vm);
    }
    end(&s);
}

static void test_no_file(void)
{
    Scene s;

    if (begin_plain(&s)) {
        Vm *vm = start_again(&s, NULL);
        g_autofree char *why =
            qmp_error(vm_qmp(vm), "x-farfault-restore", "{'file': '/nowhere/file'}");

        g_assert_cmpstr(why, ==, "/nowhere/file: No such file or directory");
        /* And nothing has begun. */
        ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_restored(&s, vm);
        vm_end(vm);
    }
    end(&s);
}

/* ---- the relay dies ----------------------------------------------------------------------------
 */

/* With it goes the file that it held: the client names it again, and it has to be the same. */
static void test_relay(void)
{
    Scene s;

    if (!has_faults()) {
        return;
    }
    if (begin_plain(&s)) {
        const char *args[] = {"-machine", PC, "-smp", "2", NULL};
        /* The fill does not come to its end before the relay's. */
        Vm *vm =
            vm_start(&(VmConfig){.name = "restored",
                                 .launcher = VM_RUN,
                                 .qemu = "qemu-system-x86_64",
                                 .memory = G_STRINGIFY(RAM_MIB) "M",
                                 .args = args,
                                 .boot = &s.boot,
                                 .faults = "destination/postcopy-active/call/read-file=delay:3000",
                                 .listens = true,
                                 .incoming = "defer"});
        g_autofree char *other = g_strconcat(s.path, "-other", NULL);
        g_autofree char *status = NULL, *why = NULL;

        qmp_set_capability(vm_qmp(vm), "events", true);
        ask(&s, vm, s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-active");
        attach_kill_relay(vm, true);
        attach_vm(vm, NULL);
        do {
            g_free(status);
            status = qmp_migrate_status(vm_qmp(vm));
        } while (strcmp(status, "postcopy-paused") != 0);
        why = error_desc(vm);
        g_assert_nonnull(strstr(why, "name it (migrate-recover"));
        qmp_set_capability(vm_qmp(vm), "events", true);
        g_assert_true(g_file_set_contents(other, "other", -1, NULL));
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", other);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_cmpint(unlink(other), ==, 0);
        recovers(&s, vm, s.path);
        vm_end(vm);
    }
    end(&s);
}

/* ---- farfault restore --------------------------------------------------------------------------
 */

static void test_cli(void)
{
    Scene s;

    if (begin_plain(&s)) {
        const char *args[] = {"-machine", PC, "-smp", "2", NULL};
        Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                      .launcher = VM_RUN,
                                      .qemu = "qemu-system-x86_64",
                                      .memory = G_STRINGIFY(RAM_MIB) "M",
                                      .args = args,
                                      .boot = &s.boot,
                                      .restore = s.path});
        g_autofree char *says = g_strdup_printf("%s: restored: guest ran after ", s.path);

        vm_wait_stderr(vm, says);
        check_info(vm);
        check_restored(&s, vm);
        vm_end(vm);
    }
    end(&s);
}

/* ARGS (one string, FILE for the file): one line, this exit status, and no QEMU. */
static void refused(const Scene *s, const char *args, int status, const char *says)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_auto(GStrv) words = g_strsplit(args, " ", -1);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *err = NULL;
    int got;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"restore");
    for (char **w = words; *w; w++) {
        g_ptr_array_add(argv, strcmp(*w, "FILE") ? *w : s->path);
    }
    g_ptr_array_add(argv, NULL);
    g_assert_true(g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                               NULL, NULL, &err, &got, NULL));
    g_assert_true(WIFEXITED(got));
    g_assert_cmpint(WEXITSTATUS(got), ==, status);
    if (!strstr(err, says) || strchr(err, '\n') != err + strlen(err) - 1) {
        g_error("'%s' is not one line with '%s'", err, says);
    }
}

static void test_cli_refused(void)
{
    Scene s;

    if (begin_plain(&s)) {
        refused(&s, "FILE", 2, "after --, the QEMU");
        refused(&s, "FILE -- qemu-system-x86_64 -incoming defer", 2, "leave -incoming");
        refused(&s, "--offset x FILE -- qemu-system-x86_64", 2, "--offset");
        refused(&s, "--ofset 1 FILE -- qemu-system-x86_64", 2, "--offset");
        refused(&s, "/nowhere/file -- qemu-system-x86_64", 1, "No such file");
        refused(&s, "--offset 4096 FILE -- qemu-system-x86_64", 1, "no saved guest");
        cut_memory(&s);
        refused(&s, "FILE -- qemu-system-x86_64", 1, "cut");
    }
    end(&s);
}

int main(int argc, char **argv)
{
    static const char *const late[] = {"loaded",  "granted",  "running",
                                       "all",     "done",     /* and, with FF_ROUNDS: */ "grant",
                                       "resumed", "disarmed", "undone"};
    static const char *const early[] = {"setup", "loading", "shut", "held", "prepared", "armed"};
    bool long_run = g_getenv("FF_ROUNDS") != NULL;
    unsigned n_late = long_run ? G_N_ELEMENTS(late) : 5,
             n_early = long_run ? G_N_ELEMENTS(early) : 3;

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/restore/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/restore/linux", test_linux);
    g_test_add_func("/restore/two", test_two);
    g_test_add_func("/restore/again", test_again);
    for (unsigned i = 0; i < n_late; i++) {
        g_autofree char *path = g_strconcat("/restore/killed/", late[i], NULL);
        g_test_add_data_func(path, late[i], test_killed);
    }
    for (unsigned i = 0; i < n_early; i++) {
        g_autofree char *path = g_strconcat("/restore/killed-early/", early[i], NULL);
        g_test_add_data_func(path, early[i], test_killed_early);
    }
    g_test_add_func("/restore/killed-deleted", test_killed_deleted);
    g_test_add_func("/restore/killed-at-random", test_killed_at_random);
    g_test_add_func("/restore/eio", test_eio);
    g_test_add_func("/restore/no-file", test_no_file);
    g_test_add_func("/restore/relay", test_relay);
    g_test_add_func("/restore/cli", test_cli);
    g_test_add_func("/restore/cli-refused", test_cli_refused);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *path = g_strconcat("/restore/bad/", bad[i].name, NULL);
        g_test_add_data_func(path, &bad[i], test_bad);
    }
    int rc = g_test_run();
    end(&first);
    return rc;
}
