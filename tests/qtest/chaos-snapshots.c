/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random live snapshots of guests that write everywhere: chaos-snapshots --seed S --guests N
 * [--snapshots N] [--restore N] [--boot-sector | --kvm] [--all]. Guest i has the seed S + i, which
 * decides about everything: a boot sector or Linux (if it has been built; with --kvm: the ring-3
 * guest by KVM in place of both), its vCPUs, whether the disk is
 * slow (a cgroup, or a file system on FUSE, which also slows what goes through the page cache; not
 * our writer's doing, and only what took as long is counted), and for each snapshot its form, its
 * buffer, how much of the memory is in swap (zram, if there is none), where the balloon goes, and
 * whether the client cancels or the engine is killed, and when: before the instant, while the guest
 * stands and its memory is being copied, from there until it runs, or while its old memory is
 * written. How long each of these takes is known from the guest's last snapshots. In the last
 * snapshot of one guest of three the relay is killed, with or without the engine: that guest gets a
 * new one. Linux reads its disk past the page cache all the time.
 *
 * Each snapshot is held at its instant, and QEMU copies the memory. Each file that is completed is
 * compared with that, byte for byte, and what is not completed leaves none. Every Nth file of each
 * kind of guest is restored by stock QEMU as well, 10 or, of streams, the installed one, Linux with
 * a copy of its disk that was made at the instant: that guest checks all of its memory, runs on,
 * and checks it again. At the end the guest checks all of its own. One line of TAP a guest. Then
 * how often each thing came to something, and one more line of TAP: not ok if swap, balloon, reads
 * or slow disks were tried five times and never did; with --all, if any of these counts is zero. At
 * last how many were compared, restored and wrong.
 *
 * With --control NAME, or all: none of that, but chaos-controls.c.
 *
 * Where cgroups, swap or Linux cannot be had that is said, and the rest is done.
 */
#include "tests/qtest/snapshot-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/bench/throttle.h"
#include "tests/lib/attach.h"
#include "tests/lib/fusefolder.h"
#include "tests/lib/linuxguest.h"
#include "tests/qtest/chaos-controls.h"
#include "tests/uffd/swap.h"

#define MIB ((uint64_t)1 << 20)
#define BOOT_RAM (64 * MIB)
#define LINUX_RAM (160 * MIB)
#define LINUX_LOAD                                                                                 \
    "ff.mib=48 ff.mode=random ff.write=80 ff.disk=1 ff.direct=16 ff.extra=8 ff.seed=1"
#define SLOW (24 * MIB) /* bytes per second */
#define PIECE (MIB / 8) /* bytes, that FUSE writes at once */
/* Of one guest: from the fifth death on the next engine comes later, and the relay gives the
 * userfaultfd up. */
#define KILLS 3
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/* When something is done to a snapshot. */
typedef enum {
    AHEAD,   /* from the command until the guest stands */
    HELD,    /* the guest stands, and its memory is being copied */
    INSTANT, /* from there until it runs */
    WRITING, /* its old memory is written */
    MOMENTS
} Moment;
static const char *const moment_names[MOMENTS] = {"ahead", "held", "at the instant", "writing"};

typedef enum { NOTHING, CANCEL, ENGINE, RELAY, BOTH } What;
static const char *const what_names[] = {"", "cancelled", "engine killed", "relay killed",
                                         "relay and engine killed"};

typedef struct {
    GRand *rand;
    Vm *vm;
    uint64_t ram;
    bool is_linux;
    BootsectConfig boot;
    Ring3 ring3;         /* in place of the boot sector, with --kvm */
    char *disk;          /* of Linux */
    BenchThrottle *slow; /* its disk, by a cgroup; NULL: it is not */
    FuseFolder *folder;  /* slow, too; likewise */
    Swap *swap;          /* NULL: there is none */
    unsigned kills, n_cpus;
    int dead;               /* pidfd of the engine that was killed last; -1: none */
    int64_t lasts[MOMENTS]; /* us, of its last snapshot that nothing was done to */
} Guest;

/* One snapshot. */
typedef struct {
    bool stream;
    unsigned buffer; /* of buffers[] */
    Moment swaps;    /* AHEAD, HELD; else it does not */
    bool balloons;
    uint64_t size, reads; /* of the guest, before it; of its disk, when it began to be written */
    char *file, *then;
    char *disk; /* a copy of Linux's at the instant; NULL: it is not to be restored */
    What what;
    Moment when;
    bool on_fuse, is_slow; /* the file */
    int gate;              /* while it is open the engine is not held; -1: it is */
    bool has_then;         /* THEN has the memory of the instant */
    int64_t begin;         /* of its writing, monotonic us */
} Shot;

static struct {
    unsigned compared, wrong, cancelled, failed;
    unsigned by_cpus[3], by_buffer[3], by_form[2]; /* compared */
    unsigned restorable[2], restored[2];           /* files: of boot sectors, of Linux */
    unsigned slow_cgroup, slow_fuse, not_slow;     /* completed */
    unsigned done[BOTH + 1][MOMENTS];              /* to snapshots */
    unsigned swap_tries, balloon_tries, read_tries, slow_tries;
    uint64_t swapped;   /* pages, at instants */
    uint64_t ballooned; /* MiB, by snapshots */
    uint64_t reads;     /* past the page cache, while old memory was written */
} total;
static const unsigned n_vcpus[] = {1, 2, 4};
static const char *const buffers[] = {"0", "4096", "67108864"};
static bool has_linux, by_kvm;
static char *newer;             /* QEMU 10; NULL: it cannot be had */
static gint restore_each;       /* every so many-th file; 0: none */
#define MACHINE "pc-i440fx-7.2" /* both versions have it */

/* ---- a guest --------------------------------------------------------------------------------- */

static unsigned one_of(GRand *r, unsigned n)
{
    return g_rand_int_range(r, 0, n);
}

static LinuxGuest linux_of(const Guest *g, const char *disk)
{
    return (LinuxGuest){.ram_kib = LINUX_RAM >> 10,
                        .n_cpus = g->n_cpus,
                        .machine = MACHINE,
                        .load = LINUX_LOAD,
                        .disk = disk,
                        .balloon = true};
}

/* Either or both, as far as they can be had. */
static void slow_down(Guest *g)
{
    const FuseFolderConfig config = {.write_us = PIECE * 1000000 / SLOW};
    g_autofree char *no_cgroup = NULL;
    const char *no_fuse = NULL;

    g->slow = bench_throttle_new(vm_dir(g->vm), BENCH_THROTTLE_WRITES, SLOW, &no_cgroup);
    if (!g->slow) {
        printf("# no slow disk by a cgroup: %s\n", no_cgroup);
    }
    g->folder = fusefolder_new(&config, &no_fuse);
    if (!g->folder) {
        printf("# no slow disk by FUSE: %s\n", no_fuse);
    }
}

static void begin(Guest *g)
{
    static const char faults[] = "snapshot/*/at/armed=hold";
    unsigned n_cpus = n_vcpus[one_of(g->rand, G_N_ELEMENTS(n_vcpus))];
    g_autofree char *smp = g_strdup_printf("%u", n_cpus);
    const char *args[] = {"-machine", MACHINE, "-smp", smp, NULL};

    g->n_cpus = n_cpus;
    g->is_linux = one_of(g->rand, 2) && has_linux;
    g->ram = g->is_linux ? LINUX_RAM : BOOT_RAM;
    if (g->is_linux) {
        g->disk = g_strdup("/tmp/ff-chaos-disk-XXXXXX");
        int fd = g_mkstemp_full(g->disk, O_RDWR | O_CLOEXEC, 0600);
        g_assert_true(fd >= 0 && ftruncate(fd, 64 * MIB) == 0);
        close(fd);
        LinuxGuest guest = linux_of(g, g->disk);
        guest.listens = true;
        guest.faults = faults;
        g->vm = linux_guest_start(&guest, "guest", VM_RUN, NULL);
        vm_wait_serial(g->vm, "FF ready");
    } else {
        g->boot = bootsect_config(BOOT_RAM, 0, n_cpus);
        g->ring3 = (Ring3){.accel = RING3_KVM, .busy_mib = 40, .n_cpus = n_cpus};
        g->vm = vm_start(&(VmConfig){.name = "guest",
                                     .launcher = VM_RUN,
                                     .memory = "64M",
                                     .args = args,
                                     .boot = by_kvm ? NULL : &g->boot,
                                     .ring3 = by_kvm ? &g->ring3 : NULL,
                                     .listens = true,
                                     .faults = faults});
        vm_wait_ready(g->vm);
    }
    g_autofree char *hold = vm_path(g->vm, "hold");
    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    qmp_set_capability(vm_qmp(g->vm), "events", true);
    qmp_ok(vm_qmp(g->vm), "migrate-set-parameters", "{'max-bandwidth': 0}");
    if (one_of(g->rand, 3) == 0) {
        slow_down(g);
    }
    const char *no_swap = NULL;
    g->swap = swap_try(&no_swap);
    if (!g->swap) {
        printf("# no swap: %s\n", no_swap);
    }
    printf("# %s, %u vCPUs%s\n",
           g->is_linux ? "Linux"
           : by_kvm    ? "KVM"
                       : "boot sector",
           n_cpus, g->slow || g->folder ? ", slow disk" : "");
}

static void end(Guest *g)
{
    if (g->swap) { /* its process is none of the guest's */
        swap_free(g->swap);
    }
    if (g->is_linux) {
        linux_guest_finish(g->vm);
        unlink(g->disk);
    } else {
        qmp_ok(vm_qmp(g->vm), "stop", NULL);
        check_right(check_counters(g->vm, &g->boot));
        vm_end(g->vm);
    }
    g_free(g->disk);
    if (g->dead >= 0) {
        close(g->dead);
    }
    bench_throttle_free(g->slow);
    if (g->folder) {
        fusefolder_free(g->folder);
    }
}

/* ---- what continues beside ------------------------------------------------------------------- */

/* Where QEMU has the guest's RAM; 0: it was not found. *SWAPPED: pages of it that are in swap. */
static uint64_t find_ram(const Guest *g, uint64_t *swapped)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", vm_pid(g->vm));
    FILE *f = fopen(path, "re");
    uint64_t from, to, kib, found = 0;
    bool is_ram = false;
    char line[512];

    *swapped = 0;
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x ", &from, &to) == 2) {
            is_ram = to - from == g->ram && strstr(line, " rw-s ");
            found = is_ram ? from : found;
        } else if (is_ram && sscanf(line, "Swap: %" G_GUINT64_FORMAT, &kib) == 1) {
            *swapped = kib / 4;
        }
    }
    if (f) {
        fclose(f);
    }
    return found;
}

