/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that come from another host once only: a memfd in which the fetcher (pager/remote/fetch.h)
 * puts what has come, and from which any number of pagers, one after the other, take it. A page is
 * there when its bit is set, and is never changed after that. The memfd costs as much memory as has
 * come.
 *
 * Who writes what: the fetcher pages, `have` and the state; pagers `want`. Any thread of theirs.
 */
#ifndef FF_PAGER_SERVER_STORE_H
#define FF_PAGER_SERVER_STORE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "content/image/input.h"

#define FF_STORE_PAGE 4096u

typedef struct FfStore FfStore;

/* The pages of one process: [FIRST, FIRST + PAGES) of the store. */
typedef struct {
    uint64_t first, pages;
    FfInputStamp pagemap; /* of the image that says which pages these are */
    int32_t pid;
    uint32_t reserved;
} FfStorePart;
_Static_assert(sizeof(FfStorePart) == 64, "both processes have it as it is");

/* Of N parts, one after the other (FIRST is set here). NULL and ERROR. */
FfStore *ff_store_create(FfStorePart *parts, unsigned n, GError **error);
/* Of a memfd and an eventfd that another process has made; both are borrowed. NULL and ERROR. */
FfStore *ff_store_map(int memfd, int kick, GError **error);
/* Can be NULL. */
void ff_store_free(FfStore *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfStore, ff_store_free)
/* For the other process. */
int ff_store_memfd(const FfStore *s);
/* An eventfd: somebody wants a page. */
int ff_store_kick(const FfStore *s);
uint64_t ff_store_pages(const FfStore *s);
/* NULL: there is none of PID. */
const FfStorePart *ff_store_part(const FfStore *s, int32_t pid);

/* ---- fetcher --------------------------------------------------------------------------------- */

/* Where PAGE must be put. */
void *ff_store_at(const FfStore *s, uint64_t page);
/* N pages from FIRST on are there. */
void ff_store_arrived(FfStore *s, uint64_t first, uint64_t n);
/* A page that somebody wants: each is told once. FALSE: there is none. */
bool ff_store_next_wanted(FfStore *s, uint64_t *page);
/* The source has heard that all is here. */
void ff_store_set_done(FfStore *s);

/* ---- pager ----------------------------------------------------------------------------------- */

/* Waits for page FIRST, and copies it and what of the *N pages is there in a row (*N). URGENT:
 * somebody waits for it. FALSE: *CANCEL has become true (and then ff_store_wake() was called). */
bool ff_store_read(FfStore *s, uint64_t first, uint64_t *n, void *buf, bool urgent,
                   const bool *cancel);
/* Until ff_store_set_done(). FALSE: as above. */
bool ff_store_wait_done(FfStore *s, const bool *cancel);
/* All that wait look at their `cancel`. */
void ff_store_wake(FfStore *s);

#endif
