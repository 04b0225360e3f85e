/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a QMP message begins and ends, and what it is, without interpreting it.
 *
 * Three parts, none of which does I/O: the framer (client to QEMU), the parser of one command,
 * and the splitter (QEMU to client). Client and relay must never disagree with QEMU about where
 * a command begins, so the framer follows QEMU's JSON lexer (json-lexer.c, json-streamer.c; the
 * same from 3.1 on), its limits and its recovery after an error included: one message of the
 * framer is one reply of QEMU. Every object belongs to one thread; no locks.
 */
#ifndef FF_GUEST_RELAY_QMP_FRAME_H
#define FF_GUEST_RELAY_QMP_FRAME_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

#include "qmp/dialect.h"

#define FF_QMP_MAX_SIZE ((size_t)64 << 20) /* bytes of tokens in one message, as in QEMU */
#define FF_QMP_MAX_TOKENS ((size_t)2 << 20)
#define FF_QMP_MAX_NESTING FF_DIALECT_MAX_NESTING

typedef struct FfQmpFramer FfQmpFramer;

FfQmpFramer *ff_qmp_framer_new(void);
void ff_qmp_framer_free(FfQmpFramer *framer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpFramer, ff_qmp_framer_free)
/*
 * Reads up to LEN bytes and stops after the first message that is complete, which *MESSAGE
 * (else NULL) then holds: a text that QEMU answers with exactly one reply, be it a command or
 * an error. Returns the number of bytes used, which is 0 when a message ended before BUF[0].
 * The messages together are what the client sent, except that bytes which QEMU skips silently
 * (after an error; the rest of a very long run of blanks) are left out, and that a newline is
 * added to a number or word at the top level, which QEMU would take as unfinished without it.
 */
size_t ff_qmp_framer_feed(FfQmpFramer *framer, const char *buf, size_t len, GBytes **message);
/* Bytes held of a message that is not complete. */
size_t ff_qmp_framer_pending(const FfQmpFramer *framer);
/* The same bytes. Fed to another framer they bring it to where this one is, if it MOVES: not while
 * it skips what comes after an error. Valid until the next call of feed. */
const char *ff_qmp_framer_held(const FfQmpFramer *framer);
bool ff_qmp_framer_moves(const FfQmpFramer *framer);
/* TRUE between two messages: what is held is blanks at most, and another framer can go on. */
bool ff_qmp_framer_rests(const FfQmpFramer *framer);

/* A command as far as the relay must understand it. */
typedef struct {
    char *name; /* NULL: QEMU will refuse it for its form (members missing, unexpected, ...) */
    bool oob;   /* it has "exec-oob" and no "execute"; also when NAME is NULL */
    char *id;   /* as plain JSON, numbers and strings as QEMU writes them; NULL if none */
    char *fdname, *command_line; /* of "arguments", if it has them as strings; else NULL */
    bool enable_oob;             /* "arguments" has "enable" with "oob" in it */
    GString *json;               /* the whole command as plain JSON on one line */
} FfQmpCommand;

/* Returns NULL when QEMU's parser would refuse TEXT or find something else than an object. */
FfQmpCommand *ff_qmp_command_parse(const char *text, size_t len);
void ff_qmp_command_free(FfQmpCommand *command);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpCommand, ff_qmp_command_free)
/* Whether two ids in plain JSON are the same value (the order of members does not count). NULL
 * is "no id". */
bool ff_qmp_id_equal(const char *a, const char *b);

typedef enum {
    FF_QMP_UNKNOWN, /* not enough seen of it yet, or nothing that QEMU would say */
    FF_QMP_GREETING,
    FF_QMP_REPLY,
    FF_QMP_EVENT,
} FfQmpKind;

/* What is known of the message that the splitter is in. */
typedef struct {
    FfQmpKind kind;
    bool is_error; /* a reply with "error" */
    bool returns;  /* a reply with "return": from after that name on */
    char *event;   /* name of an event once it was seen; else NULL */
    char *id;      /* of a reply, plain JSON, once it was seen; NULL if none or over 4 KiB */
} FfQmpAnswer;

typedef struct FfQmpSplitter FfQmpSplitter;

FfQmpSplitter *ff_qmp_splitter_new(void);
void ff_qmp_splitter_free(FfQmpSplitter *splitter);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpSplitter, ff_qmp_splitter_free)
/*
 * Reads up to LEN bytes and stops after the end of a message (its newline included) or as soon
 * as the kind of the message, that it returns something, or the name of the event becomes known;
 * *END says if it is the end. Returns the number of bytes used, which is 0 when a message without a
 * newline ended before BUF[0]. The next call after an end begins a new message.
 */
size_t ff_qmp_splitter_feed(FfQmpSplitter *splitter, const char *buf, size_t len, bool *end);
/* Valid until the next call of feed. */
const FfQmpAnswer *ff_qmp_splitter_answer(const FfQmpSplitter *splitter);
/* TRUE between two messages. */
bool ff_qmp_splitter_idle(const FfQmpSplitter *splitter);

#endif
