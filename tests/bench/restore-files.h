/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files that all restores of the bench begin from: one guest, saved once while it worked. One
 * thread, the default main context.
 */
#ifndef FF_BENCH_RESTORE_FILES_H
#define FF_BENCH_RESTORE_FILES_H

#include "restore-run.h"

typedef struct {
    const char *farfault; /* the program; borrowed, as all of this */
    char **save;          /* QEMU under farfault, whose guest is saved */
    char **learn;         /* one that waits to be restored; of a working set alone */
    const char *qmp, *log;
} BenchSavedConfig;

/* Names its files PREFIX.*: what is not asked for is NULL. */
void bench_saved_name(BenchSaved *saved, const char *prefix, bool stream, bool set);
/* Makes them: the guest is saved by farfault, live. The stream is made of the same file. The
 * working set is what it touched in a restore of its own, in which it did other things. */
bool bench_saved_make(BenchSaved *saved, const BenchSavedConfig *config, GError **error);
/* Removes the files and frees the names; can be called at any time, also twice. */
void bench_saved_clear(BenchSaved *saved);

#endif
