/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files of saved guests, as they are and compressed: any bytes are counted or refused in one line
 * that names the file, and what is said to be complete has a sum that is right. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "snapshot/survey.h"

/* Larger guests are for the unit tests: their bitmaps are memory that the fuzzer's limit counts. */
#define MEMORY_MAX (1ull << 32)

static void survey(FfInput *in)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = ff_saved_open(in, FF_SAVED_OFFSET_LOOK, &error);

    if (!s || s->memory > MEMORY_MAX) {
        g_assert_true(s || error);
        return;
    }
    g_autoptr(FfSurvey) v = ff_survey_new(s, error);
    g_assert_true(v->complete == !v->problem);
    if (v->problem) {
        g_assert_true(g_str_has_prefix(v->problem, "FILE: ") && !strchr(v->problem, '\n'));
        return;
    }
    g_assert_cmpuint((v->data + v->zero + v->absent) * FF_SAVED_PAGE, ==, s->memory);
    g_assert_true(s->tail < s->end && s->end <= ff_input_size(in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    FfInput *in;

    fuzz_quiet();
    in = ff_input_new_memory("FILE", data, size, &error);
    if (in) {
        survey(in);
    } else {
        g_assert_true(g_str_has_prefix(error->message, "FILE: ") && !strchr(error->message, '\n'));
    }
    return 0;
}
