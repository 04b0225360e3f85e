/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's side; see caches.h. No state, no locks. System calls: fstat, mmap, munmap. */
#include "contract/caches.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAPPED (FF_CACHES_OFFSET + sizeof(FfCachesPage))

/* The size is sealed (discards.h): what is there now stays. */
int ff_caches_keep(int fd, uint64_t until_us)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < (off_t)MAPPED) {
        return -ENOTSUP;
    }
    char *map = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return -errno;
    }
    FfCachesPage *page = (FfCachesPage *)(map + FF_CACHES_OFFSET);
    /* Observer: the hook in QEMU, which comes to it after the command that makes it look. */
    __atomic_store_n(&page->kept_until_us, until_us, __ATOMIC_RELEASE);
    munmap(map, MAPPED);
    return 0;
}
