/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XXH64 after its specification (xxHash's doc/xxhash_spec.md); see xxh64.h. Little-endian hosts.
 *
 * System calls: none.
 */
#include "content/image/xxh64.h"

#include <string.h>

#define PRIME_1 0x9E3779B185EBCA87ull
#define PRIME_2 0xC2B2AE3D27D4EB4Full
#define PRIME_3 0x165667B19E3779F9ull
#define PRIME_4 0x85EBCA77C2B2AE63ull
#define PRIME_5 0x27D4EB2F165667C5ull
#define LANES 4
#define STRIPE (LANES * sizeof(uint64_t))

static uint64_t rotate_left(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static uint64_t read64(const uint8_t *p)
{
    uint64_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static uint64_t read32(const uint8_t *p)
{
    uint32_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static uint64_t mix_lane(uint64_t lane, uint64_t word)
{
    return rotate_left(lane + word * PRIME_2, 31) * PRIME_1;
}

/* Whole stripes of DATA; returns what comes out of the lanes. */
static uint64_t hash_stripes(const uint8_t **data, const uint8_t *end, uint64_t seed)
{
    uint64_t lane[LANES] = {seed + PRIME_1 + PRIME_2, seed + PRIME_2, seed, seed - PRIME_1};
    uint64_t sum;

    for (; (size_t)(end - *data) >= STRIPE; *data += STRIPE) {
        for (unsigned i = 0; i < LANES; i++) {
            lane[i] = mix_lane(lane[i], read64(*data + i * sizeof(uint64_t)));
        }
    }
    sum = rotate_left(lane[0], 1) + rotate_left(lane[1], 7) + rotate_left(lane[2], 12) +
          rotate_left(lane[3], 18);
    for (unsigned i = 0; i < LANES; i++) {
        sum = (sum ^ mix_lane(0, lane[i])) * PRIME_1 + PRIME_4;
    }
    return sum;
}

static uint64_t hash_rest(const uint8_t *p, const uint8_t *end, uint64_t sum)
{
    for (; end - p >= 8; p += 8) {
        sum = rotate_left(sum ^ mix_lane(0, read64(p)), 27) * PRIME_1 + PRIME_4;
    }
    for (; end - p >= 4; p += 4) {
        sum = rotate_left(sum ^ read32(p) * PRIME_1, 23) * PRIME_2 + PRIME_3;
    }
    for (; p < end; p++) {
        sum = rotate_left(sum ^ *p * PRIME_5, 11) * PRIME_1;
    }
    return sum;
}

uint64_t ff_xxh64(const void *data, size_t n, uint64_t seed)
{
    const uint8_t *p = data, *end = p + n;
    uint64_t sum = n >= STRIPE ? hash_stripes(&p, end, seed) : seed + PRIME_5;

    sum = hash_rest(p, end, sum + n);
    sum = (sum ^ sum >> 33) * PRIME_2;
    sum = (sum ^ sum >> 29) * PRIME_3;
    return sum ^ sum >> 32;
}
