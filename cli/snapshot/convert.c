/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault convert: the file of a saved guest in another form. One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "content/image/convert.h"
#include "qmp/disks-file.h"

#include <gio/gio.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* The images that belong to FROM belong to TO as well: FILE.disks goes along. TEXT (g_free): what
 * is in it; NULL: there is none. FALSE and ERROR: it cannot be read, or TO has another one. */
static bool read_disks(const char *from, const char *to, char **text, GError **error)
{
    GError *local = NULL;
    g_autoptr(FfDisksFile) kept = ff_disks_file_read(from, &local);
    g_autofree char *other = ff_disks_file_name(to);

    *text = NULL;
    if (local) {
        g_propagate_error(error, local);
        return false;
    }
    if (g_file_test(other, G_FILE_TEST_EXISTS)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                    "%s is there already, and says which images another snapshot has: give another "
                    "name",
                    other);
        return false;
    }
    return !kept || g_file_get_contents(kept->path, text, NULL, error);
}

/* TO without it would be restored over a base. */
static bool write_disks(const char *to, const char *text, GError **error)
{
    g_autofree char *path = ff_disks_file_name(to);

    if (!text ||
        g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, error)) {
        return true;
    }
    g_unlink(to);
    return false;
}

static int convert_file(const char *from, int64_t from_offset, const char *to, const char *form,
                        FfConvertOptions *options)
{
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(from, &error);
    g_autoptr(FfSaved) saved = in ? ff_saved_open(in, from_offset, &error) : NULL;
    g_autofree char *disks = NULL;

    if (!error && read_disks(from, to, &disks, &error)) {
        bool mapped = form ? !strcmp(form, "mapped-ram")
                           : options->compress || saved->form == FF_SAVED_STREAM;

        options->to = mapped ? FF_SAVED_MAPPED : FF_SAVED_STREAM;
        if (ff_convert(saved, to, options, &error)) {
            write_disks(to, disks, &error);
        }
    }
    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    if (options->libvirt && options->to == FF_SAVED_MAPPED && !options->sparse) {
        printf(
            "farfault: libvirt restores %s only as farfault does, with restore=lazy: QEMU itself "
            "cannot load mapped-ram from a raw image. Keep %s.\n",
            to, from);
    }
    return EXIT_OK;
}

static bool parse_offset(const char *name, const char *text, uint64_t *offset)
{
    if (!text || ff_parse_size(text, offset) == 0) {
        return true;
    }
    fprintf(stderr, "farfault: %s %s: not a number of bytes\n", name, text);
    return false;
}

/* What cannot be meant; NULL: nothing. */
static const char *find_nonsense(const char *form, const FfConvertOptions *options,
                                 char **positional)
{
    if (form && strcmp(form, "stream") != 0 && strcmp(form, "mapped-ram") != 0) {
        return "--to stream or --to mapped-ram";
    }
    if (options->compress && form && !strcmp(form, "stream")) {
        return "--compress is for mapped-ram";
    }
    if (options->compress + options->libvirt + !!options->offset > 1) {
        return "--compress, --libvirt and --offset do not go together";
    }
    if (!positional || g_strv_length(positional) != 2) {
        return "give two files: farfault convert IN OUT";
    }
    return NULL;
}

int ff_cli_convert(int argc, char **argv)
{
    gboolean help = FALSE, compress = FALSE, libvirt = FALSE;
    g_autofree char *offset_text = NULL, *in_offset_text = NULL, *form = NULL;
    g_auto(GStrv) positional = NULL;
    FfConvertOptions options = {0};
    uint64_t in_offset = 0;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"to", 0, 0, G_OPTION_ARG_STRING, &form, NULL, NULL},
        {"offset", 0, 0, G_OPTION_ARG_STRING, &offset_text, NULL, NULL},
        {"in-offset", 0, 0, G_OPTION_ARG_STRING, &in_offset_text, NULL, NULL},
        {"libvirt", 0, 0, G_OPTION_ARG_NONE, &libvirt, NULL, NULL},
        {"compress", 0, 0, G_OPTION_ARG_NONE, &compress, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault convert --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_convert, stdout);
        return EXIT_OK;
    }
    if (!parse_offset("--offset", offset_text, &options.offset) ||
        !parse_offset("--in-offset", in_offset_text, &in_offset)) {
        return EXIT_USAGE;
    }
    options.compress = compress;
    options.libvirt = libvirt;
    const char *wrong = find_nonsense(form, &options, positional);
    if (wrong) {
        fprintf(stderr, "farfault: %s\n", wrong);
        return EXIT_USAGE;
    }
    return convert_file(positional[0], in_offset_text ? (int64_t)in_offset : FF_SAVED_OFFSET_LOOK,
                        positional[1], form, &options);
}
