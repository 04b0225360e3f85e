/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See threads.h. No state; any thread. */
#include "libfarfault/common/threads.h"

#include <errno.h>

#include "libfarfault/common/memory-internal.h"

void ff_block_signals(sigset_t *old)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

void ff_unblock_signals(const sigset_t *old)
{
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

GThread *ff_thread_new(const char *name, GThreadFunc fn, void *opaque)
{
    g_autoptr(GError) error = NULL;
    sigset_t old;

    ff_block_signals(&old);
    GThread *thread = g_thread_try_new(name, fn, opaque, &error);
    ff_unblock_signals(&old);
    if (!thread) {
        ff_fail(-EAGAIN, "%s", error->message);
    }
    return thread;
}
