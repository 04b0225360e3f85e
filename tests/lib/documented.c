/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See documented.h. G_TEST_SRCDIR is docs/. */
#include "tests/lib/documented.h"

#include <glib.h>
#include <string.h>

void documented_check(const char *table)
{
    g_autofree char *path = g_test_build_filename(G_TEST_DIST, "architecture.md", NULL);
    g_autofree char *doc = NULL;
    g_autoptr(GError) error = NULL;

    g_file_get_contents(path, &doc, NULL, &error);
    g_assert_no_error(error);
    if (!strstr(doc, table)) {
        g_test_message("the table has to be:\n%s", table);
    }
    g_assert_nonnull(strstr(doc, table));
}
