/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns QEMU's configuration files: -readconfig, and /etc/qemu/qemu.conf unless -no-user-config.
 *
 * A section ([chardev "id"], [mon], [object "id"], [memory], ...) is to QEMU what an option is, at
 * the place of the file's -readconfig. So the other passes find it as an option there, and where
 * one of them has changed it, QEMU gets a copy of the file. Sections that no pass looks into are
 * not among the options. QEMU's default file is read, but never copied: which one it is depends on
 * how QEMU was built.
 *
 * Format (QEMU's util/qemu-config.c): lines [group] or [group "id"], key = "value", comments with
 * "#" in the first column. QEMU reads it by fgets() and sscanf(), and takes odd things for
 * sections: a name without its "]" at the end of the file, what follows 1023 bytes of a comment.
 * Here only what has one meaning is read. A file with anything else goes to QEMU as it is, and so
 * does the guest: a monitor of which the engine does not know must not be one beside it.
 *
 * Pure but for the injected question; one thread (ff_plan_new()'s).
 */
#include "guest/launch/argv-rewrite.h"

#include <string.h>

#define DEFAULT_CONFIG "/etc/qemu/qemu.conf"
/* Bytes: QEMU reads 63 of a name or a key; of a line 1023, which a copy with other blanks must not
 * pass either. */
#define MAX_NAME 63
#define MAX_LINE 1000
/* Of all files; each pass compares them with one another. */
#define MAX_SECTIONS 512

/* Groups whose sections are looked into, and the option that each is. */
static const struct {
    const char *group, *option;
} groups[] = {
    {"accel", "-accel"},     {"chardev", "-chardev"}, {"device", "-device"}, {"global", "-global"},
    {"machine", "-machine"}, {"memory", "-m"},        {"mon", "-mon"},       {"name", "-name"},
    {"netdev", "-netdev"},   {"numa", "-numa"},       {"object", "-object"}, {"tpmdev", "-tpmdev"},
};

static const FfOption *option_of(const char *group)
{
    for (size_t i = 0; i < G_N_ELEMENTS(groups); i++) {
        if (g_str_equal(groups[i].group, group)) {
            return ff_option_find(groups[i].option);
        }
    }
    return NULL;
}

static void section_free(gpointer data)
{
    FfSection *section = data;

    g_free(section->group);
    g_free(section->id);
    g_free(section->value);
    g_ptr_array_unref(section->opts);
    g_free(section);
}

void ff_config_free(FfConfig *file)
{
    g_free(file->path);
    g_strfreev(file->lines);
    g_ptr_array_unref(file->sections);
    g_free(file);
}

/* ---- reading --------------------------------------------------------------------------------- */

static size_t count_blanks(const char *text)
{
    return strspn(text, " \t");
}

/* [group] or [group "id"], with blanks behind it. NULL: none of these. */
static FfSection *header_parse(const char *line)
{
    const char *at = line + 1;
    size_t len = strcspn(at, " \t\"[]"), gap = count_blanks(at + len);
    g_autofree char *group = g_strndup(at, len), *id = NULL;

    if (!len || len > MAX_NAME) {
        return NULL;
    }
    at += len + gap;
    if (*at == '"') {
        len = strcspn(++at, "\"");
        if (!gap || !len || len > MAX_NAME || !at[len]) {
            return NULL;
        }
        id = g_strndup(at, len);
        at += len + 1;
    } else if (gap) {
        return NULL;
    }
    if (*at != ']' || at[1 + count_blanks(at + 1)]) {
        return NULL;
    }
    FfSection *section = g_new0(FfSection, 1);

    section->opts = ff_opts_new();
    if (id) {
        ff_opts_add(section->opts, g_strdup("id"), g_strdup(id), false);
    }
    section->group = g_steal_pointer(&group);
    section->id = g_steal_pointer(&id);
    return section;
}

/* One that means the same in an option's argument. */
static bool is_key(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isgraph(text[i]) || strchr(",=\"{}", text[i])) {
            return false;
        }
    }
    return len && len <= MAX_NAME;
}

