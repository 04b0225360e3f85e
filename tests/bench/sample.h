/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one migration of the bench came to, and the arithmetic on many. Pure; any thread.
 */
#ifndef FF_BENCH_SAMPLE_H
#define FF_BENCH_SAMPLE_H

#include "figures.h"
#include "guest.h"

/* A touch of a page counts as a wait from 2^BENCH_WAIT_BUCKET us on. A present page is touched
 * within a microsecond; ticks of the guest's kernel take up to 32. */
#define BENCH_WAIT_BUCKET 5

/* One that took 2^BENCH_STALL_BUCKET us or longer is a stall: a millisecond. */
#define BENCH_STALL_BUCKET 10

/* A guest is back when it has this share of the speed it had before. */
#define BENCH_RECOVERED 0.9

/* NaN where there is no value. */
typedef struct {
    double total_ms;    /* QEMU's total-time at the source */
    double downtime_ms; /* QEMU's downtime */
    double gap_ms;      /* nobody ran: STOP at the source to RESUME at the destination */
    double stall_ms;    /* the guest's longest step, by its own clock (stands still in the gap) */
    double waits;       /* pages that the guest waited for */
    double wait_mean_us;
    double wait_p50_us, wait_p99_us, wait_p999_us, wait_worst_us; /* upper edges of buckets */
    double engine_mean_us, engine_p99_us; /* farfault's own view; NaN for others */
    double lost_ms; /* of the guest's work, until it is back at BENCH_RECOVERED of its speed */
    double mib;     /* sent, MiB */
    /* Processor time per GiB sent, of all but the vCPUs; see bench_guest_cpu(). */
    double src_cpu, dst_cpu;
    double bad; /* wrong pages that the guest found afterwards */
} BenchSample;

#define BENCH_SAMPLE_FIELDS (sizeof(BenchSample) / sizeof(double))

/* The fields of BenchSample in order. */
extern const BenchColumn bench_column[BENCH_SAMPLE_FIELDS];

/* Waits between two reports of the guest: number, mean (from the middle of each bucket), and
 * percentiles and the longest (upper edges of their buckets). */
void bench_waits(const BenchReport *before, const BenchReport *after, BenchSample *sample);

/* Stalls of the guest between two reports. */
double bench_stalls(const BenchReport *before, const BenchReport *after);

/* How long farfault took for faults: upper edges of buckets; NaN: there were none. */
typedef struct {
    double p50_us, p99_us, worst_us;
} BenchLatency;
/* LIST: x-farfault's latency-us of query-migrate, [[us, count], ...]; NULL: none. */
BenchLatency bench_latency(JsonArray *list);

/* Steps per microsecond over N points. */
double bench_speed(const BenchPoint *point, unsigned n);
/* Which of N points is the first at whose end the guest has its SPEED back; 0: none. */
unsigned bench_recovered(const BenchPoint *point, unsigned n, double speed);
/* Milliseconds of work at SPEED that are missing between two points. */
double bench_lost(const BenchPoint *before, const BenchPoint *after, double speed);

/* The median, field by field, of N samples; NaNs are left out. */
BenchSample bench_median(const BenchSample *sample, unsigned n);

/* One row of the table, or its head if SAMPLE is NULL. */
void bench_print_row(FILE *out, const char *name, const BenchSample *sample);

#endif
