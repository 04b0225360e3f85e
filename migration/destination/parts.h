/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether two guests are made of the same: machine type, CPUs, devices. QEMU itself finds that out
 * while it loads the devices, with the source's guest stopped, and names it in its log alone.
 *
 * What a guest is made of is text, a line for each part: kind, name, value and words for people,
 * separated by tabs. Of each kind and name both sides must have the same value. Kinds that are not
 * known are of a newer version, and pass.
 *
 *   machine  "type"                     the name of the machine type
 *   cpu      its index                  nothing
 *   device   PCI address from the root  its type
 *   pci      bus:slot.function          vendor and device
 *   other    type and bus               how many there are
 *   qemu     "version"                  the version
 *
 * No state; any thread.
 */
#ifndef FF_MIGRATION_DESTINATION_PARTS_H
#define FF_MIGRATION_DESTINATION_PARTS_H

#include <glib.h>

typedef struct {
    char *refusal;     /* with which part QEMU would refuse the guest; NULL: with none */
    char *differences; /* what else differs, of which QEMU says nothing or not always; NULL */
    char *versions;    /* of both QEMUs, if they differ; NULL */
} FfPartsFit;

/* What the source's and the destination's text say of each other. Both are words of a peer, or of
 * a QEMU: any text is good. */
FfPartsFit ff_parts_compare(const char *source, const char *destination);
/* PARTS, of a QEMU that loads TAIL (N bytes: a saved guest's device state, after its RAM), has
 * devices of which that has nothing, and QEMU says nothing of them: which (g_free); NULL: none. */
char *ff_parts_more(const char *parts, const void *tail, size_t n);
void ff_parts_fit_clear(FfPartsFit *fit);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfPartsFit, ff_parts_fit_clear)

#endif
