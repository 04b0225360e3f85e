/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns QEMU's option syntax: "key=value,..." lists, sizes and switches.
 *
 * The rules are those of QEMU's util/qemu-option.c and util/cutils.c: a command line must mean
 * here what it means there. Pure functions, no state; any thread.
 */
#include "guest/launch/argv-opts.h"

#include <math.h>
#include <string.h>

bool ff_is_help(const char *text)
{
    return g_str_equal(text, "help") || g_str_equal(text, "?");
}

static void opt_free(gpointer data)
{
    FfOpt *opt = data;

    g_free(opt->key);
    g_free(opt->value);
    g_free(opt);
}

GPtrArray *ff_opts_new(void)
{
    return g_ptr_array_new_with_free_func(opt_free);
}

void ff_opts_add(GPtrArray *opts, char *key, char *value, bool bare)
{
    FfOpt *opt = g_new0(FfOpt, 1);

    opt->key = key;
    opt->value = value;
    opt->bare = bare;
    g_ptr_array_add(opts, opt);
}

/* Reads a value up to a single comma; *END is that comma or the end. */
static char *value_parse(const char *text, const char **end)
{
    GString *value = g_string_new(NULL);

    for (; *text; text++) {
        if (*text == ',' && *++text != ',') {
            text--;
            break;
        }
        g_string_append_c(value, *text);
    }
    *end = text;
    return g_string_free(value, FALSE);
}

const FfOption *ff_option_next(char *const **argv, const char **value)
{
    while (**argv) {
        const FfOption *option = ff_option_find(*(*argv)++);

        if (option && option->has_arg && **argv) {
            *value = *(*argv)++;
            return option;
        }
    }
    return NULL;
}

GPtrArray *ff_opts_parse(const char *text, const char *implied)
{
    GPtrArray *opts = ff_opts_new();

    for (bool first = true; *text; first = false) {
        size_t len = strcspn(text, "=,");

        if (text[len] == '=') {
            char *key = g_strndup(text, len);

            ff_opts_add(opts, key, value_parse(text + len + 1, &text), false);
        } else if (first && implied) {
            ff_opts_add(opts, g_strdup(implied), value_parse(text, &text), true);
        } else {
            /* A flag. "noX" means X=off, whatever X is. */
            bool off = len > 2 && g_str_has_prefix(text, "no");

            ff_opts_add(opts, g_strndup(text + (off ? 2 : 0), len - (off ? 2 : 0)),
                        g_strdup(off ? "off" : "on"), true);
            text += len;
        }
        if (*text == ',') {
            text++;
        }
    }
    return opts;
}

static FfOpt *opts_find(const GPtrArray *opts, const char *key, bool last)
{
    FfOpt *found = NULL;

    for (guint i = 0; i < opts->len && (last || !found); i++) {
        FfOpt *opt = opts->pdata[i];

        if (g_str_equal(opt->key, key)) {
            found = opt;
        }
    }
    return found;
}

const char *ff_opts_get(const GPtrArray *opts, const char *key)
{
    FfOpt *opt = opts_find(opts, key, true);

    return opt ? opt->value : NULL;
}

void ff_opts_remove(GPtrArray *opts, const char *key)
{
    for (guint i = opts->len; i-- > 0;) {
        FfOpt *opt = opts->pdata[i];

        if (g_str_equal(opt->key, key)) {
            g_ptr_array_remove_index(opts, i);
        }
    }
}

void ff_opts_set(GPtrArray *opts, const char *key, const char *value)
{
    FfOpt *opt = opts_find(opts, key, false);

    if (!opt) {
        ff_opts_add(opts, g_strdup(key), g_strdup(value), false);
        return;
    }
    g_free(opt->value);
    opt->value = g_strdup(value);
    for (guint i = opts->len; i-- > 0;) {
        FfOpt *other = opts->pdata[i];

        if (other != opt && g_str_equal(other->key, key)) {
            g_ptr_array_remove_index(opts, i);
        }
    }
}

char *ff_opts_escape(const char *value)
{
    GString *text = g_string_new(value);

    g_string_replace(text, ",", ",,", 0);
    return g_string_free(text, FALSE);
}

char *ff_opts_print(const GPtrArray *opts, const char *implied)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];
        g_autofree char *value = ff_opts_escape(opt->value);

        if (i) {
            g_string_append_c(text, ',');
        }
        /* A value with "=" in it cannot stand without its key. */
        if (i || !implied || !g_str_equal(opt->key, implied) || strchr(value, '=')) {
            g_string_append_printf(text, "%s=", opt->key);
        }
        g_string_append(text, value);
    }
    return g_string_free(text, FALSE);
}

static const char *const yes[] = {"on", "yes", "true", "y", NULL};
static const char *const no[] = {"off", "no", "false", "n", NULL};

bool ff_opt_is_bool(const char *text)
{
    return g_strv_contains(yes, text) || g_strv_contains(no, text);
}

bool ff_opt_bool(const char *value, bool default_value)
{
    if (value && g_strv_contains(yes, value)) {
        return true;
    }
    return value && g_strv_contains(no, value) ? false : default_value;
}

static int suffix_shift(char suffix)
{
    static const char suffixes[] = "BKMGTPE";
    const char *at = suffix ? strchr(suffixes, g_ascii_toupper(suffix)) : NULL;

    return at ? (int)(at - suffixes) * 10 : -1;
}

bool ff_opt_size(const char *text, char default_suffix, uint64_t *size)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = hex ? text + 2 : text;
    double fraction = 0;
    char *end;

    if (!(hex ? g_ascii_isxdigit(*digits) : g_ascii_isdigit(*digits))) {
        return false;
    }
    guint64 whole = g_ascii_strtoull(digits, &end, hex ? 16 : 10);
    if (whole == G_MAXUINT64) {
        return false;
    }
    if (!hex && *end == '.') {
        double scale = 0.1;

        for (end++; g_ascii_isdigit(*end); end++, scale /= 10) {
            fraction += (*end - '0') * scale;
        }
    }
    int shift = suffix_shift(*end ? *end : default_suffix);
    if (shift < 0 || (*end && end[1]) || (shift && whole >> (64 - shift))) {
        return false;
    }
    double more = fraction * (double)(UINT64_C(1) << shift);
    if (fraction > 0 && shift == 0) {
        return false;
    }
    *size = (whole << shift) + (uint64_t)(more + 0.5);
    return true;
}
