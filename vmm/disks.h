/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's disks, as a snapshot of its memory or a change of its VMM meets them.
 *
 * For threads and errors see vmm/vmm.h.
 */
#ifndef FF_VMM_DISKS_H
#define FF_VMM_DISKS_H

#include <glib.h>
#include <stdbool.h>

typedef struct FfVmmDisks FfVmmDisks;
struct FfVmmDisks {
    /* Optional (NULL: it is left out). Writes what the VMM and the host hold back for the disks, so
     * that stop, which does the same with the guest standing, has less to do. The VMM answers
     * nobody meanwhile; vCPUs run as long as they do not ask it for anything. */
    bool (*flush)(FfVmmDisks *disks, GError **error);
    /* Optional. Which files they are in, as a text that changes with them (g_free). NULL and ERROR.
     */
    char *(*describe)(FfVmmDisks *disks, GError **error);
};

#endif
