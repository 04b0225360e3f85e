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

/* TRUE if scripts/get-dpdk has unpacked one; else *WHY (static). */
bool testpmd_available(const char **why);
/* Starts one that listens at SOCKET when this returns, for a network of N_QUEUES pairs; WAITS: it
 * offers to wait for pages. It ends with the test. */
Testpmd *testpmd_start(const char *socket, unsigned n_queues, bool waits);
/* SIGKILL, and reaped. */
void testpmd_kill(Testpmd *testpmd);
/* It is asked to end, and reaped; it must have ended by itself with status 0. */
void testpmd_end(Testpmd *testpmd);

#endif
