/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What farfault doctor says of a QEMU's version and of the names in its schema. */
#include <string.h>

#include "cli/watch/qemu-names.h"

/* All that VERSION has in the list. */
static GHashTable *new_names(const char *version)
{
    GHashTable *names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (const char *const *line = ff_qemu_tried; *line; line++) {
        g_auto(GStrv) halves = g_strsplit(*line, ":", 2);
        g_auto(GStrv) versions = g_strsplit(halves[0], " ", -1);
        g_auto(GStrv) words = g_strsplit(halves[1], " ", -1);

        for (char **word = words; g_strv_contains((const char *const *)versions, version) && *word;
             word++) {
            g_hash_table_add(names, g_strdup(*word));
        }
    }
    g_assert_true(g_hash_table_contains(names, "capability:postcopy-ram"));
    return names;
}

typedef struct {
    const char *name;
    const char *names; /* of this tried version ... */
    const char *add, *remove;
    unsigned major, minor; /* ... and this is the QEMU's */
    const char *said;      /* NULL: nothing */
} Row;

#define DIFFERS "and its migrations are not those that were tried with farfault; it has "
#define NEWER "which has not been tried with farfault"

static const Row rows[] = {
    {"oldest", "7.2", NULL, NULL, 7, 2, NULL},
    {"tried", "10.0", NULL, NULL, 10, 0, NULL},
    {"newest", "11.1", NULL, NULL, 11, 1, NULL},
    {"added", "11.1", "capability:x", NULL, 11, 1, DIFFERS "capability:x in addition"},
    {"gone", "11.1", NULL, "migrate:uri", 11, 1, DIFFERS "migrate:uri no longer"},
    {"both", "7.2", "migrate:x", "migrate:uri", 7, 2,
     DIFFERS "migrate:x in addition, and migrate:uri no longer"},
    {"command", "11.1", "migrate-x", NULL, 11, 1, DIFFERS "migrate-x in addition"},
    /* What belongs to no migration, may be left out, or is experimental. */
    {"others", "11.1", "query-x", "xen-event-list", 11, 1, NULL},
    {"experimental", "11.1", "parameter:x-new", "query-migrate:status=colo", 11, 1, NULL},
    {"between-as-older", "7.2", NULL, NULL, 8, 2, NULL},
    {"between-as-newer", "10.0", NULL, NULL, 8, 2, NULL},
    {"between", "10.0", "capability:x", NULL, 10, 1, DIFFERS "capability:x in addition"},
    {"next", "11.1", NULL, NULL, 11, 2, NEWER},
    {"next-differs", "11.1", "capability:x", "capability:xbzrle", 12, 0,
     NEWER "; it has capability:x in addition, and capability:xbzrle no longer"},
};

static void test_row(gconstpointer data)
{
    const Row *row = data;
    g_autoptr(GHashTable) names = new_names(row->names);

    if (row->add) {
        g_hash_table_add(names, g_strdup(row->add));
    }
    if (row->remove) {
        g_assert_true(g_hash_table_remove(names, row->remove));
    }
    g_autofree char *said = ff_qemu_untried(row->major, row->minor, names);
    g_assert_cmpstr(said, ==, row->said);
}

static void test_unasked(void)
{
    g_autofree char *newer = ff_qemu_untried(99, 0, NULL);

    g_assert_null(ff_qemu_untried(7, 2, NULL));
    g_assert_cmpstr(newer, ==, NEWER);
}

/* Not more than a line has room for. */
static void test_many(void)
{
    g_autoptr(GHashTable) names = new_names("7.2");

    for (char c = 'a'; c <= 'e'; c++) {
        g_hash_table_add(names, g_strdup_printf("capability:%c", c));
    }
    g_autofree char *said = ff_qemu_untried(7, 2, names);
    g_assert_cmpstr(said, ==,
                    DIFFERS "capability:a, capability:b, capability:c and 2 more in addition");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/qemu-untried/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/qemu-untried/unasked", test_unasked);
    g_test_add_func("/qemu-untried/many", test_many);
    return g_test_run();
}
