/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text of the human monitor: results of QMP commands as it prints them, and values as it reads
 * them. Lines end with "\n" here. Pure; any thread.
 */
#ifndef FF_QAPI_HMP_TEXT_H
#define FF_QAPI_HMP_TEXT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

void ff_hmp_migrate(GString *out, JsonNode *result);
/* The lines of "info migrate" TEXT that do not depend on the migration (g_free); NULL: none. */
char *ff_hmp_globals(const char *text);
void ff_hmp_info_migrate(GString *out, JsonNode *result);
void ff_hmp_info_capabilities(GString *out, JsonNode *result);
void ff_hmp_info_parameters(GString *out, JsonNode *result);
void ff_hmp_info_status(GString *out, JsonNode *result);

/* "10", "1.5G", ...; UNIT is the factor where none is given. */
bool ff_hmp_parse_size(const char *text, uint64_t unit, uint64_t *size);

#endif
