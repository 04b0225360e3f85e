/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The types of farfault.json as C tables (made by generate.py), and the check of a JSON value
 * against one: what QEMU's input visitor does, with its wording.
 *
 * Pure functions over constant tables; any thread.
 */
#ifndef FF_QAPI_SCHEMA_H
#define FF_QAPI_SCHEMA_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef enum {
    FF_QAPI_INT,
    FF_QAPI_UINT,
    FF_QAPI_NUMBER,
    FF_QAPI_BOOL,
    FF_QAPI_STR,
    FF_QAPI_NULL,
    FF_QAPI_ANY,
    FF_QAPI_ENUM,
    FF_QAPI_ARRAY,
    FF_QAPI_STRUCT,
    FF_QAPI_UNION,
    FF_QAPI_ALTERNATE,
} FfQapiKind;

typedef struct FfQapiType FfQapiType;

typedef struct {
    const char *name; /* NULL ends a list */
    const FfQapiType *type;
    bool optional;
} FfQapiMember;

struct FfQapiType {
    const char *name;
    FfQapiKind kind;
    unsigned bits;                /* INT, UINT */
    const FfQapiType *element;    /* ARRAY */
    const FfQapiMember *members;  /* STRUCT, UNION (its base), ALTERNATE */
    const FfQapiMember *branches; /* UNION: name is the value of the discriminator */
    const char *discriminator;    /* UNION */
    const char *const *values;    /* ENUM, NULL-terminated */
};

typedef struct {
    const char *name; /* NULL ends the table */
    const FfQapiType *arguments;
    const FfQapiType *returns; /* NULL: an empty object */
    bool allow_oob;
    bool open; /* additional arguments are allowed and not checked ('gen': false) */
} FfQapiCommand;

typedef struct {
    const char *name; /* NULL ends the table */
    const FfQapiType *data;
} FfQapiEvent;

extern const FfQapiCommand ff_qapi_commands[];
extern const FfQapiEvent ff_qapi_events[];

/* NULL if the schema has no such command or event. */
const FfQapiCommand *ff_qapi_command(const char *name);
const FfQapiEvent *ff_qapi_event(const char *name);

/*
 * Checks the arguments of COMMAND (ARGUMENTS may be NULL: none given). Returns NULL if they are
 * right, else QEMU's text of the error (g_free).
 */
char *ff_qapi_check_arguments(const FfQapiCommand *command, JsonObject *arguments);

/* Checks any VALUE against TYPE; NULL if it fits, else the text (g_free). */
char *ff_qapi_check(const FfQapiType *type, JsonNode *value);

/* The type of member NAME of a struct or union type; NULL if there is none. VALUE (may be NULL)
 * decides about the branch of a union. */
const FfQapiType *ff_qapi_member_type(const FfQapiType *type, const char *name, JsonObject *value);

#endif
