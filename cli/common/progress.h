/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far a migration or a live snapshot is, shown while it runs: a bar on a terminal, plain lines
 * elsewhere. One thread.
 */
#ifndef FF_CLI_COMMON_PROGRESS_H
#define FF_CLI_COMMON_PROGRESS_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "cli/common/rate.h"

typedef struct FfProgress FfProgress;

/* QUIET: shows nothing but ff_progress_say() with IMPORTANT. Writes to stderr. */
FfProgress *ff_progress_new(bool quiet);
void ff_progress_free(FfProgress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfProgress, ff_progress_free)
/* Milliseconds between two looks: often on a terminal, seldom elsewhere. */
unsigned ff_progress_interval(const FfProgress *progress);
/* Shows INFO, an answer to query-migrate of the source. */
void ff_progress_update(FfProgress *progress, JsonObject *info);
/* What is shown of it on a terminal, at most COLUMNS wide; COLUMNS 0: a line without a bar, of any
 * width (g_free). */
char *ff_progress_line(const FfRate *pace, JsonObject *info, int columns);
/* Writes a line that stays, without tearing the bar. */
void ff_progress_say(FfProgress *progress, bool important, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* Takes the bar away. */
void ff_progress_clear(FfProgress *progress);

#endif
