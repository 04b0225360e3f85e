/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What arrays and volatile ranges cost, beside mmap() of the same file: reading all of it, one
 * fault, first writes, a commit, several threads; pin and unpin, purging, a page that is
 * regenerated, purges beside write(). Medians, with the processor time of the whole process beside
 * the time on the clock: on a busy machine the first is the one to look at.
 *
 *   farfault-arrays-bench FILE MIB ROUNDS SECONDS      of purges beside write()
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "libfarfault/common/farfault.h"

#define PS 4096u
#define MAX_ROUNDS 100

static size_t len;
static unsigned rounds;

static void call(int64_t rc)
{
    if (rc < 0) {
        g_printerr("%s\n", ff_last_error());
        exit(1);
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

typedef struct {
    double wall, cpu; /* s */
} Moment;

typedef struct {
    double wall[MAX_ROUNDS], cpu[MAX_ROUNDS];
    unsigned n;
} Samples;

static double read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static Moment now(void)
{
    return (Moment){read_clock(CLOCK_MONOTONIC), read_clock(CLOCK_PROCESS_CPUTIME_ID)};
}

static void add(Samples *s, Moment since)
{
    Moment m = now();

    s->wall[s->n] = m.wall - since.wall;
    s->cpu[s->n++] = m.cpu - since.cpu;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double median(double *values, unsigned n)
{
    qsort(values, n, sizeof(*values), compare);
    return values[n / 2];
}

/* SCALE / N: what a second is, for one of N. */
static void print(const char *what, Samples *s, double scale, double n, const char *unit)
{
    printf("%-44s %10.2f %10.2f  %s\n", what, median(s->wall, s->n) * scale / n,
           median(s->cpu, s->n) * scale / n, unit);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

static uint64_t sink;

static void read_all(const uint64_t *words)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < len / 8; i++) {
        sum += words[i];
    }
    sink += sum;
}

static void touch(const char *at, size_t step)
{
    for (size_t i = 0; i < len; i += step) {
        sink += (unsigned char)at[i];
    }
}

static void write_pages(char *at)
{
    for (size_t i = 0; i < len; i += PS) {
        at[i]++;
    }
}

typedef struct {
    FfArray *a;
    char *at;
} Open;

static Open open_array(const char *path, size_t block_size, unsigned flags)
{
    FfArrayOptions o = {.size = sizeof(o), .block_size = block_size, .flags = flags};
    Open open;
    void *at;

    call(ff_array_open(path, 0, &o, &open.a));
    call(ff_array_map(open.a, 0, 0, &at));
    open.at = at;
    return open;
}

/* As many huge pages, if they are wanted, are free. */
static bool have(const char *path, unsigned flags)
{
    FfArrayOptions o = {.size = sizeof(o), .flags = flags};
    FfArray *a;
    int rc = ff_array_open(path, 0, &o, &a);

    ff_array_free(a);
    return rc != -ENOMEM;
}

static char *map_file(const char *path, int flags)
{
    int fd = open(path, O_RDWR);
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (at == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
    return at;
}

/* The page cache has nothing of the file any more, if COLD. */
static void make_cold(const char *path, bool cold)
{
    int fd = cold ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd >= 0) {
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static void bench_scan(const char *path, bool cold)
{
    static const struct {
        size_t size;
        unsigned flags;
    } kinds[] = {
        {64u << 10, 0}, {2u << 20, 0}, {2u << 20, FF_ARRAY_HUGE}, {64u << 10, FF_ARRAY_RANDOM}};
    const char *from = cold ? ", from the disk" : "";
    g_autofree char *of_mmap = g_strdup_printf("read all%s, mmap", from);
    Samples plain = {0};

    for (unsigned i = 0; i < rounds; i++) {
        char *at = map_file(path, MAP_SHARED);
        make_cold(path, cold);
        Moment m = now();
        read_all((const uint64_t *)(const void *)at);
        add(&plain, m);
        munmap(at, len);
    }
    print(of_mmap, &plain, 1e3, 1, "ms");
    for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
        g_autofree char *what =
            g_strdup_printf("read all%s, blocks of %zu KiB%s", from, kinds[k].size >> 10,
                            kinds[k].flags & FF_ARRAY_HUGE     ? ", huge pages"
                            : kinds[k].flags & FF_ARRAY_RANDOM ? ", none ahead"
                                                               : "");
        Samples s = {0}, again = {0};
        if (!have(path, kinds[k].flags)) {
            printf("%-44s: %s\n", what, ff_last_error());
            continue;
        }
        for (unsigned i = 0; i < rounds; i++) {
            Open o = open_array(path, kinds[k].size, kinds[k].flags);
            make_cold(path, cold);
            Moment m = now();
            read_all((const uint64_t *)(const void *)o.at);
            add(&s, m);
            m = now();
            read_all((const uint64_t *)(const void *)o.at);
            add(&again, m);
            ff_array_free(o.a);
        }
        print(what, &s, 1e3, 1, "ms");
        if (!cold) {
            print("  once more, in memory", &again, 1e3, 1, "ms");
        }
    }
}

static void bench_faults(const char *path)
{
    static const size_t sizes[] = {4u << 10, 64u << 10, 2u << 20};

    for (unsigned k = 0; k < G_N_ELEMENTS(sizes); k++) {
        g_autofree char *what = g_strdup_printf("a fault, blocks of %zu KiB", sizes[k] >> 10);
        Samples s = {0};
        for (unsigned i = 0; i < rounds; i++) {
            Open o = open_array(path, sizes[k], FF_ARRAY_RANDOM);
            Moment m = now();
            touch(o.at, sizes[k]);
            add(&s, m);
            ff_array_free(o.a);
        }
        print(what, &s, 1e6, (double)(len / sizes[k]), "us");
    }
}

static void bench_writes(const char *path)
{
    static const struct {
        const char *name;
        unsigned flags;
    } kinds[] = {{"array, asynchronous", 0}, {"array, write faults", FF_ARRAY_WRITE_FAULTS}};
    Samples plain = {0};

    for (unsigned i = 0; i < rounds; i++) {
        char *at = map_file(path, MAP_PRIVATE);
        touch(at, PS);
        Moment m = now();
        write_pages(at);
        add(&plain, m);
        munmap(at, len);
    }
    print("a first write, mmap, private", &plain, 1e6, (double)(len / PS), "us");
    for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
        g_autofree char *what = g_strdup_printf("a first write, %s", kinds[k].name);
        g_autofree char *commit = g_strdup_printf("a commit of a page of 16, %s", kinds[k].name);
        g_autofree char *none = g_strdup_printf("a commit of nothing, %s", kinds[k].name);
        Samples s = {0}, c = {0}, n = {0};
        for (unsigned i = 0; i < rounds; i++) {
            Open o = open_array(path, 0, kinds[k].flags);
            touch(o.at, PS);
            Moment m = now();
            write_pages(o.at);
            add(&s, m);
            call(ff_array_abort(o.a));
            touch(o.at, PS);
            for (size_t at = 0; at < len; at += 16 * PS) {
                o.at[at]++;
            }
            m = now();
            call(ff_array_commit(o.a));
            add(&c, m);
            m = now();
            call(ff_array_commit(o.a));
            add(&n, m);
            ff_array_free(o.a);
        }
        print(what, &s, 1e6, (double)(len / PS), "us");
        print(commit, &c, 1e6, (double)(len / PS / 16), "us a page");
        print(none, &n, 1e3, (double)len / (1u << 30), "ms a GiB");
    }
}

/* ---- threads --------------------------------------------------------------------------------- */

#define READERS 16
#define READS 32 /* blocks, each */

/* As long as a disk takes that answers any number at once. */
static int load_slowly(void *opaque, uint64_t block, void *buf)
{
    struct timespec ms = {0, 1000000};

    memset(buf, 1, PS);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, &ms) == EINTR) {
    }
    return 0;
}

