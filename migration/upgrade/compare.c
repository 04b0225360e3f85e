/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See compare.h. No state. System calls: fstat.
 */
#include "migration/upgrade/compare.h"

#include <string.h>
#include <sys/stat.h>

#include "migration/common/control.h"

/* It is this very memory. */
static bool is_ours(const FfRamBlock *b, const FfUpgradeBlock *theirs)
{
    struct stat st;

    return strncmp(theirs->id, b->id, sizeof(theirs->id)) == 0 && theirs->size == b->size &&
           theirs->page_size == b->page_size && fstat(b->memfd, &st) == 0 &&
           theirs->dev == st.st_dev && theirs->ino == st.st_ino;
}

bool ff_upgrade_same_memory(const FfRam *ram, const FfUpgradeMessage *m, GError **error)
{
    bool same = m->length == ram->n_blocks * sizeof(FfUpgradeBlock);

    for (unsigned i = 0; same && i < ram->n_blocks; i++) {
        bool found = false;
        for (unsigned k = 0; !found && k < ram->n_blocks; k++) {
            found = is_ours(&ram->blocks[i].info, &m->blocks[k]);
        }
        same = found;
    }
    if (!same) {
        g_set_error_literal(
            error, FF_M_ERROR, 0,
            "the new QEMU does not have this guest's memory: start it with the same -m "
            "and memory backends, by farfault upgrade");
    }
    return same;
}

bool ff_upgrade_look_at_disks(FfVmm *vmm, const char *theirs, char **here, char **anywhere,
                              GError **error)
{
    FfVmmDisks *disks = &vmm->disks;

    if (disks->describe) {
        return disks->describe(disks, theirs, here, anywhere, error);
    }
    *here = g_strdup("");
    *anywhere = g_strdup("");
    return true;
}

/* A line of TEXT (g_free) that OTHER does not have; NULL: there is none. */
static char *missing_line(const char *other, const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_auto(GStrv) others = g_strsplit(other, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        if (!g_strv_contains((const char *const *)others, lines[i])) {
            return g_strdup(lines[i]);
        }
    }
    return NULL;
}

bool ff_upgrade_same_parts(const char *theirs, const char *ours, GError **error)
{
    g_autofree char *more = theirs ? missing_line(theirs, ours) : NULL;
    g_autofree char *less = theirs && !more ? missing_line(ours, theirs) : NULL;

    if (more || less) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the guest's disks or devices have been changed meanwhile: %s is in the %s "
                    "QEMU alone: repeat the upgrade",
                    more ? more : less, more ? "old" : "new");
    }
    return !more && !less;
}
