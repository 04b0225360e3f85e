/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The names of phases and of the right to run, as docs and tools show them. Constant data.
 */
#ifndef FF_CONTRACT_NAMES_H
#define FF_CONTRACT_NAMES_H

#include "contract/state.h"

static const char *const ff_phase_names[] = {"IDLE",   "SETUP",   "STOPPED", "LOADING",
                                             "LOADED", "GRANTED", "DONE",    "DEAD"};
static const char *const ff_right_names[] = {"NONE", "MINE", "GIVEN"};
static_assert(sizeof(ff_phase_names) / sizeof(char *) == FF_PHASE_DEAD + 1, "all");
static_assert(sizeof(ff_right_names) / sizeof(char *) == FF_RUN_GIVEN + 1, "all");

#endif
