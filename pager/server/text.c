/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See text.h. No system calls. */
#include "pager/server/text.h"

#include <gio/gio.h>
#include <stdbool.h>

#include "qmp/json.h"

/* Those in texts are counted as well, which none of ours has. So somebody else's may seem to close
 * what they do not: ff_json_is_modest() has the last word. */
static bool is_deep(const char *text, size_t len, unsigned max)
{
    unsigned depth = 0;

    for (size_t i = 0; i < len; i++) {
        depth += text[i] == '[' || text[i] == '{';
        depth -= depth && (text[i] == ']' || text[i] == '}');
        if (depth > max) {
            return true;
        }
    }
    return false;
}

JsonNode *ff_text_parse(const char *text, size_t len, unsigned depth, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) why = NULL;

    if (!is_deep(text, len, depth) && ff_json_is_modest(text, len) &&
        g_utf8_validate(text, (gssize)len, NULL) &&
        json_parser_load_from_data(parser, text, (gssize)len, &why)) {
        JsonNode *root = json_parser_steal_root(parser);
        return root ? root : json_node_new(JSON_NODE_NULL); /* nothing but blanks */
    }
    /* The parser quotes the text, which may have ends of lines and what a terminal obeys. */
    g_autofree char *words = why ? g_strescape(why->message, "\"") : g_strdup("no text");
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "no JSON: %s", words);
    return NULL;
}
