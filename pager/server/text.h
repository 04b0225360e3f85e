/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON that another process has written, which may be hostile. No state; any thread. */
#ifndef FF_PAGER_SERVER_TEXT_H
#define FF_PAGER_SERVER_TEXT_H

#include <json-glib/json-glib.h>
#include <stddef.h>

/* TEXT with DEPTH brackets in each other at most, as the parser goes down the stack with them. NULL
 * and ERROR (G_IO_ERROR, "no JSON: ..." of one line). */
JsonNode *ff_text_parse(const char *text, size_t len, unsigned depth, GError **error);

#endif
