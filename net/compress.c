/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs of memory as zstd frames; see compress.h. */
#include "net/compress.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

/* What is tried before the whole run is. Fewer bytes say too little: a frame has 18 of its own. */
#define SAMPLE 4096
/* A run that is not made an eighth shorter goes as it is: unpacking costs the peer more than that
 * gains. */
#define WORTH(n) ((n) - (n) / 8)

struct FfCompressor {
    ZSTD_CCtx *ctx;
    uint8_t *in; /* [max] */
    size_t max;
    size_t sampled; /* runs so far; moves the place of the sample */
};

struct FfDecompressor {
    ZSTD_DCtx *ctx;
};

FfCompressor *ff_compressor_new(int level, size_t max)
{
    g_autoptr(FfCompressor) p = g_new0(FfCompressor, 1);

    p->max = max;
    p->in = g_try_malloc(max);
    p->ctx = ZSTD_createCCtx();
    /* The checksum says that what is unpacked there is what was packed here. */
    if (!p->in || !p->ctx ||
        ZSTD_isError(ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_compressionLevel, level)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_checksumFlag, 1))) {
        return NULL;
    }
    return g_steal_pointer(&p);
}

void ff_compressor_free(FfCompressor *p)
{
    if (!p) {
        return;
    }
    if (p->in) {
        explicit_bzero(p->in, p->max);
    }
    g_free(p->in);
    ZSTD_freeCCtx(p->ctx);
    g_free(p);
}

static size_t compress_data(FfCompressor *p, const void *data, size_t n, void *out)
{
    size_t len = ZSTD_compress2(p->ctx, out, WORTH(n), data, n);

    return ZSTD_isError(len) ? 0 : len;
}

/* Another place in each run: a guest's pages are alike in their first words. */
static size_t sample_at(FfCompressor *p, size_t n)
{
    return p->sampled++ * 5 % (n / SAMPLE) * SAMPLE;
}

size_t ff_compressor_run(FfCompressor *p, const void *data, size_t n, void *out)
{
    if (n > p->max) {
        return 0;
    }
    if (n > SAMPLE) {
        memcpy(p->in, (const char *)data + sample_at(p, n), SAMPLE);
        if (!compress_data(p, p->in, SAMPLE, out)) {
            return 0;
        }
    }
    memcpy(p->in, data, n);
    return compress_data(p, p->in, n, out);
}

FfDecompressor *ff_decompressor_new(void)
{
    ZSTD_DCtx *ctx = ZSTD_createDCtx();

    if (!ctx) {
        return NULL;
    }
    FfDecompressor *u = g_new0(FfDecompressor, 1);
    u->ctx = ctx;
    return u;
}

void ff_decompressor_free(FfDecompressor *u)
{
    if (u) {
        ZSTD_freeDCtx(u->ctx);
        g_free(u);
    }
}

int ff_decompressor_run(FfDecompressor *u, const void *data, size_t len, void *out, size_t n,
                        const char **why)
{
    uint32_t magic = 0;

    if (len >= sizeof(magic)) {
        memcpy(&magic, data, sizeof(magic));
    }
    if (magic != GUINT32_TO_LE(ZSTD_MAGICNUMBER)) {
        *why = "compressed data that is no zstd frame"; /* nor one of the formats before it */
        return -EBADMSG;
    }
    /* Errors are huge sizes: no frame has them. */
    if (ZSTD_getFrameContentSize(data, len) != n) {
        *why = "compressed data that is not of the size that was said";
        return -EBADMSG;
    }
    if (ZSTD_findFrameCompressedSize(data, len) != len) {
        *why = "compressed data that is not one whole frame";
        return -EBADMSG;
    }
    /* In one call the output is the window: nothing is allocated by what the frame says. */
    size_t got = ZSTD_decompressDCtx(u->ctx, out, n, data, len);

    if (ZSTD_isError(got) || got != n) {
        *why = "compressed data that is damaged";
        return -EBADMSG;
    }
    return 0;
}
