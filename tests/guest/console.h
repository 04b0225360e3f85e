/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The console of a test guest's init program: whole lines out, keys and reports in turn. Run with
 * arguments in place of as process 1 the same program speaks over its stdin and stdout.
 */
#ifndef FF_TESTS_GUEST_CONSOLE_H
#define FF_TESTS_GUEST_CONSOLE_H

#include "durations.h"

/* One write(2) for each line, so that lines of several threads do not mix. Cut at 1022 characters.
 * Any thread. */
__attribute__((format(printf, 1, 2))) void console_line(const char *format, ...);

/* Microseconds of the monotonic clock. */
double console_now_us(void);

/* Lines "FF waits hist=B:N,..." with all buckets of ALL that are not empty. */
void console_durations(const Durations *all);

/* Process 1: mounts proc and devtmpfs, makes the console stdin and stdout, and calls OPTION with
 * each word of the kernel's command line. */
void console_begin(void (*option)(char *word));

/* Calls REPORT every EVERY_MS, with the seconds since the first one was due, and KEY with each key
 * that comes in between. A console that is at its end has no keys. Does not return. */
__attribute__((noreturn)) void console_serve(double every_ms, void (*report)(double seconds),
                                             void (*key)(char key));

#endif
