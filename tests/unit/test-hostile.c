/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Peers that lie: a scripted source against a real destination, and a scripted destination
 * against a real source. Each row sends one wrong thing at one moment; the engine must fail with
 * a word about it, never crash, hang, place a page where none belongs, or run a guest twice.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "contract/state.h"
#include "net/address.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "net/compress.h"
#include "net/delta.h"
#include "tests/lib/side.h"
#include "tests/unit/peer.h"

/* ---- hostile sources ------------------------------------------------------------------------- */

static void garbage(FfChannel *ch)
{
    static const char text[] = "GET / HTTP/1.0\r\nHost: example\r\n\r\n and more than a header";
    struct iovec iov = {(void *)text, sizeof(text)};

    ff_channel_write_all(ch, &iov, 1, true);
}

static void hang_up(FfChannel *ch)
{
    ff_channel_shutdown(ch);
}

static void half_a_header(FfChannel *ch)
{
    struct iovec iov = {(void *)"FAFR\x0d", 5};

    ff_channel_write_all(ch, &iov, 1, true);
    ff_channel_shutdown(ch);
}

static void hello_other_version(FfChannel *ch)
{
    PeerHello h = peer_hello();

    ((FfHello *)h.hello)->version = GUINT32_TO_LE(77);
    peer_say_hello(ch, &h, 1);
}

static void hello_more_blocks_than_bytes(FfChannel *ch)
{
    PeerHello h = peer_hello();

    peer_say_hello(ch, &h, 2);
}

static void hello_billions_of_blocks(FfChannel *ch)
{
    PeerHello h = peer_hello();

    peer_say_hello(ch, &h, UINT32_MAX);
}

static void hello_unknown_block(FfChannel *ch)
{
    PeerHello h = peer_hello();

    strcpy(((FfHelloBlock *)(h.hello + sizeof(FfHello)))->id, "other");
    peer_say_hello(ch, &h, 1);
}

static void hello_unterminated_name(FfChannel *ch)
{
    PeerHello h = peer_hello();

    memset(((FfHelloBlock *)(h.hello + sizeof(FfHello)))->id, 0xff, 128);
    peer_say_hello(ch, &h, 1);
}

static void hello_no_page_size(FfChannel *ch)
{
    PeerHello h = peer_hello();

    ((FfHelloBlock *)(h.hello + sizeof(FfHello)))->page_size = 0;
    peer_say_hello(ch, &h, 1);
}

static void grant_too_early(FfChannel *ch)
{
    peer_say(ch, ff_frame(FF_FRAME_GRANT, 7), "running");
}

static void page_too_early(FfChannel *ch)
{
    uint8_t data[PAGE] = {1};

    peer_say(ch, peer_run(FF_FRAME_PAGES, PAGE, 0, 0, 1), data);
}

static void device_too_early(FfChannel *ch)
{
    peer_say(ch, ff_frame(FF_FRAME_DEVICE, 4), "QEVM");
}

static void page_outside(FfChannel *ch)
{
    uint8_t data[PAGE] = {1};

    peer_say(ch, peer_run(FF_FRAME_PAGES, PAGE, 0, RAM_PAGES, 1), data);
}

static void zero_run_outside(FfChannel *ch)
{
    peer_say(ch, peer_run(FF_FRAME_ZERO, 0, 0, RAM_PAGES - 1, UINT32_MAX), NULL);
}

static void block_outside(FfChannel *ch)
{
    peer_say(ch, peer_run(FF_FRAME_ZERO, 0, 1, 0, 1), NULL);
}

static void page_of_old_epoch(FfChannel *ch)
{
    FfFrame f = peer_run(FF_FRAME_ZERO, 0, 0, 0, 1);

    f.epoch = 9;
    peer_say(ch, f, NULL);
}

static void truncated_page(FfChannel *ch)
{
    FfFrame f = peer_run(FF_FRAME_PAGES, PAGE, 0, 0, 1);
    struct iovec iov[2] = {{&f, sizeof(f)}, {(void *)"abc", 3}};

    ff_frame_encode(&f);
    ff_channel_write_all(ch, iov, 2, true);
    ff_channel_shutdown(ch);
}

static void prepare_again(FfChannel *ch)
{
    peer_say(ch, ff_frame(FF_FRAME_PREPARE, 0), NULL);
}

static void stale_outside(FfChannel *ch)
{
    peer_say_stale(ch, (FfStaleRun){0, 2, RAM_PAGES - 1}, 0);
}

