/* SPDX-License-Identifier: GPL-2.0-or-later */
/* First messages of nydus' clients: any bytes are regions that lie inside the image, or refused in
 * one line; and what is no question has no answer. The first two bytes are the image's size in
 * pages. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "pager/dialects/dialects.h"
#include "pager/dialects/nydus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FfRegionOfClient region[FF_REGIONS];
    g_autoptr(GError) error = NULL;
    char answer[256];
    bool copies;

    fuzz_quiet();
    if (size < 3) {
        return 0;
    }
    uint64_t file = (data[0] | data[1] << 8) * 4096ull;
    const char *text = (const char *)data + 2;
    size -= 2;
    unsigned n = ff_nydus_parse(text, size, region, &copies, &error);
    g_assert_true(n ? !error : error && !strchr(error->message, '\n'));
    n = n && ff_regions_check(region, n, file, false, &error) ? n : 0;
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(region[i].size % region[i].page_size, ==, 0);
        g_assert_cmpuint(region[i].offset + region[i].size, <=, file);
    }
    if (ff_dialect_recognise(text, size) == (int)ff_dialect_number(&ff_dialect_nydus)) {
        size_t len = ff_dialect_nydus.answer(text, size, file, answer, sizeof(answer));
        g_assert_cmpuint(len, <, sizeof(answer));
        g_assert_true(!len || !n);
    }
    return 0;
}
