/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest in two halves, in words. */
#ifndef FF_CLI_COMMON_HALVES_REPORT_H
#define FF_CLI_COMMON_HALVES_REPORT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdio.h>

/* QEMU's main loop may wait for a page: it is not to be asked anything. */
bool ff_halves_lack_pages(JsonObject *info);
/* INFO: the answer to query-migrate of the monitor at ADDRESS. Prints nothing if the guest is
 * whole.
 */
void ff_halves_print(FILE *out, JsonObject *info, const char *address);

#endif
