/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status: how a guest and its migration stand, in words. Only asks, changes nothing.
 * One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/halves-report.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/qmp.h"
#include "cli/common/report.h"
#include "cli/common/words.h"
#include "cli/watch/status-guests.h"
#include "cli/watch/watch.h"
#include "qmp/json.h"

#include <stdarg.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* What is asked, in the order of .answer[]. */
static const char *const question[] = {"query-migrate", "query-status", "query-name"};
enum { MIGRATE, STATUS, NAME, QUESTIONS };

static void print_times(JsonObject *info)
{
    gint64 total = ff_json_int(info, "total-time", -1);
    g_autofree char *total_text = total >= 0 ? ff_format_duration(total) : NULL;
    g_autofree char *downtime = ff_words_downtime(info);

    if (total_text) {
        ff_report_row(stdout, "time", "%s", total_text);
    }
    if (downtime) {
        ff_report_row(stdout, "downtime", "%s", downtime);
    }
}

static void print_remaining(JsonObject *info)
{
    JsonObject *ram = ff_json_object(info, "ram");
    gint64 total = ff_json_int(ram, "total", 0);
    gint64 remaining = ff_json_int(ram, "remaining", 0);
    g_autofree char *left = ff_format_bytes(remaining);

    if (total > 0 && remaining > 0) {
        ff_report_row(stdout, "remaining", "%s, %.0f %% done", left,
                      100 * CLAMP(1.0 - (double)remaining / total, 0.0, 1.0));
    }
}

static void print_line(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* Names and errors come from guests and other hosts. */
static void print_line(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *shown = ff_format_shown(text);
    puts(shown);
}

/* The guest has left this QEMU. What QEMU has carried by itself can have gone into a file. */
static void print_moved(FfCliQmp *qmp, const char *address, JsonObject *info)
{
    const char *engine = ff_json_string_or(ff_json_object(info, "x-farfault"), "engine", "qemu");
    g_autofree char *uri = ff_status_moved_to(qmp, address);

    if (!strcmp(engine, "farfault")) {
        print_line(
            "  guest        is at the destination%s%s%s, with all its memory; this QEMU can be "
            "ended",
            uri ? " (" : "", uri ? uri : "", uri ? ")" : "");
    } else {
        print_line(
            "  guest        was sent by QEMU itself: if it was to another QEMU, it is there, and "
            "this one can be ended");
    }
}

/* Its monitor has none of farfault's commands. QEMU answers it, not the engine. */
static bool is_plain(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) list = ff_cli_qmp_call(qmp, "query-commands", NULL, NULL);
    bool plain = ff_json_node_length(list);

    for (guint i = 0; plain && i < ff_json_node_length(list); i++) {
        plain = !g_str_has_prefix(ff_json_string_or(ff_json_node_nth(list, i), "name", ""),
                                  "x-farfault-");
    }
    return plain;
}

static void print_text(FfCliQmp *qmp, const char *address, JsonNode *const answer[])
{
    JsonObject *info = ff_json_node_object(answer[MIGRATE]);
    const char *name = ff_json_string(ff_json_node_object(answer[NAME]), "name");
    const char *state = ff_json_string_or(ff_json_node_object(answer[STATUS]), "status", "unknown");
    const char *status = ff_json_string_or(info, "status", "none");
    const char *why = ff_json_string(info, "error-desc");

    if (answer[STATUS]) {
        print_line("guest%s%s %s (%s, QEMU %s)", name ? " " : "", name ? name : "",
                   ff_words_guest(state, info), state, ff_cli_qmp_version(qmp));
    } else {
        print_line(
            "guest: QEMU %s does not answer, as it may wait for a page itself; its engine does",
            ff_cli_qmp_version(qmp));
    }
    if (answer[STATUS] && !ff_json_object(info, "x-farfault") && is_plain(qmp)) {
        puts("farfault: none: this QEMU was not started by farfault run");
    }
    if (!strcmp(status, "none")) {
        printf("migration: %s\n", ff_words_migration(status, FF_WORDS_MIGRATION));
        return;
    }
    FfWordsKind kind = ff_words_kind(info);
    const char *words = ff_words_migration(status, kind);
    bool same = !strcmp(words, status);
    print_line("%s %s%s%s%s%s%s", ff_words_kind_name(kind), words, same ? "" : " (",
               same ? "" : status, same ? "" : ")", why ? ": " : "", why ? why : "");
    if (kind == FF_WORDS_MIGRATION && !strcmp(status, "completed") &&
        !strcmp(state, "postmigrate")) {
        print_moved(qmp, address, info);
    }
    print_times(info);
    print_remaining(info);
    ff_halves_print(stdout, info, address);
    ff_report_ram(stdout, info);
    ff_report_latency(stdout, info);
}

