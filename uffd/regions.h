/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where another process has memfds mapped: built once from its maps (an fd that its agent opened),
 * then only read: any thread.
 */
#ifndef FF_UFFD_REGIONS_H
#define FF_UFFD_REGIONS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    unsigned file;   /* index into the FDS given to ff_regions_new() */
    uint64_t addr;   /* in the other process */
    uint64_t offset; /* in the file */
    uint64_t len;
} FfRegion;

typedef struct FfRegions FfRegions;

/* The whole text of MAPS_FD (of /proc/PID/maps), g_free; NULL and ERROR. */
char *ff_maps_read(int maps_fd, GError **error);

/* Finds every shared mapping of FDS[0..N) in MAPS_FD (of /proc/PID/maps). SIZES[i] (bytes) must
 * be mapped exactly once, from 0 to its end; else NULL and ERROR that names FD's index. */
FfRegions *ff_regions_new(int maps_fd, const int *fds, const uint64_t *sizes, unsigned n,
                          GError **error);
/* The same, however often and how much of them is mapped. */
FfRegions *ff_regions_find(int maps_fd, const int *fds, unsigned n, GError **error);
void ff_regions_free(FfRegions *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRegions, ff_regions_free)
/* Sorted by address; neighbours in both file and memory are one region. */
const FfRegion *ff_regions_all(const FfRegions *r, unsigned *n);

#endif
