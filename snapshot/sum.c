/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XXH64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md): four lanes of 8 bytes, then what
 * is left over, then the bits are spread. See sum.h.
 */
#include "snapshot/sum.h"

#include <glib.h>
#include <string.h>

#define P1 0x9e3779b185ebca87ull
#define P2 0xc2b2ae3d27d4eb4full
#define P3 0x165667b19e3779f9ull
#define P4 0x85ebca77c2b2ae63ull
#define P5 0x27d4eb2f165667c5ull

static uint64_t rotate(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static uint64_t read64(const uint8_t *p)
{
    uint64_t x;

    memcpy(&x, p, sizeof(x));
    return GUINT64_FROM_LE(x);
}

static uint32_t read32(const uint8_t *p)
{
    uint32_t x;

    memcpy(&x, p, sizeof(x));
    return GUINT32_FROM_LE(x);
}

static uint64_t mix(uint64_t lane, uint64_t x)
{
    return rotate(lane + x * P2, 31) * P1;
}

static uint64_t merge(uint64_t h, uint64_t lane)
{
    return (h ^ mix(0, lane)) * P1 + P4;
}

/* 32 bytes in each step. *P: what is left over. */
static uint64_t sum_stripes(const uint8_t **p, const uint8_t *end)
{
    uint64_t v[4] = {P1 + P2, P2, 0, 0 - P1};

    for (; end - *p >= 32; *p += 32) {
        for (unsigned i = 0; i < 4; i++) {
            v[i] = mix(v[i], read64(*p + 8 * (size_t)i));
        }
    }
    uint64_t h = rotate(v[0], 1) + rotate(v[1], 7) + rotate(v[2], 12) + rotate(v[3], 18);
    for (unsigned i = 0; i < 4; i++) {
        h = merge(h, v[i]);
    }
    return h;
}

uint64_t ff_sum(const void *data, size_t n)
{
    const uint8_t *p = data, *end = p + n;
    uint64_t h = (n >= 32 ? sum_stripes(&p, end) : P5) + n;

    for (; end - p >= 8; p += 8) {
        h = rotate(h ^ mix(0, read64(p)), 27) * P1 + P4;
    }
    if (end - p >= 4) {
        h = rotate(h ^ read32(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) {
        h = rotate(h ^ *p * P5, 11) * P1;
    }
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}