static void print_json(FfCliQmp *qmp, JsonNode *const answer[])
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    JsonObject *object = json_object_new();
    g_autofree char *text = NULL;

    json_node_take_object(root, object);
    json_object_set_string_member(object, "version", ff_cli_qmp_version(qmp));
    for (int i = 0; i < QUESTIONS; i++) {
        if (answer[i]) {
            json_object_set_member(object, question[i], json_node_copy(answer[i]));
        }
    }
    text = json_to_string(root, FALSE);
    printf("%s\n", text);
}

static int show_status(const char *address, bool json)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(address, NULL, &error);
    JsonNode *answer[QUESTIONS] = {NULL};

    for (int i = 0; qmp && !error && i < QUESTIONS; i++) {
        bool lacks = ff_halves_lack_pages(ff_json_node_object(answer[MIGRATE]));

        if (i != NAME || !lacks) {
            answer[i] = ff_cli_qmp_call(qmp, question[i], NULL, &error);
        }
        if (i == STATUS && lacks) {
            g_clear_error(&error); /* what the engine has said is worth more than that */
        }
    }
    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
    } else if (json) {
        print_json(qmp, answer);
    } else {
        print_text(qmp, address, answer);
    }
    for (int i = 0; i < QUESTIONS; i++) {
        g_clear_pointer(&answer[i], json_node_unref);
    }
    return error ? EXIT_FAILED : EXIT_OK;
}

/* As --watch has it; milliseconds, 0: as the program thinks fit. */
static bool parse_interval(double seconds, unsigned *ms, GError **error)
{
    if (seconds != 0 && !(seconds >= 0.1 && seconds <= 3600)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--interval: give seconds, 0.1 to 3600");
        return false;
    }
    *ms = (unsigned)(1000 * seconds);
    return true;
}

/* PATH can be NULL: nothing is recorded. */
static int watch_them(char **addresses, unsigned ms, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfRecord) record = path ? ff_record_new(path, &error) : NULL;
    int status;

    if (error) {
        fprintf(stderr, "farfault: --record: %s\n", error->message);
        return EXIT_FAILED;
    }
    status = ff_watch(addresses, ms, record);
    if (record && !ff_record_close(record, &error)) {
        fprintf(stderr, "farfault: --record: %s\n", error->message);
    }
    return status;
}

int ff_cli_status(int argc, char **argv)
{
    gboolean help = FALSE, json = FALSE, watch = FALSE;
    double interval = 0;
    g_autofree char *record = NULL;
    unsigned ms = 0;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, NULL, NULL},
        {"watch", 'w', 0, G_OPTION_ARG_NONE, &watch, NULL, NULL},
        {"record", 0, 0, G_OPTION_ARG_FILENAME, &record, NULL, NULL},
        {"interval", 0, 0, G_OPTION_ARG_DOUBLE, &interval, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error) || !parse_interval(interval, &ms, &error)) {
        fprintf(stderr, "farfault: %s (farfault status --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_status, stdout);
        return EXIT_OK;
    }
    guint n = positional ? g_strv_length(positional) : 0;
    if (watch && (n == 1 || n == 2) && !json) {
        return watch_them(positional, ms, record);
    }
    if (n == 0 && !watch && !json && !ms && !record) {
        return ff_status_guests();
    }
    if (n != 1 || watch || ms || record) {
        fprintf(stderr, "farfault: give one QMP address: farfault status QMP; one or two, of "
                        "both sides, with --watch; or none, for all guests of this host\n");
        return EXIT_USAGE;
    }
    return show_status(positional[0], json);
}
