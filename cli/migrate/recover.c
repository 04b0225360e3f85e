/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault recover: a paused destination continues from the dump of a source that is gone, and the
 * command ends when every page is there, or when it is paused again.
 *
 * One thread, on the default main context. The client's settings are not touched, so there may be
 * no MIGRATION events: query-migrate is asked in turn.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/progress.h"
#include "cli/common/qmp.h"
#include "cli/common/words.h"
#include "qmp/json.h"

#define LOOK_MS 200

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

typedef struct {
    FfCliQmp *qmp;
    FfProgress *progress;
    GMainLoop *loop;
    const char *path;
    gint64 missing; /* bytes, at the first look; 0: none yet */
    gint64 shown_us;
    int status;
} Watch;

static void finish_watch(Watch *w, int status)
{
    w->status = status;
    g_main_loop_quit(w->loop);
}

static gboolean look_at_status(gpointer opaque);

/* A destination has no "ram": what is to come from the dump takes its place. */
static void show_progress(Watch *w, JsonObject *info)
{
    JsonObject *half = ff_json_object(ff_json_object(info, "x-farfault"), "half");
    gint64 left = ff_json_int(half, "bytes-missing", w->missing); /* not known: as if none came */
    g_autoptr(JsonObject) line = json_object_new();
    JsonObject *ram = json_object_new();

    w->missing = MAX(w->missing, left);
    json_object_set_int_member(ram, "total", w->missing);
    json_object_set_int_member(ram, "remaining", left);
    json_object_set_int_member(ram, "transferred", w->missing - left);
    json_object_set_object_member(line, "ram", ram);
    json_object_set_string_member(line, "status", ff_json_string_or(info, "status", ""));
    ff_progress_update(w->progress, line);
}

static void on_info(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Watch *w = opaque;
    JsonObject *info = ff_json_node_object(result);
    const char *status = ff_json_string_or(info, "status", "");
    gint64 now = g_get_monotonic_time();

    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
        finish_watch(w, EXIT_FAILED);
    } else if (!strcmp(status, "completed")) {
        ff_progress_say(w->progress, true,
                        "recovered: every page is there, and %s is not needed any more", w->path);
        finish_watch(w, EXIT_OK);
    } else if (!strcmp(status, "postcopy-paused") && ff_json_string_or(info, "error-desc", NULL)) {
        ff_progress_clear(w->progress);
        g_autofree char *why = ff_format_shown(ff_json_string_or(info, "error-desc", ""));

        fprintf(stderr, "farfault: %s\n", why);
        finish_watch(w, EXIT_FAILED);
    } else if (ff_words_over(status)) { /* it was given up */
        ff_progress_clear(w->progress);
        g_autofree char *why =
            ff_format_shown(ff_json_string_or(info, "error-desc", "it does not say why"));

        fprintf(stderr, "farfault: not recovered: the destination's migration is \"%s\": %s\n",
                status, why);
        finish_watch(w, EXIT_FAILED);
    } else {
        if (now - w->shown_us >= ff_progress_interval(w->progress) * G_TIME_SPAN_MILLISECOND) {
            show_progress(w, info);
            w->shown_us = now;
        }
        g_timeout_add(LOOK_MS, look_at_status, w);
    }
}

static gboolean look_at_status(gpointer opaque)
{
    Watch *w = opaque;

    ff_cli_qmp_send(w->qmp, "query-migrate", NULL, on_info, w);
    return G_SOURCE_REMOVE;
}

static int recover_guest(const char *address, const char *path, bool quiet)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(address, "destination", &error);
    g_autoptr(FfProgress) progress = ff_progress_new(quiet);
    g_autofree char *uri = g_strconcat("file:", path, NULL);
    g_autoptr(JsonNode) answer = NULL;
    Watch w = {.qmp = qmp, .progress = progress, .path = path};

    if (qmp) {
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "uri", uri);
        answer = ff_cli_qmp_call(qmp, "migrate-recover", args, &error);
    }
    if (!answer) {
        /* Its host's files are to be seen here. QEMU may have said that nothing is to be recovered.
         */
        bool missing = qmp && !ff_cli_qmp_host(qmp) && access(path, F_OK) < 0 && errno == ENOENT;

        if (missing) {
            fprintf(stderr,
                    "farfault: --from %s: No such file or directory: give the folder of the "
                    "source's dump, or the file of the restored guest (%s)\n",
                    path, error->message);
        } else {
            fprintf(stderr, "farfault: %s\n", error->message);
        }
        return EXIT_FAILED;
    }
    w.loop = g_main_loop_new(NULL, FALSE);
    look_at_status(&w);
    g_main_loop_run(w.loop);
    g_main_loop_unref(w.loop);
    return w.status;
}

int ff_cli_recover(int argc, char **argv)
{
    gboolean help = FALSE, quiet = FALSE;
    g_autofree char *from = NULL;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"from", 0, 0, G_OPTION_ARG_FILENAME, &from, NULL, NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault recover --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_recover, stdout);
        return EXIT_OK;
    }
    if (!from || !positional || g_strv_length(positional) != 1) {
        fputs("farfault: give the source's dump and the destination's monitor: "
              "farfault recover --from DIRECTORY QMP\n",
              stderr);
        return EXIT_USAGE;
    }
    g_autofree char *path = g_canonicalize_filename(from, NULL);
    return recover_guest(positional[0], path, quiet);
}
