/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Draws faults at the engines' named points (base/failpoints.h).
 */
#ifndef FF_TESTS_CHAOS_POINTS_H
#define FF_TESTS_CHAOS_POINTS_H

#include <glib.h>
#include <stdbool.h>

/* The engines have such points. */
bool chaos_points_built(void);
/* N of them for SIDE ("source", "destination"), as VmConfig.faults; NULL if N is 0 (g_free). */
char *chaos_points_draw(GRand *rand, const char *side, unsigned n);

#endif
