/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the tests of benches share: a bench is run once with a small guest, and what it has written
 * is looked at. One thread.
 */
#ifndef FF_BENCH_TEST_RUN_H
#define FF_BENCH_TEST_RUN_H

#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <string.h>

#include "tests/lib/linuxguest.h"

/* FALSE: no guest or no farfault here; skipped. */
bool bench_test_can_run(void);
/* Runs PROGRAM of the build with WORDS; its files go to DIR. The exit status; *SAID: its stdout
 * (g_free). */
int bench_test_run(const char *program, const char *dir, const char *const *words, char **said);
/* The same; SETUP is called in the child before it becomes PROGRAM. */
int bench_test_run_in(GSpawnChildSetupFunc setup, const char *program, const char *dir,
                      const char *const *words, char **said);
/* The lines of results.jsonl: JsonObject. */
GPtrArray *bench_test_results(const char *dir);
/* The figure NAME of O, which must be there. */
double bench_figure(JsonObject *o, const char *name);
/* Results and logs stay in DIR, saved guests do not. Empties and removes it. */
void bench_test_check_folder(const char *dir);

#endif