/* Some MiB of the guest's memory go to swap. */
static void swap_some(Guest *g)
{
    uint64_t before, ram = find_ram(g, &before);
    uint64_t at = one_of(g->rand, g->ram / MIB / 2) * MIB, n = (8 + one_of(g->rand, 16)) * MIB;
    int fd = pidfd_open(vm_pid(g->vm), 0);
    struct iovec iov = {(void *)(uintptr_t)(ram + at), n}; /* NOLINT: of another process */

    if (!ram || fd < 0 || syscall(SYS_process_madvise, fd, &iov, 1, MADV_PAGEOUT, 0) < 0) {
        printf("# nothing goes to swap: %s\n", ram ? g_strerror(errno) : "no memory found");
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* MiB that the guest has. */
static uint64_t balloon_size(Guest *g)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(g->vm), "query-balloon", NULL);

    return json_object_get_int_member(info, "actual") / MIB;
}

static void move_balloon(Guest *g)
{
    uint64_t value = LINUX_RAM - one_of(g->rand, 24) * MIB;

    qmp_ok(vm_qmp(g->vm), "balloon", "{'value': %" G_GUINT64_FORMAT "}", value);
}

/* Of its disk, so far. */
static uint64_t count_reads(Guest *g)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(g->vm), "query-blockstats", NULL);
    JsonArray *disks = json_object_get_array_member(answer, "return");
    uint64_t n = 0;

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = json_array_get_object_element(disks, i);
        n += json_object_get_int_member(json_object_get_object_member(disk, "stats"),
                                        "rd_operations");
    }
    return n;
}

