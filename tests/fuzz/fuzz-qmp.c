/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's view of QMP: however a stream is cut into pieces, the same messages come out of
 * the framer and of the splitter, and what the parser calls a command is one.
 */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "guest/relay/qmp-frame.h"

/* Everything that comes out when BUF is fed in pieces of STEP bytes. */
static GString *frame_all(const char *buf, size_t size, size_t step)
{
    g_autoptr(FfQmpFramer) framer = ff_qmp_framer_new();
    GString *out = g_string_new(NULL);

    for (size_t at = 0; at < size;) {
        GBytes *message = NULL;
        size_t end = MIN(size, at - at % step + step);
        size_t n = ff_qmp_framer_feed(framer, buf + at, end - at, &message);

        g_assert_cmpuint(n, <=, end - at);
        g_assert_true(n || message);
        at += n;
        if (message) {
            gsize len;
            const char *text = g_bytes_get_data(message, &len);

            g_string_append_len(out, text, len);
            g_string_append(out, "\n--\n");
            g_bytes_unref(message);
        }
    }
    g_string_append_printf(out, "%zu", ff_qmp_framer_pending(framer));
    return out;
}

static void parse_all(const char *buf, size_t size)
{
    g_autoptr(FfQmpFramer) framer = ff_qmp_framer_new();

    for (size_t at = 0; at < size;) {
        GBytes *message = NULL;

        at += ff_qmp_framer_feed(framer, buf + at, size - at, &message);
        if (message) {
            gsize len;
            const char *text = g_bytes_get_data(message, &len);
            g_autoptr(FfQmpCommand) c = ff_qmp_command_parse(text, len);

            if (c) {
                g_autoptr(FfQmpCommand) again = ff_qmp_command_parse(c->json->str, c->json->len);

                g_assert_nonnull(again);
                g_assert_cmpstr(c->name, ==, again->name);
                g_assert_true(ff_qmp_id_equal(c->id, again->id));
                g_assert_cmpint(c->oob, ==, again->oob);
                g_assert_cmpstr(c->json->str, ==, again->json->str);
            }
            g_bytes_unref(message);
        }
    }
}

static GString *split_all(const char *buf, size_t size, size_t step)
{
    g_autoptr(FfQmpSplitter) splitter = ff_qmp_splitter_new();
    GString *out = g_string_new(NULL);

    for (size_t at = 0, still = 0; at < size;) {
        bool end = false;
        size_t limit = MIN(size, at - at % step + step);
        size_t n = ff_qmp_splitter_feed(splitter, buf + at, limit - at, &end);

        still = n ? 0 : still + 1;
        g_assert_cmpuint(still, <, 3);
        at += n;
        if (end) {
            const FfQmpAnswer *a = ff_qmp_splitter_answer(splitter);

            g_string_append_printf(out, "%zu %d %d %s %s\n", at, a->kind, a->is_error,
                                   a->event ? a->event : "", a->id ? a->id : "");
        }
    }
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *buf = (const char *)data;

    fuzz_quiet();
    for (int side = 0; side < 2; side++) {
        GString *(*all)(const char *, size_t, size_t) = side ? split_all : frame_all;
        GString *whole = all(buf, size, size + 1), *bytes = all(buf, size, 1);

        g_assert_cmpstr(whole->str, ==, bytes->str);
        g_string_free(whole, TRUE);
        g_string_free(bytes, TRUE);
    }
    parse_all(buf, size);
    return 0;
}
