/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two monitors said while something was under way, with the time of each word: kept for a
 * page (cli/common/page.h), and written into a file of JSON lines (docs/design/report.md) from
 * which the page can be made later. One thread.
 */
#ifndef FF_CLI_COMMON_RECORD_H
#define FF_CLI_COMMON_RECORD_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#define FF_RECORD_VERSION 1

typedef enum { FF_SIDE_SOURCE, FF_SIDE_DESTINATION, FF_SIDES } FfSide;

/* One word: of .event and .info one is there. */
typedef struct {
    gint64 us; /* since the begin */
    FfSide side;
    JsonObject *event; /* QEMU's, whole */
    JsonObject *info;  /* query-migrate's answer */
} FfRecordEntry;

typedef struct FfRecord FfRecord;

/* PATH: is written as it comes, and must not be there, and is not there afterwards if nothing was
 * recorded; NULL: kept in memory alone. */
FfRecord *ff_record_new(const char *path, GError **error);
/* Reads what was written; a last line that is not whole is left out. */
FfRecord *ff_record_load(const char *path, GError **error);
void ff_record_free(FfRecord *record);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRecord, ff_record_free)

/* Time begins now. Before anything else is recorded. LOCAL: both sides are on this host, so their
 * clocks are one. */
void ff_record_begin(FfRecord *record, bool local);
/* Who SIDE is; VERSION and NAME can be NULL. */
void ff_record_side(FfRecord *record, FfSide side, const char *address, const char *version,
                    const char *name);
void ff_record_event(FfRecord *record, FfSide side, JsonObject *event);
/* An answer to query-migrate, as it is now (INFO stays as it is). It is left out if it comes soon
 * after one with the same status, measured by the time so far. */
void ff_record_info(FfRecord *record, FfSide side, JsonObject *info);
/* The same, US microseconds after the begin. */
void ff_record_info_at(FfRecord *record, FfSide side, JsonObject *info, gint64 us);
/* The end, as farfault migrate --json says it. */
void ff_record_result(FfRecord *record, JsonObject *result);
/* FALSE and ERROR: not all of it could be written. */
bool ff_record_close(FfRecord *record, GError **error);

const GArray *ff_record_entries(const FfRecord *record);            /* FfRecordEntry, by time */
JsonObject *ff_record_of_side(const FfRecord *record, FfSide side); /* as written; NULL: nobody */
JsonObject *ff_record_get_result(const FfRecord *record);           /* NULL: it did not come */
gint64 ff_record_started(const FfRecord *record);                   /* us since 1970; 0: unknown */
bool ff_record_is_local(const FfRecord *record);
/* "source", "destination" */
const char *ff_side_name(FfSide side);

#endif
