/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A test guest's init program on the host: keys go in by one end of a socket, lines come out of it.
 * Test thread only; what fails ends the test.
 */
#ifndef FF_TESTS_GUEST_RUN_H
#define FF_TESTS_GUEST_RUN_H

#include "tests/lib/stream.h"
#include "tests/lib/vm.h"

typedef struct {
    Stream *console;
    pid_t pid;
} GuestRun;

/* Starts PROGRAM, named in the build folder, in the folder DIR (NULL: this one) with OPTIONS, the
 * last of which is NULL. */
GuestRun guest_run_start(const char *program, const char *dir, const char *const *options);
/* The next line that begins with PREFIX (g_free). */
char *guest_run_line(GuestRun *m, const char *prefix);
void guest_run_key(GuestRun *m, const char *key);
/* Waits for its end. Returns its exit status, or the signal that ended it, negated. */
int guest_run_end(GuestRun *m);
/* What stands in LINE behind " NAME=". */
uint64_t guest_run_number(const char *line, const char *name);

#endif
