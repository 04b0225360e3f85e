/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whose marks are printed: of all guests of this host, or of those that were named; and which guest
 * an engine works for. One thread.
 */
#ifndef FF_CLI_TRACE_GUESTS_H
#define FF_CLI_TRACE_GUESTS_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct FfTraced FfTraced;

typedef struct {
    pid_t pid;     /* of QEMU */
    char *name;    /* for people */
    guint64 inode; /* of its state memfd */
    bool over;     /* its migration has ended, or its QEMU */
} FfTracedGuest;

/* NAMES (NULL: all guests): -name, process, or path of a QMP socket. NULL and ERROR (one line): one
 * of them is no guest of farfault's here. */
FfTraced *ff_traced_new(char *const *names, GError **error);
void ff_traced_free(FfTraced *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfTraced, ff_traced_free)

/* Those that were named (FfTracedGuest); all: NULL. Borrowed. */
GPtrArray *ff_traced_named(FfTraced *t);
/* All that were named are over. */
bool ff_traced_over(const FfTraced *t);
/* The guest for which process ENGINE (or a relay) works; NULL if it is none whose marks are
 * printed, or (of all guests) nobody knows. Borrowed, until the next call. */
FfTracedGuest *ff_traced_guest(FfTraced *t, pid_t engine);
/* What that process is may change from now on. */
void ff_traced_forget(FfTraced *t, pid_t engine);
bool ff_traced_is_all(const FfTraced *t);

#endif
