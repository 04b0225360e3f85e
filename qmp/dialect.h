/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON as QEMU reads and writes it, as text.
 *
 * QEMU's dialect is wider than JSON (strings in single quotes, \' as an escape) and narrower (no
 * repeated keys, no characters that never are one). What relay or engine take for a command must be
 * what QEMU would, so both read with this reader. It needs nothing but GLib's base, for the relay.
 * Pure functions; any thread.
 */
#ifndef FF_QMP_DIALECT_H
#define FF_QMP_DIALECT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

#define FF_DIALECT_MAX_NESTING 1024 /* QEMU's */
#define FF_DIALECT_VISITED 3        /* levels below the outermost value */

/* A value that has been read. All of it is borrowed, until the visitor returns. */
typedef struct {
    unsigned depth;                      /* 1: a member of the outermost value, ... */
    const char *key[FF_DIALECT_VISITED]; /* the way to it, .depth of them; NULL: in an array */
    char kind;                           /* '{', '[', '"', '0' (a number) or 't' (a word) */
    const char *string;                  /* of '"', decoded; NUL is C0 80, as in QEMU; else NULL */
    const char *text;                    /* as QEMU writes it, */
    size_t len;                          /* so many bytes */
} FfDialectValue;

/* Called after each value down to FF_DIALECT_VISITED, inner ones first. */
typedef void FfDialectVisit(const FfDialectValue *value, void *opaque);

/* What QEMU's parser refuses a text for. */
typedef struct {
    const char *why; /* a static text */
    size_t at;       /* bytes from the start */
} FfDialectError;

typedef enum {
    FF_DIALECT_NUL = 1,     /* a string may have a NUL, as in QEMU */
    FF_DIALECT_NUMBERS = 2, /* numbers are written as QEMU would; else they stay as they are, so
                               that 1.0 is no integer */
    FF_DIALECT_ID = 4,      /* the same for those in the outermost object's "id", which QEMU says
                               again with its answer */
} FfDialectFlags;

/*
 * Reads one value of LEN bytes of TEXT and returns it as QEMU would write it, on one line: strict
 * JSON in ASCII. VISIT may be NULL; it may have been called for parts of a text that is refused.
 * What QEMU refuses gives NULL and ERROR (may be NULL).
 */
GString *ff_dialect_read(const char *text, size_t len, FfDialectFlags flags, FfDialectVisit *visit,
                         void *opaque, FfDialectError *error);

/* Appends STRING (UTF-8) to OUT as QEMU writes a JSON string, quotes included. */
void ff_dialect_print_string(GString *out, const char *string);

#endif
