/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU beside those that farfault was tried with (cli/watch/qemu-tried.c): which of migration's
 * names are new, or gone. A version between two tried ones may have what either has, and must have
 * what both have; one that is newer than all is compared with the newest.
 *
 * What a distribution leaves out of its QEMU, and what is experimental, is not looked at.
 * Pure; any thread.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli/watch/qemu-names.h"

/* How many names a line has. */
#define SAID 3

typedef struct {
    unsigned below, above; /* the nearest tried versions, MAJOR << 8 | MINOR; 0: none */
    unsigned newest;
} Near;

/* MAJOR << 8 | MINOR of the number at TEXT, 0: there is none. */
static unsigned number_of(const char *text)
{
    unsigned major, minor;

    return sscanf(text, "%u.%u", &major, &minor) == 2 ? major << 8 | minor : 0;
}

/* A line "VERSION VERSION:NAME NAME ..." has it in front of its colon. */
static bool has_version(const char *line, unsigned version)
{
    g_autofree char *front = g_strndup(line, strcspn(line, ":"));
    g_auto(GStrv) words = g_strsplit(front, " ", -1);

    for (char **word = words; version && *word; word++) {
        if (number_of(*word) == version) {
            return true;
        }
    }
    return false;
}

static Near find_near(unsigned version)
{
    Near near = {0};

    for (const char *const *line = ff_qemu_tried; *line; line++) {
        g_autofree char *front = g_strndup(*line, strcspn(*line, ":"));
        g_auto(GStrv) words = g_strsplit(front, " ", -1);

        for (char **word = words; *word; word++) {
            unsigned tried = number_of(*word);

            near.newest = MAX(near.newest, tried);
            if (tried <= version) {
                near.below = MAX(near.below, tried);
            }
            if (tried >= version && (!near.above || tried < near.above)) {
                near.above = tried;
            }
        }
    }
    return near;
}

/* Where it is missing or new, farfault, or who uses it, may see it. */
static bool concerns_migration(const char *name)
{
    static const char *const left_out[] = {":x-", "colo", "multifd-compression=", "qatzip"};

    for (unsigned i = 0; i < G_N_ELEMENTS(left_out); i++) {
        if (strstr(name, left_out[i])) {
            return false;
        }
    }
    return strchr(name, ':') || strstr(name, "migrat");
}

static gint compare_texts(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "A, B and 4 more" (g_free); NULL: LIST is empty. */
static char *join_names(GPtrArray *list)
{
    g_autoptr(GString) out = g_string_new(NULL);

    g_ptr_array_sort(list, compare_texts);
    for (unsigned i = 0; i < MIN(list->len, SAID); i++) {
        g_string_append_printf(out, "%s%s", i ? ", " : "", (char *)list->pdata[i]);
    }
    if (list->len > SAID) {
        g_string_append_printf(out, " and %u more", list->len - SAID);
    }
    return list->len ? g_string_free(g_steal_pointer(&out), FALSE) : NULL;
}

/* What is in NAMES and not tried, and what was tried and is not in NAMES; g_free both. */
static void compare_names(Near near, GHashTable *names, char **more, char **fewer)
{
    g_autoptr(GHashTable) known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) gone = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) added = g_ptr_array_new();
    GHashTableIter iter;
    gpointer name;

    for (const char *const *line = ff_qemu_tried; *line; line++) {
        bool below = has_version(*line, near.below), above = has_version(*line, near.above);
        bool must = (below || !near.below) && (above || !near.above);
        g_auto(GStrv) words = g_strsplit(strchr(*line, ':') + 1, " ", -1);

        for (char **word = words; (below || above) && *word; word++) {
            if (must && concerns_migration(*word) && !g_hash_table_contains(names, *word)) {
                g_ptr_array_add(gone, g_strdup(*word));
            }
            g_hash_table_add(known, g_strdup(*word));
        }
    }
    g_hash_table_iter_init(&iter, names);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (concerns_migration(name) && !g_hash_table_contains(known, name)) {
            g_ptr_array_add(added, name);
        }
    }
    *more = join_names(added);
    *fewer = join_names(gone);
}

char *ff_qemu_untried(unsigned major, unsigned minor, GHashTable *names)
{
    unsigned version = major << 8 | minor;
    Near near = find_near(version);
    bool newer = version > near.newest;
    g_autofree char *more = NULL, *fewer = NULL;

    if (names) {
        compare_names(near, names, &more, &fewer);
    }
    if (!newer && !more && !fewer) {
        return NULL;
    }
    return g_strconcat(newer ? "which has not been tried with farfault"
                             : "and its migrations are not those that were tried with farfault",
                       more || fewer ? "; it has " : "", more ?: "", more ? " in addition" : "",
                       more && fewer ? ", and " : "", fewer ?: "", fewer ? " no longer" : "", NULL);
}
