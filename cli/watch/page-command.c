/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault report: the page of something that was recorded (--record). One thread.
 */
#include <stdio.h>

#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/page.h"
#include "qmp/image-name.h"

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

int ff_cli_report(int argc, char **argv)
{
    gboolean help = FALSE;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault report --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_report, stdout);
        return EXIT_OK;
    }
    if (!positional || g_strv_length(positional) != 2) {
        fprintf(stderr, "farfault: give two files: farfault report RECORD PAGE.html\n");
        return EXIT_USAGE;
    }
    if (ff_is_same_file(positional[0], positional[1])) {
        fprintf(stderr,
                "farfault: report: %s would take the place of the record: give another "
                "name\n",
                positional[1]);
        return EXIT_USAGE;
    }
    g_autoptr(FfRecord) record = ff_record_load(positional[0], &error);
    if (!record || !ff_page_save(record, positional[1], &error)) {
        fprintf(stderr, "farfault: report: %s\n", error->message);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}