/* key = "value"; QEMU wants a blank behind the key, and looks at nothing behind the value. */
static bool key_parse(FfSection *section, const char *line)
{
    const char *key = line + count_blanks(line), *at;
    size_t len = strcspn(key, " \t"), value;

    at = key + len;
    if (!is_key(key, len) || !count_blanks(at)) {
        return false;
    }
    at += count_blanks(at);
    if (*at++ != '=') {
        return false;
    }
    at += count_blanks(at);
    if (*at++ != '"') {
        return false;
    }
    value = strcspn(at, "\"");
    if (!at[value]) {
        return false;
    }
    g_autofree char *name = g_strndup(key, len), *text = g_strndup(at, value);

    ff_opts_set(section->opts, name, text); /* the last one counts */
    return true;
}

static bool is_plain(const char *line)
{
    size_t len = strlen(line);

    for (size_t i = 0; i < len; i++) {
        if (g_ascii_iscntrl(line[i]) && line[i] != '\t') {
            return false;
        }
    }
    return len <= MAX_LINE;
}

/* Reads one line into FILE; *SECTION is the one it belongs to. FALSE: it is not understood. */
static bool line_parse(FfConfig *file, guint number, FfSection **section)
{
    const char *line = file->lines[number];

    if (!is_plain(line)) {
        return false;
    }
    if (*line == '[') {
        *section = header_parse(line);
        if (!*section) {
            return false;
        }
        (*section)->file = file;
        (*section)->line = number;
        g_ptr_array_add(file->sections, *section);
    } else if (*line && *line != '#' && (!*section || !key_parse(*section, line))) {
        return false;
    }
    if (*section) {
        (*section)->n_lines++;
    }
    return true;
}

/* FALSE: *WHY (g_free) not. */
static bool config_parse(FfConfig *file, const char *text, char **why)
{
    FfSection *section = NULL;

    file->lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; file->lines[i]; i++) {
        if (!line_parse(file, i, &section)) {
            *why = g_strdup_printf("line %u is none that farfault understands", i + 1);
            return false;
        }
    }
    for (guint i = 0; i < file->sections->len; i++) {
        section = file->sections->pdata[i];
        section->value = ff_opts_print(section->opts, NULL);
    }
    return true;
}

/* WHY (taken) QEMU alone knows what is in the file at PATH. SAID: QEMU says it, too. */
static void leave_file(FfRewrite *rw, const char *path, bool said, char *why)
{
    char *line = g_strdup_printf("-readconfig %s: %s", path, why);

    if (!said) {
        g_ptr_array_add(rw->plan->warnings,
                        g_strdelimit(g_strdup_printf("%s; this guest's migrations, and all QMP "
                                                     "monitors of the file, are QEMU's own",
                                                     line),
                                     "\r\n", ' '));
    }
    ff_rewrite_refuse(rw, line);
    g_free(why);
}

/* Puts the sections of FILE into the options, from *AT on, which is behind them then. */
static void add_sections(FfRewrite *rw, const FfConfig *file, guint *at)
{
    for (guint i = 0; i < file->sections->len; i++) {
        FfSection *section = file->sections->pdata[i];
        const FfOption *option = option_of(section->group);

        if (option) {
            FfArg *arg = g_new0(FfArg, 1);

            arg->option = option;
            arg->section = section;
            arg->value = section->value;
            g_ptr_array_insert(rw->args, (int)(*at)++, arg);
        }
    }
}

static guint count_sections(const FfRewrite *rw)
{
    guint n = 0;

    for (guint i = 0; i < rw->configs->len; i++) {
        n += ((const FfConfig *)rw->configs->pdata[i])->sections->len;
    }
    return n;
}

/* ARG: the file's -readconfig; NULL: the default file, which may not be there. */
static void config_read(FfRewrite *rw, const char *path, FfArg *arg, guint *at)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *text = rw->sys->read_file(path, &err, rw->sys->opaque);
    char *why = NULL;

    if (!text) {
        if (arg) {
            leave_file(rw, path, !g_error_matches(err, G_FILE_ERROR, G_FILE_ERROR_INVAL),
                       g_strdup(err ? err->message : "it cannot be read"));
        }
        return;
    }
    FfConfig *file = g_new0(FfConfig, 1);

    file->path = g_strdup(path);
    file->arg = arg;
    file->sections = g_ptr_array_new_with_free_func(section_free);
    g_ptr_array_add(rw->configs, file);
    bool parsed = config_parse(file, text, &why);

    if (parsed && count_sections(rw) > MAX_SECTIONS) {
        why = g_strdup_printf("there are more than %d sections", MAX_SECTIONS);
        parsed = false;
    }
    if (!parsed) {
        g_ptr_array_set_size(file->sections, 0);
        leave_file(rw, path, false, why);
        return;
    }
    add_sections(rw, file, at);
}

