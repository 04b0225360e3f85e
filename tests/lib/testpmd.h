/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DPDK's testpmd as the back-end of a vhost-user network, which sends each frame back with its
 * addresses swapped. It polls, on one processor. One thread.
 */
#ifndef FF_TESTS_TESTPMD_H
#define FF_TESTS_TESTPMD_H

#include <glib.h>
#include <stdbool.h>

typedef struct Testpmd Testpmd;

/* TRUE if scripts/get dpdk has unpacked one; else *WHY (static). */
bool testpmd_available(const char **why);
typedef enum {
    TESTPMD_WAITS,  /* it can wait for pages, if it may make a userfaultfd */
    TESTPMD_LOCKED, /* it offers that, and has its memory locked, so that it fills each mapping */
    TESTPMD_UNABLE, /* it does not offer it */
} TestpmdWaits;

/* Starts one for a network of N_QUEUES pairs. It listens at SOCKET when this returns; CLIENT: it
 * connects there, as soon as somebody listens, and again. It ends with the test. */
Testpmd *testpmd_start(const char *socket, bool client, unsigned n_queues, TestpmdWaits waits);
/* SIGKILL, and reaped. */
void testpmd_kill(Testpmd *testpmd);
/* It is asked to end, and reaped; it must have ended by itself with status 0. */
void testpmd_end(Testpmd *testpmd);

#endif
