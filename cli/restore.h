/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the file of a saved guest is restored, for people. Pure functions; any thread.
 */
#ifndef FF_CLI_RESTORE_H
#define FF_CLI_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *path;
    uint64_t offset; /* where in the file it begins */
    bool mapped;     /* mapped-ram; else an ordinary stream */
    bool compressed; /* by zstd */
    bool shared;     /* saved with x-ignore-shared */
} FfRestore;

/* The command that has the guest run at once (g_free); NULL: not of such a file. */
char *ff_restore_command(const FfRestore *r);
/* What stock QEMU wants. Lines, in order of preference (g_strfreev). */
char **ff_restore_lines(const FfRestore *r);

#endif
