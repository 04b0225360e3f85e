/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What arrays and volatile ranges cost, beside mmap() of the same file: reading all of it, one
 * fault, first writes, a commit; pin and unpin, purging, a page that is regenerated. Medians, with
 * the processor time of the whole process beside the time on the clock: on a busy machine the first
 * is the one to look at.
 *
 *   farfault-arrays-bench FILE MIB ROUNDS
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "farfault/farfault.h"

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

/* ---- time --------------------------------------------------------------------------------------
 */

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

/* ---- arrays ------------------------------------------------------------------------------------
 */

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

static void bench_scan(const char *path)
{
    static const size_t sizes[] = {64u << 10, 2u << 20};
    Samples plain = {0};

    for (unsigned i = 0; i < rounds; i++) {
        char *at = map_file(path, MAP_SHARED);
        Moment m = now();
        read_all((const uint64_t *)(const void *)at);
        add(&plain, m);
        munmap(at, len);
    }
    print("read all, mmap", &plain, 1e3, 1, "ms");
    for (unsigned k = 0; k < G_N_ELEMENTS(sizes); k++) {
        g_autofree char *what =
            g_strdup_printf("read all, array, blocks of %zu KiB", sizes[k] >> 10);
        Samples s = {0}, again = {0};
        for (unsigned i = 0; i < rounds; i++) {
            Open o = open_array(path, sizes[k], 0);
            Moment m = now();
            read_all((const uint64_t *)(const void *)o.at);
            add(&s, m);
            m = now();
            read_all((const uint64_t *)(const void *)o.at);
            add(&again, m);
            ff_array_free(o.a);
        }
        print(what, &s, 1e3, 1, "ms");
        print("  once more, in memory", &again, 1e3, 1, "ms");
    }
}

static void bench_faults(const char *path)
{
    static const size_t sizes[] = {4u << 10, 64u << 10, 2u << 20};

    for (unsigned k = 0; k < G_N_ELEMENTS(sizes); k++) {
        g_autofree char *what = g_strdup_printf("a fault, blocks of %zu KiB", sizes[k] >> 10);
        Samples s = {0};
        for (unsigned i = 0; i < rounds; i++) {
            Open o = open_array(path, sizes[k], 0);
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

/* ---- volatile ranges ---------------------------------------------------------------------------
 */

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

int main(int argc, char **argv)
{
    if (argc != 4) {
        g_printerr("farfault-arrays-bench FILE MIB ROUNDS\n");
        return 1;
    }
    len = (size_t)strtoul(argv[2], NULL, 10) << 20;
    rounds = (unsigned)CLAMP(strtoul(argv[3], NULL, 10), 1, MAX_ROUNDS);
    printf("%-44s %10s %10s\n", "", "wall", "cpu");
    bench_scan(argv[1]);
    bench_faults(argv[1]);
    bench_writes(argv[1]);
    bench_pins();
    bench_purge();
    bench_regenerate();
    return sink == 1;
}
