/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault dump: half of a paused migration into files; and whether two dumps are as they were
 * written, and together have every page of the guest (docs/dump.md has the format). One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/qmp.h"
#include "qmp/json.h"

#include "content/image/dump-join.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* ---- writing --------------------------------------------------------------------------------- */

/* Which part of the guest is not in the files. */
static const char *device_state_words(JsonObject *dumped)
{
    if (ff_json_bool(dumped, "device-state")) {
        return "device state as it was at the switch";
    }
    if (!strcmp(ff_json_string_or(dumped, "role", ""), "destination")) {
        return "no device state: the guest was granted to this side, and since then its processors "
               "and devices are in QEMU alone, and end with it";
    }
    return "no device state: no copy of it has been kept";
}

static int write_dump(const char *address, const char *directory)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(address, NULL, &error);
    g_autofree char *path = g_canonicalize_filename(directory, NULL);
    g_autoptr(JsonNode) answer = NULL;

    if (qmp) {
        JsonObject *args = json_object_new();

        json_object_set_string_member(args, "directory", path);
        /* Answered when all of it is on the disk. */
        answer = ff_cli_qmp_call_patiently(qmp, "x-farfault-dump", args, &error);
    }
    if (!answer) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    JsonObject *dumped = ff_json_node_object(answer);
    g_autofree char *bytes = ff_format_bytes(ff_json_int(dumped, "bytes", 0));

    printf("%s of memory in %s\n%s\n", bytes, path, device_state_words(dumped));
    return EXIT_OK;
}

/* ---- checking two of them -------------------------------------------------------------------- */

static bool print_error(const char *format, ...) G_GNUC_PRINTF(1, 2);
static bool print_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("farfault: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return false;
}

static FfDumpFiles *open_half(const char *directory)
{
    g_autoptr(GError) error = NULL;
    int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0) {
        print_error("%s: %s", directory, g_strerror(errno));
        return NULL;
    }
    FfDumpFiles *f = ff_dump_files_open(dir, directory, &error);
    if (!f) {
        print_error("%s", error->message);
    }
    return f;
}

/* All of its memory is as it was written. */
static bool verify_dump(const FfDumpFiles *f)
{
    g_autofree uint8_t *buf = g_malloc(FF_DUMP_PIECE);

    for (unsigned i = 0; i < f->n_blocks; i++) {
        const FfDumpBlock *b = &f->blocks[i];

        for (uint64_t piece = 0; piece < b->n_pieces; piece++) {
            g_autoptr(GError) error = NULL;
            int rc = ff_dump_read(b, piece, buf);

            if (rc < 0) {
                ff_dump_set_error(b, piece, rc, &error);
                return print_error("%s", error->message);
            }
        }
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) devices = f->device_bytes ? ff_dump_read_devices(f, &error) : NULL;
    return !error || print_error("%s", error->message);
}

static bool check_halves(const FfDumpFiles *a, const FfDumpFiles *b)
{
    g_autoptr(GError) error = NULL;

    if (!ff_dump_halves_check(a, b, &error)) {
        return print_error("%s", error->message);
    }
    if (!verify_dump(a) || !verify_dump(b)) {
        return false;
    }
    puts("every page is in one of them; where both have it the destination's is the newer one");
    return true;
}

static int check(const char *one, const char *two)
{
    g_autoptr(FfDumpFiles) a = open_half(one), b = a ? open_half(two) : NULL;

    return b && check_halves(a, b) ? EXIT_OK : EXIT_FAILED;
}

int ff_cli_dump(int argc, char **argv)
{
    gboolean help = FALSE, checks = FALSE;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"check", 0, 0, G_OPTION_ARG_NONE, &checks, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault dump --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_dump, stdout);
        return EXIT_OK;
    }
    if (!positional || g_strv_length(positional) != 2) {
        fprintf(stderr, "farfault: give %s\n",
                checks ? "two directories: farfault dump --check DIRECTORY DIRECTORY"
                       : "a QMP address and a directory: farfault dump QMP DIRECTORY");
        return EXIT_USAGE;
    }
    return (checks ? check : write_dump)(positional[0], positional[1]);
}
