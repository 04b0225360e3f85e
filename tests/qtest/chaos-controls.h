/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live snapshots that are wrong on purpose, with a real QEMU: that what chaos-snapshots looks at
 * finds it.
 */
#ifndef FF_TESTS_CHAOS_CONTROLS_H
#define FF_TESTS_CHAOS_CONTROLS_H

#include <stdbool.h>

/* With blanks between them. */
extern const char chaos_control_names[];
/* NULL: all. One line of TAP each. FALSE: one of them was not found, or a snapshot without the
 * fault is wrong; or there is none of this name. */
bool chaos_controls(const char *name);

#endif
