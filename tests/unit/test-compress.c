/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The codec of compressed runs, what it refuses, and when runs are compressed. */
#include <errno.h>
#include <string.h>

#include "migration/common/compress.h"
#include "migration/destination/greet.h"
#include "migration/source/send.h"

#define RUN FF_RUN_MAX_BYTES
#define SMALL 16384
#define GUARD 64

/* Words like a guest's: pointers, counters, some text. */
static void fill_plain(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n / 8; i++) {
        uint64_t word = i % 3 ? 0xffff888000000000ull + (i / 16) * 64 : i % 11;
        memcpy(p + 8 * i, &word, 8);
    }
}

static void fill_random(uint8_t *p, size_t n)
{
    uint64_t x = 88172645463325252ull;

    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = x >> 24;
    }
}

static void unpack_right(const uint8_t *packed, size_t len, const uint8_t *data, size_t n)
{
    g_autoptr(FfDecompressor) u = ff_decompressor_new();
    g_autofree uint8_t *out = g_malloc(n + GUARD);
    const char *why = NULL;

    memset(out, 0x5a, n + GUARD);
    /* Twice: nothing is left of the first time. */
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(ff_decompressor_run(u, packed, len, out, n, &why), ==, 0);
        g_assert_cmpmem(out, n, data, n);
    }
    for (unsigned i = 0; i < GUARD; i++) {
        g_assert_cmpuint(out[n + i], ==, 0x5a);
    }
}

static void test_round_trip(void)
{
    static const size_t sizes[] = {4096, 8192, 12288, 65536, RUN, 2 << 20};
    static const int levels[] = {FF_ZSTD_LEVEL_MIN, 3, FF_ZSTD_LEVEL_MAX};
    /* Places that are no multiples of anything, as well. */
    const size_t room = (2 << 20) + 8;
    g_autofree uint8_t *data = g_malloc(room), *out = g_malloc(2 << 20);

    fill_plain(data, room);
    for (unsigned l = 0; l < G_N_ELEMENTS(levels); l++) {
        g_autoptr(FfCompressor) p = ff_compressor_new(levels[l], 2 << 20);
        for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
            size_t len = ff_compressor_run(p, data + i, sizes[i], out);
            g_assert_cmpuint(len, >, 0);
            g_assert_cmpuint(len, <, sizes[i] / 2);
            unpack_right(out, len, data + i, sizes[i]);
        }
    }
}

/* Nothing is said to be shorter that is not, and what follows is not harmed by it. */
static void test_incompressible(void)
{
    g_autofree uint8_t *data = g_malloc(RUN), *out = g_malloc(RUN + GUARD);
    g_autoptr(FfCompressor) p = ff_compressor_new(FF_ZSTD_LEVEL_DEFAULT, RUN);

    memset(out + RUN, 0x5a, GUARD);
    fill_random(data, RUN);
    for (size_t n = 4096; n <= RUN; n += 4096) {
        g_assert_cmpuint(ff_compressor_run(p, data, n, out), ==, 0);
    }
    /* One page that compresses does not make the run worth it. */
    for (size_t at = 0; at < RUN; at += 4096) {
        memset(data + at, 1, 4096);
        g_assert_cmpuint(ff_compressor_run(p, data, RUN, out), ==, 0);
        fill_random(data, RUN);
    }
    for (unsigned i = 0; i < GUARD; i++) {
        g_assert_cmpuint(out[RUN + i], ==, 0x5a);
    }
    g_assert_cmpuint(ff_compressor_run(p, data, RUN + 4096, out), ==,
                     0); /* longer than it may be */
    fill_plain(data, RUN);
    size_t len = ff_compressor_run(p, data, RUN, out);
    g_assert_cmpuint(len, >, 0);
    unpack_right(out, len, data, RUN);
}

