/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counts pages; see statistics.h. Of mapped-ram only the bitmaps are read; an ordinary stream is
 * read to its end, and a page counts as it was saved last.
 *
 * System calls: none.
 */
#include "content/image/statistics.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "content/image/completeness.h"
#include "content/image/mapped.h"
#include "content/image/pageset.h"
#include "content/image/records.h"

typedef struct {
    FfSurvey *v;
    uint64_t **with_data, **zero; /* a set for each block */
} Count;

static bool count_data(void *opaque, guint block, uint64_t page, const uint8_t *bytes,
                       GError **error)
{
    Count *c = opaque;
    FfSurveyBlock *b = &c->v->blocks[block];

    if (!ff_pageset_has(c->with_data[block], page)) {
        ff_pageset_add(c->with_data[block], page);
        b->data++;
        if (ff_pageset_has(c->zero[block], page)) {
            ff_pageset_remove(c->zero[block], page);
            b->zero--;
        }
    }
    return true;
}

static bool count_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    Count *c = opaque;
    FfSurveyBlock *b = &c->v->blocks[block];

    if (!ff_pageset_has(c->zero[block], page)) {
        ff_pageset_add(c->zero[block], page);
        b->zero++;
        if (ff_pageset_has(c->with_data[block], page)) {
            ff_pageset_remove(c->with_data[block], page);
            b->data--;
        }
    }
    return true;
}

static bool count_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    ((FfSurveyBlock *)opaque)->data += n;
    return true;
}

static uint64_t block_pages(const FfSaved *s, guint i)
{
    return ff_saved_block(s, i)->size / FF_SAVED_PAGE;
}

static bool make_sets(const FfSaved *s, Count *c, GError **error)
{
    for (guint i = 0; i < s->blocks->len && s->form == FF_SAVED_STREAM; i++) {
        c->with_data[i] = ff_pageset_new(block_pages(s, i));
        c->zero[i] = ff_pageset_new(block_pages(s, i));
        if (!c->with_data[i] || !c->zero[i]) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "%s: no memory for the bitmaps of %" PRIu64 " bytes of guest memory",
                        ff_input_path(s->in), s->memory);
            return false;
        }
    }
    return true;
}

static bool walk_file(FfSaved *s, FfSurvey *v, GError **error)
{
    static const FfPageSink sink = {count_data, count_zero};
    guint n = s->blocks->len;
    Count c = {v, g_new0(uint64_t *, n), g_new0(uint64_t *, n)};
    bool ok = make_sets(s, &c, error) && ff_records_walk(s, &sink, &c, error);

    for (guint i = 0; i < n; i++) {
        free(c.with_data[i]);
        free(c.zero[i]);
    }
    g_free(c.with_data);
    g_free(c.zero);
    return ok;
}

static bool count_mapped(const FfSaved *s, FfSurvey *v, GError **error)
{
    for (guint i = 0; i < s->blocks->len && s->form == FF_SAVED_MAPPED; i++) {
        const FfSavedBlock *b = ff_saved_block(s, i);

        if (ff_saved_block_is_outside(s, b)) {
            continue;
        }
        if (!ff_mapped_runs(s, b, count_run, &v->blocks[i], error)) {
            return false;
        }
        v->blocks[i].zero = block_pages(s, i) - v->blocks[i].data;
    }
    return true;
}

static void at_least(FfSurvey *v, unsigned major, unsigned minor)
{
    if (major > v->major || (major == v->major && minor > v->minor)) {
        v->major = major;
        v->minor = minor;
    }
}

/* The machine type's version, and what only newer ones write. */
static void find_version(const FfSaved *s, FfSurvey *v)
{
    const char *dash = strrchr(s->machine, '-');
    unsigned major, minor;

    if (dash && sscanf(dash, "-%4u.%4u", &major, &minor) == 2) {
        at_least(v, major, minor);
        v->machine_major = major;
        v->machine_minor = minor;
    }
    if (s->form == FF_SAVED_MAPPED) {
        at_least(v, 9, 0);
    }
}

FfSurvey *ff_statistics_new(FfSaved *s, const GError *opened)
{
    FfSurvey *v = g_new0(FfSurvey, 1);
    g_autoptr(GError) error = opened ? g_error_copy(opened) : NULL;

    v->blocks = g_new0(FfSurveyBlock, s->blocks->len);
    v->complete =
        !error && walk_file(s, v, &error) && count_mapped(s, v, &error) && ff_tail_check(s, &error);
    v->problem = error ? g_strdup(error->message) : NULL;
    for (guint i = 0; i < s->blocks->len; i++) {
        FfSurveyBlock *b = &v->blocks[i];

        b->absent = block_pages(s, i) - b->data - b->zero;
        v->data += b->data;
        v->zero += b->zero;
        v->absent += b->absent;
    }
    find_version(s, v);
    return v;
}

void ff_statistics_free(FfSurvey *v)
{
    if (v) {
        g_free(v->blocks);
        g_free(v->problem);
        g_free(v);
    }
}
