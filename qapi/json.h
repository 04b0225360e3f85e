/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON as QEMU's monitor reads and writes it.
 *
 * Pure functions; any thread.
 */
#ifndef FF_QAPI_JSON_H
#define FF_QAPI_JSON_H

#include <glib.h>
#include <json-glib/json-glib.h>

#include "qapi/schema.h"
#include "qmp/dialect.h"
#include "qmp/json.h"

/*
 * Reads one value of LENGTH bytes of TEXT in QEMU's dialect (qmp/dialect.h) and returns it as
 * strict JSON on one line, as QEMU writes it (g_free). *ID_TEXT (g_free; may be NULL) is set to the
 * text of member "id" of an object, or NULL if there is none. What QEMU refuses (repeated keys,
 * control characters, leading zeros, nesting deeper than 1024, ...) and a NUL in a string, which a
 * C string cannot have, give NULL and ERROR.
 */
char *ff_json_strict(const char *text, gsize length, char **id_text, GError **error);

/* The same, parsed. Free with json_node_unref(). */
JsonNode *ff_json_parse(const char *text, gsize length, char **id_text, GError **error);

/* Appends NODE to OUT, spaced and escaped as QEMU writes it. TYPE (may be NULL) tells unsigned
 * numbers from signed ones. */
void ff_json_print(GString *out, JsonNode *node, const FfQapiType *type);

#endif
