/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See callers.h.
 *
 * A thread that waits for its event to be read is asleep, and then the file has the number of its
 * system call and the six arguments, in hexadecimal. One that runs, or is about to, is "running".
 * It is not one that was woken from its wait and goes back there if it has run for some time since.
 *
 * Thread: the fault thread. System calls: openat, read, lseek, getdents64, process_vm_readv,
 * clock_gettime, close.
 */
#include "libfarfault/common/callers.h"

#include <dirent.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* asm-generic/mman-common.h since 5.18. */
#define DONTNEED_LOCKED 24
#define VECTORS 64       /* read of process_madvise() at once */
#define MAX_VECTORS 1024 /* the kernel takes no more */
/* A thread that was woken goes back to sleep within so much time of a processor. */
#define LONG_NS 20000
/* Of more threads it is taken for granted. */
#define MAX_RUNNING 256

typedef struct {
    int32_t tid;
    int64_t ns; /* that it had run for */
} Running;

typedef struct {
    FfCallers callers; /* first */
    int tasks_fd;
    Running running[MAX_RUNNING]; /* at the first look */
    unsigned n_running;
} Tasks;

typedef enum { ASLEEP, IN_A_CALL, RUNNING } State;

typedef struct {
    long nr;
    uint64_t args[6];
} Call;

/* *C: what it is IN_A_CALL for. */
static State read_call(const Tasks *t, const char *tid, Call *c)
{
    char path[64], text[256];

    g_snprintf(path, sizeof(path), "%s/syscall", tid);
    int fd = openat(t->tasks_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return ASLEEP; /* it has ended */
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[MAX(n, 0)] = '\0';
    if (g_str_has_prefix(text, "running")) {
        return RUNNING;
    }
    char *at = text, *end;
    c->nr = strtol(at, &end, 10);
    for (unsigned i = 0; i < G_N_ELEMENTS(c->args) && end != at; i++) {
        at = end;
        c->args[i] = strtoull(at, &end, 16);
    }
    return end != at ? IN_A_CALL : ASLEEP; /* a thread that waits for a page is in none */
}

/* How long the thread TID of this process has run (pthread_getcpuclockid() wants a pthread_t); -1:
 * it has ended. */
static int64_t run_ns(int32_t tid)
{
    struct timespec ts;

    return clock_gettime((clockid_t)(~(uint32_t)tid << 3 | 6), &ts) == 0
               ? (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec
               : -1;
}

/* TID, which runs, may be on its way back into its wait. */
static bool may_go_back(Tasks *t, int32_t tid, bool is_first)
{
    int64_t ns = run_ns(tid);

    if (is_first && t->n_running < MAX_RUNNING) {
        t->running[t->n_running++] = (Running){tid, ns};
        return true;
    }
    for (unsigned i = 0; i < t->n_running && ns >= 0; i++) {
        if (t->running[i].tid == tid) {
            return ns - t->running[i].ns < LONG_NS;
        }
    }
    return false; /* it slept at the first look */
}

/* The kernel takes an int of it. */
static bool gives_back(uint64_t arg)
{
    int advice = (int)arg;

    return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
           advice == DONTNEED_LOCKED;
}

/* The N ranges at ADDR, of somebody's memory that may not be there any more. */
static void each_vector(uint64_t addr, uint64_t n, FfCallersRange *fn, void *opaque)
{
    struct iovec vectors[VECTORS];

    for (uint64_t i = 0, some; i < n; i += some) {
        some = MIN(n - i, VECTORS);
        struct iovec to = {vectors, some * sizeof(*vectors)};
        struct iovec from = {(char *)(uintptr_t)addr + i * sizeof(*vectors), to.iov_len};
        if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)to.iov_len) {
            return;
        }
        for (uint64_t k = 0; k < some; k++) {
            uint64_t start = (uintptr_t)vectors[k].iov_base;
            fn(start, start + vectors[k].iov_len, opaque);
        }
    }
}

static void look_at(const Call *c, FfCallersRange *fn, void *opaque)
{
    const uint64_t *a = c->args;

    if (c->nr == SYS_madvise && gives_back(a[2])) {
        fn(a[0], a[0] + a[1], opaque);
    } else if (c->nr == SYS_process_madvise && gives_back(a[3])) {
        each_vector(a[1], MIN(a[2], MAX_VECTORS), fn, opaque);
    }
}

/* TRUE: it is not known. */
static bool look_at_thread(Tasks *t, const char *tid, bool is_first, FfCallersRange *fn,
                           void *opaque)
{
    int32_t id = (int32_t)strtol(tid, NULL, 10);
    Call c;

    if (id == gettid()) {
        return false;
    }
    switch (read_call(t, tid, &c)) {
    case RUNNING:
        return may_go_back(t, id, is_first);
    case IN_A_CALL:
        look_at(&c, fn, opaque);
        return false;
    default:
        return false;
    }
}

static unsigned each_caller(FfCallers *callers, bool is_first, FfCallersRange *fn, void *opaque)
{
    Tasks *t = (Tasks *)(void *)callers;
    _Alignas(struct dirent64) char entries[4096];
    unsigned n_unknown = 0;
    ssize_t n;

    if (lseek(t->tasks_fd, 0, SEEK_SET) < 0) {
        return 0;
    }
    t->n_running = is_first ? 0 : t->n_running;
    while ((n = getdents64(t->tasks_fd, entries, sizeof(entries))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(const void *)(entries + at);
            if (d->d_name[0] != '.') {
                n_unknown += look_at_thread(t, d->d_name, is_first, fn, opaque);
            }
            at += d->d_reclen;
        }
    }
    return n_unknown;
}

FfCallers *ff_callers_new(void)
{
    int fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return NULL;
    }
    Tasks *t = g_new0(Tasks, 1);
    t->callers.each = each_caller;
    t->tasks_fd = fd;
    return &t->callers;
}

void ff_callers_free(FfCallers *c)
{
    Tasks *t = (Tasks *)(void *)c;

    if (t) {
        close(t->tasks_fd);
        g_free(t);
    }
}
