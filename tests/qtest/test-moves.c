/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whole migrations in a few lines each (move.h): to begin a new test with. One thread. */
#include "tests/lib/move.h"

static void test_postcopy(void)
{
    Move *m = move_new(NULL);

    if (m) {
        move_start(m);
        move_switch(m);
        move_finish(m);
    }
}

static void test_precopy(void)
{
    static const char *const devices[] = {"-device", "virtio-balloon-pci", NULL};
    Move *m = move_new(&(MoveConfig){.mib = 32, .bandwidth = 1 << 30, .devices = devices});

    if (m) {
        move_start(m);
        move_finish(m);
    }
}

static void test_cancelled(void)
{
    Move *m = move_new(&(MoveConfig){.n_cpus = 2});

    if (m) {
        move_start(m);
        move_cancel(m);
        move_start(m);
        move_switch(m);
        move_finish(m);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/moves/postcopy", test_postcopy);
    g_test_add_func("/moves/precopy", test_precopy);
    g_test_add_func("/moves/cancelled", test_cancelled);
    return g_test_run();
}
