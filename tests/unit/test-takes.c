/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a QEMU takes what the launcher adds: what a stand-in for it (takes-double.c) does, what
 * is made of that, and how often it is started. test-takes DOUBLE.
 */
#include "guest/launch/takes.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *built; /* the stand-in */

/* A copy of it, as another program has another identity; and what it counts in. */
typedef struct {
    char *dir, *qemu, *runs;
} Double;

static void double_init(Double *d)
{
    g_autofree char *program = NULL;
    gsize size;

    d->dir = g_dir_make_tmp("ff-takes-XXXXXX", NULL);
    d->qemu = g_build_filename(d->dir, "qemu", NULL);
    d->runs = g_build_filename(d->dir, "runs", NULL);
    g_assert_true(g_file_get_contents(built, &program, &size, NULL));
    g_assert_true(g_file_set_contents(d->qemu, program, (gssize)size, NULL));
    g_assert_cmpint(chmod(d->qemu, 0755), ==, 0);
    g_setenv("FF_RUNS", d->runs, TRUE);
}

static void double_clear(Double *d)
{
    unlink(d->qemu);
    unlink(d->runs);
    g_assert_cmpint(rmdir(d->dir), ==, 0);
    g_free(d->dir);
    g_free(d->qemu);
    g_free(d->runs);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Double, double_clear)

/* It is asked, and says WHY (a part; NULL: nothing); it has been started N times by now. */
static void check(const Double *d, bool anew, FfTakes takes, const char *why, gsize n)
{
    g_autofree char *text = NULL, *runs = NULL;
    gsize length = 0;

    g_assert_cmpint(ff_takes(d->qemu, anew, &text), ==, takes);
    if (why) {
        g_assert_nonnull(text);
        g_assert_nonnull(strstr(text, why));
        g_assert_null(strchr(text, '\n'));
    } else {
        g_assert_cmpstr(text, ==, NULL);
    }
    g_assert_true(!n || g_file_get_contents(d->runs, &runs, &length, NULL));
    g_assert_cmpuint(length, ==, n);
}

static const struct {
    const char *what;
    FfTakes takes;
    const char *why;
} rows[] = {
    {"refuses", FF_TAKES_NOT, "double: -object x: no such thing"},
    {"refuses without a word", FF_TAKES_NOT, "exit status is 1"},
    {"aborts", FF_TAKES_NOT, "signal 6"},
    {"is killed", FF_TAKES_UNKNOWN, "signal 9"},
    {"is no QEMU", FF_TAKES_UNKNOWN, "does not answer"},
};

static void test_row(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    g_auto(Double) d = {0};

    double_init(&d);
    g_setenv("FF_DOUBLE", rows[i].what, TRUE);
    check(&d, false, rows[i].takes, rows[i].why, 1);
    check(&d, false, rows[i].takes, rows[i].why, 2);
    g_setenv("FF_DOUBLE", "takes", TRUE); /* as if it were another version */
    check(&d, false, FF_TAKES_ALL, NULL, 3);
}

static void test_remembered(void)
{
    g_auto(Double) d = {0};

    if (syscall(SYS_add_key, "user", "farfault:test", "y", 1, KEY_SPEC_USER_KEYRING) < 0) {
        g_test_skip("there is no keyring here");
        return;
    }
    double_init(&d);
    g_setenv("FF_DOUBLE", "takes", TRUE);
    check(&d, false, FF_TAKES_ALL, NULL, 1);
    check(&d, false, FF_TAKES_ALL, NULL, 1);
    check(&d, true, FF_TAKES_ALL, NULL, 2);
    g_setenv("FF_DOUBLE", "refuses", TRUE);
    check(&d, false, FF_TAKES_ALL, NULL, 2);
    check(&d, true, FF_TAKES_NOT, "no such thing", 3);
    /* Written to, or another one in its place. */
    g_assert_cmpint(utimensat(AT_FDCWD, d.qemu, NULL, 0), ==, 0);
    check(&d, false, FF_TAKES_NOT, "no such thing", 4);
}

/* What it starts may be another QEMU the next time. */
static void test_script(void)
{
    g_auto(Double) d = {0};

    double_init(&d);
    g_autofree char *script = g_strdup_printf("#!/bin/sh\nexec '%s' \"$@\"\n", built);
    g_assert_true(g_file_set_contents(d.qemu, script, -1, NULL));
    g_assert_cmpint(chmod(d.qemu, 0755), ==, 0);
    g_setenv("FF_DOUBLE", "takes", TRUE);
    check(&d, false, FF_TAKES_ALL, NULL, 1);
    check(&d, false, FF_TAKES_ALL, NULL, 2);
}

static void test_nothing(void)
{
    g_auto(Double) d = {0};

    double_init(&d);
    g_assert_cmpint(unlink(d.qemu), ==, 0);
    check(&d, false, FF_TAKES_UNKNOWN, "could not be asked", 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    built = argv[1];
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdup_printf("/takes/%s", rows[i].what);

        g_strdelimit(name, " ", '-');
        g_test_add_data_func(name, GUINT_TO_POINTER(i), test_row);
    }
    g_test_add_func("/takes/remembered", test_remembered);
    g_test_add_func("/takes/script", test_script);
    g_test_add_func("/takes/nothing", test_nothing);
    return g_test_run();
}
