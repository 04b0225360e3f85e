/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One side of what is recorded (cli/common/record.h), as a command meets it: events, answers to
 * query-migrate, and answers that are asked for because of the record alone. One thread.
 */
#ifndef FF_CLI_COMMON_RECORDER_H
#define FF_CLI_COMMON_RECORDER_H

#include "cli/common/qmp.h"
#include "cli/common/record.h"

#define FF_RECORD_INTERVAL 100 /* ms between two looks */

/* Its address stays as it is while a look is under way. */
typedef struct {
    FfRecord *record; /* borrowed; NULL: nothing is recorded, and none of these does anything */
    FfSide side;
    FfCliQmp *qmp; /* borrowed */
    bool looking;
} FfRecorder;

void ff_recorder_event(const FfRecorder *recorder, JsonObject *event); /* EVENT can be NULL */
void ff_recorder_info(const FfRecorder *recorder, JsonNode *result);   /* so can RESULT */
/* Asks for the numbers, unless an answer is outstanding. */
void ff_recorder_look(FfRecorder *recorder);
/* No answer comes any more. Before .qmp is freed. */
void ff_recorder_forget(FfRecorder *recorder);

#endif