static void stale_block(FfChannel *ch)
{
    peer_say_stale(ch, (FfStaleRun){7, 1, 0}, 0);
}

static void stale_empty_run(FfChannel *ch)
{
    peer_say_stale(ch, (FfStaleRun){0, 0, 0}, FF_STALE_LAST);
}

static void stale_length(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_STALE, 8);

    f.n_pages = 1;
    peer_say(ch, f, "12345678");
}

static void stale_billions(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_STALE, 0);

    f.n_pages = UINT32_MAX;
    peer_say(ch, f, NULL);
}

static void wrong_direction(FfChannel *ch)
{
    peer_say(ch, ff_frame(FF_FRAME_LOADED, 0), NULL);
}

static void grant_twice(FfChannel *ch)
{
    peer_say(ch, ff_frame(FF_FRAME_GRANT, 7), "running");
}

/* ---- compressed runs. All are of pages that nobody touches while device state is loaded. */

#define PACKED_AT 700

/* N pages, compressed; the length. */
static uint32_t pack(uint8_t *out, unsigned n)
{
    g_autofree uint8_t *data = g_malloc(n * PAGE);
    g_autoptr(FfCompressor) p = ff_compressor_new(FF_ZSTD_LEVEL_DEFAULT, n * PAGE);

    for (unsigned i = 0; i < n * PAGE; i++) {
        data[i] = i / 64;
    }
    uint32_t len = ff_compressor_run(p, data, n * PAGE, out);
    g_assert_cmpuint(len, >, 40);
    return len;
}

static void say_packed(FfChannel *ch, const uint8_t *packed, uint32_t len, unsigned n)
{
    peer_say(ch, peer_run(FF_FRAME_COMPRESSED, len, 0, PACKED_AT, n), packed);
}

static void packed_garbage(FfChannel *ch)
{
    say_packed(ch, (const uint8_t *)"no frame begins like this", 25, 1);
}

static void packed_damaged(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    uint32_t len = pack(out, 2);

    out[len - 1] ^= 1; /* of the checksum: all pages come out of it first */
    say_packed(ch, out, len, 2);
}

static void packed_cut_off(FfChannel *ch)
{
    uint8_t out[2 * PAGE];

    say_packed(ch, out, pack(out, 2) - 9, 2);
}

static void packed_two_frames(FfChannel *ch)
{
    uint8_t out[4 * PAGE];
    uint32_t len = pack(out, 2);

    memcpy(out + len, out, len);
    say_packed(ch, out, 2 * len, 2);
}

static void packed_too_little(FfChannel *ch)
{
    uint8_t out[2 * PAGE];

    say_packed(ch, out, pack(out, 2), 3);
}

static void packed_too_much(FfChannel *ch)
{
    uint8_t out[2 * PAGE];

    say_packed(ch, out, pack(out, 2), 1);
}

static void packed_not_shorter(FfChannel *ch)
{
    uint8_t data[PAGE] = {1};

    say_packed(ch, data, PAGE, 1);
}

static void packed_too_long(FfChannel *ch)
{
    uint8_t data[100] = {1};

    say_packed(ch, data, sizeof(data), FF_RUN_MAX_BYTES / PAGE + 1);
}

static void packed_outside(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    uint32_t len = pack(out, 2);

    peer_say(ch, peer_run(FF_FRAME_COMPRESSED, len, 0, RAM_PAGES - 1, 2), out);
}

static void packed_half(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    FfFrame f = peer_run(FF_FRAME_COMPRESSED, pack(out, 2), 0, PACKED_AT, 2);
    struct iovec iov[2] = {{&f, sizeof(f)}, {out, f.length - 9}};

    ff_frame_encode(&f);
    ff_channel_write_all(ch, iov, 2, true);
    ff_channel_shutdown(ch);
}

/* A source that has not said that it may. */
static void packed_not_agreed(FfChannel *ch)
{
    uint8_t out[2 * PAGE], buf[FF_FRAME_MAX_TEXT];
    PeerHello h = peer_hello();

    ((FfHello *)h.hello)->features = 0;
    peer_say_hello(ch, &h, 1);
    peer_hear(ch, FF_FRAME_HELLO_REPLY, buf, sizeof(buf));
    peer_say(ch, ff_frame(FF_FRAME_SHARED, 0), NULL);
    say_packed(ch, out, pack(out, 2), 2);
}

/* ---- compressed device state */

