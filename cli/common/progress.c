/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The progress display of farfault migrate and farfault snapshot; its rate and time left are
 * rate.h's. One thread.
 */
#include "cli/common/format.h"
#include "cli/common/rate.h"
#include "cli/common/progress.h"
#include "qmp/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_MIN 10      /* columns; less than this is no bar */
#define BAR_MAX 50      /* more than this says no more */
#define BAR_ELSE 72     /* what else is in a line that has a bar, nearly always */
#define STATUS_WIDTH 15 /* of most statuses: the bar then stays where it is */

struct FfProgress {
    bool quiet, terminal, shown;
    FfRate pace;
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

/* What is said beside the share that is done, in this order; each can be NULL (g_free). */
enum { RATE, LEFT, BUFFER, ETA, FACTS };

/* What is left out first where a line is too narrow for all. */
static const int least[] = {RATE, BUFFER, ETA, LEFT};

/* NULL after the first look, which has nothing to compare with. */
static char *rate_text(const FfRate *pace)
{
    g_autofree char *bytes = ff_format_bytes(pace->rate);

    return pace->rate > 0 ? g_strdup_printf("%s/s", bytes) : NULL;
}

static char *eta_text(const FfRate *pace)
{
    gint64 ms = ff_rate_left(pace);
    g_autofree char *left = ms < 0 ? NULL : ff_format_duration(ms);

    return left ? g_strdup_printf("ETA %s", left) : NULL;
}

/* What a live snapshot holds of the guest's old memory; NULL of other migrations. */
static char *buffer_text(JsonObject *info)
{
    JsonObject *snapshot = ff_json_object(ff_json_object(info, "x-farfault"), "snapshot");
    g_autofree char *used = ff_format_bytes(ff_json_int(snapshot, "buffer-used", 0));

    return snapshot ? g_strdup_printf("buffer %s, %" G_GINT64_FORMAT " waits", used,
                                      ff_json_int(snapshot, "waits", 0))
                    : NULL;
}

/* "50 %  1.0 MiB/s, 8.0 MiB remaining" (g_free). */
static char *facts_text(char *const fact[], double done)
{
    GString *text = g_string_new(NULL);
    const char *between = "  ";

    g_string_printf(text, "%3.0f %%", 100 * done);
    for (int i = 0; i < FACTS; i++) {
        if (fact[i]) {
            g_string_append_printf(text, "%s%s", between, fact[i]);
            between = ", ";
        }
    }
    return g_string_free(text, FALSE);
}

static int terminal_columns(void)
{
    struct winsize size;

    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col ? size.ws_col : 80;
}

/* The bar in a line of COLUMNS; nothing if there is no room for it (g_free). */
static char *bar_text(double done, int columns)
{
    int width = CLAMP(columns - BAR_ELSE, BAR_MIN, BAR_MAX);
    g_autofree char *full = g_strnfill((gsize)(width * done), '#');

    return g_strdup_printf("[%-*s] ", width, full);
}

static char *with_bar(const char *status, double done, const char *facts, int columns)
{
    g_autofree char *bar = bar_text(done, columns);

    return g_strdup_printf("%-*s %s%s", STATUS_WIDTH, status, bar, facts);
}

/* FACT[] is borrowed. The bar is worth least, then the facts of least[]; status and share are cut
 * only where nothing else is left. */
static char *fit_line(const char *status, double done, char *const fact[], int columns)
{
    g_autofree char *facts = facts_text(fact, done);
    char *left[FACTS];
    char *line = with_bar(status, done, facts, columns);

    memcpy(left, fact, sizeof(left));
    for (size_t i = 0; (int)g_utf8_strlen(line, -1) > columns && i <= G_N_ELEMENTS(least); i++) {
        g_free(facts);
        facts = facts_text(left, done);
        g_free(line);
        line = g_strdup_printf("%s %s", status, facts);
        if (i < G_N_ELEMENTS(least)) {
            left[least[i]] = NULL;
        }
    }
    ff_format_cut(line, columns);
    return line;
}

static void make_facts(const FfRate *pace, JsonObject *info, const char *word, char *fact[])
{
    g_autofree char *left =
        ff_format_bytes((double)ff_json_int(ff_json_object(info, "ram"), "remaining", 0));

    fact[RATE] = rate_text(pace);
    fact[LEFT] = g_strdup_printf("%s %s", left, word);
    fact[BUFFER] = buffer_text(info);
    fact[ETA] = eta_text(pace);
}

char *ff_progress_line(const FfRate *pace, JsonObject *info, int columns)
{
    g_autofree char *status = ff_format_shown(ff_json_string_or(info, "status", ""));
    JsonObject *ram = ff_json_object(info, "ram");
    double total = (double)ff_json_int(ram, "total", 0);
    double remaining = (double)ff_json_int(ram, "remaining", 0);
    double done = total > 0 ? CLAMP(1.0 - remaining / total, 0.0, 1.0) : 0;
    char *fact[FACTS];
    char *line;

    make_facts(pace, info, columns ? "left" : "remaining", fact);
    if (columns) {
        line = fit_line(status, done, fact, columns);
    } else {
        g_autofree char *facts = facts_text(fact, done);

        line = g_strdup_printf("%s: %s", status, g_strchug(facts));
    }
    for (int i = 0; i < FACTS; i++) {
        g_free(fact[i]);
    }
    return line;
}

void ff_progress_update(FfProgress *p, JsonObject *info)
{
    JsonObject *ram = ff_json_object(info, "ram");
    gint64 remaining = ff_json_int(ram, "remaining", 0);

    if (!ram || ff_json_int(ram, "total", 0) <= 0) {
        return;
    }
    ff_rate_look(&p->pace, g_get_monotonic_time(), ff_json_int(ram, "transferred", 0), remaining,
                 0);
    if (p->quiet) {
        return;
    }
    /* Some terminals begin a new line when the last column is written. */
    g_autofree char *line =
        ff_progress_line(&p->pace, info, p->terminal ? MAX(terminal_columns() - 1, 1) : 0);
    if (p->terminal) {
        /* What a QEMU in the same terminal says then begins at the left, over the bar. */
        fprintf(stderr, "\r\033[K%s\r", line);
        fflush(stderr);
        p->shown = true;
    } else {
        fprintf(stderr, "%s\n", line);
    }
}
