/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's words for states, in sentences; and which of them say that something is under way. Pure
 * functions; any thread.
 */
#ifndef FF_CLI_WORDS_H
#define FF_CLI_WORDS_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/* "The guest ...": STATE of query-status; INFO of query-migrate, can be NULL. */
const char *ff_words_guest(const char *state, JsonObject *info);
/* "The migration ...", or "the live SNAPSHOT ...": STATUS of query-migrate. */
const char *ff_words_migration(const char *status, bool snapshot);
/* Of query-migrate: "21 ms", "300 ms expected" before the switch; NULL: nothing can be said
 * (g_free). */
char *ff_words_downtime(JsonObject *info);
/* A migration, snapshot or restore with this status continues, or may. */
bool ff_words_under_way(const char *status);
/* It is over. */
bool ff_words_over(const char *status);

#endif
