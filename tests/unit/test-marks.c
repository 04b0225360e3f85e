/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The marks of the engine (trace/mark.h): which there are, with how many numbers, is what
 * docs/trace.md says, by the notes in its file, as readelf shows them; and each is a nop there.
 * What one costs with no tracer is measured.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/mark.h"

static const char *engine;

static const struct {
    const char *name;
    unsigned numbers;
} marks[] = {
    {"status", 3},     {"phase", 3},          {"pass", 1},        {"resumed", 1},
    {"page_asked", 3}, {"pages_answered", 2}, {"wait_begins", 3}, {"wait_ends", 3},
};

/* What readelf says of its notes (g_free); NULL: there is no readelf, skipped. */
static char *read_notes(void)
{
    g_autofree char *readelf = g_find_program_in_path("readelf");
    const char *argv[] = {readelf, "-n", engine, NULL};
    g_autoptr(GError) error = NULL;
    char *out = NULL;
    int status;

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

static void test_notes(void)
{
    g_autofree char *text = read_notes();
    g_autofree char *path = g_test_build_filename(G_TEST_DIST, "trace.md", NULL), *page = NULL;
    g_autoptr(GError) error = NULL;
    unsigned known = 0;

    if (!text) {
        return;
    }
    g_file_get_contents(path, &page, NULL, &error);
    g_assert_no_error(error);
    int fd = open(engine, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(marks); i++) {
        g_autofree char *name = g_strdup_printf("Name: %s\n", marks[i].name);
        g_autofree char *row = g_strdup_printf("\n| `%s` |", marks[i].name);
        const char *note = strstr(text, name);

        if (!note || !strstr(page, row)) {
            g_error("no mark, or no row of docs/trace.md: %s", marks[i].name);
        }
        for (; note; note = strstr(note + 1, name), known++) {
            g_auto(GStrv) lines = g_strsplit(note, "\n", 4);
            check_nop(fd, note);
            g_assert_cmpuint(count(lines[2], "8@"), ==, marks[i].numbers);
        }
    }
    close(fd);
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
