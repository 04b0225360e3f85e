/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See record-options.h. */
#include "cli/common/record-options.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/page.h"
#include "qmp/image-name.h"

void ff_record_options_clear(FfRecordOptions *o)
{
    g_clear_pointer(&o->report, g_free);
    g_clear_pointer(&o->record, g_free);
}

/* By name, also of what is not there yet, or as another name of what is. */
static bool is_same(const char *a, const char *b)
{
    g_autofree char *x = a ? g_canonicalize_filename(a, NULL) : NULL;
    g_autofree char *y = b ? g_canonicalize_filename(b, NULL) : NULL;

    return x && y && (!strcmp(x, y) || ff_is_same_file(x, y));
}

bool ff_record_options_check(const FfRecordOptions *o, const char *file, GError **error)
{
    if (is_same(o->report, o->record)) {
        g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                            "--report and --record: give two names");
        return false;
    }
    if (is_same(o->report, file) || is_same(o->record, file)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "%s: that is the guest's own file: give --report and --record other names",
                    file);
        return false;
    }
    return true;
}

bool ff_record_options_open(const FfRecordOptions *o, FfRecord **record, GError **error)
{
    g_autofree char *folder = o->report ? g_path_get_dirname(o->report) : NULL;

    *record = NULL;
    if (folder && g_access(folder, W_OK) != 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "--report %s: %s: %s",
                    o->report, folder, g_strerror(errno));
        return false;
    }
    if (o->report || o->record) {
        *record = ff_record_new(o->record, error);
    }
    return *record || !(o->report || o->record);
}

void ff_record_options_close(const FfRecordOptions *o, FfRecord *record)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GError) unwritten = NULL;

    if (!record) {
        return;
    }
    bool empty = ff_record_entries(record)->len == 0;

    if (!ff_record_close(record, &unwritten)) {
        fprintf(stderr, "farfault: --record: %s\n", unwritten->message);
    }
    /* Of what never began there is nothing to see. */
    if (o->report && !empty && !ff_page_save(record, o->report, &error)) {
        fprintf(stderr, "farfault: --report: %s\n", error->message);
    }
}
