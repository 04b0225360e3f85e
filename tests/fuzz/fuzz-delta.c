/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Deltas: any bytes are made something of or refused within their room; what is told by a base
 * comes back. The first bytes of an input say of what size it is to be, and what the base is made
 * of. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <string.h>

#include "net/delta.h"
#include "net/frame.h"

#define PAGE FF_DELTA_PAGE
#define BASE_PAGES 3

static void decode(const FfDelta *d, const uint8_t *data, size_t size, size_t n)
{
    /* Of their own size, so that ASan sees a byte too far. No frame is empty. */
    g_autofree uint8_t *in = g_memdup2(data, MAX(size, 1)), *out = g_malloc(n);
    const char *why = NULL;
    int rc = ff_delta_decode(d, in, size, out, n, &why);

    g_assert_true(rc == 0 || (rc == -EBADMSG && why));
}

static void round_trip(FfDelta *d, const uint8_t *data, size_t size)
{
    g_autofree uint8_t *in = g_memdup2(data, MAX(size, 1)), *delta = g_malloc(MAX(size, 1));
    g_autofree uint8_t *out = g_malloc(MAX(size, 1));
    const char *why = NULL;
    size_t len = ff_delta_encode(d, in, size, delta);

    g_assert_true(len < size || !len);
    if (len) {
        g_assert_cmpint(ff_delta_decode(d, delta, len, out, size, &why), ==, 0);
        g_assert_cmpint(memcmp(in, out, size), ==, 0);
    }
}

/* The input with a page of the base in its middle, and again, in two pieces. */
static void stream(FfDelta *d, const uint8_t *data, size_t size, const uint8_t *page, size_t cut)
{
    size_t half = size / 2, n = size + PAGE;
    g_autofree uint8_t *in = g_malloc(n);

    memcpy(in, data, half);
    memcpy(in + half, page, PAGE);
    memcpy(in + half + PAGE, data + half, size - half);
    round_trip(d, in, n);
    round_trip(d, in, cut % n);
    round_trip(d, in + cut % n, n - cut % n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t pages[BASE_PAGES * PAGE];

    fuzz_quiet();
    if (size < 5) {
        return 0;
    }
    /* Pages that are alike, so that many stand under one hash. */
    memset(pages, data[2], sizeof(pages));
    memcpy(pages + PAGE, data, MIN(size, PAGE));
    pages[2 * PAGE + data[3] * 16] ^= 1;
    g_autoptr(FfDelta) d = ff_delta_new();
    g_assert_true(ff_delta_add(d, pages, sizeof(pages)) && ff_delta_index(d));
    decode(d, data + 4, size - 4, 1 + (data[0] | data[1] << 8) % FF_RUN_MAX_BYTES);
    stream(d, data + 4, size - 4, pages + data[0] % BASE_PAGES * PAGE, data[1] << 8 | data[3]);
    return 0;
}
