/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Cloud Hypervisor's migration_config.json: any bytes are slots of whole pages beside each other,
 * or refused in one line. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "pager/cloud-hypervisor/offload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
    g_autoptr(GError) error = NULL;

    fuzz_quiet();
    unsigned n = ff_offload_parse((const char *)data, size, slot, NULL, &error);
    g_assert_true(n ? !error : error && !strchr(error->message, '\n'));
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint((slot[i].gpa | slot[i].size | slot[i].file_offset) % 4096, ==, 0);
        g_assert_cmpuint(slot[i].size, >, 0);
        g_assert_cmpuint(slot[i].file_offset + slot[i].size, <=, 1ull << 52);
        for (unsigned k = 0; k < i; k++) {
            g_assert_cmpuint(slot[k].slot, !=, slot[i].slot);
            g_assert_true(slot[k].gpa + slot[k].size <= slot[i].gpa ||
                          slot[i].gpa + slot[i].size <= slot[k].gpa);
        }
    }
    return 0;
}
