/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the page's text and its pictures share: the record, read once into moments and samples. One
 * thread.
 */
#ifndef FF_CLI_COMMON_PAGE_INTERNAL_H
#define FF_CLI_COMMON_PAGE_INTERNAL_H

#include "cli/common/record.h"
#include "cli/common/words.h"

/* An event. */
typedef struct {
    double ms; /* since the begin; by QEMU's clock where both sides share it */
    FfSide side;
    const char *name, *status; /* STATUS: of MIGRATION, else NULL */
    gint64 pass;               /* of MIGRATION_PASS; -1 */
} FfMoment;

/* An answer to query-migrate. */
typedef struct {
    double ms;
    FfSide side;
    JsonObject *info;
} FfSample;

typedef struct {
    const FfRecord *record;
    GArray *moments, *samples;  /* FfMoment, FfSample, by time */
    JsonObject *last[FF_SIDES]; /* answers; NULL: none */
    double end_ms;              /* of what is shown */
    double stop_ms, resume_ms;  /* the blackout's; -1: not seen */
    FfWordsKind kind;
} FfPageData;

/* page-charts.c: each appends an SVG, or nothing if there is nothing to show. */
void ff_chart_timeline(GString *out, const FfPageData *d);
void ff_chart_blackout(GString *out, const FfPageData *d);
void ff_chart_remaining(GString *out, const FfPageData *d);
void ff_chart_rate(GString *out, const FfPageData *d);
void ff_chart_faults(GString *out, const FfPageData *d);
void ff_chart_places(GString *out, const FfPageData *d);
void ff_chart_latency(GString *out, const FfPageData *d);
void ff_chart_pages(GString *out, const FfPageData *d);

#endif
