/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Working sets: any bytes are one, or are refused in one line. The sums of the head are made right,
 * if the first byte says so: otherwise nothing would come further. */
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "content/image/working-set.h"
#include "content/image/xxh64.h"

static const FfWorkingSetFile file = {1 << 20, 1, 2};

static void make_right(uint8_t *data, size_t size)
{
    FfWorkingSetHead *head = (FfWorkingSetHead *)data;
    size_t tables = size - sizeof(*head);

    memcpy(head->magic, data[0] & 1 ? "FFWSET1\n" : "FFWSET2\n", sizeof(head->magic));
    head->file = file;
    if (head->n <= tables / sizeof(uint64_t)) {
        uint64_t sums = (head->n + FF_WORKING_SET_CHUNK - 1) / FF_WORKING_SET_CHUNK * 8;

        if (head->n * 8 + sums <= tables) {
            const uint8_t *places = data + sizeof(*head);

            head->sum = ff_xxh64(places + head->n * 8, sums, ff_xxh64(places, head->n * 8, 0));
        }
    }
    head->head_sum = ff_xxh64(head, offsetof(FfWorkingSetHead, head_sum), 0);
    uint64_t end = (size / FF_WORKING_SET_PAGE) * FF_WORKING_SET_PAGE;
    if (size - end >= sizeof(FfWorkingSetZeros)) {
        FfWorkingSetZeros *z = (FfWorkingSetZeros *)(data + end);
        z->n = (size - end - sizeof(*z)) / sizeof(FfWorkingSetRun);
        z->sum = ff_xxh64(z + 1, z->n * sizeof(FfWorkingSetRun), 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *copy = g_memdup2(data, size);
    uint8_t chunk[64] = {0};
    int fd = memfd_create("set", MFD_CLOEXEC);

    fuzz_quiet();
    if (size > sizeof(FfWorkingSetHead) && copy[0]) {
        make_right(copy, size);
    }
    g_assert_cmpint(write(fd, copy, size), ==, (ssize_t)size);
    g_autoptr(FfWorkingSet) w = ff_working_set_read("FILE", fd, &file, &error);
    g_assert_true(!w == !!error);
    if (error) {
        g_assert_true(g_str_has_prefix(error->message, "FILE: ") && !strchr(error->message, '\n'));
        return 0;
    }
    uint64_t zeros =
        w->n_zeros ? sizeof(FfWorkingSetZeros) + w->n_zeros * sizeof(FfWorkingSetRun) : 0;
    g_assert_cmpuint(w->at + w->n * FF_WORKING_SET_PAGE + zeros, ==, size);
    ff_working_set_is_right(w, (w->n - 1) / FF_WORKING_SET_CHUNK, chunk, sizeof(chunk));
    return 0;
}
