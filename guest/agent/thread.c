/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. No state; any thread. System calls: those of pthread_create(). */
#include "guest/agent/internal.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

int ff_thread_start(void *(*run)(void *))
{
    pthread_t thread;
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!err) {
        pthread_detach(thread);
    }
    return -err;
}
