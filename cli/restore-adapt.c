/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See restore-adapt.h. An overlay that came in front since the start (farfault snapshot or restore
 * --disks, blockdev-snapshot) takes the place of that of its backing files that the command line
 * names. One thread.
 */
#include "cli/restore-adapt.h"

#include <string.h>

#include "launch/argv-opts.h"
#include "qmp/disk.h"
#include "qmp/image-name.h"
#include "qmp/json.h"

#define TYPE_SUFFIX "-machine"

static void replace_word(GPtrArray *words, guint i, char *now)
{
    g_free(words->pdata[i]);
    words->pdata[i] = now;
}

/* ---- the machine ----------------------------------------------------------------------------- */

/* "pc-i440fx-7.2" (g_free); NULL: it does not say. */
static char *machine_of(FfCliQmp *qmp)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", "/machine");
    json_object_set_string_member(args, "property", "type");
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "qom-get", args, NULL);
    const char *type = node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;

    return type && g_str_has_suffix(type, TYPE_SUFFIX)
               ? g_strndup(type, strlen(type) - strlen(TYPE_SUFFIX))
               : NULL;
}

/* Without a version, or a type, each QEMU has another one. */
static void adapt_machine(GPtrArray *words, const char *type)
{
    bool is_named = false;

    for (guint i = 0; i + 1 < words->len; i++) {
        const FfOption *option = ff_option_find(words->pdata[i]);

        if (!option || !option->has_arg) {
            continue;
        }
        i++;
        if (option->kind != FF_OPT_MACHINE) {
            continue;
        }
        g_autoptr(GPtrArray) opts = ff_opts_parse(words->pdata[i], "type");
        const char *has = ff_opts_get(opts, "type");
        is_named |= has != NULL;
        if (has && strcmp(has, type) != 0) {
            ff_opts_set(opts, "type", type);
            replace_word(words, i, ff_opts_print(opts, "type"));
        }
    }
    if (!is_named) {
        g_ptr_array_insert(words, 0, g_strdup("-machine"));
        g_ptr_array_insert(words, 1, g_strdup(type));
    }
}

/* ---- disks ----------------------------------------------------------------------------------- */

/* NAME, on a command line, is the file at PATH. */
static bool is_at(const char *name, const char *cwd, const char *path)
{
    g_autofree char *named = ff_image_path(name, NULL, cwd);

    return named && (!strcmp(named, path) || ff_is_same_file(named, path));
}

/* Keys that name a file; what says its format is beside them, but for a node of a file alone. */
static const char *const keys[] = {"file", "file.filename", "filename"};

static bool has_disk(const FfOption *option)
{
    static const char *const names[] = {"drive", "blockdev", "hda", "hdb",
                                        "hdc",   "hdd",      "sd",  NULL};

    return option && option->has_arg && g_strv_contains(names, option->name);
}

static bool is_list(const FfOption *option)
{
    return !strcmp(option->name, "drive") || !strcmp(option->name, "blockdev");
}

/* The key of OPTS, of OPTION with VALUE, that names the file at PATH ("" for all of VALUE); NULL:
 * none does. */
static const char *key_of(const FfOption *option, const char *value, const GPtrArray *opts,
                          const char *cwd, const char *path)
{
    if (!is_list(option)) {
        return is_at(value, cwd, path) ? "" : NULL;
    }
    for (unsigned k = 0; k < G_N_ELEMENTS(keys); k++) {
        const char *file = ff_opts_get(opts, keys[k]);

        if (file && is_at(file, cwd, path)) {
            return keys[k];
        }
    }
    return NULL;
}

/* WORDS have the file at OLD: the first of them that has it. -1: they have not. */
static int find_file(const GPtrArray *words, const char *cwd, const char *old)
{
    for (guint i = 0; i + 1 < words->len; i++) {
        const FfOption *option = ff_option_find(words->pdata[i]);

        if (option && option->has_arg) {
            const char *value = words->pdata[++i];
            g_autoptr(GPtrArray) opts = has_disk(option) ? ff_opts_read(value, NULL) : NULL;

            if (opts && key_of(option, value, opts, cwd, old)) {
                return (int)i;
            }
        }
    }
    return -1;
}

/* Word I, which has OLD in WAS, has the file at PATH. FALSE: the format is in another word. */
static bool put_file(GPtrArray *words, int i, const char *cwd, const char *old, const char *was,
                     const char *path, const char *format)
{
    const FfOption *option = ff_option_find(words->pdata[i - 1]);
    g_autoptr(GPtrArray) opts = ff_opts_read(words->pdata[i], NULL);
    const char *key = key_of(option, words->pdata[i], opts, cwd, old);

    if (!*key) {
        replace_word(words, i, g_strdup(path));
        return true;
    }
    ff_opts_set(opts, key, path);
    if (strcmp(key, "filename") != 0) {
        ff_opts_set(opts, ff_opts_get(opts, "driver") ? "driver" : "format", format);
    } else if (strcmp(was, format) != 0) {
        return false;
    }
    replace_word(words, i, ff_opts_print(opts, NULL));
    return true;
}

/* WORDS have DISK, which is at PATH. */
static bool adapt_disk(GPtrArray *words, const char *cwd, const FfDiskEntry *disk, const char *path)
{
    JsonObject *image = ff_json_object(disk->inserted, "image");

    if (find_file(words, cwd, path) >= 0) {
        return true;
    }
    for (image = ff_json_object(image, "backing-image"); image;
         image = ff_json_object(image, "backing-image")) {
        g_autofree char *old = ff_image_path(ff_json_string_or(image, "filename", ""), image, cwd);
        int i = old ? find_file(words, cwd, old) : -1;

        if (i >= 0) {
            return put_file(words, i, cwd, old, ff_json_string_or(image, "format", ""), path,
                            disk->format);
        }
    }
    return !ff_disk_is_overlay(disk->node);
}

bool ff_restore_adapt_disks(FfCliQmp *qmp, const char *cwd, GPtrArray *words)
{
    g_autoptr(JsonNode) block = ff_cli_qmp_call(qmp, "query-block", NULL, NULL);
    bool ok = block;

    for (guint i = 0; ok && i < ff_json_node_length(block); i++) {
        FfDiskEntry disk;

        if (ff_disk_read(ff_json_node_nth(block, i), &disk)) {
            g_autofree char *path =
                disk.image ? ff_image_path(disk.image, ff_json_object(disk.inserted, "image"), cwd)
                           : NULL;

            ok = path ? adapt_disk(words, cwd, &disk, path) : !ff_disk_is_overlay(disk.node);
        }
    }
    return ok;
}

bool ff_restore_adapt(FfCliQmp *qmp, const char *cwd, GPtrArray *words)
{
    g_autofree char *machine = machine_of(qmp);

    if (machine) {
        adapt_machine(words, machine);
    }
    return ff_restore_adapt_disks(qmp, cwd, words);
}
