/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See peer.h. */
#include "net/channel-read.h"
#include "net/channel-write.h"
#include "tests/unit/peer.h"

#include <string.h>

void peer_say(FfChannel *ch, FfFrame f, const void *payload)
{
    ff_channel_send(ch, f, payload, true); /* a peer that has hung up is an answer too */
}

FfFrame peer_hear(FfChannel *ch, FfFrameType type, void *payload, size_t cap)
{
    const char *why = NULL;
    FfFrame f;

    g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
    g_assert_cmpstr(ff_frame_name(f.type), ==, ff_frame_name(type));
    g_assert_cmpuint(f.length, <=, cap);
    g_assert_cmpint(ff_channel_read_all(ch, payload, f.length, 20000), ==, 0);
    return f;
}

FfFrame peer_run(FfFrameType type, uint32_t length, uint32_t block, uint64_t page, uint32_t n)
{
    FfFrame f = ff_frame(type, length);

    f.epoch = 1;
    f.block = block;
    f.page = page;
    f.n_pages = n;
    return f;
}

PeerHello peer_hello(void)
{
    PeerHello h = {0};
    FfHello *head = (FfHello *)h.hello;
    FfHelloBlock *b = (FfHelloBlock *)(head + 1);

    head->version = GUINT32_TO_LE(FF_WIRE_VERSION);
    head->features = GUINT32_TO_LE(FF_FEATURE_ZSTD | FF_FEATURE_COMPRESSED_DEVICE |
                                   FF_FEATURE_DELTA_DEVICE | FF_FEATURE_ROUNDS);
    head->epoch = GUINT64_TO_LE(1);
    memset(head->vm_uuid, 7, sizeof(head->vm_uuid));
    strcpy(b->id, "ram0");
    b->size = GUINT64_TO_LE(RAM_BYTES);
    b->page_size = GUINT64_TO_LE(PAGE);
    return h;
}

void peer_say_prologue(FfChannel *ch)
{
    uint8_t prologue[FF_PROLOGUE_SIZE];
    struct iovec iov = {prologue, ff_prologue_encode(prologue, NULL, 0)};

    g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
}

void peer_say_hello(FfChannel *ch, const PeerHello *h, unsigned n)
{
    FfFrame f = ff_frame(FF_FRAME_HELLO, sizeof(h->hello));

    f.n_pages = n;
    peer_say(ch, f, h->hello);
}

void peer_say_device(FfChannel *ch)
{
    g_autofree char *buf = g_malloc(DEVICE_BYTES);

    for (int i = 0; i < DEVICE_BYTES; i++) {
        buf[i] = i * 31;
    }
    for (int at = 0; at < DEVICE_BYTES; at += 100000) {
        peer_say(ch, ff_frame(FF_FRAME_DEVICE, 100000), buf + at);
    }
    /* QEMU reads guest RAM on the way: it is all zero here. */
}

void peer_answer_requests(FfChannel *ch, FfFrameType until)
{
    for (;;) {
        const char *why = NULL;
        FfFrame f;
        g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
        if (f.type == until) {
            return;
        }
        g_assert_cmpint(f.type, ==, FF_FRAME_REQUEST);
        uint64_t data[PAGE / 8];
        for (unsigned i = 0; i < PAGE / 8; i++) {
            data[i] = side_page_is_zero(f.page) ? 0 : side_word(0, f.page);
        }
        peer_say(ch, peer_run(FF_FRAME_PAGES, PAGE, 0, f.page, 1), data);
    }
}

void peer_say_stale(FfChannel *ch, FfStaleRun r, unsigned flags)
{
    FfFrame f = ff_frame(FF_FRAME_STALE, sizeof(r));

    r.block = GUINT32_TO_LE(r.block);
    r.n_pages = GUINT32_TO_LE(r.n_pages);
    r.page = GUINT64_TO_LE(r.page);
    f.flags = flags;
    f.n_pages = 1;
    peer_say(ch, f, &r);
}

void peer_stale_last(FfChannel *ch)
{
    peer_say_stale(ch, (FfStaleRun){0, 1, 0}, FF_STALE_LAST);
}

void peer_be_source(FfChannel *ch, Moment moment)
{
    uint8_t buf[FF_FRAME_MAX_TEXT];

    if (moment >= AT_GREETING) {
        peer_say_prologue(ch);
        peer_hear(ch, FF_FRAME_GREETING, buf, sizeof(buf));
    }
    if (moment >= AT_HELLO) {
        PeerHello h = peer_hello();
        peer_say_hello(ch, &h, 1);
        g_assert_cmpuint(peer_hear(ch, FF_FRAME_HELLO_REPLY, buf, sizeof(buf)).page, ==, 0);
    }
    if (moment >= AT_SHARED) {
        peer_say(ch, ff_frame(FF_FRAME_SHARED, 0), NULL);
    }
    if (moment >= AT_READY) {
        peer_say(ch, ff_frame(FF_FRAME_PREPARE, 0), NULL);
        peer_hear(ch, FF_FRAME_READY, NULL, 0);
    }
    if (moment >= AT_FROZEN) {
        peer_stale_last(ch);
    }
    if (moment >= AT_LOADED) {
        peer_say_device(ch);
        peer_answer_requests(ch, FF_FRAME_LOADED);
    }
    if (moment >= AT_GRANT) {
        peer_say(ch, ff_frame(FF_FRAME_GRANT, 7), "running");
        peer_answer_requests(ch, FF_FRAME_RUNNING);
    }
}

void peer_greet(FfChannel *ch)
{
    FfGreeting g = {.version = GUINT32_TO_LE(FF_WIRE_VERSION)};
    uint8_t buf[4096];

    g_assert_cmpint(ff_channel_read_all(ch, buf, FF_PROLOGUE_SIZE, 20000), ==, 0);
    peer_say(ch, ff_frame(FF_FRAME_GREETING, sizeof(g)), &g);
    peer_hear(ch, FF_FRAME_HELLO, buf, sizeof(buf));
}

void peer_accept_hello(FfChannel *ch)
{
    FfHelloReply r = {{1, 2, 3}};

    peer_greet(ch);
    peer_say(ch, ff_frame(FF_FRAME_HELLO_REPLY, sizeof(r)), &r);
    peer_hear(ch, FF_FRAME_SHARED, NULL, 0);
}

void peer_until_device(FfChannel *ch)
{
    peer_accept_hello(ch);
    peer_hear(ch, FF_FRAME_PREPARE, NULL, 0);
    peer_say(ch, ff_frame(FF_FRAME_READY, 0), NULL);
}
