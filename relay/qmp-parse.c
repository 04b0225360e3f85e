/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parser of one QMP command: accepts what QEMU's json-parser.c accepts, picks out the few
 * members that the relay needs, and writes the command again as plain JSON (double quotes,
 * escapes resolved, numbers as QEMU writes them), so that the engine needs no second dialect.
 *
 * Recursive descent; the framer's limit of 1024 levels bounds the stack. What QEMU would refuse
 * (a member twice, a bad escape, an unknown word) is refused here, too: such a command is never
 * owned but goes to QEMU, whose error the client then sees. One thread; no locks.
 */
#include "relay/qmp-frame.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>

/* What the value being parsed means. */
typedef enum {
    ROLE_NONE,
    ROLE_TOP,
    ROLE_NAME,
    ROLE_NAME_OOB,
    ROLE_ID,
    ROLE_ARGUMENTS,
    ROLE_FDNAME,
    ROLE_COMMAND_LINE,
    ROLE_ENABLE,
    ROLE_ENABLE_ITEM,
    ROLE_UNEXPECTED,
} Role;

typedef struct {
    const char *p, *end;
    int depth;
    GString *out;
    FfQmpCommand *command;  /* NULL: only the text is wanted */
    bool execute, exec_oob; /* these members are there */
    bool refused;           /* QEMU will refuse the command for its members */
} Parse;

static bool parse_value(Parse *ps, Role role);

static void skip_blanks(Parse *ps)
{
    while (ps->p < ps->end && strchr(" \t\r\n", *ps->p) && *ps->p) {
        ps->p++;
    }
}

static bool take(Parse *ps, char c)
{
    skip_blanks(ps);
    if (ps->p < ps->end && *ps->p == c) {
        ps->p++;
        return true;
    }
    return false;
}

static int hex4(Parse *ps)
{
    int value = 0;

    if (ps->end - ps->p < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(*ps->p++);

        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

/* Neither a surrogate nor a noncharacter. */
static bool is_character(int cp)
{
    return cp >= 0 && cp <= 0x10FFFF && !(cp >= 0xD800 && cp <= 0xDFFF) &&
           !(cp >= 0xFDD0 && cp <= 0xFDEF) && (cp & 0xFFFE) != 0xFFFE;
}

/* Strings are kept in modified UTF-8, as in QEMU: NUL is the two bytes C0 80. */
static bool put_character(GString *s, int cp)
{
    if (!is_character(cp)) {
        return false;
    }
    if (cp == 0) {
        g_string_append_len(s, "\xC0\x80", 2);
    } else {
        g_string_append_unichar(s, cp);
    }
    return true;
}

static bool parse_unicode_escape(Parse *ps, GString *s)
{
    int cp = hex4(ps);

    if (cp >= 0xD800 && cp <= 0xDBFF && ps->end - ps->p >= 2 && ps->p[0] == '\\' &&
        ps->p[1] == 'u') {
        int trailing;

        ps->p += 2;
        trailing = hex4(ps);
        if (trailing < 0xDC00 || trailing > 0xDFFF) {
            return false;
        }
        cp = 0x10000 + ((cp & 0x3FF) << 10) + (trailing & 0x3FF);
    }
    return put_character(s, cp);
}

static bool parse_escape(Parse *ps, GString *s)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";
    const char *at;
    char c;

    if (ps->p == ps->end) {
        return false;
    }
    c = *ps->p++;
    if (c == 'u') {
        return parse_unicode_escape(ps, s);
    }
    at = c ? strchr(from, c) : NULL;
    if (at) {
        g_string_append_c(s, to[at - from]);
    }
    return at != NULL;
}

/* One character that is not ASCII. */
static bool parse_utf8(Parse *ps, GString *s)
{
    size_t left = ps->end - ps->p;
    gunichar cp;

    if (left >= 2 && !memcmp(ps->p, "\xC0\x80", 2)) {
        ps->p += 2;
        return put_character(s, 0);
    }
    cp = g_utf8_get_char_validated(ps->p, left);
    if (cp == (gunichar)-1 || cp == (gunichar)-2 || !put_character(s, cp)) {
        return false;
    }
    ps->p = g_utf8_next_char(ps->p);
    return true;
}

/* Returns the decoded string, NULL if it is not one. */
static GString *parse_string(Parse *ps)
{
    GString *s = g_string_new(NULL);
    char quote;

    skip_blanks(ps);
    if (ps->p == ps->end || (*ps->p != '"' && *ps->p != '\'')) {
        goto bad;
    }
    quote = *ps->p++;
    while (ps->p < ps->end) {
        unsigned char c = *ps->p;

        if (c == (unsigned char)quote) {
            ps->p++;
            return s;
        }
        if (c == '\\') {
            ps->p++;
            if (!parse_escape(ps, s)) {
                goto bad;
            }
        } else if (c >= 0x80) {
            if (!parse_utf8(ps, s)) {
                goto bad;
            }
        } else if (c < 0x20) {
            goto bad;
        } else {
            g_string_append_c(s, c);
            ps->p++;
        }
    }
bad:
    g_string_free(s, TRUE);
    return NULL;
}

static void put_string(GString *out, const GString *s)
{
    g_string_append_c(out, '"');
    for (size_t i = 0; i < s->len; i++) {
        unsigned char c = s->str[i];

        if (c == '"' || c == '\\') {
            g_string_append_c(out, '\\');
            g_string_append_c(out, c);
        } else if (c < 0x20) {
            g_string_append_printf(out, "\\u%04X", c);
        } else if (c == 0xC0) { /* in no other sequence: C0 80 */
            g_string_append(out, "\\u0000");
            i++;
        } else {
            g_string_append_c(out, c);
        }
    }
    g_string_append_c(out, '"');
}

static bool take_digits(const char **s)
{
    size_t n = strspn(*s, "0123456789");

    *s += n;
    return n > 0;
}

/* As json-lexer.c has it: no zero in front, no point without a digit on both sides of it. */
static bool is_number(const char *s)
{
    s += *s == '-';
    if (*s == '0' && g_ascii_isdigit(s[1])) {
        return false;
    }
    if (!take_digits(&s)) {
        return false;
    }
    if (*s == '.') {
        s++;
        if (!take_digits(&s)) {
            return false;
        }
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        if (!take_digits(&s)) {
            return false;
        }
    }
    return !*s;
}

static bool parse_number(Parse *ps)
{
    g_autofree char *text = NULL;
    const char *start = ps->p;
    double d;

    while (ps->p < ps->end && (g_ascii_isdigit(*ps->p) || strchr("+-.eE", *ps->p)) && *ps->p) {
        ps->p++;
    }
    text = g_strndup(start, ps->p - start);
    if (!is_number(text)) {
        return false;
    }
    if (!strpbrk(text, ".eE")) {
        gint64 i;
        guint64 u;

        if (g_ascii_string_to_signed(text, 10, G_MININT64, G_MAXINT64, &i, NULL)) {
            g_string_append_printf(ps->out, "%" G_GINT64_FORMAT, i);
            return true;
        }
        if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT64, &u, NULL)) {
            g_string_append_printf(ps->out, "%" G_GUINT64_FORMAT, u);
            return true;
        }
    }
    d = g_ascii_strtod(text, NULL);
    if (d == 0) {
        g_string_append_c(ps->out, '0'); /* -0.0 would be read as an integer the next time */
    } else if (isfinite(d)) {
        char buf[G_ASCII_DTOSTR_BUF_SIZE];

        g_string_append(ps->out, g_ascii_formatd(buf, sizeof(buf), "%.17g", d));
    } else {
        g_string_append(ps->out, text);
    }
    return true;
}

