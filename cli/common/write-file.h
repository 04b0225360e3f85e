/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text into a file, whole or not at all. Any thread.
 */
#ifndef FF_CLI_COMMON_WRITE_FILE_H
#define FF_CLI_COMMON_WRITE_FILE_H

#include <glib.h>
#include <stdbool.h>

/* Puts a file with TEXT in the place of PATH, which may be there: a reader sees the old content or
 * the new one. FALSE and ERROR (one line): it could not be written, or PATH is a link, a device or
 * anything else that is no file, and is left as it is. */
bool ff_write_file(const char *path, const char *text, GError **error);

#endif
