/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault info: what is in the file of a saved guest, and how it is restored. Only reads. One
 * thread.
 */
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/report.h"
#include "cli/common/restore-hint.h"
#include "content/image/statistics.h"
#include "qmp/image-name.h"

#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static const char *form_name(const FfSaved *s)
{
    return s->form == FF_SAVED_MAPPED ? "mapped-ram" : "stream";
}

/* The block's memory is not in the file: it was shared, and QEMU was told to leave that out. */
static bool is_shared(const FfSaved *s, const FfSurvey *v, guint i)
{
    const FfSavedBlock *b = ff_saved_block(s, i);

    return ff_saved_block_is_outside(s, b) ||
           (ff_saved_has_capability(s, "x-ignore-shared") && s->form == FF_SAVED_STREAM &&
            v->blocks[i].absent == b->size / FF_SAVED_PAGE);
}

static FfRestoreHint restore_of(const FfSaved *s)
{
    return (FfRestoreHint){.path = ff_input_path(s->in),
                           .offset = s->offset,
                           .machine = s->machine,
                           .mapped = s->form == FF_SAVED_MAPPED,
                           .compressed = ff_input_is_compressed(s->in),
                           .shared = ff_saved_has_capability(s, "x-ignore-shared")};
}

/* How stock QEMU restores the file (g_strfreev). */
static char **restore_lines(const FfSaved *s, const FfSurvey *v)
{
    const FfRestoreHint r = restore_of(s);

    return v->complete ? ff_restore_hint_lines(&r) : g_new0(char *, 1);
}

/* How farfault does (g_free); NULL: it does not. KEPT: its disks; NULL: none were kept. */
static char *restore_command(const FfSaved *s, const FfSurvey *v, const FfDisksFile *kept)
{
    FfRestoreHint r = restore_of(s);

    r.folder = kept ? "DIRECTORY" : NULL;
    g_autofree char *command = v->complete ? ff_restore_hint_command(&r) : NULL;

    /* Of a copy it would name the file that it was copied from. */
    bool its_own = kept && kept->command && kept->snapshot &&
                   ff_is_same_file(kept->snapshot, ff_input_path(s->in));
    return command && its_own ? g_strdup(kept->command) : g_steal_pointer(&command);
}

static FfDisksFile *kept_disks(const FfSaved *s)
{
    g_autoptr(GError) error = NULL;
    FfDisksFile *kept = ff_disks_file_read(ff_input_path(s->in), &error);

    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
    }
    return kept;
}

/* The least version of QEMU with farfault restore (g_free): 7.2, which farfault needs. */
static char *restored_by(const FfSurvey *v)
{
    bool newer = v->machine_major > 7 || (v->machine_major == 7 && v->machine_minor > 2);

    return newer ? g_strdup_printf("%u.%u", v->machine_major, v->machine_minor) : g_strdup("7.2");
}

/* ---- for people ------------------------------------------------------------------------------ */

static void print_block(const FfSaved *s, const FfSurvey *v, guint i)
{
    const FfSavedBlock *b = ff_saved_block(s, i);
    const FfSurveyBlock *counts = &v->blocks[i];
    g_autofree char *size = ff_format_bytes(b->size);

    if (is_shared(s, v, i)) {
        printf("    %-26s %10s  shared: not in this file\n", b->name, size);
        return;
    }
    printf("    %-26s %10s  %" PRIu64 " pages with data, %" PRIu64 " zero", b->name, size,
           counts->data, counts->zero);
    if (counts->absent) {
        printf(", %" PRIu64 " not in it", counts->absent);
    }
    putchar('\n');
}