static bool parse_word(Parse *ps)
{
    static const char *const words[] = {"true", "false", "null"};
    const char *start = ps->p;

    while (ps->p < ps->end && *ps->p >= 'a' && *ps->p <= 'z') {
        ps->p++;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        if ((size_t)(ps->p - start) == strlen(words[i]) &&
            !memcmp(start, words[i], strlen(words[i]))) {
            g_string_append(ps->out, words[i]);
            return true;
        }
    }
    return false;
}

static Role member_role(Role object, const char *key)
{
    if (object == ROLE_TOP) {
        return !strcmp(key, "execute")     ? ROLE_NAME
               : !strcmp(key, "exec-oob")  ? ROLE_NAME_OOB
               : !strcmp(key, "id")        ? ROLE_ID
               : !strcmp(key, "arguments") ? ROLE_ARGUMENTS
                                           : ROLE_UNEXPECTED;
    }
    if (object == ROLE_ARGUMENTS) {
        return !strcmp(key, "fdname")         ? ROLE_FDNAME
               : !strcmp(key, "command-line") ? ROLE_COMMAND_LINE
               : !strcmp(key, "enable")       ? ROLE_ENABLE
                                              : ROLE_NONE;
    }
    return ROLE_NONE;
}

static bool parse_member(Parse *ps, Role object, GHashTable *keys)
{
    g_autoptr(GString) key = parse_string(ps);
    Role role;

    if (!key || !take(ps, ':') || !g_hash_table_add(keys, g_strdup(key->str))) {
        return false;
    }
    put_string(ps->out, key);
    g_string_append(ps->out, ": ");
    role = member_role(object, key->str);
    ps->execute |= role == ROLE_NAME;
    ps->exec_oob |= role == ROLE_NAME_OOB;
    if (role == ROLE_ID && ps->command) {
        size_t start = ps->out->len;

        if (!parse_value(ps, role)) {
            return false;
        }
        ps->command->id = g_strdup(ps->out->str + start);
        return true;
    }
    return parse_value(ps, role);
}

