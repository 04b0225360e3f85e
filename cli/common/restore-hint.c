/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command, or QEMU's arguments and human monitor commands, that restore a file; see
 * restore-hint.h.
 */
#include "cli/common/restore-hint.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

#include "cli/common/restore-adapt.h"
#include "qmp/json.h"

/* "file:PATH,offset=N" (g_free) of an uncompressed file. */
static char *file_uri(const FfRestoreHint *r)
{
    return r->offset ? g_strdup_printf("file:%s,offset=%" PRIu64, r->path, r->offset)
                     : g_strconcat("file:", r->path, NULL);
}

char *ff_shell_word(const char *word)
{
    static const char plain[] = G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "_@%+=:,./-";

    return strspn(word, plain) == strlen(word) ? g_strdup(word) : g_shell_quote(word);
}

/* By the rules of its get_str(). */
char *ff_monitor_word(const char *word)
{
    g_autoptr(GString) s = g_string_new("\"");

    if (!strpbrk(word, " \t\n\r\"\\")) {
        return g_strdup(word);
    }
    for (; *word; word++) {
        bool line = *word == '\n' || *word == '\r';

        if (line || *word == '"' || *word == '\\') {
            g_string_append_c(s, '\\');
        }
        g_string_append_c(s, *word == '\n' ? 'n' : *word == '\r' ? 'r' : *word);
    }
    g_string_append_c(s, '"');
    return g_string_free(g_steal_pointer(&s), FALSE);
}

/* COMMAND, of which the last word is QUOTED, as QEMU's -incoming in a shell (g_free). */
static char *incoming_line(const char *command, const char *quoted)
{
    g_autofree char *text = g_strconcat("exec:", command, " ", quoted, NULL);
    g_autofree char *word = g_shell_quote(text);

    return strpbrk(text, "\"$`\\!") ? g_strconcat("-incoming ", word, NULL)
                                    : g_strdup_printf("-incoming \"%s\"", text);
}

static char *compressed_line(const FfRestoreHint *r, const char *quoted)
{
    return r->mapped ? g_strdup_printf("after farfault convert --to mapped-ram %s NEW, or zstd -d",
                                       quoted)
                     : incoming_line("zstd -dc", quoted);
}

static char *stream_line(const FfRestoreHint *r, const char *quoted)
{
    g_autofree char *tail = g_strdup_printf("tail -c +%" PRIu64, r->offset + 1);

    if (r->shared) {
        g_autofree char *text = g_strconcat("exec:cat ", quoted, NULL);
        g_autofree char *word = ff_monitor_word(text);

        return g_strconcat("-incoming defer; migrate_set_capability x-ignore-shared on; "
                           "migrate_incoming ",
                           word, NULL);
    }
    return incoming_line(r->offset ? tail : "cat", quoted);
}

static const char with_its_disks[] =
    "and QEMU's command, with the guest's disks as they were at this instant";

char *ff_restore_hint_command(const FfRestoreHint *r)
{
    g_autofree char *as_it_had =
        g_strconcat("and QEMU's command, as the guest had it",
                    r->machine ? ", with -machine " : NULL, r->machine, NULL);
    g_autofree char *quoted = g_shell_quote(r->path);
    g_autofree char *folder = r->folder ? ff_shell_word(r->folder) : NULL;
    g_autofree char *disks = folder ? g_strdup_printf("--disks %s ", folder) : g_strdup("");
    g_autofree char *offset =
        r->offset ? g_strdup_printf("--offset %" PRIu64 " ", r->offset) : g_strdup("");
    bool whole = r->qemu && !r->changes;
    g_autofree char *cwd = whole && r->cwd ? ff_shell_word(r->cwd) : NULL;
    g_autofree char *first = cwd ? g_strdup_printf("cd %s && ", cwd) : g_strdup("");

    return r->mapped && !r->shared
               ? g_strdup_printf("%sfarfault restore %s%s%s%s -- %s", first,
                                 r->options ? r->options : "", offset, disks, quoted,
                                 r->changes ? with_its_disks
                                 : r->qemu  ? r->qemu
                                            : as_it_had)
               : NULL;
}

