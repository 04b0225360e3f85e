/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests and their totals as metrics, in Prometheus' text format or as OpenMetrics. Pure functions;
 * any thread.
 */
#ifndef FF_CLI_WATCH_METRICS_TEXT_H
#define FF_CLI_WATCH_METRICS_TEXT_H

#include "guest/launch/guests.h"

/* Version of the text format, as HTTP names it. */
#define FF_METRICS_TEXT "text/plain; version=0.0.4; charset=utf-8"
#define FF_METRICS_OPEN "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* GUESTS: of FfHostGuest. OPEN: OpenMetrics, which ends with "# EOF"; else the text format 0.0.4,
 * which node_exporter's textfile collector reads (g_free). */
char *ff_metrics_text(const GPtrArray *guests, bool open);

#endif
