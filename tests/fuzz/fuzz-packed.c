/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compressed runs: any bytes are unpacked or refused within their room; what is packed comes back.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <string.h>

#include "net/compress.h"
#include "net/frame.h"

#define PAGE 4096

/* One for all runs, as a connection has: what an input leaves behind must not show in the next. */
static FfCompressor *p;
static FfDecompressor *u;

/* In a piece of memory of its own size, so that ASan sees a byte too far. */
static void unpack(const uint8_t *data, size_t size, size_t n)
{
    g_autofree uint8_t *in = g_memdup2(data, size), *out = g_malloc(n);
    const char *why = NULL;
    int rc = ff_decompressor_run(u, in, size, out, n, &why);

    g_assert_true(rc == 0 || (rc == -EBADMSG && why));
}

static void round_trip(const uint8_t *data, size_t size)
{
    size_t n = CLAMP(size / PAGE, 1, FF_RUN_MAX_BYTES / PAGE) * PAGE;
    g_autofree uint8_t *run = g_malloc0(n), *out = g_malloc(n), *again = g_malloc(n);
    const char *why = NULL;

    memcpy(run, data, MIN(size, n));
    size_t len = ff_compressor_run(p, run, n, out);
    g_assert_cmpuint(len, <=, n - n / 8);
    if (len) {
        g_assert_cmpint(ff_decompressor_run(u, out, len, again, n, &why), ==, 0);
        g_assert_cmpint(memcmp(run, again, n), ==, 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_quiet();
    if (size < 2) {
        return 0;
    }
    if (!p) {
        p = ff_compressor_new(FF_ZSTD_LEVEL_DEFAULT, FF_RUN_MAX_BYTES);
        u = ff_decompressor_new();
        g_assert_true(p && u);
    }
    unpack(data + 1, size - 1, (data[0] % 32 + 1) * PAGE);
    round_trip(data + 1, size - 1);
    return 0;
}
