/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See image-name.h. System calls: stat. */
#include "qmp/image-name.h"

#include <sys/stat.h>

bool ff_is_same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The path that options of a node come to without them. They are written out where the backing
 * image of IMAGE has another name than its header says, as of a base with a relative name: that is
 * the same if it is the same file. */
static char *path_of_options(JsonObject *o, JsonObject *image, const char *cwd)
{
    static const char *const node[] = {"driver", "file", "backing", NULL};
    static const char *const protocol[] = {"driver", "filename", NULL};
    static const char *const formats[] = {"raw", "qcow2", NULL};
    JsonObject *file = ff_json_object(o, "file"), *backing = ff_json_object(o, "backing");

    /* Without a format, which is read as raw is. */
    if (!strcmp(ff_json_string_or(o, "driver", ""), "file") && ff_json_has_only(o, protocol)) {
        return ff_image_path(ff_json_string_or(o, "filename", ""), NULL, cwd);
    }
    if (!file || !ff_json_has_only(o, node) || !ff_json_has_only(file, protocol) ||
        !g_strv_contains(formats, ff_json_string_or(o, "driver", "")) ||
        strcmp(ff_json_string_or(file, "driver", ""), "file") != 0 ||
        json_object_has_member(o, "backing") != !!backing) {
        return NULL;
    }
    if (backing) {
        g_autofree char *has =
            path_of_options(backing, ff_json_object(image, "backing-image"), cwd);
        g_autofree char *says =
            ff_image_path(ff_json_string_or(image, "full-backing-filename", ""), NULL, cwd);

        if (!has || !says || !ff_is_same_file(has, says)) {
            return NULL;
        }
    }
    return ff_image_path(ff_json_string_or(file, "filename", ""), NULL, cwd);
}

char *ff_image_path(const char *name, JsonObject *image, const char *cwd)
{
    if (g_str_has_prefix(name, "json:")) {
        g_autoptr(JsonNode) node = ff_json_from_text(name + strlen("json:"));
        JsonObject *o = ff_json_node_object(node);

        return o && image ? path_of_options(o, image, cwd) : NULL;
    }
    if (!*name || strcspn(name, ":") < strcspn(name, "/") || (*name != '/' && !cwd)) {
        return NULL;
    }
    return g_canonicalize_filename(name, cwd);
}
