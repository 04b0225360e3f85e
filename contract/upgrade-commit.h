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

typedef enum {
    FF_UPGRADE_COMMIT_OPEN,
    FF_UPGRADE_COMMIT_GIVEN,
    FF_UPGRADE_COMMIT_TAKEN,
    FF_UPGRADE_COMMIT_OLD
} FfUpgradeCommitWord;

/* Bits. What clients of the old QEMU say from GIVEN on, whose engine cannot carry it out any more;
 * and that nothing is heard after it. STOP stays: an engine that comes later sees it, too. */
typedef enum {
    FF_UPGRADE_COMMIT_SAID_STOP = 1,
    FF_UPGRADE_COMMIT_SAID_ALL = 2
} FfUpgradeCommitSaid;

/* Pages that can be kept. What devices write while they are loaded is one page or none. */
#define FF_UPGRADE_COMMIT_PAGES 64
/* Under these names a relay holds the pact, and the old one's holds the new QEMU's pidfd and its
 * userfaultfd for write protection. */
#define FF_UPGRADE_COMMIT_HELD "pact"
#define FF_HEIR_HELD "heir"
#define FF_HEIR_UFFD_HELD "heir-uffd"
/* The same in this order, of the new QEMU the pact alone, is in a parcel that QEMU keeps: relay and
 * engine may die at once (FfStateHeader.kept_pact). */
#define FF_UPGRADE_COMMIT_KEPT                                                                     \
    {                                                                                              \
        FF_UPGRADE_COMMIT_HELD, FF_HEIR_HELD, FF_HEIR_UFFD_HELD                                    \
    }
#define FF_UPGRADE_COMMIT_KEPT_MAX 3

typedef struct FfUpgradeCommit FfUpgradeCommit;

/* Makes one for memory whose largest page has PAGE_SIZE bytes; its size can never change. Returns
 * the fd (close-on-exec) or -errno. */
int ff_upgrade_commit_create(uint64_t page_size);
/* Maps it; FD stays the caller's. NULL and ERROR if it is none. */
FfUpgradeCommit *ff_upgrade_commit_map(int fd, GError **error);
void ff_upgrade_commit_free(FfUpgradeCommit *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfUpgradeCommit, ff_upgrade_commit_free)

FfUpgradeCommitWord ff_upgrade_commit_word(const FfUpgradeCommit *p);
/* FALSE: it was not FROM, and stays as it is. */
bool ff_upgrade_commit_change(FfUpgradeCommit *p, FfUpgradeCommitWord from, FfUpgradeCommitWord to);
/* The guest stays with the old QEMU (OLD). FALSE: it is TAKEN. */
bool ff_upgrade_commit_keep_guest(FfUpgradeCommit *p);

/* What the guest was before it was stopped; before GIVEN. */
void ff_upgrade_commit_set_run_state(FfUpgradeCommit *p, const char *run_state);
/* g_free. From GIVEN on. */
char *ff_upgrade_commit_run_state(const FfUpgradeCommit *p);

/* A client of the old QEMU wants the guest to stand. FALSE: the new engine does not look any more.
 */
bool ff_upgrade_commit_say_stop(FfUpgradeCommit *p);
/* New engine, before it lets the guest run: it cannot be said from now on. TRUE: it was, then or
 * when an engine that has died asked the same. */
bool ff_upgrade_commit_hear_no_more(FfUpgradeCommit *p);

/* Keeps page PAGE of BLOCK, of SIZE bytes, which a writer waits for. One thread. 0, or -ENOSPC. */
int ff_upgrade_commit_keep_page(FfUpgradeCommit *p, unsigned block, uint64_t page,
                                const void *content, uint64_t size);
/* The number of pages that are kept; number I of them (below that). */
unsigned ff_upgrade_commit_pages(const FfUpgradeCommit *p);
const void *ff_upgrade_commit_page(const FfUpgradeCommit *p, unsigned i, unsigned *block,
                                   uint64_t *page);
/* They are in their places, and the guest may write there: nobody puts them back once more. */
void ff_upgrade_commit_forget_pages(FfUpgradeCommit *p);

#endif
