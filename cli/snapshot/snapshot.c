/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault snapshot: its options, and what it prints at the end. The course of the snapshot is in
 * run.c. One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/record-options.h"
#include "cli/common/report.h"
#include "cli/common/restore-hint.h"
#include "cli/snapshot/run.h"
#include "qmp/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* The command line as written. */
typedef struct {
    gboolean help, quiet, compress;
    char *buffer, *format, *bandwidth, *offset, *disks;
    FfRecordOptions keep;
    char **positional;
} Line;

static void line_clear(Line *line)
{
    g_free(line->buffer);
    g_free(line->format);
    g_free(line->bandwidth);
    g_free(line->offset);
    g_free(line->disks);
    ff_record_options_clear(&line->keep);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

static bool parse_line(Line *line, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line->help, NULL, NULL},
        {"buffer", 0, 0, G_OPTION_ARG_STRING, &line->buffer, NULL, NULL},
        {"compress", 0, 0, G_OPTION_ARG_NONE, &line->compress, NULL, NULL},
        {"disks", 0, 0, G_OPTION_ARG_FILENAME, &line->disks, NULL, NULL},
        {"format", 0, 0, G_OPTION_ARG_STRING, &line->format, NULL, NULL},
        {"max-bandwidth", 0, 0, G_OPTION_ARG_STRING, &line->bandwidth, NULL, NULL},
        {"offset", 0, 0, G_OPTION_ARG_STRING, &line->offset, NULL, NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &line->quiet, NULL, NULL},
        {"record", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.record, NULL, NULL},
        {"report", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.report, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &line->positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    return ff_cli_options(entries, argc, argv, error);
}

static bool parse_size(const char *name, const char *text, uint64_t *value, GError **error)
{
    if (text && ff_parse_size(text, value) < 0) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "%s %s: give a number of bytes, as 4096, 64M or 1G", name, text);
        return false;
    }
    return true;
}

static bool usage_error(GError **error, const char *text)
{
    g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, text);
    return false;
}

/* OPTIONS borrows from LINE. Values first: one that was forgotten has become the next word. */
static bool interpret_line(const Line *line, FfTakeOptions *o, GError **error)
{
    uint64_t buffer = 0;

    o->format = line->format ? line->format : "mapped-ram";
    if (strcmp(o->format, "mapped-ram") != 0 && strcmp(o->format, "stream") != 0) {
        return usage_error(error, "--format mapped-ram or --format stream");
    }
    if (!parse_size("--buffer", line->buffer, &buffer, error) ||
        !parse_size("--max-bandwidth", line->bandwidth, &o->bandwidth, error) ||
        !parse_size("--offset", line->offset, &o->offset, error)) {
        return false;
    }
    if (!line->positional || g_strv_length(line->positional) != 2) {
        return usage_error(error, "give a QMP address and a file: farfault snapshot QMP FILE");
    }
    o->address = line->positional[0];
    o->file = line->positional[1];
    if (!*o->file) {
        return usage_error(error, "give a file: its name is empty");
    }
    o->buffer = line->buffer ? (int64_t)buffer : -1;
    o->disks = line->disks;
    o->compress = line->compress;
    if (o->compress && (strcmp(o->format, "mapped-ram") != 0 || o->offset)) {
        return usage_error(error, "--compress is for mapped-ram without --offset");
    }
    if (o->disks && !g_file_test(o->disks, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "--disks %s: %s", o->disks,
                    g_file_test(o->disks, G_FILE_TEST_EXISTS)
                        ? "it is no folder: give one"
                        : "there is no such folder: make it first");
        return false;
    }
    return ff_record_options_check(&line->keep, o->file, error);
}

/* ---- what it came to ------------------------------------------------------------------------- */

static void print_bytes(JsonObject *info)
{
    JsonObject *ram = ff_json_object(info, "ram");
    g_autofree char *written = ff_format_bytes(ff_json_int(ram, "transferred", 0));
    g_autofree char *memory = ff_format_bytes(ff_json_int(ram, "total", 0));

    ff_report_row(stdout, "written", "%s for %s of memory", written, memory);
}

