/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Patches the ROM of the ring-3 guest, and judges what it leaves in memory. Any thread, but for
 * ring3_available(): the main one.
 */
#include "tests/lib/ring3.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "tests/lib/stream.h"

#define ROM_SIZE 0x10000
#define MIB ((uint64_t)1 << 20)
#define SHADOWS MIB
#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define GOLDEN 0x9e3779b97f4a7c15
#define MEMORY_MAX (1024 * MIB) /* that the page tables cover */
#define LOOK_US 2000
#define WAITS_SIZE (RING3_WAITS_SIZE / RING3_MAX_CPUS)

/* From ring3.S. */
extern const uint8_t ring3_rom[ROM_SIZE];
extern const uint8_t ring3_params[];

typedef struct {
    uint32_t start, n_pages, n_cpus, n_hot, pauses, shadow_size, n_tables, unused;
    uint64_t limits[4], least, parts;
} Params;

typedef struct {
    uint64_t kind, page, found, expected; /* kind: with the word in the bits from 8 on */
} Finding;

typedef struct {
    uint64_t state, ops, sweeps, swept, corrupt, worst, sum, above[4], unused;
    Finding findings[4];
    uint8_t reserved[288];
} Record;

G_STATIC_ASSERT(sizeof(Record) == 512);
G_STATIC_ASSERT(sizeof(((Durations *)NULL)->bucket) <= WAITS_SIZE && DURATIONS_PARTS == 64 &&
                DURATIONS_FIRST == 5 && DURATIONS_OCTAVES == 22); /* ring3.S has them, too */

static unsigned n_cpus(const Ring3 *g)
{
    return g->n_cpus ? g->n_cpus : 1;
}

static uint64_t n_pages(const Ring3 *g)
{
    return g->busy_mib * MIB / PAGE;
}

