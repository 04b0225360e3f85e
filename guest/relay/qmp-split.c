/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The splitter of QEMU's side: tells greeting, reply and event apart by the members of the
 * outermost object, one byte at a time and in constant memory, so that a reply of any length
 * streams through. QEMU ends every message with CR LF, pretty-printed ones after many lines;
 * the newline belongs to the message. What QEMU says is not trusted: any bytes leave the
 * splitter in a defined state, and the next brace at the top level begins a new message.
 *
 * One thread; no locks.
 */
#include "guest/relay/qmp-frame.h"

#include <string.h>

#define MAX_KEY 32
#define MAX_VALUE 4096 /* of "event" and "id", bytes of JSON text */

typedef enum { IDLE, INSIDE, AFTER } Place; /* AFTER: the brace is closed, no newline yet */

struct FfQmpSplitter {
    Place place;
    bool in_string, escaped, have_key, fresh;
    unsigned long depth;
    char key[MAX_KEY]; /* of the outermost object; "" if it is longer */
    size_t key_len;
    GString *value; /* JSON text of the value of "event" or "id" */
    bool keep;      /* the value goes into it */
    FfQmpAnswer answer;
};

FfQmpSplitter *ff_qmp_splitter_new(void)
{
    FfQmpSplitter *s = g_new0(FfQmpSplitter, 1);

    s->value = g_string_new(NULL);
    return s;
}

static void splitter_reset(FfQmpSplitter *s)
{
    g_clear_pointer(&s->answer.event, g_free);
    g_clear_pointer(&s->answer.id, g_free);
    s->answer.kind = FF_QMP_UNKNOWN;
    s->answer.is_error = s->answer.returns = false;
    s->place = IDLE;
    s->in_string = s->escaped = s->have_key = s->keep = s->fresh = false;
    s->depth = 0;
    s->key_len = 0;
    g_string_truncate(s->value, 0);
}

void ff_qmp_splitter_free(FfQmpSplitter *s)
{
    splitter_reset(s);
    g_string_free(s->value, TRUE);
    g_free(s);
}

const FfQmpAnswer *ff_qmp_splitter_answer(const FfQmpSplitter *s)
{
    return &s->answer;
}

bool ff_qmp_splitter_idle(const FfQmpSplitter *s)
{
    return s->place == IDLE;
}

/* A key of the outermost object is whole. Returns TRUE if it told the kind, or is "return". */
static bool splitter_key(FfQmpSplitter *s)
{
    FfQmpKind before = s->answer.kind;
    bool returned = s->answer.returns;
    const char *key = s->key;

    s->key[s->key_len] = 0;
    s->have_key = true;
    if (!strcmp(key, "QMP")) {
        s->answer.kind = FF_QMP_GREETING;
    } else if (!strcmp(key, "return") || !strcmp(key, "error") || !strcmp(key, "id")) {
        s->answer.kind = FF_QMP_REPLY;
        s->answer.is_error |= !strcmp(key, "error");
        s->answer.returns |= !strcmp(key, "return");
    } else if (!strcmp(key, "event") || !strcmp(key, "timestamp")) {
        s->answer.kind = FF_QMP_EVENT;
    }
    return s->answer.kind != before || s->answer.returns != returned;
}

/* A value of the outermost object is over. Returns TRUE if it told the event's name. */
static bool splitter_value(FfQmpSplitter *s)
{
    bool told = false;

    if (s->keep && s->value->len <= MAX_VALUE) {
        g_autoptr(GString) text = ff_dialect_read(
            s->value->str, s->value->len, FF_DIALECT_NUL | FF_DIALECT_NUMBERS, NULL, NULL, NULL);

        if (text && !strcmp(s->key, "id")) {
            g_free(s->answer.id);
            s->answer.id = g_string_free(g_steal_pointer(&text), FALSE);
        } else if (text && text->len > 2 && text->str[0] == '"') {
            g_free(s->answer.event);
            s->answer.event = g_strndup(text->str + 1, text->len - 2);
            told = true;
        }
    }
    g_string_truncate(s->value, 0);
    s->keep = s->have_key = false;
    s->key_len = 0;
    return told;
}

/* A byte inside a string. Returns TRUE if it told something. */
static bool splitter_string(FfQmpSplitter *s, char c)
{
    bool is_key = s->depth == 1 && !s->have_key;

    if (s->escaped) {
        s->escaped = false;
    } else if (c == '\\') {
        s->escaped = true;
    } else if (c == '"') {
        s->in_string = false;
        return is_key && splitter_key(s);
    }
    if (is_key) {
        /* One that is too long is none that is looked for: it stays cut at the limit. */
        s->key[s->key_len] = c;
        s->key_len = MIN(s->key_len + 1, MAX_KEY - 1);
    }
    return false;
}

static bool splitter_plain(FfQmpSplitter *s, char c)
{
    switch (c) {
    case '"':
        s->in_string = true;
        break;
    case '{':
    case '[':
        s->depth++;
        break;
    case '}':
    case ']':
        s->depth--;
        if (s->depth == 0) {
            s->place = AFTER;
            return splitter_value(s);
        }
        break;
    case ',':
        return s->depth == 1 && splitter_value(s);
    case ':':
        if (s->depth == 1 && s->have_key && !s->keep) {
            s->keep = !strcmp(s->key, "id") || !strcmp(s->key, "event");
            s->fresh = true; /* the colon itself is no part of the value */
        }
        break;
    }
    return false;
}

size_t ff_qmp_splitter_feed(FfQmpSplitter *s, const char *buf, size_t len, bool *end)
{
    *end = s->place == AFTER && len && buf[0] == '{';
    if (*end) {
        s->place = IDLE;
        return 0;
    }
    for (size_t i = 0; i < len; i++) {
        char c = buf[i];
        bool told = false;

        switch (s->place) {
        case IDLE:
            splitter_reset(s);
            s->place = c == '{' ? INSIDE : AFTER;
            s->depth = c == '{';
            break;
        case INSIDE:
            told = s->in_string ? splitter_string(s, c) : splitter_plain(s, c);
            if (s->keep && !s->fresh && s->value->len <= MAX_VALUE) {
                g_string_append_c(s->value, c);
            }
            s->fresh = false;
            break;
        case AFTER:
            break;
        }
        if (s->place == AFTER && (c == '\n' || (i + 1 < len && buf[i + 1] == '{'))) {
            s->place = IDLE;
            *end = true;
            return i + 1;
        }
        if (told) {
            return i + 1;
        }
    }
    return len;
}
