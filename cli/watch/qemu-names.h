/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a QEMU can be told, by its own schema, and what was tried of that. */
#ifndef FF_CLI_WATCH_QEMU_NAMES_H
#define FF_CLI_WATCH_QEMU_NAMES_H

#include <glib.h>

/*
 * The names of QEMU's commands and events, and of what belongs to migrations: "capability:NAME",
 * "parameter:NAME", "parameter:NAME=VALUE", "migrate:MEMBER", "query-migrate:MEMBER". A set, to be
 * unreferenced; NULL: QEMU could not be asked. Starts QEMU once without a guest, in the process's
 * only thread.
 */
GHashTable *ff_qemu_names(const char *qemu);

/*
 * What is not as it was when farfault was tried with QEMUs, in words that follow "QEMU's path is
 * MAJOR.MINOR" (g_free); NULL: nothing. NAMES can be NULL.
 */
char *ff_qemu_untried(unsigned major, unsigned minor, GHashTable *names);

/* The names, by the versions that were tried; scripts/check-schema writes it. */
extern const char *const ff_qemu_tried[];

#endif
