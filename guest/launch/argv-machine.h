/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asks a QEMU what a machine type calls its RAM. */
#ifndef FF_GUEST_LAUNCH_ARGV_MACHINE_H
#define FF_GUEST_LAUNCH_ARGV_MACHINE_H

#include <glib.h>
#include <stdbool.h>

/*
 * Starts QEMU (a path) without a guest, and finds the machine of the name or the alias TYPE. TRUE:
 * *RAM_ID (g_free) is its default-ram-id, NULL if it makes no RAM of its own. FALSE: it has no such
 * machine, or does not answer within 60 s. From a process with one thread.
 */
bool ff_argv_ask_ram_id(const char *qemu, const char *type, char **ram_id);

#endif
