/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of a lazy restore, as the engine reads it: any bytes are refused in one line that names
 * it, or are a guest whose pages the pager can look for, and whose device state can be written. */
#include "tests/fuzz/fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/restore/file.h"

static bool address(FfVmmMemory *m, const char *id, uint64_t *to, GError **error)
{
    *to = 0;
    return true;
}

/* The QEMU that the guest would fit: all of its blocks, or those with an odd number. */
static void compare(FfRestoreFile *f, unsigned step)
{
    FfRam ram = {0};
    FfVmmMemory memory = {.address = address};
    g_autofree FfBlock *blocks = g_new0(FfBlock, f->saved->blocks->len);
    g_autofree char *run_state = NULL;
    g_autoptr(GError) error = NULL;

    ram.blocks = blocks;
    for (guint i = step - 1; i < f->saved->blocks->len; i += step) {
        const FfSavedBlock *b = ff_saved_block(f->saved, i);

        blocks[ram.n_blocks].info.id = b->name;
        blocks[ram.n_blocks].info.size = b->size;
        blocks[ram.n_blocks++].info.page_size = FF_FILE_PAGE;
    }
    if (ff_restore_file_compare(f, &ram, NULL, NULL, &error)) {
        int fd = ff_restore_file_devices(f, &ram, &memory, &run_state, &error);

        g_assert_true((fd < 0) == !!error);
        ff_close_fd(&fd);
    }
    g_assert_true(!error || !strchr(error->message, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_quiet();
    for (unsigned step = 1; step <= 2; step++) {
        g_autoptr(GError) error = NULL;
        int fd = memfd_create("file", MFD_CLOEXEC);

        g_assert_cmpint(write(fd, data, size), ==, (ssize_t)size);
        g_autoptr(FfRestoreFile) f = ff_restore_file_open(fd, "FILE", -1, &error);
        if (!f) {
            g_assert_true(g_str_has_prefix(error->message, "FILE: ") &&
                          !strchr(error->message, '\n'));
            return 0;
        }
        g_assert_cmpuint(f->digest, !=, 0);
        if (f->saved->memory <= 1ull << 28) {
            compare(f, step);
        }
    }
    return 0;
}
