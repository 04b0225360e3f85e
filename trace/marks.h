/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * THE table of the engine's marks (trace/mark.h): what each says, and what its numbers are.
 * docs/trace.md shows it; a unit test compares it with the notes in the engine. Constant data.
 */
#ifndef FF_TRACE_MARKS_H
#define FF_TRACE_MARKS_H

#define FF_MARK_ARGS 4

typedef enum {
    FF_MARK_END, /* there is no such argument */
    FF_MARK_UNSIGNED,
    FF_MARK_SIGNED,
    FF_MARK_TEXT,  /* its address */
    FF_MARK_ROLE,  /* FfRole */
    FF_MARK_PHASE, /* FfPhase */
    FF_MARK_RIGHT, /* FfRunRight */
} FfMarkKind;

typedef struct {
    const char *name;
    FfMarkKind kind;
} FfMarkArg;

typedef struct {
    const char *name;
    const char *side; /* where it is; NULL: one of its arguments says it */
    const char *when;
    FfMarkArg arg[FF_MARK_ARGS];
} FfMarkRow;

/* Ends with a row without a name. */
extern const FfMarkRow ff_marks[];
/* The row of NAME; NULL if there is none. */
const FfMarkRow *ff_mark_row(const char *name);

#endif
