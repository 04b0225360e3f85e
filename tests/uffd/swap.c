/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See swap.h. */
#include "tests/uffd/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL "/sys/class/zram-control/"
#define SIZE "64M"
#define SIZE_PAGES (64 * 256)
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct Swap {
    pid_t guard; /* 0: the machine's own swap */
    int alive;   /* its end is the guard's */
};

static bool machine_has_swap(void)
{
    g_autofree char *text = NULL;
    const char *line =
        g_file_get_contents("/proc/meminfo", &text, NULL, NULL) ? strstr(text, "SwapFree:") : NULL;

    return line && strtoull(line + 9, NULL, 10) > 32768;
}

/* ---- the guard: a process of its own, so that a test that aborts leaves no swap behind ------- */

static bool put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* What swapon() looks for in the first page. */
static bool make_swap_header(const char *dev)
{
    char page[4096] = {0};
    uint32_t info[3] = {1, SIZE_PAGES - 1, 0};

    memcpy(page + 1024, info, sizeof(info));
    memcpy(page + sizeof(page) - 10, "SWAPSPACE2", 10);
    int fd = open(dev, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, page, sizeof(page)) == sizeof(page) && fsync(fd) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* Never returns. */
static void guard(int ready, int alive)
{
    char id[16] = {0}, path[64], dev[32], byte = 0;
    int fd = open(CONTROL "hot_add", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, id, sizeof(id) - 1) <= 0) {
        _exit(0);
    }
    id[strcspn(id, "\n")] = 0;
    snprintf(dev, sizeof(dev), "/dev/zram%s", id);
    snprintf(path, sizeof(path), "/sys/block/zram%s/disksize", id);
    bool on = put(path, SIZE) && make_swap_header(dev) && swapon(dev, 0) == 0;
    byte = on ? 1 : 2;
    if (write(ready, &byte, 1) == 1) {
        while (read(alive, &byte, 1) < 0 && errno == EINTR) {
        }
    }
    if (on) {
        swapoff(dev);
    }
    snprintf(path, sizeof(path), "/sys/block/zram%s/reset", id);
    put(path, "1");
    put(CONTROL "hot_remove", id);
    _exit(0);
}

Swap *swap_try(const char **why)
{
    Swap *s = g_new0(Swap, 1);
    int ready[2], alive[2];
    char byte = 0;

    s->alive = -1;
    if (machine_has_swap()) {
        return s;
    }
    g_assert_true(pipe2(ready, O_CLOEXEC) == 0 && pipe2(alive, O_CLOEXEC) == 0);
    s->guard = fork();
    g_assert_cmpint(s->guard, >=, 0);
    if (s->guard == 0) {
        signal(SIGINT, SIG_IGN);
        close(ready[0]);
        close(alive[1]);
        guard(ready[1], alive[0]);
    }
    close(ready[1]);
    close(alive[0]);
    s->alive = alive[1];
    ssize_t n = read(ready[0], &byte, 1);
    close(ready[0]);
    if (n == 1 && byte == 1) {
        return s;
    }
    *why = n == 1 ? "there is no swap, and a zram device cannot be used as swap here"
                  : "there is no swap, and no zram device can be made here";
    swap_free(s);
    return NULL;
}

void swap_free(Swap *s)
{
    if (s->alive >= 0) {
        close(s->alive);
        waitpid(s->guard, NULL, 0);
    }
    g_free(s);
}

unsigned swap_out(char *at, uint64_t len)
{
    g_autofree unsigned char *resident = g_malloc(len / 4096);
    unsigned n = 0;

    g_assert_cmpint(madvise(at, len, MADV_PAGEOUT), ==, 0);
    g_assert_cmpint(mincore(at, len, resident), ==, 0);
    for (uint64_t i = 0; i < len / 4096; i++) {
        n += !(resident[i] & 1);
    }
    return n;
}
