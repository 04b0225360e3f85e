/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the rewriting of one memory backend, in both notations of -object: key=value and JSON.
 *
 * ram, memfd, shm and file backends become a shared memory-backend-file over a memfd, because
 * QEMU 10 leaves only blocks out of its stream that are shared *and* made by that type. All
 * properties that mean something to every backend stay (prealloc, policy, host-nodes, dump,
 * merge, reserve, align, ...), in their order.
 *
 * A file backend may become a memfd when its mem-path is a *directory* of tmpfs or hugetlbfs:
 * QEMU makes a file there and unlinks it at once, so nobody can have come to share it by name,
 * and it was empty. A mem-path that is a file has contents, or other users, or a life after the
 * guest: it stays as it is. Pure but for the injected questions; any thread.
 */
#include "guest/launch/argv-rewrite.h"

#include <inttypes.h>
#include <string.h>

#include "contract/state.h"

static JsonObject *json_of(const FfBackend *backend)
{
    return json_node_get_object(backend->json);
}

char *ff_backend_get(const FfBackend *backend, const char *key)
{
    if (backend->opts) {
        return g_strdup(ff_opts_get(backend->opts, key));
    }
    JsonNode *node = json_object_get_member(json_of(backend), key);
    GType type = node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_value_type(node) : 0;

    if (type == G_TYPE_STRING) {
        return json_node_dup_string(node);
    }
    if (type == G_TYPE_BOOLEAN) {
        return g_strdup(json_node_get_boolean(node) ? "on" : "off");
    }
    if (type == G_TYPE_INT64) {
        return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(node));
    }
    return NULL;
}

static bool prop_bool(const FfBackend *backend, const char *key, bool default_value)
{
    g_autofree char *value = ff_backend_get(backend, key);

    return ff_opt_bool(value, default_value);
}

/* TRUE if KEY is a size; *SIZE is then set. Absent: FALSE. */
static bool prop_size(const FfBackend *backend, const char *key, uint64_t *size)
{
    g_autofree char *value = ff_backend_get(backend, key);

    return value && ff_opt_size(value, 'B', size);
}

static void prop_remove(FfBackend *backend, const char *key)
{
    if (backend->opts) {
        ff_opts_remove(backend->opts, key);
    } else {
        json_object_remove_member(json_of(backend), key);
    }
}

static void prop_set(FfBackend *backend, const char *key, const char *value)
{
    if (backend->opts) {
        ff_opts_set(backend->opts, key, value);
    } else {
        json_object_set_string_member(json_of(backend), key, value);
    }
}

static void prop_set_bool(FfBackend *backend, const char *key, bool value)
{
    if (backend->opts) {
        ff_opts_set(backend->opts, key, value ? "on" : "off");
    } else {
        json_object_set_boolean_member(json_of(backend), key, value);
    }
}

static void prop_set_size(FfBackend *backend, const char *key, uint64_t value)
{
    if (backend->opts) {
        g_autofree char *text = g_strdup_printf("%" PRIu64, value);
        ff_opts_set(backend->opts, key, text);
    } else {
        json_object_set_int_member(json_of(backend), key, value);
    }
}

void ff_backend_free(FfBackend *backend)
{
    g_clear_pointer(&backend->opts, g_ptr_array_unref);
    g_clear_pointer(&backend->json, json_node_unref);
    g_free(backend->type);
    g_free(backend->id);
    g_free(backend->mount);
    g_free(backend);
}

/* Reads VALUE in either notation; TYPE_KEY is the key of a first part without "=". */
static FfBackend *parse_backend(const char *value, const char *type_key)
{
    g_autoptr(FfBackend) backend = g_new0(FfBackend, 1);

    if (value[0] == '{') {
        backend->json = json_from_string(value, NULL);
        if (!backend->json || !JSON_NODE_HOLDS_OBJECT(backend->json)) {
            return NULL;
        }
    } else {
        backend->opts = ff_opts_parse(value, type_key);
    }
    backend->type = ff_backend_get(backend, type_key);
    backend->id = ff_backend_get(backend, "id");
    return g_steal_pointer(&backend);
}

FfBackend *ff_backend_new_device(const char *value)
{
    return parse_backend(value, "driver");
}

FfBackend *ff_backend_new_netdev(const char *value)
{
    return parse_backend(value, "type");
}

FfBackend *ff_backend_new(FfArg *arg, bool *broken)
{
    g_autoptr(FfBackend) backend = parse_backend(arg->value, "qom-type");

    *broken = !backend && strstr(arg->value, "memory-backend");
    if (!backend || !backend->type || !g_str_has_prefix(backend->type, "memory-backend")) {
        return NULL;
    }
    backend->arg = arg;
    return g_steal_pointer(&backend);
}

const char *ff_backend_disk(const char *path, const FfArgvSystem *sys)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *inside = g_build_filename(path, ".", NULL);
    g_autofree char *beside = g_build_filename(folder, ".", NULL);
    uint64_t page_size;
    char fs = sys->fs_kind(inside, &page_size, sys->opaque);

    if (!fs) {
        fs = sys->fs_kind(path, &page_size, sys->opaque);
    }
    if (!fs) {
        fs = sys->fs_kind(beside, &page_size, sys->opaque);
    }
    return fs == 'r' ? FF_RAM_ON_DISK : "";
}

