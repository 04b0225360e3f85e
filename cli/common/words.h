/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's words for states, in sentences; and which of them say that something is under way. Pure
 * functions; any thread.
 */
#ifndef FF_CLI_COMMON_WORDS_H
#define FF_CLI_COMMON_WORDS_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef enum {
    FF_WORDS_MIGRATION,
    FF_WORDS_SNAPSHOT,
    FF_WORDS_RESTORE,
    FF_WORDS_UPGRADE
} FfWordsKind;

/* What INFO of query-migrate is about; can be NULL. */
FfWordsKind ff_words_kind(JsonObject *info);
/* "migration", "live snapshot" ... */
const char *ff_words_kind_name(FfWordsKind kind);
/* What a person types to let a guest run: "stands: " FF_WORDS_CONT. */
#define FF_WORDS_CONT                                                                              \
    "cont at its human monitor, or {\"execute\": \"cont\"} at its QMP monitor, lets it run"

/* "The guest ...": STATE of query-status; INFO of query-migrate, can be NULL. */
const char *ff_words_guest(const char *state, JsonObject *info);
/* "The migration ...", or what else KIND is: STATUS of query-migrate. */
const char *ff_words_migration(const char *status, FfWordsKind kind);
/* Of query-migrate: "21 ms", "300 ms expected" before the switch; NULL: nothing can be said
 * (g_free). */
char *ff_words_downtime(JsonObject *info);
/* A migration, snapshot or restore with this status continues, or may. */
bool ff_words_under_way(const char *status);
/* It is over. */
bool ff_words_over(const char *status);

#endif