static uint64_t shadow_size(const Ring3 *g)
{
    return (n_pages(g) * sizeof(uint32_t) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

uint64_t ring3_start(const Ring3 *g)
{
    return SHADOWS + n_cpus(g) * shadow_size(g);
}

uint64_t ring3_end(const Ring3 *g)
{
    return ring3_start(g) + g->busy_mib * MIB;
}

/* Both clocks at one time: between the two nobody else had the processor. */
static uint64_t read_ticks(int64_t *us)
{
    uint64_t ticks;
    int64_t before;

    do {
        before = g_get_monotonic_time();
        ticks = __rdtsc();
        *us = g_get_monotonic_time();
    } while (*us > before + 2);
    return ticks;
}

/* Ticks of the time stamp counter in a millisecond, measured once. */
static uint64_t ticks_per_ms(void)
{
    static uint64_t ticks;

    if (!ticks) {
        int64_t from, now;
        uint64_t first = read_ticks(&from), last;

        do {
            last = read_ticks(&now);
        } while (now < from + 5000);
        ticks = (last - first) * 1000 / (uint64_t)(now - from);
    }
    return ticks;
}

static void write_rom(const Ring3 *g, const char *path)
{
    g_autofree uint8_t *rom = g_memdup2(ring3_rom, ROM_SIZE);
    g_autoptr(GError) error = NULL;
    uint64_t ms = ticks_per_ms();
    Params params = {.start = (uint32_t)ring3_start(g),
                     .n_pages = (uint32_t)n_pages(g),
                     .n_cpus = n_cpus(g),
                     .n_hot = (uint32_t)(g->hot_mib * MIB / PAGE),
                     .pauses = g->pauses,
                     .shadow_size = (uint32_t)shadow_size(g),
                     .n_tables = (uint32_t)(ring3_end(g) / (2 * MIB) + 1),
                     .limits = {ms / 10, ms, ms * 10, ms * 100},
                     .least = (ms << DURATIONS_FIRST) / 1000 + 1,
                     .parts = ((uint64_t)DURATIONS_PARTS << 32) * 1000 / ms + 1};

    g_assert_cmpuint(g->busy_mib, >, 0);
    g_assert_cmpuint(n_cpus(g), <=, RING3_MAX_CPUS);
    g_assert_cmpuint(ring3_end(g), <, MEMORY_MAX);
    memcpy(rom + (ring3_params - ring3_rom), &params, sizeof(params));
    g_file_set_contents(path, (const char *)rom, ROM_SIZE, &error);
    g_assert_no_error(error);
}

static void add(GPtrArray *argv, const char *name, const char *value)
{
    g_ptr_array_add(argv, g_strdup(name));
    g_ptr_array_add(argv, g_strdup(value));
}

void ring3_add_args(const Ring3 *g, const char *path, GPtrArray *argv)
{
    g_autofree char *cpus = g_strdup_printf("%u", n_cpus(g));

    write_rom(g, path);
    add(argv, "-accel", g->accel == RING3_KVM ? "kvm" : "tcg");
    if (g->accel == RING3_KVM) {
        /* QEMU 7.2 ends with an assertion where a KVM offers that feature, and refuses its MSR. */
        add(argv, "-cpu", g->cpu ? g->cpu : "host,-arch-capabilities");
    }
    add(argv, "-bios", path);
    add(argv, "-smp", cpus);
    g_ptr_array_add(argv, g_strdup("-no-reboot"));
}

/* ---- what it has written --------------------------------------------------------------------- */

Ring3Record ring3_read_record(const Ring3 *g, const uint8_t *records)
{
    Ring3Record all = {.ready = true, .sweeps = UINT64_MAX};
    uint64_t ms = ticks_per_ms();

    for (unsigned cpu = 0; cpu < n_cpus(g); cpu++) {
        Record r;

        memcpy(&r, records + cpu * sizeof(r), sizeof(r));
        all.ready = all.ready && r.state && r.ops;
        all.ops += r.ops;
        all.sweeps = MIN(all.sweeps, r.sweeps);
        all.corrupt += r.corrupt;
        all.worst_us = MAX(all.worst_us, r.worst * 1000 / ms);
        all.sum_us += r.sum * 1000 / ms;
        for (unsigned i = 0; i < G_N_ELEMENTS(all.above); i++) {
            all.above[i] += r.above[i];
        }
    }
    return all;
}

void ring3_read_waits(const Ring3 *g, const uint8_t *records, const uint8_t *waits, Durations *all)
{
    uint64_t ms = ticks_per_ms();

    *all = (Durations){0};
    for (unsigned cpu = 0; cpu < n_cpus(g); cpu++) {
        const uint32_t *bucket = (const uint32_t *)(waits + cpu * WAITS_SIZE);
        Record r;

        memcpy(&r, records + cpu * sizeof(r), sizeof(r));
        all->sum_us += (double)r.sum * 1000 / (double)ms;
        all->worst_us = MAX(all->worst_us, (double)r.worst * 1000 / (double)ms);
        for (unsigned b = 0; b < DURATIONS_BUCKETS; b++) {
            all->bucket[b] += bucket[b];
            all->n += bucket[b];
        }
    }
}

char *ring3_finding(const Ring3 *g, const uint8_t *records)
{
    static const char *const kinds[] = {"?", "in a step", "in a sweep", "(an SSE register)"};

    for (unsigned cpu = 0; cpu < n_cpus(g); cpu++) {
        Record r;

        memcpy(&r, records + cpu * sizeof(r), sizeof(r));
        if (r.corrupt) {
            const Finding *f = &r.findings[0];
            return g_strdup_printf("vCPU %u found %" G_GUINT64_FORMAT
                                   " times what is wrong, first %s: page %" G_GUINT64_FORMAT
                                   ", word %" G_GUINT64_FORMAT " was %" G_GINT64_MODIFIER
                                   "x, not %" G_GINT64_MODIFIER "x",
                                   cpu, r.corrupt, kinds[MIN(f->kind & 0xff, 3)], f->page,
                                   f->kind >> 8, f->found, f->expected);
        }
    }
    return NULL;
}

static uint64_t word_value(uint64_t page, uint64_t word)
{
    uint64_t x = (page * WORDS + MIN(word, WORDS / 2) + 1) * GOLDEN;

    return x ^ x >> 32;
}

static bool is_counter(const Ring3 *g, unsigned word)
{
    return word % 8 == 0 && word / 8 < n_cpus(g);
}

/* The pattern of all pages. */
static char *check_pattern(const Ring3 *g, const uint8_t *memory)
{
    for (uint64_t i = 0; i < n_pages(g); i++) {
        const uint64_t *page = (const uint64_t *)(memory + ring3_start(g) + i * PAGE);

        for (unsigned k = 0; k < WORDS; k++) {
            if (page[k] != word_value(i, k) && !is_counter(g, k)) {
                return g_strdup_printf("page %" G_GUINT64_FORMAT ", word %u: %" G_GINT64_MODIFIER
                                       "x in place of %" G_GINT64_MODIFIER "x",
                                       i, k, page[k], word_value(i, k));
            }
        }
    }
    return NULL;
}

/* A step writes the counter, then the shadow, then how many steps there were. */
static char *check_counters(const Ring3 *g, const uint8_t *memory, unsigned cpu)
{
    const uint32_t *shadow = (const uint32_t *)(memory + SHADOWS + cpu * shadow_size(g));
    uint64_t sum = 0, step = UINT64_MAX;
    Record r;

    memcpy(&r, memory + RING3_RECORDS + cpu * sizeof(r), sizeof(r));
    for (uint64_t i = 0; i < n_pages(g); i++) {
        uint64_t counter;

        memcpy(&counter, memory + ring3_start(g) + i * PAGE + cpu * 64, sizeof(counter));
        sum += shadow[i];
        if (counter == (uint64_t)shadow[i] + 1 && step == UINT64_MAX) {
            step = i;
        } else if (counter != shadow[i]) {
            return g_strdup_printf("vCPU %u, page %" G_GUINT64_FORMAT ": counter %" G_GUINT64_FORMAT
                                   ", shadow %u",
                                   cpu, i, counter, shadow[i]);
        }
    }
    if (sum == r.ops || (sum == r.ops + 1 && step == UINT64_MAX)) {
        return NULL;
    }
    return g_strdup_printf("vCPU %u has done %" G_GUINT64_FORMAT
                           " steps, and its shadow has %" G_GUINT64_FORMAT,
                           cpu, r.ops, sum);
}

char *ring3_check_image(const Ring3 *g, const uint8_t *memory)
{
    char *wrong = ring3_finding(g, memory + RING3_RECORDS);

    if (!wrong) {
        wrong = check_pattern(g, memory);
    }
    for (unsigned cpu = 0; !wrong && cpu < n_cpus(g); cpu++) {
        wrong = check_counters(g, memory, cpu);
    }
    return wrong;
}

char *ring3_check_later(const Ring3 *g, const uint8_t *memory, const uint8_t *then)
{
    for (uint64_t at = SHADOWS; at < ring3_start(g); at += sizeof(uint32_t)) {
        uint32_t now, before;

        memcpy(&now, memory + at, sizeof(now));
        memcpy(&before, then + at, sizeof(before));
        if (now < before) {
            return g_strdup_printf(
                "the shadow at 0x%" G_GINT64_MODIFIER "x went back from %u to %u", at, before, now);
        }
    }
    return ring3_check_image(g, memory);
}

/* ---- waiting --------------------------------------------------------------------------------- */

typedef bool (*Reached)(const Ring3Record *now, const Ring3Record *then);

static void wait_until(const Ring3 *g, Ring3Reader read, void *opaque, Reached reached,
                       const char *what)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    uint8_t records[RING3_RECORDS_SIZE];

    read(opaque, records);
    Ring3Record then = ring3_read_record(g, records);
    for (;;) {
        g_autofree char *finding = ring3_finding(g, records);
        Ring3Record now = ring3_read_record(g, records);

        if (finding) {
            test_fail("%s", finding);
        }
        if (reached(&now, &then)) {
            return;
        }
        if (g_get_monotonic_time() > deadline) {
            test_fail("the ring-3 guest %s: %" G_GUINT64_FORMAT " steps, %" G_GUINT64_FORMAT
                      " sweeps",
                      what, now.ops, now.sweeps);
        }
        g_usleep(LOOK_US);
        read(opaque, records);
    }
}

static bool is_ready(const Ring3Record *now, const Ring3Record *then)
{
    return now->ready;
}

static bool has_swept(const Ring3Record *now, const Ring3Record *then)
{
    return now->sweeps >= then->sweeps + 2;
}

void ring3_wait_ready(const Ring3 *g, Ring3Reader read, void *opaque)
{
    wait_until(g, read, opaque, is_ready, "has not come to ring 3");
}

void ring3_wait_sweep(const Ring3 *g, Ring3Reader read, void *opaque)
{
    wait_until(g, read, opaque, has_swept, "has not checked its memory");
}

char *ring3_wait_finding(const Ring3 *g, Ring3Reader read, void *opaque)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    uint8_t records[RING3_RECORDS_SIZE];
    char *finding;

    for (read(opaque, records); !(finding = ring3_finding(g, records)); read(opaque, records)) {
        if (g_get_monotonic_time() > deadline) {
            test_fail("the ring-3 guest has not found what is wrong");
        }
        g_usleep(LOOK_US);
    }
    return finding;
}

