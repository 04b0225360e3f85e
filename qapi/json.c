/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's JSON dialect in, QEMU's spacing out.
 *
 * A reader by recursive descent checks what qobject/json-lexer.c and json-parser.c of QEMU check
 * and writes the value again as strict JSON; only that text is given to json-glib, which alone
 * would take more (repeated keys, control characters in strings, leading zeros) and less
 * (nothing: it knows no \'). Pure; any thread.
 */
#include "qapi/json.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

#define MAX_NESTING 1024 /* as QEMU's json-streamer.c */

typedef struct {
    const char *p, *end;
    GString *out;
    unsigned depth;
    gsize id_start, id_end; /* of the value of top-level "id", in out; equal: none */
    const char *wrong;      /* what was wrong, NULL while nothing is */
} Reader;

static gboolean read_value(Reader *r);

static gboolean fail(Reader *r, const char *why)
{
    if (!r->wrong) {
        r->wrong = why;
    }
    return FALSE;
}

static void skip_space(Reader *r)
{
    while (r->p < r->end && strchr(" \t\r\n", *r->p) && *r->p) {
        r->p++;
    }
}

static gboolean next_is(Reader *r, char c)
{
    skip_space(r);
    if (r->p < r->end && *r->p == c) {
        r->p++;
        return TRUE;
    }
    return FALSE;
}

static void print_char(GString *out, gunichar c)
{
    static const char plain[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *p = c && c < 0x80 ? strchr(plain, (int)c) : NULL;

    if (p) {
        g_string_append_c(out, '\\');
        g_string_append_c(out, letters[p - plain]);
    } else if (c >= 0x20 && c < 0x7f) {
        g_string_append_c(out, (char)c);
    } else if (c < 0x10000) {
        g_string_append_printf(out, "\\u%04X", c);
    } else {
        c -= 0x10000;
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
    }
}

static gboolean read_hex(Reader *r, gunichar *c)
{
    *c = 0;
    for (int i = 0; i < 4; i++) {
        if (r->p >= r->end || !g_ascii_isxdigit(*r->p)) {
            return fail(r, "invalid hex escape in a string");
        }
        *c = *c << 4 | (gunichar)g_ascii_xdigit_value(*r->p++);
    }
    return TRUE;
}

/* Code points that never are a character, which QEMU refuses however they are written. */
static gboolean is_no_character(gunichar c)
{
    return (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe;
}

static gboolean read_unicode_escape(Reader *r, gunichar *c)
{
    if (!read_hex(r, c)) {
        return FALSE;
    }
    if (*c >= 0xd800 && *c < 0xdc00 && r->end - r->p >= 6 && r->p[0] == '\\' && r->p[1] == 'u') {
        gunichar low;

        r->p += 2;
        if (!read_hex(r, &low)) {
            return FALSE;
        }
        if (low < 0xdc00 || low > 0xdfff) {
            return fail(r, "invalid surrogate pair in a string");
        }
        *c = 0x10000 + ((*c & 0x3ff) << 10) + (low & 0x3ff);
    }
    if (!*c || (*c >= 0xd800 && *c < 0xe000) || is_no_character(*c)) {
        return fail(r, "invalid code point in a string");
    }
    return TRUE;
}

static gboolean read_escape(Reader *r, gunichar *c)
{
    static const char letters[] = "\"'\\/bfnrt";
    static const char plain[] = "\"'\\/\b\f\n\r\t";

    if (r->p >= r->end) {
        return fail(r, "string without end");
    }
    char letter = *r->p++;

    if (letter == 'u') {
        return read_unicode_escape(r, c);
    }
    const char *p = letter ? strchr(letters, letter) : NULL;

    if (!p) {
        return fail(r, "invalid escape in a string");
    }
    *c = (gunichar)plain[p - letters];
    return TRUE;
}

static gboolean read_string(Reader *r)
{
    char quote = *r->p++;

    g_string_append_c(r->out, '"');
    for (;;) {
        if (r->p >= r->end) {
            return fail(r, "string without end");
        }
        if (*r->p == quote) {
            r->p++;
            g_string_append_c(r->out, '"');
            return TRUE;
        }
        gunichar c;

        if (*r->p == '\\') {
            r->p++;
            if (!read_escape(r, &c)) {
                return FALSE;
            }
        } else {
            c = g_utf8_get_char_validated(r->p, r->end - r->p);
            if (c == (gunichar)-1 || c == (gunichar)-2 || c < 0x20 || is_no_character(c)) {
                return fail(r, "invalid character in a string");
            }
            r->p = g_utf8_next_char(r->p);
        }
        print_char(r->out, c);
    }
}

static gboolean read_digits(Reader *r)
{
    const char *start = r->p;

    while (r->p < r->end && g_ascii_isdigit(*r->p)) {
        r->p++;
    }
    return r->p > start || fail(r, "invalid number");
}

static gboolean read_number(Reader *r)
{
    const char *start = r->p;

    if (*r->p == '-') {
        r->p++;
    }
    const char *digits = r->p;

    if (!read_digits(r)) {
        return FALSE;
    }
    if (*digits == '0' && r->p - digits > 1) {
        return fail(r, "number with leading zero");
    }
    if (r->p < r->end && *r->p == '.') {
        r->p++;
        if (!read_digits(r)) {
            return FALSE;
        }
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-')) {
            r->p++;
        }
        if (!read_digits(r)) {
            return FALSE;
        }
    }
    g_string_append_len(r->out, start, r->p - start);
    return TRUE;
}

static gboolean read_keyword(Reader *r)
{
    static const char *const words[] = {"true", "false", "null"};
    const char *start = r->p;

    while (r->p < r->end && g_ascii_islower(*r->p)) {
        r->p++;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        if ((gsize)(r->p - start) == strlen(words[i]) &&
            !memcmp(start, words[i], strlen(words[i]))) {
            g_string_append(r->out, words[i]);
            return TRUE;
        }
    }
    return fail(r, "invalid keyword");
}

static gboolean read_array(Reader *r)
{
    g_string_append_c(r->out, '[');
    if (next_is(r, ']')) {
        g_string_append_c(r->out, ']');
        return TRUE;
    }
    do {
        if (!read_value(r)) {
            return FALSE;
        }
        if (next_is(r, ']')) {
            g_string_append_c(r->out, ']');
            return TRUE;
        }
        g_string_append(r->out, ", ");
    } while (next_is(r, ','));
    return fail(r, "',' or ']' is missing in an array");
}

static gboolean read_member(Reader *r, GHashTable *keys)
{
    skip_space(r);
    if (r->p >= r->end || (*r->p != '"' && *r->p != '\'')) {
        return fail(r, "key of an object is no string");
    }
    gsize start = r->out->len;

    if (!read_string(r)) {
        return FALSE;
    }
    char *key = g_strndup(r->out->str + start, r->out->len - start);
    gboolean is_id = r->depth == 1 && !strcmp(key, "\"id\"");

    if (!g_hash_table_add(keys, key)) {
        return fail(r, "duplicate key in an object");
    }
    if (!next_is(r, ':')) {
        return fail(r, "':' is missing in an object");
    }
    g_string_append(r->out, ": ");
    start = r->out->len;
    if (!read_value(r)) {
        return FALSE;
    }
    if (is_id) {
        r->id_start = start;
        r->id_end = r->out->len;
    }
    return TRUE;
}

static gboolean read_object(Reader *r)
{
    g_autoptr(GHashTable) keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    g_string_append_c(r->out, '{');
    if (next_is(r, '}')) {
        g_string_append_c(r->out, '}');
        return TRUE;
    }
    do {
        if (!read_member(r, keys)) {
            return FALSE;
        }
        if (next_is(r, '}')) {
            g_string_append_c(r->out, '}');
            return TRUE;
        }
        g_string_append(r->out, ", ");
    } while (next_is(r, ','));
    return fail(r, "',' or '}' is missing in an object");
}

static gboolean read_nested(Reader *r, gboolean (*read)(Reader *r))
{
    if (++r->depth > MAX_NESTING) {
        return fail(r, "nesting is too deep");
    }
    r->p++;
    gboolean ok = read(r);

    r->depth--;
    return ok;
}

static gboolean read_value(Reader *r)
{
    skip_space(r);
    if (r->p >= r->end) {
        return fail(r, "value is missing");
    }
    switch (*r->p) {
    case '{':
        return read_nested(r, read_object);
    case '[':
        return read_nested(r, read_array);
    case '"':
    case '\'':
        return read_string(r);
    default:
        if (*r->p == '-' || g_ascii_isdigit(*r->p)) {
            return read_number(r);
        }
        return read_keyword(r);
    }
}

char *ff_json_strict(const char *text, gsize length, char **id_text, GError **error)
{
    g_autoptr(GString) out = g_string_sized_new(length + 64);
    Reader r = {.p = text, .end = text + length, .out = out};

    if (read_value(&r)) {
        skip_space(&r);
        if (r.p < r.end) {
            fail(&r, "text after the value");
        }
    }
    if (r.wrong) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "JSON: %s at byte %td", r.wrong,
                    r.p - text);
        return NULL;
    }
    if (id_text) {
        *id_text =
            r.id_end > r.id_start ? g_strndup(out->str + r.id_start, r.id_end - r.id_start) : NULL;
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

JsonNode *ff_json_parse(const char *text, gsize length, char **id_text, GError **error)
{
    g_autofree char *id = NULL;
    g_autofree char *strict = ff_json_strict(text, length, &id, error);

    if (!strict) {
        return NULL;
    }
    g_autoptr(JsonParser) parser = json_parser_new();

    if (!json_parser_load_from_data(parser, strict, -1, error)) {
        return NULL;
    }
    if (id_text) {
        *id_text = g_steal_pointer(&id);
    }
    return json_parser_steal_root(parser);
}

void ff_json_print_string(GString *out, const char *string)
{
    const char *p = string;

    g_string_append_c(out, '"');
    while (*p) {
        gunichar c = g_utf8_get_char_validated(p, -1);

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append(out, "\\uFFFD"); /* as QEMU writes what is not UTF-8, or no character */
            p++;
        } else {
            print_char(out, is_no_character(c) ? 0xfffd : c);
            p = g_utf8_next_char(p);
        }
    }
    g_string_append_c(out, '"');
}

static void print_number(GString *out, JsonNode *node, const FfQapiType *type)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    if (json_node_get_value_type(node) == G_TYPE_DOUBLE) {
        g_string_append(out,
                        g_ascii_formatd(text, sizeof(text), "%.17g", json_node_get_double(node)));
    } else if (type && type->kind == FF_QAPI_UINT) {
        g_string_append_printf(out, "%" PRIu64, (uint64_t)json_node_get_int(node));
    } else {
        g_string_append_printf(out, "%" PRId64, json_node_get_int(node));
    }
}

