/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process that ff_template_start() forks, which forks the children of ff_fork(): what it and
 * the program (fork.c) say to each other. Both are the same program, so structs are as they are.
 *
 * The template has one thread and uses no GLib: another thread of the program's may have had one of
 * its locks.
 */
#ifndef FARFAULT_TEMPLATE_H
#define FARFAULT_TEMPLATE_H

#include <signal.h>
#include <stdint.h>

#include "libfarfault/common/farfault.h"

/* Of one message. */
#define FF_TEMPLATE_MAX (64u << 10)

/* To the template, with a socket for the child: make one that has these. */
typedef struct {
    uint64_t addr, len;
} FfTemplateRegion;

/* From the template: a child was made (status 0), or -errno; or it has ended. */
typedef struct {
    enum { FF_TEMPLATE_MADE, FF_TEMPLATE_ENDED } what;
    int32_t pid, status;
} FfTemplateNews;

/* From the child, with its userfaultfd; or with a reason. Then it waits for its ARG. */
typedef struct {
    int32_t rc;
    char reason[200];
} FfTemplateReady;

/* In the template, does not return. SOCK: of pairs (SOCK_SEQPACKET); PARENT: the program. */
void ff_template_run(int sock, pid_t parent, unsigned memory_flags, FfChild *child, void *opaque,
                     const sigset_t *signals) __attribute__((noreturn));

/* A message with FD (-1: none). 0 or -errno. */
int ff_template_send(int sock, const void *data, size_t len, int fd);
/* One of CAP bytes at most. Its length, 0 at the end, -errno; *FD -1: none came. */
ssize_t ff_template_recv(int sock, void *data, size_t cap, int *fd);

#endif