static void refused(const void *packed, size_t len, size_t n)
{
    g_autoptr(FfDecompressor) u = ff_decompressor_new();
    g_autofree uint8_t *out = g_malloc(n + GUARD), *in = g_memdup2(packed, len);
    const char *why = NULL;

    memset(out, 0x5a, n + GUARD);
    g_assert_cmpint(ff_decompressor_run(u, in, len, out, n, &why), ==, -EBADMSG);
    g_assert_nonnull(why);
    for (unsigned i = 0; i < GUARD; i++) {
        g_assert_cmpuint(out[n + i], ==, 0x5a);
    }
}

static void test_refused(void)
{
    g_autofree uint8_t *data = g_malloc(SMALL), *out = g_malloc(2 * SMALL);
    g_autoptr(FfCompressor) p = ff_compressor_new(FF_ZSTD_LEVEL_DEFAULT, SMALL);

    fill_plain(data, SMALL);
    size_t len = ff_compressor_run(p, data, SMALL, out);
    /* Every shorter piece, and one byte more. */
    for (size_t n = 0; n < len; n++) {
        refused(out, n, SMALL);
    }
    out[len] = 0;
    refused(out, len + 1, SMALL);
    /* Of another size than it must be. */
    refused(out, len, SMALL - 4096);
    refused(out, len, SMALL + 4096);
    refused(out, len, 4096);
    /* Two frames in one. */
    memcpy(out + len, out, len);
    refused(out, 2 * len, SMALL);
    refused(out, 2 * len, 2 * SMALL);
    g_autoptr(FfDecompressor) u = ff_decompressor_new();
    g_autofree uint8_t *got = g_malloc(SMALL);
    /* Any bit: the checksum sees what the format does not. What passes says the same in other bits.
     */
    for (size_t bit = 0; bit < 8 * len; bit++) {
        const char *why = NULL;
        out[bit / 8] ^= 1 << bit % 8;
        if (ff_decompressor_run(u, out, len, got, SMALL, &why) == 0) {
            g_assert_cmpmem(got, SMALL, data, SMALL);
        }
        out[bit / 8] ^= 1 << bit % 8;
    }
    unpack_right(out, len, data, SMALL);
    fill_random(out, SMALL);
    for (size_t n = 0; n < 200; n++) {
        refused(out, n, 4096);
    }
}

/* Frames that ask for much: more than they said, a huge window, a dictionary, to be skipped, of an
 * old format. */
static void test_bombs(void)
{
    /* One segment, 4096 bytes, and two blocks that are one byte 4096 times each. */
    static const uint8_t longer[] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 0x02,
                                     0x80, 0x00, 'x',  0x03, 0x80, 0x00, 'x'};
    /* Not one segment: a window of 2^41 bytes, 4096 bytes. */
    static const uint8_t window[] = {0x28, 0xb5, 0x2f, 0xfd, 0x40, 0xff,
                                     0x00, 0x0f, 0x03, 0x80, 0x00, 'x'};
    static const uint8_t dictionary[] = {0x28, 0xb5, 0x2f, 0xfd, 0x61, 0x07,
                                         0x00, 0x0f, 0x03, 0x80, 0x00, 'x'};
    static const uint8_t skipped[] = {0x50, 0x2a, 0x4d, 0x18, 0x04, 0, 0, 0, 1, 2, 3, 4};
    static const uint8_t old[] = {0x27, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 0x03, 0x80, 0x00, 'x'};
    /* And what they are made from is right. */
    static const uint8_t right[] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00,
                                    0x0f, 0x03, 0x80, 0x00, 'x'};
    uint8_t x[4096];

    refused(longer, sizeof(longer), 4096);
    refused(longer, sizeof(longer), 8192);
    refused(window, sizeof(window), 4096);
    refused(dictionary, sizeof(dictionary), 4096);
    refused(skipped, sizeof(skipped), 4096);
    refused(old, sizeof(old), 4096);
    memset(x, 'x', sizeof(x));
    unpack_right(right, sizeof(right), x, sizeof(x));
}

/* ---- when ------------------------------------------------------------------------------------ */

#define MS 1000ll
#define FAST 300 /* bytes of the guest per microsecond, MB/s */
#define PLAIN 100
#define SLOW 90