/* ---- one snapshot ---------------------------------------------------------------------------- */

static const char *const ends[] = {"completed", "failed", "cancelled", NULL};

static bool is_end(JsonObject *data, const void *opaque)
{
    return g_strv_contains(ends, json_object_get_string_member(data, "status"));
}

/* What is done to this snapshot, and when. The relay's death is its guest's last. */
static void draw(Guest *g, Shot *t, bool last)
{
    unsigned what = one_of(g->rand, 8);

    t->when = one_of(g->rand, MOMENTS);
    if (last && one_of(g->rand, 3) == 0) {
        t->what = one_of(g->rand, 2) ? RELAY : BOTH;
    } else if (what < 4) {
        t->what = what < 2 && g->kills < KILLS ? ENGINE : CANCEL;
    }
}

/* From now on the engine does not wait at the instant. */
static void open_gate(Guest *g, Shot *t)
{
    g_autofree char *hold = g_build_filename(vm_dir(g->vm), "hold", NULL);

    t->gate = open(hold, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(t->gate, >=, 0);
}

static void kill_engine(Guest *g, Shot *t)
{
    pid_t engine = vm_find_engine(g->vm);

    if (engine) {
        if (g->dead >= 0) {
            close(g->dead);
        }
        g->dead = pidfd_open(engine, 0);
        g_assert_cmpint(g->dead, >=, 0);
        kill(engine, SIGKILL);
        g->kills++;
    } else {
        t->what = CANCEL;
    }
}

/* At some moment of the part that begins now, or a little later: so it is at its very end, too. */
static void disturb(Guest *g, Shot *t, Moment now)
{
    if (t->what == NOTHING || t->when != now) {
        return;
    }
    g_usleep(g_rand_double_range(g->rand, 0, 1.2) * g->lasts[now]);
    if (t->what == ENGINE) {
        kill_engine(g, t);
    }
    if (t->what == CANCEL) {
        json_object_unref(qmp_call(vm_qmp(g->vm), "migrate_cancel", NULL));
    } else if (t->what != ENGINE) {
        attach_kill_relay(g->vm, t->what == BOTH);
    }
    total.done[t->what][now]++;
}

/* Of a part that began at BEGIN. */
static void note_time(Guest *g, const Shot *t, Moment moment, int64_t begin)
{
    if (t->what == NOTHING) {
        g->lasts[moment] = g_get_monotonic_time() - begin;
    }
}

/* ---- restored -------------------------------------------------------------------------------- */

/* The guest stands, and QEMU has written all of it. */
static void copy_disk(const Guest *g, const char *to)
{
    const char *const argv[] = {"cp", "--sparse=always", g->disk, to, NULL};
    g_autofree char *text = NULL;

    if (attach_run(argv, &text) != 0) {
        g_error("%s", text);
    }
}

static Vm *start_restored(const Guest *g, const Shot *t)
{
    const char *qemu = t->stream ? NULL : newer;

    if (g->is_linux) {
        LinuxGuest guest = linux_of(g, t->disk);
        guest.qemu = qemu;
        return linux_guest_start(&guest, "restored", VM_PLAIN, "defer");
    }
    g_autofree char *smp = g_strdup_printf("%u", g->n_cpus);
    const char *args[] = {"-machine", MACHINE, "-smp", smp, NULL};
    return vm_start(&(VmConfig){.name = "restored",
                                .launcher = VM_PLAIN,
                                .qemu = qemu,
                                .memory = "64M",
                                .args = args,
                                .boot = by_kvm ? NULL : &g->boot,
                                .ring3 = by_kvm ? &g->ring3 : NULL,
                                .incoming = "defer"});
}

static void check_restored(const Guest *g, Vm *vm)
{
    Qmp *q = vm_qmp(vm);

    if (g->is_linux) {
        linux_guest_assert_intact(vm, "restored");
        linux_guest_finish(vm);
        return;
    }
    qmp_ok(q, "stop", NULL);
    check_right(check_counters(vm, &g->boot));
    qmp_ok(q, "cont", NULL);
    vm_wait_works(vm);
    qmp_ok(q, "stop", NULL);
    check_right(check_counters(vm, &g->boot));
    vm_end(vm);
}

static void restore(const Guest *g, const Shot *t)
{
    g_autofree char *uri = g_strdup_printf(t->stream ? "exec:cat %s" : "file:%s", t->file);
    Vm *vm = start_restored(g, t);
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "events", true);
    if (!t->stream) {
        qmp_set_capability(q, "mapped-ram", true);
    }
    qmp_ok(q, "migrate-incoming", "{'uri': '%s'}", uri);
    qmp_expect_migration(q, "completed");
    check_restored(g, vm);
    total.restored[g->is_linux]++;
}

