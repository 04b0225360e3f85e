/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qtest protocol: one line out, one line "OK ..." in. Large data goes as base64, in pieces.
 */
#include "tests/lib/qtestproto.h"

#include <stdarg.h>
#include <string.h>

struct Qtest {
    Stream *stream;
    char *label;
};

/* Bytes per command: QEMU holds line and data in memory at once. */
enum { PIECE = 4 << 20 };

Qtest *qtest_new(int fd, const char *label)
{
    Qtest *t = g_new0(Qtest, 1);
    t->label = g_strdup_printf("qtest of %s", label);
    t->stream = stream_new(fd, t->label);
    return t;
}

void qtest_free(Qtest *t)
{
    if (!t)
        return;
    stream_free(t->stream);
    g_free(t->label);
    g_free(t);
}

/* What follows "OK" in the answer to LINE. */
static char *answer_to(Qtest *t, const char *line)
{
    for (;;) {
        g_autofree char *answer =
            stream_read_line(t->stream, "an answer", test_deadline(TEST_TIMEOUT));
        if (!answer)
            test_fail("%s: closed", t->label);
        if (g_str_has_prefix(answer, "IRQ "))
            continue;
        if (!g_str_has_prefix(answer, "OK"))
            test_fail("%s: \"%.60s\" -> \"%.200s\"", t->label, line, answer);
        return g_strdup(g_strchug(answer + 2));
    }
}

/* Sends LINE and returns what follows "OK". */
static char *command(Qtest *t, const char *line)
{
    stream_send(t->stream, line, strlen(line), NULL, 0);
    return answer_to(t, line);
}

void qtest_read(Qtest *t, uint64_t address, void *data, size_t length)
{
    for (char *at = data; length;) {
        size_t piece = MIN(length, (size_t)PIECE);
        g_autofree char *line =
            g_strdup_printf("b64read 0x%" G_GINT64_MODIFIER "x %zu\n", address, piece);
        g_autofree char *text = command(t, line);
        gsize got;
        g_autofree guchar *bytes = g_base64_decode(text, &got);
        g_assert_cmpuint(got, ==, piece);
        memcpy(at, bytes, piece);
        at += piece;
        address += piece;
        length -= piece;
    }
}

void qtest_write(Qtest *t, uint64_t address, const void *data, size_t length)
{
    for (const guchar *at = data; length;) {
        size_t piece = MIN(length, (size_t)PIECE);
        g_autofree char *text = g_base64_encode(at, piece);
        g_autofree char *line =
            g_strdup_printf("b64write 0x%" G_GINT64_MODIFIER "x %zu %s\n", address, piece, text);
        g_free(command(t, line));
        at += piece;
        address += piece;
        length -= piece;
    }
}

uint64_t qtest_readq(Qtest *t, uint64_t address)
{
    g_autofree char *line = g_strdup_printf("readq 0x%" G_GINT64_MODIFIER "x\n", address);
    g_autofree char *text = command(t, line);
    return g_ascii_strtoull(text, NULL, 0);
}

void qtest_send_writeq(Qtest *t, uint64_t address, uint64_t value)
{
    g_autofree char *line = g_strdup_printf(
        "writeq 0x%" G_GINT64_MODIFIER "x 0x%" G_GINT64_MODIFIER "x\n", address, value);
    stream_send(t->stream, line, strlen(line), NULL, 0);
}

void qtest_take_answer(Qtest *t)
{
    g_free(answer_to(t, "writeq"));
}

void qtest_writeq(Qtest *t, uint64_t address, uint64_t value)
{
    qtest_send_writeq(t, address, value);
    qtest_take_answer(t);
}

static char width_letter(unsigned width)
{
    return width == 1 ? 'b' : width == 2 ? 'w' : 'l';
}

void qtest_out(Qtest *t, unsigned width, uint16_t port, uint32_t value)
{
    g_autofree char *line = g_strdup_printf("out%c 0x%x 0x%x\n", width_letter(width), port, value);
    g_free(command(t, line));
}

uint32_t qtest_in(Qtest *t, unsigned width, uint16_t port)
{
    g_autofree char *line = g_strdup_printf("in%c 0x%x\n", width_letter(width), port);
    g_autofree char *text = command(t, line);
    return g_ascii_strtoull(text, NULL, 0);
}
