/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * GLib parses; what it says of an option that nobody knows is said again with the one that was
 * meant. One thread.
 */
#include "cli/common/options.h"

#include <string.h>

#define TYPO 2 /* letters; further away is another word */

/* Number of letters to insert, remove or replace to make B of A (Levenshtein). */
static unsigned edit_distance(const char *a, const char *b)
{
    size_t n = strlen(b);
    g_autofree unsigned *row = g_new(unsigned, n + 1);

    for (size_t j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i]; i++) {
        unsigned diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            unsigned replace = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            row[j + 1] = MIN(replace, MIN(row[j], row[j + 1]) + 1);
        }
    }
    return row[n];
}

const char *ff_cli_nearest(const char *word, const char *const *words)
{
    const char *nearest = NULL;
    unsigned best = TYPO + 1;

    for (; *words; words++) {
        unsigned d = edit_distance(word, *words);

        if (d < best) {
            best = d;
            nearest = *words;
        }
    }
    return nearest;
}

char *ff_cli_unknown_option(const char *option, const char *const *known)
{
    g_autofree char *name = g_strndup(option, strcspn(option, "="));
    const char *nearest = ff_cli_nearest(name, known);
    g_autofree char *all = g_strjoinv(", ", (char **)known);

    return nearest ? g_strdup_printf("unknown option \"%s\", did you mean \"%s\"?", name, nearest)
                   : g_strdup_printf("unknown option \"%s\" (there are %s)", name, all);
}

static const GOptionEntry *find_entry(const GOptionEntry *entries, const char *name, size_t len)
{
    for (; entries->long_name; entries++) {
        if (len && strlen(entries->long_name) == len && !strncmp(entries->long_name, name, len)) {
            return entries;
        }
    }
    return NULL;
}

/* The first word of ARGV that begins as an option does and is none; NULL: none, or a short one. */
static const char *find_unknown(const GOptionEntry *entries, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!g_str_has_prefix(argv[i], "--")) {
            continue;
        }
        size_t len = strcspn(argv[i] + 2, "=");
        const GOptionEntry *entry = find_entry(entries, argv[i] + 2, len);

        if (!entry) {
            return argv[i];
        }
        i += entry->arg != G_OPTION_ARG_NONE && !argv[i][2 + len]; /* its value is the next word */
    }
    return NULL;
}

static char *say_unknown(const GOptionEntry *entries, const char *option)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new_with_free_func(g_free);

    for (; entries->long_name; entries++) {
        if (*entries->long_name) { /* G_OPTION_REMAINING is empty */
            g_ptr_array_add(known, g_strconcat("--", entries->long_name, NULL));
        }
    }
    g_ptr_array_add(known, NULL);
    return ff_cli_unknown_option(option, (const char *const *)known->pdata);
}

bool ff_cli_options(const GOptionEntry *entries, int argc, char **argv, GError **error)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) why = NULL;
    const char *unknown = find_unknown(entries, argc, argv);

    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_add_main_entries(context, entries, NULL);
    if (g_option_context_parse(context, &argc, &argv, &why)) {
        return true;
    }
    if (unknown && g_error_matches(why, G_OPTION_ERROR, G_OPTION_ERROR_UNKNOWN_OPTION)) {
        g_autofree char *text = say_unknown(entries, unknown);

        g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_UNKNOWN_OPTION, text);
        return false;
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}
