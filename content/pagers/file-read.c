/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads of content by a thread that can be left behind (reader.h). It has a reader of its own, made
 * by its first read of a content and freed at its end, and with it keeps that content.
 *
 * Threads: those of a pager. No locks. System calls: none.
 */
#include <errno.h>
#include <gio/gio.h>

#include "base/failpoints.h"
#include "content/pagers/file-internal.h"

/* A thread's own. */
typedef struct {
    FfReaderFile *file; /* that `reader` reads */
    FfContentReader *reader;
    GError *error; /* the last one */
} Own;

static void own_free(gpointer p)
{
    Own *own = p;

    ff_content_reader_free(own->reader);
    ff_reader_file_unref(own->file);
    g_clear_error(&own->error);
    g_free(own);
}

static GPrivate private_own = G_PRIVATE_INIT(own_free);

/* Its reader may be NULL: Own.error. */
static Own *own_of(FfReaderFile *f)
{
    Own *own = g_private_get(&private_own);

    if (!own) {
        own = g_new0(Own, 1);
        g_private_set(&private_own, own);
    }
    g_clear_error(&own->error);
    if (own->file != f || !own->reader) {
        g_clear_pointer(&own->reader, ff_content_reader_free);
        ff_reader_file_unref(own->file);
        own->file = ff_reader_file_ref(f);
        own->reader = ff_content_reader(ff_reader_file_what(f), &own->error);
    }
    return own;
}

static int code_of(const Own *own)
{
    static const struct {
        int code, rc;
        bool far; /* of a server alone: a file system's errno can be the same */
    } codes[] = {
        {FF_CONTENT_CHANGED, -ESTALE, false},
        {FF_CONTENT_GONE, -ENOTCONN, true},
        {FF_CONTENT_BUSY, -EBUSY, true},
        {G_IO_ERROR_INVALID_DATA, -EBADMSG, false},
        {G_IO_ERROR_PARTIAL_INPUT, -ENODATA, false},
        {G_IO_ERROR_PERMISSION_DENIED, -EACCES, false},
    };
    bool far = ff_content_is_far(ff_reader_file_what(own->file));

    for (unsigned i = 0; i < G_N_ELEMENTS(codes); i++) {
        if (g_error_matches(own->error, G_IO_ERROR, codes[i].code) && (far || !codes[i].far)) {
            return codes[i].rc;
        }
    }
    return -EIO;
}

/* What was changed is perhaps damaged, too. */
static int check(Own *own)
{
    g_autoptr(GError) error = NULL;

    if (ff_content_check(own->reader, &error)) {
        return 0;
    }
    g_clear_error(&own->error);
    own->error = g_steal_pointer(&error);
    return code_of(own);
}

static int read_bytes(Own *own, bool hurry, int64_t until, uint64_t at, uint8_t *to, size_t n)
{
    if (FF_FAULT_CALL("read-file", 0) < 0) {
        return -errno;
    }
    if (!own->reader) {
        return code_of(own);
    }
    if (hurry) {
        ff_content_reader_hurry(own->reader);
    }
    ff_content_reader_until(own->reader, until);
    if (ff_content_read_bytes(own->reader, at, to, n, &own->error)) {
        return 0;
    }
    int rc = ff_content_is_compressed(ff_reader_file_what(own->file)) ? check(own) : 0;
    return rc < 0 ? rc : code_of(own);
}

int ff_file_read(FfReader *r, FfReaderFile *f, bool hurry, int64_t until, uint64_t at, uint8_t *to,
                 size_t n)
{
    ff_reader_enter(r, f);
    return ff_reader_leave(r, read_bytes(own_of(f), hurry, until, at, to, n));
}

int ff_file_read_is_right(FfReader *r, FfReaderFile *f)
{
    Own *own;

    ff_reader_enter(r, f);
    own = own_of(f);
    return ff_reader_leave(r, own->reader ? check(own) : code_of(own));
}

const char *ff_file_read_error(void)
{
    const Own *own = g_private_get(&private_own);

    return own && own->error ? own->error->message : NULL;
}