/* A sender whose runs go at a rate of PLAIN, and compressed at another. */
typedef struct {
    FfCompressPolicy p;
    int64_t now;
    uint64_t done;
    unsigned compressed; /* bytes per microsecond */
    bool limited, limited_compressed;
    int64_t on_us;
} Sender;

/* So many milliseconds of it. */
static void send_for(Sender *s, unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        bool on = ff_compress_wanted(&s->p, FF_COMPRESS_AUTO,
                                     s->p.on ? s->limited_compressed : s->limited, s->done, s->now);
        s->now += MS;
        s->done += (on ? s->compressed : PLAIN) * MS;
        s->on_us += on ? MS : 0;
    }
}

static Sender sender(bool limited, unsigned compressed)
{
    return (Sender){
        .now = 7, .compressed = compressed, .limited = limited, .limited_compressed = limited};
}

static void test_policy_fixed(void)
{
    FfCompressPolicy p = {0};

    g_assert_true(ff_compress_wanted(&p, FF_COMPRESS_ALWAYS, false, 0, 1));
    g_assert_false(ff_compress_wanted(&p, FF_COMPRESS_NEVER, true, 0, 1));
}

/* A link that is not the limit is left alone. */
static void test_policy_free(void)
{
    Sender s = sender(false, FAST);

    send_for(&s, 10000);
    g_assert_cmpint(s.on_us, ==, 0);
    /* It becomes one: plain runs are measured first. */
    s.limited = s.limited_compressed = true;
    send_for(&s, 50);
    g_assert_cmpint(s.on_us, ==, 0);
    send_for(&s, 10);
    g_assert_cmpint(s.on_us, >, 0);
}

/* A gain: on, and stays so, whether or not the link is still the limit then. */
static void test_policy_gain(void)
{
    Sender s = sender(true, FAST);

    send_for(&s, 10000);
    g_assert_cmpint(s.on_us, >=, 9900 * MS);
    /* Now and then plain runs show that it would be. */
    s.limited_compressed = false;
    s.on_us = 0;
    send_for(&s, 31000);
    g_assert_cmpint(s.on_us, >=, 30000 * MS);
    g_assert_cmpint(s.on_us, <, 30900 * MS);
    /* It would not be any more: off for good. */
    s.limited = false;
    send_for(&s, 4000);
    s.on_us = 0;
    send_for(&s, 10000);
    g_assert_cmpint(s.on_us, ==, 0);
}

/* No gain costs two measurements each second, then each 2, 4, 8. */
static void test_policy_loss(void)
{
    Sender s = sender(true, SLOW);

    send_for(&s, 60);
    send_for(&s, 30000);
    g_assert_cmpint(s.on_us, >=, 4 * 100 * MS);
    g_assert_cmpint(s.on_us, <=, 8 * 110 * MS);
    /* One bad moment is none. */
    s = sender(true, FAST);
    send_for(&s, 200);
    for (unsigned i = 0; i < 20; i++) {
        s.compressed = SLOW;
        send_for(&s, 50);
        s.compressed = FAST;
        s.on_us = 0;
        send_for(&s, 150);
        g_assert_cmpint(s.on_us, ==, 150 * MS);
    }
    /* Nor is a pause. */
    s.now += 5000 * MS;
    s.on_us = 0;
    send_for(&s, 150);
    s.now += 5000 * MS;
    send_for(&s, 150);
    g_assert_cmpint(s.on_us, ==, 300 * MS);
}

/* Device state over a link of RATE bytes per microsecond, with a codec that does CODEC of them.
 * Returns how many of N bytes were compressed. */
static uint64_t send_device(unsigned rate, unsigned codec, uint64_t n)
{
    FfDevicePacing p = {0};
    uint64_t now = 7, unsent = 0;
    const size_t piece = 128 * 1024;

    for (uint64_t done = 0; done < n; done += piece) {
        uint64_t us = 20; /* until QEMU has it */
        size_t len = piece;
        if (ff_compress_device_wanted(&p, piece, unsent, now)) {
            us += piece / codec;
            p.packed += piece;
            p.packed_us += piece / codec;
            len /= 2;
        }
        p.sent += len;
        unsent += len;
        /* The socket takes no more than this at once. */
        while (us > 0 || unsent > piece) {
            unsent -= MIN(unsent, rate);
            now++;
            us -= us > 0;
        }
    }
    return p.packed;
}