/* Whether the next file is one that is restored. */
static bool is_restored(const Guest *g, const Shot *t)
{
    return restore_each && (t->stream || newer) &&
           total.restorable[g->is_linux] % (unsigned)restore_each == 0;
}

static void compare(Guest *g, const Shot *t)
{
    total.compared++;
    total.by_buffer[t->buffer]++;
    total.by_form[t->stream]++;
    for (unsigned i = 0; i < G_N_ELEMENTS(n_vcpus); i++) {
        total.by_cpus[i] += n_vcpus[i] == g->n_cpus;
    }
    if (!snap_is_equal(t->then, t->file, g->ram)) {
        total.wrong++;
        printf("# WRONG\n");
    } else {
        if (is_restored(g, t)) {
            restore(g, t);
        }
        total.restorable[g->is_linux] += t->stream || newer;
    }
    g_assert_cmpint(unlink(t->file), ==, 0);
}

static void tell_failure(Guest *g)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(g->vm), "query-migrate", NULL);

    total.failed++;
    printf("# failed: %s\n",
           json_object_get_string_member_with_default(info, "error-desc", "no reason"));
}

/* An engine that is killed may be held by the kernel until its disk has answered. There is no next
 * one before, and the client is told to ask again. */
static void ask(Guest *g, const Shot *t)
{
    for (unsigned tries = 0;; tries++) {
        g_autoptr(JsonObject) answer = qmp_call(
            vm_qmp(g->vm), "x-farfault-snapshot", "{'file': '%s', 'buffer': %s, 'format': '%s'}",
            t->file, buffers[t->buffer], t->stream ? "stream" : "mapped-ram");

        if (json_object_has_member(answer, "return")) {
            return;
        }
        const char *desc =
            json_object_get_string_member(json_object_get_object_member(answer, "error"), "desc");
        struct pollfd dead = {.fd = g->dead, .events = POLLIN};
        if (!strstr(desc, "has not ended yet") || tries == 3 ||
            poll(&dead, 1, TEST_TIMEOUT * 1000) != 1) {
            test_fail("x-farfault-snapshot: %s", desc);
        }
    }
}

