/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Follows marks by uprobes of tracefs, in an instance of its own: other people's tracing neither
 * sees nor loses anything by it. One thread for each tracer.
 */
#ifndef FF_TRACE_TRACEFS_H
#define FF_TRACE_TRACEFS_H

#include <glib.h>
#include <stdbool.h>

#include "trace/notes.h"

typedef struct FfTracer FfTracer;

/* This user may trace; else FALSE and ERROR: one line with the fix. */
bool ff_tracer_allowed(GError **error);
/* Removes what tracers have left that were killed, and makes an instance. NULL and ERROR: one line
 * with the fix. */
FfTracer *ff_tracer_new(GError **error);
/* Follows NOTE of the program PATH as EVENT (a C name, used once). FETCH: its arguments,
 * "name=%ax:u64 ...", or "". The program is the file that is at PATH now. */
bool ff_tracer_add(FfTracer *t, const char *event, const char *path, const FfNote *note,
                   const char *fetch, GError **error);
/* From now on marks are noted. Returns the fd to read their lines from (non-blocking; the
 * tracer's), -1 and ERROR. */
int ff_tracer_start(FfTracer *t, GError **error);
/* No more are noted; what was can still be read. */
void ff_tracer_stop(FfTracer *t);
/* Nothing is left of it. FALSE and ERROR: something is, the next ff_tracer_new() tries again. */
bool ff_tracer_end(FfTracer *t, GError **error);

/* The process of thread TID, of which a line says SAID (0: nothing). A line that is read before the
 * thread's next switch says nothing, or what an older thread with this number was of: the kernel
 * notes it at the switch. 0: the kernel does not know (any more). */
int ff_tracer_process(const FfTracer *t, int tid, int said);

/* A line of the fd. */
typedef struct {
    int pid;      /* of the process, or of an older one; 0: not noted; for ff_tracer_process() */
    int tid;      /* of the thread */
    char *time;   /* monotonic, seconds */
    char *event;  /* NULL: .lost marks were lost here, as nobody read them in time */
    char *values; /* "name=1 name="text"" */
    guint64 lost;
} FfTraceLine;

/* Reads LINE (without its end) into *OUT, cleared by ff_trace_line_clear(). FALSE: it is none. */
bool ff_trace_line(const char *line, FfTraceLine *out);
void ff_trace_line_clear(FfTraceLine *line);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfTraceLine, ff_trace_line_clear)

#endif