static bool parse_object(Parse *ps, Role role)
{
    g_autoptr(GHashTable) keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    g_string_append_c(ps->out, '{');
    if (!take(ps, '}')) {
        do {
            if (g_hash_table_size(keys)) {
                g_string_append(ps->out, ", ");
            }
            if (!parse_member(ps, role, keys)) {
                return false;
            }
        } while (take(ps, ','));
        if (!take(ps, '}')) {
            return false;
        }
    }
    g_string_append_c(ps->out, '}');
    return true;
}

static bool parse_array(Parse *ps, Role role)
{
    bool first = true;

    g_string_append_c(ps->out, '[');
    if (!take(ps, ']')) {
        do {
            if (!first) {
                g_string_append(ps->out, ", ");
            }
            first = false;
            if (!parse_value(ps, role == ROLE_ENABLE ? ROLE_ENABLE_ITEM : ROLE_NONE)) {
                return false;
            }
        } while (take(ps, ','));
        if (!take(ps, ']')) {
            return false;
        }
    }
    g_string_append_c(ps->out, ']');
    return true;
}

static void set_string(Parse *ps, Role role, const GString *s)
{
    FfQmpCommand *command = ps->command;

    switch (role) {
    case ROLE_NAME:
    case ROLE_NAME_OOB:
        g_free(command->name);
        command->name = g_strdup(s->str);
        break;
    case ROLE_FDNAME:
        command->fdname = g_strdup(s->str);
        break;
    case ROLE_COMMAND_LINE:
        command->command_line = g_strdup(s->str);
        break;
    case ROLE_ENABLE_ITEM:
        command->enable_oob |= !strcmp(s->str, "oob");
        break;
    default:
        break;
    }
}

static bool parse_text(Parse *ps, Role role)
{
    g_autoptr(GString) s = parse_string(ps);

    if (!s) {
        return false;
    }
    put_string(ps->out, s);
    if (ps->command) {
        set_string(ps, role, s);
    }
    return true;
}

static bool parse_value(Parse *ps, Role role)
{
    bool ok;
    char c;

    skip_blanks(ps);
    if (ps->p == ps->end || ++ps->depth > FF_QMP_MAX_NESTING + 1) {
        return false;
    }
    c = *ps->p;
    ps->refused |= role == ROLE_UNEXPECTED || (role == ROLE_ARGUMENTS && c != '{') ||
                   ((role == ROLE_NAME || role == ROLE_NAME_OOB) && c != '"' && c != '\'');
    if (c == '{') {
        ps->p++;
        ok = parse_object(ps, role);
    } else if (c == '[') {
        ps->p++;
        ok = parse_array(ps, role);
    } else if (c == '"' || c == '\'') {
        ok = parse_text(ps, role);
    } else if (c >= 'a' && c <= 'z') {
        ok = parse_word(ps);
    } else {
        ok = parse_number(ps);
    }
    ps->depth--;
    return ok;
}

FfQmpCommand *ff_qmp_command_parse(const char *text, size_t len)
{
    g_autoptr(FfQmpCommand) command = g_new0(FfQmpCommand, 1);
    Parse ps = {.p = text, .end = text + len, .command = command};

    ps.out = command->json = g_string_new(NULL);
    skip_blanks(&ps);
    if (ps.p == ps.end || *ps.p != '{' || !parse_value(&ps, ROLE_TOP)) {
        return NULL;
    }
    skip_blanks(&ps);
    if (ps.p != ps.end) {
        return NULL;
    }
    /* QEMU decides by the members' presence alone what overtakes. */
    command->oob = ps.exec_oob && !ps.execute;
    if (ps.refused || ps.exec_oob == ps.execute) {
        g_clear_pointer(&command->name, g_free);
    }
    return g_steal_pointer(&command);
}

void ff_qmp_command_free(FfQmpCommand *command)
{
    g_free(command->name);
    g_free(command->id);
    g_free(command->fdname);
    g_free(command->command_line);
    if (command->json) {
        g_string_free(command->json, TRUE);
    }
    g_free(command);
}

char *ff_qmp_plain_json(const char *text, size_t len)
{
    g_autoptr(GString) out = g_string_new(NULL);
    Parse ps = {.p = text, .end = text + len, .out = out};

    if (!parse_value(&ps, ROLE_NONE)) {
        return NULL;
    }
    skip_blanks(&ps);
    return ps.p == ps.end ? g_string_free(g_steal_pointer(&out), FALSE) : NULL;
}

bool ff_qmp_id_equal(const char *a, const char *b)
{
    g_autoptr(JsonNode) na = NULL, nb = NULL;

    if (!a || !b) {
        return a == b;
    }
    /* Only members of an object can come back in another order. */
    if (!strcmp(a, b) || !strchr(a, '{') || !strchr(b, '{')) {
        return !strcmp(a, b);
    }
    na = json_from_string(a, NULL);
    nb = json_from_string(b, NULL);
    return na && nb && json_node_equal(na, nb);
}
