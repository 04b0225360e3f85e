/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one reader of QEMU's JSON dialect.
 *
 * Recursive descent, which checks what qobject/json-lexer.c and json-parser.c of QEMU check and
 * writes the value again as it goes; the limit of nesting bounds the stack. Only what it has
 * written is given to json-glib, which alone would take more (repeated keys, control characters in
 * strings, leading zeros) and less (it knows no \'). Pure; any thread.
 */
#include "qmp/dialect.h"

#include <math.h>
#include <string.h>

typedef struct {
    const char *p, *end;
    GString *out;
    GString *string; /* the last string, decoded */
    FfDialectFlags flags;
    FfDialectVisit *visit;
    void *opaque;
    unsigned depth; /* open braces and brackets */
    const char *key[FF_DIALECT_VISITED];
    const char *wrong; /* what was wrong, NULL while nothing is */
} Reader;

static bool read_value(Reader *r);

static bool fail_reader(Reader *r, const char *why)
{
    if (!r->wrong) {
        r->wrong = why;
    }
    return false;
}

static void skip_space(Reader *r)
{
    while (r->p < r->end && strchr(" \t\r\n", *r->p) && *r->p) {
        r->p++;
    }
}

static bool next_is(Reader *r, char c)
{
    skip_space(r);
    if (r->p < r->end && *r->p == c) {
        r->p++;
        return true;
    }
    return false;
}

/* ---- strings --------------------------------------------------------------------------------- */

/* Code points that never are a character, which QEMU refuses however they are written. */
static bool is_no_character(gunichar c)
{
    return (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe;
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

void ff_dialect_print_string(GString *out, const char *string)
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

static bool read_hex(Reader *r, gunichar *c)
{
    *c = 0;
    for (int i = 0; i < 4; i++) {
        if (r->p >= r->end || !g_ascii_isxdigit(*r->p)) {
            return fail_reader(r, "invalid hex escape in a string");
        }
        *c = *c << 4 | (gunichar)g_ascii_xdigit_value(*r->p++);
    }
    return true;
}

static bool read_unicode_escape(Reader *r, gunichar *c)
{
    if (!read_hex(r, c)) {
        return false;
    }
    if (*c >= 0xd800 && *c < 0xdc00 && r->end - r->p >= 2 && r->p[0] == '\\' && r->p[1] == 'u') {
        gunichar low;

        r->p += 2;
        if (!read_hex(r, &low)) {
            return false;
        }
        if (low < 0xdc00 || low > 0xdfff) {
            return fail_reader(r, "invalid surrogate pair in a string");
        }
        *c = 0x10000 + ((*c & 0x3ff) << 10) + (low & 0x3ff);
    }
    if (*c >= 0xd800 && *c < 0xe000) {
        return fail_reader(r, "invalid code point in a string");
    }
    return true;
}

static bool read_escape(Reader *r, gunichar *c)
{
    static const char letters[] = "\"'\\/bfnrt";
    static const char plain[] = "\"'\\/\b\f\n\r\t";

    if (r->p >= r->end) {
        return fail_reader(r, "string without end");
    }
    char letter = *r->p++;

    if (letter == 'u') {
        return read_unicode_escape(r, c);
    }
    const char *p = letter ? strchr(letters, letter) : NULL;

    if (!p) {
        return fail_reader(r, "invalid escape in a string");
    }
    *c = (gunichar)plain[p - letters];
    return true;
}

/* One character that is written as itself. */
static bool read_plain(Reader *r, gunichar *c)
{
    size_t left = r->end - r->p;

    /* QEMU's strings are in modified UTF-8. */
    if (left >= 2 && !memcmp(r->p, "\xC0\x80", 2)) {
        r->p += 2;
        *c = 0;
        return true;
    }
    *c = g_utf8_get_char_validated(r->p, left);
    if (*c == (gunichar)-1 || *c == (gunichar)-2 || *c < 0x20) {
        return fail_reader(r, "invalid character in a string");
    }
    r->p = g_utf8_next_char(r->p);
    return true;
}

/* Into .string, and .out. */
static bool read_string(Reader *r)
{
    char quote = *r->p++;

    g_string_truncate(r->string, 0);
    g_string_append_c(r->out, '"');
    while (r->p < r->end && *r->p != quote) {
        gunichar c;

        if (*r->p == '\\') {
            r->p++;
            if (!read_escape(r, &c)) {
                return false;
            }
        } else if (!read_plain(r, &c)) {
            return false;
        }
        if (is_no_character(c) || (!c && !(r->flags & FF_DIALECT_NUL))) {
            return fail_reader(r, "invalid code point in a string");
        }
        print_char(r->out, c);
        if (c) {
            g_string_append_unichar(r->string, c);
        } else {
            g_string_append_len(r->string, "\xC0\x80", 2);
        }
    }
    if (r->p >= r->end) {
        return fail_reader(r, "string without end");
    }
    r->p++;
    g_string_append_c(r->out, '"');
    return true;
}

/* ---- numbers and words ----------------------------------------------------------------------- */

static bool read_digits(Reader *r)
{
    const char *start = r->p;

    while (r->p < r->end && g_ascii_isdigit(*r->p)) {
        r->p++;
    }
    return r->p > start || fail_reader(r, "invalid number");
}

/* TEXT is right; WHOLE: it has neither point nor exponent. */
static void print_number(GString *out, const char *text, bool whole)
{
    char buf[G_ASCII_DTOSTR_BUF_SIZE];
    gint64 i;
    guint64 u;
    double d;

    if (whole && g_ascii_string_to_signed(text, 10, G_MININT64, G_MAXINT64, &i, NULL)) {
        g_string_append_printf(out, "%" G_GINT64_FORMAT, i);
        return;
    }
    if (whole && g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &u, NULL)) {
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, u);
        return;
    }
    d = g_ascii_strtod(text, NULL);
    if (d == 0) {
        g_string_append_c(out, '0'); /* -0.0 would be read as an integer the next time */
    } else if (isfinite(d)) {
        g_string_append(out, g_ascii_formatd(buf, sizeof(buf), "%.17g", d));
    } else {
        g_string_append(out, text);
    }
}

/* Whether numbers that are read now are to be written as QEMU would. */
static bool rewrites_numbers(const Reader *r)
{
    return r->flags & FF_DIALECT_NUMBERS ||
           (r->flags & FF_DIALECT_ID && r->depth && !g_strcmp0(r->key[0], "id"));
}

/* As json-lexer.c has it: no zero in front, no point without a digit on both sides of it. */
static bool read_number(Reader *r)
{
    const char *start = r->p;

    r->p += *r->p == '-';
    const char *digits = r->p;

    if (!read_digits(r)) {
        return false;
    }
    if (*digits == '0' && r->p - digits > 1) {
        return fail_reader(r, "number with leading zero");
    }
    const char *rest = r->p;

    if (r->p < r->end && *r->p == '.') {
        r->p++;
        if (!read_digits(r)) {
            return false;
        }
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-')) {
            r->p++;
        }
        if (!read_digits(r)) {
            return false;
        }
    }
    if (rewrites_numbers(r)) {
        g_autofree char *text = g_strndup(start, r->p - start);

        print_number(r->out, text, r->p == rest);
    } else {
        g_string_append_len(r->out, start, r->p - start);
    }
    return true;
}

