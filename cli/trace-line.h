/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mark for people: which arguments of it are fetched, and its line. No state; any thread.
 */
#ifndef FF_CLI_TRACE_LINE_H
#define FF_CLI_TRACE_LINE_H

#include <stdbool.h>

#include "trace/marks.h"
#include "trace/notes.h"

typedef struct {
    const FfMarkRow
        *row; /* NULL: this farfault does not know the mark, or it has other arguments */
    char *mark;
} FfTraceEvent;

/* What NOTE's arguments are called, and how tracefs fetches them: "page=%cx:u64 ..." (g_free). ROW
 * is as in FfTraceEvent. NULL and ERROR: it has one that no mark of ours has. */
char *ff_trace_fetch(const FfNote *note, const FfMarkRow **row, GError **error);
/* The values of EVENT, as tracefs shows them, as "name=value ..." in words (g_free). *SIDE
 * (static): "source", "destination", or "-" if nobody knows. *STATUS, with "status": the new one
 * (g_free); else NULL. */
char *ff_trace_values(const FfTraceEvent *event, const char *values, const char **side,
                      char **status);
/* farfault trace --list: NOTES (FfNote), each mark once, in the table's order (g_free). */
char *ff_trace_list(GPtrArray *notes);

#endif
