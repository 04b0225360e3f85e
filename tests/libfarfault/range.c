/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See range.h. */
#include "tests/libfarfault/range.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

FfVolatile *plain(size_t n_pages)
{
    FfVolatile *v;

    call(ff_volatile_new(n_pages * PS, NULL, NULL, NULL, &v));
    return v;
}

int pin(FfVolatile *v, size_t first, size_t n)
{
    return ff_volatile_pin(v, first * PS, n * PS);
}

int unpin(FfVolatile *v, size_t first, size_t n)
{
    return ff_volatile_unpin(v, first * PS, n * PS);
}

int status(FfVolatile *v, size_t first, size_t n)
{
    return ff_volatile_is_pinned(v, first * PS, n * PS);
}

void fill(FfVolatile *v, size_t first, size_t n, int byte)
{
    memset((char *)ff_volatile_addr(v) + first * PS, byte, n * PS);
}

void assert_holds(FfVolatile *v, size_t first, size_t n, int byte)
{
    const char *at = (const char *)ff_volatile_addr(v) + first * PS;

    for (size_t i = 0; i < n * PS; i++) {
        g_assert_cmpint(at[i], ==, byte);
    }
}

uint64_t bytes_of(FfVolatile *v)
{
    FfVolatileStats stats = {.size = sizeof(stats)};

    call(ff_volatile_stats(v, &stats));
    return stats.bytes;
}

void run_child(void (*fn)(FfVolatile *), FfVolatile *v)
{
    pid_t parent = getpid(), pid = fork();
    int st;

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) {
            fn(v);
        }
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &st, 0), ==, pid);
    g_assert_cmpint(st, ==, 0);
}
