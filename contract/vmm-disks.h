/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's disks, as a snapshot of its memory or a change of its VMM meets them: they are
 * flushed, and branched, so that what they hold at one instant stays as it is.
 *
 * For threads and errors see contract/vmm.h.
 */
#ifndef FF_CONTRACT_VMM_DISKS_H
#define FF_CONTRACT_VMM_DISKS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* A disk that the guest can write to, and what is to come in front of it. */
typedef struct {
    char *device;  /* that has it, as the VMM calls it */
    char *node;    /* which that device uses, by name */
    char *overlay; /* node by name: it is there, empty, and nobody uses it */
    uint64_t size; /* bytes that the disk has */
} FfDisk;

static inline void ff_disk_free(void *data)
{
    FfDisk *d = data;

    g_free(d->device);
    g_free(d->node);
    g_free(d->overlay);
    g_free(d);
}

typedef struct FfVmmDisks FfVmmDisks;
struct FfVmmDisks {
    /* Optional (NULL: it is left out). Writes what the VMM and the host hold back for the disks, so
     * that stop, which does the same with the guest standing, has less to do. The VMM answers
     * nobody meanwhile; vCPUs run as long as they do not ask it for anything. */
    bool (*flush)(FfVmmDisks *disks, GError **error);

    /* FfDisk *, borrowed: those that are to be branched, all that the guest can write to; NULL: the
     * disks are left alone. Set before FfVmmState.stop_and_save() by the caller of branch(). */
    const GPtrArray *plan;
    /* Optional (NULL: disks cannot be branched). From FfVmmState.between(), the guest stopped: if
     * its disks are those of .plan, all overlays come in front of them, in one step: from now on
     * the guest writes there. FALSE and ERROR: none has. (But the answer of a VMM that is gone, or
     * closes its monitor, may be lost.) */
    bool (*branch)(FfVmmDisks *disks, GError **error);
    /* Optional. Which files they are in, as a text that changes with them: *HERE by names that this
     * VMM has given as well; *ANYWHERE a line for each disk, and for each device that can be
     * plugged, the same ones in every VMM that has the same (both g_free). THEIRS: such lines of
     * another VMM; what only has other names here is written as there. NULL: none. FALSE and
     * ERROR. */
    bool (*describe)(FfVmmDisks *disks, const char *theirs, char **here, char **anywhere,
                     GError **error);
};

#endif