/* LEN bytes that are said to be SIZE when unpacked. */
static void say_device(FfChannel *ch, const void *data, uint32_t len, uint64_t size, uint16_t flags)
{
    FfFrame f = ff_frame(FF_FRAME_DEVICE, len);

    f.flags = flags;
    f.page = size;
    peer_say(ch, f, data);
}

static void device_garbage(FfChannel *ch)
{
    say_device(ch, "no frame begins like this", 25, 4096, FF_DEVICE_COMPRESSED);
}

static void device_damaged(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    uint32_t len = pack(out, 2);

    out[len - 1] ^= 1;
    say_device(ch, out, len, 2 * PAGE, FF_DEVICE_COMPRESSED);
}

static void device_too_much(FfChannel *ch)
{
    uint8_t out[2 * PAGE];

    say_device(ch, out, pack(out, 2), 2 * PAGE - 1, FF_DEVICE_COMPRESSED);
}

static void device_bomb(FfChannel *ch)
{
    say_device(ch, "x", 1, FF_RUN_MAX_BYTES + 1, FF_DEVICE_COMPRESSED);
}

static void device_flags(FfChannel *ch)
{
    say_device(ch, "QEVM", 4, 0, FF_DEVICE_DELTA << 1);
}

static void device_sized(FfChannel *ch)
{
    say_device(ch, "QEVM", 4, 4096, 0);
}

static void device_not_agreed(FfChannel *ch)
{
    PeerHello h = peer_hello();
    uint8_t out[2 * PAGE], buf[FF_FRAME_MAX_TEXT];

    ((FfHello *)h.hello)->features = GUINT32_TO_LE(FF_FEATURE_ZSTD);
    peer_say_hello(ch, &h, 1);
    peer_hear(ch, FF_FRAME_HELLO_REPLY, buf, sizeof(buf));
    peer_say(ch, ff_frame(FF_FRAME_SHARED, 0), NULL);
    peer_say(ch, ff_frame(FF_FRAME_PREPARE, 0), NULL);
    peer_hear(ch, FF_FRAME_READY, NULL, 0);
    peer_stale_last(ch);
    say_device(ch, out, pack(out, 2), 2 * PAGE, FF_DEVICE_COMPRESSED);
}

/* ---- device state as a delta */

static void say_base(FfChannel *ch, uint32_t len)
{
    g_autofree uint8_t *data = g_malloc0(len);

    peer_say(ch, ff_frame(FF_FRAME_BASE, len), data);
}

static void say_delta(FfChannel *ch, uint32_t word, uint32_t n)
{
    FfFrame f = ff_frame(FF_FRAME_DEVICE, sizeof(word));

    f.flags = FF_DEVICE_DELTA;
    f.n_pages = n;
    word = GUINT32_TO_LE(word);
    peer_say(ch, f, &word);
}

static void base_too_late(FfChannel *ch)
{
    say_base(ch, PAGE);
}

static void base_odd(FfChannel *ch)
{
    say_base(ch, PAGE + 1);
}

static void base_too_much(FfChannel *ch)
{
    for (unsigned i = 0; i <= FF_DELTA_BASE_MAX / FF_RUN_MAX_BYTES; i++) {
        say_base(ch, FF_RUN_MAX_BYTES);
    }
}

/* A base cannot be told by one. */
static void base_delta(FfChannel *ch)
{
    uint32_t word = GUINT32_TO_LE(FF_DELTA_COPY);
    FfFrame f = ff_frame(FF_FRAME_BASE, sizeof(word));

    say_base(ch, PAGE);
    f.flags = FF_DEVICE_DELTA;
    f.n_pages = PAGE;
    peer_say(ch, f, &word);
}

static void base_damaged(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    uint32_t len = pack(out, 2);
    FfFrame f = ff_frame(FF_FRAME_BASE, len);

    out[len - 1] ^= 1;
    f.flags = FF_DEVICE_COMPRESSED;
    f.page = 2 * PAGE;
    peer_say(ch, f, out);
}

static void base_not_agreed(FfChannel *ch)
{
    PeerHello h = peer_hello();
    uint8_t buf[FF_FRAME_MAX_TEXT];

    ((FfHello *)h.hello)->features = GUINT32_TO_LE(FF_FEATURE_COMPRESSED_DEVICE);
    peer_say_hello(ch, &h, 1);
    peer_hear(ch, FF_FRAME_HELLO_REPLY, buf, sizeof(buf));
    peer_say(ch, ff_frame(FF_FRAME_SHARED, 0), NULL);
    say_base(ch, PAGE);
}

