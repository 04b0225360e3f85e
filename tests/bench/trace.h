/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tracer beside one migration, which prints the engines' marks as examples/trace.bt does. One
 * thread, the default main context.
 */
#ifndef FF_BENCH_TRACE_H
#define FF_BENCH_TRACE_H

#include "worst.h"

typedef struct BenchTrace BenchTrace;

/* COMMAND (a shell's words) prints "tracing" when it traces; its lines go to the file LOG. Returns
 * when it traces. Takes root and tracefs. */
BenchTrace *bench_trace_start(const char *command, const char *log, GError **error);
/* Ends it: what it has printed so far. NULL and ERROR: it failed. */
BenchMarks *bench_trace_end(BenchTrace *trace, GError **error);
/* Ends it, if it was not. Can be NULL. */
void bench_trace_free(BenchTrace *trace);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BenchTrace, bench_trace_free)

#endif
