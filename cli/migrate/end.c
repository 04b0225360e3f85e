/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault end: ends the QEMU of a paused destination, when the user has said that its guest may be
 * lost; and says what is. One thread, on the default main context.
 */
#include <stdio.h>
#include <string.h>

#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/qmp.h"
#include "qmp/json.h"

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* What there is of the guest, and where. */
static void print_loss(FILE *out, JsonObject *info, bool over)
{
    JsonObject *own = ff_json_object(info, "x-farfault"), *half = ff_json_object(own, "half");
    gint64 here = ff_json_int(half, "pages-destination", -1);
    gint64 total = ff_json_int(half, "pages-total", 0);
    const char *is = over ? "was" : "is";
    g_autofree char *pages =
        here < 0 ? g_strdup("those of its pages that have come")
                 : g_strdup_printf("%" G_GINT64_FORMAT " of its %" G_GINT64_FORMAT " pages", here,
                                   total);

    fprintf(out,
            "%s: the guest: it %s here alone, with %s, and all that it did since it began to run "
            "here\n",
            over ? "lost" : "to be lost", is, pages);
    if (ff_json_object(own, "restore")) {
        fprintf(out, "left: the file that it was restored from, from which it can be restored "
                     "again\n");
    } else if (ff_json_bool(half, "peer-ended")) {
        fprintf(out, "left: nothing, unless the source was dumped: its QEMU has ended\n");
    } else {
        fprintf(out,
                "left: what the source keeps, its memory as it was at the switch (farfault dump "
                "there; quit ends it)\n");
    }
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    if (!event) {
        g_main_loop_quit(opaque); /* QEMU has ended, and its monitor with it */
    }
}

static bool end_it(FfCliQmp *qmp, GError **error)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    JsonObject *args = json_object_new();

    json_object_set_boolean_member(args, "lose-guest", TRUE);
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(qmp, "x-farfault-end", args, error);

    if (answer) {
        ff_cli_qmp_listen(qmp, on_event, loop);
        g_main_loop_run(loop);
    }
    return answer || g_error_matches(*error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
}

static int end_destination(const char *address, bool lose)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(address, "destination", &error);
    g_autoptr(JsonNode) answer = qmp ? ff_cli_qmp_call(qmp, "query-migrate", NULL, &error) : NULL;
    JsonObject *info = ff_json_node_object(answer);
    JsonObject *half = ff_json_object(ff_json_object(info, "x-farfault"), "half");
    bool paused = !strcmp(ff_json_string_or(info, "status", ""), "postcopy-paused");
    bool has_guest = paused && ff_json_bool(half, "may-run") &&
                     !strcmp(ff_json_string_or(half, "role", ""), "destination");

    if (has_guest && !lose) {
        print_loss(stderr, info, false);
        fprintf(stderr,
                "farfault: nothing was done. To keep the guest: farfault status %s says how to go "
                "on; to end it: farfault end --lose-guest %s\n",
                address, address);
        return EXIT_FAILED;
    }
    if (!answer || !end_it(qmp, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    printf("this QEMU has ended\n");
    print_loss(stdout, info, true);
    return EXIT_OK;
}

int ff_cli_end(int argc, char **argv)
{
    gboolean help = FALSE, lose = FALSE;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"lose-guest", 0, 0, G_OPTION_ARG_NONE, &lose, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault end --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_end, stdout);
        return EXIT_OK;
    }
    if (!positional || g_strv_length(positional) != 1) {
        fputs("farfault: give the destination's monitor: farfault end [--lose-guest] QMP\n",
              stderr);
        return EXIT_USAGE;
    }
    return end_destination(positional[0], lose);
}
