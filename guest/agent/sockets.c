/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In front of bind() of the process: a unix socket that is bound to FF_AGENT_SOCKET_PATH and the
 * number of an fd becomes that fd, a listening socket. QEMU takes a chardev for a vhost-user
 * network only if its socket has a path (QEMU_CHAR_FEATURE_FD_PASS in chardev/char-socket.c), and a
 * path is what others could come in by.
 *
 * Threads: any of QEMU's; it has no lock and no memory but what is found once. System calls:
 * getsockopt, dup3, close, bind.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/agent/agent.h"

/* Of the library that comes next (libc, as a rule); NULL before the constructor. */
static int (*next_bind)(int fd, const struct sockaddr *addr, socklen_t len);

static void __attribute__((constructor)) find_bind(void)
{
    next_bind = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
}

static bool option_is(int fd, int option, int wanted)
{
    int value;
    socklen_t len = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 && value == wanted;
}

/* The number behind the path; -1: it is no such address. */
static int fd_of(const struct sockaddr *addr, socklen_t len)
{
    static const char prefix[] = FF_AGENT_SOCKET_PATH;
    const size_t at = offsetof(struct sockaddr_un, sun_path);
    char path[sizeof(struct sockaddr_un)] = "";
    char *end;

    if (!addr || len <= at || len > sizeof(struct sockaddr_un) || addr->sa_family != AF_UNIX) {
        return -1;
    }
    memcpy(path, (const char *)addr + at, len - at);
    if (strncmp(path, prefix, strlen(prefix)) != 0) {
        return -1;
    }
    long number = strtol(path + strlen(prefix), &end, 10);
    return end > path + strlen(prefix) && *end == '\0' && number >= 0 && number < 1 << 20
               ? (int)number
               : -1;
}

__attribute__((visibility("default"))) int bind(int fd, __CONST_SOCKADDR_ARG addr, socklen_t len)
{
    int given = fd_of(addr.__sockaddr__, len);

    if (given >= 0 && given != fd && option_is(given, SO_DOMAIN, AF_UNIX) &&
        option_is(given, SO_ACCEPTCONN, 1)) {
        if (dup3(given, fd, O_CLOEXEC) < 0) {
            return -1;
        }
        close(given);
        return 0;
    }
    return next_bind ? next_bind(fd, addr.__sockaddr__, len)
                     : (int)syscall(SYS_bind, fd, addr.__sockaddr__, len);
}
