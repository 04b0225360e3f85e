/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See recorder.h. */
#include "cli/common/recorder.h"

#include "qmp/json.h"

void ff_recorder_event(const FfRecorder *r, JsonObject *event)
{
    if (r->record && event) {
        ff_record_event(r->record, r->side, event);
    }
}

void ff_recorder_info(const FfRecorder *r, JsonNode *result)
{
    JsonObject *info = ff_json_node_object(result);

    if (r->record && info) {
        ff_record_info(r->record, r->side, info);
    }
}

static void on_look(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    FfRecorder *r = opaque;

    r->looking = false;
    ff_recorder_info(r, result);
}

void ff_recorder_look(FfRecorder *r)
{
    if (r->record && !r->looking) {
        r->looking = true;
        ff_cli_qmp_send(r->qmp, "query-migrate", NULL, on_look, r);
    }
}

void ff_recorder_forget(FfRecorder *r)
{
    ff_cli_qmp_forget(r->qmp, r);
}
