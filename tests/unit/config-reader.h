/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file for -readconfig as QEMU itself reads it, accidents and all: what the launcher has
 * understood of one is compared with that.
 */
#ifndef FF_TESTS_CONFIG_READER_H
#define FF_TESTS_CONFIG_READER_H

#include "guest/launch/plan.h"

/* Fails the test if PLAN, whose monitors all have the fd FD, leaves the guest to the engine
 * although QEMU makes a QMP monitor of its own from TEXT: of a chardev in it that is not FD. TEXT
 * is what QEMU gets. */
void config_check_monitors(const FfPlan *plan, const char *text, int fd);

#endif
