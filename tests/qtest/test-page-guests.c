/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page of a real migration and of a real snapshot: its numbers are those of query-migrate, and
 * a browser shows it without a word of complaint (headless Chromium, where there is one).
 * FF_PICTURES names a folder for the page and pictures of it.
 */
#include <ftw.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define RAM_MIB 64
#define RAM ((uint64_t)RAM_MIB << 20)

static const char *const args[] = {"-machine", "pc", "-smp", "2", NULL};

static Vm *start(VmLauncher launcher, const BootsectConfig *boot, const char *incoming)
{
    return vm_start(&(VmConfig){.name = "shown",
                                .launcher = launcher,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming,
                                .listens = true});
}

/* Runs ARGV (NULL-terminated; argv[0] is not a path: it is farfault's). Returns its status, *ERR
 * what it said (g_free). */
static int cli(char **err, const char *command, ...)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL;
    const char *word;
    va_list words;
    int status;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)command);
    va_start(words, command);
    do {
        word = va_arg(words, const char *);
        g_ptr_array_add(argv, (char *)word);
    } while (word);
    va_end(words);
    g_spawn_sync(NULL, (char **)argv->pdata, NULL, 0, NULL, NULL, &out, err, &status, &error);
    g_assert_no_error(error);
    g_test_message("%s%s", out, *err);
    return g_spawn_check_wait_status(status, &error) ? 0 : error->code;
}

static char *content(const char *path)
{
    g_autoptr(GError) error = NULL;
    char *text = NULL;

    g_file_get_contents(path, &text, NULL, &error);
    g_assert_no_error(error);
    return text;
}

/* Each number of INFO is in PAGE, under its name. Returns how many there were. */
static unsigned check_numbers(const char *page, const char *path, JsonObject *info)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;
    unsigned n = 0;

    json_object_iter_init(&iter, info);
    while (json_object_iter_next(&iter, &name, &node)) {
        g_autofree char *inner = g_strconcat(path, ".", name, NULL);

        if (JSON_NODE_HOLDS_OBJECT(node)) {
            n += check_numbers(page, inner, json_node_get_object(node));
        } else {
            g_autofree char *value = !strcmp(name, "latency-mean-us")
                                         ? g_strdup_printf("%.1f", json_node_get_double(node))
                                         : json_to_string(node, FALSE);
            g_autofree char *text = g_markup_escape_text(value, -1);
            g_autofree char *cell = g_strdup_printf("<td id=\"%s\">%s</td>", inner, text);
            /* A browser says its tree with fewer escapes. */
            g_autofree char *plain = g_strdup_printf("<td id=\"%s\">%s</td>", inner, value);

            if (!strstr(page, cell) && !strstr(page, plain)) {
                test_fail("no %s on the page", cell);
            }
            n++;
        }
    }
    return n;
}

static void check_side(const char *page, Vm *vm, const char *side)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    g_assert_cmpuint(check_numbers(page, side, info), >, 8);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

/* What Chromium makes of the page at PATH (g_free); NULL: there is none. It must say nothing. */
static char *browse(Vm *vm, const char *path, const char *more, const char *dark)
{
    g_autofree char *chromium = g_find_program_in_path("chromium");
    g_autofree char *profile = vm_path(vm, "profile");
    g_autofree char *folder = g_strconcat("--user-data-dir=", profile, NULL);
    g_autofree char *url = g_strconcat("file://", path, NULL);
    g_autoptr(GError) error = NULL;
    char *out = NULL;
    g_autofree char *err = NULL;
    char *argv[] = {chromium,
                    (char *)"--headless",
                    (char *)"--no-sandbox",
                    (char *)"--disable-gpu",
                    (char *)"--disable-dev-shm-usage",
                    (char *)"--enable-logging=stderr",
                    (char *)"--window-size=1040,2450",
                    (char *)"--hide-scrollbars",
                    (char *)dark,
                    folder,
                    (char *)more,
                    url,
                    NULL};
    int status;

    if (!chromium) {
        return NULL;
    }
    g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, &err, &status, &error);
    g_assert_no_error(error);
    nftw(profile, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (status || strstr(err, "CONSOLE")) {
        test_fail("chromium: status %d: %s", status, err);
    }
    return out;
}

/* The page at PATH, of TEXT, is right, and a browser shows the same; without one see
 * test_browser(). */
static void check_page(Vm *vm, const char *path, const char *text, const char *side)
{
    g_autofree char *tree = browse(vm, path, "--dump-dom", "--lang=en");

    check_side(text, vm, side);
    if (tree) {
        check_side(tree, vm, side);
    }
}