static void print_text(const FfSaved *s, const FfSurvey *v)
{
    g_autofree char *memory = ff_format_bytes(s->memory), *data = ff_format_bytes(v->data * 4096.0);
    g_autofree char *size = ff_format_bytes(ff_input_size(s->in));
    g_autofree char *stored = ff_format_bytes(ff_input_stored(s->in));
    g_auto(GStrv) restore = restore_lines(s, v);
    g_autoptr(FfDisksFile) kept = kept_disks(s);
    g_auto(GStrv) bases = kept ? ff_restore_hint_disk_lines(kept) : NULL;
    g_autofree char *at_once = restore_command(s, v, kept);

    printf("%s: a guest of machine %s\n", ff_input_path(s->in), s->machine);
    ff_report_row(stdout, "format", "%s%s%s",
                  s->form == FF_SAVED_MAPPED ? "mapped-ram" : "ordinary migration stream",
                  s->background ? ", of a background snapshot" : "",
                  ff_input_is_compressed(s->in) ? ", compressed" : "");
    if (s->offset) {
        ff_report_row(stdout, "offset", "%" PRIu64, s->offset);
    }
    if (v->major) {
        g_autofree char *restored = at_once ? restored_by(v) : NULL;

        ff_report_row(stdout, "QEMU", "%u.%u or newer%s%s%s", v->major, v->minor,
                      at_once ? "; with farfault restore " : "", at_once ? restored : "",
                      at_once ? " or newer" : "");
    }
    ff_report_row(stdout, "file", "%s, %s on its disk", size, stored);
    ff_report_row(stdout, "memory", "%s in %u blocks, %s with data", memory, s->blocks->len, data);
    for (guint i = 0; i < s->blocks->len; i++) {
        print_block(s, v, i);
    }
    if (s->tail && s->end > s->tail) {
        g_autofree char *state = ff_format_bytes(s->end - s->tail);

        ff_report_row(stdout, "device state", "%s from byte %" PRIu64 " on", state, s->tail);
    }
    ff_report_row(stdout, "complete", "%s", v->complete ? "yes" : "no");
    if (at_once) {
        if (kept && !g_strcmp0(at_once, kept->command)) {
            ff_report_row(stdout, "first", "%s", FF_RESTORE_FIRST);
        }
        ff_report_row(stdout, "restore", "%s", at_once);
    }
    for (guint i = 0; restore[i]; i++) {
        ff_report_row(stdout, i || at_once ? "or" : "restore", "%s%s",
                      at_once ? "stock QEMU 9.0 or newer: " : "", restore[i]);
    }
    if (kept) {
        ff_report_row(stdout, "disks", "%s", kept->path);
    }
    for (char **base = bases; base && *base; base++) {
        ff_report_row(stdout, "base", "%s", *base);
    }
    for (guint i = 0; kept && i < kept->disks->len; i++) {
        g_autofree char *doubt = ff_kept_disk_first_doubt(kept->disks->pdata[i]);

        if (doubt) {
            ff_report_row(stdout, "spoiled", "%s", doubt);
        }
    }
}

/* ---- for programs ---------------------------------------------------------------------------- */

static void build_block(JsonBuilder *j, const FfSaved *s, const FfSurvey *v, guint i)
{
    const FfSavedBlock *b = ff_saved_block(s, i);
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"size", b->size},
                   {"data-pages", v->blocks[i].data},
                   {"zero-pages", v->blocks[i].zero},
                   {"absent-pages", v->blocks[i].absent}};

    json_builder_begin_object(j);
    json_builder_set_member_name(j, "name");
    json_builder_add_string_value(j, b->name);
    for (guint k = 0; k < G_N_ELEMENTS(numbers); k++) {
        json_builder_set_member_name(j, numbers[k].name);
        json_builder_add_int_value(j, numbers[k].value);
    }
    json_builder_set_member_name(j, "shared");
    json_builder_add_boolean_value(j, is_shared(s, v, i));
    json_builder_end_object(j);
}

static void build_head(JsonBuilder *j, const FfSaved *s, const FfSurvey *v)
{
    g_autofree char *command = restore_command(s, v, NULL);

    json_builder_set_member_name(j, "machine");
    json_builder_add_string_value(j, s->machine);
    json_builder_set_member_name(j, "format");
    json_builder_add_string_value(j, form_name(s));
    json_builder_set_member_name(j, "background-snapshot");
    json_builder_add_boolean_value(j, s->background);
    json_builder_set_member_name(j, "compressed");
    json_builder_add_boolean_value(j, ff_input_is_compressed(s->in));
    json_builder_set_member_name(j, "offset");
    json_builder_add_int_value(j, s->offset);
    json_builder_set_member_name(j, "size");
    json_builder_add_int_value(j, ff_input_size(s->in));
    json_builder_set_member_name(j, "stored");
    json_builder_add_int_value(j, ff_input_stored(s->in));
    json_builder_set_member_name(j, "memory");
    json_builder_add_int_value(j, s->memory);
    if (v->major) {
        g_autofree char *version = g_strdup_printf("%u.%u", v->major, v->minor);

        json_builder_set_member_name(j, "qemu-at-least");
        json_builder_add_string_value(j, version);
    }
    if (command) {
        g_autofree char *version = restored_by(v);

        json_builder_set_member_name(j, "qemu-at-least-farfault");
        json_builder_add_string_value(j, version);
    }
}