static gpointer read_blocks(gpointer at)
{
    uint64_t found = 0;

    for (unsigned i = 0; i < READS; i++) {
        found += ((const char *)at)[(size_t)i * READERS * PS] != 0;
    }
    return GSIZE_TO_POINTER(found);
}

/* N threads read all of an array, each every Nth block. */
static void bench_threads(unsigned n)
{
    static const FfArrayFile file = {.size = sizeof(file), .load = load_slowly};
    FfArrayOptions o = {.size = sizeof(o), .block_size = PS, .flags = FF_ARRAY_RANDOM};
    g_autofree char *what = g_strdup_printf("loads of 1 ms, %u thread%s", n, n > 1 ? "s" : "");
    Samples s = {0};

    for (unsigned i = 0; i < rounds; i++) {
        GThread *threads[READERS];
        FfArray *a;
        void *at;
        call(ff_array_new((uint64_t)READERS * READS * PS, &file, NULL, &o, &a));
        call(ff_array_map(a, 0, 0, &at));
        Moment m = now();
        for (unsigned k = 0; k < n; k++) {
            threads[k] = g_thread_new("reader", read_blocks, (char *)at + (size_t)k * PS);
        }
        for (unsigned k = 0; k < n; k++) {
            g_thread_join(threads[k]);
        }
        add(&s, m);
        ff_array_free(a);
    }
    print(what, &s, 1e3, n * READS, "ms a block");
}

/* ---- volatile ranges ------------------------------------------------------------------------- */

static int regenerate(void *opaque, size_t page, void *buf)
{
    memset(buf, 1, *(const size_t *)opaque);
    return 0;
}

static void bench_pins(void)
{
    enum { N = 1000000 };
    FfVolatile *v;
    Samples s = {0};

    call(ff_volatile_new(len, NULL, NULL, NULL, &v));
    for (unsigned i = 0; i < rounds; i++) {
        Moment m = now();
        for (unsigned k = 0; k < N; k++) {
            ff_volatile_unpin(v, 0, PS);
            ff_volatile_pin(v, 0, PS);
        }
        add(&s, m);
    }
    print("unpin and pin", &s, 1e9, N, "ns");
    ff_volatile_free(v);
}

