/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See rlimits.h. GLib ends a program that has no memory for a small thing, and the library has
 * many: so a call first takes as much as all of them need, and gives it back. It takes pieces,
 * which malloc() has in its heap and keeps there; a large one would go back to the kernel. A thread
 * that takes the last memory between that and the call's own allocations is not seen. What can be
 * large is asked for by functions that can fail, besides.
 *
 * The kernel sends SIGXFSZ to the thread that writes. Threads of the library's block all signals.
 *
 * Threads: any. System calls: mmap, munmap, rt_sigprocmask, rt_sigpending, rt_sigtimedwait.
 */
#include "libfarfault/common/rlimits.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "libfarfault/common/memory-internal.h"

#define PIECE (16u << 10)
/* What malloc() maps alone. After it has freed one so large it does that no more, and what it keeps
 * in its heap takes memory; so it is not asked for one. */
#define LARGE (128u << 10)
#define PIECES 12 /* tests/libfarfault/test-short.c finds a call that needs more */

int ff_reserve(const char *call, size_t extra)
{
    bool is_large = extra >= LARGE;
    void *large =
        is_large ? mmap(NULL, extra, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
    void *pieces[PIECES + 1] = {extra && !is_large ? g_try_malloc(extra) : NULL};
    bool ok = is_large ? large != MAP_FAILED : !extra || pieces[0];

    for (unsigned i = 1; ok && i <= PIECES; i++) {
        pieces[i] = g_try_malloc(PIECE);
        ok = pieces[i];
    }
    for (unsigned i = 0; i <= PIECES; i++) {
        g_free(pieces[i]);
    }
    if (is_large && large != MAP_FAILED) {
        munmap(large, extra);
    }
    if (!ok) {
        return ff_fail(-ENOMEM, "%s: %s", call, ff_strerror(ENOMEM));
    }
    g_thread_self(); /* what GLib has of all threads: else the first one of ours allocates that */
    return 0;
}

FfXfsz ff_xfsz_begin(void)
{
    sigset_t xfsz, pending;
    FfXfsz x;

    sigemptyset(&xfsz);
    sigaddset(&xfsz, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &xfsz, &x.old);
    sigpending(&pending);
    x.was_pending = sigismember(&pending, SIGXFSZ);
    return x;
}

void ff_xfsz_end(FfXfsz *x)
{
    const struct timespec now = {0};
    int err = errno;
    sigset_t xfsz;

    sigemptyset(&xfsz);
    sigaddset(&xfsz, SIGXFSZ);
    while (!x->was_pending && sigtimedwait(&xfsz, NULL, &now) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &x->old, NULL);
    errno = err;
}
