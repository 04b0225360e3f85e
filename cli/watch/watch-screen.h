/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What farfault status --watch shows, as text. Pure functions; any thread.
 */
#ifndef FF_CLI_WATCH_WATCH_SCREEN_H
#define FF_CLI_WATCH_WATCH_SCREEN_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "cli/common/rate.h"

/* One monitor. All text is QEMU's, or a user's: it may have any bytes. */
typedef struct {
    const char *address;
    const char *why;            /* it cannot be asked any more; NULL: it can */
    const char *version, *name; /* can be NULL */
    const char *state;          /* of query-status; NULL: not known yet */
    JsonObject *info;           /* of query-migrate; NULL: not known yet */
    FfRate pace;
} FfWatchSide;

typedef struct {
    const FfWatchSide *side; /* [n] */
    unsigned n;              /* 1 or 2 */
    gint64 ms;               /* since the display began */
    const GPtrArray *events; /* char *: lines, oldest first */
    const char *how;         /* when it asks again */
} FfWatchView;

/* Lines, each at most COLUMNS wide and ended by a newline; at most ROWS of them (0: any number).
 * COLOR: with SGR sequences, which count as nothing (g_free). */
char *ff_watch_screen(const FfWatchView *view, int columns, int rows, bool color);
/* The same in one line without an end, without colour (g_free). */
char *ff_watch_line(const FfWatchView *view);
/* "source", "destination", or "guest" where that cannot be told. */
const char *ff_watch_role(const FfWatchSide *side);
/* query-migrate's status; "none". */
const char *ff_watch_status(const FfWatchSide *side);

#endif
