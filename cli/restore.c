/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command, or QEMU's arguments and human monitor commands, that restore a file; see restore.h.
 */
#include "cli/restore.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

/* "file:PATH,offset=N" (g_free) of an uncompressed file. */
static char *uri(const FfRestore *r)
{
    return r->offset ? g_strdup_printf("file:%s,offset=%" PRIu64, r->path, r->offset)
                     : g_strconcat("file:", r->path, NULL);
}

/* A word for a shell, quoted only if it has to be (g_free). */
static char *shell_word(const char *word)
{
    static const char plain[] = G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "_@%+=:,./-";

    return strspn(word, plain) == strlen(word) ? g_strdup(word) : g_shell_quote(word);
}

/* The same for QEMU's human monitor, by the rules of its get_str(). */
static char *monitor_word(const char *word)
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
static char *incoming(const char *command, const char *quoted)
{
    g_autofree char *text = g_strconcat("exec:", command, " ", quoted, NULL);
    g_autofree char *word = g_shell_quote(text);

    return strpbrk(text, "\"$`\\!") ? g_strconcat("-incoming ", word, NULL)
                                    : g_strdup_printf("-incoming \"%s\"", text);
}

static char *compressed_line(const FfRestore *r, const char *quoted)
{
    return r->mapped ? g_strdup_printf("after farfault convert --to mapped-ram %s NEW, or zstd -d",
                                       quoted)
                     : incoming("zstd -dc", quoted);
}

static char *stream_line(const FfRestore *r, const char *quoted)
{
    g_autofree char *tail = g_strdup_printf("tail -c +%" PRIu64, r->offset + 1);

    if (r->shared) {
        g_autofree char *text = g_strconcat("exec:cat ", quoted, NULL);
        g_autofree char *word = monitor_word(text);

        return g_strconcat("-incoming defer; migrate_set_capability x-ignore-shared on; "
                           "migrate_incoming ",
                           word, NULL);
    }
    return incoming(r->offset ? tail : "cat", quoted);
}

char *ff_restore_command(const FfRestore *r)
{
    g_autofree char *quoted = g_shell_quote(r->path);
    g_autofree char *offset =
        r->offset ? g_strdup_printf("--offset %" PRIu64 " ", r->offset) : g_strdup("");

    return r->mapped && !r->shared
               ? g_strdup_printf("farfault restore %s%s -- and QEMU's command, as the guest had it",
                                 offset, quoted)
               : NULL;
}

char **ff_restore_lines(const FfRestore *r)
{
    g_autoptr(GStrvBuilder) lines = g_strv_builder_new();
    g_autofree char *quoted = g_shell_quote(r->path);
    g_autofree char *where = uri(r), *to_shell = shell_word(where);
    g_autofree char *to_monitor = monitor_word(where);
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
