/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that does what criu restore --lazy-pages makes a process do, written from CRIU's
 * sources: it passes its userfaultfd, registers its memory, says that it is restored, and has no
 * copy of the userfaultfd then. It ends with 0; 2 or 3: it has read what it should not; else it
 * came to nothing before.
 */
#ifndef FF_TESTS_PAGER_LAZY_H
#define FF_TESTS_PAGER_LAZY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LAZY_BASE 0x1000000000ull
#define LAZY_PAGES 128u
#define LAZY_MISSING 120u /* of these; a page server has them */

/* What the next one that is started does besides. */
typedef struct {
    pid_t as;   /* it has the pid of another one, and its images; 0: its own */
    bool halts; /* before it says that it is restored it writes a byte, and waits for one */
    enum {
        LAZY_STAYS,
        LAZY_EXECS, /* is another program when it has been told to read all */
        /* It starts one then, whose pid it writes, and waits for a byte: */
        LAZY_FORKS_AND_EXECS,
        LAZY_SPAWNS,          /* as posix_spawn() does: nobody has a copy of its memory */
        LAZY_LEAVES_A_DAEMON, /* of another session, whose parent has ended */
    } then;
} LazyKind;
void lazy_next(const LazyKind *kind);
/* It waits for a byte of *GO: there are images; to read all; to read all again, and end. It writes
 * one when it is restored. */
pid_t lazy_start(const char *socket_path, int *go);
/* As many processes, with pids from `LAZY_MANY_FIRST` on as they say, which one parent passes on
 * one connection. After the second byte all read all, and end. It ends with 0 if they have ended
 * well. */
#define LAZY_MANY_FIRST 100000
pid_t lazy_start_many(const char *socket_path, unsigned n, int *go);
/* The same, but that it forks in place of reading all, and exits: its child reads all, twice. */
pid_t lazy_start_leaving(const char *socket_path, int *go);
/* Of PID, in DIR; all have one file of pages. */
void lazy_write_images(const char *dir, pid_t pid);
/* As criu dump --lazy-pages leaves them: its page server has the pages. */
void lazy_write_images_elsewhere(const char *dir, pid_t pid);
/* So many lazy pages are in a row at ADDR. */
unsigned lazy_run_at(uint64_t addr);

#endif
