/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault migrate: its options, and what it prints at the end. The course of the migration is
 * in run.c, what comes before it in prepare.c. One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/record-options.h"
#include "cli/common/report.h"
#include "cli/migrate/run.h"
#include "qmp/json.h"

#include <gio/gio.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_PAUSED, EXIT_LEFT };

/* The command line as written. */
typedef struct {
    gboolean help, now, after_pass, precopy, preempt, no_cont, resume, quiet, json;
    gint timeout;
    char *after, *bandwidth, *postcopy_bandwidth, *listen, *connect;
    FfRecordOptions keep;
    char **parameters, **capabilities, **positional;
} Line;

static void line_clear(Line *line)
{
    g_free(line->after);
    g_free(line->bandwidth);
    g_free(line->postcopy_bandwidth);
    g_free(line->listen);
    g_free(line->connect);
    ff_record_options_clear(&line->keep);
    g_strfreev(line->parameters);
    g_strfreev(line->capabilities);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

static bool parse_line(Line *line, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line->help, NULL, NULL},
        {"postcopy-now", 0, 0, G_OPTION_ARG_NONE, &line->now, NULL, NULL},
        {"postcopy-after-pass", 0, 0, G_OPTION_ARG_NONE, &line->after_pass, NULL, NULL},
        {"postcopy-after", 0, 0, G_OPTION_ARG_STRING, &line->after, NULL, NULL},
        {"precopy", 0, 0, G_OPTION_ARG_NONE, &line->precopy, NULL, NULL},
        {"uri", 0, 0, G_OPTION_ARG_STRING, &line->listen, NULL, NULL},
        {"connect", 0, 0, G_OPTION_ARG_STRING, &line->connect, NULL, NULL},
        {"bandwidth", 0, 0, G_OPTION_ARG_STRING, &line->bandwidth, NULL, NULL},
        {"postcopy-bandwidth", 0, 0, G_OPTION_ARG_STRING, &line->postcopy_bandwidth, NULL, NULL},
        {"preempt", 0, 0, G_OPTION_ARG_NONE, &line->preempt, NULL, NULL},
        {"parameter", 0, 0, G_OPTION_ARG_STRING_ARRAY, &line->parameters, NULL, NULL},
        {"capability", 0, 0, G_OPTION_ARG_STRING_ARRAY, &line->capabilities, NULL, NULL},
        {"no-cont", 0, 0, G_OPTION_ARG_NONE, &line->no_cont, NULL, NULL},
        {"resume", 0, 0, G_OPTION_ARG_NONE, &line->resume, NULL, NULL},
        {"timeout", 0, 0, G_OPTION_ARG_INT, &line->timeout, NULL, NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &line->quiet, NULL, NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &line->json, NULL, NULL},
        {"report", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.report, NULL, NULL},
        {"record", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.record, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &line->positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    return ff_cli_options(entries, argc, argv, error);
}

static bool usage_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool usage_error(GError **error, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, text);
    return false;
}

static bool parse_after(const char *text, FfMoveOptions *o, GError **error)
{
    g_autofree char *digits = g_strdup(text);
    gsize length = strlen(digits);
    guint64 value;

    o->mode = FF_MOVE_AFTER_PASSES;
    if (length > 1 && digits[length - 1] == 's') {
        digits[length - 1] = 0;
        o->mode = FF_MOVE_AFTER_SECONDS;
    }
    if (!g_ascii_string_to_unsigned(digits, 10, 1, G_MAXINT32, &value, NULL)) {
        return usage_error(
            error, "--postcopy-after %s: give a number of passes, or seconds as \"5s\"", text);
    }
    o->after = value;
    return true;
}

static bool parse_mode(const Line *line, FfMoveOptions *o, GError **error)
{
    if (line->now + line->after_pass + line->precopy + (line->after != NULL) > 1) {
        return usage_error(error, "give one of --postcopy-now, --postcopy-after-pass, "
                                  "--postcopy-after and --precopy");
    }
    if (line->precopy && line->preempt) {
        return usage_error(error, "--preempt is for postcopy and means nothing with --precopy");
    }
    if (line->after) {
        return parse_after(line->after, o, error);
    }
    o->mode = line->precopy      ? FF_MOVE_PRECOPY
              : line->after_pass ? FF_MOVE_AFTER_PASSES
                                 : FF_MOVE_NOW;
    o->after = 1;
    return true;
}

static bool parse_bandwidth(const char *name, const char *text, uint64_t *value, GError **error)
{
    if (text && (ff_parse_size(text, value) < 0 || !*value)) {
        return usage_error(error, "%s %s: give bytes per second, as 100M or 1G", name, text);
    }
    return true;
}

/* NAME=VALUE (or NAME alone, if ALONE) with a name that is not empty. */
static bool check_pairs(const char *option, char **pairs, bool alone, GError **error)
{
    for (char **p = pairs; p && *p; p++) {
        const char *equals = strchr(*p, '=');

        if (!**p || equals == *p || (!equals && !alone)) {
            return usage_error(error, "%s %s: give NAME%s", option, *p,
                               alone ? "[=off]" : "=VALUE");
        }
    }
    return true;
}