/* Where the link is slower than the codec, and nowhere else. */
static void test_device(void)
{
    FfDevicePacing p = {0};
    const uint64_t n = 4 << 20;

    g_assert_cmpuint(send_device(125, 400, n), >=, n * 9 / 10);
    g_assert_cmpuint(send_device(10, 300, n), >=, n * 9 / 10);
    g_assert_cmpuint(send_device(3000, 300, n), ==, 0);
    g_assert_cmpuint(send_device(1250, 300, n), <=, n / 8);
    /* A codec that turns out slow is left. */
    g_assert_cmpuint(send_device(125, 40, n), <=, n / 8);
    /* Short pieces go as they are. */
    g_assert_false(ff_compress_device_wanted(&p, 100, 1 << 20, 7));
    g_assert_false(ff_compress_device_wanted(&p, 100, 1 << 20, 1000000));
}

/* Only to a peer that takes it. */
static void test_features(void)
{
    /* The main connection's sender has decided; this is another one. */
    FfVmm vmm = {.memory = {NULL}};
    FfMigrationConfig cfg = {.vmm = &vmm};
    FfConnection conn = {.peer_features = FF_FEATURE_ZSTD};
    FfRam ram = {0};
    FfSource s = {.cfg = &cfg, .conn = &conn, .ram = &ram, .compressing = 1};
    FfDestination d = {.cfg = &cfg, .listen_fd = -1};

    conn.main = (FfChannel *)&s;

    g_assert_false(ff_source_features(&s) & FF_FEATURE_ZSTD);
    cfg.compress = FF_COMPRESS_AUTO;
    g_assert_true(ff_source_features(&s) & FF_FEATURE_ZSTD);
    conn.peer_features = FF_FEATURE_ALIVE | FF_FEATURE_LISTENS;
    cfg.compress = FF_COMPRESS_ALWAYS;
    g_assert_false(ff_source_features(&s) & FF_FEATURE_ZSTD);
    FfCompressing pk = {.on = true};
    ff_source_decide_compressing(&s, NULL, &pk);
    g_assert_false(pk.on);
    conn.peer_features = FF_FEATURE_ZSTD;
    ff_source_decide_compressing(&s, NULL, &pk);
    g_assert_true(pk.on);
    ff_compressing_clear(&pk);
    g_assert_true(GUINT32_FROM_LE(ff_dest_greeting(&d).features) & FF_FEATURE_ZSTD);

    /* Device state whatever is said of memory, but under TLS. */
    conn.peer_features = FF_FEATURE_COMPRESSED_DEVICE;
    cfg.compress = FF_COMPRESS_NEVER;
    g_assert_true(ff_source_features(&s) & FF_FEATURE_COMPRESSED_DEVICE);
    cfg.tls = (FfTls *)&s;
    g_assert_false(ff_source_features(&s) & FF_FEATURE_COMPRESSED_DEVICE);
    cfg.compress = FF_COMPRESS_AUTO;
    g_assert_true(ff_source_features(&s) & FF_FEATURE_COMPRESSED_DEVICE);
    conn.peer_features = FF_FEATURE_ZSTD;
    g_assert_false(ff_source_features(&s) & FF_FEATURE_COMPRESSED_DEVICE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compress/round-trip", test_round_trip);
    g_test_add_func("/compress/incompressible", test_incompressible);
    g_test_add_func("/compress/refused", test_refused);
    g_test_add_func("/compress/bombs", test_bombs);
    g_test_add_func("/compress/policy/fixed", test_policy_fixed);
    g_test_add_func("/compress/policy/free", test_policy_free);
    g_test_add_func("/compress/policy/gain", test_policy_gain);
    g_test_add_func("/compress/policy/loss", test_policy_loss);
    g_test_add_func("/compress/policy/device", test_device);
    g_test_add_func("/compress/features", test_features);
    return g_test_run();
}
