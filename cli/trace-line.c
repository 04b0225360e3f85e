/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See trace-line.h. The names of arguments are those of trace/marks.c; an engine that another
 * farfault has installed may have other marks, whose arguments are arg1, arg2, ... */
#include "cli/trace-line.h"

#include <gio/gio.h>
#include <string.h>

#include "state/names.h"

static unsigned count_args(const FfMarkRow *row)
{
    unsigned n = 0;

    while (n < FF_MARK_ARGS && row->arg[n].kind != FF_MARK_END) {
        n++;
    }
    return n;
}

/* Its row, if it is the one of which the row speaks. */
static const FfMarkRow *row_of(const FfNote *note, char **operands)
{
    const FfMarkRow *row = ff_mark_row(note->name);

    return row && count_args(row) == g_strv_length(operands) ? row : NULL;
}

/* One with a place of its own in memory needs no place of a text's address. */
static void append_fetch(GString *out, const FfMarkArg *arg, unsigned i, const char *fetch)
{
    const char *gap = out->len ? " " : "";

    if (!arg) {
        g_string_append_printf(out, "%sarg%u=%s:u64", gap, i + 1, fetch);
    } else if (arg->kind == FF_MARK_TEXT && *fetch == '%') {
        g_string_append_printf(out, "%s%s=+0(%s):ustring", gap, arg->name, fetch);
    } else {
        g_string_append_printf(out, "%s%s=%s:%s", gap, arg->name, fetch,
                               arg->kind == FF_MARK_SIGNED ? "s64" : "u64");
    }
}

char *ff_trace_fetch(const FfNote *note, const FfMarkRow **row, GError **error)
{
    g_auto(GStrv) operands = g_strsplit(note->operands, " ", -1);
    g_autoptr(GString) out = g_string_new(NULL);

    *row = row_of(note, operands);
    for (unsigned i = 0; operands[i] && *operands[i]; i++) {
        g_autofree char *fetch = ff_note_fetch(operands[i]);

        if (!fetch) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "mark %s has an argument at \"%s\", which this farfault does not know: "
                        "install farfault whole",
                        note->name, operands[i]);
            return NULL;
        }
        append_fetch(out, *row ? &(*row)->arg[i] : NULL, i, fetch);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static const char *name_in(const char *const *names, size_t n, const char *value)
{
    guint64 i;

    return g_ascii_string_to_unsigned(value, 10, 0, n - 1, &i, NULL) ? names[i] : value;
}

static const char *in_words(FfMarkKind kind, const char *value)
{
    static const char *const roles[] = {"-", "source", "destination"};

    switch (kind) {
    case FF_MARK_ROLE:
        return name_in(roles, G_N_ELEMENTS(roles), value);
    case FF_MARK_PHASE:
        return name_in(ff_phase_names, G_N_ELEMENTS(ff_phase_names), value);
    case FF_MARK_RIGHT:
        return name_in(ff_right_names, G_N_ELEMENTS(ff_right_names), value);
    default:
        return value;
    }
}

/* The value of argument NAME in VALUES (g_free), without a text's quotes; NULL: it is not there. */
static char *value_of(const char *values, const char *name)
{
    g_autofree char *key = g_strdup_printf(" %s=", name);
    g_autofree char *all = g_strconcat(" ", values, NULL);
    const char *at = strstr(all, key);

    if (!at) {
        return NULL;
    }
    at += strlen(key);
    return *at == '"' ? g_strndup(at + 1, strcspn(at + 1, "\"")) : g_strndup(at, strcspn(at, " "));
}

/* The static word of that side. */
static const char *side_named(const char *value)
{
    return !strcmp(value, "source")        ? "source"
           : !strcmp(value, "destination") ? "destination"
                                           : "-";
}

char *ff_trace_values(const FfTraceEvent *event, const char *values, const char **side,
                      char **status)
{
    const FfMarkRow *row = event->row;
    g_autoptr(GString) out = g_string_new(NULL);

    *side = row && row->side ? row->side : "-";
    *status = NULL;
    if (!row) {
        return g_strdup(values);
    }
    for (unsigned i = 0; i < count_args(row); i++) {
        const FfMarkArg *arg = &row->arg[i];
        g_autofree char *value = value_of(values, arg->name);
        const char *words = value ? in_words(arg->kind, value) : "?";

        if (arg->kind == FF_MARK_ROLE) {
            *side = side_named(words);
            continue;
        }
        g_string_append_printf(out, "%s%s=%s", out->len ? " " : "", arg->name, words);
        if (!strcmp(row->name, "status") && !strcmp(arg->name, "now")) {
            *status = g_strdup(words);
        }
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static void append_mark(GString *out, const char *name, GString *args, const char *when)
{
    g_string_append_printf(out, "%-15s %-27s %s\n", name, args->len ? args->str : "-", when);
}

static bool has_note(GPtrArray *notes, const char *name)
{
    for (guint i = 0; i < notes->len; i++) {
        if (!strcmp(((FfNote *)notes->pdata[i])->name, name)) {
            return true;
        }
    }
    return false;
}

static void append_row(GString *out, const FfMarkRow *row)
{
    g_autoptr(GString) args = g_string_new(NULL);

    for (unsigned i = 0; i < count_args(row); i++) {
        g_string_append_printf(args, "%s%s", i ? " " : "", row->arg[i].name);
    }
    append_mark(out, row->name, args, row->when);
}

char *ff_trace_list(GPtrArray *notes)
{
    g_autoptr(GString) out = g_string_new(NULL);
    g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);

    for (const FfMarkRow *row = ff_marks; row->name; row++) {
        g_hash_table_add(known, (gpointer)row->name);
        if (has_note(notes, row->name)) {
            append_row(out, row);
        }
    }
    for (guint i = 0; i < notes->len; i++) {
        const FfNote *note = notes->pdata[i];
        g_autoptr(GString) none = g_string_new(NULL);

        if (g_hash_table_add(known, note->name)) {
            append_mark(out, note->name, none, "of another version");
        }
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}
