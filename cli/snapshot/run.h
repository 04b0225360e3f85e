/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One live snapshot, asked for and watched through a QMP monitor. One thread.
 */
#ifndef FF_CLI_SNAPSHOT_RUN_H
#define FF_CLI_SNAPSHOT_RUN_H

#include "cli/common/progress.h"
#include "cli/common/qmp.h"
#include "cli/common/record.h"
#include "cli/common/restore-hint.h"

#include <stdint.h>

typedef struct {
    const char *address; /* of the monitor */
    const char *file;    /* which must not be there yet */
    const char *format;  /* "mapped-ram" or "stream" */
    uint64_t offset;     /* where in the file it begins */
    int64_t buffer;      /* bytes; -1: the engine's default */
    uint64_t bandwidth;  /* bytes per second; 0: no limit */
    const char *disks;   /* folder for overlays of the guest's disks; NULL: they are left alone */
    FfRecord *record;    /* where the guest's side is recorded; NULL: nowhere */
    bool compress;       /* zstd's seekable format, as soon as the guest has its memory back */
} FfTakeOptions;

typedef struct {
    char *path;       /* absolute */
    bool was_running; /* the guest, before */
    int64_t stood_us; /* from STOP to RESUME, by QEMU's own event times; -1: not both were seen */
    JsonNode *info;   /* the last query-migrate */
    char *disks;      /* what the guest must be started with from now on, one line; NULL: with what
                         it had. Also if there is no file */
    char *left_out;   /* the disks that it can write to, and that were left alone; NULL: none */
    char *other;      /* those that are other processes (vhost-user), likewise */
    char *manifest;   /* path of FILE.disks; NULL: there is none */
    char *qemu, *cwd, *options; /* of FfRestoreHint */
} FfTakeResult;
void ff_take_result_clear(FfTakeResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfTakeResult, ff_take_result_clear)

/* The file, as it is restored; borrows from both. */
FfRestoreHint ff_take_file(const FfTakeOptions *options, const FfTakeResult *result);

/*
 * Takes the snapshot and waits for its end. TRUE: the file is there, complete and on the disk.
 * FALSE: there is none, and ERROR says why in one line.
 * SIGINT, SIGTERM and SIGHUP cancel it; the second of them leaves without waiting for that.
 *
 * The file is made here, with the caller's rights, and has no name before it is complete; QEMU's
 * side gets its fd. Where the monitor passes no fds (TCP) the guest's engine makes it.
 */
bool ff_take_run(const FfTakeOptions *options, FfProgress *progress, FfTakeResult *result,
                 GError **error);

#endif
