/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages the guest writes most often, from several looks at what it has written: those that it
 * lives on go first when it has moved. One thread at a time.
 */
#ifndef FF_MIGRATION_SOURCE_WRITE_FREQUENCY_H
#define FF_MIGRATION_SOURCE_WRITE_FREQUENCY_H

#include <glib.h>

#include "uffd/run.h"

/* Only the last so many looks count. */
#define FF_HEAT_LOOKS 8

typedef struct FfFrequency FfFrequency;

/* N_PAGES[0..N_BLOCKS): of each block. No look yet; a byte for each page. */
FfFrequency *ff_frequency_new(const uint64_t *n_pages, unsigned n_blocks);
void ff_frequency_free(FfFrequency *heat); /* NULL is allowed */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfFrequency, ff_frequency_free)
/* A new look begins: what is noted from now on was written since the one before. */
void ff_frequency_look(FfFrequency *heat);
/* Pages [FIRST, FIRST + N) of BLOCK were written. Not before the first look. */
void ff_frequency_note(FfFrequency *heat, unsigned block, uint64_t first, uint64_t n);
/*
 * Runs (FfRun) of the pages that were written in any look: those of more looks first, among them
 * those of later looks, and then by address. MAX: no more runs than so many; the coldest are left
 * out. The caller frees it. Reads a byte for each page.
 */
GArray *ff_frequency_order(const FfFrequency *heat, guint max);

#endif
