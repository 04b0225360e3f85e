/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that does what `criu dump --lazy-pages` does when it has dumped, written from CRIU's
 * sources: it accepts one connection, gives the pages of processes of tests/pager/lazy.h, one
 * request after the other, and ends: DUMPER_KILLS, if the transfer went well, where CRIU kills the
 * processes that it has dumped; DUMPER_RESUMES, if anything failed, where it lets them run again.
 */
#ifndef FF_TESTS_PAGER_DUMPER_H
#define FF_TESTS_PAGER_DUMPER_H

#include <stdbool.h>
#include <sys/types.h>

#define DUMPER_KILLS 0
#define DUMPER_RESUMES 3
/* It would have let them run again while the restored process was not gone. */
#define DUMPER_TWO_COPIES 4

typedef enum {
    DUMPER_RIGHT,
    DUMPER_ONE_PAGE, /* gives one page in each answer */
    /* After N answers: */
    DUMPER_ENDS,
    DUMPER_CUTS, /* ends in the middle of a page */
    DUMPER_OTHER_ADDRESS,
    DUMPER_OTHER_PROCESS,
    DUMPER_OTHER_COMMAND,
    DUMPER_NO_PAGES,
    DUMPER_TOO_MANY,
    DUMPER_UNASKED, /* answers once more than it was asked */
    /* At the end: */
    DUMPER_NO_STATUS,
    DUMPER_BAD_STATUS,
} DumperKind;

typedef struct {
    pid_t pid;
    unsigned port;
    int control;  /* a byte from it: it holds; to it: it continues */
    char *option; /* of farfault pager */
} Dumper;

/* CLIENT: the restored process. HOLDS: after N answers it waits for a byte before the next one, or
 * before the end if there are no more. */
Dumper dumper_start(DumperKind kind, unsigned n, bool holds, pid_t client);
/* Until it holds. */
void dumper_wait_held(const Dumper *d);
void dumper_go_on(const Dumper *d);
/* How it ended. */
int dumper_wait(Dumper *d);

#endif
