/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pact of two QEMUs that share one guest's memory (docs/design/upgrade.md): a memfd that the
 * engines of both map and their relays hold. One word says whose the guest is; beside it is what
 * guest memory held before the new QEMU wrote to it, for the case that the old one continues.
 *
 *   OPEN    the old QEMU's; nobody has decided yet
 *   GIVEN   the old engine has let go: the new one may take it
 *   TAKEN   final: the new QEMU's. Its engine alone changes the word to that, right before it runs
 *   OLD     final: the old QEMU's. Either engine; the new QEMU never runs
 *
 * The word is changed by compare-and-swap alone. Observers: the other engine, and the engines that
 * come after either. Any thread; no locks.
 */
#ifndef FF_CONTRACT_UPGRADE_COMMIT_H
#define FF_CONTRACT_UPGRADE_COMMIT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { FF_PACT_OPEN, FF_PACT_GIVEN, FF_PACT_TAKEN, FF_PACT_OLD } FfPactWord;

/* Bits. What clients of the old QEMU say from GIVEN on, whose engine cannot carry it out any more;
 * and that nothing is heard after it. STOP stays: an engine that comes later sees it, too. */
typedef enum { FF_PACT_SAID_STOP = 1, FF_PACT_SAID_ALL = 2 } FfPactSaid;

/* Pages that can be kept. What devices write while they are loaded is one page or none. */
#define FF_PACT_PAGES 64
/* Under these names a relay holds the pact, and the old one's holds the new QEMU's pidfd and its
 * userfaultfd for write protection. */
#define FF_PACT_HELD "pact"
#define FF_HEIR_HELD "heir"
#define FF_HEIR_UFFD_HELD "heir-uffd"
/* The same in this order, of the new QEMU the pact alone, is in a parcel that QEMU keeps: relay and
 * engine may die at once (FfStateHeader.kept_pact). */
#define FF_PACT_KEPT                                                                               \
    {                                                                                              \
        FF_PACT_HELD, FF_HEIR_HELD, FF_HEIR_UFFD_HELD                                              \
    }
#define FF_PACT_KEPT_MAX 3

typedef struct FfPact FfPact;

/* Makes one for memory whose largest page has PAGE_SIZE bytes; its size can never change. Returns
 * the fd (close-on-exec) or -errno. */
int ff_pact_create(uint64_t page_size);
/* Maps it; FD stays the caller's. NULL and ERROR if it is none. */
FfPact *ff_pact_map(int fd, GError **error);
void ff_pact_free(FfPact *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfPact, ff_pact_free)

FfPactWord ff_pact_word(const FfPact *p);
/* FALSE: it was not FROM, and stays as it is. */
bool ff_pact_change(FfPact *p, FfPactWord from, FfPactWord to);
/* The guest stays with the old QEMU (OLD). FALSE: it is TAKEN. */
bool ff_pact_keep_guest(FfPact *p);

/* What the guest was before it was stopped; before GIVEN. */
void ff_pact_set_run_state(FfPact *p, const char *run_state);
/* g_free. From GIVEN on. */
char *ff_pact_run_state(const FfPact *p);

/* A client of the old QEMU wants the guest to stand. FALSE: the new engine does not look any more.
 */
bool ff_pact_say_stop(FfPact *p);
/* New engine, before it lets the guest run: it cannot be said from now on. TRUE: it was, then or
 * when an engine that has died asked the same. */
bool ff_pact_hear_no_more(FfPact *p);

/* Keeps page PAGE of BLOCK, of SIZE bytes, which a writer waits for. One thread. 0, or -ENOSPC. */
int ff_pact_keep_page(FfPact *p, unsigned block, uint64_t page, const void *content, uint64_t size);
/* The number of pages that are kept; number I of them (below that). */
unsigned ff_pact_pages(const FfPact *p);
const void *ff_pact_page(const FfPact *p, unsigned i, unsigned *block, uint64_t *page);
/* They are in their places, and the guest may write there: nobody puts them back once more. */
void ff_pact_forget_pages(FfPact *p);

#endif
