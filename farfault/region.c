/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is mapped where a region is to be: it is refused here if it cannot be saved. Any thread.
 *
 * System calls: fstat, pread (maps).
 */
#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "farfault/memory-internal.h"
#include "uffd/regions.h"

#define HUGE (2ull << 20)

typedef struct {
    uint64_t start, end, offset, dev, ino;
    char perms[5];
} Mapping;

static bool parse(const char *line, Mapping *m)
{
    unsigned maj, min;
    bool ok = sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m->start,
                     &m->end, m->perms, &m->offset, &maj, &min, &m->ino) == 7;

    if (ok) {
        m->dev = makedev(maj, min);
    }
    return ok;
}

/* That M, which has a part of R, can be saved as R says. */
static int check_mapping(FfMemoryRegion *r, const Mapping *m, bool is_first)
{
    uint64_t at = MAX(m->start, r->addr), offset = m->offset + (at - m->start);

    if (m->perms[0] != 'r' || m->perms[1] != 'w') {
        return ff_fail(-EACCES, "%#" PRIx64 ": it is not readable and writable", at);
    }
    if (r->fd < 0) {
        return m->ino == 0 && m->perms[3] == 'p'
                   ? 0
                   : ff_fail(-ENOTSUP,
                             "%#" PRIx64 ": it is not private anonymous memory: a shared mapping "
                             "of a memfd is registered with its file",
                             at);
    }
    if (m->perms[3] != 's' || m->dev != r->dev || m->ino != r->ino) {
        return ff_fail(-EINVAL, "%#" PRIx64 ": no shared mapping of that file is there", at);
    }
    if (is_first) {
        r->offset = offset;
    }
    return offset == r->offset + (at - r->addr)
               ? 0
               : ff_fail(-EINVAL, "%#" PRIx64 ": the file is not mapped in a row there", at);
}

static int look_at_maps(const FfMemory *m, FfMemoryRegion *r)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = ff_maps_read(m->maps_fd, &error);
    uint64_t next = r->addr, end = r->addr + r->len;
    int rc = 0;

    if (!text) {
        return ff_fail_error(error);
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l && rc == 0 && next < end; l++) {
        Mapping map;
        if (!parse(*l, &map) || map.end <= next) {
            continue;
        }
        if (map.start > next) {
            break;
        }
        rc = check_mapping(r, &map, next == r->addr);
        next = map.end;
    }
    return rc < 0 || next >= end ? rc : ff_fail(-ENOMEM, "%#" PRIx64 ": nothing is mapped", next);
}

static int look_at_file(FfMemoryRegion *r)
{
    struct stat st;
    int rc = ff_backing_of_file(r->fd, &r->backing);

    if (rc < 0 || fstat(r->fd, &st) < 0) {
        return ff_fail(rc < 0 ? rc : -errno, "the file is no memfd, nor on tmpfs or hugetlbfs");
    }
    r->dev = st.st_dev;
    r->ino = st.st_ino;
    return 0;
}

int ff_region_look(const FfMemory *m, FfMemoryRegion *r, unsigned flags)
{
    bool is_huge = flags & FF_REGION_HUGE;
    int rc = r->fd >= 0 ? look_at_file(r) : 0;

    if (rc < 0) {
        return rc;
    }
    if (flags & ~FF_REGION_HUGE || (is_huge && r->fd >= 0)) {
        return ff_fail(-EINVAL, "ff_region_add: a flag that is not known, or not for files");
    }
    if (r->fd < 0) {
        r->backing = ff_backing_private(m->mem_fd, r->len);
        r->backing.page_size = is_huge ? HUGE : r->backing.page_size;
    }
    uint64_t ps = r->backing.page_size;
    if (!r->len || r->addr % ps || r->len % ps || r->addr + r->len < r->addr) {
        return ff_fail(-EINVAL,
                       "ff_region_add: %#" PRIx64 " bytes at %#" PRIx64
                       " are not whole pages of %" PRIu64 " bytes",
                       r->len, r->addr, ps);
    }
    rc = look_at_maps(m, r);
    if (rc == 0 && r->fd >= 0) {
        if (r->offset % ps || r->offset + r->len > r->backing.size) {
            return ff_fail(-EINVAL, "%#" PRIx64 ": the file ends before the mapping", r->addr);
        }
        r->backing.size = r->offset + r->len;
    }
    return rc;
}