static void build_lists(JsonBuilder *j, const FfSaved *s, const FfSurvey *v)
{
    g_auto(GStrv) restore = restore_lines(s, v);

    json_builder_set_member_name(j, "capabilities");
    json_builder_begin_array(j);
    for (guint i = 0; i < s->capabilities->len; i++) {
        json_builder_add_string_value(j, s->capabilities->pdata[i]);
    }
    json_builder_end_array(j);
    json_builder_set_member_name(j, "blocks");
    json_builder_begin_array(j);
    for (guint i = 0; i < s->blocks->len; i++) {
        build_block(j, s, v, i);
    }
    json_builder_end_array(j);
    json_builder_set_member_name(j, "restore");
    json_builder_begin_array(j);
    for (guint i = 0; restore[i]; i++) {
        json_builder_add_string_value(j, restore[i]);
    }
    json_builder_end_array(j);
}

static void build_disks(JsonBuilder *j, const FfDisksFile *kept)
{
    json_builder_set_member_name(j, "disks-file");
    json_builder_add_string_value(j, kept->path);
    json_builder_set_member_name(j, "disks");
    json_builder_begin_array(j);
    for (guint i = 0; i < kept->disks->len; i++) {
        const FfKeptDisk *d = kept->disks->pdata[i];
        const char *const members[][2] = {
            {"disk", d->name}, {"base", d->base}, {"base-format", d->format}};

        json_builder_begin_object(j);
        for (guint k = 0; k < G_N_ELEMENTS(members); k++) {
            json_builder_set_member_name(j, members[k][0]);
            json_builder_add_string_value(j, members[k][1]);
        }
        g_autofree char *doubt = ff_kept_disk_first_doubt(d);
        if (doubt) {
            json_builder_set_member_name(j, "spoiled");
            json_builder_add_string_value(j, doubt);
        }
        json_builder_end_object(j);
    }
    json_builder_end_array(j);
}

static void print_json(const FfSaved *s, const FfSurvey *v)
{
    g_autoptr(JsonBuilder) j = json_builder_new();
    g_autoptr(FfDisksFile) kept = kept_disks(s);

    json_builder_begin_object(j);
    build_head(j, s, v);
    build_lists(j, s, v);
    if (kept) {
        build_disks(j, kept);
    }
    if (s->tail) {
        json_builder_set_member_name(j, "device-state");
        json_builder_add_int_value(j, s->tail);
    }
    json_builder_set_member_name(j, "complete");
    json_builder_add_boolean_value(j, v->complete);
    if (v->problem) {
        json_builder_set_member_name(j, "problem");
        json_builder_add_string_value(j, v->problem);
    }
    json_builder_end_object(j);

    g_autoptr(JsonNode) root = json_builder_get_root(j);
    g_autofree char *text = json_to_string(root, FALSE);
    printf("%s\n", text);
}

static int show_file(const char *path, int64_t offset, bool json)
{
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(path, &error);
    g_autoptr(FfSaved) saved = in ? ff_saved_open(in, offset, &error) : NULL;

    if (!saved) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    g_autoptr(FfSurvey) survey = ff_statistics_new(saved, error);
    (json ? print_json : print_text)(saved, survey);
    if (survey->problem) {
        fprintf(stderr, "farfault: %s\n", survey->problem);
    }
    return survey->complete ? EXIT_OK : EXIT_FAILED;
}

int ff_cli_info(int argc, char **argv)
{
    gboolean help = FALSE, json = FALSE;
    g_autofree char *offset_text = NULL;
    g_auto(GStrv) positional = NULL;
    uint64_t offset = 0;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"json", 0, 0, G_OPTION_ARG_NONE, &json, NULL, NULL},
        {"offset", 0, 0, G_OPTION_ARG_STRING, &offset_text, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault info --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_info, stdout);
        return EXIT_OK;
    }
    if (offset_text && (ff_parse_size(offset_text, &offset) < 0 || offset > INT64_MAX)) {
        fprintf(stderr, "farfault: --offset %s: not a number of bytes\n", offset_text);
        return EXIT_USAGE;
    }
    if (!positional || g_strv_length(positional) != 1) {
        fprintf(stderr, "farfault: give one file: farfault info FILE\n");
        return EXIT_USAGE;
    }
    return show_file(positional[0], offset_text ? (int64_t)offset : FF_SAVED_OFFSET_LOOK, json);
}
