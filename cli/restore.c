/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command, or QEMU's arguments and human monitor commands, that restore a file; see restore.h.
 */
#include "cli/restore.h"

#include <glib.h>
#include <inttypes.h>

static char *compressed_line(const FfRestore *r, const char *quoted)
{
    return r->mapped ? g_strdup_printf("after farfault convert --to mapped-ram %s NEW, or zstd -d",
                                       quoted)
                     : g_strdup_printf("-incoming \"exec:zstd -dc %s\"", quoted);
}

static char *stream_line(const FfRestore *r, const char *quoted)
{
    if (r->shared) {
        return g_strdup_printf("-incoming defer; migrate_set_capability x-ignore-shared on; "
                               "migrate_incoming \"exec:cat %s\"",
                               quoted);
    }
    return r->offset ? g_strdup_printf("-incoming \"exec:tail -c +%" PRIu64 " %s\"", r->offset + 1,
                                       quoted)
                     : g_strdup_printf("-incoming \"exec:cat %s\"", quoted);
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
    g_autofree char *offset =
        r->offset ? g_strdup_printf(",offset=%" PRIu64, r->offset) : g_strdup("");
    g_autofree char *line = NULL, *other = NULL;

    if (r->compressed) {
        line = compressed_line(r, quoted);
    } else if (r->mapped) {
        line = g_strdup_printf("-incoming defer; migrate_set_capability mapped-ram on; %s"
                               "migrate_incoming file:%s%s",
                               r->shared ? "migrate_set_capability x-ignore-shared on; " : "",
                               r->path, offset);
    } else {
        line = stream_line(r, quoted);
    }
    g_strv_builder_add(lines, line);
    if (!r->mapped && !r->shared && !r->compressed) {
        other = g_strdup_printf("-incoming file:%s%s (QEMU 8.2 or newer)", r->path, offset);
        g_strv_builder_add(lines, other);
    }
    return g_strv_builder_end(lines);
}
