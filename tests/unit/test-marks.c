/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The marks of the engine (base/trace-mark.h): which there are, with how many numbers, is what
 * docs/trace.md says, by the notes in its file, as readelf shows them; each has its probe in
 * examples/trace.bt; and each is a nop. What one costs with no tracer is measured.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace-mark.h"

static const char *engine;

/* What readelf says of its notes (g_free); NULL: skipped. */
static char *read_notes(void)
{
    g_autofree char *readelf = g_find_program_in_path("readelf");
    const char *argv[] = {readelf, "-nW", engine, NULL};
    g_autoptr(GError) error = NULL;
    char *out = NULL;
    int status;

#ifndef FF_HAVE_SDT
    g_test_skip("built without marks: install systemtap-sdt-dev");
    return NULL;
#endif
    if (!readelf) {
        g_test_skip("there is no readelf: install binutils");
        return NULL;
    }
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out, NULL,
                 &status, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    return out;
}

static unsigned count(const char *text, const char *of)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, of)); p += strlen(of)) {
        n++;
    }
    return n;
}

/* The instruction there. In these files code has the same place in the file as in memory, but for
 * whole pages. */
static void check_nop(int fd, const char *note)
{
    const char *at = strstr(note, "Location: ");
    uint8_t byte = 0;

    g_assert_nonnull(at);
    g_assert_cmpint(pread(fd, &byte, 1, strtoull(at + strlen("Location: "), NULL, 16)), ==, 1);
    g_assert_cmpuint(byte, ==, 0x90);
}

static char *read_file(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GError) error = NULL;
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, &error);
    g_assert_no_error(error);
    return text;
}

/* All notes of mark NAME, which has N numbers. Returns how many there are. */
static unsigned check_notes(const char *text, const char *name, unsigned n, int fd)
{
    g_autofree char *line = g_strdup_printf("Name: %s\n", name);
    unsigned found = 0;

    for (const char *note = strstr(text, line); note; note = strstr(note + 1, line), found++) {
        g_auto(GStrv) lines = g_strsplit(note, "\n", 4);

        check_nop(fd, note);
        g_assert_cmpuint(count(lines[2], "@"), ==, n);
    }
    return found;
}

/* "| `pass` | when | `pass` |" of the page, row by row. */
static void test_notes(void)
{
    g_autofree char *text = read_notes();
    g_autofree char *page = read_file(g_test_get_dir(G_TEST_DIST), "trace.md");
    g_autofree char *script = read_file(g_test_get_dir(G_TEST_DIST), "../examples/trace.bt");
    g_auto(GStrv) lines = g_strsplit(page, "\n", -1);
    unsigned known = 0, rows = 0;

    if (!text) {
        return;
    }
    int fd = open(engine, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) cells = g_strsplit(*line, " | ", 3);

        if (!g_str_has_prefix(*line, "| `") || g_strv_length(cells) != 3) {
            continue;
        }
        g_autofree char *name = g_strndup(cells[0] + 3, strcspn(cells[0] + 3, "`"));
        g_autofree char *probe = g_strdup_printf("usdt:$1:farfault:%s\n{", name);
        unsigned notes = check_notes(text, name, count(cells[2], "`") / 2, fd);

        g_assert_cmpuint(notes, ==, 1); /* perf takes one place of a name */
        g_assert_nonnull(strstr(script, probe));
        known += notes;
        rows++;
    }
    close(fd);
    g_assert_cmpuint(count(script, "usdt:$1:"), ==, rows);
    g_assert_cmpuint(count(text, "Provider: farfault\n"), ==, known);
}

static void test_cost(void)
{
    const unsigned n = 1000000;
    double with = 1e9, without = 1e9;

    for (unsigned round = 0; round < 20; round++) {
        gint64 begin = g_get_monotonic_time();
        for (unsigned i = 0; i < n; i++) {
            __asm__ volatile("" : : "r"(i));
        }
        gint64 middle = g_get_monotonic_time();
        for (unsigned i = 0; i < n; i++) {
            __asm__ volatile("" : : "r"(i));
            FF_MARK3(test, i, n, round);
        }
        without = MIN(without, (middle - begin) * 1000.0 / n);
        with = MIN(with, (g_get_monotonic_time() - middle) * 1000.0 / n);
    }
    g_test_message("a mark costs %.2f ns", with - without);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    engine = g_getenv("FF_ENGINE");
    g_assert_nonnull(engine);
    g_test_add_func("/marks/notes", test_notes);
    g_test_add_func("/marks/cost", test_cost);
    return g_test_run();
}
