/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into QEMU: makes the unlikely order of its two threads that accept at a monitor the
 * only one. QEMU opens a listening chardev on its main loop, and its monitor thread moves it to
 * its own a moment later. When a client is there in between, both threads know of it, and both
 * call accept(): the second finds nobody.
 *
 * The monitor thread is held before the move until the main loop is about to accept, and the main
 * loop is held there until the monitor thread has accepted. Writes one line to stderr when it
 * came to that. Threads: QEMU's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Seconds; only an order that cannot be had waits for it. */
#define PATIENCE 50

enum { START, MAIN_ACCEPTS, OTHER_HAS_ACCEPTED };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int state = START;

static bool in_qemu(void)
{
    return g_str_has_prefix(program_invocation_short_name, "qemu-system");
}

static bool in_main_thread(void)
{
    return gettid() == getpid();
}

static void enter(int next)
{
    pthread_mutex_lock(&lock);
    state = MAX(state, next);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* TRUE if it came to WANTED in time. */
static bool wait_for(int wanted)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE;
    pthread_mutex_lock(&lock);
    while (state < wanted && pthread_cond_timedwait(&changed, &lock, &end) == 0) {
    }
    bool reached = state >= wanted;
    pthread_mutex_unlock(&lock);
    return reached;
}

/* What the monitor thread does first when it takes a listening chardev over. */
void g_source_destroy(GSource *source)
{
    static void (*real)(GSource * source);

    if (!real) {
        real = (void (*)(GSource *))dlsym(RTLD_NEXT, "g_source_destroy");
    }
    if (in_qemu() && !in_main_thread()) {
        wait_for(MAIN_ACCEPTS);
    }
    real(source);
}

int accept4(int fd, struct sockaddr *restrict addr, socklen_t *restrict len, int flags)
{
    static const char both[] = "accept-race: both threads accept\n";
    static int (*real)(int, struct sockaddr *, socklen_t *, int);

    if (!real) {
        real = (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    }
    if (in_qemu() && in_main_thread()) {
        enter(MAIN_ACCEPTS);
        if (wait_for(OTHER_HAS_ACCEPTED) && write(STDERR_FILENO, both, sizeof(both) - 1) < 0) {
            return -1;
        }
    }
    int client = real(fd, addr, len, flags);
    if (in_qemu() && !in_main_thread()) {
        enter(OTHER_HAS_ACCEPTED);
    }
    return client;
}
