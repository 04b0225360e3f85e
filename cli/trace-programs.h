/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The programs of which a guest's engine can be on this host, and where their marks are. One
 * thread.
 */
#ifndef FF_CLI_TRACE_PROGRAMS_H
#define FF_CLI_TRACE_PROGRAMS_H

#include <glib.h>

#include "cli/trace-guests.h"

typedef struct {
    char *name;       /* for people, and to be opened */
    int fd;           /* the file */
    GPtrArray *notes; /* FfNote */
} FfEngineProgram;

/* The installed engine. NULL and ERROR (one line): there is none, or it has no marks. */
FfEngineProgram *ff_engine_program_installed(GError **error);
/* Those that relays keep for the guests of TRACED, or that run for them, and of all guests the
 * installed one as well (FfEngineProgram, freed with the array). NULL and ERROR: none has marks. */
GPtrArray *ff_engine_programs(FfTraced *traced, GError **error);

void ff_engine_program_free(FfEngineProgram *program);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfEngineProgram, ff_engine_program_free)

#endif
