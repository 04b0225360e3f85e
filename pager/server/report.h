/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How each client stands. */
#ifndef FF_PAGER_SERVER_REPORT_H
#define FF_PAGER_SERVER_REPORT_H

#include <json-glib/json-glib.h>

#include "pager/server/sessions.h"

/* An array with an object for each. Any thread. */
JsonNode *ff_sessions_report(FfSessions *all);
/* The same as OpenMetrics (g_free). */
char *ff_sessions_metrics(FfSessions *all);

#endif