static void delta_without_base(FfChannel *ch)
{
    say_delta(ch, FF_DELTA_COPY, PAGE);
}

/* Of one page of zeros. */
static void until_delta(FfChannel *ch)
{
    say_base(ch, PAGE);
    peer_say(ch, ff_frame(FF_FRAME_PREPARE, 0), NULL);
    peer_hear(ch, FF_FRAME_READY, NULL, 0);
    peer_stale_last(ch);
}

static void delta_outside(FfChannel *ch)
{
    until_delta(ch);
    say_delta(ch, FF_DELTA_COPY | 1, PAGE);
}

static void delta_too_little(FfChannel *ch)
{
    until_delta(ch);
    say_delta(ch, FF_DELTA_COPY, PAGE + 1);
}

static void delta_bomb(FfChannel *ch)
{
    say_delta(ch, FF_DELTA_COPY, FF_RUN_MAX_BYTES + 1);
}

static void delta_not_longer(FfChannel *ch)
{
    say_delta(ch, FF_DELTA_COPY, sizeof(uint32_t));
}

static void delta_sized(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_DEVICE, 4);

    f.n_pages = PAGE;
    peer_say(ch, f, "QEVM");
}

/* It is compressed as well, and what comes out is no delta. */
static void delta_packed(FfChannel *ch)
{
    uint8_t out[2 * PAGE];
    uint32_t len = pack(out, 2);
    FfFrame f = ff_frame(FF_FRAME_DEVICE, len);

    until_delta(ch);
    f.flags = FF_DEVICE_COMPRESSED | FF_DEVICE_DELTA;
    f.page = 2 * PAGE;
    f.n_pages = 3 * PAGE;
    peer_say(ch, f, out);
}

typedef struct {
    const char *name;
    Moment moment;
    void (*send)(FfChannel *ch);
    const char *error; /* part of the destination's error */
} SourceRow;