/* QEMU takes "memory_backend" for "memory-backend". */
static void merge_machine(FfRewrite *rw, const GPtrArray *opts)
{
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];
        g_autofree char *key = g_strdelimit(g_strdup(opt->key), "_", '-');

        ff_opts_set(rw->machine, key, opt->value);
    }
}

static void merge_opts(GPtrArray *into, const GPtrArray *opts)
{
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        ff_opts_set(into, opt->key, opt->value);
    }
}

void ff_argv_read_config(FfRewrite *rw)
{
    guint at = 0;

    if (!ff_rewrite_find(rw, FF_OPT_NO_USER_CONFIG)) {
        config_read(rw, DEFAULT_CONFIG, NULL, &at);
    }
    while (at < rw->args->len) {
        FfArg *arg = rw->args->pdata[at++];

        if (ff_arg_kind(arg) == FF_OPT_READCONFIG) {
            config_read(rw, arg->value, arg, &at);
        }
    }
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];
        g_autoptr(GPtrArray) opts = NULL;

        switch (ff_arg_kind(arg)) {
        case FF_OPT_MACHINE:
            opts = ff_opts_parse(arg->value, "type");
            merge_machine(rw, opts);
            break;
        case FF_OPT_M:
            opts = ff_opts_parse(arg->value, "size");
            merge_opts(rw->memory, opts);
            break;
        default:
            break;
        }
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The lines of a section (char *, its own), of which CHANGED (can be NULL) is the new value. They
 * are as many as before where that is possible: QEMU names them in its messages. */
static void section_print(GPtrArray *lines, const FfSection *section, const FfArg *changed)
{
    char **old = section->file->lines + section->line;
    guint n = 1;

    if (!changed) {
        for (guint i = 0; i < section->n_lines; i++) {
            g_ptr_array_add(lines, g_strdup(old[i]));
        }
        return;
    }
    g_autoptr(GPtrArray) opts = ff_opts_parse(changed->new_value, changed->option->implied);

    g_ptr_array_add(lines, g_strdup(old[0]));
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (!g_str_equal(opt->key, "id") || g_strcmp0(opt->value, section->id)) {
            g_ptr_array_add(lines, g_strdup_printf("%s = \"%s\"", opt->key, opt->value));
            n++;
        }
    }
    for (; n < section->n_lines; n++) {
        g_ptr_array_add(lines, g_strdup(""));
    }
}

/* The option that SECTION is, if a pass has changed it. */
static const FfArg *find_changed(const FfRewrite *rw, const FfSection *section)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        if (arg->section == section) {
            return arg->new_value ? arg : NULL;
        }
    }
    return NULL;
}

/* The text of a copy of FILE (g_free); NULL: nothing in it was changed. */
static char *config_print(const FfRewrite *rw, const FfConfig *file)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    guint head = file->sections->len ? ((FfSection *)file->sections->pdata[0])->line : 0;
    bool is_changed = false;

    for (guint i = 0; i < head; i++) {
        g_ptr_array_add(lines, g_strdup(file->lines[i]));
    }
    for (guint i = 0; i < file->sections->len; i++) {
        const FfSection *section = file->sections->pdata[i];
        const FfArg *changed = find_changed(rw, section);

        section_print(lines, section, changed);
        is_changed |= changed != NULL;
    }
    g_ptr_array_add(lines, NULL);
    return is_changed ? g_strjoinv("\n", (char **)lines->pdata) : NULL;
}

void ff_argv_write_config(FfRewrite *rw)
{
    for (guint i = 0; i < rw->configs->len; i++) {
        const FfConfig *file = rw->configs->pdata[i];
        char *text = config_print(rw, file);

        if (text) {
            FfPlanConfig *config = g_new0(FfPlanConfig, 1);

            config->path = g_strdup(file->path);
            config->text = text;
            g_free(file->arg->new_value);
            file->arg->new_value =
                g_strdup_printf("/proc/self/fd/@FF_CONFIG%u@", rw->plan->configs->len);
            g_ptr_array_add(rw->plan->configs, config);
        }
    }
}