static void begin_shot(Guest *g, Shot *t)
{
    t->swaps = g->swap ? one_of(g->rand, MOMENTS) : MOMENTS;
    t->balloons = g->is_linux && one_of(g->rand, 2);
    if (t->swaps == AHEAD) {
        swap_some(g);
    }
    if (t->balloons) {
        t->size = balloon_size(g);
        move_balloon(g);
    }
    ask(g, t);
    if (g->slow && !t->on_fuse) {
        bench_throttle_add(g->slow, vm_engine(g->vm));
    }
}

static bool is_disturbed(const Shot *t, Moment by)
{
    return t->what != NOTHING && t->when <= by;
}

/* Where the file goes. Version 1 of cgroups does not slow down what goes through the page cache, as
 * a stream does. */
static void place(Guest *g, Shot *t)
{
    bool by_cgroup = g->slow && (!t->stream || bench_throttle_has_cache(g->slow));

    t->on_fuse = g->folder && (!by_cgroup || one_of(g->rand, 2));
    t->is_slow = t->on_fuse || by_cgroup;
    t->file = t->on_fuse ? fusefolder_path(g->folder, "file") : vm_path(g->vm, "file");
}

/* It took as long as its disk has to. */
static void count_slow(Guest *g, const Shot *t)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(g->vm), "query-migrate", NULL);
    JsonObject *ram = json_object_get_object_member(info, "ram");
    double bytes = json_object_get_int_member(ram, "transferred");
    int64_t us = g_get_monotonic_time() - t->begin;

    if (bytes * 1000000 / us > 1.25 * SLOW) {
        total.not_slow++;
        printf("# not slow: %.0f MiB in %.1f s\n", bytes / MIB, us / 1e6);
    } else if (t->on_fuse) {
        total.slow_fuse++;
    } else {
        total.slow_cgroup++;
    }
}

