/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands for people make of their command lines.
 */
#ifndef FF_CLI_OPTIONS_H
#define FF_CLI_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

/* Parses ARGV by ENTRIES. The help is the commands' own (cli/help.c): --help is an entry as others
 * are. FALSE and ERROR (G_OPTION_ERROR) for an option that nobody knows, or a value that is none.
 */
bool ff_cli_options(const GOptionEntry *entries, int argc, char **argv, GError **error);

#endif