char **ff_restore_hint_disk_lines(const FfDisksFile *kept)
{
    g_autoptr(GStrvBuilder) lines = g_strv_builder_new();

    for (guint i = 0; i < kept->disks->len; i++) {
        const FfKeptDisk *d = kept->disks->pdata[i];
        g_autofree char *base = ff_shell_word(d->base);
        g_autofree char *line = g_strdup_printf(
            "%s for disk %s: stock QEMU gets an overlay of it in its place, as by qemu-img create "
            "-q -f qcow2 -b %s -F %s NEW",
            d->base, d->name, base, d->format);

        g_strv_builder_add(lines, line);
    }
    return g_strv_builder_end(lines);
}

/* ---- QEMU's command -------------------------------------------------------------------------- */

static char *link_of(int pid, const char *name)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/%s", pid, name);

    return pid > 0 ? g_file_read_link(link, NULL) : NULL;
}

static void add_word(GString *text, const char *word)
{
    g_autofree char *quoted = *word ? ff_shell_word(word) : g_strdup("''");

    g_string_append_printf(text, "%s%s", text->len ? " " : "", quoted);
}

/* Whence the guest came is not whence it comes: an option with a value. */
static bool is_coming(const char *word)
{
    const char *name = g_str_has_prefix(word, "--") ? word + 1 : word;

    return !strcmp(name, "-incoming") || !strcmp(name, "-loadvm");
}

static char *options_of(JsonObject *lent)
{
    JsonArray *words = ff_json_array(lent, "options");
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; words && i < json_array_get_length(words); i++) {
        const char *word = json_array_get_string_element(words, i);

        /* The only one that farfault restore has as well. */
        if (word && g_str_has_prefix(word, "--vhost-user=") &&
            strcmp(word, "--vhost-user=qemu") != 0) {
            g_string_append_printf(text, "%s ", word);
        }
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

char *ff_restore_hint_qemu(FfCliQmp *qmp, char **cwd, char **options)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "x-farfault-lend", NULL, NULL);
    JsonObject *lent = ff_json_node_object(node);
    JsonArray *words = ff_json_array(lent, "command-line"), *given = ff_json_array(lent, "given");
    int pid = ff_cli_qmp_host(qmp) ? 0 : (int)ff_json_int(lent, "pid", 0);
    g_autofree char *program = link_of(pid, "exe");
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) text = g_string_new(NULL);

    *cwd = *options = NULL;
    if (!words || !program || (given && json_array_get_length(given))) {
        return NULL;
    }
    for (guint i = 0; i < json_array_get_length(words); i++) {
        const char *word = json_array_get_string_element(words, i);

        const FfOption *option = ff_option_find(word);
        bool has_value = option && option->has_arg && i + 1 < json_array_get_length(words);

        if (is_coming(word) ||
            (has_value &&
             ff_restore_is_monitor(option, json_array_get_string_element(words, i + 1)))) {
            i++;
        } else {
            g_ptr_array_add(all, g_strdup(word));
        }
    }
    *options = options_of(lent);
    *cwd = link_of(pid, "cwd");
    if (!ff_restore_adapt(qmp, *cwd, all)) {
        g_clear_pointer(cwd, g_free);
        return g_strdup(with_its_disks);
    }
    add_word(text, program);
    for (guint i = 0; i < all->len; i++) {
        add_word(text, all->pdata[i]);
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

char **ff_restore_hint_lines(const FfRestoreHint *r)
{
    g_autoptr(GStrvBuilder) lines = g_strv_builder_new();
    g_autofree char *quoted = g_shell_quote(r->path);
    g_autofree char *where = file_uri(r), *to_shell = ff_shell_word(where);
    g_autofree char *to_monitor = ff_monitor_word(where);
    g_autofree char *line = NULL, *other = NULL;

    if (r->compressed) {
        line = compressed_line(r, quoted);
    } else if (r->mapped) {
        line = g_strdup_printf("-incoming defer; migrate_set_capability mapped-ram on; %s"
                               "migrate_incoming %s",
                               r->shared ? "migrate_set_capability x-ignore-shared on; " : "",
                               to_monitor);
    } else {
        line = stream_line(r, quoted);
    }
    g_strv_builder_add(lines, line);
    if (!r->mapped && !r->shared && !r->compressed) {
        other = g_strdup_printf("-incoming %s (QEMU 8.2 or newer)", to_shell);
        g_strv_builder_add(lines, other);
    }
    return g_strv_builder_end(lines);
}
