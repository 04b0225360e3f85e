/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XXH64, a fast sum of bytes: it finds damage, and tells files apart. Nobody who wants to deceive
 * is held up by it.
 */
#ifndef FF_CONTENT_IMAGE_XXH64_H
#define FF_CONTENT_IMAGE_XXH64_H

#include <stddef.h>
#include <stdint.h>

/* SEED: 0, or the sum of what comes before. */
uint64_t ff_xxh64(const void *data, size_t n, uint64_t seed);

#endif
