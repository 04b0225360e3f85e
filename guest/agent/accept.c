/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In front of accept() of the process. Two QEMUs of one guest may have the same sockets that
 * listen, from who has started the first one (farfault upgrade): the one that has the guest takes
 * who comes. The other one is told that nobody is there any more; and when it has lost the guest
 * for good, the socket is replaced by a file that nobody writes to, so that it is not woken again.
 *
 * The launcher's sockets for monitors, to which the relay connects, are known by their name
 * (contract/private-socket.h).
 *
 * Threads: any of QEMU's. No lock, nothing is allocated. System calls: accept4, getsockname,
 * and close-inherited.c's.
 */
#include "guest/agent/internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/discards.h"
#include "contract/private-socket.h"

static const uint32_t *accepts; /* NULL: all are taken */
/* Of the library that comes next (libc, as a rule); NULL before the constructor. */
static int (*next_accept4)(int fd, struct sockaddr *address, socklen_t *len, int flags);

static bool is_relays(int fd)
{
    struct sockaddr_un name = {0};
    socklen_t len = sizeof(name) - 1;

    return getsockname(fd, (struct sockaddr *)&name, &len) == 0 && name.sun_family == AF_UNIX &&
           fnmatch(FF_PRIVATE_PATTERN, name.sun_path, 0) == 0;
}

/* TRUE, and errno: nobody is there. */
static bool refuses_accept(int fd)
{
    uint32_t now = accepts ? __atomic_load_n(accepts, __ATOMIC_ACQUIRE) : FF_ACCEPTS_ALL;

    if (now == FF_ACCEPTS_ALL || is_relays(fd)) {
        return false;
    }
    if (now == FF_ACCEPTS_NONE) {
        ff_quiet_put_over(fd);
    }
    errno = EAGAIN;
    return true;
}

__attribute__((visibility("default"))) int accept4(int fd, struct sockaddr *address, socklen_t *len,
                                                   int flags)
{
    return refuses_accept(fd) ? -1
           : next_accept4     ? next_accept4(fd, address, len, flags)
                              : (int)syscall(SYS_accept4, fd, address, len, flags);
}

__attribute__((visibility("default"))) int accept(int fd, struct sockaddr *address, socklen_t *len)
{
    return accept4(fd, address, len, 0);
}

static void __attribute__((constructor)) find_accept(void)
{
    next_accept4 = (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
}

void ff_accept_start(const uint32_t *word)
{
    accepts = word;
}
