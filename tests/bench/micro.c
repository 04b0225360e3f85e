/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Micro-benches of what a migration is made of, each alone: zero scan, claims, placement, a
 * request's round trip, compression, ways to send and receive (transports.h), and faults per second
 * (faults.h).
 *
 *   farfault-micro [--seconds S] [--rounds N] [NAME...]      one line of JSON for each result
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migration/source/zero.h"
#include "net/compress.h"
#include "net/frame.h"
#include "tests/bench/faults.h"
#include "tests/bench/transports.h"
#include "uffd/bitmap.h"
#include "uffd/uffd.h"

#define PAGE 4096ull
#define REGION (256ull << 20)

static double seconds_each = 1;
static gint rounds = 5;

static double now(void)
{
    return g_get_monotonic_time() / 1e6;
}

static void *map_region(int *memfd)
{
    *memfd = memfd_create("farfault-micro", MFD_CLOEXEC);
    if (*memfd < 0 || ftruncate(*memfd, REGION) < 0) {
        g_error("memfd: %s", g_strerror(errno));
    }
    void *p = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
    if (p == MAP_FAILED) {
        g_error("mmap: %s", g_strerror(errno));
    }
    return p;
}

static void empty_region(int memfd)
{
    fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, REGION);
}

static int make_uffd(void)
{
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || ff_uffd_init(fd, UFFD_FEATURE_MISSING_SHMEM, NULL) < 0) {
        g_error("userfaultfd: %s: run it as root", g_strerror(errno));
    }
    return fd;
}

static void print_rate(const char *name, const char *what, double n, const char *unit)
{
    printf("{\"bench\": \"%s\", %s, \"%s\": %.3f}\n", name, what, unit, n);
    fflush(stdout);
}

/* ---- compressed runs ------------------------------------------------------------------------- */

#define CODEC_BYTES (16ull << 20)

/* Of this thread's processor time, so that what else the machine does counts less. */
static double cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Random; words of which each stands there four times; a program's pages (this one's libraries are
 * not in it, so it is repeated). */
static void fill_for_codec(uint8_t *p, unsigned kind)
{
    g_autofree char *self = NULL;
    uint64_t x = 88172645463325252ull;
    gsize len = 0;

    if (kind == 2 && g_file_get_contents("/proc/self/exe", &self, &len, NULL)) {
        for (uint64_t at = 0; at < CODEC_BYTES; at++) {
            p[at] = self[at % len];
        }
        return;
    }
    for (uint64_t i = 0; i < CODEC_BYTES / 8; i++) {
        if (kind == 0 || i % 4 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        memcpy(p + 8 * i, &x, 8);
    }
}

static void bench_codec_level(const uint8_t *data, const char *kind, int level)
{
    g_autoptr(FfCompressor) p = ff_compressor_new(level, FF_RUN_MAX_BYTES);
    g_autoptr(FfDecompressor) u = ff_decompressor_new();
    g_autofree uint8_t *out = g_malloc(FF_RUN_MAX_BYTES), *again = g_malloc(FF_RUN_MAX_BYTES);
    double pack = 0, unpack = 0, begin = now();
    uint64_t in = 0, packed = 0, unpacked = 0;
    const char *why;

    for (uint64_t at = 0; now() - begin < seconds_each; at += FF_RUN_MAX_BYTES) {
        const uint8_t *run = data + at % CODEC_BYTES;
        double t = cpu_now();
        size_t len = ff_compressor_run(p, run, FF_RUN_MAX_BYTES, out);
        double packed_at = cpu_now();
        pack += packed_at - t;
        in += FF_RUN_MAX_BYTES;
        packed += len ? len : FF_RUN_MAX_BYTES;
        if (len && ff_decompressor_run(u, out, len, again, FF_RUN_MAX_BYTES, &why) == 0) {
            unpack += cpu_now() - packed_at;
            unpacked += FF_RUN_MAX_BYTES;
        }
    }
    g_autofree char *what =
        g_strdup_printf("\"data\": \"%s\", \"level\": %d, \"ratio\": %.2f, \"unpack\": %.3f", kind,
                        level, (double)in / packed, unpack > 0 ? unpacked / unpack / 1e9 : 0);
    print_rate("codec", what, in / pack / 1e9, "GB/s");
}

static void bench_codec(void)
{
    static const char *const kind[] = {"random", "each word four times", "program"};
    static const int level[] = {1, 3, 6};
    g_autofree uint8_t *data = g_malloc(CODEC_BYTES);

    for (unsigned k = 0; k < G_N_ELEMENTS(kind); k++) {
        fill_for_codec(data, k);
        for (unsigned l = 0; l < G_N_ELEMENTS(level); l++) {
            bench_codec_level(data, kind[k], level[l]);
        }
    }
}

/* ---- zero scan, claims ----------------------------------------------------------------------- */

static void bench_zero(void)
{
    static const char *const kind[] = {"zero", "data", "data at the end"};
    char *page = g_aligned_alloc0(256, PAGE, PAGE);

    for (unsigned k = 0; k < G_N_ELEMENTS(kind); k++) {
        uint64_t n = 0, zeros = 0;
        memset(page, 0, 256 * PAGE);
        for (unsigned i = 0; k && i < 256; i++) {
            page[i * PAGE + (k == 1 ? 0 : PAGE - 64)] = 1;
        }
        double begin = now();
        while (now() - begin < seconds_each) {
            for (unsigned i = 0; i < 256; i++) {
                zeros += ff_is_zero(page + i * PAGE, PAGE);
            }
            n += 256;
        }
        g_autofree char *what =
            g_strdup_printf("\"pages\": \"%s\", \"found\": %.2f", kind[k], (double)zeros / n);
        print_rate("zero-scan", what, n * PAGE / (now() - begin) / 1e9, "GB/s");
    }
    g_aligned_free(page);
}

static void bench_claim(void)
{
    static const uint64_t max[] = {1, 32, 512};

    for (unsigned k = 0; k < G_N_ELEMENTS(max); k++) {
        uint64_t claimed = 0;
        double begin = now();
        do {
            FfBitmap bm;
            uint64_t first = 0, n, at = 0;
            ff_bitmap_init(&bm, 1 << 20, true);
            while ((n = ff_bitmap_claim_run(&bm, at, 1 << 20, max[k], &first))) {
                claimed += n;
                at = first + n;
            }
            ff_bitmap_clear(&bm);
        } while (now() - begin < seconds_each);
        g_autofree char *what = g_strdup_printf("\"run\": %" G_GUINT64_FORMAT, max[k]);
        print_rate("claim", what, claimed / (now() - begin) / 1e6, "Mpages/s");
    }
}

/* ---- placement ------------------------------------------------------------------------------- */

static void bench_place(void)
{
    static const uint64_t run[] = {1, 8, 32, 128, 512};
    int memfd, uffd = make_uffd();
    char *p = map_region(&memfd), *data = g_aligned_alloc0(512, PAGE, PAGE);

    memset(data, 0x5a, 512 * PAGE);
    ff_uffd_register(uffd, (uintptr_t)p, REGION, UFFDIO_REGISTER_MODE_MISSING);
    for (unsigned k = 0; k < G_N_ELEMENTS(run); k++) {
        uint64_t bytes = 0;
        double spent = 0;
        while (spent < seconds_each) {
            empty_region(memfd);
            double begin = now();
            for (uint64_t at = 0; at < REGION; at += run[k] * PAGE) {
                uint64_t done;
                if (ff_uffd_try(uffd, FF_UFFD_COPY, (uintptr_t)p + at, data, run[k] * PAGE, &done) <
                    0) {
                    g_error("UFFDIO_COPY: %s", g_strerror(errno));
                }
            }
            spent += now() - begin;
            bytes += REGION;
        }
        g_autofree char *what = g_strdup_printf("\"pages per ioctl\": %" G_GUINT64_FORMAT, run[k]);
        print_rate("UFFDIO_COPY", what, bytes / spent / 1e9, "GB/s");
    }
    close(uffd);
    munmap(p, REGION);
    close(memfd);
    g_aligned_free(data);
}

/* ---- a request's round trip ------------------------------------------------------------------ */

static bool read_whole(int fd, void *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = read(fd, (char *)buf + have, len - have);
        if (n <= 0) {
            return false;
        }
        have += n;
    }
    return true;
}

