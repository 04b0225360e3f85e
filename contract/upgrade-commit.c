/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See upgrade-commit.h. The header, and after it one slot per page. A page counts as kept when it
 * is whole: content, then its place, then the number (release). The engine that puts pages back has
 * seen the end of all writers.
 *
 * No state but the mapping; any thread. System calls: memfd_create, ftruncate, fcntl, fstat, mmap,
 * munmap.
 */
#include "contract/upgrade-commit.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/memfd.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x5443415046460001ull
#define HEADER 4096u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SLOT_MAX (1ull << 30)

typedef struct {
    uint64_t page;
    uint32_t block, unused;
} Place;

typedef struct {
    uint64_t magic;
    uint32_t word;   /* FfUpgradeCommitWord, atomic */
    uint32_t n_kept; /* atomic */
    uint64_t slot;   /* bytes */
    char run_state[32];
    Place kept[FF_UPGRADE_COMMIT_PAGES];
    uint32_t said; /* FfUpgradeCommitSaid, atomic */
    uint32_t unused;
} Header;
static_assert(sizeof(Place) == 16 && offsetof(Header, said) == 56 + 16 * FF_UPGRADE_COMMIT_PAGES,
              "two versions of farfault may share it");
static_assert(sizeof(Header) <= HEADER, "slots begin behind it");

struct FfUpgradeCommit {
    Header *h;
    uint8_t *slots;
    uint64_t slot;
    size_t len;
};

int ff_upgrade_commit_create(uint64_t page_size)
{
    Header h = {.magic = MAGIC, .slot = page_size};
    int fd = memfd_create("farfault-pact", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return -errno;
    }
    if (ftruncate(fd, (off_t)(HEADER + FF_UPGRADE_COMMIT_PAGES * page_size)) < 0 ||
        pwrite(fd, &h, sizeof(h), 0) != sizeof(h) || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    return fd;
}

/* It may come from another process: a size that could change would end this one by SIGBUS. */
static bool is_pact(int fd, Header *h)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & SEALS) == SEALS && fstat(fd, &st) == 0 &&
           pread(fd, h, sizeof(*h), 0) == sizeof(*h) && h->magic == MAGIC && h->slot >= 4096 &&
           h->slot <= SLOT_MAX &&
           (uint64_t)st.st_size == HEADER + FF_UPGRADE_COMMIT_PAGES * h->slot;
}

FfUpgradeCommit *ff_upgrade_commit_map(int fd, GError **error)
{
    Header h;

    if (fd < 0 || !is_pact(fd, &h)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "the two engines have no pact: they are of different builds");
        return NULL;
    }
    size_t len = HEADER + FF_UPGRADE_COMMIT_PAGES * h.slot;
    uint8_t *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "the pact: %s",
                    g_strerror(errno));
        return NULL;
    }
    FfUpgradeCommit *p = g_new(FfUpgradeCommit, 1);

    *p = (FfUpgradeCommit){
        .h = (Header *)(void *)map, .slots = map + HEADER, .slot = h.slot, .len = len};
    return p;
}

void ff_upgrade_commit_free(FfUpgradeCommit *p)
{
    if (p) {
        munmap(p->h, p->len);
        g_free(p);
    }
}

FfUpgradeCommitWord ff_upgrade_commit_word(const FfUpgradeCommit *p)
{
    return (FfUpgradeCommitWord)__atomic_load_n(&p->h->word, __ATOMIC_SEQ_CST);
}

bool ff_upgrade_commit_change(FfUpgradeCommit *p, FfUpgradeCommitWord from, FfUpgradeCommitWord to)
{
    uint32_t expected = from;

    return __atomic_compare_exchange_n(&p->h->word, &expected, (uint32_t)to, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

bool ff_upgrade_commit_keep_guest(FfUpgradeCommit *p)
{
    return ff_upgrade_commit_change(p, FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_OLD) ||
           ff_upgrade_commit_change(p, FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_OLD) ||
           ff_upgrade_commit_word(p) == FF_UPGRADE_COMMIT_OLD;
}

void ff_upgrade_commit_set_run_state(FfUpgradeCommit *p, const char *run_state)
{
    g_strlcpy(p->h->run_state, run_state, sizeof(p->h->run_state));
}

char *ff_upgrade_commit_run_state(const FfUpgradeCommit *p)
{
    return g_strndup(p->h->run_state, sizeof(p->h->run_state) - 1);
}

bool ff_upgrade_commit_say_stop(FfUpgradeCommit *p)
{
    uint32_t before = 0;

    return __atomic_compare_exchange_n(&p->h->said, &before, (uint32_t)FF_UPGRADE_COMMIT_SAID_STOP,
                                       false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
           before == FF_UPGRADE_COMMIT_SAID_STOP;
}

bool ff_upgrade_commit_hear_no_more(FfUpgradeCommit *p)
{
    return __atomic_fetch_or(&p->h->said, (uint32_t)FF_UPGRADE_COMMIT_SAID_ALL, __ATOMIC_SEQ_CST) &
           FF_UPGRADE_COMMIT_SAID_STOP;
}

int ff_upgrade_commit_keep_page(FfUpgradeCommit *p, unsigned block, uint64_t page,
                                const void *content, uint64_t size)
{
    unsigned n = ff_upgrade_commit_pages(p);

    if (n >= FF_UPGRADE_COMMIT_PAGES || size > p->slot) {
        return -ENOSPC;
    }
    memcpy(p->slots + n * p->slot, content, size);
    p->h->kept[n] = (Place){.page = page, .block = block};
    __atomic_store_n(&p->h->n_kept, n + 1, __ATOMIC_RELEASE);
    return 0;
}

unsigned ff_upgrade_commit_pages(const FfUpgradeCommit *p)
{
    uint32_t n = __atomic_load_n(&p->h->n_kept, __ATOMIC_ACQUIRE);

    return MIN(n, FF_UPGRADE_COMMIT_PAGES);
}

void ff_upgrade_commit_forget_pages(FfUpgradeCommit *p)
{
    __atomic_store_n(&p->h->n_kept, 0, __ATOMIC_RELEASE);
}

const void *ff_upgrade_commit_page(const FfUpgradeCommit *p, unsigned i, unsigned *block,
                                   uint64_t *page)
{
    *block = p->h->kept[i].block;
    *page = p->h->kept[i].page;
    return p->slots + i * p->slot;
}
