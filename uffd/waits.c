/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of waits; see waits.h for the threads. No locks, no system calls. */
#include "uffd/waits.h"

#include <stddef.h>

#include "base/trace-mark.h"

static uint64_t key_of(unsigned block, uint64_t page)
{
    return ((uint64_t)(block + 1) << 48) | page;
}

FfWait *ff_waits_free_slot(FfWaits *w)
{
    for (uint32_t i = 0; i < FF_MAX_WAITS; i++) {
        if (!__atomic_load_n(&w->wait[i].key, __ATOMIC_ACQUIRE)) {
            return &w->wait[i];
        }
    }
    __atomic_store_n(&w->overflow, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

void ff_waits_begin(FfWaits *w, FfWait *slot, unsigned block, uint64_t page, int32_t who,
                    int64_t now_us)
{
    uint32_t i = slot - w->wait;

    __atomic_store_n(&slot->since_us, now_us, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->who, who, __ATOMIC_RELAXED);
    if (i >= w->high) {
        __atomic_store_n(&w->high, i + 1, __ATOMIC_SEQ_CST);
    }
    /* A thread that sees the key (a placing thread) sees the rest of the slot. Sequentially
     * consistent with the bitmap that the fault thread looks at next. */
    __atomic_store_n(&slot->key, key_of(block, page), __ATOMIC_SEQ_CST);
    FF_MARK3(wait_begins, block, page, who);
}

bool ff_waits_end(FfWaits *w, unsigned block, uint64_t page, uint64_t n, FfWaitEnded fn,
                  void *opaque)
{
    uint64_t lo = key_of(block, page), hi = lo + n;
    uint32_t high = __atomic_load_n(&w->high, __ATOMIC_SEQ_CST);
    bool any = false;

    for (uint32_t i = 0; i < high; i++) {
        FfWait *slot = &w->wait[i];
        uint64_t key = __atomic_load_n(&slot->key, __ATOMIC_SEQ_CST);
        if (key < lo || key >= hi) {
            continue;
        }
        int64_t since = __atomic_load_n(&slot->since_us, __ATOMIC_RELAXED);
        int32_t who = __atomic_load_n(&slot->who, __ATOMIC_RELAXED);
        if (__atomic_compare_exchange_n(&slot->key, &key, 0, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            FF_MARK3(wait_ends, block, page + (key - lo), who);
            if (fn) {
                fn(who, since, opaque);
            }
            any = true;
        }
    }
    return any;
}

bool ff_waits_get(const FfWaits *w, uint32_t i, unsigned *block, uint64_t *page)
{
    uint64_t key = __atomic_load_n(&w->wait[i].key, __ATOMIC_SEQ_CST);

    *block = (key >> 48) - 1;
    *page = key & ((1ull << 48) - 1);
    return key != 0;
}
