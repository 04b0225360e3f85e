/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See restore-adapt.h. An overlay that came in front since the start (farfault snapshot or restore
 * --disks, blockdev-snapshot) takes the place of that of its backing files that the command line
 * names. Where that may be another disk's, or what is behind it is named as well, or a disk is
 * named that the guest no longer has (block-commit, a mirror), the command line is given up: it
 * would be typed. One thread.
 */
#include "cli/common/restore-adapt.h"

#include <string.h>

#include "cli/common/commands.h"
#include "guest/launch/argv-opts.h"
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

static bool has_disk(const FfOption *option)
{
    static const char *const names[] = {"drive", "blockdev", "hda",      "hdb", "hdc",    "hdd",
                                        "fda",   "fdb",      "mtdblock", "sd",  "pflash", NULL};

    return option && option->has_arg && g_strv_contains(names, option->name);
}

/* The key of OPTS that names a file ("" for all of the value); NULL: it names none. What says its
 * format is beside it, but for "filename", a node of a file alone. */
static const char *key_of(const FfOption *option, const GPtrArray *opts)
{
    bool is_drive = !strcmp(option->name, "drive");

    /* Of a node "file" is another one's name. */
    return !is_drive && strcmp(option->name, "blockdev") != 0 ? ""
           : is_drive && ff_opts_get(opts, "file")            ? "file"
           : ff_opts_get(opts, "file.filename")               ? "file.filename"
           : ff_opts_get(opts, "filename")                    ? "filename"
                                                              : NULL;
}

/* The guest writes to what it says. */
static bool is_written(const GPtrArray *opts)
{
    return !ff_opt_bool(ff_opts_get(opts, "readonly"), false) &&
           !ff_opt_bool(ff_opts_get(opts, "read-only"), false) &&
           g_strcmp0(ff_opts_get(opts, "media"), "cdrom") != 0;
}

/* An option of WORDS that has a disk. */
typedef struct {
    guint at; /* where its value is */
    const FfOption *option;
    GPtrArray *opts;
    const char *key, *name; /* of the file */
} DiskWord;

/* The next one behind *AT (0: the first) to which the guest writes; its OPTS are the caller's
 * (g_ptr_array_unref). */
static bool next_disk(const GPtrArray *words, guint *at, DiskWord *word)
{
    for (guint i = *at; i + 1 < words->len; i++) {
        const FfOption *option = ff_option_find(words->pdata[i]);

        if (!option || !option->has_arg) {
            continue;
        }
        const char *value = words->pdata[++i];
        g_autoptr(GPtrArray) opts = has_disk(option) ? ff_opts_read(value, NULL) : NULL;
        const char *key = opts ? key_of(option, opts) : NULL;
        if (key && is_written(opts)) {
            const char *name = *key ? ff_opts_get(opts, key) : value;

            *at = i + 1;
            *word = (DiskWord){i, option, g_steal_pointer(&opts), key, name};
            return true;
        }
    }
    return false;
}

/* WORDS have the file at PATH: the first of them that has it. */
static bool find_file(const GPtrArray *words, const char *cwd, const char *path, DiskWord *word)
{
    guint at = 0;

    while (next_disk(words, &at, word)) {
        if (is_at(word->name, cwd, path)) {
            return true;
        }
        g_clear_pointer(&word->opts, g_ptr_array_unref);
    }
    return false;
}

/* An option names what is behind an image: the one that comes in front has to be behind none of
 * these. */
static bool names_backing(const GPtrArray *words)
{
    for (guint i = 0; i + 1 < words->len; i++) {
        const FfOption *option = ff_option_find(words->pdata[i]);
        g_autoptr(GPtrArray) opts = NULL;

        if (!option || !option->has_arg) {
            continue;
        }
        i++;
        opts = has_disk(option) ? ff_opts_read(words->pdata[i], NULL) : NULL;
        for (guint k = 0; opts && k < opts->len; k++) {
            const FfOpt *opt = opts->pdata[k];

            if (strstr(opt->key, "backing")) {
                return true;
            }
        }
    }
    return false;
}

/* WORD, which has a file of format WAS, has the one at PATH. FALSE: the format is in another word,
 * or the files behind it are. */
static bool put_file(GPtrArray *words, const DiskWord *word, const char *was, const char *path,
                     const char *format)
{
    if (names_backing(words)) {
        return false;
    }
    if (!*word->key) {
        replace_word(words, word->at, g_strdup(path));
        return true;
    }
    ff_opts_set(word->opts, word->key, path);
    if (strcmp(word->key, "filename") != 0) {
        ff_opts_set(word->opts, ff_opts_get(word->opts, "driver") ? "driver" : "format", format);
    } else if (strcmp(was, format) != 0) {
        return false;
    }
    replace_word(words, word->at, ff_opts_print(word->opts, NULL));
    return true;
}