static void print_value(GString *out, JsonNode *node, const FfQapiType *type)
{
    GType value = json_node_get_value_type(node);

    if (value == G_TYPE_STRING) {
        ff_json_print_string(out, json_node_get_string(node));
    } else if (value == G_TYPE_BOOLEAN) {
        g_string_append(out, json_node_get_boolean(node) ? "true" : "false");
    } else {
        print_number(out, node, type);
    }
}

static void print_object(GString *out, JsonObject *object, const FfQapiType *type)
{
    const char *separator = "";
    const char *name;
    JsonNode *value;
    JsonObjectIter iter;

    g_string_append_c(out, '{');
    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        g_string_append(out, separator);
        ff_json_print_string(out, name);
        g_string_append(out, ": ");
        ff_json_print(out, value, ff_qapi_member_type(type, name, object));
        separator = ", ";
    }
    g_string_append_c(out, '}');
}

void ff_json_print(GString *out, JsonNode *node, const FfQapiType *type)
{
    switch (json_node_get_node_type(node)) {
    case JSON_NODE_OBJECT:
        print_object(out, json_node_get_object(node), type);
        break;
    case JSON_NODE_ARRAY: {
        JsonArray *array = json_node_get_array(node);
        const FfQapiType *element = type && type->kind == FF_QAPI_ARRAY ? type->element : NULL;

        g_string_append_c(out, '[');
        for (guint i = 0; i < json_array_get_length(array); i++) {
            g_string_append(out, i ? ", " : "");
            ff_json_print(out, json_array_get_element(array, i), element);
        }
        g_string_append_c(out, ']');
        break;
    }
    case JSON_NODE_VALUE:
        print_value(out, node, type);
        break;
    case JSON_NODE_NULL:
        g_string_append(out, "null");
        break;
    }
}

gboolean ff_json_bool(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && JSON_NODE_HOLDS_VALUE(node) &&
           json_node_get_value_type(node) == G_TYPE_BOOLEAN && json_node_get_boolean(node);
}

const char *ff_json_string(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        return NULL;
    }
    return json_node_get_string(node);
}
