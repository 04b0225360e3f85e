/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line of a QEMU with the bench's Linux guest, or another one. No state; any thread.
 */
#ifndef FF_BENCH_COMMAND_H
#define FF_BENCH_COMMAND_H

#include <glib.h>

typedef struct {
    const char *prefix;   /* words before all others; can be NULL */
    const char *farfault; /* the program; NULL: QEMU without it */
    const char *qemu;
    const char *guest; /* folder of vmlinuz and initrd.img */
    int mem, vcpus;    /* MiB; number */
    const char *load;  /* parameters of the guest's init: tests/guest/memwork.c */
    const char *qmp;   /* path of its monitor */
    /* Words for another guest, in place of .guest, .vcpus and .load: char *; can be NULL. */
    const GPtrArray *other;
} BenchCommand;

/* Linux' console on stdin and stdout. Of char *, to be ended by NULL. */
GPtrArray *bench_command_new(const BenchCommand *command);

/* Appends one argument; those that WORDS (can be NULL) has between blanks. */
void bench_command_add(GPtrArray *argv, const char *format, ...) G_GNUC_PRINTF(2, 3);
void bench_command_add_words(GPtrArray *argv, const char *words);

/* "7.2" of what the program QEMU says of itself (g_free). */
char *bench_command_version(const char *qemu, GError **error);

#endif
