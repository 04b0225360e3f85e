/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows of figures: a struct of doubles with a column for each, in order; NaN where there is no
 * value. Pure; any thread.
 */
#ifndef FF_BENCH_FIGURES_H
#define FF_BENCH_FIGURES_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    const char *name, *title, *format; /* in JSON; over the table; as for g_ascii_formatd() */
    bool more;                         /* more is better */
    /* Not in the table: above 0 the column before it is what it is at least, and so written there.
     */
    bool bound;
} BenchColumn;

/* Of N rows of COLUMNS doubles each, one column: RANK 0 is the least value, 0.5 the median, 1 the
 * largest; between two of them in proportion. NaNs are left out; NaN: there is no other. */
double bench_rank(const double *row, unsigned n, size_t columns, size_t column, double rank);
/* The same for each column, into RANKED. */
void bench_rank_row(const double *row, unsigned n, size_t columns, double rank, double *ranked);

/* Of a histogram by powers of two (N counts of [2^i, 2^(i+1))): the upper edge of the bucket in
 * which SHARE of all values is reached; NaN: it is empty. */
double bench_hist_edge(const uint64_t *hist, unsigned n, double share);

/* One row of the table, or its head if ROW is NULL. */
void bench_print_figures(FILE *out, const char *name, const BenchColumn *column, size_t columns,
                         const double *row);
/* NAME (g_free); where only TAKEN of ROUNDS rounds have figures it says so. */
char *bench_name(const char *name, unsigned taken, unsigned rounds);
/* Median, p99 and worst of N rows of names, of each of which the first TAKEN of ROUNDS rows at ROW
 * are there: what failed has none, and is said beside the name. The worst is the least where more
 * is better. */
void bench_print_ranks(FILE *out, const BenchColumn *column, size_t columns, const double *row,
                       unsigned rounds, unsigned n, const char *const *name, const unsigned *taken);
/* The values that there are, as members of O. */
void bench_figures_to_json(JsonObject *o, const BenchColumn *column, size_t columns,
                           const double *row);

#endif