/* Until something is done to it, or it runs by itself. */
static void go_through(Guest *g, Shot *t)
{
    Qmp *q = vm_qmp(g->vm);
    int64_t begin = g_get_monotonic_time();
    uint64_t swapped;

    disturb(g, t, AHEAD);
    if (is_disturbed(t, AHEAD)) {
        return;
    }
    qmp_expect(q, "STOP");
    note_time(g, t, AHEAD, begin);
    begin = g_get_monotonic_time();
    snap_save_memory(g->vm, g->ram, t->then);
    t->has_then = true;
    if (t->swaps == HELD) {
        swap_some(g);
    }
    if (t->swaps <= HELD) {
        find_ram(g, &swapped);
        total.swapped += swapped;
        total.swap_tries++;
    }
    t->reads = g->is_linux ? count_reads(g) : 0;
    if (t->disk) {
        copy_disk(g, t->disk);
    }
    note_time(g, t, HELD, begin);
    disturb(g, t, HELD);
    if (is_disturbed(t, HELD)) {
        return;
    }
    t->begin = begin = g_get_monotonic_time();
    open_gate(g, t);
    disturb(g, t, INSTANT);
    if (is_disturbed(t, INSTANT)) {
        return;
    }
    qmp_expect(q, "RESUME");
    note_time(g, t, INSTANT, begin);
    disturb(g, t, WRITING);
}

/* The guest has lost its relay, and gets another, which knows how a snapshot ended that was over.
 */
static void attach(Guest *g)
{
    attach_vm(g->vm, NULL);
    g_autofree char *status = qmp_migrate_status(vm_qmp(g->vm));
    if (!g_strv_contains(ends, status)) {
        json_object_unref(
            qmp_wait_event(vm_qmp(g->vm), "MIGRATION", is_end, NULL, 2 * TEST_TIMEOUT));
    }
}

static void wait_end(Guest *g, const Shot *t)
{
    int64_t begin = g_get_monotonic_time();

    if (t->what == RELAY || t->what == BOTH) {
        attach(g);
        return;
    }
    json_object_unref(qmp_wait_event(vm_qmp(g->vm), "MIGRATION", is_end, NULL, 2 * TEST_TIMEOUT));
    note_time(g, t, WRITING, begin);
}

/* What went on beside it. */
static void count_effects(Guest *g, const Shot *t)
{
    if (t->balloons) {
        total.balloon_tries++;
        total.ballooned += ABS((int64_t)(balloon_size(g) - t->size));
    }
    if (g->is_linux) {
        total.read_tries++;
        total.reads += count_reads(g) - t->reads;
    }
    if (t->is_slow) {
        total.slow_tries++;
        count_slow(g, t);
    }
}

/* Without O_TMPFILE, as on FUSE, an engine that is killed leaves what it had under another name. */
static void expect_no_file(Guest *g, const Shot *t, bool killed)
{
    if (!t->on_fuse) {
        snap_expect_no_file(&(Snap){.vm = g->vm, .path = t->file});
        return;
    }
    g_autofree char *list = fusefolder_list(g->folder);
    g_auto(GStrv) names = g_strsplit(g_strstrip(list), " ", -1);
    for (char **name = names; *name; name++) {
        g_assert_true(killed && g_str_has_suffix(*name, ".part"));
        g_autofree char *path = fusefolder_path(g->folder, *name);
        g_assert_cmpint(unlink(path), ==, 0);
    }
}

