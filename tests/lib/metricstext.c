/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See metricstext.h. */
#include "tests/lib/metricstext.h"

#include <gio/gio.h>
#include <math.h>
#include <string.h>

typedef struct {
    bool open;
    char *family, *type; /* whose samples may come now */
    GHashTable *families, *series;
    /* Of a histogram: its labels without le, the last bucket, whether +Inf was there. */
    char *buckets;
    double edge, below, infinite;
} Checker;

static char *label_value(const char **at)
{
    g_autoptr(GString) value = g_string_new(NULL);
    const char *c = *at;

    if (*c++ != '"') {
        return NULL;
    }
    for (; *c && *c != '"'; c++) {
        if (*c == '\\') {
            c++;
            if (!strchr("\\\"n", *c) || !*c) {
                return NULL;
            }
        }
        g_string_append_c(value, *c);
    }
    if (*c != '"') {
        return NULL;
    }
    *at = c + 1;
    return g_string_free(g_steal_pointer(&value), FALSE);
}

/* Takes {NAME="VALUE",...}; *REST gets them but le, *LE that one (NULL). */
static bool labels(const char **at, char **rest, char **le)
{
    g_autoptr(GString) others = g_string_new(NULL);
    const char *c = *at;

    *le = NULL;
    if (*c == '{') {
        do {
            gsize n =
                strspn(++c, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
            g_autofree char *name = g_strndup(c, n);
            g_autofree char *value = NULL;

            c += n;
            if (!n || *c++ != '=' || !(value = label_value(&c))) {
                return false;
            }
            if (!strcmp(name, "le")) {
                g_free(*le);
                *le = g_steal_pointer(&value);
            } else {
                g_string_append_printf(others, "%s=%s;", name, value);
            }
        } while (*c == ',');
        if (*c++ != '}') {
            return false;
        }
    }
    *at = c;
    *rest = g_string_free(g_steal_pointer(&others), FALSE);
    return true;
}

/* The samples of a histogram come as its buckets, upwards, the last one +Inf, and then sum and
 * count. */
static const char *histogram(Checker *k, const char *suffix, const char *rest, const char *le,
                             double value)
{
    if (!strcmp(suffix, "_bucket")) {
        double edge = le ? g_ascii_strtod(le, NULL) : NAN;

        if (!le || isnan(edge)) {
            return "a bucket without le";
        }
        if (!k->buckets) {
            k->buckets = g_strdup(rest);
            k->edge = -1;
            k->below = 0;
            k->infinite = -1;
        }
        if (strcmp(k->buckets, rest) != 0 || edge <= k->edge || value < k->below) {
            return "buckets that do not grow";
        }
        k->edge = edge;
        k->below = value;
        k->infinite = isinf(edge) ? value : -1;
        return NULL;
    }
    if (!k->buckets || strcmp(k->buckets, rest) != 0 || k->infinite < 0) {
        return "sum or count without a bucket +Inf before it";
    }
    if (!strcmp(suffix, "_count")) {
        g_clear_pointer(&k->buckets, g_free);
        return value == k->infinite ? NULL : "count is not that of +Inf";
    }
    return strcmp(suffix, "_sum") ? "no sample of a histogram" : NULL;
}

static const char *check_type(Checker *k, const char *name, const char *rest, const char *le,
                              double value)
{
    const char *suffix = name + strlen(k->family);

    if (!strcmp(k->type, "histogram")) {
        return histogram(k, suffix, rest, le, value);
    }
    if (!strcmp(k->type, "counter")) {
        bool total =
            k->open ? !strcmp(suffix, "_total") : !*suffix && g_str_has_suffix(k->family, "_total");

        return !total ? "a counter's sample ends with _total" : value < 0 ? "below 0" : NULL;
    }
    return *suffix ? "a sample of another family" : NULL;
}

static const char *sample(Checker *k, const char *line)
{
    const char *at = line;
    gsize n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789:");
    g_autofree char *name = g_strndup(at, n);
    g_autofree char *rest = NULL, *le = NULL;
    char *end;

    at += n;
    if (!n || g_ascii_isdigit(*name)) {
        return "no name";
    }
    if (!labels(&at, &rest, &le)) {
        return "labels";
    }
    g_autofree char *series = g_strndup(line, at - line);
    double value = *at == ' ' ? g_ascii_strtod(at + 1, &end) : NAN;
    if (*at != ' ' || end == at + 1 || *end) {
        return "no value";
    }
    if (!g_hash_table_add(k->series, g_steal_pointer(&series))) {
        return "twice the same";
    }
    if (!k->family || !g_str_has_prefix(name, k->family)) {
        return "without its TYPE before it";
    }
    return check_type(k, name, rest, le, value);
}

static const char *comment(Checker *k, const char *line)
{
    g_auto(GStrv) word = g_strsplit(line, " ", 4);

    if (g_strv_length(word) != 4) {
        return "no HELP or TYPE";
    }
    if (!strcmp(word[1], "HELP")) {
        if (k->buckets) {
            return "before this a histogram has no count";
        }
        g_free(k->family);
        k->family = g_strdup(word[2]);
        g_clear_pointer(&k->type, g_free);
        return g_hash_table_add(k->families, g_strdup(word[2])) ? NULL : "a family twice";
    }
    if (strcmp(word[1], "TYPE") || g_strcmp0(k->family, word[2]) || k->type) {
        return "a TYPE belongs after the HELP of its family";
    }
    k->type = g_strdup(word[3]);
    return strcmp(k->type, "gauge") && strcmp(k->type, "counter") && strcmp(k->type, "histogram")
               ? "an unknown type"
               : NULL;
}

char *metrics_check(const char *text, bool open)
{
    Checker k = {.open = open};
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    guint n = g_strv_length(lines);
    const char *wrong = NULL;
    char *said = NULL;

    k.families = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    k.series = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (!g_utf8_validate(text, -1, NULL)) {
        said = g_strdup("not UTF-8");
    } else if (n < 2 || *lines[n - 1] || (open && strcmp(lines[n - 2], "# EOF") != 0)) {
        said = g_strdup("its end");
    }
    for (guint i = 0; !said && i < n - 1 - open; i++) {
        wrong = *lines[i] == '#' ? comment(&k, lines[i]) : sample(&k, lines[i]);
        if (wrong) {
            said = g_strdup_printf("line %u, \"%s\": %s", i + 1, lines[i], wrong);
        }
    }
    g_free(k.family);
    g_free(k.type);
    g_free(k.buckets);
    g_hash_table_unref(k.families);
    g_hash_table_unref(k.series);
    return said;
}

/* The line that begins with SERIES; NULL. */
static const char *find(const char *text, const char *series)
{
    g_autofree char *inner = g_strconcat("\n", series, NULL);
    const char *found = g_str_has_prefix(text, series) ? text : strstr(text, inner);

    return found && *found == '\n' ? found + 1 : found;
}

bool metrics_has(const char *text, const char *series)
{
    return find(text, series);
}

double metrics_value(const char *text, const char *series)
{
    g_autofree char *whole = g_strconcat(series, " ", NULL);
    const char *found = find(text, whole);

    if (!found) {
        g_error("no sample %s in:\n%s", series, text);
    }
    return g_ascii_strtod(found + strlen(whole), NULL);
}

char *metrics_promtool(const char *text, bool *there)
{
    const char *named = g_getenv("FF_PROMTOOL");
    g_autofree char *program = named ? g_strdup(named) : g_find_program_in_path("promtool");
    g_autoptr(GSubprocess) child = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *said = NULL;

    *there = program;
    if (!program) {
        return NULL;
    }
    child = g_subprocess_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE |
                                 G_SUBPROCESS_FLAGS_STDERR_MERGE,
                             &error, program, "check", "metrics", NULL);
    g_assert_no_error(error);
    g_subprocess_communicate_utf8(child, text, NULL, &said, NULL, &error);
    g_assert_no_error(error);
    return g_subprocess_get_exit_status(child) || (said && *said)
               ? g_strdup_printf("status %d: %s", g_subprocess_get_exit_status(child), said)
               : NULL;
}
