/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a stream says of the run state: it is found in pieces of any size, changed, and read.
 */
#include <glib.h>
#include <string.h>

#include "content/image/run-state.h"

#define BEFORE 100
#define SIZE (BEFORE + FF_RUN_STATE_BYTES + 66 + 100)

static void fill(uint8_t *stream, const char *run_state, bool was)
{
    static const uint8_t head[] = "\x0bglobalstate\0\0\0\0\0\0\0\1";
    uint8_t *at = stream + BEFORE;

    memset(stream, 0x0b, SIZE);
    memset(at, 0, FF_RUN_STATE_BYTES + 66);
    memcpy(at, head, 20);
    at[23] = (uint8_t)strlen(run_state) + 1;
    strcpy((char *)at + 24, run_state);
    at[56] = 1;
    at[57] = was;
}

/* By pieces of STEP bytes. */
static bool seek(const uint8_t *stream, size_t n, size_t step)
{
    FfRunStateSeeker s = {0};
    bool found = false;

    for (size_t at = 0; at < n; at += step) {
        found = ff_run_state_seek(&s, stream + at, MIN(step, n - at));
    }
    return found;
}

static const struct {
    const char *run_state;
    bool was, suspended;
} rows[] = {
    {"paused", false, false},
    {"paused", true, true},
    {"running", false, false},
    {"suspended", false, true},
};

static void test_seek(void)
{
    uint8_t stream[SIZE];

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        fill(stream, rows[i].run_state, rows[i].was);
        for (size_t step = 1; step <= SIZE; step++) {
            g_assert_true(seek(stream, SIZE, step) == rows[i].suspended);
        }
        g_assert_false(seek(stream, BEFORE + FF_RUN_STATE_BYTES - 1, SIZE));
    }
}

static void test_set(void)
{
    uint8_t stream[SIZE];

    fill(stream, "paused", true);
    g_assert_true(ff_run_state_set(stream, SIZE, "suspended"));
    g_autofree char *now = ff_run_state_read(stream, SIZE);
    g_assert_cmpstr(now, ==, "suspended");
    g_assert_true(seek(stream, SIZE, SIZE));
    g_assert_cmpint(stream[BEFORE + 23], ==, sizeof("suspended"));
    g_assert_false(ff_run_state_set(stream, SIZE, "running"));
    fill(stream, "paused", false);
    g_assert_true(ff_run_state_set(stream, SIZE, "running"));
    g_assert_cmpint(stream[BEFORE + 56], ==, 1);
    g_assert_false(seek(stream, SIZE, 7));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/run-state/seek", test_seek);
    g_test_add_func("/run-state/set", test_set);
    return g_test_run();
}