static bool read_word(Reader *r)
{
    static const char *const words[] = {"true", "false", "null"};
    const char *start = r->p;

    while (r->p < r->end && g_ascii_islower(*r->p)) {
        r->p++;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        if ((size_t)(r->p - start) == strlen(words[i]) &&
            !memcmp(start, words[i], strlen(words[i]))) {
            g_string_append(r->out, words[i]);
            return true;
        }
    }
    return fail_reader(r, "invalid keyword");
}

/* ---- objects and arrays ---------------------------------------------------------------------- */

/* KEY lives until the value was visited; NULL: an element of an array. */
static void set_key(Reader *r, const char *key)
{
    if (r->depth <= FF_DIALECT_VISITED) {
        r->key[r->depth - 1] = key;
    }
}

static bool read_array(Reader *r)
{
    g_string_append_c(r->out, '[');
    if (next_is(r, ']')) {
        g_string_append_c(r->out, ']');
        return true;
    }
    set_key(r, NULL);
    do {
        if (!read_value(r)) {
            return false;
        }
        if (next_is(r, ']')) {
            g_string_append_c(r->out, ']');
            return true;
        }
        g_string_append(r->out, ", ");
    } while (next_is(r, ','));
    return fail_reader(r, "',' or ']' is missing in an array");
}

