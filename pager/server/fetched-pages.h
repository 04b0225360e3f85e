/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come from another host once only: a memfd in which the fetcher (pager/remote/fetch.h)
 * puts what has come, and from which any number of pagers, one after the other, take it. A page is
 * there when its bit is set, and is never changed after that. The memfd costs as much memory as has
 * come.
 *
 * Who writes what: the fetcher pages, `have` and the state; pagers `want`. Any thread of theirs.
 */
#ifndef FF_PAGER_SERVER_FETCHED_PAGES_H
#define FF_PAGER_SERVER_FETCHED_PAGES_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "content/image/input.h"

#define FF_FETCHED_PAGE 4096u

typedef struct FfFetchedPages FfFetchedPages;

/* The pages of one process: [FIRST, FIRST + PAGES) of the fetched. */
typedef struct {
    uint64_t first, pages;
    FfInputStamp pagemap; /* of the image that says which pages these are */
    int32_t pid;
    uint32_t reserved;
} FfFetchedPart;
_Static_assert(sizeof(FfFetchedPart) == 64, "both processes have it as it is");

/* Of N parts, one after the other (FIRST is set here). NULL and ERROR. */
FfFetchedPages *ff_fetched_create(FfFetchedPart *parts, unsigned n, GError **error);
/* Of a memfd and an eventfd that another process has made; both are borrowed. NULL and ERROR. */
FfFetchedPages *ff_fetched_map(int memfd, int kick, GError **error);
/* Can be NULL. */
void ff_fetched_free(FfFetchedPages *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfFetchedPages, ff_fetched_free)
/* For the other process. */
int ff_fetched_memfd(const FfFetchedPages *s);
/* An eventfd: somebody wants a page. */
int ff_fetched_kick(const FfFetchedPages *s);
uint64_t ff_fetched_pages(const FfFetchedPages *s);
/* NULL: there is none of PID. */
const FfFetchedPart *ff_fetched_part(const FfFetchedPages *s, int32_t pid);

/* ---- fetcher --------------------------------------------------------------------------------- */

/* Where PAGE must be put. */
void *ff_fetched_at(const FfFetchedPages *s, uint64_t page);
/* N pages from FIRST on are there. */
void ff_fetched_arrived(FfFetchedPages *s, uint64_t first, uint64_t n);
/* A page that somebody wants: each is told once. FALSE: there is none. */
bool ff_fetched_next_wanted(FfFetchedPages *s, uint64_t *page);
/* The source has heard that all is here. */
void ff_fetched_set_done(FfFetchedPages *s);

/* ---- pager ----------------------------------------------------------------------------------- */

/* Waits for page FIRST, and copies it and what of the *N pages is there in a row (*N). URGENT:
 * somebody waits for it. FALSE: *CANCEL has become true (and then ff_fetched_wake() was called). */
bool ff_fetched_read(FfFetchedPages *s, uint64_t first, uint64_t *n, void *buf, bool urgent,
                     const bool *cancel);
/* Until ff_fetched_set_done(). FALSE: as above. */
bool ff_fetched_wait_done(FfFetchedPages *s, const bool *cancel);
/* All that wait look at their `cancel`. */
void ff_fetched_wake(FfFetchedPages *s);

#endif
