/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's program: kept from the relay's start, so that a guest keeps the engine that it was
 * started with. farfault may be upgraded while the guest runs, and what two versions say to each
 * other on the link, or read in the state memfd, is not meant to fit. dpkg and others put the new
 * file in the old one's place; the old one lives on behind our fd. Its libraries: libraries.c.
 *
 * System calls: open, posix_spawn.
 */
#include "base/sandbox.h"
#include "guest/relay/engine-internal.h"
#include "guest/relay/engine.h"
#include "guest/relay/libraries.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"

#define LOWEST_FD 10 /* above those that the engine is given by number */

/* A script's interpreter would look for the fd after it is closed. */
static bool is_program(int fd)
{
    char magic[4];

    return pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "\177ELF", 4);
}

void ff_engine_keep_program(FfRelay *relay)
{
    int low = open(relay->plan->engine, O_RDONLY | O_CLOEXEC);
    int fd = low >= 0 && is_program(low) ? fcntl(low, F_DUPFD_CLOEXEC, LOWEST_FD) : -1;

    if (low >= 0) {
        close(low);
    }
    relay->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC); /* the sandbox opens none for writing */
    /* What is not there now may be later. */
    relay->program = fd < 0 ? NULL : g_strdup_printf("/proc/self/fd/%d", fd);
    relay->program_fd = fd;
}

void ff_engine_keep_libraries(FfRelay *relay)
{
    /* A sanitizer's library wants to be found by its name. */
    relay->libraries = relay->program && !FF_SANITIZED
                           ? ff_libraries_keep(relay->program_fd, relay->null_fd)
                           : NULL;
}

/* PROGRAM: what is started, in place of the engine's own if that is with kept libraries. */
static int spawn_program(FfRelay *relay, int link, const char *program, char **argv, bool kept)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t defaults;
    pid_t pid;
    int ret;

    if (FF_FAULT_CALL("spawn", 0) < 0) {
        return -errno;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, relay->null_fd, 0);
    posix_spawn_file_actions_adddup2(&actions, relay->null_fd, 1);
    if (relay->plan->stderr_fd >= 0) {
        posix_spawn_file_actions_adddup2(&actions, relay->plan->stderr_fd, 2);
    } else {
        posix_spawn_file_actions_adddup2(&actions, relay->null_fd, 2);
    }
    posix_spawn_file_actions_adddup2(&actions, link, FF_LINK_FD);
    if (kept) {
        posix_spawn_file_actions_adddup2(&actions, relay->program_fd, relay->program_fd);
        ff_libraries_inherit(relay->libraries, &actions);
    }
    posix_spawnattr_init(&attr);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGHUP);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGTERM);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
    ret = posix_spawn(&pid, program, &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return ret ? -ret : pid;
}

int ff_engine_spawn(FfRelay *relay, int link, bool kept)
{
    const char *program = relay->program ? relay->program : relay->plan->engine;
    char *argv[] = {relay->plan->engine, NULL};

    if (kept && relay->libraries) {
        g_autofree char *linker = ff_libraries_linker(relay->libraries);
        g_auto(GStrv) with = ff_libraries_argv(relay->libraries, argv[0], program);

        return spawn_program(relay, link, linker, with, true);
    }
    return spawn_program(relay, link, program, argv, false);
}