static char *check_file(FfBackend *backend, const FfArgvSystem *sys)
{
    static const char *const kinds[] = {"pmem", "readonly", "rom", NULL};
    g_autofree char *path = ff_backend_get(backend, "mem-path");
    uint64_t offset = 0;

    for (const char *const *kind = kinds; *kind; kind++) {
        if (prop_bool(backend, *kind, false)) {
            /* QEMU fails before the switch where it may not write to the file. */
            const char *disk =
                path && !prop_bool(backend, "readonly", false) ? ff_backend_disk(path, sys) : "";
            return g_strdup_printf("has %s=on%s%s, which is no guest RAM that farfault can move: "
                                   "use memory-backend-memfd",
                                   *kind, *disk ? " for a file" : "", disk);
        }
    }
    if (!path) {
        return g_strdup("has no mem-path");
    }
    g_autofree char *as_directory = g_build_filename(path, ".", NULL);
    char fs = sys->fs_kind(as_directory, &backend->page_size, sys->opaque);
    if (fs == 't') {
        backend->page_size = 4096;
    }
    backend->mount = fs == 'h' ? g_strdup(path) : NULL;
    if ((fs != 't' && fs != 'h') || prop_size(backend, "offset", &offset)) {
        return g_strdup_printf("keeps guest RAM in the file %s%s, which may have contents or other "
                               "users: use memory-backend-memfd, or a directory of tmpfs or "
                               "hugetlbfs",
                               path, ff_backend_disk(path, sys));
    }
    return NULL;
}

static char *check_memfd(FfBackend *backend, const FfArgvSystem *sys)
{
    /* QEMU seals unless it is told not to. */
    backend->seal = prop_bool(backend, "seal", true);
    if (!prop_bool(backend, "hugetlb", false)) {
        backend->page_size = 4096;
        return NULL;
    }
    if (!prop_size(backend, "hugetlbsize", &backend->page_size) || !backend->page_size) {
        backend->page_size = sys->default_hugepage_size;
    }
    if (!backend->page_size) {
        return g_strdup("wants huge pages, but this kernel has none: set hugetlbsize, or boot "
                        "with hugepages=");
    }
    return NULL;
}

char *ff_backend_check(FfBackend *backend, const FfArgvSystem *sys)
{
    char *why = NULL;

    if (!backend->id) {
        return g_strdup("has no id");
    }
    if (g_str_equal(backend->type, "memory-backend-file")) {
        why = check_file(backend, sys);
    } else if (g_str_equal(backend->type, "memory-backend-memfd")) {
        why = check_memfd(backend, sys);
    } else if (g_str_equal(backend->type, "memory-backend-ram") ||
               g_str_equal(backend->type, "memory-backend-shm")) {
        backend->page_size = 4096;
    } else {
        why = g_strdup("is of a type that farfault cannot move: use memory-backend-memfd");
    }
    if (why) {
        return why;
    }
    backend->unreserved = !prop_bool(backend, "reserve", true);
    if (!prop_size(backend, "size", &backend->size) || backend->size == 0) {
        return g_strdup("has no size that farfault can read: give size= in bytes, M or G");
    }
    if (backend->page_size < 4096 || (backend->page_size & (backend->page_size - 1)) ||
        backend->size % backend->page_size) {
        return g_strdup_printf("has a size that is no multiple of its page size, %" PRIu64
                               " bytes: round it up",
                               backend->page_size);
    }
    return NULL;
}

static void ask_for_thp(FfBackend *backend, FfBackendUse use)
{
    g_autofree char *align = ff_backend_get(backend, "align");
    bool thp = g_str_equal(backend->type, "memory-backend-ram") &&
               ff_may_have_thp(backend->size, backend->page_size);

    backend->thp = thp && use == FF_BACKEND_WHOLE;
    if (thp && !align) {
        prop_set_size(backend, "align", FF_THP_BYTES);
    }
}

void ff_backend_rewrite(FfBackend *backend, guint index, FfBackendUse use)
{
    /* What the memfd itself is now, what only another type has, and discard-data: it would
     * punch the memfd, which the engine shares, when QEMU ends. */
    static const char *const gone[] = {
        "mem-path",     "share",       "seal",     "hugetlb", "pmem", "rom",
        "discard-data", "hugetlbsize", "readonly", "offset",  NULL};
    g_autofree char *path = g_strdup_printf("/proc/self/fd/@FF_RAM%u@", index);
    g_autofree char *canonical = ff_backend_get(backend, "x-use-canonical-path-for-ramblock-id");

    for (const char *const *key = gone; *key; key++) {
        prop_remove(backend, *key);
    }
    if (use == FF_BACKEND_INCOMING) {
        /* The destination's RAM is emptied before it is filled: preallocating it would only make
         * the start slow. */
        prop_remove(backend, "prealloc");
    }
    prop_set(backend, "qom-type", "memory-backend-file");
    prop_set(backend, "mem-path", path);
    prop_set_bool(backend, "share", true);
    /* The name of the RAM block must stay. Machine types up to 3.1 call the blocks of file and
     * memfd backends /objects/ID, all others ID; ram and shm are ID everywhere. */
    if (!canonical && (g_str_equal(backend->type, "memory-backend-ram") ||
                       g_str_equal(backend->type, "memory-backend-shm"))) {
        prop_set_bool(backend, "x-use-canonical-path-for-ramblock-id", false);
    }
    if (use != FF_BACKEND_ADDED) {
        ask_for_thp(backend, use);
    }
    g_free(backend->arg->new_value);
    backend->arg->new_value = backend->opts ? ff_opts_print(backend->opts, "qom-type")
                                            : json_to_string(backend->json, FALSE);
}
