/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The framer of the client's side: cuts the byte stream where QEMU's JSON lexer would.
 *
 * Two layers, as in QEMU: a lexer that finds tokens one byte at a time, and a counter of braces
 * and brackets that says when the tokens make a message. Facts of QEMU 7.2 that the code rests
 * on (each is compared with the real QEMU in tests/qtest/test-monitors.c):
 *  - a lexical error ends the message at once (one error reply); then everything up to a
 *    structural character, a control character other than tab, or 0xFE/0xFF is skipped;
 *  - numbers and words end before the next byte, so at the top level QEMU answers one only
 *    when that byte came;
 *  - braces and brackets are counted apart: "{]" ends a message because the count of brackets
 *    went below zero;
 *  - the limits (size, tokens, nesting) end the message with an error, without skipping.
 *
 * One thread; no locks.
 */
#include "guest/relay/qmp-frame.h"

#include <string.h>

/* Blanks in a row that are kept; QEMU skips them all, and they are no part of its limits. */
#define MAX_BLANKS 4096

typedef enum {
    LEX_START,
    LEX_RECOVERY,
    LEX_DQ,
    LEX_DQ_ESCAPE,
    LEX_SQ,
    LEX_SQ_ESCAPE,
    LEX_ZERO,
    LEX_SIGN,
    LEX_DIGITS,
    LEX_POINT,
    LEX_FRACTION,
    LEX_EXP,
    LEX_EXP_SIGN,
    LEX_EXP_DIGITS,
    LEX_WORD,
} LexState;

/* What one byte does. */
typedef enum {
    STEP_MORE,   /* part of a token that continues */
    STEP_BLANK,  /* white space between tokens */
    STEP_SKIP,   /* skipped after an error */
    STEP_TOKEN,  /* last byte of a token */
    STEP_BEFORE, /* the token ended before it: look at it again */
    STEP_RESUME, /* skipping ended before it: look at it again */
    STEP_ERROR,  /* belongs to nothing */
} LexStep;

struct FfQmpFramer {
    LexState state;
    char token;       /* first byte of the token */
    size_t token_len; /* bytes of the token so far */
    size_t size;      /* bytes of the message's tokens */
    size_t tokens;
    long braces, brackets;
    size_t blanks; /* in a row */
    GByteArray *raw;
};

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static LexStep next_state(FfQmpFramer *f, LexState next)
{
    f->state = next;
    return STEP_MORE;
}

static LexStep lex_start(FfQmpFramer *f, unsigned char c)
{
    switch (c) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return STEP_BLANK;
    case '{':
    case '}':
    case '[':
    case ']':
    case ',':
    case ':':
        return STEP_TOKEN;
    case '"':
        return next_state(f, LEX_DQ);
    case '\'':
        return next_state(f, LEX_SQ);
    case '0':
        return next_state(f, LEX_ZERO);
    case '-':
        return next_state(f, LEX_SIGN);
    default:
        if (is_digit(c)) {
            return next_state(f, LEX_DIGITS);
        }
        return c >= 'a' && c <= 'z' ? next_state(f, LEX_WORD) : STEP_ERROR;
    }
}

static LexStep lex_string(FfQmpFramer *f, unsigned char c, char quote, LexState escape)
{
    if (c < 0x20 || c > 0xFD) {
        return STEP_ERROR;
    }
    if (c == (unsigned char)quote) {
        return STEP_TOKEN;
    }
    return c == '\\' ? next_state(f, escape) : STEP_MORE;
}

static LexStep lex_number(FfQmpFramer *f, unsigned char c)
{
    switch (f->state) {
    case LEX_ZERO:
        if (is_digit(c)) {
            return STEP_ERROR;
        }
        return c == '.' ? next_state(f, LEX_POINT) : STEP_BEFORE;
    case LEX_SIGN:
        if (c == '0') {
            return next_state(f, LEX_ZERO);
        }
        return is_digit(c) ? next_state(f, LEX_DIGITS) : STEP_ERROR;
    case LEX_DIGITS:
    case LEX_FRACTION:
        if (is_digit(c)) {
            return STEP_MORE;
        }
        if (c == 'e' || c == 'E') {
            return next_state(f, LEX_EXP);
        }
        return c == '.' && f->state == LEX_DIGITS ? next_state(f, LEX_POINT) : STEP_BEFORE;
    case LEX_POINT:
        return is_digit(c) ? next_state(f, LEX_FRACTION) : STEP_ERROR;
    case LEX_EXP:
        if (c == '-' || c == '+') {
            return next_state(f, LEX_EXP_SIGN);
        }
        return is_digit(c) ? next_state(f, LEX_EXP_DIGITS) : STEP_ERROR;
    case LEX_EXP_SIGN:
        return is_digit(c) ? next_state(f, LEX_EXP_DIGITS) : STEP_ERROR;
    default: /* LEX_EXP_DIGITS */
        return is_digit(c) ? STEP_MORE : STEP_BEFORE;
    }
}

static LexStep lex_recovery(unsigned char c)
{
    bool resume = (c < 0x20 && c != '\t') || c > 0xFD || strchr("{}[]:,", c);

    return resume ? STEP_RESUME : STEP_SKIP;
}

