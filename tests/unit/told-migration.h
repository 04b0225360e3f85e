/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a driver is linked with in place of migrations: one that moves nothing, obeys, and reports
 * what it is told to report.
 */
#ifndef FF_TESTS_UNIT_TOLD_MIGRATION_H
#define FF_TESTS_UNIT_TOLD_MIGRATION_H

#include "migration/migration.h"

struct FfMigration {
    FfMigrationOps ops;
    FfMigrationConfig config;
    FfMigrationInfo info;
    bool holds, moves, start_postcopy, cancelled, conted, auto_postcopy, synced, words_heard;
    uint64_t downtime_limit;
    uint64_t bandwidth;
    char *resumed_at;
    bool recover_setup, lives_on, spare;
};

extern FfMigration *migration; /* the one that runs, or NULL */
extern bool refuse_start;

/* The migration has STATUS now; and with it its end. */
void become(FfStatus status);
void finish(FfStatus status);
/* The same, of a line: a status by name, or "over " and a status. False: it names none. */
bool become_named(const char *text);

#endif
