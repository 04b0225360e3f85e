/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitor of one QEMU of the bench: its commands, and its events in order. One thread, the
 * default main context, which runs while one of these waits.
 */
#ifndef FF_BENCH_MONITOR_H
#define FF_BENCH_MONITOR_H

#include "qmp/client.h"

typedef struct {
    FfQmpClient *qmp;
    FfQmpWatch *events; /* all of them, from the connection on */
} BenchMonitor;

/* PATH: its socket, which is there. */
bool bench_monitor_open(BenchMonitor *m, const char *path, GError **error);
void bench_monitor_clear(BenchMonitor *m);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BenchMonitor, bench_monitor_clear)

/* Waits for the answer. ARGS is taken; can be NULL. FD goes with it; -1: none. */
bool bench_monitor_command(BenchMonitor *m, const char *name, JsonObject *args, int fd,
                           GError **error);
/* Switches the capability NAME on. */
bool bench_monitor_set_capability(BenchMonitor *m, const char *name, GError **error);
/* query-migrate; json_node_unref(). */
JsonNode *bench_monitor_query(BenchMonitor *m, GError **error);
/* WHAT has STATUS, which is its end: ERROR says that, and why. */
void bench_monitor_set_failure(BenchMonitor *m, const char *what, const char *status,
                               GError **error);

/* When QEMU sent EVENT: its clock, which is the host's real time, us. */
double bench_event_us(JsonObject *event);
/* The status that EVENT, if it is one of MIGRATION, says; else NULL. Borrowed. */
const char *bench_event_status(JsonObject *event);

#endif
