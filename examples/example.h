/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the examples share.
 */
#ifndef FARFAULT_EXAMPLE_H
#define FARFAULT_EXAMPLE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern char *program_invocation_short_name; /* libc's, also where <errno.h> does not say so */

static inline void __attribute__((noreturn)) die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    exit(1);
}

static inline int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

#endif
