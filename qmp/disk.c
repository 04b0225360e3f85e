/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See disk.h. A medium in words is made of parts, and read by its parts: what the other QEMU has in
 * the place of each. A file that was opened by a relative name has an absolute one in an overlay's
 * header; and QEMU writes options ("json:") in place of a name that is not the header's.
 */
#include "qmp/disk.h"

#include "qmp/image-name.h"

typedef enum { FILE_NAME, FORMAT, NODE_NAME, WORDS } PartKind;

typedef struct {
    PartKind kind;
    bool is_backing;
    char *text;        /* as it is written */
    JsonObject *image; /* of FILE_NAME, borrowed */
} Part;

static void part_free(void *data)
{
    Part *part = data;

    g_free(part->text);
    g_free(part);
}

static void add_part(GPtrArray *parts, PartKind kind, char *text, JsonObject *image)
{
    Part *part = g_new(Part, 1);

    *part = (Part){kind, parts->len > 1, text, image};
    g_ptr_array_add(parts, part);
}

bool ff_disk_is_overlay(const char *node)
{
    static const char begin[] = "farfault-";
    const char *hex = g_str_has_prefix(node, begin) ? node + strlen(begin) : "";

    return strspn(hex, "0123456789abcdef") == 8 && hex[8] == '-' && hex[9] &&
           !hex[9 + strspn(hex + 9, G_CSET_DIGITS)];
}

static char *limits_of(JsonObject *inserted)
{
    static const char *const limits[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        gint64 n = ff_json_int(inserted, limits[i], 0);
        if (n) {
            g_string_append_printf(text, " %s=%" G_GINT64_FORMAT, limits[i], n);
        }
    }
    return g_string_free(text, FALSE);
}

/* Of INSERTED, which is one; each FILE_NAME is followed by its FORMAT. */
static GPtrArray *parts_of(JsonObject *inserted)
{
    GPtrArray *parts = g_ptr_array_new_with_free_func(part_free);
    JsonObject *image = ff_json_object(inserted, "image");
    const char *node = ff_json_string_or(inserted, "node-name", "#");

    add_part(parts, FILE_NAME, g_strdup(ff_json_string_or(inserted, "file", "?")), image);
    add_part(parts, FORMAT,
             g_strdup_printf(" (%s%s)", ff_json_string_or(inserted, "drv", "no format"),
                             ff_json_bool(inserted, "ro") ? ", read-only" : ""),
             NULL);
    /* QEMU's own names differ in another one. */
    add_part(parts, NODE_NAME, *node == '#' ? g_strdup("") : g_strdup_printf(" node=%s", node),
             NULL);
    add_part(parts, WORDS, limits_of(inserted), NULL);
    for (image = ff_json_object(image, "backing-image"); image;
         image = ff_json_object(image, "backing-image")) {
        add_part(parts, WORDS, g_strdup(" on "), NULL);
        add_part(parts, FILE_NAME, g_strdup(ff_json_string_or(image, "filename", "?")), image);
        add_part(parts, FORMAT, g_strdup_printf(" (%s)", ff_json_string_or(image, "format", "?")),
                 NULL);
    }
    return parts;
}

char *ff_disk_describe(JsonObject *inserted)
{
    g_autoptr(GPtrArray) parts = inserted ? parts_of(inserted) : NULL;
    GString *text = g_string_new(inserted ? NULL : "(no medium)");

    for (guint i = 0; parts && i < parts->len; i++) {
        const Part *part = parts->pdata[i];

        g_string_append(text, part->text);
    }
    return g_string_free(text, FALSE);
}

/* ---- the same medium in other words ---------------------------------------------------------- */

static bool match_parts(const GPtrArray *parts, guint i, const char *text, const char *cwd);

/* Its end is where the format begins, of which a name may have the letters. */
static bool match_file(const GPtrArray *parts, guint i, const char *text, const char *cwd)
{
    const Part *part = parts->pdata[i];
    g_autofree char *ours = ff_image_path(part->text, part->image, cwd);

    for (const char *end = strstr(text, " ("); end; end = strstr(end + 1, " (")) {
        g_autofree char *name = g_strndup(text, end - text);
        g_autofree char *theirs = ff_image_path(name, NULL, cwd);

        if ((!strcmp(name, part->text) || (ours && !g_strcmp0(ours, theirs))) &&
            match_parts(parts, i + 1, end, cwd)) {
            return true;
        }
    }
    return false;
}

/* A file without a format is read as a raw one is. */
static bool match_format(const GPtrArray *parts, guint i, const char *text, const char *cwd)
{
    const Part *part = parts->pdata[i];
    bool is_bare = !strcmp(part->text, " (file)") || !strcmp(part->text, " (host_device)");

    return (g_str_has_prefix(text, part->text) &&
            match_parts(parts, i + 1, text + strlen(part->text), cwd)) ||
           (part->is_backing && is_bare && g_str_has_prefix(text, " (raw)") &&
            match_parts(parts, i + 1, text + strlen(" (raw)"), cwd));
}

static bool match_node(const GPtrArray *parts, guint i, const char *text, const char *cwd)
{
    static const char begin[] = " node=";
    const Part *part = parts->pdata[i];
    bool ours = *part->text && ff_disk_is_overlay(part->text + strlen(begin));
    size_t len = strlen(part->text);

    if (ours) {
        len = g_str_has_prefix(text, begin) ? strlen(begin) : 0;
        len += len ? strspn(text + len, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "-._") : 0;
    }
    return (ours || g_str_has_prefix(text, part->text)) &&
           match_parts(parts, i + 1, text + len, cwd);
}

/* TEXT has the parts from I on, and no more. */
static bool match_parts(const GPtrArray *parts, guint i, const char *text, const char *cwd)
{
    const Part *part = i < parts->len ? parts->pdata[i] : NULL;

    return !part                     ? !*text
           : part->kind == FILE_NAME ? match_file(parts, i, text, cwd)
           : part->kind == FORMAT    ? match_format(parts, i, text, cwd)
           : part->kind == NODE_NAME
               ? match_node(parts, i, text, cwd)
               : g_str_has_prefix(text, part->text) &&
                     match_parts(parts, i + 1, text + strlen(part->text), cwd);
}

bool ff_disk_is_described(JsonObject *inserted, const char *text, const char *cwd)
{
    g_autofree char *own = ff_disk_describe(inserted);
    g_autoptr(GPtrArray) parts = inserted ? parts_of(inserted) : NULL;

    return !strcmp(own, text) || (parts && match_parts(parts, 0, text, cwd));
}

char *ff_disk_node_path(JsonObject *node, int pid)
{
    static const char *const local[] = {"file", "host_device", "host_cdrom", NULL};
    const char *file = ff_json_string_or(node, "file", "");

    if (!g_strv_contains(local, ff_json_string_or(node, "drv", ""))) {
        return NULL;
    }
    return *file == '/' ? g_strdup(file) : g_strdup_printf("/proc/%d/cwd/%s", pid, file);
}