static const SourceRow sources[] = {
    {"garbage", AT_START, garbage, "not a stream of a farfault source"},
    {"silence", AT_START, hang_up, "closed the connection"},
    {"hang-up-at-hello", AT_GREETING, hang_up, "closed the connection"},
    {"half-a-header", AT_GREETING, half_a_header, "reset"},
    {"no-frame", AT_GREETING, garbage, "wrong magic"},
    {"hello-version", AT_GREETING, hello_other_version, "wire version 77 at the source, 1 here"},
    {"hello-count", AT_GREETING, hello_more_blocks_than_bytes, "malformed hello"},
    {"hello-billions", AT_GREETING, hello_billions_of_blocks, "malformed hello"},
    {"hello-unknown-block", AT_GREETING, hello_unknown_block, "'other', this side has none"},
    {"hello-name", AT_GREETING, hello_unterminated_name, "this side has none"},
    {"hello-page-size", AT_GREETING, hello_no_page_size, "0 bytes at the source, 4096"},
    {"early-grant", AT_SHARED, grant_too_early, "nothing was loaded"},
    {"early-page", AT_READY, page_too_early, "no page was expected"},
    {"early-device", AT_SHARED, device_too_early, "no device state is expected"},
    {"early-device-stale", AT_READY, device_too_early, "no device state is expected"},
    {"early-page-outside", AT_SHARED, page_outside, "outside of its block"},
    {"early-old-epoch", AT_SHARED, page_of_old_epoch, "earlier connection"},
    {"early-last-stale", AT_SHARED, peer_stale_last, "not expected now"},
    {"prepare-twice", AT_READY, prepare_again, "it came already"},
    {"stale-outside", AT_READY, stale_outside, "outside of its block"},
    {"stale-block", AT_READY, stale_block, "block index"},
    {"stale-empty-run", AT_READY, stale_empty_run, "outside of its block"},
    {"stale-length", AT_READY, stale_length, "not as long as its runs"},
    {"stale-billions", AT_READY, stale_billions, "not as long as its runs"},
    {"stale-after-last", AT_FROZEN, peer_stale_last, "not expected now"},
    {"grant-before-loaded", AT_FROZEN, grant_too_early, "nothing was loaded"},
    {"page-outside", AT_FROZEN, page_outside, "outside of its block"},
    {"zero-outside", AT_FROZEN, zero_run_outside, "outside of its block"},
    {"block-outside", AT_FROZEN, block_outside, "block index"},
    {"old-epoch", AT_FROZEN, page_of_old_epoch, "earlier connection"},
    {"truncated", AT_FROZEN, truncated_page, "reset"},
    {"packed-garbage", AT_FROZEN, packed_garbage, "no zstd frame"},
    {"packed-damaged", AT_FROZEN, packed_damaged, "is damaged"},
    {"packed-cut-off", AT_FROZEN, packed_cut_off, "not one whole frame"},
    {"packed-two-frames", AT_FROZEN, packed_two_frames, "not one whole frame"},
    {"packed-too-little", AT_FROZEN, packed_too_little, "not of the size that was said"},
    {"packed-too-much", AT_FROZEN, packed_too_much, "not of the size that was said"},
    {"packed-not-shorter", AT_FROZEN, packed_not_shorter, "not shorter than its run"},
    {"packed-too-long", AT_FROZEN, packed_too_long, "too long"},
    {"packed-outside", AT_FROZEN, packed_outside, "outside of its block"},
    {"packed-half", AT_FROZEN, packed_half, "reset"},
    {"packed-not-agreed", AT_GREETING, packed_not_agreed, "does not belong here"},
    {"packed-early", AT_READY, packed_garbage, "no page was expected"},
    {"packed-precopy-garbage", AT_SHARED, packed_garbage, "no zstd frame"},
    {"packed-precopy-damaged", AT_SHARED, packed_damaged, "is damaged"},
    {"device-garbage", AT_FROZEN, device_garbage, "no zstd frame"},
    {"device-damaged", AT_FROZEN, device_damaged, "is damaged"},
    {"device-too-much", AT_FROZEN, device_too_much, "not of the size that was said"},
    {"device-bomb", AT_FROZEN, device_bomb, "a size that it cannot have"},
    {"device-flags", AT_FROZEN, device_flags, "flags that it cannot have"},
    {"device-sized", AT_FROZEN, device_sized, "a size that it cannot have"},
    {"device-not-agreed", AT_GREETING, device_not_agreed, "was not agreed on"},
    {"base-odd", AT_SHARED, base_odd, "no whole pages"},
    {"base-too-much", AT_SHARED, base_too_much, "more than a base may have"},
    {"base-delta", AT_SHARED, base_delta, "flags that it cannot have"},
    {"base-damaged", AT_SHARED, base_damaged, "is damaged"},
    {"base-late", AT_READY, base_too_late, "not expected now"},
    {"base-later", AT_FROZEN, base_too_late, "not expected now"},
    {"base-not-agreed", AT_GREETING, base_not_agreed, "not agreed on"},
    {"delta-without-base", AT_FROZEN, delta_without_base, "without a base"},
    {"delta-outside", AT_SHARED, delta_outside, "cannot have"},
    {"delta-too-little", AT_SHARED, delta_too_little, "less than was said"},
    {"delta-bomb", AT_FROZEN, delta_bomb, "a size that it cannot have"},
    {"delta-not-longer", AT_FROZEN, delta_not_longer, "a size that it cannot have"},
    {"delta-sized", AT_FROZEN, delta_sized, "a size that it cannot have"},
    {"delta-packed", AT_SHARED, delta_packed, "cannot have"},
    {"wrong-direction", AT_FROZEN, wrong_direction, "does not belong here"},
    /* The grant may be on its way: paused, and never running without it. */
    {"hang-up-loaded", AT_LOADED, hang_up, "closed"},
    {"device-after-loaded", AT_LOADED, device_too_early, "no device state is expected"},
    /* From here on the guest is ours: paused, with everything kept. */
    {"grant-twice", AT_GRANT, grant_twice, "nothing was loaded"},
    {"page-outside-later", AT_GRANT, page_outside, "outside of its block"},
    {"hang-up-later", AT_GRANT, hang_up, "closed"},
    {"packed-damaged-later", AT_GRANT, packed_damaged, "is damaged"},
};

/* Nothing of a compressed run that is refused was placed. */
static void assert_not_placed(Side *d)
{
    const FfRamBlock *b = d->blocks->pdata[0];
    off_t data = lseek(b->memfd, PACKED_AT * PAGE, SEEK_DATA);

    g_assert_true(data < 0 || data >= (PACKED_AT + 64) * (off_t)PAGE);
}

