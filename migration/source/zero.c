/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Detection of zero pages. A page with data nearly always shows it in its first, middle or
 * last words, so these are tested before the whole page is read. Any thread; no state.
 * System calls: pread.
 */
#include "migration/source/zero.h"

#include <errno.h>
#include <immintrin.h>
#include <stdint.h>
#include <unistd.h>

__attribute__((target("avx2"))) static bool is_zero_avx2(const void *p, size_t len)
{
    const __m256i *v = p, *end = (const __m256i *)((const char *)p + len);

    for (; v < end; v += 8) {
        __m256i a = _mm256_or_si256(_mm256_or_si256(v[0], v[1]), _mm256_or_si256(v[2], v[3]));
        __m256i b = _mm256_or_si256(_mm256_or_si256(v[4], v[5]), _mm256_or_si256(v[6], v[7]));
        a = _mm256_or_si256(a, b);
        if (!_mm256_testz_si256(a, a)) {
            return false;
        }
    }
    return true;
}

static bool is_zero_sse2(const void *p, size_t len)
{
    const __m128i *v = p, *end = (const __m128i *)((const char *)p + len);
    const __m128i zero = _mm_setzero_si128();

    for (; v < end; v += 4) {
        __m128i a = _mm_or_si128(_mm_or_si128(v[0], v[1]), _mm_or_si128(v[2], v[3]));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(a, zero)) != 0xffff) {
            return false;
        }
    }
    return true;
}

bool ff_is_zero(const void *p, size_t len)
{
    const uint64_t *q = p;
    size_t n = len / sizeof(*q);

    if (q[0] | q[n / 2] | q[n - 1]) {
        return false;
    }
    return __builtin_cpu_supports("avx2") ? is_zero_avx2(p, len) : is_zero_sse2(p, len);
}

/* Bytes that are read at once, and first: most that have data have it there. */
#define READ_BYTES 32768u
#define READ_FIRST 4096u

bool ff_is_zero_file(int fd, uint64_t offset, uint64_t len)
{
    _Alignas(64) uint8_t buf[READ_BYTES];
    uint64_t want = READ_FIRST, left;

    for (uint64_t done = 0; done < len; want = left < READ_BYTES ? left : READ_BYTES) {
        ssize_t n = pread(fd, buf, want, (off_t)(offset + done));
        left = len - done;
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0 || n % 256 || !ff_is_zero(buf, n)) {
            return false;
        }
        done += n;
        left -= n;
    }
    return true;
}
