/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic of the bench. Pure functions; any thread.
 */
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const BenchColumn bench_column[BENCH_SAMPLE_FIELDS] = {
    {"total-ms", "total ms", "%.0f"},
    {"downtime-ms", "down ms", "%.0f"},
    {"gap-ms", "gap ms", "%.1f"},
    {"stall-ms", "stall ms", "%.1f"},
    {"waits", "waits", "%.0f"},
    {"wait-mean-us", "mean us", "%.0f"},
    {"wait-p99-us", "p99 us", "%.0f"},
    {"engine-mean-us", "e.mean us", "%.0f"},
    {"engine-p99-us", "e.p99 us", "%.0f"},
    {"lost-ms", "lost ms", "%.0f"},
    {"mib", "MiB", "%.0f"},
    {"source-cpu-s-per-gib", "s cpu/GiB", "%.2f"},
    {"destination-cpu-s-per-gib", "d cpu/GiB", "%.2f"},
    {"bad", "bad", "%.0f"},
};

void bench_waits(const BenchReport *before, const BenchReport *after, BenchSample *sample)
{
    uint64_t n[BENCH_BUCKETS] = {0}, total = 0, seen = 0;
    double sum = 0;

    for (unsigned b = BENCH_WAIT_BUCKET; b < BENCH_BUCKETS; b++) {
        n[b] = after->hist[b] - MIN(before->hist[b], after->hist[b]);
        total += n[b];
        sum += n[b] * 1.5 * (1ull << b);
    }
    sample->waits = total;
    sample->wait_mean_us = total ? sum / total : NAN;
    sample->wait_p99_us = NAN;
    for (unsigned b = 0; b < BENCH_BUCKETS && total; b++) {
        seen += n[b];
        if (seen * 100 >= total * 99) {
            sample->wait_p99_us = 2.0 * (1ull << b);
            break;
        }
    }
}

double bench_speed(const BenchPoint *point, unsigned n)
{
    return n < 2 ? NAN
                 : (double)(point[n - 1].steps - point[0].steps) / (point[n - 1].us - point[0].us);
}

unsigned bench_recovered(const BenchPoint *point, unsigned n, double speed)
{
    for (unsigned i = 1; i < n; i++) {
        if (bench_speed(&point[i - 1], 2) >= BENCH_RECOVERED * speed) {
            return i;
        }
    }
    return 0;
}

double bench_lost(const BenchPoint *before, const BenchPoint *after, double speed)
{
    return (after->us - before->us - (double)(after->steps - before->steps) / speed) / 1000;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_field(const BenchSample *sample, unsigned n, size_t field)
{
    g_autofree double *value = g_new(double, n);
    unsigned k = 0;

    for (unsigned i = 0; i < n; i++) {
        double v = ((const double *)&sample[i])[field];
        if (!isnan(v)) {
            value[k++] = v;
        }
    }
    if (!k) {
        return NAN;
    }
    qsort(value, k, sizeof(double), compare);
    return k % 2 ? value[k / 2] : (value[k / 2 - 1] + value[k / 2]) / 2;
}

BenchSample bench_median(const BenchSample *sample, unsigned n)
{
    BenchSample median;

    for (size_t f = 0; f < BENCH_SAMPLE_FIELDS; f++) {
        ((double *)&median)[f] = median_field(sample, n, f);
    }
    return median;
}

void bench_print_row(FILE *out, const char *name, const BenchSample *sample)
{
    fprintf(out, "%-18s", name);
    for (size_t f = 0; f < BENCH_SAMPLE_FIELDS; f++) {
        g_autofree char *text = NULL;
        double v = sample ? ((const double *)sample)[f] : NAN;

        if (!sample) {
            text = g_strdup(bench_column[f].title);
        } else if (isnan(v)) {
            text = g_strdup("-");
        } else {
            char number[G_ASCII_DTOSTR_BUF_SIZE];
            text = g_strdup(g_ascii_formatd(number, sizeof(number), bench_column[f].format, v));
        }
        fprintf(out, " %9s", text);
    }
    fputc('\n', out);
}