/* What the other cases leave out. */
static void test_browser(void)
{
    g_autofree char *chromium = g_find_program_in_path("chromium");

    if (!chromium) {
        g_test_skip("there is no chromium (Debian's package chromium): the pages are read as text");
    }
}

static void take_pictures(Vm *vm, const char *page, const char *name)
{
    static const char *const modes[] = {"light", "dark"};
    const char *folder = g_getenv("FF_PICTURES");

    for (unsigned i = 0; folder && i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *shot =
            g_strdup_printf("--screenshot=%s/%s-%s.png", folder, name, modes[i]);
        g_autofree char *said = browse(vm, page, shot,
                                       i ? "--blink-settings=preferredColorScheme=0"
                                         : "--blink-settings=preferredColorScheme=1");
    }
}

static bool skipped(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return true;
    }
    return false;
}

static void test_migration(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start(VM_RUN, &boot, NULL);
    g_autoptr(Vm) destination = start(VM_RUN, &boot, "defer");
    g_autofree char *a = vm_path(source, "server"), *b = vm_path(destination, "server");
    g_autofree char *record = vm_path(source, "record"), *page = vm_path(source, "page.html");
    g_autofree char *later = vm_path(source, "later.html");
    g_autofree char *err = NULL, *said = NULL;

    vm_wait_serial(source, "AB");
    g_assert_cmpint(cli(&err, "migrate", "--postcopy-after-pass", "--bandwidth", "32M",
                        "--postcopy-bandwidth", "16M", "--quiet", "--record", record, "--report",
                        page, a, b, NULL),
                    ==, 0);
    g_autofree char *text = content(page);
    check_side(text, source, "source");
    check_side(text, destination, "destination");
    static const char *const pictures[] = {"timeline",  "blackout", "remaining", "rate",
                                           "rate-bulk", "faults",   "latency",   "pages"};
    for (unsigned i = 0; i < G_N_ELEMENTS(pictures); i++) {
        g_autofree char *figure = g_strdup_printf("<figure id=\"%s\">", pictures[i]);
        if (!strstr(text, figure)) {
            test_fail("no %s", figure);
        }
    }
    /* The same from the record, and nothing that is there is written over. */
    g_assert_cmpint(cli(&said, "report", record, later, NULL), ==, 0);
    g_autofree char *text_later = content(later);
    g_assert_cmpstr(text, ==, text_later);
    g_autofree char *refused = NULL;
    g_assert_cmpint(cli(&refused, "migrate", "--record", record, b, a, NULL), ==, 1);
    g_assert_nonnull(strstr(refused, "is there already"));

    const char *folder = g_getenv("FF_PICTURES");
    if (folder) {
        g_autofree char *kept = g_build_filename(folder, "report.html", NULL);

        g_file_set_contents(kept, text, -1, NULL);
    }
    g_autofree char *tree = browse(source, page, "--dump-dom", "--lang=en");
    if (tree) {
        check_side(tree, source, "source");
        check_side(tree, destination, "destination");
        take_pictures(source, page, "report");
    }
    move_check_guest(source, destination, &boot, RAM);
}

/* QEMU's own, which knows less: what is there is shown. */
static void test_stock(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start(VM_PLAIN, &boot, NULL);
    g_autoptr(Vm) destination = start(VM_PLAIN, &boot, "defer");
    g_autofree char *a = vm_path(source, "server"), *b = vm_path(destination, "server");
    g_autofree char *page = vm_path(source, "page.html");
    g_autofree char *err = NULL;

    vm_wait_serial(source, "AB");
    g_assert_cmpint(cli(&err, "migrate", "--postcopy-after-pass", "--bandwidth", "32M", "--quiet",
                        "--report", page, a, b, NULL),
                    ==, 0);
    g_autofree char *text = content(page);
    check_page(source, page, text, "source");
    g_assert_nonnull(strstr(text, "<figure id=\"timeline\">"));
    g_assert_nonnull(strstr(text, "<figure id=\"rate\">"));
    g_assert_null(strstr(text, "<figure id=\"latency\">"));
}

