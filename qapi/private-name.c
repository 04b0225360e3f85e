/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The name of a unix socket between QEMU and the engine (private-name.h). An engine that is killed
 * leaves it behind; one that ends otherwise removes it. Any thread, one at a time.
 */
#include "qapi/private-name.h"

#include <glib/gstdio.h>
#include <string.h>

#define PREFIX "farfault-"

struct FfPrivateName {
    char *folder, *path;
    bool removed;
};

FfPrivateName *ff_private_name_new(const char *name, GError **error)
{
    g_autofree char *folder = g_dir_make_tmp(PREFIX "XXXXXX", error);

    if (!folder) {
        return NULL;
    }
    FfPrivateName *private_name = g_new0(FfPrivateName, 1);

    private_name->path = g_build_filename(folder, name, NULL);
    private_name->folder = g_steal_pointer(&folder);
    return private_name;
}

bool ff_private_name_is_one(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *parent = g_path_get_dirname(folder), *name = g_path_get_basename(folder);

    return !strcmp(parent, g_get_tmp_dir()) && g_str_has_prefix(name, PREFIX);
}

FfPrivateName *ff_private_name_adopt(const char *path)
{
    FfPrivateName *private_name = g_new0(FfPrivateName, 1);

    private_name->folder = g_path_get_dirname(path);
    private_name->path = g_strdup(path);
    return private_name;
}

const char *ff_private_name_path(const FfPrivateName *name)
{
    return name->path;
}

void ff_private_name_remove(FfPrivateName *name)
{
    if (name && !name->removed) {
        g_unlink(name->path);
        g_rmdir(name->folder);
        name->removed = true;
    }
}

void ff_private_name_free(FfPrivateName *name)
{
    if (name) {
        ff_private_name_remove(name);
        g_free(name->folder);
        g_free(name->path);
        g_free(name);
    }
}