/* How many of the guest's disks BLOCK have the file at PATH, in front or behind. */
static unsigned count_users(JsonNode *block, const char *cwd, const char *path)
{
    unsigned n = 0;

    for (guint i = 0; i < ff_json_node_length(block); i++) {
        JsonObject *inserted = ff_json_object(ff_json_node_nth(block, i), "inserted");
        JsonObject *image = ff_json_object(inserted, "image");
        bool found = false;

        for (; image && !found; image = ff_json_object(image, "backing-image")) {
            g_autofree char *own =
                ff_image_path(ff_json_string_or(image, "filename", ""), image, cwd);

            found = own && (!strcmp(own, path) || ff_is_same_file(own, path));
        }
        n += found;
    }
    return n;
}

/* WORD can be DISK's: -drive says whose it is. */
static bool may_be(const DiskWord *word, const FfDiskEntry *disk)
{
    const char *id = strcmp(word->option->name, "drive") ? NULL : ff_opts_get(word->opts, "id");

    return !id || !g_strcmp0(id, disk->drive);
}

/* WORDS have DISK, one of BLOCK, which is at PATH; or it has been plugged since. */
static bool adapt_disk(GPtrArray *words, JsonNode *block, const char *cwd, const FfDiskEntry *disk,
                       const char *path)
{
    JsonObject *image = ff_json_object(disk->inserted, "image");
    DiskWord word;

    if (find_file(words, cwd, path, &word)) {
        g_autoptr(GPtrArray) opts = word.opts;

        return may_be(&word, disk);
    }
    for (image = ff_json_object(image, "backing-image"); image;
         image = ff_json_object(image, "backing-image")) {
        g_autofree char *old = ff_image_path(ff_json_string_or(image, "filename", ""), image, cwd);

        if (old && find_file(words, cwd, old, &word)) {
            g_autoptr(GPtrArray) opts = word.opts;

            return may_be(&word, disk) && count_users(block, cwd, old) == 1 &&
                   put_file(words, &word, ff_json_string_or(image, "format", ""), path,
                            disk->format);
        }
    }
    return !ff_disk_is_overlay(disk->node);
}

/* WORDS have a disk that the guest does not have any more: a job (block-commit, a mirror) has put
 * another image in its place, or it was taken out. */
static bool has_former(const GPtrArray *words, JsonNode *block, const char *cwd)
{
    DiskWord word;
    guint at = 0;

    while (next_disk(words, &at, &word)) {
        g_autoptr(GPtrArray) opts = word.opts;
        g_autofree char *path = ff_image_path(word.name, NULL, cwd);

        if (path && !count_users(block, cwd, path)) {
            return true;
        }
    }
    return false;
}

bool ff_restore_adapt_disks(FfCliQmp *qmp, const char *cwd, GPtrArray *words)
{
    g_autoptr(JsonNode) block = ff_cli_qmp_call(qmp, "query-block", NULL, NULL);
    bool ok = block, all_named = true;

    for (guint i = 0; ok && i < ff_json_node_length(block); i++) {
        FfDiskEntry disk;

        if (ff_disk_read(ff_json_node_nth(block, i), &disk)) {
            g_autofree char *path =
                disk.image ? ff_image_path(disk.image, ff_json_object(disk.inserted, "image"), cwd)
                           : NULL;

            ok = path ? adapt_disk(words, block, cwd, &disk, path) : !ff_disk_is_overlay(disk.node);
            /* Written as options it may be the file of any word. */
            all_named &= path || !disk.image || !g_str_has_prefix(disk.image, "json:");
        }
    }
    return ok && !(all_named && has_former(words, block, cwd));
}

/* QEMU would write to the base behind the restored guest's overlay. */
static void drop_copy_on_read(GPtrArray *words)
{
    static const char key[] = "copy-on-read";
    DiskWord word;
    guint at = 0;

    while (next_disk(words, &at, &word)) {
        g_autoptr(GPtrArray) opts = word.opts;

        if (!strcmp(word.option->name, "drive") && ff_opts_get(opts, key)) {
            ff_opts_remove(opts, key);
            replace_word(words, word.at, ff_opts_print(opts, NULL));
        }
    }
}

/* An older farfault's is made by -mon. */
bool ff_restore_is_monitor(const FfOption *option, const char *value)
{
    return (option->kind == FF_OPT_CHARDEV &&
            g_str_has_prefix(value, "socket,id=" FF_CLI_RESTORE_MONITOR ",fd=")) ||
           (option->kind == FF_OPT_QMP && !strcmp(value, "chardev:" FF_CLI_RESTORE_MONITOR)) ||
           (option->kind == FF_OPT_MON &&
            !strcmp(value, "chardev=" FF_CLI_RESTORE_MONITOR ",mode=control"));
}

bool ff_restore_adapt(FfCliQmp *qmp, const char *cwd, GPtrArray *words)
{
    g_autofree char *machine = machine_of(qmp);

    if (machine) {
        adapt_machine(words, machine);
    }
    drop_copy_on_read(words);
    return ff_restore_adapt_disks(qmp, cwd, words);
}
