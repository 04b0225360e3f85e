/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two sides (side.h) of one migration, in one process. */
#ifndef FF_TESTS_PAIR_H
#define FF_TESTS_PAIR_H

#include "tests/lib/side.h"

#define PAIR_BLOCKS 2
extern const uint64_t pair_sizes[PAIR_BLOCKS];

typedef struct {
    Side *s, *d;
} Pair;

/* The source filled, the destination not started yet. */
Pair pair_idle(unsigned n_touchers);
/* The same, with a destination that listens at a port of its own. */
Pair pair_new(unsigned n_touchers);
/* Where it listens; g_free. */
char *pair_address(Side *d);
/* Until both sides have this status. */
void pair_run_to(Pair *p, FfStatus status);
/* Until both sides have ended; the guest is at the destination, whole. */
void pair_run_to_end(Pair *p);
/* Nothing more happens on this side by itself. */
bool pair_over(const Side *s);
/* What was moved is equal, and no vCPU saw anything else. */
void pair_check_equal(Pair *p);
/* The guest is at the destination, whole. */
void pair_check_moved(Pair *p);
/* Source: migrate with resume=true; returns when something has come of it. */
void pair_resume_at(Pair *p, const char *uri);
void pair_free(Pair *p);

#endif
