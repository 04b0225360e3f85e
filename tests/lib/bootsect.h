/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The boot-sector guest (bootsect.S) as a disk image, and the law that its memory obeys.
 */
#ifndef FF_TESTS_BOOTSECT_H
#define FF_TESTS_BOOTSECT_H

#include <glib.h>
#include <stdint.h>

#define BOOTSECT_SIZE 512
/* Distance of the counters of two vCPUs in a page, bytes. */
#define BOOTSECT_STRIDE 64

typedef struct {
    uint64_t start, end; /* guest-physical, bytes; multiples of 4096; start from 1 MiB on, end
                            below the firmware's tables at the top of low RAM */
    unsigned n_cpus;
} BootsectConfig;

/* The range that fits a machine with RAM bytes: from 1 MiB on, at most LIMIT bytes (0 = all). */
BootsectConfig bootsect_config(uint64_t ram, uint64_t limit, unsigned n_cpus);
/* Fills SECTOR with the boot sector for CONFIG. */
void bootsect_make(const BootsectConfig *config, uint8_t sector[BOOTSECT_SIZE]);
/* Writes it as a disk image. */
void bootsect_write(const BootsectConfig *config, const char *path);
/*
 * Checks the counters of one vCPU: at most one step, downwards by exactly one, over all pages.
 * COUNTERS[i] is that of page i. Returns NULL if they are right, else one line that says what is
 * wrong (g_free).
 */
char *bootsect_check(const uint32_t *counters, uint64_t n_pages);

#endif
