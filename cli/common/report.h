/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a migration came to, for people and for programs. No state; any thread.
 */
#ifndef FF_CLI_COMMON_REPORT_H
#define FF_CLI_COMMON_REPORT_H

#include "cli/common/move-result.h"

#include <stdio.h>

/* The outcome and the numbers, in words; the latency histogram drawn in text. */
void ff_report_text(FILE *out, const FfMoveResult *result);
/* The same as a JSON object (json_object_unref()); and that on one line. */
JsonObject *ff_report_object(const FfMoveResult *result);
void ff_report_json(FILE *out, const FfMoveResult *result);
/* The lines about one side's migration INFO (query-migrate) that both of the above and
 * farfault status share: bytes, pages by kind, requests. */
void ff_report_ram(FILE *out, JsonObject *info);
/* The lines about requests of the destination's INFO, or a live snapshot's writes, with the
 * histogram; nothing if INFO has no "x-farfault". */
void ff_report_latency(FILE *out, JsonObject *info);
/* One line: "  NAME         VALUE". */
void ff_report_row(FILE *out, const char *name, const char *format, ...) G_GNUC_PRINTF(3, 4);

#endif