/* The file is whole, or there is none. */
static void judge(Guest *g, const Shot *t)
{
    g_autofree char *status = qmp_migrate_status(vm_qmp(g->vm));
    bool completed = !strcmp(status, "completed"), killed = t->what > CANCEL;

    printf("# %s, buffer %s%s%s%s%s: %s\n", t->stream ? "stream" : "mapped-ram", buffers[t->buffer],
           t->what ? ", " : "", what_names[t->what], t->what ? " " : "",
           t->what ? moment_names[t->when] : "", status);
    if (completed) {
        count_effects(g, t);
    }
    if (completed || (killed && access(t->file, F_OK) == 0)) {
        /* Also if the engine died right after the file had its name. What was done to it before
         * the instant was over is never too late. */
        g_assert_true(t->has_then && !is_disturbed(t, HELD));
        compare(g, t);
    } else {
        expect_no_file(g, t, killed);
        total.cancelled += !strcmp(status, "cancelled");
    }
    if (!strcmp(status, "failed") && !killed) {
        tell_failure(g);
    }
}

static void take(Guest *g, bool last)
{
    g_autofree char *then = vm_path(g->vm, "then");
    Shot t = {.stream = one_of(g->rand, 2), .then = then, .gate = -1};

    t.buffer = one_of(g->rand, G_N_ELEMENTS(buffers));
    draw(g, &t, last);
    place(g, &t);
    if (g->is_linux && is_restored(g, &t)) {
        t.disk = vm_path(g->vm, "disk-then");
    }
    begin_shot(g, &t);
    go_through(g, &t);
    if (t.gate < 0) {
        open_gate(g, &t);
    }
    wait_end(g, &t);
    judge(g, &t);
    close(t.gate);
    g_autofree char *state = qmp_run_state(vm_qmp(g->vm));
    g_assert_cmpstr(state, ==, "running");
    /* Those before that answer are of this one: a STOP is none of the next one's. */
    qmp_drop_events(vm_qmp(g->vm));
    g_assert_cmpint(t.has_then ? unlink(t.then) : 0, ==, 0);
    if (t.disk && t.has_then) {
        g_assert_cmpint(unlink(t.disk), ==, 0);
    }
    g_free(t.disk);
    g_free(t.file);
}

static void run(uint64_t seed, unsigned snapshots)
{
    /* Until it is known. */
    Guest g = {
        .rand = g_rand_new_with_seed(seed), .dead = -1, .lasts = {300000, 100000, 20000, 300000}};
    unsigned wrong = total.wrong;

    begin(&g);
    for (unsigned i = 0; i < snapshots; i++) {
        take(&g, i + 1 == snapshots);
    }
    end(&g);
    g_rand_free(g.rand);
    printf("%s %" G_GUINT64_FORMAT "\n", total.wrong == wrong ? "ok - seed" : "not ok - seed",
           seed);
    fflush(stdout);
}

#define ENOUGH 5

/* What is to come to something in a long run. */
typedef struct {
    const char *name;
    unsigned tries; /* 0: nobody tries it, it is drawn */
    uint64_t came_to;
} Effect;

/* How many came to nothing, of those that were tried often enough, or of ALL. */
static unsigned tell_effects(bool all)
{
    unsigned relays = 0, none = 0;

    for (Moment m = 0; m < MOMENTS; m++) {
        relays += total.done[RELAY][m] + total.done[BOTH][m];
    }
    const Effect effects[] = {
        {"compared, 1 vCPU", 0, total.by_cpus[0]},
        {"compared, 2 vCPUs", 0, total.by_cpus[1]},
        {"compared, 4 vCPUs", 0, total.by_cpus[2]},
        {"compared, no buffer", 0, total.by_buffer[0]},
        {"compared, buffer of a page", 0, total.by_buffer[1]},
        {"compared, buffer of 64 MiB", 0, total.by_buffer[2]},
        {"compared, mapped-ram", 0, total.by_form[0]},
        {"compared, stream", 0, total.by_form[1]},
        {"restored, boot sector", 0, total.restored[0]},
        {"restored, Linux", 0, total.restored[1]},
        {"slow by a cgroup", 0, total.slow_cgroup},
        {"slow by FUSE", 0, total.slow_fuse},
        {"slow at all", total.slow_tries, total.slow_cgroup + total.slow_fuse},
        {"pages in swap at instants", total.swap_tries, total.swapped},
        {"MiB by which balloons moved", total.balloon_tries, total.ballooned},
        {"reads past the page cache meanwhile", total.read_tries, total.reads},
        {"cancelled ahead", 0, total.done[CANCEL][AHEAD]},
        {"cancelled while it stands", 0, total.done[CANCEL][HELD]},
        {"cancelled at the instant", 0, total.done[CANCEL][INSTANT]},
        {"cancelled while it is written", 0, total.done[CANCEL][WRITING]},
        {"engine killed ahead", 0, total.done[ENGINE][AHEAD]},
        {"engine killed while it stands", 0, total.done[ENGINE][HELD]},
        {"engine killed at the instant", 0, total.done[ENGINE][INSTANT]},
        {"engine killed while it is written", 0, total.done[ENGINE][WRITING]},
        {"relay killed", 0, relays},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(effects); i++) {
        const Effect *e = &effects[i];
        bool bad = !e->came_to && (all || e->tries >= ENOUGH);

        printf("# %s: %" G_GUINT64_FORMAT, e->name, e->came_to);
        printf(e->tries ? " in %u tries%s\n" : "%.0u%s\n", e->tries, bad ? ": NOTHING" : "");
        none += bad;
    }
    return none;
}

