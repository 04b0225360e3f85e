/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault metrics: what the guests of this host have done, for Prometheus. Once to stdout or into
 * a file, or to any client that asks over HTTP. Guests are found and read by guest/launch/guests.c;
 * no guest is asked. One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/write-file.h"
#include "cli/watch/metrics-listen.h"
#include "cli/watch/metrics-text.h"

#include <errno.h>
#include <stdio.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static char *make_page(bool open, void *opaque)
{
    g_autoptr(GPtrArray) guests = ff_guests_find();

    /* A guest that has a front is counted where it is. */
    for (guint i = guests->len; i-- > 0;) {
        if (((FfHostGuest *)guests->pdata[i])->front) {
            g_ptr_array_remove_index(guests, i);
        }
    }
    return ff_metrics_text(guests, open);
}

/* PATH: NULL: stdout. A collector may read it at any moment. */
static int print_metrics(const char *path, bool open)
{
    g_autofree char *text = make_page(open, NULL);
    g_autoptr(GError) error = NULL;

    if (path && !ff_write_file(path, text, &error)) {
        fprintf(stderr, "farfault: --output: %s\n", error->message);
        return EXIT_FAILED;
    }
    if (!path && (fputs(text, stdout) < 0 || fflush(stdout) != 0)) {
        fprintf(stderr, "farfault: stdout: %s\n", g_strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

int ff_cli_metrics(int argc, char **argv)
{
    gboolean help = FALSE, open = FALSE;
    g_autofree char *address = NULL;
    g_autofree char *path = NULL;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"listen", 0, 0, G_OPTION_ARG_STRING, &address, NULL, NULL},
        {"output", 0, 0, G_OPTION_ARG_FILENAME, &path, NULL, NULL},
        {"openmetrics", 0, 0, G_OPTION_ARG_NONE, &open, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault metrics --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_metrics, stdout);
        return EXIT_OK;
    }
    if (positional || (address && (path || open))) {
        fprintf(stderr, "farfault: give --listen ADDRESS alone, or --output and --openmetrics "
                        "(farfault metrics --help)\n");
        return EXIT_USAGE;
    }
    if (!address) {
        return print_metrics(path, open);
    }
    if (!ff_metrics_listen(address, make_page, NULL, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT) ? EXIT_USAGE
                                                                               : EXIT_FAILED;
    }
    return EXIT_OK;
}
