/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See saves-floor.h. */
#include "tests/bench/saves-floor.h"

#include <fcntl.h>
#include <glib.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PS 4096u
#define SLOTS 16384u /* 64 MiB, and around again: one that would need more is not the floor */
#define BATCH 64

static char *map, *slots;
static size_t len;
static int uffd, end_fd;
static unsigned n_kept;
static GThread *thread;

static void check(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void protect(char *at, size_t n, bool on)
{
    struct uffdio_writeprotect wp = {{(uintptr_t)at, n}, on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};

    check(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) == 0, "UFFDIO_WRITEPROTECT");
}

static gpointer answer(gpointer p)
{
    struct pollfd pfd[2] = {{.fd = uffd, .events = POLLIN}, {.fd = end_fd, .events = POLLIN}};
    struct uffd_msg msgs[BATCH];

    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), -10); /* as the library does */
    while (poll(pfd, 2, -1) > 0 && !pfd[1].revents) {
        ssize_t n = read(uffd, msgs, sizeof(msgs));
        for (ssize_t i = 0; i < n / (ssize_t)sizeof(*msgs); i++) {
            char *page = (char *)(uintptr_t)(msgs[i].arg.pagefault.address & ~(PS - 1ull));
            memcpy(slots + n_kept++ % SLOTS * PS, page, PS);
            protect(page, PS, false);
        }
    }
    return NULL;
}

void floor_begin(char *at, size_t n)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | 1ull << 13};
    struct uffdio_register reg = {.range = {(uintptr_t)at, n}, .mode = UFFDIO_REGISTER_MODE_WP};

    map = at;
    len = n;
    n_kept = 0;
    slots = g_malloc((size_t)SLOTS * PS);
    memset(slots, 1, (size_t)SLOTS * PS); /* no faults of its own */
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    check(uffd >= 0, "userfaultfd");
    check(ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
    check(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0, "UFFDIO_REGISTER");
    protect(map, len, true);
    end_fd = eventfd(0, EFD_CLOEXEC);
    thread = g_thread_new("answers", answer, NULL);
}

void floor_save(int fd, size_t piece)
{
    char *copy = aligned_alloc(PS, piece);

    for (size_t at = 0; at < len; at += piece) {
        size_t n = MIN(piece, len - at);
        memcpy(copy, map + at, n);
        protect(map + at, n, false);
        check(pwrite(fd, copy, n, (off_t)at) == (ssize_t)n, "pwrite");
    }
    check(fsync(fd) == 0, "fsync");
    free(copy);
}

void floor_end(void)
{
    struct uffdio_range all = {(uintptr_t)map, len};
    uint64_t one = 1;

    protect(map, len, false);
    check(write(end_fd, &one, sizeof(one)) == sizeof(one), "write");
    g_thread_join(thread);
    ioctl(uffd, UFFDIO_UNREGISTER, &all);
    close(uffd);
    close(end_fd);
    g_free(slots);
}
