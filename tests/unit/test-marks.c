/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The marks of the engine (trace/mark.h): which there are, with how many numbers, is what the table
 * of trace/marks.c and docs/trace.md say, by the notes in its file, as readelf shows them, and as
 * trace/notes.c reads them; and each is a nop there. What one costs with no tracer is measured. And
 * files and lines that are not what a tracer expects.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/mark.h"
#include "trace/marks.h"
#include "trace/notes.h"
#include "trace/tracefs.h"

static const char *engine;

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

static unsigned count_args(const FfMarkRow *row)
{
    unsigned n = 0;

    while (n < FF_MARK_ARGS && row->arg[n].kind != FF_MARK_END) {
        n++;
    }
    return n;
}

/* As docs/trace.md has it (g_free). */
static char *documented(const FfMarkRow *row)
{
    g_autoptr(GString) s = g_string_new(NULL);

    g_string_printf(s, "\n| `%s` | %s | ", row->name, row->when);
    for (unsigned i = 0; i < count_args(row); i++) {
        g_string_append_printf(s, "%s`%s`", i ? " " : "", row->arg[i].name);
    }
    g_string_append(s, " |\n");
    return g_string_free(g_steal_pointer(&s), FALSE);
}

/* What trace/notes.c reads is what readelf reads. */
static void check_read(int fd, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) notes = ff_notes_read(fd, "farfault", &error);

    g_assert_no_error(error);
    g_assert_cmpuint(notes->len, ==, count(text, "Provider: farfault\n"));
    for (guint i = 0; i < notes->len; i++) {
        const FfNote *note = notes->pdata[i];
        g_autofree char *name = g_strdup_printf("Name: %s\n", note->name);
        g_autofree char *args = g_strdup_printf("Arguments: %s", note->operands);
        g_auto(GStrv) operands = g_strsplit(note->operands, " ", -1);
        uint8_t byte;

        g_assert_nonnull(strstr(text, name));
        g_assert_nonnull(strstr(text, args));
        g_assert_cmpint(pread(fd, &byte, 1, note->offset), ==, 1);
        g_assert_cmpuint(byte, ==, 0x90);
        for (unsigned k = 0; operands[k]; k++) {
            g_autofree char *fetch = ff_note_fetch(operands[k]);
            g_assert_nonnull(fetch);
        }
    }
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
    for (unsigned i = 0; ff_marks[i].name; i++) {
        g_autofree char *name = g_strdup_printf("Name: %s\n", ff_marks[i].name);
        g_autofree char *row = documented(&ff_marks[i]);
        const char *note = strstr(text, name);

        if (!note || !strstr(page, row)) {
            g_error("no mark, or not this row of docs/trace.md: %s", row);
        }
        for (; note; note = strstr(note + 1, name), known++) {
            g_auto(GStrv) lines = g_strsplit(note, "\n", 4);
            check_nop(fd, note);
            g_assert_cmpuint(count(lines[2], "8@"), ==, count_args(&ff_marks[i]));
        }
    }
    check_read(fd, text);
    close(fd);
    g_assert_cmpuint(count(text, "Provider: farfault\n"), ==, known);
}

/* Any file: nothing is read where it has nothing, and a size in it is not believed. */
static void test_spoiled(void)
{
    g_autofree char *whole = NULL, *path = NULL;
    g_autoptr(GError) error = NULL;
    gsize len;

    g_file_get_contents(engine, &whole, &len, &error);
    g_assert_no_error(error);
    int fd = g_file_open_tmp("marks-XXXXXX", &path, &error);
    g_assert_no_error(error);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(write(fd, whole, len), ==, (gssize)len);
    for (unsigned round = 0; round < 300; round++) {
        bool header = round < 200;
        uint64_t at = header ? 16 + round % 48 : len - 1 - (uint64_t)round * 7;
        uint8_t byte = round < 100 ? 0xff : (uint8_t)g_test_rand_int();

        g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
        g_autoptr(GPtrArray) notes = ff_notes_read(fd, "farfault", NULL);
        g_assert_cmpint(pwrite(fd, whole + at, 1, at), ==, 1);
    }
    g_autoptr(GPtrArray) notes = ff_notes_read(fd, "farfault", &error);
    g_assert_no_error(error);
    g_assert_cmpuint(notes->len, >, 0);
    g_assert_cmpint(ftruncate(fd, len / 2), ==, 0);
    g_autoptr(GPtrArray) none = ff_notes_read(fd, "farfault", NULL);
    g_assert_true(!none || none->len == 0);
    close(fd);
}

static void test_operands(void)
{
    static const struct {
        const char *operand, *fetch;
    } rows[] = {
        {"8@%rax", "%ax"}, {"8@%r15", "%r15"}, {"8@$-1", "\\-1"},    {"8@$1000000", "\\1000000"},
        {"8@%r16", NULL},  {"4@%eax", NULL},   {"8@-8(%rbp)", NULL}, {"", NULL},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *fetch = ff_note_fetch(rows[i].operand);
        g_assert_cmpstr(fetch, ==, rows[i].fetch);
    }
}

/* As Linux 6.18 writes them, and one of a process with a name of somebody's choice. */
static void test_lines(void)
{
    static const struct {
        const char *line;
        int pid;
        const char *event, *values;
        guint64 lost;
    } rows[] = {
        {"        ff-fault-27883   (  27880) [001] DBZff 57546.338183: wait_begins: "
         "(0x563291fa6398) "
         "block=0 page=7 vcpu=-1",
         27880, "wait_begins", "block=0 page=7 vcpu=-1", 0},
        {"        ff-fault-27883   (-------) [001] 57546.338183: pass: (0x1) pass=1", 0, "pass",
         "pass=1", 0},
        {" a-1 (  2) [3] x-27883   (  27880) [001] DBZff 57546.338183: x: (0x1)", 27880, "x", "",
         0},
        {"CPU:1 [LOST 12 EVENTS]", 0, NULL, NULL, 12},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(FfTraceLine) line = {0};

        g_assert_true(ff_trace_line(rows[i].line, &line));
        g_assert_cmpint(line.pid, ==, rows[i].pid);
        g_assert_cmpstr(line.event, ==, rows[i].event);
        g_assert_cmpstr(line.values, ==, rows[i].values);
        g_assert_cmpuint(line.lost, ==, rows[i].lost);
        g_assert_cmpstr(line.time, ==, rows[i].event ? "57546.338183" : NULL);
    }
    g_auto(FfTraceLine) none = {0};
    g_assert_false(ff_trace_line("# tracer: nop", &none));
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
    g_test_add_func("/marks/spoiled", test_spoiled);
    g_test_add_func("/marks/operands", test_operands);
    g_test_add_func("/marks/lines", test_lines);
    g_test_add_func("/marks/cost", test_cost);
    return g_test_run();
}