static LexStep lex_step(FfQmpFramer *f, unsigned char c)
{
    switch (f->state) {
    case LEX_START:
        return lex_start(f, c);
    case LEX_RECOVERY:
        return lex_recovery(c);
    case LEX_DQ:
        return lex_string(f, c, '"', LEX_DQ_ESCAPE);
    case LEX_SQ:
        return lex_string(f, c, '\'', LEX_SQ_ESCAPE);
    case LEX_DQ_ESCAPE:
        return c < 0x20 || c > 0xFD ? STEP_ERROR : next_state(f, LEX_DQ);
    case LEX_SQ_ESCAPE:
        return c < 0x20 || c > 0xFD ? STEP_ERROR : next_state(f, LEX_SQ);
    case LEX_WORD:
        return c >= 'a' && c <= 'z' ? STEP_MORE : STEP_BEFORE;
    default:
        return lex_number(f, c);
    }
}

/* A token is whole. Returns TRUE when the message is, too. */
static bool framer_token(FfQmpFramer *f)
{
    switch (f->token_len == 1 ? f->token : 0) {
    case '{':
        f->braces++;
        break;
    case '}':
        f->braces--;
        break;
    case '[':
        f->brackets++;
        break;
    case ']':
        f->brackets--;
        break;
    }
    if (f->size + f->token_len + 1 > FF_QMP_MAX_SIZE || f->tokens + 1 > FF_QMP_MAX_TOKENS ||
        f->braces + f->brackets > FF_QMP_MAX_NESTING) {
        return true;
    }
    f->size += f->token_len;
    f->tokens++;
    f->token_len = 0;
    return !((f->braces > 0 || f->brackets > 0) && f->braces >= 0 && f->brackets >= 0);
}

static GBytes *framer_take(FfQmpFramer *f, LexState next)
{
    GBytes *message = g_byte_array_free_to_bytes(f->raw);

    f->raw = g_byte_array_new();
    f->state = next;
    f->token_len = f->size = f->tokens = f->blanks = 0;
    f->braces = f->brackets = 0;
    return message;
}

FfQmpFramer *ff_qmp_framer_new(void)
{
    FfQmpFramer *f = g_new0(FfQmpFramer, 1);

    f->raw = g_byte_array_new();
    return f;
}

void ff_qmp_framer_free(FfQmpFramer *f)
{
    g_byte_array_unref(f->raw);
    g_free(f);
}

size_t ff_qmp_framer_pending(const FfQmpFramer *f)
{
    return f->raw->len;
}

const char *ff_qmp_framer_held(const FfQmpFramer *f)
{
    return (const char *)f->raw->data;
}

bool ff_qmp_framer_moves(const FfQmpFramer *f)
{
    return f->state != LEX_RECOVERY;
}

bool ff_qmp_framer_rests(const FfQmpFramer *f)
{
    return f->state == LEX_START && !f->tokens && !f->braces && !f->brackets;
}

static void framer_keep(FfQmpFramer *f, const char *from, const char *to)
{
    if (to > from) {
        g_byte_array_append(f->raw, (const guint8 *)from, to - from);
    }
}

/* The token before BUF[I] is whole, and so is its message. A blank goes with it, as what ends
 * the token for QEMU; else a newline does that. Returns the number of bytes used. */
static size_t framer_end_before(FfQmpFramer *f, const char *buf, size_t i, size_t kept)
{
    framer_keep(f, buf + kept, buf + i);
    if (strchr(" \t\r\n", buf[i]) && buf[i]) {
        framer_keep(f, buf + i, buf + i + 1);
        return i + 1;
    }
    g_byte_array_append(f->raw, (const guint8 *)"\n", 1);
    return i;
}

size_t ff_qmp_framer_feed(FfQmpFramer *f, const char *buf, size_t len, GBytes **message)
{
    size_t i = 0, kept = 0; /* BUF[KEPT, I) is to be kept */

    *message = NULL;
    while (i < len) {
        LexStep step = lex_step(f, buf[i]);
        bool whole = false;

        switch (step) {
        case STEP_RESUME:
            f->state = LEX_START;
            continue;
        case STEP_BEFORE:
            f->state = LEX_START;
            if (framer_token(f)) {
                i = framer_end_before(f, buf, i, kept);
                *message = framer_take(f, LEX_START);
                return i;
            }
            continue;
        case STEP_SKIP:
        case STEP_BLANK:
            if (step == STEP_SKIP || ++f->blanks > MAX_BLANKS) {
                framer_keep(f, buf + kept, buf + i);
                kept = i + 1;
            }
            i++;
            continue;
        case STEP_ERROR:
            framer_keep(f, buf + kept, buf + i + 1);
            *message = framer_take(f, LEX_RECOVERY);
            return i + 1;
        case STEP_TOKEN:
        case STEP_MORE:
            break;
        }
        f->blanks = 0;
        f->token = f->token_len++ ? f->token : buf[i];
        i++;
        if (step == STEP_TOKEN) {
            f->state = LEX_START;
            whole = framer_token(f);
        }
        if (whole || f->token_len > FF_QMP_MAX_SIZE) {
            framer_keep(f, buf + kept, buf + i);
            *message = framer_take(f, LEX_START);
            return i;
        }
    }
    framer_keep(f, buf + kept, buf + i);
    return i;
}