static void print_stood(const FfTakeResult *r, JsonObject *info)
{
    g_autofree char *seen = ff_format_us(r->stood_us);
    g_autofree char *said = ff_format_duration(ff_json_int(info, "downtime", 0));

    if (r->stood_us >= 0) {
        ff_report_row(stdout, "guest stood", "%s", seen);
    } else if (r->was_running) {
        ff_report_row(stdout, "guest stood", "%s", said);
    } else {
        ff_report_row(stdout, "guest stood", "all the time: it was paused, and cont lets it run");
    }
}

static void print_bases(const char *path)
{
    g_autoptr(FfDisksFile) kept = ff_disks_file_read(path, NULL);
    g_auto(GStrv) lines = kept ? ff_restore_hint_disk_lines(kept) : NULL;

    for (char **line = lines; line && *line; line++) {
        ff_report_row(stdout, "base", "%s", *line);
    }
}

static void print_result(const FfTakeOptions *o, const FfTakeResult *r)
{
    JsonObject *info = ff_json_node_object(r->info);
    g_autofree char *total = ff_format_duration(ff_json_int(info, "total-time", 0));
    g_autofree char *folder = o->disks ? g_canonicalize_filename(o->disks, NULL) : NULL;
    FfRestoreHint file = ff_take_file(o, r);
    file.folder = file.folder ? folder : NULL;
    g_autofree char *at_once = ff_restore_hint_command(&file);
    g_auto(GStrv) restore = ff_restore_hint_lines(&file);

    printf("%s: complete\n", r->path);
    ff_report_row(stdout, "total time", "%s", total);
    print_stood(r, info);
    print_bytes(info);
    ff_report_latency(stdout, info);
    if (at_once) {
        if (file.qemu && !file.changes) {
            ff_report_row(stdout, "first", "%s", FF_RESTORE_FIRST);
        }
        ff_report_row(stdout, "restore", "%s", at_once);
        ff_report_row(stdout, "or", "stock QEMU 9.0 or newer: %s", restore[0]);
    } else {
        ff_report_row(stdout, "restore", "%s", restore[0]);
    }
    if (r->manifest) {
        ff_report_row(stdout, "disks", "%s", r->manifest);
        print_bases(r->path);
    }
    if (r->left_out) {
        ff_report_row(stdout, "not in it",
                      "%s: restored over a disk that was written to since, the guest finds it "
                      "changed under its feet; --disks keeps disks as they are now",
                      r->left_out);
    }
    if (r->other) {
        ff_report_row(
            stdout, "not in it",
            "%s (vhost-user): restored over an image that was written to since, the guest finds "
            "its disk changed under its feet",
            r->other);
    }
    /* The last line: a user who misses it starts the guest with images that it has left behind. */
    if (r->disks) {
        printf("%s\n", r->disks);
    }
}

static int take_snapshot(const FfTakeOptions *o, const Line *line)
{
    g_autoptr(FfProgress) progress = ff_progress_new(line->quiet);
    g_auto(FfTakeResult) result = {0};
    g_autoptr(GError) error = NULL;
    bool taken = ff_take_run(o, progress, &result, &error);

    ff_record_options_close(&line->keep, o->record);
    if (!taken) {
        fprintf(stderr, "farfault: %s\n", error->message);
        if (result.disks) {
            fprintf(stderr, "%s\n", result.disks);
        }
        return EXIT_FAILED;
    }
    print_result(o, &result);
    return EXIT_OK;
}

int ff_cli_snapshot(int argc, char **argv)
{
    g_auto(Line) line = {0};
    FfTakeOptions options = {0};
    g_autoptr(GError) error = NULL;

    if (!parse_line(&line, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault snapshot --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (line.help) {
        fputs(ff_help_snapshot, stdout);
        return EXIT_OK;
    }
    if (!interpret_line(&line, &options, &error)) {
        fprintf(stderr, "farfault: %s (farfault snapshot --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (!ff_record_options_open(&line.keep, &options.record, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    int status = take_snapshot(&options, &line);
    ff_record_free(options.record);
    return status;
}