static void test_source(gconstpointer data)
{
    const SourceRow *row = data;
    uint64_t size = RAM_BYTES;
    int sv[2];

    if (!side_possible()) {
        return;
    }
    Side *d = side_new(FF_ROLE_DESTINATION, &size, 1);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    side_start(d, NULL, sv[1]);
    g_autoptr(FfChannel) ch = ff_channel_new(sv[0], FF_CHANNEL_MAIN);
    peer_be_source(ch, row->moment);
    row->send(ch);
    if (row->moment == AT_LOADED) {
        side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
        g_assert_false(g_atomic_int_get(&d->runs));
        g_assert_false(g_atomic_int_get(&d->abandoned));
    } else if (row->moment < AT_GRANT) {
        side_run_until(d->done);
        g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
        g_assert_true(g_atomic_int_get(&d->abandoned));
        g_assert_false(g_atomic_int_get(&d->runs));
    } else {
        side_run_until(d->status == FF_STATUS_POSTCOPY_PAUSED);
        g_assert_true(g_atomic_int_get(&d->runs));
        g_assert_false(g_atomic_int_get(&d->abandoned));
    }
    if (g_str_has_prefix(row->name, "packed-")) {
        assert_not_placed(d);
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    g_assert_nonnull(info->error_desc);
    if (!strstr(info->error_desc, row->error)) {
        g_error("'%s' does not say '%s'", info->error_desc, row->error);
    }
    side_free(d);
}

/* ---- hostile sources with an additional bulk connection -------------------------------------- */

typedef struct {
    Side *d;
    FfChannel *main, *further;
    FfChannel *urgent; /* NULL: FURTHER is */
} Further;

static void say_round(FfChannel *ch, uint64_t n)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    f.epoch = 1;
    f.page = n;
    peer_say(ch, f, NULL);
}

static void hear_round(const Further *t, unsigned index, uint64_t n)
{
    FfFrame f = peer_hear(t->main, FF_FRAME_ROUND, NULL, 0);

    g_assert_cmpuint(f.flags, ==, index);
    g_assert_cmpuint(f.page, ==, n);
}

/* In a round, with a page of it placed that came on the additional connection. */
static void place_further(const Further *t)
{
    uint64_t placed = 0;

    say_round(t->main, 1);
    hear_round(t, 0, 1);
    page_too_early(t->further);
    while (!placed) {
        g_autoptr(FfMigrationInfo) info = ff_migration_info(t->d->m);
        placed = info->pages_bulk;
        g_main_context_iteration(NULL, FALSE);
        g_assert_false(t->d->done);
    }
}

static void further_page_first(const Further *t)
{
    page_too_early(t->further);
}

static void further_page_outside(const Further *t)
{
    place_further(t);
    page_outside(t->further);
}

static void further_stale(const Further *t)
{
    place_further(t);
    peer_say_stale(t->main, (FfStaleRun){0, 1, 0}, 0);
}

static void further_prepare(const Further *t)
{
    place_further(t);
    prepare_again(t->main);
}

/* The round is ended as it should be. */
static void end_rounds(const Further *t)
{
    place_further(t);
    say_round(t->further, 1);
    hear_round(t, 2, 1);
    peer_say_stale(t->main, (FfStaleRun){0, 1, 0}, 0);
    prepare_again(t->main);
    peer_hear(t->main, FF_FRAME_READY, NULL, 0);
}

static void further_page_later(const Further *t)
{
    end_rounds(t);
    page_too_early(t->further);
}

static void further_round_later(const Further *t)
{
    end_rounds(t);
    say_round(t->further, 2);
}

static void further_round_on_main(const Further *t)
{
    end_rounds(t);
    say_round(t->main, 2);
}

static void further_old_epoch(const Further *t)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    f.epoch = 9;
    peer_say(t->further, f, NULL);
}

static void further_stale_on_it(const Further *t)
{
    peer_say_stale(t->further, (FfStaleRun){0, 1, 0}, 0);
}

static void further_broken(const Further *t)
{
    place_further(t);
    ff_channel_shutdown(t->further);
}

static void further_say_round(const Further *t)
{
    say_round(t->further, 1);
}

static void further_main_round(const Further *t)
{
    say_round(t->main, 1);
}

typedef struct {
    const char *name;
    void (*send)(const Further *t);
    const char *error; /* part of the destination's error */
    bool disagreed;    /* the source has not said that it may */
    bool urgent;       /* it is the urgent connection */
} FurtherRow;

