/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files of saved guests, as they are and compressed: any bytes are counted or refused in one line
 * that names the file; what is said to be complete has a sum that is right, and so has its other
 * form, which is read back. */
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <unistd.h>

#include "content/image/statistics.h"
#include "content/image/write.h"

/* Larger guests are for the unit tests: their bitmaps are memory that the fuzzer's limit counts. */
#define MEMORY_MAX (1ull << 32)
/* That are converted as well. */
#define CONVERTED_MAX (1ull << 24)

/* The other form of the same bytes, in a file without a name, has the same pages. */
static void convert(const uint8_t *data, size_t size, const FfSurvey *before)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s =
        ff_saved_open(ff_input_new_memory("FILE", data, size, NULL), FF_SAVED_OFFSET_LOOK, NULL);
    g_autoptr(FfOutput) out = ff_output_new_nameless("/dev/shm/ff-fuzz", NULL);
    bool stream = s->form == FF_SAVED_MAPPED;

    g_assert_nonnull(out);
    if (s->capabilities->len > stream) {
        return; /* ff_convert() refuses it */
    }
    if (!(stream ? ff_write_stream : ff_write_mapped)(s, out, 0, &error)) {
        g_assert_true(s->early && g_str_has_prefix(error->message, "FILE: "));
        return;
    }
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", ff_output_fd(out));
    g_autoptr(FfSaved) other =
        ff_saved_open(ff_input_open(path, &error), FF_SAVED_OFFSET_LOOK, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) after = ff_statistics_new(other, NULL);
    g_assert_cmpstr(after->problem, ==, NULL);
    g_assert_cmpuint(other->memory, ==, s->memory);
    g_assert_cmpuint(after->data, <=, before->data);
    g_assert_cmpuint(after->absent, ==, 0);
    g_assert_cmpuint(other->end - other->tail, ==, s->end - s->tail);
}

static void survey(FfInput *in, const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = ff_saved_open(in, FF_SAVED_OFFSET_LOOK, &error);

    if (!s || s->memory > MEMORY_MAX) {
        g_assert_true(s || error);
        return;
    }
    g_autoptr(FfSurvey) v = ff_statistics_new(s, error);
    g_assert_true(v->complete == !v->problem);
    if (v->problem) {
        g_assert_true(g_str_has_prefix(v->problem, "FILE: ") && !strchr(v->problem, '\n'));
        return;
    }
    g_assert_cmpuint((v->data + v->zero + v->absent) * FF_SAVED_PAGE, ==, s->memory);
    g_assert_true(s->tail < s->end && s->end <= ff_input_size(in));
    if (s->memory <= CONVERTED_MAX) {
        convert(data, size, v);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    FfInput *in;

    fuzz_quiet();
    in = ff_input_new_memory("FILE", data, size, &error);
    if (in) {
        survey(in, data, size);
    } else {
        g_assert_true(g_str_has_prefix(error->message, "FILE: ") && !strchr(error->message, '\n'));
    }
    return 0;
}