static void tell_totals(void)
{
    printf("# %u compared, %u + %u restored, %u wrong; %u cancelled, %u failed, %u with a slow "
           "disk that was not slow\n",
           total.compared, total.restored[0], total.restored[1], total.wrong, total.cancelled,
           total.failed, total.not_slow);
}

int main(int argc, char **argv)
{
    gint guests = 2, snapshots = 6;
    gint64 seed = 1;

    restore_each = 4;
    g_autofree char *control = NULL;
    gboolean boot = FALSE, kvm = FALSE, all = FALSE;
    const GOptionEntry entries[] = {
        {"guests", 0, 0, G_OPTION_ARG_INT, &guests, "How many", "N"},
        {"snapshots", 0, 0, G_OPTION_ARG_INT, &snapshots, "Of each", "N"},
        {"restore", 0, 0, G_OPTION_ARG_INT, &restore_each,
         "Every Nth file of each kind of guest is restored (4); 0: none", "N"},
        {"boot-sector", 0, 0, G_OPTION_ARG_NONE, &boot, "No Linux", NULL},
        {"kvm", 0, 0, G_OPTION_ARG_NONE, &kvm, "The ring-3 guest, by KVM", NULL},
        {"all", 0, 0, G_OPTION_ARG_NONE, &all, "Fails if any of the counts is zero", NULL},
        {"control", 0, 0, G_OPTION_ARG_STRING, &control,
         "Only a snapshot that is wrong on purpose, and must be found so", "NAME"},
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of the first guest", "S"},
        {NULL, 0, 0, 0, NULL, NULL, NULL}};
    g_autoptr(GOptionContext) options = g_option_context_new("");
    g_autoptr(GError) error = NULL;
    const char *why = NULL;

    g_option_context_add_main_entries(options, entries, NULL);
    if (!g_option_context_parse(options, &argc, &argv, &error)) {
        fprintf(stderr, "chaos-snapshots: %s\n", error->message);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is said before a death is not lost */
    /* What is mounted goes with this program, however it ends. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        printf("# no mounts of its own: %s\n", g_strerror(errno));
    }
    if (!vm_faults_available(&why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    if (control) {
        return chaos_controls(strcmp(control, "all") ? control : NULL) ? 0 : 1;
    }
    by_kvm = kvm;
    if (by_kvm && !ring3_available(RING3_KVM, NULL, &why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    has_linux = !boot && !kvm && linux_guest_available(&why);
    if (!boot && !kvm && !has_linux) {
        printf("# no Linux, no balloon, no reads past the page cache: %s\n", why);
    }
    if (restore_each) {
        newer = vm_newer_qemu();
    }
    printf("1..%d\n", guests + 1);
    for (gint i = 0; i < guests; i++) {
        run(seed + i, snapshots);
    }
    unsigned none = tell_effects(all);
    printf("%s - what was drawn has come to something\n", none ? "not ok" : "ok");
    tell_totals();
    g_free(newer);
    return total.wrong || none ? 1 : 0;
}
