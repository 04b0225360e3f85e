/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's disks, for a snapshot of its memory that is to fit to them.
 *
 * For threads and errors see vmm/vmm.h.
 */
#ifndef FF_VMM_DISKS_H
#define FF_VMM_DISKS_H

#include <glib.h>
#include <stdbool.h>

/* A disk that the guest can write to. */
typedef struct {
    char *name;    /* the client's word for it: its drive, device or node */
    char *node;    /* of the VMM's, which the guest writes to */
    char *base;    /* its image, as the VMM names it */
    char *overlay; /* path of the one that comes in front of it */
} FfDisk;

typedef struct FfVmmDisks FfVmmDisks;
struct FfVmmDisks {
    /* Optional (NULL: disks cannot be branched). While the guest runs, nothing is changed: its
     * writable disks (FfDisk *, the caller's), each with an overlay in FOLDER whose name nobody
     * uses. Fails where somebody else keeps account of the guest's images. */
    GPtrArray *(*plan)(FfVmmDisks *disks, const char *folder, GError **error);
    /* Optional (NULL: it is left out). Writes what the VMM and the host hold back for the disks,
     * the guest running, so that stop has less to do. */
    bool (*flush)(FfVmmDisks *disks, GError **error);
    /* The guest is stopped: makes all overlays of PLAN, or none. From now on the guest writes to
     * them, and never again to the images they stand in front of. */
    bool (*branch)(FfVmmDisks *disks, const GPtrArray *plan, GError **error);
};

#endif
