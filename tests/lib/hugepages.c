/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See hugepages.h. */
#include "tests/lib/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

struct HugePages {
    int lock; /* the pool's own size, as tests/libvirt has it */
    unsigned before;
    GMutex mutex;
    int taken; /* mutex; a memfd */
    off_t end; /* mutex */
};

static unsigned number(const char *name)
{
    g_autofree char *path = g_strconcat(POOL, name, NULL), *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? strtoul(text, NULL, 10) : 0;
}

unsigned hugepages_free_now(void)
{
    unsigned all = number("free_hugepages"), reserved = number("resv_hugepages");

    return all > reserved ? all - reserved : 0;
}

unsigned hugepages_size(void)
{
    return number("nr_hugepages");
}

bool hugepages_set_size(unsigned n)
{
    int fd = open(POOL "nr_hugepages", O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && dprintf(fd, "%u", n) > 0;

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

HugePages *hugepages_try(unsigned n, const char **why)
{
    HugePages *p = g_new0(HugePages, 1);

    p->lock = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC);
    p->taken = memfd_create("taken", MFD_CLOEXEC | MFD_HUGETLB | 21u << MFD_HUGE_SHIFT);
    if (p->lock < 0 || p->taken < 0) {
        *why = "this kernel has no huge pages of 2 MiB";
        hugepages_free(p);
        return NULL;
    }
    flock(p->lock, LOCK_EX);
    p->before = hugepages_size();
    unsigned have = hugepages_free_now();
    if (have < n && (!hugepages_set_size(p->before + n - have) || hugepages_free_now() < n)) {
        *why = "too few huge pages of 2 MiB are free, and no more can be reserved here";
        hugepages_free(p);
        return NULL;
    }
    return p;
}

HugePages *hugepages_new(unsigned n)
{
    const char *why = NULL;
    HugePages *p = hugepages_try(n, &why);

    if (!p) {
        g_test_skip(why);
    }
    return p;
}

/* FALSE: there is none. */
static bool take_one(HugePages *p)
{
    g_assert_cmpint(ftruncate(p->taken, p->end + HUGEPAGE), ==, 0);
    if (fallocate(p->taken, 0, p->end, HUGEPAGE) < 0) {
        g_assert_true(errno == ENOSPC || errno == ENOMEM);
        return false;
    }
    p->end += HUGEPAGE;
    return true;
}

void hugepages_take(HugePages *p)
{
    g_mutex_lock(&p->mutex);
    while (take_one(p)) {
    }
    g_mutex_unlock(&p->mutex);
}

void hugepages_give(HugePages *p)
{
    g_mutex_lock(&p->mutex);
    g_assert_cmpint(ftruncate(p->taken, 0), ==, 0);
    p->end = 0;
    g_mutex_unlock(&p->mutex);
}

void hugepages_free(HugePages *p)
{
    if (!p) {
        return;
    }
    if (p->taken >= 0) {
        close(p->taken);
    }
    if (p->before != hugepages_size() && p->lock >= 0) {
        hugepages_set_size(p->before);
    }
    if (p->lock >= 0) {
        close(p->lock);
    }
    g_free(p);
}
