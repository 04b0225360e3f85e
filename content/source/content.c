/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is the same for all backends; see content.h for the threads. What is known to be zeros is
 * not read. What was read is looked at, as a page of zeros costs a client no memory.
 *
 * No system calls.
 */
#include "content/source/content.h"

#include <gio/gio.h>
#include <string.h>

#include "content/image/zero.h"
#include "content/source/backend.h"

void ff_content_free(FfContent *c)
{
    if (!c) {
        return;
    }
    g_clear_pointer(&c->map, g_array_unref);
    g_clear_pointer(&c->name, g_free);
    if (c->ops->close) {
        c->ops->close(c);
    } else {
        g_free(c);
    }
}

const FfContentIdentity *ff_content_identity(const FfContent *c)
{
    return &c->id;
}

uint64_t ff_content_size(const FfContent *c)
{
    return c->size;
}

const char *ff_content_name(const FfContent *c)
{
    return c->name;
}

bool ff_content_is_compressed(const FfContent *c)
{
    return c->compressed;
}

bool ff_content_is_far(const FfContent *c)
{
    return c->where == FF_CONTENT_FAR;
}

bool ff_content_is_file(const FfContent *c)
{
    return c->where == FF_CONTENT_FILE;
}

/* ---- readers --------------------------------------------------------------------------------- */

FfContentReader *ff_content_reader(FfContent *c, GError **error)
{
    return c->ops->reader(c, error);
}

FfContentReader *ff_content_nowait_reader(FfContent *c)
{
    g_autoptr(FfContentReader) r = c->ops->can_nowait ? c->ops->reader(c, NULL) : NULL;

    return r && c->ops->can_nowait(r) ? g_steal_pointer(&r) : NULL;
}

void ff_content_reader_hurry(FfContentReader *r)
{
    r->hurry = true;
}

void ff_content_reader_until(FfContentReader *r, int64_t until)
{
    r->until = until;
}

void ff_content_rest(FfContent *c)
{
    if (c->ops->rest) {
        c->ops->rest(c);
    }
}

void ff_content_reader_free(FfContentReader *r)
{
    if (r) {
        r->content->ops->reader_close(r);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

bool ff_content_extent(FfContentReader *r, uint64_t at, uint64_t *len, unsigned flags, bool *zero,
                       GError **error)
{
    const FfContentOps *ops = r->content->ops;

    *zero = false;
    return !ops->extent || ops->extent(r, at, len, flags, zero, error);
}

/* One piece, of which parts are in different places (a huge page). */
static bool read_parts(FfContentReader *r, uint64_t at, char *buf, uint64_t len, GError **error)
{
    bool zero;

    for (uint64_t done = 0, some; done < len; done += some) {
        some = len - done;
        if (!ff_content_extent(r, at + done, &some, 0, &zero, error)) {
            return false;
        }
        if (zero) {
            memset(buf + done, 0, some);
        } else if (!r->content->ops->fill(r, at + done, buf + done, some, 0, error)) {
            return false;
        }
    }
    return true;
}

static bool read_some(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                      unsigned flags, bool *zero, GError **error)
{
    uint64_t some = *len;

    if (!ff_content_extent(r, at, &some, flags, zero, error)) {
        return false;
    }
    if (flags & FF_CONTENT_NOWAIT && some < *len) {
        return false;
    }
    some -= some % piece;
    if (!some) {
        *len = piece;
        *zero = false;
        return read_parts(r, at, buf, piece, error);
    }
    *len = some;
    return *zero || r->content->ops->fill(r, at, buf, some, flags, error);
}

static bool is_inside(const FfContent *c, uint64_t at, uint64_t len, GError **error)
{
    if (at <= c->size && len <= c->size - at) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "%s: it ends before", c->name);
    return false;
}

bool ff_content_read_bytes(FfContentReader *r, uint64_t at, void *buf, uint64_t len, GError **error)
{
    return is_inside(r->content, at, len, error) &&
           r->content->ops->fill(r, at, buf, len, 0, error);
}

bool ff_content_check(FfContentReader *r, GError **error)
{
    return !r->content->ops->check || r->content->ops->check(r, error);
}

/* FfInputRead */
static bool read_input(void *opaque, uint64_t at, void *to, size_t n, GError **error)
{
    return ff_content_read_bytes(opaque, at, to, n, error);
}

FfInput *ff_content_input(FfContentReader *r, GError **error)
{
    return ff_input_new_reads(r->content->name, r->content->size, read_input, r, error);
}

bool ff_content_read(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                     unsigned flags, bool *zero, GError **error)
{
    const FfContent *c = r->content;

    if (!is_inside(c, at, *len, error)) {
        return false;
    }
    if (c->ops->read) {
        return !(flags & FF_CONTENT_NOWAIT) && c->ops->read(r, at, buf, len, piece, zero, error);
    }
    if (!read_some(r, at, buf, len, piece, flags, zero, error)) {
        return false;
    }
    *zero = *zero || ff_saved_is_zero(buf, *len);
    return ff_content_check(r, error);
}
