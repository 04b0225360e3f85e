/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where another process has a file of guest memory mapped, shared (/proc/PID/maps). */
#ifndef FF_CONTRACT_MAPS_H
#define FF_CONTRACT_MAPS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What such a link of /proc/PID/fd says of a userfaultfd. */
#define FF_UFFD_LINK "anon_inode:[userfaultfd]"

typedef struct {
    uint64_t start, end, offset;
    bool closed; /* nobody may touch it (PROT_NONE) */
} FfMapping;

/* The text (g_free); NULL: it is not known whose, or that is not ours to see. */
char *ff_maps_of_process(pid_t pid);
/* Of FfMapping. */
GArray *ff_maps_of_file(const char *maps, int fd);

#endif
