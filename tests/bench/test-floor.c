/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor of a link, over loopback: each case has a line with all its requests, what is asked of
 * the bulk socket holds, and options that cannot be are refused. One thread.
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/lib/vm.h"

#define MAXSEG 1000
#define PACING 400 /* Mbit/s */

/* The exit status; *OUT: its stdout (g_free). */
static int run(const char *const *words, char **out)
{
    g_autofree char *floor = vm_build_path("tests/bench/farfault-link-floor");
    const char *fixed[] = {floor, "--requests", "100", "--rounds", "2", "--pause", "200", NULL};
    g_autoptr(GStrvBuilder) argv = g_strv_builder_new();
    g_autoptr(GError) error = NULL;
    int status;

    g_strv_builder_addv(argv, fixed);
    g_strv_builder_addv(argv, (const char **)words);
    g_auto(GStrv) all = g_strv_builder_end(argv);
    g_spawn_sync(NULL, all, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, out, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

typedef struct {
    double n, mean, p50, p99, p999, worst, mbit, mss;
} Row;

/* The line of case NAME; without bulk the last two stay 0. */
static Row row_of(const char *out, const char *name)
{
    g_autofree char *key = g_strdup_printf("\n%s ", name);
    const char *at = strstr(out, key);
    Row r = {0};

    if (!at) {
        test_fail("no line of %s in:\n%s", name, out);
    }
    g_assert_cmpint(sscanf(at + strlen(key), "%lf %lf %lf %lf %lf %lf %lf %lf", &r.n, &r.mean,
                           &r.p50, &r.p99, &r.p999, &r.worst, &r.mbit, &r.mss),
                    >=, 6);
    g_assert_cmpfloat(r.n, ==, 200);
    g_assert_cmpfloat(r.mean, >, 0);
    g_assert_cmpfloat(r.mean, <=, r.worst);
    g_assert_cmpfloat(r.p50, >, 0);
    g_assert_cmpfloat(r.p99, >=, r.p50);
    g_assert_cmpfloat(r.p999, >=, r.p99);
    g_assert_cmpfloat(r.worst, >=, r.p999);
    return r;
}

static void test_cases(void)
{
    static const char *const words[] = {"--maxseg", G_STRINGIFY(MAXSEG), "--pacing",
                                        G_STRINGIFY(PACING), NULL};
    g_autofree char *out = NULL;

    g_assert_cmpint(run(words, &out), ==, 0);
    g_assert_cmpfloat(row_of(out, "alone").mbit, ==, 0);
    Row bulk = row_of(out, "bulk"), lowat = row_of(out, "lowat");
    Row maxseg = row_of(out, "lowat+maxseg"), pacing = row_of(out, "lowat+pacing");
    Row all = row_of(out, "lowat+maxseg+pacing");
    g_assert_cmpfloat(bulk.mbit, >, 0);
    g_assert_cmpfloat(lowat.mss, >, MAXSEG);
    g_assert_cmpfloat(maxseg.mss, <=, MAXSEG);
    g_assert_cmpfloat(pacing.mbit, <, 1.2 * PACING);
    g_assert_cmpfloat(all.mbit, <, 1.2 * PACING);
    g_assert_cmpfloat(all.mss, <=, MAXSEG);
}

static void test_without(void)
{
    static const char *const none[] = {NULL};
    g_autofree char *out = NULL;

    g_assert_cmpint(run(none, &out), ==, 0);
    row_of(out, "lowat");
    row_of(out, "lowat+window");
    g_assert_null(strstr(out, "lowat+maxseg"));
    g_assert_null(strstr(out, "lowat+pacing"));
}

static void test_refused(void)
{
    static const char *const words[][3] = {{"--requests", "0"},
                                           {"--lowat", "0"},
                                           {"--source-netns", "nowhere"},
                                           {"--pause", "-1"},
                                           {"--nothing"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        g_autofree char *out = NULL;
        g_assert_cmpint(run(words[i], &out), ==, 2);
        g_assert_cmpstr(out, ==, "");
    }
    static const char *const unknown[] = {"--congestion", "nobody", NULL};
    g_autofree char *out = NULL;
    g_assert_cmpint(run(unknown, &out), ==, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/floor/cases", test_cases);
    g_test_add_func("/bench/floor/without", test_without);
    g_test_add_func("/bench/floor/refused", test_refused);
    return g_test_run();
}
