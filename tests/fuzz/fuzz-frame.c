/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Headers of the wire: the prologue, the decoder, the check of runs. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "net/address.h"
#include "net/frame.h"

static const FfFrameBlock blocks[] = {{64 << 20, 4096}, {4 << 20, 2 << 20}};

static void check_frame(const uint8_t *data)
{
    const char *why = NULL;
    FfFrame f, again;

    memcpy(&f, data, sizeof(f));
    if (ff_frame_decode(&f, &why) < 0) {
        g_assert_nonnull(why);
        return;
    }
    g_assert_cmpuint(f.type, <, FF_FRAME__MAX);
    g_assert_nonnull(ff_frame_name(f.type));
    again = f;
    ff_frame_encode(&again);
    g_assert_cmpint(ff_frame_decode(&again, &why), ==, 0);
    g_assert_cmpint(memcmp(&again, &f, sizeof(f)), ==, 0);
    g_assert_cmpuint(f.length, <=, FF_FRAME_MAX_DATA);
    if (f.type == FF_FRAME_HAVE &&
        ff_frame_check_have(&f, blocks, G_N_ELEMENTS(blocks), &why) == 0) {
        uint64_t pages = blocks[f.block].size / blocks[f.block].page_size;
        g_assert_true(f.page < pages && f.n_pages <= pages - f.page && f.page % 64 == 0);
        g_assert_cmpuint(f.length, ==, f.flags ? 0 : (f.n_pages + 63ull) / 64 * 8);
    }
    if (ff_frame_check_run(&f, blocks, G_N_ELEMENTS(blocks), &why) == 0 &&
        (f.type == FF_FRAME_PAGES || f.type == FF_FRAME_COMPRESSED || f.type == FF_FRAME_ZERO ||
         f.type == FF_FRAME_REQUEST)) {
        const FfFrameBlock *b = &blocks[f.block];
        uint64_t pages = b->size / b->page_size;
        g_assert_cmpuint(f.block, <, G_N_ELEMENTS(blocks));
        g_assert_cmpuint(f.n_pages, >, 0);
        g_assert_true(f.page < pages && f.n_pages <= pages - f.page);
        g_assert_true(f.type != FF_FRAME_PAGES || f.length == f.n_pages * b->page_size);
        g_assert_true(
            f.type != FF_FRAME_COMPRESSED ||
            (f.length < f.n_pages * b->page_size && f.n_pages * b->page_size <= FF_FRAME_MAX_DATA));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_quiet();
    g_autofree char *uri = g_strndup((const char *)data, size);
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);

    g_assert_true(!address || address->is_unix == (address->path != NULL));
    size_t need;
    if (ff_prologue_decode(data, size, &need) == FF_PEER_MORE) {
        g_assert_cmpuint(need, >, size);
        g_assert_cmpuint(need, <=, FF_PROLOGUE_MAX);
    }
    for (; size >= sizeof(FfFrame); data += sizeof(FfFrame), size -= sizeof(FfFrame)) {
        check_frame(data);
    }
    return 0;
}
