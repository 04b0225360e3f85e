/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which backend has a URI. That of NBD is a plugin, as its libraries (GnuTLS among them) are for
 * those who need it alone.
 *
 * System calls: those of dlopen().
 */
#include <dlfcn.h>
#include <gio/gio.h>
#include <string.h>

#include "content/source/backend.h"

const char *const ff_content_schemes[] = {"nbd",       "nbds",       "nbd+unix", "nbds+unix",
                                          "nbd+vsock", "nbds+vsock", NULL};

char *ff_content_scheme(const char *uri)
{
    size_t n = strspn(uri, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

    return n && uri[n] == ':' ? g_strndup(uri, n) : NULL;
}

bool ff_content_is_uri(const char *uri)
{
    g_autofree char *scheme = ff_content_scheme(uri);

    return scheme && g_str_has_prefix(uri + strlen(scheme), "://") &&
           g_strv_contains(ff_content_schemes, scheme);
}

/* Stays loaded: its content outlives this. */
static const FfContentPlugin *load_plugin(const char *uri, const char *path, GError **error)
{
    if (!path) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: this farfault was built without libnbd: install its package farfault-nbd, "
                    "or libnbd-dev and build it again",
                    uri);
        return NULL;
    }
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: %s: install the package libnbd0", uri, dlerror());
        return NULL;
    }
    const FfContentPlugin *plugin = dlsym(object, "ff_content_plugin");
    if (!plugin || plugin->abi != FF_CONTENT_ABI) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: %s is of another version of farfault: install both of one", uri, path);
        return NULL;
    }
    return plugin;
}

static FfContent *open_export(const char *uri, const FfContentIdentity *known,
                              const FfContentAccess *access, GError **error)
{
    static const FfContentAccess none = {0};
    const FfContentAccess *a = access ? access : &none;
    const FfContentPlugin *plugin = load_plugin(uri, a->plugin, error);

    return plugin ? plugin->open(uri, known, a, error) : NULL;
}

FfContent *ff_content_open(const char *uri, const FfContentIdentity *known,
                           const FfContentAccess *access, GError **error)
{
    FfContent *bytes = ff_content_is_uri(uri) ? open_export(uri, known, access, error)
                                              : ff_content_open_file(uri, known, error);

    return bytes ? ff_content_open_image(bytes, known, error) : NULL;
}

FfContent *ff_content_open_bytes(const char *uri, const FfContentAccess *access, GError **error)
{
    return open_export(uri, NULL, access, error);
}
