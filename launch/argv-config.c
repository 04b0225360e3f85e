/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the reading of QEMU's configuration files (-readconfig, and /etc/qemu/qemu.conf unless
 * -no-user-config): as far as the other passes must know what stands in them.
 *
 * Format (QEMU's util/qemu-config.c): lines [group] or [group "id"], key = "value", comments
 * with "#". [machine] and [memory] join the options of the same name, in the order in which QEMU
 * reads them. Objects and monitors of a file are not rewritten: the file belongs to the user and
 * QEMU reads it itself; a memory backend or a control monitor in it takes the guest out of the
 * engine's hands. The engine says so in one line when the guest is to migrate; of a monitor in it,
 * at which no engine is asked, the launcher does at the start. One thread (ff_plan_new()'s).
 */
#include "launch/argv-rewrite.h"

#include <string.h>

#define DEFAULT_CONFIG "/etc/qemu/qemu.conf"

static FfSection *section_parse(char *line)
{
    char *end = strchr(line, ']');
    FfSection *section;

    if (!end) {
        return NULL;
    }
    *end = '\0';
    /* "[]" splits into no word at all. */
    g_auto(GStrv) words = g_strsplit(line + 1, "\"", 3);
    section = g_new0(FfSection, 1);
    section->group = g_strdup(words[0] ? g_strstrip(words[0]) : "");
    section->id = words[0] && words[1] ? g_strdup(words[1]) : NULL;
    section->opts = ff_opts_new();
    return section;
}

static void key_parse(FfSection *section, const char *line)
{
    g_auto(GStrv) halves = g_strsplit(line, "=", 2);

    if (g_strv_length(halves) != 2) {
        return;
    }
    g_auto(GStrv) quoted = g_strsplit(halves[1], "\"", 3);
    if (g_strv_length(quoted) < 2) {
        return;
    }
    ff_opts_add(section->opts, g_strdup(g_strstrip(halves[0])), g_strdup(quoted[1]), false);
}

static bool is_backend(const FfSection *section)
{
    const char *type = ff_opts_get(section->opts, "qom-type");

    return g_str_equal(section->group, "object") && type &&
           g_str_has_prefix(type, "memory-backend");
}

static bool is_control_monitor(const FfSection *section)
{
    const GPtrArray *opts = section->opts;

    return g_str_equal(section->group, "object")
               ? !g_strcmp0(ff_opts_get(opts, "qom-type"), FF_QMP_MONITOR_TYPE)
               : g_str_equal(section->group, "mon") &&
                     !g_strcmp0(ff_opts_get(opts, "mode"), "control");
}

/* Returns what in SECTION keeps the engine away from the guest; NULL if nothing does. */
static const char *section_objection(const FfSection *section)
{
    const GPtrArray *opts = section->opts;
    const char *driver = ff_opts_get(opts, "driver");

    if (is_backend(section)) {
        return "a memory backend";
    }
    if ((g_str_equal(section->group, "numa") || g_str_equal(section->group, "device")) &&
        ff_opts_get(opts, "memdev")) {
        return "a user of a memory backend";
    }
    if (is_control_monitor(section)) {
        return "a QMP monitor";
    }
    if (g_str_equal(section->group, "global") && driver &&
        g_str_has_prefix(driver, "memory-backend")) {
        return "a default of memory backends";
    }
    return NULL;
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

static void merge(GPtrArray *into, const GPtrArray *opts)
{
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        ff_opts_set(into, opt->key, opt->value);
    }
}

/* Of its migrations no engine hears, so that nothing else would ever say so. */
static void warn_left(FfRewrite *rw, const FfSection *section, const char *path)
{
    char *line = g_strdup_printf("QMP monitor%s%s of %s stays QEMU's own: migrations that are "
                                 "started there are QEMU's, without farfault",
                                 section->id ? " " : "", section->id ? section->id : "", path);

    g_ptr_array_add(rw->plan->warnings, g_strdelimit(line, "\r\n", ' '));
}

static void section_done(FfRewrite *rw, FfSection *section, const char *path)
{
    const char *objection = section_objection(section);

    if (objection) {
        const char *file = is_backend(section) ? ff_opts_get(section->opts, "mem-path") : NULL;
        const char *disk = file ? ff_backend_disk(file, rw->sys) : "";
        ff_rewrite_refuse(rw, g_strdup_printf("%s has %s%s%s ([%s]): put it on the command line "
                                              "to let farfault migrate this guest",
                                              path, objection, *disk ? " in a file" : "", disk,
                                              section->group));
    }
    if (is_control_monitor(section)) {
        warn_left(rw, section, path);
    }
    if (g_str_equal(section->group, "machine")) {
        merge_machine(rw, section->opts);
    } else if (g_str_equal(section->group, "memory")) {
        merge(rw->memory, section->opts);
    }
    g_ptr_array_add(rw->sections, section);
}

static void config_parse(FfRewrite *rw, const char *path, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    FfSection *section = NULL;

    for (char **line = lines; *line; line++) {
        char *at = g_strstrip(*line);

        if (*at == '[') {
            if (section) {
                section_done(rw, section, path);
            }
            section = section_parse(at);
        } else if (*at && *at != '#' && section) {
            key_parse(section, at);
        }
    }
    if (section) {
        section_done(rw, section, path);
    }
}

static void config_read(FfRewrite *rw, const char *path, bool may_lack)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *text = rw->sys->read_file(path, &err, rw->sys->opaque);

    if (text) {
        config_parse(rw, path, text);
    } else if (!may_lack) {
        ff_rewrite_refuse(rw, g_strdup_printf("-readconfig %s: %s", path,
                                              err ? err->message : "it cannot be read"));
    }
}

void ff_argv_read_config(FfRewrite *rw)
{
    if (!ff_rewrite_find(rw, FF_OPT_NO_USER_CONFIG)) {
        config_read(rw, DEFAULT_CONFIG, true);
    }
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];
        g_autoptr(GPtrArray) opts = NULL;

        switch (ff_arg_kind(arg)) {
        case FF_OPT_READCONFIG:
            config_read(rw, arg->value, false);
            break;
        case FF_OPT_MACHINE:
            opts = ff_opts_parse(arg->value, "type");
            merge_machine(rw, opts);
            break;
        case FF_OPT_M:
            opts = ff_opts_parse(arg->value, "size");
            merge(rw->memory, opts);
            break;
        default:
            break;
        }
    }
}
