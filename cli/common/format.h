/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers for people, and numbers from people. Pure functions; any thread.
 */
#ifndef FF_CLI_COMMON_FORMAT_H
#define FF_CLI_COMMON_FORMAT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* "790.1 MiB". Free with g_free(). */
char *ff_format_bytes(double bytes);
/* "12 ms", "1.23 s", "2 min 5 s". */
char *ff_format_duration(int64_t ms);
/* "64 us", "1.5 ms". */
char *ff_format_us(double us);
/* TEXT, any bytes, as text in HTML and XML. Free with g_free(). */
char *ff_format_markup(const char *text);
/* TEXT, any bytes, as characters that a terminal shows, and nothing else: what is none is "?". For
 * what guests and other hosts say. Free with g_free(). */
char *ff_format_shown(const char *text);
/* Cuts TEXT, valid UTF-8, to what fits into WIDTH columns; returns how many it takes. Letters of
 * Chinese, Japanese and Korean take two each. */
int ff_format_cut(char *text, int width);
/* A size as "64M", "1G", "4096": bytes, suffixes K M G T of 1024. -EINVAL or -ERANGE if not. */
int ff_parse_size(const char *text, uint64_t *bytes);

/*
 * Draws the latency histogram of an "x-farfault" object ("latency-us": [[low, count], ...]) in
 * text, one row for each power of two between the first and the last that occurred. Returns
 * FALSE, having written nothing, if there is none.
 */
bool ff_print_histogram(FILE *out, JsonObject *x_farfault);

/* Bucket I of the histogram LIST, "latency-us": its lower edge (microseconds) and count, 0 or more.
 * FALSE: it is none. */
bool ff_histogram_bucket(JsonArray *list, guint i, gint64 *low, gint64 *count);

/* Of the same histogram: microseconds below which SHARE (0 to 1) of what it counts is, the upper
 * edge of a bucket; 0 if there is none. */
double ff_histogram_quantile(JsonObject *x_farfault, double share);

#endif
