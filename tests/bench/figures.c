/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See figures.h. */
#include "figures.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_rank(const double *row, unsigned n, size_t columns, size_t column, double rank)
{
    g_autofree double *value = g_new(double, n);
    unsigned k = 0;

    for (unsigned i = 0; i < n; i++) {
        double v = row[i * columns + column];
        if (!isnan(v)) {
            value[k++] = v;
        }
    }
    if (!k) {
        return NAN;
    }
    qsort(value, k, sizeof(*value), compare);
    double place = rank * (k - 1);
    unsigned below = (unsigned)place, above = MIN(below + 1, k - 1);
    return value[below] + (place - below) * (value[above] - value[below]);
}

void bench_rank_row(const double *row, unsigned n, size_t columns, double rank, double *ranked)
{
    for (size_t c = 0; c < columns; c++) {
        ranked[c] = bench_rank(row, n, columns, c, rank);
    }
}

double bench_hist_edge(const uint64_t *hist, unsigned n, double share)
{
    uint64_t total = 0, seen = 0;

    for (unsigned b = 0; b < n; b++) {
        total += hist[b];
    }
    for (unsigned b = 0; b < n && total; b++) {
        seen += hist[b];
        if ((double)seen >= share * (double)total) {
            return ldexp(2, (int)b);
        }
    }
    return NAN;
}

/* (g_free) */
static char *text_of(const BenchColumn *column, const double *value, bool least)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    if (!value || isnan(*value)) {
        return g_strdup(value ? "-" : column->title);
    }
    g_ascii_formatd(number, sizeof(number), column->format, *value);
    return g_strdup_printf("%s%s", least ? ">=" : "", number);
}

void bench_print_figures(FILE *out, const char *name, const BenchColumn *column, size_t columns,
                         const double *row)
{
    fprintf(out, "%-20s", name);
    for (size_t c = 0; c < columns; c++) {
        bool least = row && c + 1 < columns && column[c + 1].bound && row[c + 1] > 0;
        g_autofree char *text = text_of(&column[c], row ? &row[c] : NULL, least);

        if (!column[c].bound) {
            fprintf(out, " %9s", text);
        }
    }
    fputc('\n', out);
}

/* What is known of a round to be at least so much is no more than VALUE: it may be beyond it. */
static bool is_bound(const double *row, unsigned n, size_t columns, size_t column, double value)
{
    bool found = false;

    for (unsigned i = 0; i < n; i++) {
        const double *r = &row[i * columns + column];
        found = found || (r[0] > 0 && r[-1] <= value);
    }
    return found;
}

static void rank_columns(const BenchColumn *column, size_t columns, const double *row, unsigned n,
                         double rank, double *ranked)
{
    for (size_t c = 0; c < columns; c++) {
        ranked[c] = column[c].bound
                        ? is_bound(row, n, columns, c, ranked[c - 1])
                        : bench_rank(row, n, columns, c, column[c].more ? 1 - rank : rank);
    }
}

char *bench_name(const char *name, unsigned taken, unsigned rounds)
{
    return taken < rounds ? g_strdup_printf("%s (%u of %u)", name, taken, rounds) : g_strdup(name);
}

void bench_print_ranks(FILE *out, const BenchColumn *column, size_t columns, const double *row,
                       unsigned rounds, unsigned n, const char *const *name, const unsigned *taken)
{
    static const struct {
        const char *name;
        double rank;
    } lines[] = {{"median", 0.5}, {"p99", 0.99}, {"worst", 1}};
    g_autofree double *ranked = g_new(double, columns);

    for (unsigned l = 0; l < G_N_ELEMENTS(lines); l++) {
        fprintf(out, "%s of %u\n", lines[l].name, rounds);
        for (unsigned i = 0; i < n; i++) {
            g_autofree char *text = bench_name(name[i], taken[i], rounds);

            rank_columns(column, columns, &row[(size_t)i * rounds * columns], taken[i],
                         lines[l].rank, ranked);
            bench_print_figures(out, text, column, columns, ranked);
        }
    }
    fflush(out);
}

void bench_figures_to_json(JsonObject *o, const BenchColumn *column, size_t columns,
                           const double *row)
{
    for (size_t c = 0; c < columns; c++) {
        if (!isnan(row[c])) {
            json_object_set_double_member(o, column[c].name, row[c]);
        }
    }
}
