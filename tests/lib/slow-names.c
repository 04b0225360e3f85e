/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See slow-names.h. No state; any thread.
 */
#include "tests/lib/slow-names.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*GetAddrInfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* Waits. 0, or an error of getaddrinfo(). */
static int pass_gate(void)
{
    const char *gate = getenv(SLOW_NAMES_GATE);
    int fd = gate ? open(gate, O_RDONLY | O_CLOEXEC) : -1;
    char byte;

    if (fd < 0) {
        return EAI_FAIL;
    }
    int rc = read(fd, &byte, 1) == 0 ? 0 : EAI_NONAME;
    close(fd);
    return rc;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **list)
{
    GetAddrInfo real = (GetAddrInfo)dlsym(RTLD_NEXT, "getaddrinfo");

    if (node && !strcmp(node, SLOW_NAME) && !(hints->ai_flags & AI_NUMERICHOST)) {
        int rc = pass_gate();
        return rc ? rc : real("127.0.0.1", service, hints, list);
    }
    return real(node, service, hints, list);
}
