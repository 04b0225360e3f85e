/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's side of what QEMU has written last (see stderr.h). It is read by pread(): nothing
 * stays mapped, and a file that is too short is one without text. No state, no locks. System calls:
 * pread64.
 */
#include "contract/stderr.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define SIZE sizeof(((FfStderrPage *)NULL)->text)

static bool read_page(int fd, FfStderrPage *page)
{
    return fd >= 0 && pread(fd, page, sizeof(*page), FF_STDERR_OFFSET) == sizeof(*page) &&
           page->version == FF_STDERR_VERSION;
}

uint64_t ff_stderr_written(int fd)
{
    FfStderrPage page;

    return read_page(fd, &page) ? page.written : 0;
}

/* The bytes from FIRST on, as far as they are still there, with nothing but printable ones and line
 * ends. */
static char *take_text(const FfStderrPage *page, uint64_t first)
{
    bool cut = page->written > SIZE && first < page->written - SIZE;
    char *text, *p;

    if (first > page->written) {
        return g_strdup("");
    }
    first = cut ? page->written - SIZE : first;
    p = text = g_malloc(page->written - first + 1);
    for (; first < page->written; first++) {
        char c = page->text[first % SIZE];
        *p++ = g_ascii_isprint(c) || c == '\n' ? c : '?';
    }
    *p = 0;
    if (cut) { /* the first line lacks its beginning */
        p = strchr(text, '\n');
        memmove(text, p ? p + 1 : "", strlen(p ? p + 1 : "") + 1);
    }
    return text;
}

/* LINE without "qemu-system-x86_64: ", and what may stand in front of that (-msg: the time, the
 * guest's name). */
static const char *skip_name(const char *line)
{
    const char *name = strstr(line, "qemu-");
    bool begins = name && (name == line || name[-1] == ' ');
    const char *end = begins ? strpbrk(name, ": ") : NULL;

    return end && g_str_has_prefix(end, ": ") ? end + 2 : line;
}

char *ff_stderr_since(int fd, uint64_t written)
{
    FfStderrPage page;
    g_autoptr(GString) all = g_string_new(NULL);

    if (!read_page(fd, &page)) {
        return NULL;
    }
    g_autofree char *text = take_text(&page, written);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (guint i = g_strv_length(lines); i-- > 0;) {
        const char *line = skip_name(g_strstrip(lines[i]));
        size_t room = FF_STDERR_MAX - all->len;

        if (!*line) {
            continue;
        }
        if (all->len && strlen(line) + 2 > room) {
            break;
        }
        g_string_prepend(all, all->len ? "; " : "");
        g_string_prepend_len(all, line, MIN(strlen(line), room));
    }
    return all->len ? g_string_free(g_steal_pointer(&all), FALSE) : NULL;
}