static void bench_purge(void)
{
    FfVolatile *v;
    Samples s = {0};

    call(ff_volatile_new(len, NULL, NULL, NULL, &v));
    for (unsigned i = 0; i < rounds; i++) {
        memset(ff_volatile_addr(v), 1, len);
        ff_volatile_unpin(v, 0, 0);
        Moment m = now();
        call(ff_volatile_purge(v, SIZE_MAX));
        add(&s, m);
    }
    print("purge", &s, 1e3, (double)len / (1u << 30), "ms a GiB");
    ff_volatile_free(v);
}

static void bench_regenerate(void)
{
    static size_t sizes[] = {4u << 10, 64u << 10};

    for (unsigned k = 0; k < G_N_ELEMENTS(sizes); k++) {
        g_autofree char *what = g_strdup_printf("a regenerated page of %zu KiB", sizes[k] >> 10);
        FfVolatileOptions o = {.size = sizeof(o), .page_size = sizes[k]};
        FfVolatile *v;
        Samples s = {0};

        call(ff_volatile_new(len, regenerate, &sizes[k], &o, &v));
        for (unsigned i = 0; i < rounds; i++) {
            Moment m = now();
            touch(ff_volatile_addr(v), sizes[k]);
            add(&s, m);
            ff_volatile_unpin(v, 0, 0);
            call(ff_volatile_purge(v, SIZE_MAX));
        }
        print(what, &s, 1e6, (double)(len / sizes[k]), "us");
        ff_volatile_free(v);
    }
}

#define STORM_PAGES 1024u

typedef struct {
    FfVolatile *v;
    bool ending; /* atomic; observer: the purger */
} Storm;

static int number(void *opaque, size_t page, void *buf)
{
    for (unsigned i = 0; i < PS / 8; i++) {
        ((uint64_t *)buf)[i] = page * 0x9e3779b97f4a7c15ull + i;
    }
    return 0;
}

static gpointer purge_pages(gpointer opaque)
{
    Storm *s = opaque;

    while (!__atomic_load_n(&s->ending, __ATOMIC_RELAXED)) {
        call(ff_volatile_purge(s->v, PS));
    }
    return NULL;
}

/* One page at a time is purged, as fast as it goes, while all of them are written to a file, and
 * what has come there is compared. */
static void bench_storm(double seconds)
{
    size_t size = STORM_PAGES * (size_t)PS;
    g_autofree char *found = g_malloc(size), *wanted = g_malloc(size);
    FfVolatileOptions o = {.size = sizeof(o)};
    FfVolatileStats stats = {.size = sizeof(stats)};
    Storm s = {0};
    uint64_t writes = 0, wrong = 0, failed = 0;
    int fd = memfd_create("storm", MFD_CLOEXEC);

    for (size_t i = 0; i < STORM_PAGES; i++) {
        number(NULL, i, wanted + i * PS);
    }
    call(ff_volatile_new(size, number, NULL, &o, &s.v));
    call(ff_volatile_unpin(s.v, 0, 0));
    GThread *purger = g_thread_new("purger", purge_pages, &s);
    Moment begin = now();
    while (now().wall - begin.wall < seconds) {
        ssize_t n = pwrite(fd, ff_volatile_addr(s.v), size, 0);
        writes++;
        failed += n != (ssize_t)size;
        wrong += n == (ssize_t)size &&
                 (pread(fd, found, size, 0) != (ssize_t)size || memcmp(found, wanted, size) != 0);
    }
    double took = now().wall - begin.wall;
    __atomic_store_n(&s.ending, true, __ATOMIC_RELAXED);
    g_thread_join(purger);
    call(ff_volatile_stats(s.v, &stats));
    printf("purges beside write(), %.0f s: %.0f pages purged a second, %" G_GUINT64_FORMAT
           " writes of 4 MiB, %" G_GUINT64_FORMAT " failed, %" G_GUINT64_FORMAT
           " wrong; %" G_GUINT64_FORMAT " pages regenerated\n",
           took, (double)stats.purged / took, writes, failed, wrong, stats.regenerated);
    ff_volatile_free(s.v);
    close(fd);
    if (failed || wrong) {
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        g_printerr("farfault-arrays-bench FILE MIB ROUNDS SECONDS\n");
        return 1;
    }
    len = (size_t)strtoul(argv[2], NULL, 10) << 20;
    rounds = (unsigned)CLAMP(strtoul(argv[3], NULL, 10), 1, MAX_ROUNDS);
    printf("%-44s %10s %10s\n", "", "wall", "cpu");
    bench_scan(argv[1], false);
    bench_scan(argv[1], true);
    bench_faults(argv[1]);
    bench_writes(argv[1]);
    bench_threads(1);
    bench_threads(READERS);
    bench_pins();
    bench_purge();
    bench_regenerate();
    bench_storm(g_ascii_strtod(argv[4], NULL));
    return sink == 1;
}
