/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a hostile QEMU at the destination answers to its device state. */
#include "tests/fuzz/peer.h"

#include <string.h>

#include "net/frame.h"

static void add(GByteArray *a, FfFrame f, const void *payload)
{
    guint length = f.length;

    ff_frame_encode(&f);
    g_byte_array_append(a, (guint8 *)&f, sizeof(f));
    g_byte_array_append(a, payload, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t prologue[FF_PROLOGUE_SIZE], device[SIDE_LENIENT_BYTES] = {0};
    struct {
        FfHello hello;
        FfHelloBlock block;
    } h = {0};
    g_autoptr(GByteArray) a = g_byte_array_new();
    int peer;

    ff_prologue_encode(prologue, NULL, 0);
    g_byte_array_append(a, prologue, sizeof(prologue));
    h.hello.version = GUINT32_TO_LE(FF_WIRE_VERSION);
    h.hello.epoch = GUINT64_TO_LE(1);
    strcpy(h.block.id, "ram0");
    h.block.size = GUINT64_TO_LE(FUZZ_RAM_BYTES);
    h.block.page_size = GUINT64_TO_LE(PAGE);
    FfFrame f = ff_frame(FF_FRAME_HELLO, sizeof(h));
    f.n_pages = 1;
    add(a, f, &h);
    add(a, ff_frame(FF_FRAME_SHARED, 0), NULL);
    add(a, ff_frame(FF_FRAME_PREPARE, 0), NULL);
    /* The guest is stopped, and the first page is stale: device state may come. */
    FfStaleRun stale = {.n_pages = GUINT32_TO_LE(1)};
    f = ff_frame(FF_FRAME_STALE, sizeof(stale));
    f.flags = FF_STALE_LAST;
    f.n_pages = 1;
    add(a, f, &stale);
    add(a, ff_frame(FF_FRAME_DEVICE, sizeof(device)), device);
    Side *s = fuzz_side(FF_ROLE_DESTINATION, &peer);
    s->says = data;
    s->says_len = size;
    fuzz_be_source(peer, a->data, a->len);
    fuzz_end(s, peer);
    return 0;
}