static const FurtherRow furthers[] = {
    {"page-first", further_page_first, "no page was expected yet"},
    {"page-outside", further_page_outside, "outside of its block"},
    {"stale-too-early", further_stale, "still on their way"},
    {"prepare-too-early", further_prepare, "still on their way"},
    {"page-later", further_page_later, "no page was expected yet"},
    {"round-later", further_round_later, "no round is under way"},
    {"round-later-on-main", further_round_on_main, "no round is under way"},
    {"old-epoch", further_old_epoch, "earlier connection"},
    {"stale-on-it", further_stale_on_it, "only pages belong on this channel"},
    {"broken", further_broken, "closed"},
    {"not-agreed-page", further_page_first, "no page was expected yet", true},
    {"not-agreed-round", further_say_round, "only pages belong on this channel", true},
    {"not-agreed-main", further_main_round, "does not belong here", true},
    {"urgent-page", further_page_first, "no page was expected yet", .urgent = true},
    {"urgent-round", further_say_round, "only pages belong on this channel", .urgent = true},
};

static FfChannel *connect_peer(Side *d)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    g_autoptr(FfAddress) address = ff_address_parse(info->socket_address, NULL);
    int fd = ff_address_connect(address, NULL, NULL);

    g_assert_cmpint(fd, >=, 0);
    return ff_channel_new(fd, FF_CHANNEL_MAIN);
}

static FfChannel *open_further(Side *d, FfChannelHello *h, FfChannelKind kind)
{
    FfChannel *ch = connect_peer(d);

    h->kind = GUINT32_TO_LE(kind);
    peer_say(ch, ff_frame(FF_FRAME_CHANNEL, sizeof(*h)), h);
    peer_hear(ch, FF_FRAME_CHANNEL_REPLY, NULL, 0);
    return ch;
}

static Further further_new(const FurtherRow *row)
{
    uint64_t size = RAM_BYTES;
    Further t = {.d = side_new(FF_ROLE_DESTINATION, &size, 1)};
    FfChannelHello c = {.epoch = GUINT32_TO_LE(1)};
    uint8_t buf[FF_FRAME_MAX_TEXT];
    PeerHello h = peer_hello();

    side_start(t.d, "tcp:127.0.0.1:0", -1);
    t.main = connect_peer(t.d);
    peer_be_source(t.main, AT_GREETING);
    if (row->disagreed) {
        ((FfHello *)h.hello)->features = 0;
    }
    peer_say_hello(t.main, &h, 1);
    peer_hear(t.main, FF_FRAME_HELLO_REPLY, buf, sizeof(buf));
    memcpy(c.session, ((FfHello *)h.hello)->session, sizeof(c.session));
    memcpy(c.secret, buf, sizeof(c.secret));
    t.further = open_further(t.d, &c, row->urgent ? FF_CHANNEL_URGENT : FF_CHANNEL_BULK);
    /* One comes after the other: with this one the first is in its place. */
    t.urgent = row->urgent ? NULL : open_further(t.d, &c, FF_CHANNEL_URGENT);
    return t;
}

static void test_further(gconstpointer data)
{
    const FurtherRow *row = data;

    if (!side_possible()) {
        return;
    }
    Further t = further_new(row);
    row->send(&t);
    side_run_until(t.d->done);
    g_assert_cmpint(t.d->status, ==, FF_STATUS_FAILED);
    g_assert_false(g_atomic_int_get(&t.d->runs));
    g_autoptr(FfMigrationInfo) info = ff_migration_info(t.d->m);
    if (!info->error_desc || !strstr(info->error_desc, row->error)) {
        g_error("'%s' does not say '%s'", info->error_desc, row->error);
    }
    side_free(t.d);
    ff_channel_free(t.main);
    ff_channel_free(t.further);
    ff_channel_free(t.urgent);
}

/* ---- hostile destinations -------------------------------------------------------------------- */

static void d_garbage(FfChannel *ch)
{
    garbage(ch);
}

static void d_hang_up(FfChannel *ch)
{
    ff_channel_shutdown(ch);
}

static void d_pong(FfChannel *ch)
{
    /* What a stock QEMU answers to the PING. */
    struct iovec iov = {(void *)"\0\2\0\4FarF and then it waits for the stream to continue...", 48};

    ff_channel_write_all(ch, &iov, 1, true);
}

static void d_other_version(FfChannel *ch)
{
    FfGreeting g = {.version = GUINT32_TO_LE(9)};

    peer_say(ch, ff_frame(FF_FRAME_GREETING, sizeof(g)), &g);
}

static void d_refuses(FfChannel *ch)
{
    peer_greet(ch);
    FfFrame f = ff_frame(FF_FRAME_HELLO_REPLY, 6);
    f.page = 1;
    peer_say(ch, f, "no way");
}

