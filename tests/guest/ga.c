/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See ga.h. */
#include "ga.h"

#include <pthread.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <unistd.h>

#define PORT "/dev/vport0p1"

static void *start(void *arg)
{
    static char *argv[] = {
        "/agent/ld.so",           "--library-path", "/agent",       "/agent/qemu-ga",
        "--method=virtio-serial", "--path=" PORT,   "--statedir=/", NULL};
    static char *none[] = {NULL};
    int watch = inotify_init1(IN_CLOEXEC);
    char events[4096];
    pid_t pid;

    (void)arg;
    inotify_add_watch(watch, "/dev", IN_CREATE);
    while (access(PORT, F_OK))
        if (read(watch, events, sizeof events) < 0)
            return NULL;
    close(watch);
    /* That it does not run shows by nobody answering. */
    posix_spawn(&pid, argv[0], NULL, NULL, argv, none);
    return NULL;
}

const char *ga_start(void)
{
    pthread_t thread;

    if (access("/agent/qemu-ga", X_OK))
        return "no guest agent: put scripts/get guest-agent's archive behind the initrd";
    return pthread_create(&thread, NULL, start, NULL) ? "no thread for the guest agent" : NULL;
}
