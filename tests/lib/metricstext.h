/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A checker of pages of metrics, after the two formats' specifications; it shares nothing with what
 * writes them. One thread.
 */
#ifndef FF_TESTS_METRICSTEXT_H
#define FF_TESTS_METRICSTEXT_H

#include <stdbool.h>

/* What is wrong with TEXT (OPEN: as OpenMetrics), one line (g_free); NULL: nothing. */
char *metrics_check(const char *text, bool open);
/* The value of the sample whose name and labels are exactly SERIES; fails the test if there is
 * none. */
double metrics_value(const char *text, const char *series);
/* There is a sample whose name and labels begin with SERIES. */
bool metrics_has(const char *text, const char *series);
/* What `promtool check metrics` says of TEXT, which is the text format (g_free); NULL: nothing.
 * *THERE: there is a promtool, in PATH or at FF_PROMTOOL. */
char *metrics_promtool(const char *text, bool *there);

#endif
