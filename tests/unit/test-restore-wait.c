/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When the client of a lazy restore may be told that it is over. */
#include <glib.h>

#include "migration/restore/wait.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define SECOND G_USEC_PER_SEC
#define HELD (45 * SECOND)

typedef struct {
    const char *name;
    uint64_t data, read;
    int64_t elapsed_us, held_us, wait_us;
} Row;

static const Row rows[] = {
    {"small", 200 * MIB, 0, 0, HELD, 0},
    {"small-rest", 8 * GIB, 8 * GIB - 200 * MIB, SECOND, HELD, 0},
    {"trial", 8 * GIB, 0, 0, HELD, FF_RESTORE_TRIAL_US},
    {"trial/under-way", 8 * GIB, MIB, 60000, HELD, FF_RESTORE_TRIAL_US - 60000},
    {"fast", 8 * GIB, GIB, SECOND, HELD, 0},
    {"slow", 16 * GIB, GIB / 10, SECOND, HELD, SECOND}, /* 160 s */
    {"slow/in-time", 16 * GIB, 14 * GIB, 140 * SECOND, HELD, 0},
    {"slow/soon", 16 * GIB + 15 * GIB / 10, 15 * GIB, 150 * SECOND, HELD, SECOND},
    {"nothing", 8 * GIB, 0, SECOND, HELD, SECOND},
    {"not-held", 200 * MIB, 100 * MIB, SECOND, 0, SECOND},
    {"not-held/read", 200 * MIB, 200 * MIB, SECOND, 0, SECOND}, /* but placed? */
    {"not-held/more", 200 * MIB, 201 * MIB, SECOND, 0, SECOND}, /* some of it was read twice */
    {"more", 800 * MIB, 801 * MIB, SECOND, HELD, 0},
};

static void test_row(gconstpointer data)
{
    const Row *r = data;

    g_assert_cmpint(ff_restore_wait_us(r->data, r->read, r->elapsed_us, r->held_us), ==,
                    r->wait_us);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/restore-wait/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
