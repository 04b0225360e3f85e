/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the file of a saved guest is restored, for people. Pure functions, any thread; but
 * ff_restore_hint_qemu(), which asks a QEMU.
 */
#ifndef FF_CLI_COMMON_RESTORE_HINT_H
#define FF_CLI_COMMON_RESTORE_HINT_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/common/qmp.h"
#include "qmp/disks-file.h"

typedef struct {
    const char *path;
    const char *machine; /* the guest's type; NULL: not known */
    uint64_t offset;     /* where in the file it begins */
    bool mapped;         /* mapped-ram; else an ordinary stream */
    bool compressed;     /* by zstd */
    bool shared;         /* saved with x-ignore-shared */
    bool changes;        /* the guest has disks that were not kept: they change from now on */
    const char *qemu;    /* QEMU and its command line, for a shell; NULL: not known */
    const char *cwd;     /* where that is to be started; NULL: anywhere */
    const char *options; /* of farfault restore, each followed by a space; NULL: none */
    const char *folder;  /* where overlays of the disks that were kept go to; NULL: none were */
} FfRestoreHint;

/* WORD as it is typed for a shell, and at QEMU's human monitor: quoted only if it has to be
 * (g_free). */
char *ff_shell_word(const char *word);
char *ff_monitor_word(const char *word);
/* QEMU and its command line, as the guest of QMP was started, without what it came in by, with its
 * machine's version and the images that it has now: words for a shell, or for people where these
 * are not known (g_free). NULL: it does not say, or was given open files that no other process has.
 * *CWD (g_free): in which it runs; NULL: not seen. *OPTIONS (g_free): those of farfault run that
 * count for farfault restore, too. */
char *ff_restore_hint_qemu(FfCliQmp *qmp, char **cwd, char **options);
/* How stock QEMU is given the disks: a line for each of KEPT (g_strfreev). */
char **ff_restore_hint_disk_lines(const FfDisksFile *kept);

/* The command that has the guest run at once (g_free); NULL: not of such a file. */
char *ff_restore_hint_command(const FfRestoreHint *r);
/* A row in front of it, where it has QEMU's whole command: that one has the running guest's names.
 */
#define FF_RESTORE_FIRST                                                                           \
    "end this guest; one beside it needs other -qmp, -serial, -name and MAC addresses"
/* What stock QEMU wants. Lines, in order of preference (g_strfreev). */
char **ff_restore_hint_lines(const FfRestoreHint *r);

#endif
