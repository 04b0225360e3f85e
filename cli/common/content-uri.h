/* SPDX-License-Identifier: GPL-2.0-or-later */
/* URIs of content that people type. */
#ifndef FF_CLI_COMMON_CONTENT_URI_H
#define FF_CLI_COMMON_CONTENT_URI_H

/* URI is neither a path nor of a scheme that is known: one line that begins with WHERE (g_free); or
 * NULL. */
char *ff_cli_misspelt_uri(const char *where, const char *uri);

#endif
