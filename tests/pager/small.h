/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client of the test's own process: a userfaultfd and few pages, handed over as Firecracker does.
 */
#ifndef FF_TESTS_PAGER_SMALL_H
#define FF_TESTS_PAGER_SMALL_H

#include <stddef.h>

#include "tests/pager/client.h"
#include "tests/pager/daemon.h"

typedef struct {
    int uffd, sock;
    unsigned pages;    /* 0: one */
    ClientKind kind;   /* of its memory */
    uint64_t features; /* of the userfaultfd, besides EVENT_REMOVE */
    uint64_t *page;
} Small;

/* DaemonFill: pages as of client.h. */
bool small_fill(unsigned page, void *buf);
int small_connect(const char *path);
size_t small_size(const Small *c);
/* Its pages are those of the file, from 0 on. */
void small_start(Small *c, const Daemon *d);
/* Page 0 is right. */
void small_check(const Small *c);
/* Pages that it does not have any more. */
void small_end(Small *c);

#endif
