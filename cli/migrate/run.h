/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One migration driven from outside through two QMP monitors: its options, its course and its
 * result. Works on stock QEMU and through farfault alike. One thread.
 */
#ifndef FF_CLI_MIGRATE_RUN_H
#define FF_CLI_MIGRATE_RUN_H

#include "cli/common/move-result.h"
#include "cli/common/progress.h"
#include "cli/common/qmp.h"
#include "cli/common/record.h"

#include <stdint.h>

typedef enum {
    FF_MOVE_NOW,           /* switch to postcopy at once */
    FF_MOVE_AFTER_PASSES,  /* when .after passes over memory are through */
    FF_MOVE_AFTER_SECONDS, /* .after seconds after the start */
    FF_MOVE_PRECOPY,       /* never switch */
} FfMoveMode;

typedef struct {
    const char *source, *destination; /* QMP addresses */
    FfMoveMode mode;
    unsigned after;
    char *listen;  /* URI for migrate-incoming; NULL: chosen here */
    char *connect; /* URI for migrate; NULL: follows from where the destination listens */
    uint64_t bandwidth, postcopy_bandwidth; /* bytes per second; 0: left as they are */
    char **parameters;                      /* NAME=VALUE; can be NULL */
    char **capabilities;                    /* NAME[=on|off]; can be NULL */
    bool preempt, no_cont;
    bool resume;      /* of a migration that is paused; with .no_cont */
    unsigned timeout; /* seconds; 0: none */
    FfRecord *record; /* what both sides say, until the last answers; NULL: nobody wants it */
} FfMoveOptions;

/* Both ends of a migration, ready for migrate. */
typedef struct {
    FfCliQmp *src, *dst;
    bool was_running;           /* the source's guest, before */
    bool destination_completed; /* of a paused migration: only the source does not know it */
    char *uri;                  /* what the source connects to */
} FfMoveEnds;
void ff_move_ends_clear(FfMoveEnds *ends);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfMoveEnds, ff_move_ends_clear)

/* Connects to both sides, checks that they can, sets capabilities and parameters, has the
 * destination listen. Changes nothing about the guest. */
bool ff_move_prepare(const FfMoveOptions *options, FfMoveEnds *ends, GError **error);

/* The same for .resume: connects to both sides, looks whether there is something to resume, has the
 * destination listen if it does not, or .listen says where. Changes nothing else (resume.c). */
bool ff_resume_prepare(const FfMoveOptions *options, FfMoveEnds *ends, GError **error);

/*
 * Moves the guest and waits for the end. SIGINT or SIGTERM cancels before the switch; after it,
 * the first is answered with a word on how to look at the migration and the second leaves.
 * Returns FALSE with ERROR only if the migration could not be started.
 */
bool ff_move_run(const FfMoveOptions *options, FfMoveEnds *ends, FfProgress *progress,
                 FfMoveResult *result, GError **error);

#endif
