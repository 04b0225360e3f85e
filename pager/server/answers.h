/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Those that ask the pager how its clients stand. */
#ifndef FF_PAGER_SERVER_ANSWERS_H
#define FF_PAGER_SERVER_ANSWERS_H

#include "pager/server/sessions.h"

typedef struct {
    FfSessions *all;
    int control; /* listening, or -1: a line of JSON for each one that connects */
    int metrics; /* the same: OpenMetrics by HTTP, whatever is asked for */
} FfAnswers;

/* Answers in a thread of its own, from now on; A stays. FALSE: no thread can be had. */
bool ff_answers_start(FfAnswers *a, GError **error);

#endif
