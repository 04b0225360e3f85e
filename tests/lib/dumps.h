/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dumps (docs/dump.md) that a test changes: damaged ones, and ones that say something else and
 * whose checksums hold.
 */
#ifndef FF_TESTS_DUMPS_H
#define FF_TESTS_DUMPS_H

#include <glib.h>
#include <stdbool.h>

/* Byte AT of the file NAME becomes another one: returns what it was, for a second call. */
char dump_change(const char *dir, const char *name, gsize at, char to);
/* The same with every bit of it inverted. */
void dump_flip(const char *dir, const char *name, gsize at);
/* How long the file is; makes it BY bytes shorter. */
gsize dump_cut(const char *dir, const char *name, gsize by);
/* The files' names (g_strfreev). */
char **dump_names(const char *dir);
/* Sets KEY of GROUP in the description; the checksums of lists and description are made again. */
void dump_say(const char *dir, const char *group, const char *key, const char *value);
/* Of memory that was changed: its checksums, and those of lists and description. */
void dump_sum_memory(const char *dir, unsigned block);
/* The checksums alone: of lists that were changed. */
void dump_seal(const char *dir);
/* What the description says (g_free). */
char *dump_said(const char *dir, const char *group, const char *key);
/* Writes all of it into a new directory. */
void dump_copy(const char *from, const char *to);
void dump_remove(const char *dir);

#endif
