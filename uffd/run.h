/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A run of pages of a block. A block is memory whose pages are numbered from 0. */
#ifndef FF_UFFD_RUN_H
#define FF_UFFD_RUN_H

#include <stdint.h>

typedef struct {
    unsigned block;
    uint64_t first, n; /* pages */
} FfRun;

#endif
