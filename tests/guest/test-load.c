/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The init program of the guest with a database, run on the host: it works, its verdict is right,
 * and a row that is not what it was is found. (The compiler is in the guest only: test-moves.)
 */
#include <glib/gstdio.h>

#include "tests/guest/run.h"

static void remove_folder(char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
}

static void test_database(gconstpointer damage)
{
    /* Rows that are no whole number of the transactions by which they are added. */
    const char *options[] = {"ff.mode=database", "ff.mib=5", NULL};
    char *dir = g_dir_make_tmp("load-XXXXXX", NULL);
    GuestRun m = guest_run_start("tests/guest/load", dir, options);
    g_autofree char *ready = guest_run_line(&m, "FF ready");
    g_assert_cmpuint(guest_run_number(ready, "pages"), ==, 1280);
    g_autofree char *first = guest_run_line(&m, "FF t=");
    g_autofree char *second = guest_run_line(&m, "FF t=");
    g_assert_cmpuint(guest_run_number(second, "writes"), >, guest_run_number(first, "writes"));
    g_assert_cmpuint(guest_run_number(second, "bad"), ==, 0);
    guest_run_key(&m, "w");
    g_free(guest_run_line(&m, "FF waits hist="));
    g_autofree char *waits = guest_run_line(&m, "FF waits n=");
    g_assert_cmpuint(guest_run_number(waits, "n"), >, 0);
    if (damage) {
        guest_run_key(&m, "x");
    }
    guest_run_key(&m, "v");
    g_autofree char *verdict = guest_run_line(&m, "FF verdict");
    g_assert_true(g_str_has_prefix(verdict, damage ? "FF verdict bad " : "FF verdict ok "));
    guest_run_key(&m, "q");
    g_assert_cmpint(guest_run_end(&m), ==, 0);
    remove_folder(dir);
}

static void test_options(void)
{
    static const struct {
        const char *option, *error;
    } rows[] = {
        {"ff.mib=0", "FF error: ff.mib= is no number"},
        {"ff.mode=zigzag", "FF error: ff.mode=zigzag is unknown; known: database, compile"},
        {"ff.mode=compile", "FF error: no /compiler: "},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *options[] = {"ff.mib=1", rows[i].option, NULL};
        char *dir = g_dir_make_tmp("load-XXXXXX", NULL);
        GuestRun m = guest_run_start("tests/guest/load", dir, options);
        g_free(guest_run_line(&m, rows[i].error));
        g_assert_cmpint(guest_run_end(&m), ==, 2);
        remove_folder(dir);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/load/database", NULL, test_database);
    g_test_add_data_func("/load/damage", "", test_database);
    g_test_add_func("/load/options", test_options);
    return g_test_run();
}