static void d_short_secret(FfChannel *ch)
{
    peer_greet(ch);
    peer_say(ch, ff_frame(FF_FRAME_HELLO_REPLY, 3), "abc");
}

static void d_page(FfChannel *ch)
{
    uint8_t data[PAGE] = {0};

    peer_accept_hello(ch);
    peer_say(ch, peer_run(FF_FRAME_PAGES, PAGE, 0, 0, 1), data);
}

static void d_aborts(FfChannel *ch)
{
    peer_accept_hello(ch);
    peer_say(ch, ff_frame(FF_FRAME_ABORT, 9), "disk full");
}

static void d_aborts_cut_off(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_ABORT, 9);
    struct iovec iov[] = {{&f, sizeof(f)}, {(char[]){"disk"}, 4}};

    peer_accept_hello(ch);
    ff_frame_encode(&f);
    ff_channel_write_all(ch, iov, 2, true);
    ff_channel_shutdown(ch);
}

/* An end of a round that was never said. */
static void d_round(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    peer_accept_hello(ch);
    f.page = 1;
    peer_say(ch, f, NULL);
}

static void d_round_of_nobody(FfChannel *ch)
{
    FfFrame f = ff_frame(FF_FRAME_ROUND, 0);

    peer_accept_hello(ch);
    f.flags = G_MAXUINT16;
    f.page = 1;
    peer_say(ch, f, NULL);
}

static void d_request_outside(FfChannel *ch)
{
    peer_until_device(ch);
    peer_say(ch, peer_run(FF_FRAME_REQUEST, 0, 0, RAM_PAGES, 1), NULL);
}

static void d_request_block(FfChannel *ch)
{
    peer_until_device(ch);
    peer_say(ch, peer_run(FF_FRAME_REQUEST, 0, 1u << 30, 0, 1), NULL);
}

static void d_hang_up_in_device(FfChannel *ch)
{
    peer_until_device(ch);
    ff_channel_shutdown(ch);
}

typedef struct {
    const char *name;
    void (*behave)(FfChannel *ch);
    const char *error; /* part of the source's error */
} DestinationRow;

static const DestinationRow destinations[] = {
    {"garbage", d_garbage, "wrong magic"},
    {"hang-up", d_hang_up, "closed the connection"},
    {"stock-qemu", d_pong, "it has no farfault, or one that leaves"},
    {"version", d_other_version, "wire version 9, this side 1"},
    {"refuses", d_refuses, "the destination refused: no way"},
    {"short-secret", d_short_secret, "malformed reply"},
    {"page", d_page, "protocol error"},
    {"aborts", d_aborts, "the destination gave up: disk full"},
    {"aborts-cut-off", d_aborts_cut_off, "the destination gave up: its reason was cut off"},
    {"round", d_round, "protocol error"},
    {"round-of-nobody", d_round_of_nobody, "protocol error"},
    {"request-outside", d_request_outside, "outside of its block"},
    {"request-block", d_request_block, "block index"},
    {"hang-up-in-device", d_hang_up_in_device, "lost the connection"},
};

typedef struct {
    const DestinationRow *row;
    FfChannel *ch;
} Liar;

static gpointer lie(gpointer p)
{
    Liar *l = p;

    l->row->behave(l->ch);
    return NULL;
}

static void test_destination(gconstpointer data)
{
    uint64_t size = RAM_BYTES;
    int sv[2];

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    side_fill(s);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    Liar l = {data, ff_channel_new(sv[1], FF_CHANNEL_MAIN)};
    side_start(s, NULL, sv[0]);
    ff_migration_start_postcopy(s->m, NULL);
    GThread *t = g_thread_new("liar", lie, &l);
    side_run_until(s->done);
    g_thread_join(t);
    ff_channel_free(l.ch);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_NONE);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    if (!info->error_desc || !strstr(info->error_desc, l.row->error)) {
        g_error("'%s' does not say '%s'", info->error_desc, l.row->error);
    }
    side_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(sources); i++) {
        g_autofree char *path = g_strdup_printf("/hostile/source/%s", sources[i].name);
        g_test_add_data_func(path, &sources[i], test_source);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(furthers); i++) {
        g_autofree char *path = g_strdup_printf("/hostile/further/%s", furthers[i].name);
        g_test_add_data_func(path, &furthers[i], test_further);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(destinations); i++) {
        g_autofree char *path = g_strdup_printf("/hostile/destination/%s", destinations[i].name);
        g_test_add_data_func(path, &destinations[i], test_destination);
    }
    return g_test_run();
}
