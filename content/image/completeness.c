/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks for the description at the end of a file; see completeness.h.
 *
 * It is looked for from the end backwards, and only as long as there is text: JSON of QEMU's is
 * printable, so nothing that a guest can put into device state is ever taken for it.
 *
 * System calls: none.
 */
#include "content/image/completeness.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

#define DESCRIPTION_MAX (64u << 20)
#define PIECE 65536
/* EOF, type, length (big-endian) */
#define HEAD 6

static bool fail_file(const FfSaved *s, GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", ff_input_path(s->in), what);
    return false;
}

/* The place after the last byte that is not zero, at least FROM. -1: an ERROR. */
static int64_t skip_zeros(const FfSaved *s, uint64_t from, uint64_t end, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);

    while (end > from) {
        size_t n = MIN(end - from, PIECE);

        if (!ff_input_read(s->in, end - n, piece, n, error)) {
            return -1;
        }
        for (size_t i = n; i > 0; i--) {
            if (piece[i - 1]) {
                return end - n + i;
            }
        }
        end -= n;
    }
    return from;
}

/* Reads back from TO while there is text. The place of its first byte, at least FROM; -1: an ERROR.
 */
static int64_t find_text(const FfSaved *s, uint64_t from, uint64_t to, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);

    while (to > from) {
        size_t n = MIN(to - from, PIECE);

        if (!ff_input_read(s->in, to - n, piece, n, error)) {
            return -1;
        }
        for (size_t i = n; i > 0; i--) {
            if (!g_ascii_isprint(piece[i - 1])) {
                return to - n + i;
            }
        }
        to -= n;
    }
    return from;
}

bool ff_tail_check(FfSaved *s, GError **error)
{
    uint64_t size = ff_input_size(s->in);
    uint64_t least = size - MIN(size - s->tail, DESCRIPTION_MAX + HEAD);
    int64_t end = skip_zeros(s, least, size, error);
    int64_t text = end < 0 ? -1 : find_text(s, MIN(least, (uint64_t)end), end, error);
    uint8_t head[HEAD];

    if (text < 0) {
        return false;
    }
    /* The last bytes of the length may look like text as well: up to 4 of them. */
    for (int64_t begin = text; begin <= text + 4 && begin < end; begin++) {
        if (begin < (int64_t)s->tail + HEAD) {
            continue;
        }
        if (!ff_input_read(s->in, begin - HEAD, head, HEAD, error)) {
            return false;
        }
        uint64_t length = (uint64_t)head[2] << 24 | head[3] << 16 | head[4] << 8 | head[5];
        uint8_t first, last;
        if (head[0] != FF_SECTION_EOF || head[1] != FF_SECTION_DESCRIPTION) {
            continue;
        }
        if (!ff_input_read(s->in, begin, &first, 1, error) ||
            !ff_input_read(s->in, end - 1, &last, 1, error)) {
            return false;
        }
        if (first == '{' && last == '}' && length == (uint64_t)(end - begin)) {
            s->end = end;
            return true;
        }
        if (first == '{' && length > (uint64_t)(end - begin)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                        "%s: the file is cut: %" PRIu64 " bytes are missing at its end",
                        ff_input_path(s->in), length - (uint64_t)(end - begin));
            return false;
        }
    }
    return fail_file(
        s, error,
        "the file is cut in its device state (or was saved with suppress-vmdesc): it does "
        "not end with "
        "QEMU's description of it");
}

bool ff_tail_copy(const FfSaved *s, FfOutput *o, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);

    for (uint64_t at = s->tail; at < s->end;) {
        size_t n = MIN(s->end - at, PIECE);

        if (!ff_input_read(s->in, at, piece, n, error) || !ff_output_append(o, piece, n, error)) {
            return false;
        }
        at += n;
    }
    return true;
}
