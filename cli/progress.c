/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The progress display of farfault migrate and farfault snapshot; its rate and time left are
 * pace.h's. One thread.
 */
#include "cli/progress.h"
#include "cli/format.h"
#include "cli/pace.h"
#include "qmp/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_COLUMNS 10    /* less than this is no bar */
#define BUFFER_COLUMNS 30 /* of buffer_text() */

struct FfProgress {
    bool quiet, terminal, shown;
    FfPace pace;
};

FfProgress *ff_progress_new(bool quiet)
{
    FfProgress *p = g_new0(FfProgress, 1);

    p->quiet = quiet;
    p->terminal = isatty(STDERR_FILENO);
    return p;
}

void ff_progress_free(FfProgress *p)
{
    if (p) {
        ff_progress_clear(p);
        g_free(p);
    }
}

unsigned ff_progress_interval(const FfProgress *p)
{
    return p->terminal && !p->quiet ? 200 : 1000;
}

void ff_progress_clear(FfProgress *p)
{
    if (p->shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        p->shown = false;
    }
}

void ff_progress_say(FfProgress *p, bool important, const char *format, ...)
{
    va_list args;

    if (p->quiet && !important) {
        return;
    }
    ff_progress_clear(p);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* Empty after the first look, which has nothing to compare with. */
static char *rate_text(const FfProgress *p)
{
    g_autofree char *bytes = ff_format_bytes(p->pace.rate);

    return p->pace.rate > 0 ? g_strdup_printf("%s/s, ", bytes) : g_strdup("");
}

static char *eta_text(const FfProgress *p)
{
    gint64 ms = ff_pace_left(&p->pace);
    g_autofree char *left = NULL;

    if (ms < 0) {
        return g_strdup("");
    }
    left = ff_format_duration(ms);
    return g_strdup_printf(", ETA %s", left);
}

/* What a live snapshot holds of the guest's old memory; empty of other migrations. */
static char *buffer_text(JsonObject *info)
{
    JsonObject *snapshot = ff_json_object(ff_json_object(info, "x-farfault"), "snapshot");
    g_autofree char *used = ff_format_bytes(ff_json_int(snapshot, "buffer-used", 0));

    return snapshot ? g_strdup_printf(", buffer %s, %" G_GINT64_FORMAT " waits", used,
                                      ff_json_int(snapshot, "waits", 0))
                    : g_strdup("");
}

static int terminal_columns(void)
{
    struct winsize size;

    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col ? size.ws_col : 80;
}

/* The bar; nothing if there is no room for it (g_free). */
static char *bar_text(double done, int width)
{
    g_autofree char *full = g_strnfill((gsize)(MAX(width, 0) * done), '#');

    return width < BAR_COLUMNS ? g_strdup("") : g_strdup_printf("[%-*s] ", width, full);
}

/* MORE: columns that FACTS need beyond what those of a migration do. They are worth more than the
 * bar, and than their own last one. */
static void show_line(FfProgress *p, const char *status, double done, const char *facts, int more)
{
    int columns = terminal_columns();
    int width = MIN(columns - 62 - more, 50);
    g_autofree char *bar = bar_text(done, more ? width : MAX(width, BAR_COLUMNS));
    g_autofree char *line = g_strdup_printf("%-*s %s%s", *bar ? 15 : 0, status, bar, facts);

    if (more && (int)strlen(line) >= columns && strrchr(line, ',')) {
        *strrchr(line, ',') = 0;
    }
    /* What a QEMU in the same terminal says then begins at the left, over the bar. */
    fprintf(stderr, "\r\033[K%s\r", line);
    fflush(stderr);
    p->shown = true;
}

void ff_progress_update(FfProgress *p, JsonObject *info)
{
    JsonObject *ram = ff_json_object(info, "ram");
    gint64 total = ff_json_int(ram, "total", 0);
    gint64 remaining = ff_json_int(ram, "remaining", 0);
    g_autofree char *rate = NULL, *left = NULL, *eta = NULL, *buffer = NULL, *facts = NULL;
    const char *status = ff_json_string_or(info, "status", "");
    double done;

    if (!ram || total <= 0) {
        return;
    }
    ff_pace_look(&p->pace, g_get_monotonic_time(), ff_json_int(ram, "transferred", 0), remaining,
                 0);
    if (p->quiet) {
        return;
    }
    done = CLAMP(1.0 - (double)remaining / total, 0.0, 1.0);
    rate = rate_text(p);
    left = ff_format_bytes(remaining);
    eta = eta_text(p);
    buffer = buffer_text(info);
    facts = g_strdup_printf("%3.0f %%  %s%s remaining%s%s", 100 * done, rate, left, buffer, eta);
    if (p->terminal) {
        show_line(p, status, done, facts, *buffer ? BUFFER_COLUMNS : 0);
    } else {
        fprintf(stderr, "%s: %s\n", status, g_strchug(facts));
    }
}