/* By farfault status --watch, which records whatever happens. */
static void test_snapshot(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) vm = start(VM_RUN, &boot, NULL);
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *monitor = vm_path(vm, "server"), *file = vm_path(vm, "file");
    g_autofree char *record = vm_path(vm, "record"), *page = vm_path(vm, "page.html");
    g_autofree char *said = NULL;
    g_autoptr(GError) error = NULL;

    vm_wait_serial(vm, "AB");
    qmp_set_capability(vm_qmp(vm), "events", true);
    g_autoptr(GSubprocess) watch =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE, &error, farfault, "status", "--watch",
                         "--interval", "0.1", "--record", record, monitor, NULL);
    g_assert_no_error(error);
    g_autoptr(GDataInputStream) lines =
        g_data_input_stream_new(g_subprocess_get_stdout_pipe(watch));
    g_autofree char *first = g_data_input_stream_read_line(lines, NULL, NULL, NULL);
    g_assert_nonnull(first);
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s', 'max-bandwidth': 33554432}", file);
    qmp_expect_migration(vm_qmp(vm), "completed");
    for (char *line; (line = g_data_input_stream_read_line(lines, NULL, NULL, NULL));) {
        g_free(line);
    }
    g_subprocess_wait(watch, NULL, NULL);
    g_assert_cmpint(g_subprocess_get_exit_status(watch), ==, 0);
    g_assert_cmpint(cli(&said, "report", record, page, NULL), ==, 0);
    g_autofree char *text = content(page);
    g_assert_nonnull(strstr(text, "<title>Live snapshot of shown</title>"));
    check_page(vm, page, text, "source");
}

/* By the command itself; then the guest that it saved comes back, with a page of that. */
static void test_commands(void)
{
    if (skipped()) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) vm = start(VM_RUN, &boot, NULL);
    g_autofree char *monitor = vm_path(vm, "server"), *file = vm_path(vm, "file");
    g_autofree char *page = vm_path(vm, "page.html"), *record = vm_path(vm, "record");
    g_autofree char *restored = vm_path(vm, "restored.html");
    g_autofree char *option = g_strconcat("--report=", restored, NULL);
    g_autofree char *err = NULL, *again = NULL, *nowhere = NULL, *same = NULL;

    vm_wait_serial(vm, "AB");
    g_assert_cmpint(cli(&err, "snapshot", "--quiet", "--max-bandwidth", "32M", "--report", page,
                        "--record", record, monitor, file, NULL),
                    ==, 0);
    g_autofree char *text = content(page);
    g_assert_nonnull(strstr(text, "<title>Live snapshot of shown</title>"));
    check_page(vm, page, text, "source");
    /* Of one that never began there is no page, and no record in the way of the next. */
    unlink(page);
    unlink(record);
    g_assert_cmpint(cli(&again, "snapshot", "--quiet", "--report", page, "--record", record,
                        monitor, file, NULL),
                    ==, 1);
    g_assert_false(g_file_test(page, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(record, G_FILE_TEST_EXISTS));
    g_assert_cmpint(
        cli(&nowhere, "snapshot", "--report", "/nowhere/page.html", monitor, file, NULL), ==, 1);
    /* The page is not written over the guest. */
    g_assert_cmpint(cli(&same, "snapshot", "--report", file, monitor, file, NULL), ==, 2);
    g_assert_nonnull(strstr(same, "that is the guest's own file"));
    g_assert_nonnull(strstr(nowhere, "--report /nowhere/page.html: /nowhere: No such file"));

    g_autoptr(Vm) back = vm_start(&(VmConfig){.name = "back",
                                              .launcher = VM_RUN,
                                              .qemu = "qemu-system-x86_64",
                                              .memory = G_STRINGIFY(RAM_MIB) "M",
                                              .args = args,
                                              .boot = &boot,
                                              .restore = file,
                                              .restore_option = option,
                                              .listens = true});
    vm_wait_stderr(back, "all of it here after");
    g_autofree char *of_restore = content(restored);
    check_page(back, restored, of_restore, "destination");
    g_assert_nonnull(strstr(of_restore, "<figure id=\"timeline\">"));
    g_assert_null(strstr(of_restore, "bulk channels"));
    g_assert_null(strstr(of_restore, ">source<"));
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *its_monitor = vm_path(back, "server"), *words = NULL;
    char *argv[] = {farfault, (char *)"status", its_monitor, NULL};
    g_assert_true(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &words, NULL, NULL, NULL));
    g_assert_nonnull(strstr(words, "\nrestore completed\n"));
    g_assert_null(strstr(words, "bulk"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-guests/browser", test_browser);
    g_test_add_func("/page-guests/migration", test_migration);
    g_test_add_func("/page-guests/stock", test_stock);
    g_test_add_func("/page-guests/snapshot", test_snapshot);
    g_test_add_func("/page-guests/commands", test_commands);
    return g_test_run();
}