static gpointer answer(gpointer fd)
{
    char request[sizeof(FfFrame)], reply[sizeof(FfFrame) + PAGE] = {0};

    while (read_whole(GPOINTER_TO_INT(fd), request, sizeof(request))) {
        if (write(GPOINTER_TO_INT(fd), reply, sizeof(reply)) != sizeof(reply)) {
            break;
        }
    }
    return NULL;
}

static void bench_round_trip(void)
{
    char request[sizeof(FfFrame)] = {0}, reply[sizeof(FfFrame) + PAGE];
    uint64_t n = 0;
    int sv[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0) {
        g_error("socketpair: %s", g_strerror(errno));
    }
    GThread *peer = g_thread_new("answer", answer, GINT_TO_POINTER(sv[1]));
    double begin = now();
    while (now() - begin < seconds_each) {
        if (write(sv[0], request, sizeof(request)) < 0 ||
            !read_whole(sv[0], reply, sizeof(reply))) {
            g_error("round trip: %s", g_strerror(errno));
        }
        n++;
    }
    double dt = now() - begin;
    shutdown(sv[0], SHUT_RDWR);
    g_thread_join(peer);
    close(sv[0]);
    close(sv[1]);
    print_rate("round-trip", "\"over\": \"socketpair\"", dt / n * 1e6, "us");
}

static void bench_destination(void)
{
    bench_faults(rounds);
}

static void bench_ways(void)
{
    bench_transports(seconds_each);
}

static const struct {
    const char *name;
    void (*run)(void);
} benches[] = {
    {"zero-scan", bench_zero},        {"claim", bench_claim},        {"place", bench_place},
    {"round-trip", bench_round_trip}, {"faults", bench_destination}, {"codec", bench_codec},
    {"transports", bench_ways},
};

static bool wanted(char **names, const char *name)
{
    return !names || !*names || g_strv_contains((const char *const *)names, name);
}

int main(int argc, char **argv)
{
    g_auto(GStrv) names = NULL;
    const GOptionEntry entries[] = {
        {"seconds", 0, 0, G_OPTION_ARG_DOUBLE, &seconds_each, "Of each (1)", "S"},
        {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "Of faults (5)", "N"},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &names, NULL, "NAME..."},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- micro-benches");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("farfault-micro: %s\n", error->message);
        return 2;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(benches); i++) {
        if (wanted(names, benches[i].name)) {
            benches[i].run();
        }
    }
    return 0;
}
