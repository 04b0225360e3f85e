/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands for people make of their command lines.
 */
#ifndef FF_CLI_COMMON_OPTIONS_H
#define FF_CLI_COMMON_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

/* Parses ARGV by ENTRIES. The help is the commands' own (cli/common/help.c): --help is an entry as
 * others are. FALSE and ERROR (G_OPTION_ERROR) for an option that nobody knows, which names the one
 * that was meant, or a value that is none.
 */
bool ff_cli_options(const GOptionEntry *entries, int argc, char **argv, GError **error);

/* The one of WORDS (NULL-terminated) that a typo has made WORD of; NULL if none is like it. */
const char *ff_cli_nearest(const char *word, const char *const *words);
/* What is said of OPTION ("--name", "--name=value", "-n"), which is none of KNOWN (NULL-terminated,
 * "--name"): one line without an end (g_free). */
char *ff_cli_unknown_option(const char *option, const char *const *known);

#endif
