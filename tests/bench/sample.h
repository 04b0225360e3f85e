/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one migration of the bench came to, and the arithmetic on many. Pure; any thread.
 */
#ifndef FF_BENCH_SAMPLE_H
#define FF_BENCH_SAMPLE_H

#include "figures.h"
#include "guest.h"

/* A touch that took 2^BENCH_STALL_BUCKET us or longer is a stall: a millisecond. */
#define BENCH_STALL_BUCKET 10

/* A guest is back when it has this share of the speed it had before. */
#define BENCH_RECOVERED 0.9

/* NaN where there is no value. */
typedef struct {
    double total_ms;    /* QEMU's total-time at the source */
    double downtime_ms; /* QEMU's downtime */
    double gap_ms;      /* nobody ran: STOP at the source to RESUME at the destination */
    double stall_ms;    /* the guest's longest step, by its own clock (stands still in the gap) */
    double waits;       /* touches of 32 us and longer; a tick of the guest's kernel takes less */
    double wait_mean_us;
    double wait_p50_us, wait_p99_us, wait_p999_us, wait_worst_us; /* see bench_waits() */
    double engine_mean_us, engine_p99_us; /* farfault's own view; NaN for others */
    double lost_ms;      /* of the guest's work, until it is back at BENCH_RECOVERED of its speed */
    double lost_bound;   /* 1: it was not back yet, and .lost_ms is what was lost until then */
    double lost_soon_ms; /* of its work until BENCH_SOON_US after the end; see bench_lost_soon() */
    double mib;          /* sent, MiB */
    /* Processor time per GiB sent, of all but the vCPUs; see bench_guest_cpu(). */
    double src_cpu, dst_cpu;
    double bad; /* wrong pages that the guest found afterwards */
} BenchSample;

#define BENCH_SAMPLE_FIELDS (sizeof(BenchSample) / sizeof(double))

/* The fields of BenchSample in order. */
extern const BenchColumn bench_column[BENCH_SAMPLE_FIELDS];

/* How long SHARE of all waits took at most, to 0.8 %; NaN: there are none. */
double bench_wait_rank(const Durations *waits, double share);
/* The figures of waits: number, mean and worst as they were, percentiles by bench_wait_rank(). */
void bench_waits(const Durations *waits, BenchSample *sample);

/* Stalls of the guest between two reports. */
double bench_stalls(const BenchReport *before, const BenchReport *after);

/* How long farfault took for faults: upper edges of buckets; NaN: there were none. */
typedef struct {
    double p50_us, p99_us, worst_us;
} BenchLatency;
/* LIST: x-farfault's latency-us of query-migrate, [[us, count], ...]; NULL: none. */
BenchLatency bench_latency(JsonArray *list);

/* N points of a guest that did not stand still between them, .us as each came: as each was made
 * from now on. The host's time of it is known from the one that came fastest. */
void bench_points_made(BenchPoint *point, unsigned n);
/* Steps per microsecond of the guest's clock over N points. */
double bench_speed(const BenchPoint *point, unsigned n);
/* Which of N points is the first at whose end the guest has its SPEED back; 0: none. */
unsigned bench_recovered(const BenchPoint *point, unsigned n, double speed);
/* Milliseconds of work at SPEED that are missing between two points, where the guest stood still,
 * and its clock with it, for STOOD_MS. */
double bench_lost(const BenchPoint *before, const BenchPoint *after, double speed, double stood_ms);

/* So many reports after the end of a migration its guest is given up. */
#define BENCH_PATIENCE 20
/* Of N points at the destination, the first SINCE of which came before the migration had ended:
 * TRUE when the guest has its SPEED back, or is given up. */
bool bench_lost_known(const BenchPoint *point, unsigned n, unsigned since, double speed);
/* From N points of the source and AFTER_N of the destination: .lost_ms, .lost_bound; STOOD_MS as
 * above. */
void bench_take_lost(const BenchPoint *before, unsigned n, const BenchPoint *after,
                     unsigned after_n, double stood_ms, BenchSample *sample);

/* What slows a guest down that was back soon counts for so long after the end of a migration. */
#define BENCH_SOON_US 2500000
/* Milliseconds of work that are missing between the host's times START_US and END_US, at the speed
 * of the BENCH_SOON_US before START_US. N POINTs of source and destination, in order, whose steps
 * go on from one to the other; NaN: fewer than two. */
double bench_lost_soon(const BenchPoint *point, unsigned n, int64_t start_us, int64_t end_us);

/* All NaN. */
void bench_sample_clear(BenchSample *sample);

/* One row of the table, or its head if SAMPLE is NULL. */
void bench_print_row(FILE *out, const char *name, const BenchSample *sample);

#endif