/* What was asked for when the migration began stays. */
static bool check_resume(const Line *line, GError **error)
{
    if (line->now || line->after_pass || line->precopy || line->after || line->bandwidth ||
        line->postcopy_bandwidth || line->preempt || line->parameters || line->capabilities ||
        line->no_cont) {
        return usage_error(error,
                           "--resume continues a migration as it was begun: of the other options "
                           "only --uri, --connect, --timeout, --quiet, --json, --report and "
                           "--record go with it");
    }
    return true;
}

static bool parse_values(const Line *line, FfMoveOptions *o, GError **error)
{
    if (line->timeout < 0) {
        return usage_error(error, "--timeout %d: give a number of seconds", line->timeout);
    }
    return parse_mode(line, o, error) &&
           parse_bandwidth("--bandwidth", line->bandwidth, &o->bandwidth, error) &&
           parse_bandwidth("--postcopy-bandwidth", line->postcopy_bandwidth, &o->postcopy_bandwidth,
                           error) &&
           check_pairs("--parameter", line->parameters, false, error) &&
           check_pairs("--capability", line->capabilities, true, error);
}

/* OPTIONS borrows from LINE. An option whose value was forgotten has taken an address for it: so
 * values come first. */
static bool interpret_line(const Line *line, FfMoveOptions *o, GError **error)
{
    if (!parse_values(line, o, error)) {
        return false;
    }
    if (!line->positional || g_strv_length(line->positional) != 2) {
        return usage_error(error, "give two QMP addresses: farfault migrate SRC-QMP DST-QMP");
    }
    if (!strcmp(line->positional[0], line->positional[1])) {
        return usage_error(error, "source and destination are the same monitor: %s",
                           line->positional[0]);
    }
    o->source = line->positional[0];
    o->destination = line->positional[1];
    o->listen = line->listen;
    o->connect = line->connect;
    o->parameters = line->parameters;
    o->capabilities = line->capabilities;
    o->preempt = line->preempt;
    o->no_cont = line->no_cont || line->resume;
    o->resume = line->resume;
    o->timeout = line->timeout;
    return (!line->resume || check_resume(line, error)) &&
           ff_record_options_check(&line->keep, NULL, error);
}

/* TRUE if the engine carries this guest's precopy. */
static bool is_always_ours(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) lent = ff_cli_qmp_call(qmp, "x-farfault-lend", NULL, NULL);
    JsonArray *options = ff_json_array(ff_json_node_object(lent), "options");

    for (guint i = 0; options && i < json_array_get_length(options); i++) {
        if (!g_strcmp0(json_array_get_string_element(options, i), "--policy=always")) {
            return true;
        }
    }
    return false;
}

/* A fault of QEMU's (docs/precopy.md). */
static void warn_of_lost_writes(FfCliQmp *qmp)
{
    const char *version = ff_cli_qmp_version(qmp);

    if (!version || !g_str_has_prefix(version, "7.2.")) {
        return;
    }
    g_autoptr(JsonNode) kvm = ff_cli_qmp_call(qmp, "query-kvm", NULL, NULL);
    JsonObject *answer = ff_json_node_object(kvm);

    if (answer && !ff_json_bool(answer, "enabled") && !is_always_ours(qmp)) {
        fprintf(stderr,
                "farfault: warning: QEMU 7.2 under TCG loses writes of the guest in its own "
                "precopy: leave out --precopy, or use a newer QEMU\n");
    }
}

static int move_guest(const FfMoveOptions *o, const Line *line)
{
    static const int status[] = {EXIT_OK, EXIT_FAILED, EXIT_FAILED, EXIT_PAUSED, EXIT_LEFT};
    g_autoptr(FfProgress) progress = ff_progress_new(line->quiet);
    g_auto(FfMoveEnds) ends = {0};
    g_auto(FfMoveResult) result = {0};
    g_autoptr(GError) error = NULL;

    bool ready =
        o->resume ? ff_resume_prepare(o, &ends, &error) : ff_move_prepare(o, &ends, &error);
    if (ready && o->mode == FF_MOVE_PRECOPY && !o->resume) {
        warn_of_lost_writes(ends.src);
    }
    if (!ready || !ff_move_run(o, &ends, progress, &result, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    if (o->record) {
        g_autoptr(JsonObject) object = ff_report_object(&result);

        ff_record_result(o->record, object);
        ff_record_options_close(&line->keep, o->record);
    }
    if (line->json) {
        ff_report_json(stdout, &result);
    } else {
        ff_report_text(stdout, &result);
    }
    return status[result.outcome];
}

int ff_cli_migrate(int argc, char **argv)
{
    g_auto(Line) line = {0};
    FfMoveOptions options = {0};
    g_autoptr(GError) error = NULL;

    if (!parse_line(&line, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault migrate --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (line.help) {
        fputs(ff_help_migrate, stdout);
        return EXIT_OK;
    }
    if (!interpret_line(&line, &options, &error)) {
        fprintf(stderr, "farfault: %s (farfault migrate --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (!ff_record_options_open(&line.keep, &options.record, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    int status = move_guest(&options, &line);
    ff_record_free(options.record);
    return status;
}
