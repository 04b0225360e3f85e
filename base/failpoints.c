/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads FARFAULT_FAULTS and does what it says; see failpoints.h. What is not understood ends the
 * process with a line that says so: a test must not pass because of a slip of the pen.
 *
 * Threads: any. The table is made once, before the first look at it; its counters are atomic.
 * System calls: openat, kill, getppid, timer_create, timer_settime, poll, sendto.
 */
#include "base/failpoints.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FAULTS 16

typedef enum {
    A_KILL,
    A_ABORT,
    A_RELAY,
    A_BOTH,
    A_STOP,
    A_DELAY,
    A_CUT,
    A_DUP,
    A_FLIP,
    A_ERRNO,
    A_SKIP,
    A_OMIT,
    A_HOLD
} Action;

typedef struct {
    char *point;
    Action action;
    unsigned number; /* of bytes or milliseconds; errno */
    gint left;       /* atomic; matches until it happens */
} Fault;

static char *dir;
static Fault faults[MAX_FAULTS];
static unsigned n_faults;
static const char *side = "none", *state = "none"; /* static texts; atomic, observer: is_due() */
static FfFaultHook hook;                           /* atomic; observer: call_hook() */

static const struct {
    const char *name;
    Action action;
    bool number;
    int err;
} actions[] = {
    {"kill", A_KILL, false, 0},
    {"abort", A_ABORT, false, 0},
    {"relay", A_RELAY, false, 0},
    {"both", A_BOTH, false, 0},
    {"stop", A_STOP, true, 0},
    {"delay", A_DELAY, true, 0},
    {"cut", A_CUT, true, 0},
    {"dup", A_DUP, false, 0},
    {"flip", A_FLIP, true, 0},
    {"EAGAIN", A_ERRNO, false, EAGAIN},
    {"ENOMEM", A_ERRNO, false, ENOMEM},
    {"ENOSPC", A_ERRNO, false, ENOSPC},
    {"ENOTCONN", A_ERRNO, false, ENOTCONN},
    {"EIO", A_ERRNO, false, EIO},
    {"skip", A_SKIP, false, 0},
    {"omit", A_OMIT, false, 0},
    {"hold", A_HOLD, false, 0},
};

/* It is dead when this returns: after the point the engine has no relay. */
static void end_relay(void)
{
    pid_t relay = getppid();

    kill(relay, SIGKILL);
    while (getppid() == relay) {
        poll(NULL, 0, 1);
    }
}

G_NORETURN static void bad(const char *what)
{
    fprintf(stderr, "farfault: FARFAULT_FAULTS: '%s': write DIR;SIDE/STATE/PLACE/NAME=ACTION\n",
            what);
    abort();
}

static void parse_one(char *text)
{
    char *equals = strchr(text, '='), *hash = strchr(text, '#');
    Fault *f = &faults[n_faults++];

    if (!equals || n_faults == MAX_FAULTS) {
        bad(text);
    }
    f->left = hash && hash < equals ? atoi(hash + 1) : 1;
    f->point = g_strndup(text, (hash && hash < equals ? hash : equals) - text);
    g_auto(GStrv) parts = g_strsplit(equals + 1, ":", 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++) {
        if (g_strcmp0(actions[i].name, parts[0]) == 0 && actions[i].number == !!parts[1]) {
            f->action = actions[i].action;
            f->number = actions[i].err ? (unsigned)actions[i].err
                        : parts[1]     ? (unsigned)atoi(parts[1])
                                       : 0;
            return;
        }
    }
    bad(text);
}

/* Before main(), hence before any thread. */
__attribute__((constructor)) static void parse(void)
{
    const char *env = getenv("FARFAULT_FAULTS");

    if (!env || !*env) {
        return;
    }
    g_auto(GStrv) parts = g_strsplit(env, ";", -1);
    dir = g_strdup(parts[0]);
    for (unsigned i = 1; parts[i]; i++) {
        parse_one(parts[i]);
    }
}

void ff_fault_side(const char *name)
{
    g_atomic_pointer_set(&side, name);
}

void ff_fault_state(const char *name)
{
    g_atomic_pointer_set(&state, name);
}

void ff_fault_hook(FfFaultHook fn)
{
    g_atomic_pointer_set(&hook, fn);
}

static int call_hook(const char *place, const char *name)
{
    FfFaultHook fn = g_atomic_pointer_get(&hook);

    return fn ? fn(place, name) : 0;
}

/* From the Nth time on. */
static bool is_due_again(Fault *f)
{
    return g_atomic_int_get(&f->left) <= 1 || g_atomic_int_add(&f->left, -1) <= 1;
}

