/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See content-uri.h. No system calls but access. */
#include "cli/common/content-uri.h"

#include <string.h>
#include <unistd.h>

#include "cli/common/options.h"
#include "content/source/content.h"

char *ff_cli_misspelt_uri(const char *where, const char *uri)
{
    g_autofree char *scheme = ff_content_scheme(uri);
    bool has_slashes = scheme && g_str_has_prefix(uri + strlen(scheme), "://");

    if (!scheme || ff_content_is_uri(uri) || access(uri, F_OK) == 0) {
        return NULL;
    }
    if (!has_slashes) {
        return g_strv_contains(ff_content_schemes, scheme)
                   ? g_strdup_printf("%s%s: write %s://HOST/EXPORT", where, uri, scheme)
                   : NULL;
    }
    const char *nearest = ff_cli_nearest(scheme, ff_content_schemes);
    g_autofree char *all = g_strjoinv(", ", (char **)ff_content_schemes);
    return nearest
               ? g_strdup_printf("%s%s: did you mean %s%s?", where, uri, nearest,
                                 uri + strlen(scheme))
               : g_strdup_printf("%s%s: no such scheme is known (there are %s)", where, uri, all);
}
