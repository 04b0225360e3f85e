/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See fetched-pages.h. The memfd has a head, the parts, three bitmaps and the pages. Whoever waits
 * does so in a futex of the head: `changes`, which is made larger after each bit of `have`.
 *
 * What is wanted is found by a bitmap with a bit for each GROUP pages: it is set after the page's
 * own bit, and cleared before that is looked for. So no page is missed, and nobody looks at all of
 * them.
 *
 * System calls: memfd_create, ftruncate, fstat, fcntl, mmap, munmap, eventfd, write, futex, close.
 */
#include "pager/server/fetched-pages.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/bitmap.h"

#define MAGIC 0x534547415046460aull
#define GROUP 4096u
#define PAGES_MAX (1ull << 36)

typedef struct {
    uint64_t magic, n_parts, n_pages;
    uint32_t changes; /* atomic, a futex: fetcher, and ff_fetched_wake(). Observers: pagers */
    uint32_t done;    /* atomic: fetcher. Observers: pagers */
} Head;
_Static_assert(sizeof(Head) == 32, "both processes have it as it is");

struct FfFetchedPages {
    Head *head;
    FfFetchedPart *parts;
    FfBitmap have, want, groups;
    char *data;
    size_t len;
    int memfd, kick;
};

/* Where what is in the memfd; the last one is its size. */
typedef struct {
    size_t parts, have, want, groups, data, end;
} Places;

static uint64_t n_groups(uint64_t pages)
{
    return (pages + GROUP - 1) / GROUP;
}

static Places places_of(uint64_t n_parts, uint64_t n_pages)
{
    Places p = {.parts = sizeof(Head)};

    p.have = p.parts + n_parts * sizeof(FfFetchedPart);
    p.want = p.have + ff_bitmap_words(n_pages) * 8;
    p.groups = p.want + ff_bitmap_words(n_pages) * 8;
    p.data = p.groups + ff_bitmap_words(n_groups(n_pages)) * 8;
    p.data = (p.data + FF_FETCHED_PAGE - 1) / FF_FETCHED_PAGE * FF_FETCHED_PAGE;
    p.end = p.data + n_pages * FF_FETCHED_PAGE;
    return p;
}

static void *fail_room(GError **error)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "no room for pages of another host: %s",
                g_strerror(errno));
    return NULL;
}

/* ---- making ---------------------------------------------------------------------------------- */

/* The memfd and the eventfd are the caller's still if it fails. */
static FfFetchedPages *map_pages(int memfd, int kick, const Places *p, uint64_t n_pages)
{
    char *at = mmap(NULL, p->end, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);

    if (at == MAP_FAILED) {
        return NULL;
    }
    FfFetchedPages *s = g_new0(FfFetchedPages, 1);
    *s = (FfFetchedPages){.head = (Head *)at, .len = p->end, .memfd = memfd, .kick = kick};
    s->parts = (FfFetchedPart *)(at + p->parts);
    s->data = at + p->data;
    ff_bitmap_init_over(&s->have, (uint64_t *)(at + p->have), n_pages);
    ff_bitmap_init_over(&s->want, (uint64_t *)(at + p->want), n_pages);
    ff_bitmap_init_over(&s->groups, (uint64_t *)(at + p->groups), n_groups(n_pages));
    return s;
}

static FfFetchedPages *make_pages(uint64_t n_parts, uint64_t n_pages)
{
    Places p = places_of(n_parts, n_pages);
    int memfd = FF_FAULT_CALL("store-memfd", memfd_create("pages", MFD_CLOEXEC));
    int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    FfFetchedPages *s = memfd < 0 || kick < 0 || ftruncate(memfd, (off_t)p.end) < 0
                            ? NULL
                            : map_pages(memfd, kick, &p, n_pages);
    int err = errno;

    if (!s) {
        close(memfd);
        close(kick);
        errno = err;
    }
    return s;
}

FfFetchedPages *ff_fetched_create(FfFetchedPart *parts, unsigned n, GError **error)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < n; i++) {
        parts[i].first = pages;
        pages += parts[i].pages;
        if (parts[i].pages > PAGES_MAX || pages > PAGES_MAX) {
            errno = EFBIG;
            return fail_room(error);
        }
    }
    FfFetchedPages *s = make_pages(n, pages);
    if (!s) {
        return fail_room(error);
    }
    *s->head = (Head){.magic = MAGIC, .n_parts = n, .n_pages = pages};
    memcpy(s->parts, parts, n * sizeof(*parts));
    return s;
}

