/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Firecracker's first message: any bytes are regions that lie inside the memory file and beside
 * each other, or refused in one line. The first two bytes are the file's size in pages. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "pager/dialects/firecracker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FfRegionOfClient region[FF_REGIONS];
    g_autoptr(GError) error = NULL;
    uint64_t sum = 0, file;

    fuzz_quiet();
    if (size < 2) {
        return 0;
    }
    file = (data[0] | data[1] << 8) * 4096ull;
    unsigned n = ff_firecracker_parse((const char *)data + 2, size - 2, file, region, &error);
    g_assert_true(n ? !error : error && !strchr(error->message, '\n'));
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(region[i].size % region[i].page_size, ==, 0);
        g_assert_cmpuint(region[i].addr % region[i].page_size, ==, 0);
        g_assert_cmpuint(region[i].offset + region[i].size, <=, file);
        sum += region[i].size;
    }
    g_assert_true(!n || sum == file);
    return 0;
}
