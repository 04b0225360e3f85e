/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The map of shared files in another process. Read-only after ff_regions_new(); any thread.
 * System calls: pread, fstat.
 */
#include "uffd/regions.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct FfRegions {
    GArray *list; /* FfRegion, by address */
};

char *ff_maps_read(int fd, GError **error)
{
    g_autofree char *text = NULL;
    size_t at = 0, room = 0;

    for (;;) {
        if (room - at < 2) {
            char *more = g_try_realloc(text, MAX(2 * room, 32768));
            if (!more) {
                g_set_error(error, G_IO_ERROR, g_io_error_from_errno(ENOMEM),
                            "QEMU's memory map cannot be read: %s", g_strerror(ENOMEM));
                return NULL;
            }
            text = more;
            room = MAX(2 * room, 32768);
        }
        ssize_t n = pread(fd, text + at, room - at - 1, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                        "QEMU's memory map cannot be read: %s", g_strerror(errno));
            return NULL;
        }
        if (n == 0) {
            text[at] = '\0';
            return g_steal_pointer(&text);
        }
        at += (size_t)n;
    }
}

static int by_address(gconstpointer a, gconstpointer b)
{
    const FfRegion *x = a, *y = b;

    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void add_region(GArray *list, FfRegion r)
{
    if (list->len) {
        FfRegion *last = &g_array_index(list, FfRegion, list->len - 1);
        if (last->file == r.file && last->addr + last->len == r.addr &&
            last->offset + last->len == r.offset) {
            last->len += r.len;
            return;
        }
    }
    g_array_append_val(list, r);
}

/* Each byte of [0, size) of FILE mapped once: lengths add up and no two regions overlap. */
static bool is_covered(GArray *list, unsigned file, uint64_t size)
{
    uint64_t sum = 0;

    for (guint i = 0; i < list->len; i++) {
        const FfRegion *a = &g_array_index(list, FfRegion, i);
        if (a->file != file) {
            continue;
        }
        if (a->offset > size || a->len > size - a->offset) {
            return false;
        }
        sum += a->len;
        for (guint j = 0; j < i; j++) {
            const FfRegion *b = &g_array_index(list, FfRegion, j);
            if (b->file == file && a->offset < b->offset + b->len &&
                b->offset < a->offset + a->len) {
                return false;
            }
        }
    }
    return sum == size;
}

FfRegions *ff_regions_find(int maps_fd, const int *fds, unsigned n, GError **error)
{
    g_autofree struct stat *st = g_new0(struct stat, n);
    g_autoptr(FfRegions) r = g_new0(FfRegions, 1);

    r->list = g_array_new(FALSE, FALSE, sizeof(FfRegion));
    for (unsigned i = 0; i < n; i++) {
        if (fstat(fds[i], &st[i]) < 0) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "guest RAM %u: %s", i,
                        g_strerror(errno));
            return NULL;
        }
    }
    g_autofree char *text = ff_maps_read(maps_fd, error);

    if (text && !*text) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_BROKEN_PIPE, "QEMU has ended");
        return NULL;
    }
    if (!text) {
        return NULL;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        uint64_t start, end, offset, ino;
        unsigned maj, min;
        const char *perms = strchr(*l, ' ');

        /* Most are private: to read all of each takes long, and a guest may stand meanwhile. */
        if (!perms || strnlen(perms, 5) < 5 || perms[4] != 's' ||
            sscanf(*l, "%" SCNx64 "-%" SCNx64 " %*4s %" SCNx64 " %x:%x %" SCNu64, &start, &end,
                   &offset, &maj, &min, &ino) != 6) {
            continue;
        }
        for (unsigned i = 0; i < n; i++) {
            if (ino == st[i].st_ino && makedev(maj, min) == st[i].st_dev) {
                add_region(r->list, (FfRegion){i, start, offset, end - start});
            }
        }
    }
    g_array_sort(r->list, by_address);
    return g_steal_pointer(&r);
}

FfRegions *ff_regions_new(int maps_fd, const int *fds, const uint64_t *sizes, unsigned n,
                          GError **error)
{
    g_autoptr(FfRegions) r = ff_regions_find(maps_fd, fds, n, error);

    for (unsigned i = 0; r && i < n; i++) {
        if (!is_covered(r->list, i, sizes[i])) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "guest RAM %u is not mapped exactly once in QEMU", i);
            return NULL;
        }
    }
    return g_steal_pointer(&r);
}

void ff_regions_free(FfRegions *r)
{
    if (r) {
        g_array_unref(r->list);
        g_free(r);
    }
}

const FfRegion *ff_regions_all(const FfRegions *r, unsigned *n)
{
    *n = r->list->len;
    return (const FfRegion *)r->list->data;
}