/* ---- whether it can run here ----------------------------------------------------------------- */

enum { PROBE_MIB = 8, PROBE_SECONDS = 5 /* of a processor: others may be busy */ };

/* NULL: there is a KVM that makes virtual machines. */
static char *find_kvm_fault(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm < 0) {
        return g_strdup_printf("no KVM: /dev/kvm: %s", g_strerror(errno));
    }
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    char *why = vm < 0
                    ? g_strdup_printf("no KVM: it makes no virtual machine: %s", g_strerror(errno))
                    : NULL;
    if (vm >= 0) {
        close(vm);
    }
    close(kvm);
    return why;
}

/* A QEMU whose memory is FILE. */
static pid_t start_probe(const Ring3 *g, const char *qemu, const char *rom, const char *file)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *memory =
        g_strdup_printf("memory-backend-file,id=m,size=%uM,share=on,mem-path=%s", PROBE_MIB, file);
    const char *const first[] = {qemu ? qemu : "qemu-system-x86_64",
                                 "-nodefaults",
                                 "-display",
                                 "none",
                                 "-machine",
                                 "pc,memory-backend=m",
                                 "-m",
                                 "8M",
                                 "-object",
                                 memory};

    for (unsigned i = 0; i < G_N_ELEMENTS(first); i++) {
        g_ptr_array_add(argv, g_strdup(first[i]));
    }
    ring3_add_args(g, rom, argv);
    g_ptr_array_add(argv, NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(127);
        }
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(argv->pdata[0], (char **)argv->pdata);
        _exit(127);
    }
    g_assert_cmpint(pid, >, 0);
    return pid;
}

