/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What reading a file through memory of one's own costs at least, whoever does it, in one thread:
 * the file into a buffer, a buffer into new pages of a memfd, both; showing pages that are there
 * already (UFFDIO_CONTINUE), so many an ioctl; the same with huge pages. Medians of the processor
 * time of a page of 4096 bytes; mmap() of the file beside it.
 *
 *   farfault-arrays-floor FILE MIB ROUNDS
 */
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "uffd/uffd.h"

#define PS 4096u
#define HUGE (2u << 20)
#define MAX_ROUNDS 100

static size_t len;
static unsigned rounds;
static int file;
static char *buffer; /* HUGE bytes */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void check(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* One round of it: microseconds. */
typedef double Once(size_t step);

static void measure(const char *what, Once *once, size_t step)
{
    double values[MAX_ROUNDS];

    for (unsigned i = 0; i < rounds; i++) {
        values[i] = once(step);
        if (values[i] < 0) {
            printf("%-52s %10s\n", what, "not here");
            return;
        }
    }
    qsort(values, rounds, sizeof(*values), compare);
    printf("%-52s %10.3f\n", what, values[rounds / 2] / ((double)len / PS));
}

static uint64_t sum(const void *at)
{
    const uint64_t *words = at;
    uint64_t s = 0;

    for (size_t i = 0; i < len / 8; i++) {
        s += words[i];
    }
    return s;
}

static volatile uint64_t sink;

static int new_memory(unsigned flags)
{
    int fd = memfd_create("floor", MFD_CLOEXEC | flags);

    check(fd < 0 || ftruncate(fd, (off_t)len) == 0, "ftruncate");
    return fd;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static double scan_file(size_t step)
{
    void *at = mmap(NULL, len, PROT_READ, MAP_SHARED, file, 0);

    check(at != MAP_FAILED, "mmap");
    double begin = now();
    sink = sum(at);
    double us = now() - begin;
    munmap(at, len);
    return us;
}

/* The file's own pages, with changes seen by the page tables. -1: not in this kernel. */
static double scan_watched(size_t step)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    double us = -1;

    check(uffd >= 0 && at != MAP_FAILED, "userfaultfd");
    if (ff_uffd_init(uffd, FF_UFFD_TRACKING, NULL) == 0 &&
        ff_uffd_register_wp(uffd, (uintptr_t)at, len) == 0) {
        double begin = now();
        sink = sum(at);
        us = now() - begin;
    }
    munmap(at, len);
    close(uffd);
    return us;
}

static double read_file(size_t step)
{
    double begin = now();

    for (size_t at = 0; at < len; at += step) {
        check(pread(file, buffer, step, (off_t)at) == (ssize_t)step, "pread");
    }
    return now() - begin;
}

static double fill(size_t step)
{
    int fd = new_memory(0);

    check(fd >= 0, "memfd_create");
    double begin = now();
    for (size_t at = 0; at < len; at += step) {
        check(pwrite(fd, buffer, step, (off_t)at) == (ssize_t)step, "pwrite");
    }
    double us = now() - begin;
    close(fd);
    return us;
}

/* Of memory of FD, with its own pages; what showing it costs, or (SCAN) reading it then. */
static double show(int fd, size_t step, bool scan)
{
    uint64_t features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS;
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    check(uffd >= 0 && at != MAP_FAILED, "userfaultfd");
    check(ff_uffd_init(uffd, features | FF_UFFD_PROTECTION, NULL) == 0, "UFFDIO_API");
    check(ff_uffd_register(uffd, (uintptr_t)at, len,
                           UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP) == 0,
          "UFFDIO_REGISTER");
    double begin = now();
    for (size_t i = 0; i < len; i += step) {
        check(ff_uffd_map_protected(uffd, (uintptr_t)at + i, step) == 0, "UFFDIO_CONTINUE");
    }
    double shown = now();
    if (scan) {
        sink = sum(at);
        begin = shown;
        shown = now();
    }
    munmap(at, len);
    close(uffd);
    return shown - begin;
}

static int shown = -1; /* of ordinary pages, filled */

static double show_pages(size_t step)
{
    if (shown < 0) {
        shown = new_memory(0);
        for (size_t at = 0; at < len; at += HUGE) {
            check(pwrite(shown, buffer, HUGE, (off_t)at) == HUGE, "pwrite");
        }
    }
    return show(shown, step, false);
}

static double scan_shown(size_t step)
{
    return show(shown, step, true);
}

/* The file into new huge pages, or (STEP 0) showing them. -1: there are too few. */
static double huge(size_t step)
{
    int fd = new_memory(MFD_HUGETLB | 21u << 26);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    double us = -1;

    if (at != MAP_FAILED) {
        double begin = now();
        for (size_t i = 0; i < len; i += HUGE) {
            check(pread(file, (char *)at + i, HUGE, (off_t)i) == HUGE, "pread");
        }
        us = step ? now() - begin : show(fd, HUGE, false);
        munmap(at, len);
    }
    if (fd >= 0) {
        close(fd);
    }
    return us;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        g_printerr("farfault-arrays-floor FILE MIB ROUNDS\n");
        return 1;
    }
    len = (size_t)(strtoul(argv[2], NULL, 10) << 20) / HUGE * HUGE;
    rounds = (unsigned)CLAMP(strtoul(argv[3], NULL, 10), 1, MAX_ROUNDS);
    file = open(argv[1], O_RDONLY | O_CLOEXEC);
    buffer = g_malloc(HUGE);
    memset(buffer, 1, HUGE);
    check(file >= 0 && len > 0, argv[1]);
    printf("%-52s %10s\n", "", "us of 4 KiB");
    measure("mmap of the file, read", scan_file, 0);
    measure("the same, private, changes watched", scan_watched, 0);
    measure("the file into a buffer of 64 KiB", read_file, 64u << 10);
    measure("a buffer of 64 KiB into a new memfd", fill, 64u << 10);
    measure("a buffer of 2 MiB into a new memfd", fill, HUGE);
    measure("showing what is there, 4 KiB an ioctl", show_pages, PS);
    measure("showing what is there, 64 KiB an ioctl", show_pages, 64u << 10);
    measure("showing what is there, 2 MiB an ioctl", show_pages, HUGE);
    measure("reading what is shown", scan_shown, HUGE);
    measure("the file into new huge pages", huge, HUGE);
    measure("showing huge pages that are there", huge, 0);
    return 0;
}
