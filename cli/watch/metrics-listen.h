/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Answers HTTP requests for /metrics. One thread: the main loop of the default context.
 */
#ifndef FF_CLI_WATCH_METRICS_LISTEN_H
#define FF_CLI_WATCH_METRICS_LISTEN_H

#include <gio/gio.h>
#include <stdbool.h>

/* The page as it is now (g_free). OPEN: OpenMetrics. */
typedef char *FfMetricsPage(bool open, void *opaque);

/* What ADDRESS ("PORT" on 127.0.0.1, "HOST:PORT", "[HOST]:PORT"; numbers alone) means. NULL and
 * ERROR: nothing. */
GSocketAddress *ff_metrics_address(const char *address, GError **error);

/* Listens at ADDRESS, says so on stderr, and answers with PAGE until the process ends. PAGE is
 * called once a second at most, however many ask. Returns FALSE with ERROR if it cannot listen. */
bool ff_metrics_listen(const char *address, FfMetricsPage *page, void *opaque, GError **error);

/* The answer to REQUEST, the head of an HTTP request (g_free). */
char *ff_metrics_answer(const char *request, FfMetricsPage *page, void *opaque);

#endif