/* The fault that is to happen now, or NULL. It happens once, whoever lives to see it. */
static const Fault *is_due(const char *place, const char *name)
{
    char point[256], path[4096];

    if (!n_faults) {
        return NULL;
    }
    snprintf(point, sizeof(point), "%s/%s/%s/%s", (const char *)g_atomic_pointer_get(&side),
             (const char *)g_atomic_pointer_get(&state), place, name);
    for (unsigned i = 0; i < n_faults; i++) {
        if (fnmatch(faults[i].point, point, 0) != 0) {
            continue;
        }
        if (faults[i].action == A_HOLD || faults[i].action == A_OMIT) {
            if (is_due_again(&faults[i])) {
                return &faults[i];
            }
            continue;
        }
        if (g_atomic_int_add(&faults[i].left, -1) == 1) {
            snprintf(path, sizeof(path), "%s/fault-%u", dir, i);
            int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
            if (fd >= 0) {
                dprintf(fd, "%s\n", point);
                close(fd);
                return &faults[i];
            }
        }
    }
    return NULL;
}

/* The kernel's timer says SIGCONT to a process that cannot do anything by itself. */
static void stop_process(unsigned ms)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT};
    struct itimerspec when = {.it_value = {ms / 1000, (ms % 1000) * 1000000L + 1}};
    timer_t timer;

    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 ||
        timer_settime(timer, 0, &when, NULL) < 0) {
        abort();
    }
    kill(getpid(), SIGSTOP);
    /* The signal may have gone to another thread, and reach this one a moment later. */
    poll(NULL, 0, (int)ms);
}

/* Until somebody opens the FIFO for writing. */
static void hold_thread(void)
{
    g_autofree char *path = g_build_filename(dir, "hold", NULL);
    g_autofree char *held = g_build_filename(dir, "held", NULL);
    int told = open(held, O_RDONLY | O_CLOEXEC);

    if (told >= 0) {
        close(told);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        bad("hold: mkfifo DIR/hold");
    }
    close(fd);
}

/* What has nothing to do with a message or a call. TRUE: it was that. */
static bool do_plain(const Fault *f)
{
    switch (f->action) {
    case A_KILL:
        kill(getpid(), SIGKILL);
        return true;
    case A_ABORT:
        abort();
    case A_RELAY:
        end_relay();
        return true;
    case A_BOTH:
        kill(getppid(), SIGKILL);
        kill(getpid(), SIGKILL);
        return true;
    case A_STOP:
        stop_process(f->number);
        return true;
    case A_DELAY:
        poll(NULL, 0, f->number);
        return true;
    case A_HOLD:
        hold_thread();
        return true;
    default:
        return false;
    }
}

void ff_fault_at(const char *name)
{
    call_hook("at", name);
    const Fault *f = is_due("at", name);

    if (f && !do_plain(f)) {
        bad(f->point);
    }
}

bool ff_fault_call(const char *name)
{
    int err = call_hook("call", name);
    if (err) {
        errno = err;
        return true;
    }
    const Fault *f = is_due("call", name);

    if (!f || do_plain(f)) {
        return false;
    }
    if (f->action != A_ERRNO) {
        bad(f->point);
    }
    errno = f->number;
    return true;
}

bool ff_fault_skip(const char *name)
{
    if (call_hook("step", name)) {
        return true;
    }
    const Fault *f = is_due("step", name);

    if (!f || do_plain(f)) {
        return false;
    }
    if (f->action != A_SKIP && f->action != A_OMIT) {
        bad(f->point);
    }
    return true;
}

/* Writes what the socket takes in time: a test's connection is read by somebody. */
static int write_some(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (n < 0) {
            return -errno;
        } else {
            bytes += n;
            len -= n;
        }
    }
    return 0;
}

int ff_fault_message(const char *channel, const char *name, int fd, const struct iovec *iov, int n)
{
    const Fault *f = is_due(channel, name);

    if (!f || do_plain(f)) {
        return 0;
    }
    if (f->action == A_ERRNO) {
        return -(int)f->number;
    }
    /* A copy: guest memory itself is not touched. */
    g_autoptr(GByteArray) all = g_byte_array_new();
    for (int i = 0; i < n; i++) {
        g_byte_array_append(all, iov[i].iov_base, iov[i].iov_len);
    }
    if (f->action == A_CUT) {
        write_some(fd, (char *)all->data, MIN(f->number, all->len));
        shutdown(fd, SHUT_RDWR);
        return -ECONNRESET;
    }
    if (f->action == A_FLIP) {
        all->data[f->number % all->len] ^= 1;
        int rc = write_some(fd, (char *)all->data, all->len);
        return rc < 0 ? rc : 1;
    }
    return write_some(fd, (char *)all->data, all->len);
}
