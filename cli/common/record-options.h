/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * --report FILE.html and --record FILE of a command that lasts: the record (cli/common/record.h),
 * the page (cli/common/page.h), or both. One thread.
 */
#ifndef FF_CLI_COMMON_RECORD_OPTIONS_H
#define FF_CLI_COMMON_RECORD_OPTIONS_H

#include "cli/common/record.h"

typedef struct {
    char *report, *record; /* paths; NULL: not wanted */
} FfRecordOptions;
void ff_record_options_clear(FfRecordOptions *options);

/* FALSE: they do not go together, or one is FILE (NULL: none), which the command writes or reads.
 */
bool ff_record_options_check(const FfRecordOptions *options, const char *file, GError **error);
/* *RECORD is NULL if neither option was given. FALSE and ERROR: the record or the page could not be
 * written. */
bool ff_record_options_open(const FfRecordOptions *options, FfRecord **record, GError **error);
/* At the end: RECORD (can be NULL) is on the disk, and its page is made. What became of the command
 * stands, whatever goes wrong here: that is said on stderr. */
void ff_record_options_close(const FfRecordOptions *options, FfRecord *record);

#endif
