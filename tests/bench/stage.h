/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a bench works that has one QEMU at a time: its results, the place of the monitor's socket,
 * and an end by a signal that leaves nothing behind. One for a process; one thread, the default
 * main context.
 */
#ifndef FF_BENCH_STAGE_H
#define FF_BENCH_STAGE_H

#include <stdbool.h>
#include <stdio.h>

typedef struct {
    FILE *json;         /* results.jsonl, to which is added */
    char *qmp;          /* path */
    char *run_dir;      /* of it, made here */
    void (*tidy)(void); /* removes what the bench alone knows of; all its QEMUs have ended */
} BenchStage;

/* OUT: the folder of the results. FALSE: it cannot be written to, which stderr says. */
bool bench_stage_open(BenchStage *stage, const char *out, void (*tidy)(void));
/* Ends what was started, and tidies. Nothing happens if it is not open. */
void bench_stage_close(BenchStage *stage);

#endif