FfFetchedPages *ff_fetched_map(int memfd, int kick, GError **error)
{
    Head head = {0};
    struct stat st;

    if (pread(memfd, &head, sizeof(head), 0) != sizeof(head) || head.magic != MAGIC ||
        head.n_pages > PAGES_MAX || fstat(memfd, &st) < 0) {
        errno = EINVAL;
        return fail_room(error);
    }
    Places p = places_of(head.n_parts, head.n_pages);
    if ((size_t)st.st_size != p.end) {
        errno = EINVAL;
        return fail_room(error);
    }
    FfFetchedPages *s = map_pages(memfd, kick, &p, head.n_pages);
    return s ? s : fail_room(error);
}

void ff_fetched_free(FfFetchedPages *s)
{
    if (s) {
        munmap(s->head, s->len);
        g_free(s);
    }
}

int ff_fetched_memfd(const FfFetchedPages *s)
{
    return s->memfd;
}

int ff_fetched_kick(const FfFetchedPages *s)
{
    return s->kick;
}

uint64_t ff_fetched_pages(const FfFetchedPages *s)
{
    return s->head->n_pages;
}

const FfFetchedPart *ff_fetched_part(const FfFetchedPages *s, int32_t pid)
{
    for (uint64_t i = 0; i < s->head->n_parts; i++) {
        if (s->parts[i].pid == pid) {
            return &s->parts[i];
        }
    }
    return NULL;
}

/* ---- fetcher --------------------------------------------------------------------------------- */

void *ff_fetched_at(const FfFetchedPages *s, uint64_t page)
{
    return s->data + page * FF_FETCHED_PAGE;
}

void ff_fetched_wake(FfFetchedPages *s)
{
    __atomic_add_fetch(&s->head->changes, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &s->head->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void ff_fetched_arrived(FfFetchedPages *s, uint64_t first, uint64_t n)
{
    ff_bitmap_set_run(&s->have, first, n);
    ff_fetched_wake(s);
}

bool ff_fetched_next_wanted(FfFetchedPages *s, uint64_t *page)
{
    uint64_t group, end = s->groups.n_pages;

    for (uint64_t at = 0; ff_bitmap_claim_run(&s->groups, at, end, 1, &group); at = group + 1) {
        uint64_t stop = MIN((group + 1) * GROUP, s->head->n_pages);
        if (ff_bitmap_claim_run(&s->want, group * GROUP, stop, 1, page)) {
            ff_bitmap_set(&s->groups, group); /* there may be others */
            return true;
        }
    }
    return false;
}

void ff_fetched_set_done(FfFetchedPages *s)
{
    __atomic_store_n(&s->head->done, 1, __ATOMIC_SEQ_CST);
    ff_fetched_wake(s);
}

/* ---- pager ----------------------------------------------------------------------------------- */

/* Until something has changed since it was SEEN. The fetcher's counter is made larger after what it
 * is about, so what is not seen after this was read wakes. */
static void wait_change(FfFetchedPages *s, uint32_t seen)
{
    syscall(SYS_futex, &s->head->changes, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void want_page(FfFetchedPages *s, uint64_t page)
{
    uint64_t one = 1;

    ff_bitmap_set(&s->want, page);
    ff_bitmap_set(&s->groups, page / GROUP);
    while (write(s->kick, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

bool ff_fetched_read(FfFetchedPages *s, uint64_t first, uint64_t *n, void *buf, bool urgent,
                     const bool *cancel)
{
    uint64_t some = 1;

    for (bool wanted = !urgent;; wanted = true) {
        uint32_t seen = __atomic_load_n(&s->head->changes, __ATOMIC_SEQ_CST);
        if (ff_bitmap_test(&s->have, first)) {
            break;
        }
        if (__atomic_load_n(cancel, __ATOMIC_ACQUIRE)) {
            return false;
        }
        if (!wanted) {
            want_page(s, first);
        }
        wait_change(s, seen);
    }
    while (some < *n && ff_bitmap_test(&s->have, first + some)) {
        some++;
    }
    *n = some;
    memcpy(buf, ff_fetched_at(s, first), *n * FF_FETCHED_PAGE);
    return true;
}

bool ff_fetched_wait_done(FfFetchedPages *s, const bool *cancel)
{
    for (;;) {
        uint32_t seen = __atomic_load_n(&s->head->changes, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&s->head->done, __ATOMIC_SEQ_CST)) {
            return true;
        }
        if (__atomic_load_n(cancel, __ATOMIC_ACQUIRE)) {
            return false;
        }
        wait_change(s, seen);
    }
}
