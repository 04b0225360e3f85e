/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Known sums of XXH64, of each length class; and a sum in pieces by its seed. */
#include <glib.h>
#include <string.h>

#include "content/image/xxh64.h"

static void test_known(void)
{
    static const struct {
        const char *text;
        uint64_t sum;
    } known[] = {
        {"", 0xef46db3751d8e999},
        {"a", 0xd24ec4f1a98c6e5b},
        {"abc", 0x44bc2cf5ad770999},
        {"Nobody inspects the spammish repetition", 0xfbcea83c8a378bf1},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        g_assert_cmphex(ff_xxh64(known[i].text, strlen(known[i].text), 0), ==, known[i].sum);
    }
}

/* Each byte counts, wherever it stands. */
static void test_each_byte(void)
{
    uint8_t data[100] = {0};

    for (size_t n = 1; n <= sizeof(data); n++) {
        uint64_t sum = ff_xxh64(data, n, 0);

        for (size_t i = 0; i < n; i++) {
            data[i] = 1;
            g_assert_cmphex(ff_xxh64(data, n, 0), !=, sum);
            data[i] = 0;
        }
        g_assert_cmphex(ff_xxh64(data, n, 1), !=, sum);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/xxh64/known", test_known);
    g_test_add_func("/xxh64/each-byte", test_each_byte);
    return g_test_run();
}