static bool read_member(Reader *r, GHashTable *keys)
{
    skip_space(r);
    if (r->p >= r->end || (*r->p != '"' && *r->p != '\'')) {
        return fail_reader(r, "key of an object is no string");
    }
    if (!read_string(r)) {
        return false;
    }
    char *key = g_strndup(r->string->str, r->string->len);

    set_key(r, key);
    if (!g_hash_table_add(keys, key)) { /* takes it; the entry that was there has gone */
        return fail_reader(r, "duplicate key in an object");
    }
    if (!next_is(r, ':')) {
        return fail_reader(r, "':' is missing in an object");
    }
    g_string_append(r->out, ": ");
    return read_value(r);
}

static bool read_object(Reader *r)
{
    g_autoptr(GHashTable) keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    g_string_append_c(r->out, '{');
    if (next_is(r, '}')) {
        g_string_append_c(r->out, '}');
        return true;
    }
    do {
        if (!read_member(r, keys)) {
            return false;
        }
        if (next_is(r, '}')) {
            g_string_append_c(r->out, '}');
            return true;
        }
        g_string_append(r->out, ", ");
    } while (next_is(r, ','));
    return fail_reader(r, "',' or '}' is missing in an object");
}

static bool read_nested(Reader *r, bool (*read)(Reader *r))
{
    if (++r->depth > FF_DIALECT_MAX_NESTING) {
        return fail_reader(r, "nesting is too deep");
    }
    r->p++;
    bool ok = read(r);

    r->depth--;
    return ok;
}

/* The value at .out[START...] has been read. */
static void visit_value(Reader *r, char kind, size_t start)
{
    FfDialectValue value = {
        .depth = r->depth,
        .kind = kind,
        .string = kind == '"' ? r->string->str : NULL,
        .text = r->out->str + start,
        .len = r->out->len - start,
    };

    if (r->visit && r->depth && r->depth <= FF_DIALECT_VISITED) {
        memcpy(value.key, r->key, r->depth * sizeof(r->key[0]));
        r->visit(&value, r->opaque);
    }
}

static bool read_value(Reader *r)
{
    size_t start = r->out->len;
    bool ok;
    char kind;

    skip_space(r);
    if (r->p >= r->end) {
        return fail_reader(r, "value is missing");
    }
    kind = *r->p;
    switch (kind) {
    case '{':
        ok = read_nested(r, read_object);
        break;
    case '[':
        ok = read_nested(r, read_array);
        break;
    case '"':
    case '\'':
        kind = '"';
        ok = read_string(r);
        break;
    default:
        if (kind == '-' || g_ascii_isdigit(kind)) {
            kind = '0';
            ok = read_number(r);
        } else {
            kind = 't';
            ok = read_word(r);
        }
    }
    if (ok) {
        visit_value(r, kind, start);
    }
    return ok;
}

GString *ff_dialect_read(const char *text, size_t len, FfDialectFlags flags,
                         FfDialectVisit *visitor, void *opaque, FfDialectError *error)
{
    g_autoptr(GString) out = g_string_sized_new(len + 64);
    g_autoptr(GString) string = g_string_new(NULL);
    Reader r = {.p = text,
                .end = text + len,
                .out = out,
                .string = string,
                .flags = flags,
                .visit = visitor,
                .opaque = opaque};

    if (read_value(&r)) {
        skip_space(&r);
        if (r.p < r.end) {
            fail_reader(&r, "text after the value");
        }
    }
    if (r.wrong) {
        if (error) {
            *error = (FfDialectError){r.wrong, r.p - text};
        }
        return NULL;
    }
    return g_steal_pointer(&out);
}
