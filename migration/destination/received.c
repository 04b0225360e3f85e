/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the received bitmaps lie in the state memfd. Others can write to that memory: what it says
 * of where they are is read once, and judged.
 * System calls: ftruncate, fstat, mmap.
 */
#include "migration/destination/received.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"

/* Lays the received bitmaps out after the header. Returns the length of it all. */
static size_t lay_out(const FfRam *ram, FfStateHeader *s, uint64_t *offsets)
{
    size_t page = sysconf(_SC_PAGESIZE), at = (sizeof(*s) + page - 1) / page * page;

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        s->block[i].bitmap_offset = offsets[i] = at;
        at += ff_bitmap_words(ram->blocks[i].n_pages) * sizeof(uint64_t);
    }
    return at;
}

/* The length that the bitmaps of the engine before us need; 0: they are not all there. OFFSETS is
 * where they are: read once, as others can write to the state. */
static size_t length_of(const FfRam *ram, const FfStateHeader *s, int state_fd, uint64_t *offsets)
{
    struct stat st;
    size_t end = sizeof(*s);

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        uint64_t at = __atomic_load_n(&s->block[i].bitmap_offset, __ATOMIC_RELAXED);

        if (at < sizeof(*s) || at > INT64_MAX / 2 || at % sizeof(uint64_t)) {
            return 0;
        }
        offsets[i] = at;
        end = MAX(end, at + ff_bitmap_words(ram->blocks[i].n_pages) * sizeof(uint64_t));
    }
    return fstat(state_fd, &st) == 0 && (size_t)st.st_size >= end ? end : 0;
}

bool ff_received_map(FfRam *ram, FfControl *control, FfStateHeader *state, int state_fd, bool fresh,
                     GError **error)
{
    uint64_t offsets[FF_STATE_MAX_BLOCKS];
    size_t len;

    if (ram->received && !fresh) {
        return true; /* an attempt to adopt has failed later */
    }
    if (fresh) {
        ff_ram_store(ram, state);
    }
    len = fresh ? lay_out(ram, state, offsets) : length_of(ram, state, state_fd, offsets);
    if (!len || (fresh && FF_FAULT_CALL("grow-state", ftruncate(state_fd, len)) < 0)) {
        g_set_error(error, FF_M_ERROR, 0, "no memory for the received bitmap: %s",
                    len ? g_strerror(errno) : "it is not there any more");
        return false;
    }
    void *p =
        FF_FAULT_MAP("map-state", mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0));
    if (p == MAP_FAILED) {
        g_set_error(error, FF_M_ERROR, 0, "the state memfd cannot be mapped: %s",
                    g_strerror(errno));
        return false;
    }
    ram->received_len = len;
    for (unsigned i = 0; i < ram->n_blocks; i++) {
        FfBlock *b = &ram->blocks[i];
        uint64_t *words = (uint64_t *)((char *)p + offsets[i]);
        if (fresh) {
            memset(words, 0, ff_bitmap_words(b->n_pages) * sizeof(uint64_t));
        }
        ff_bitmap_init_over(&b->bitmap, words, b->n_pages);
    }
    ff_mutex_lock(&control->lock);
    ram->received = p; /* whole. Observer: the thread that dumps */
    ff_mutex_unlock(&control->lock);
    return true;
}
