/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault dump: half of a paused migration into files; and whether two dumps together have every
 * page of the guest (docs/dump.md has the format). One thread.
 */
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/help.h"
#include "qmp/json.h"
#include "cli/options.h"
#include "cli/qmp.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* ---- writing ----------------------------------------------------------------------------------
 */

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

static int dump(const char *address, const char *directory)
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

/* ---- checking two of them
 * ------------------------------------------------------------------------ */

typedef struct {
    const char *directory;
    GKeyFile *about;
    int blocks;
} Half;

static bool complain(const char *format, ...) G_GNUC_PRINTF(1, 2);
static bool complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("farfault: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return false;
}

static bool open_half(Half *h, const char *directory)
{
    g_autofree char *path = g_build_filename(directory, "dump", NULL);
    g_autoptr(GError) error = NULL;

    h->directory = directory;
    h->about = g_key_file_new();
    if (!g_key_file_load_from_file(h->about, path, G_KEY_FILE_NONE, &error)) {
        return complain("%s: %s: no dump, or one that did not come to its end", path,
                        error->message);
    }
    h->blocks = g_key_file_get_integer(h->about, "dump", "blocks", NULL);
    if (g_key_file_get_integer(h->about, "dump", "format", NULL) != 1 || h->blocks < 1) {
        return complain("%s: not of format 1", path);
    }
    return true;
}

static char *block_text(const Half *h, int block, const char *key)
{
    g_autofree char *group = g_strdup_printf("block %d", block);

    return g_key_file_get_string(h->about, group, key, NULL);
}

static uint64_t block_number(const Half *h, int block, const char *key)
{
    g_autofree char *group = g_strdup_printf("block %d", block);

    return g_key_file_get_uint64(h->about, group, key, NULL);
}

static int find_block(const Half *h, const char *id)
{
    for (int i = 0; i < h->blocks; i++) {
        g_autofree char *other = block_text(h, i, "id");

        if (!g_strcmp0(id, other)) {
            return i;
        }
    }
    return -1;
}

/* The map of pages that the half has of a block; NULL, with a complaint, if its files are not as
 * they should be. */
static uint64_t *read_pages(const Half *h, int block, uint64_t n_pages)
{
    g_autofree char *name = block_text(h, block, "pages");
    g_autofree char *memory = block_text(h, block, "memory");
    g_autofree char *path = g_build_filename(h->directory, name ? name : "?", NULL);
    g_autofree char *memory_path = g_build_filename(h->directory, memory ? memory : "?", NULL);
    char *data = NULL;
    gsize length;
    struct stat st;

    if (stat(memory_path, &st) < 0 || (uint64_t)st.st_size != block_number(h, block, "size")) {
        complain("%s: not there, or not as long as its block", memory_path);
        return NULL;
    }
    if (!g_file_get_contents(path, &data, &length, NULL) || length != (n_pages + 63) / 64 * 8) {
        complain("%s: not there, or not as long as it should be", path);
        g_free(data);
        return NULL;
    }
    return (uint64_t *)(void *)data;
}

static bool check_block(const Half *a, int i, const Half *b, int j, uint64_t *missing)
{
    uint64_t size = block_number(a, i, "size"), page = block_number(a, i, "page-size");
    g_autofree char *id = block_text(a, i, "id");

    if (!page || size % page || size != block_number(b, j, "size") ||
        page != block_number(b, j, "page-size")) {
        return complain("block '%s' differs in size", id);
    }
    uint64_t n = size / page;
    g_autofree uint64_t *here = read_pages(a, i, n), *there = here ? read_pages(b, j, n) : NULL;

    if (!here || !there) {
        return false;
    }
    for (uint64_t p = 0; p < n; p++) {
        uint64_t word = GUINT64_FROM_LE(here[p / 64]) | GUINT64_FROM_LE(there[p / 64]);

        *missing += !(word >> (p % 64) & 1);
    }
    return true;
}

static bool check_halves(const Half *a, const Half *b)
{
    g_autofree char *one = g_key_file_get_string(a->about, "dump", "session", NULL);
    g_autofree char *two = g_key_file_get_string(b->about, "dump", "session", NULL);
    g_autofree char *role_a = g_key_file_get_string(a->about, "dump", "role", NULL);
    g_autofree char *role_b = g_key_file_get_string(b->about, "dump", "role", NULL);
    uint64_t missing = 0;

    if (g_strcmp0(one, two) || !g_strcmp0(role_a, role_b) || a->blocks != b->blocks) {
        return complain("these are not the two halves of one migration");
    }
    for (int i = 0; i < a->blocks; i++) {
        g_autofree char *id = block_text(a, i, "id");
        int j = find_block(b, id);

        if (j < 0) {
            return complain("block '%s' is in one of them only", id);
        }
        if (!check_block(a, i, b, j, &missing)) {
            return false;
        }
    }
    if (missing) {
        return complain("%" PRIu64 " pages are in neither of them", missing);
    }
    puts("every page is in one of them; where both have it the destination's is the newer one");
    return true;
}

static int check(const char *one, const char *two)
{
    Half a = {0}, b = {0};
    bool ok = open_half(&a, one) && open_half(&b, two) && check_halves(&a, &b);

    g_clear_pointer(&a.about, g_key_file_unref);
    g_clear_pointer(&b.about, g_key_file_unref);
    return ok ? EXIT_OK : EXIT_FAILED;
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
    return (checks ? check : dump)(positional[0], positional[1]);
}
