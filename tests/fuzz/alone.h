/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The readers of one side, without its threads: the engine's own functions, called one after the
 * other by the fuzzer's thread on a connection that holds the whole input and then ends. The
 * migration is a real one, with real memory and a real userfaultfd, whose threads are never
 * started: this program's g_thread_new() starts none, and a function that waits for what another
 * thread would do has the main reader run in its place. So an execution takes microseconds, and
 * what the threads do to each other is for the targets of a whole side.
 */
#ifndef FF_TESTS_FUZZ_ALONE_H
#define FF_TESTS_FUZZ_ALONE_H

#include "migration/destination/accept.h"
#include "migration/destination/arm.h"
#include "migration/destination/destination.h"
#include "migration/destination/device.h"
#include "migration/destination/hello.h"
#include "migration/destination/precopy.h"
#include "migration/destination/read.h"
#include "migration/destination/received.h"
#include "migration/destination/urgent.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/source/connect.h"
#include "migration/source/hello.h"
#include "migration/source/reader.h"
#include "migration/source/source.h"
#include "migration/source/urgent.h"
#include "tests/fuzz/fuzz.h"

#define ALONE_PAGES 16

/* A migration of ROLE with one block, before its coordinator has done anything. SIZE bytes of DATA
 * are all that the other end of its connection says. */
FfMigration *alone_new(FfRole role, const uint8_t *data, size_t size);
/* A new connection whose other end says SIZE bytes of DATA and no more. */
int alone_talk(const uint8_t *data, size_t size);
/* Closes that end. */
void alone_hang_up(void);
/* Takes the connection, as a coordinator does. */
int alone_fd(FfMigration *m);
/* The blocks, and what the coordinator has of them before it greets. */
void alone_set_blocks(FfMigration *m);
/* Has the acceptor take it, as one that comes to the port. */
void alone_knock(FfMigration *m);
/* Runs the main reader if one was started. */
bool alone_read(FfMigration *m);
/* The connection is lost, after the grant (GIVEN) or when it was not yet known here. */
void alone_pause(FfMigration *m, bool given);
/* The guest was started here. */
bool alone_runs(void);
/* Somewhere in DATA is what begins as a frame of TYPE; ZERO: whose page is 0. */
bool alone_says(const uint8_t *data, size_t size, FfFrameType type, bool zero);
/* A connection on which the peer says nothing. */
FfChannel *alone_silent(void);
/* Frees M and closes the peer's ends. */
void alone_free(FfMigration *m);

#endif
