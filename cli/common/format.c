/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers for people, and numbers from people; the latency histogram in text.
 */
#include "cli/common/format.h"
#include "qmp/json.h"

#include <errno.h>
#include <string.h>

#define BAR_WIDTH 40 /* columns */

char *ff_format_bytes(double bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned i = 0;

    while (bytes >= 1024 && i + 1 < G_N_ELEMENTS(unit)) {
        bytes /= 1024;
        i++;
    }
    return i ? g_strdup_printf("%.1f %s", bytes, unit[i]) : g_strdup_printf("%.0f B", bytes);
}

char *ff_format_duration(int64_t ms)
{
    int64_t s = ms / 1000;

    if (ms < 1000) {
        return g_strdup_printf("%" G_GINT64_FORMAT " ms", (gint64)ms);
    }
    if (s < 60) {
        return g_strdup_printf("%.2f s", ms / 1000.0);
    }
    if (s < 3600) {
        return g_strdup_printf("%" G_GINT64_FORMAT " min %" G_GINT64_FORMAT " s", (gint64)(s / 60),
                               (gint64)(s % 60));
    }
    return g_strdup_printf("%" G_GINT64_FORMAT " h %" G_GINT64_FORMAT " min", (gint64)(s / 3600),
                           (gint64)(s % 3600 / 60));
}

char *ff_format_us(double us)
{
    if (us < 1000) {
        return g_strdup_printf("%.0f us", us);
    }
    if (us < 1000000) {
        return g_strdup_printf("%.1f ms", us / 1000);
    }
    return g_strdup_printf("%.2f s", us / 1000000);
}

char *ff_format_markup(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    return g_markup_escape_text(valid, -1);
}

char *ff_format_shown(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);

    for (const char *c = valid; *c; c = g_utf8_next_char(c)) {
        gunichar u = g_utf8_get_char(c);

        g_string_append_unichar(out, g_unichar_isprint(u) && !g_unichar_iszerowidth(u) ? u : '?');
    }
    return g_string_free(out, FALSE);
}

int ff_format_cut(char *text, int width)
{
    int used = 0;

    for (char *c = text; *c; c = g_utf8_next_char(c)) {
        int columns = g_unichar_iswide(g_utf8_get_char(c)) ? 2 : 1;

        if (used + columns > width) {
            *c = 0;
            break;
        }
        used += columns;
    }
    return used;
}

int ff_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    const char *found;
    char *end;
    guint64 value;
    unsigned shift = 0;

    if (!g_ascii_isdigit(*text)) {
        return -EINVAL;
    }
    errno = 0;
    value = g_ascii_strtoull(text, &end, 10);
    if (errno) {
        return -ERANGE;
    }
    if (*end) {
        found = strchr(suffixes, g_ascii_toupper(*end));
        if (!found || end[1]) {
            return -EINVAL;
        }
        shift = 10 * (unsigned)(found - suffixes + 1);
    }
    if (value > ((guint64)G_MAXINT64 >> shift)) {
        return -ERANGE;
    }
    *bytes = value << shift;
    return 0;
}

bool ff_histogram_bucket(JsonArray *list, guint i, gint64 *low, gint64 *count)
{
    JsonNode *node = json_array_get_element(list, i);
    JsonArray *pair = JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    if (!pair || json_array_get_length(pair) != 2) {
        return false;
    }
    if (!JSON_NODE_HOLDS_VALUE(json_array_get_element(pair, 0)) ||
        !JSON_NODE_HOLDS_VALUE(json_array_get_element(pair, 1))) {
        return false;
    }
    *low = json_array_get_int_element(pair, 0);
    *count = MAX(json_array_get_int_element(pair, 1), 0);
    return true;
}

static void print_row(FILE *out, gint64 low, gint64 count, gint64 most, double total)
{
    g_autofree char *from = ff_format_us(low);
    g_autofree char *to = ff_format_us(low ? 2.0 * low : 2.0);
    g_autofree char *bar =
        g_strnfill(count ? MAX((gsize)((double)count * BAR_WIDTH / (double)most), 1) : 0, '#');

    double percent = 100.0 * (double)count / total;
    /* The longest waits are few, and the reason to look. */
    g_autofree char *share =
        count && percent < 0.05 ? g_strdup("<0.1") : g_strdup_printf("%.1f", percent);

    fprintf(out, "  %8s .. %-8s |%-*s| %8" G_GINT64_FORMAT "  %5s %%\n", from, to, BAR_WIDTH, bar,
            count, share);
}

double ff_histogram_quantile(JsonObject *x_farfault, double share)
{
    JsonArray *list = ff_json_array(x_farfault, "latency-us");
    guint n = list ? json_array_get_length(list) : 0;
    gint64 low, count;
    double total = 0, below = 0;

    for (guint i = 0; i < n && ff_histogram_bucket(list, i, &low, &count); i++) {
        total += (double)count;
    }
    for (guint i = 0; total > 0 && i < n && ff_histogram_bucket(list, i, &low, &count); i++) {
        below += (double)count;
        if (below >= share * total) {
            return low ? 2.0 * (double)low : 2.0;
        }
    }
    return 0;
}

bool ff_print_histogram(FILE *out, JsonObject *x_farfault)
{
    JsonArray *list = ff_json_array(x_farfault, "latency-us");
    guint n = list ? json_array_get_length(list) : 0;
    guint first = n, last = 0;
    gint64 low, count, most = 0;
    double total = 0;

    for (guint i = 0; i < n; i++) {
        if (!ff_histogram_bucket(list, i, &low, &count)) {
            return false;
        }
        if (count > 0) {
            first = MIN(first, i);
            last = i;
            most = MAX(most, count);
            total += (double)count;
        }
    }
    if (!most) {
        return false;
    }
    for (guint i = first; i <= last; i++) {
        ff_histogram_bucket(list, i, &low, &count);
        print_row(out, low, count, most, total);
    }
    return true;
}
