/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Converts files of saved guests; see convert.h.
 *
 * System calls: none.
 */
#include "content/image/convert.h"

#include <gio/gio.h>

#include "content/image/seekable-write.h"
#include "content/image/write.h"

static bool refuse_file(const FfSaved *s, GError **error, const char *why)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "%s: %s", ff_input_path(s->in), why);
    return false;
}

static bool check_convertible(const FfSaved *s, const FfConvertOptions *options, GError **error)
{
    if (ff_saved_has_capability(s, "x-ignore-shared")) {
        return refuse_file(s, error, "it was saved with x-ignore-shared: memory is missing in it");
    }
    for (guint i = 0; i < s->capabilities->len; i++) {
        if (!g_str_equal(s->capabilities->pdata[i], "mapped-ram")) {
            return refuse_file(s, error, "it was saved with a capability that is not known");
        }
    }
    if (s->form == FF_SAVED_STREAM && options->to == FF_SAVED_STREAM) {
        return refuse_file(s, error, "it is an ordinary stream already");
    }
    return true;
}

/* Two saves of a guest have their pages at the same places: of a file that is overwritten meanwhile
 * nothing else would tell. */
static bool commit_output(const FfSaved *s, FfOutput *o, GError **error)
{
    return ff_input_is_unchanged(s->in, error) && ff_output_commit(o, error);
}

/* The plain image has no name, and its space is free again at the end. */
static bool convert_packed(FfSaved *s, const char *path, GError **error)
{
    g_autoptr(FfOutput) out = ff_output_new(path, error);
    g_autoptr(FfOutput) plain = out ? ff_output_new_nameless(path, error) : NULL;

    return plain && ff_write_mapped(s, plain, 0, error) &&
           ff_seekable_write(plain, out, NULL, NULL, error) && commit_output(s, out, error);
}

/* libvirt passes what comes after it to QEMU as it is. */
static bool keep_header(const FfSaved *s, FfOutput *o, FfConvertOptions *options, GError **error)
{
    g_autofree uint8_t *header = ff_saved_libvirt_header(s, options->to, &options->sparse, error);

    return header && ff_output_write(o, 0, header, s->offset, error);
}

bool ff_convert(FfSaved *s, const char *path, FfConvertOptions *options, GError **error)
{
    if (!check_convertible(s, options, error)) {
        return false;
    }
    if (options->compress) {
        return convert_packed(s, path, error);
    }
    g_autoptr(FfOutput) o = ff_output_new(path, error);
    uint64_t base = options->libvirt ? s->offset : options->offset;
    return o && (!options->libvirt || keep_header(s, o, options, error)) &&
           (options->to == FF_SAVED_MAPPED ? ff_write_mapped : ff_write_stream)(s, o, base,
                                                                                error) &&
           commit_output(s, o, error);
}