/* Of process PID, which has not been reaped. */
static double processor_seconds(pid_t pid)
{
    clockid_t id;
    struct timespec t = {0};

    if (clock_getcpuclockid(pid, &id) == 0) {
        clock_gettime(id, &t);
    }
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* NULL: it works. */
static char *await_probe(const Ring3 *g, pid_t pid, const uint8_t *memory)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    int status;

    while (!ring3_read_record(g, memory + RING3_RECORDS).ready) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return g_strdup_printf("QEMU ends with status 0x%x with the ring-3 guest", status);
        }
        if (processor_seconds(pid) > PROBE_SECONDS || g_get_monotonic_time() > deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
            return g_strdup_printf("the guest does not come to ring 3 in %d s", PROBE_SECONDS);
        }
        g_usleep(LOOK_US);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return NULL;
}

static char *run_probe(Ring3Accel accel, const char *qemu)
{
    const Ring3 guest = {.accel = accel, .busy_mib = 1};
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("ff-XXXXXX", &error);
    g_assert_no_error(error);
    g_autofree char *rom = g_build_filename(dir, "rom", NULL);
    g_autofree char *file = g_build_filename(dir, "memory", NULL);
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(ftruncate(fd, PROBE_MIB * MIB), ==, 0);
    uint8_t *memory = mmap(NULL, PROBE_MIB * MIB, PROT_READ, MAP_SHARED, fd, 0);
    g_assert_true(memory != MAP_FAILED);
    pid_t pid = start_probe(&guest, qemu, rom, file);
    char *why = await_probe(&guest, pid, memory);

    munmap(memory, PROBE_MIB * MIB);
    close(fd);
    g_unlink(rom);
    g_unlink(file);
    g_rmdir(dir);
    return why;
}

bool ring3_available(Ring3Accel accel, const char *qemu, const char **why)
{
    static GHashTable *known; /* NAME of accelerator and QEMU: why not; "": it is */
    g_autofree char *name = g_strdup_printf("%d %s", accel, qemu ? qemu : "");

    if (!known) {
        known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    }
    const char *is = g_hash_table_lookup(known, name);
    if (!is) {
        g_autofree char *fault = accel == RING3_KVM ? find_kvm_fault() : NULL;

        if (!fault) {
            fault = run_probe(accel, qemu);
        }
        if (fault && accel == RING3_TCG) {
            test_fail("%s, by TCG: it is the guest that is wrong, or QEMU", fault);
        }
        is = g_intern_string(fault ? fault : "");
        g_hash_table_insert(known, g_steal_pointer(&name), (char *)is);
    }
    *why = *is ? is : NULL;
    return !*is;
}
